//! The keys of one archive, as far as this process has them, and the objects they are kept in.
//!
//! ```text
//! key/<n>, key/<n>-<wrap>     n: 10 decimal digits; wrap: 2, counted up each time it is wrapped anew
//!
//! { "format_version": 1, "number": n, "made": TIME, "recipients": [ "age1...", ... ],
//! "wrapped": "<base64 of an age file: data key, metadata key, 32 bytes each>",
//! "signature": "<base64 of the Ed25519 signature>"}
//! ```
//! What is signed: "pitr key 1", a zero byte, the archive ([`super::key::archive_id`]), a zero
//! byte, the object's name, a zero byte, and all bytes before `"signature"`.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use age::x25519;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::kept::KeptKeys;
use super::key::{ArchiverKey, Keys, RestoreKey, Secret, archive_id, writer_text};
use super::object::{Key, Origin};
use crate::catalog::layout::{Layout, ObjectName};
use crate::error::{Error, Kind, Result};
use crate::model::cluster::Identity;
use crate::model::time::{Clock as _, SystemClock};
use crate::store::{Part, Store, intact};

/// How long a data key is used: who gets hold of it reads what was archived with it.
const USED: Duration = Duration::from_secs(24 * 60 * 60);

const SIGNATURE: &str = "\"signature\": \"";

/// A data key that is wrapped.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrapped {
    format_version: u32,
    number: u32,
    made: String,
    recipients: Vec<String>,
    wrapped: String,
    #[serde(default, skip_serializing)]
    signature: String,
}

/// What one of the keys in the store says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    /// The object.
    pub object: String,
    /// Number of the data key.
    pub number: u32,
    /// When it was made.
    pub made: String,
    /// For which restore keys it is wrapped.
    pub recipients: Vec<String>,
}

/// The data key to write with.
struct Current {
    number: u32,
    key: Secret,
    since: Instant,
    /// Whether it lies where the next archiver on this machine finds it, if there is such a place.
    is_kept: bool,
}

/// The keys of one archive.
pub struct Ring {
    layout: Layout,
    origin: Origin,
    archiver: Option<(ArchiverKey, Ed25519KeyPair)>,
    restore: Option<RestoreKey>,
    metadata: Secret,
    known: Mutex<HashMap<u32, Secret>>,
    /// The one to write with.
    current: tokio::sync::Mutex<Option<Current>>,
    /// Where the newest ones are kept for the next archiver on this machine.
    kept: OnceLock<KeptKeys>,
}

impl Ring {
    /// The keys of the encrypted archive `identity` in `store`.
    ///
    /// # Errors
    /// [`Kind::WrongKey`] when those given are not its; [`Kind::Corruption`] when those in the store are not as they were
    /// written; the store's.
    pub async fn open(store: &dyn Store, layout: &Layout, identity: &Identity, keys: &Keys) -> Result<Self> {
        let cluster = layout.cluster();
        let writer = keys.writer()?;
        let Some(encryption) = &identity.encryption else {
            return Err(Error::new(Kind::WrongKey, format!("cluster {cluster} is not encrypted")));
        };
        if encryption.version != 1 {
            let version = encryption.version;
            return Err(Error::config(format!(
                "cluster {cluster} is encrypted in version {version}, and this pitr knows 1"
            ))
            .hint("was the archive made by a newer pitr?"));
        }
        let theirs = &encryption.writer;
        if writer_text(&writer) != *theirs {
            return Err(Error::new(
                Kind::WrongKey,
                format!(
                    "cluster {cluster} in {} was written with another archiver key than the one given or believed",
                    store.location()
                ),
            )
            .hint(format!(
                "the archive says {theirs}, the key {}; which key file belongs to it?",
                writer_text(&writer)
            )));
        }
        let archive = archive_id(cluster, identity);
        let archiver = keys.archiver.as_ref().map(|key| Ok::<_, Error>((key.clone(), key.signer()?))).transpose()?;
        let mut ring = Self {
            layout: layout.clone(),
            metadata: Secret::new([0; 32]),
            origin: Origin { writer, archive },
            archiver,
            restore: keys.restore.clone(),
            known: Mutex::default(),
            current: tokio::sync::Mutex::default(),
            kept: OnceLock::new(),
        };
        ring.metadata = match &keys.archiver {
            Some(key) => key.metadata(&ring.origin.archive)?,
            None => ring.metadata_of_newest(store).await?,
        };
        Ok(ring)
    }

    /// Who must have signed what is in the archive, and which that is.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The key of what every reader and every archiver can read.
    #[must_use]
    pub fn metadata(&self) -> &Key {
        self.metadata.expose()
    }

    /// What signs.
    ///
    /// # Errors
    /// [`Kind::WrongKey`] without an archiver key.
    pub fn signer(&self) -> Result<&Ed25519KeyPair> {
        self.archiver().map(|(_, signer)| signer)
    }

    /// The data key of this number; `None` when nothing at hand opens it.
    ///
    /// # Errors
    /// [`Kind::Corruption`] when the object that holds it is missing or is not what was written; [`Kind::WrongKey`]
    /// when it is wrapped for others; the store's.
    pub async fn data_key(&self, store: &dyn Store, number: u32) -> Result<Option<Secret>> {
        if let Some(key) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&number) {
            return Ok(Some(key.clone()));
        }
        let Some(restore) = &self.restore else { return Ok(None) };
        let wraps = self.wraps(store, &self.layout.name(&ObjectName::Key { number, wrap: 0 })).await?;
        match self.first_sound(store, restore, wraps.into_values().rev()).await? {
            Some((key, _)) => {
                self.remember(number, &key);
                Ok(Some(key))
            }
            None => {
                let name = self.layout.name(&ObjectName::Key { number, wrap: 0 });
                Err(Error::corruption(format!("{name} is missing from {}", store.location())).hint(
                    "without this key nothing can be read that was archived with it: is it in another copy of the archive?",
                ))
            }
        }
    }

    /// The data key to write with: made, and wrapped into the store, when there is none or it has served its time.
    ///
    /// # Errors
    /// [`Kind::WrongKey`] without an archiver key; the store's.
    pub async fn current(&self, store: &dyn Store) -> Result<(u32, Secret)> {
        let mut current = self.current.lock().await;
        let now = match current.take().filter(|now| now.since.elapsed() < USED) {
            Some(now) => now,
            None => {
                let (number, key) = self.make(store).await?;
                self.remember(number, &key);
                Current { number, key, since: Instant::now(), is_kept: false }
            }
        };
        let now = current.insert(now);
        if let Some(kept) = self.kept.get().filter(|_| !now.is_kept) {
            kept.add(now.number, &now.key)?;
            now.is_kept = true;
        }
        Ok((now.number, now.key.clone()))
    }

    /// Keeps the newest data keys in `folder`, where log lies as it came anyway: so an archiver that is started again
    /// reads what the one before it wrote last.
    ///
    /// # Errors
    /// [`Kind::Config`] when the file there is damaged; [`Kind::StoreUnreachable`] when it cannot be read.
    pub fn keep_in(&self, folder: &Path) -> Result<()> {
        let kept = KeptKeys::open(folder, &self.origin.archive)?;
        kept.all().iter().for_each(|(number, key)| self.remember(*number, key));
        // There is one spool for a process.
        let _ = self.kept.set(kept);
        Ok(())
    }

    /// All keys in the store, each as it was wrapped last; their signatures hold.
    ///
    /// # Errors
    /// [`Kind::Corruption`] naming one that is not what was written; the store's.
    pub async fn all(&self, store: &dyn Store) -> Result<Vec<KeyInfo>> {
        let mut infos = Vec::new();
        for name in self.newest(store).await?.into_values() {
            let (wrapped, _) = self.read(store, &name).await?;
            let Wrapped { number, made, recipients, .. } = wrapped;
            infos.push(KeyInfo { object: name, number, made, recipients });
        }
        Ok(infos)
    }

    /// Wraps every key of the archive that is wrapped for others than the archiver key names now. Gives the objects it made,
    /// and those that a later wrap replaces.
    ///
    /// # Errors
    /// [`Kind::WrongKey`] without both keys; as [`Ring::all`].
    pub async fn wrap_anew(&self, store: &dyn Store) -> Result<(Vec<String>, Vec<String>)> {
        let (archiver, _) = self.archiver()?;
        let restore = self.restore.as_ref().ok_or_else(|| {
            Error::new(Kind::WrongKey, "a restore key is needed to wrap data keys anew")
                .hint("name it with --restore-key FILE")
        })?;
        let mut recipients: Vec<String> = archiver.recipients().iter().map(ToString::to_string).collect();
        recipients.sort();
        let (mut made, mut replaced) = (Vec::new(), Vec::new());
        for info in self.all(store).await? {
            let mut theirs = info.recipients;
            theirs.sort();
            let mut wraps =
                self.wraps(store, &self.layout.name(&ObjectName::Key { number: info.number, wrap: 0 })).await?;
            if theirs == recipients {
                wraps.retain(|_, name| *name != info.object);
                replaced.extend(wraps.into_values());
                continue;
            }
            let (key, _) = self.unwrap(store, &info.object, restore).await?;
            let last = wraps.keys().next_back().map_or(0, |(_, wrap)| *wrap);
            let wrap = last
                .checked_add(1)
                .filter(|wrap| *wrap < 100)
                .ok_or_else(|| Error::failure(format!("{} was wrapped anew too often", info.object)))?;
            let name = self.layout.name(&ObjectName::Key { number: info.number, wrap });
            store.create(&name, vec![self.wrap(&name, info.number, &info.made, &key)?]).await?;
            made.push(name);
            replaced.extend(wraps.into_values());
        }
        Ok((made, replaced))
    }

    /// Checks an object that holds a key against its signature.
    ///
    /// # Errors
    /// [`Kind::Corruption`] naming it.
    pub fn check(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.parse(name, bytes).map(|_| ())
    }

    fn archiver(&self) -> Result<&(ArchiverKey, Ed25519KeyPair)> {
        self.archiver.as_ref().ok_or_else(|| {
            Error::new(Kind::WrongKey, "the archive is encrypted, and no archiver key is given to write to it")
                .hint("name it with --key-file FILE, or key_file under [encryption] in pitr.toml")
        })
    }

    fn remember(&self, number: u32, key: &Secret) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(number, key.clone());
    }

    /// A new data key, in the store.
    async fn make(&self, store: &dyn Store) -> Result<(u32, Secret)> {
        let key = Secret::random()?;
        let mut highest = self.newest(store).await?.into_keys().next_back().unwrap_or(0);
        loop {
            let number = highest.checked_add(1).ok_or_else(|| Error::corruption("all numbers of keys are taken"))?;
            let name = self.layout.name(&ObjectName::Key { number, wrap: 0 });
            let made = SystemClock.now().to_string();
            match store.create(&name, vec![self.wrap(&name, number, &made, &key)?]).await {
                Ok(_) => return Ok((number, key)),
                // Another archiver's.
                Err(error) if error.kind() == Kind::Fenced => highest = number,
                Err(error) => return Err(error),
            }
        }
    }

    /// The object that holds a key.
    fn wrap(&self, name: &str, number: u32, made: &str, key: &Secret) -> Result<Bytes> {
        let (archiver, signer) = self.archiver()?;
        let failed = |e: std::io::Error| Error::failure(format!("cannot wrap {name}")).because(e);
        let recipients = archiver.recipients().iter().map(|recipient| recipient as &dyn age::Recipient);
        let mut file = Vec::new();
        let encryptor = age::Encryptor::with_recipients(recipients)
            .map_err(|e| Error::failure(format!("cannot wrap {name}")).because(e))?;
        let mut writer = encryptor.wrap_output(&mut file).map_err(failed)?;
        writer.write_all(key.expose()).and_then(|()| writer.write_all(self.metadata())).map_err(failed)?;
        writer.finish().map_err(failed)?;
        let wrapped = Wrapped {
            format_version: 1,
            number,
            made: made.to_owned(),
            recipients: archiver.recipients().iter().map(ToString::to_string).collect(),
            wrapped: STANDARD.encode(file),
            signature: String::new(),
        };
        let text = serde_json::to_string_pretty(&wrapped)
            .map_err(|e| Error::failure(format!("cannot write {name}")).because(e))?;
        let head = format!("{},\n  ", text.trim_end_matches('}').trim_end());
        let signature = STANDARD.encode(signer.sign(&self.signed(name, head.as_bytes())));
        Ok(format!("{head}{SIGNATURE}{signature}\"\n}}\n").into())
    }

    fn signed(&self, name: &str, head: &[u8]) -> Vec<u8> {
        [b"pitr key 1\0", self.origin.archive.as_bytes(), b"\0", name.as_bytes(), b"\0", head].concat()
    }

    /// The key that an object holds, and the metadata key.
    async fn unwrap(&self, store: &dyn Store, name: &str, restore: &RestoreKey) -> Result<(Secret, Secret)> {
        let (wrapped, file) = self.read(store, name).await?;
        let identities = restore.identities.iter().map(|identity: &x25519::Identity| identity as &dyn age::Identity);
        let broken = || Error::corruption(format!("{name} does not hold a wrapped key"));
        let decryptor = age::Decryptor::new(file.as_slice()).map_err(|e| broken().because(e))?;
        let mut reader = match decryptor.decrypt(identities) {
            Ok(reader) => reader,
            Err(age::DecryptError::NoMatchingKeys) => {
                return Err(Error::new(
                    Kind::WrongKey,
                    format!(
                        "{name} cannot be opened with this restore key: it is wrapped for {}",
                        wrapped.recipients.join(", ")
                    ),
                )
                .hint("which restore key has this public half? the lines `# recipient:` in its file say so"));
            }
            Err(error) => return Err(broken().because(error)),
        };
        let mut keys = [0; 64];
        reader.read_exact(&mut keys).map_err(|e| broken().because(e))?;
        let half = |at: usize| keys.get(at..).and_then(|half| half.first_chunk()).copied().map(Secret::new);
        half(0).zip(half(32)).ok_or_else(broken)
    }

    async fn metadata_of_newest(&self, store: &dyn Store) -> Result<Secret> {
        let Some(restore) = &self.restore else { return Err(Error::new(Kind::WrongKey, "no key is given")) };
        // All hold it: one that is damaged costs only what was archived with it.
        let names = self.newest(store).await?.into_values().rev();
        match self.first_sound(store, restore, names).await? {
            Some((_, metadata)) => Ok(metadata),
            None => {
                let cluster = self.layout.cluster();
                Err(Error::new(Kind::NoArchive, format!("cluster {cluster} is encrypted and holds nothing yet"))
                    .hint("its first data key is missing: has `pitr archive` run?"))
            }
        }
    }

    /// What the first of these objects holds that is not damaged; none without any.
    async fn first_sound(
        &self,
        store: &dyn Store,
        restore: &RestoreKey,
        names: impl Iterator<Item = String> + Send,
    ) -> Result<Option<(Secret, Secret)>> {
        let mut damaged = None;
        for name in names {
            match self.unwrap(store, &name, restore).await {
                Err(error) if error.kind() == Kind::Corruption => {
                    tracing::warn!(%error, hint = error.advice(), "a data key is damaged");
                    damaged.get_or_insert(error);
                }
                keys => return keys.map(Some),
            }
        }
        damaged.map_or(Ok(None), Err)
    }

    async fn read(&self, store: &dyn Store, name: &str) -> Result<(Wrapped, Vec<u8>)> {
        let parse = |bytes: Bytes| std::future::ready(self.parse(name, &bytes));
        let read = intact::read(store, name, Part::All, parse).await?;
        read.ok_or_else(|| Error::corruption(format!("{name} is missing from {}", store.location())))
    }

    fn parse(&self, name: &str, bytes: &[u8]) -> Result<(Wrapped, Vec<u8>)> {
        let refuse = |flaw: &str| Error::corruption(format!("{name} {flaw}"));
        let wrapped: Wrapped = serde_json::from_slice(bytes).map_err(|e| refuse("is no wrapped key").because(e))?;
        let at = bytes.windows(SIGNATURE.len()).rposition(|window| window == SIGNATURE.as_bytes());
        let head = at.and_then(|at| bytes.get(..at)).unwrap_or_default();
        let signature = STANDARD.decode(&wrapped.signature).unwrap_or_default();
        let known = UnparsedPublicKey::new(&ED25519, &self.origin.writer);
        if known.verify(&self.signed(name, head), &signature).is_err() {
            return Err(refuse("is not signed by this archive's archiver for this name")
                .hint("was it damaged, or put there by somebody else? what it would open is not believed"));
        }
        if wrapped.format_version != 1 {
            return Err(Error::config(format!("{name} has format version {}", wrapped.format_version))
                .hint("was the archive written by a newer pitr?"));
        }
        let file = STANDARD.decode(&wrapped.wrapped).map_err(|e| refuse("is no base64").because(e))?;
        Ok((wrapped, file))
    }

    /// The last wrap of each key.
    async fn newest(&self, store: &dyn Store) -> Result<BTreeMap<u32, String>> {
        let wraps = self.wraps(store, &self.layout.keys()).await?;
        // In order: the last one of a number stays.
        Ok(wraps.into_iter().map(|((number, _), name)| (number, name)).collect())
    }

    /// The objects with keys whose names begin so, by number and wrap.
    async fn wraps(&self, store: &dyn Store, prefix: &str) -> Result<BTreeMap<(u32, u32), String>> {
        let mut names = BTreeMap::new();
        let mut see = |info: crate::store::ObjectInfo| {
            if let Some(ObjectName::Key { number, wrap }) = self.layout.parse(&info.name) {
                names.insert((number, wrap), info.name);
            }
        };
        store.list(prefix, None, true, &mut see).await?;
        Ok(names)
    }
}
