//! A store whose objects are sealed: what goes in is encrypted and signed, what comes out is checked and decrypted.
//!
//! Sizes that it tells are those before encryption. The *end* of a segment or a pack, its footer, is
//! readable with the metadata key: of such an object [`Part::Last`] gives no more than that.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::key::Secret;
use super::object::{CHUNK_BYTES, Keys, Sealer, TAG_BYTES, TRAILER_BYTES, Trailer, plain_bytes};
use super::ring::Ring;
use crate::base::pack;
use crate::catalog::layout::{Layout, ObjectName};
use crate::error::{Error, Kind, Result};
use crate::model::time::Timestamp;
use crate::segment::format::Footer;
use crate::store::{Created, ObjectInfo, Part, Store, intact};

/// How many trailers are kept: of packs, of which many parts are read one after the other.
const TRAILERS: usize = 4096;

/// A store of sealed objects.
pub struct Sealed {
    inner: Arc<dyn Store>,
    layout: Layout,
    ring: Arc<Ring>,
    several: Vec<Arc<dyn Store>>,
    /// Where the keys are: of one of several stores, in any of them.
    keys: Arc<dyn Store>,
    trailers: Mutex<HashMap<String, Trailer>>,
}

impl Sealed {
    /// What `inner` holds, with the keys of `ring`.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, layout: Layout, ring: Arc<Ring>) -> Self {
        let keys = Arc::clone(&inner);
        Self::with_keys(inner, keys, layout, ring)
    }

    fn with_keys(inner: Arc<dyn Store>, keys: Arc<dyn Store>, layout: Layout, ring: Arc<Ring>) -> Self {
        let over = |store: &Arc<dyn Store>| {
            let one = Self::with_keys(Arc::clone(store), Arc::clone(&keys), layout.clone(), Arc::clone(&ring));
            Arc::new(one) as Arc<dyn Store>
        };
        let several = inner.several().iter().map(over).collect();
        Self { inner, several, keys, layout, ring, trailers: Mutex::default() }
    }

    /// The same over another store, which holds a copy of the archive, or shall.
    #[must_use]
    pub fn over(&self, store: Arc<dyn Store>) -> Self {
        Self::new(store, self.layout.clone(), Arc::clone(&self.ring))
    }

    /// The store with the sealed objects.
    #[must_use]
    pub const fn inner(&self) -> &Arc<dyn Store> {
        &self.inner
    }

    /// The keys.
    #[must_use]
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// What is to lie in the store.
    async fn sealed(&self, name: &str, body: Vec<Bytes>) -> Result<Vec<Bytes>> {
        let Some(object) = self.layout.parse(name) else {
            return Err(Error::failure(format!("{name} is no name of an archive's object: it would not be encrypted"))
                .hint("this is a bug in pitr; nothing was stored"));
        };
        if !is_sealed(&object) {
            return Ok(body);
        }
        // A copy of an object is made of sealed bytes: it is signed, for this name.
        if let [only] = body.as_slice()
            && Trailer::decode(name, only, self.ring.origin()).is_ok_and(|trailer| trailer.check(name, only).is_ok())
        {
            return Ok(body);
        }
        let closed = closed_bytes(name, &object, &body)?;
        let data = if closed > 0 { Some(self.ring.current(self.keys.as_ref()).await?) } else { None };
        let (ring, name) = (Arc::clone(&self.ring), name.to_owned());
        let seal = move || {
            let data = data.as_ref().map(|(number, key)| (*number, key.expose()));
            Sealer { data, metadata: ring.metadata(), signer: ring.signer()?, origin: ring.origin() }
                .seal(&name, &body, closed)
        };
        Ok(vec![crypt(closed, seal).await?])
    }

    /// What an object that stands there already means: the same content may have been sealed with another data key.
    async fn created(&self, name: &str, body: &[Bytes], made: Result<Created>) -> Result<Created> {
        match made {
            Err(error) if error.kind() == Kind::Fenced => match self.is_same(name, body).await {
                Ok(true) => Ok(Created::Same),
                // What is damaged is not the same.
                Err(other) if other.kind() != Kind::Corruption => Err(other),
                _ => Err(error),
            },
            made => made,
        }
    }

    async fn is_same(&self, name: &str, body: &[Bytes]) -> Result<bool> {
        if !self.seals(name) {
            return Ok(false);
        }
        let Some(theirs) = self.as_stored(name).await? else { return Ok(false) };
        let origin = self.ring.origin();
        let theirs = Trailer::decode(name, &theirs, origin)?;
        let ours = Trailer::decode(name, &body.concat(), origin)?;
        // The salt is a keyed hash of the content.
        Ok((ours.salt, ours.closed_bytes, ours.open_bytes) == (theirs.salt, theirs.closed_bytes, theirs.open_bytes))
    }

    /// Decrypts a part of an object, of which `stored` are the chunks.
    async fn open(&self, name: &str, trailer: &Trailer, plain: std::ops::Range<u64>, stored: Bytes) -> Result<Bytes> {
        let data = match trailer.data_key {
            number if number > 0 && plain.start < trailer.closed_bytes => {
                self.ring.data_key(self.keys.as_ref(), number).await?
            }
            _ => None,
        };
        let (ring, owned, trailer) = (Arc::clone(&self.ring), name.to_owned(), trailer.clone());
        let bytes = stored.len() as u64;
        let open = move || {
            let keys = Keys { data: data.as_ref().map(Secret::expose), metadata: ring.metadata() };
            trailer.open(&owned, keys, &plain, &stored)
        };
        crypt(bytes, open).await?.ok_or_else(|| {
            Error::new(Kind::WrongKey, format!("{name} is encrypted, and no restore key is given to read it"))
                .hint("name it with --restore-key FILE; an archiver key reads no data")
        })
    }

    /// All of an object.
    async fn all(&self, name: &str) -> Result<Option<Bytes>> {
        let Some(stored) = self.inner.get(name, Part::All).await? else { return Ok(None) };
        self.prove(name, &stored)?;
        self.plain(name, stored).await.map(Some)
    }

    /// What is in an object that was read as it is stored, and proven ([`Store::as_stored`]).
    ///
    /// # Errors
    /// [`Kind::WrongKey`] when no key at hand opens it; [`Kind::Corruption`] when it does not decrypt.
    pub async fn plain(&self, name: &str, stored: Bytes) -> Result<Bytes> {
        if !self.seals(name) {
            return Ok(stored);
        }
        let trailer = Trailer::decode(name, &stored, self.ring.origin())?;
        let chunks = stored.slice(..stored.len().saturating_sub(TRAILER_BYTES));
        self.open(name, &trailer, 0..trailer.bytes(), chunks).await
    }

    /// The end of an object, as far as it is open.
    async fn last(&self, name: &str, len: u64) -> Result<Option<Bytes>> {
        // With the tags of the chunks that so many bytes may touch, and the filler.
        let around = (len.div_ceil(CHUNK_BYTES) + 2) * TAG_BYTES + TRAILER_BYTES as u64;
        let wanted = len.saturating_add(around);
        let Some(last) = self.inner.get(name, Part::Last(wanted)).await? else { return Ok(None) };
        let trailer = Trailer::decode(name, &last, self.ring.origin())?;
        let open = if trailer.open_bytes > 0 { trailer.open_bytes } else { trailer.bytes() };
        let plain = trailer.bytes() - len.min(open)..trailer.bytes();
        let stored = trailer.stored(&plain);
        let whole = super::object::stored_bytes(trailer.bytes());
        let from = whole.saturating_sub(last.len() as u64);
        let chunks = match stored.start.checked_sub(from) {
            Some(start) => slice(&last, start, stored.end - stored.start),
            // A chunk begins before what was asked for.
            None => match self.inner.get(name, range(&stored)).await? {
                Some(chunks) => chunks,
                None => return Ok(None),
            },
        };
        self.open(name, &trailer, plain, chunks).await.map(Some)
    }

    /// A part of an object.
    async fn part(&self, name: &str, start: u64, len: u64) -> Result<Option<Bytes>> {
        let known = self.trailers.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some(trailer) = known {
            match self.part_by(name, &trailer, start, len).await {
                // It may have been made anew since, with another data key.
                Err(error) if error.kind() == Kind::Corruption => {}
                part => return part,
            }
        }
        let Some(last) = self.inner.get(name, Part::Last(TRAILER_BYTES as u64)).await? else { return Ok(None) };
        let trailer = Trailer::decode(name, &last, self.ring.origin())?;
        let part = self.part_by(name, &trailer, start, len).await;
        let mut trailers = self.trailers.lock().unwrap_or_else(PoisonError::into_inner);
        if trailers.len() >= TRAILERS {
            trailers.clear();
        }
        trailers.insert(name.to_owned(), trailer);
        part
    }

    async fn part_by(&self, name: &str, trailer: &Trailer, start: u64, len: u64) -> Result<Option<Bytes>> {
        let plain = start.min(trailer.bytes())..start.saturating_add(len).min(trailer.bytes());
        let stored = trailer.stored(&plain);
        if stored.is_empty() {
            return Ok(Some(Bytes::new()));
        }
        let Some(chunks) = self.inner.get(name, range(&stored)).await? else { return Ok(None) };
        self.open(name, trailer, plain, chunks).await.map(Some)
    }
}

/// Encrypts or decrypts so many bytes, of which a megabyte takes a millisecond: more on a thread of its own.
async fn crypt<T: Send + 'static>(bytes: u64, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    if bytes <= 1 << 20 {
        return work();
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::failure("a thread that encrypts or decrypts died").because(e))?
}

fn range(stored: &std::ops::Range<u64>) -> Part {
    Part::Range { start: stored.start, len: stored.end - stored.start }
}

fn slice(bytes: &Bytes, start: u64, len: u64) -> Bytes {
    let start = usize::try_from(start).unwrap_or(usize::MAX).min(bytes.len());
    let end = start.saturating_add(usize::try_from(len).unwrap_or(usize::MAX)).min(bytes.len());
    bytes.slice(start..end)
}

/// Whether objects of this kind are sealed: all but what is needed to find out how to open the archive, and
/// whether to go on writing to it.
const fn is_sealed(object: &ObjectName) -> bool {
    !matches!(object, ObjectName::Cluster | ObjectName::Epoch(_) | ObjectName::Key { .. } | ObjectName::Probe(_))
}

/// How many bytes at the beginning are data.
fn closed_bytes(name: &str, object: &ObjectName, body: &[Bytes]) -> Result<u64> {
    let all: u64 = body.iter().map(|piece| piece.len() as u64).sum();
    let open = match object {
        ObjectName::Segment { .. } => Footer::len(&ending(body))? as u64,
        ObjectName::Pack(_) => {
            let trailer = pack::Trailer::parse(name, &ending(body))?;
            (trailer.footer_len + pack::TRAILER_BYTES) as u64
        }
        // Log as it came.
        ObjectName::Tail { .. } => 0,
        _ => all,
    };
    all.checked_sub(open).ok_or_else(|| Error::failure(format!("{name} has a footer longer than itself")))
}

/// The last bytes of a body.
fn ending(body: &[Bytes]) -> Vec<u8> {
    const ENOUGH: usize = 64;
    let mut ending = Vec::new();
    for piece in body.iter().rev() {
        let from = piece.len().saturating_sub(ENOUGH - ending.len());
        ending.splice(0..0, piece.iter().skip(from).copied());
        if ending.len() == ENOUGH {
            break;
        }
    }
    ending
}

#[async_trait]
impl Store for Sealed {
    async fn create(&self, name: &str, body: Vec<Bytes>) -> Result<Created> {
        let body = self.sealed(name, body).await?;
        let made = self.inner.create(name, body.clone()).await;
        self.created(name, &body, made).await
    }

    async fn create_behind(&self, name: &str, body: Vec<Bytes>, turn: BoxFuture<'_, Result<()>>) -> Result<Created> {
        let body = self.sealed(name, body).await?;
        let made = self.inner.create_behind(name, body.clone(), turn).await;
        self.created(name, &body, made).await
    }

    async fn get(&self, name: &str, part: Part) -> Result<Option<Bytes>> {
        if !self.seals(name) {
            return self.inner.get(name, part).await;
        }
        match part {
            Part::All => self.all(name).await,
            Part::Last(len) => self.last(name, len).await,
            Part::Range { start, len } => self.part(name, start, len).await,
        }
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        shallow: bool,
        each: &mut (dyn FnMut(ObjectInfo) + Send),
    ) -> Result<()> {
        let mut before = |info: ObjectInfo| each(self.before_encryption(info));
        self.inner.list(prefix, after, shallow, &mut before).await
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        self.inner.folders(prefix).await
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        Ok(self.inner.head(name).await?.map(|info| self.before_encryption(info)))
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name).await
    }

    async fn settle(&self, names: &[String]) -> Result<()> {
        self.inner.settle(names).await
    }

    async fn sweep(&self, now: Timestamp) -> Result<u64> {
        self.inner.sweep(now).await
    }

    fn directory(&self) -> Option<&Path> {
        self.inner.directory()
    }

    async fn overwrites(&self) -> bool {
        self.inner.overwrites().await
    }

    fn several(&self) -> &[Arc<dyn Store>] {
        &self.several
    }

    fn all_answered(&self) -> Result<()> {
        self.inner.all_answered()
    }

    /// Proves that the object is what was signed, which needs no key that opens it. Of several copies the first is given
    /// that is.
    async fn as_stored(&self, name: &str) -> Result<Option<Bytes>> {
        let proven = |bytes: Bytes| std::future::ready(self.prove(name, &bytes).map(|()| bytes));
        intact::read(self.inner.as_ref(), name, Part::All, proven).await
    }

    fn location(&self) -> String {
        self.inner.location()
    }
}

impl Sealed {
    /// Whether the object of this name is sealed.
    fn seals(&self, name: &str) -> bool {
        self.layout.parse(name).is_some_and(|object| is_sealed(&object))
    }

    /// Proves by hash and signature that an object is what was written.
    fn prove(&self, name: &str, stored: &Bytes) -> Result<()> {
        match self.layout.parse(name) {
            Some(ObjectName::Key { .. }) => self.ring.check(name, stored),
            Some(object) if is_sealed(&object) => {
                Trailer::decode(name, stored, self.ring.origin())?.check(name, stored)
            }
            _ => Ok(()),
        }
    }

    /// An object's size as it was before encryption.
    fn before_encryption(&self, info: ObjectInfo) -> ObjectInfo {
        let bytes = plain_bytes(info.bytes).filter(|_| self.seals(&info.name)).unwrap_or(info.bytes);
        ObjectInfo { bytes, ..info }
    }
}
