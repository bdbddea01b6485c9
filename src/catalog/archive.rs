//! One cluster's place in a store: where its objects are made and read.

use std::future::ready;
use std::sync::Arc;

use bytes::Bytes;

use super::fence::check_copies;
use super::layout::{Layout, ObjectName};
use super::load::{self, Known};
use super::{Catalog, Holder, SegmentInfo, TimelineLog};
use crate::engine::{Detail, Engine, ScanStart, Scanner};
use crate::error::{Error, Kind, Result};
use crate::model::cluster::{ClusterName, Encryption, Identity};
use crate::model::offset::{Offset, OffsetRange};
use crate::model::summary::Summary;
use crate::model::timeline::{History, TimelineId};
use crate::seal::key::{Keys, writer_text};
use crate::seal::object::plain_bytes;
use crate::seal::ring::Ring;
use crate::seal::store::Sealed;
use crate::segment::codec::Compression;
use crate::segment::cutter::NO_FILES;
use crate::segment::format::Header;
use crate::segment::read::{Expected, decode_to_vec};
use crate::segment::write::SegmentWriter;
use crate::store::several::copies;
use crate::store::{Created, Part, Store, intact};

/// A cluster's archive: the store, the names of its objects, and whose they are.
#[derive(Clone)]
pub struct Archive {
    /// Where the objects are.
    pub store: Arc<dyn Store>,
    /// How they are named.
    pub layout: Layout,
    /// Which database they are of.
    pub identity: Identity,
    /// What seals them, where they are sealed; below `store`.
    pub sealed: Option<Arc<Sealed>>,
}

impl Archive {
    /// Opens the archive of `cluster`, with the keys if it is encrypted.
    ///
    /// # Errors
    /// [`Kind::NoArchive`] when there is none; [`Kind::Config`] when several stores hold no copies of one archive;
    /// [`Kind::WrongKey`] when it cannot be opened with these keys, or is not encrypted and keys are given.
    pub async fn open(store: Arc<dyn Store>, cluster: &ClusterName, keys: &Keys) -> Result<Self> {
        let layout = Layout::new(cluster.clone());
        let identity = load::identity(store.as_ref(), &layout).await?;
        // The bytes at one LSN of a timeline are the same, whoever archived them.
        if !store.several().is_empty() && identity.log_file_bytes == NO_FILES {
            check_copies(&copies(store.as_ref()), &layout).await?;
        }
        let place = || format!("cluster {cluster} in {}", store.location());
        let ring = match (&identity.encryption, keys.is_none()) {
            (None, true) => None,
            (Some(_), false) => Some(Arc::new(Ring::open(store.as_ref(), &layout, &identity, keys).await?)),
            (Some(_), true) => {
                return Err(Error::new(Kind::WrongKey, format!("{} is encrypted, and no key is given", place()))
                    .hint("give --restore-key FILE to read it, --key-file FILE to archive, or both under [encryption] in pitr.toml"));
            }
            // Whoever expects what he wrote would believe what somebody put there instead.
            (None, false) => {
                return Err(Error::new(Kind::WrongKey, format!("{} is not encrypted, and a key is given", place()))
                    .hint("an archive is encrypted from its beginning or not at all: make another one under a new --cluster, or give no key"));
            }
        };
        Ok(match ring {
            Some(ring) => Self::sealed(Arc::new(Sealed::new(store, layout.clone(), ring)), layout, identity),
            None => Self { store, layout, identity, sealed: None },
        })
    }

    fn sealed(sealed: Arc<Sealed>, layout: Layout, identity: Identity) -> Self {
        Self { store: Arc::clone(&sealed) as Arc<dyn Store>, layout, identity, sealed: Some(sealed) }
    }

    /// The same archive in another store, which holds its objects as they are stored.
    #[must_use]
    pub fn over(&self, store: Arc<dyn Store>) -> Self {
        let (layout, identity) = (self.layout.clone(), self.identity.clone());
        match &self.sealed {
            Some(sealed) => Self::sealed(Arc::new(sealed.over(store)), layout, identity),
            None => Self { store, layout, identity, sealed: None },
        }
    }

    /// The store with the objects as they are stored.
    #[must_use]
    pub fn stored(&self) -> Arc<dyn Store> {
        match &self.sealed {
            Some(sealed) => Arc::clone(sealed.inner()),
            None => Arc::clone(&self.store),
        }
    }

    /// What is in an object that was read as it is stored.
    ///
    /// # Errors
    /// As [`Sealed::plain`].
    pub async fn plain(&self, name: &str, stored: &Bytes) -> Result<Bytes> {
        match &self.sealed {
            Some(sealed) => sealed.plain(name, stored.clone()).await,
            None => Ok(stored.clone()),
        }
    }

    /// Bytes of an object that was read as it is stored, before it was sealed.
    #[must_use]
    pub fn plain_bytes(&self, stored: &Bytes) -> u64 {
        let stored = stored.len() as u64;
        self.sealed.as_ref().and_then(|_| plain_bytes(stored)).unwrap_or(stored)
    }

    /// Refuses an archive that this one is no copy of.
    ///
    /// # Errors
    /// [`Kind::Config`] when it is of another database, or encrypted otherwise.
    pub fn check_copy(&self, other: &Identity) -> Result<()> {
        self.check_identity(other)?;
        if self.identity.encryption == other.encryption {
            return Ok(());
        }
        Err(Error::config(format!("cluster {} is not encrypted as its copy is", self.layout.cluster()))
            .hint("were both written with the same archiver key? objects are copied as they are"))
    }

    /// Opens the archive of `cluster`, or makes it when there is none: encrypted, if there is a key for it.
    ///
    /// # Errors
    /// [`Kind::Config`] when the archive there is of another database; as [`Archive::open`].
    pub async fn open_or_create(
        store: Arc<dyn Store>,
        cluster: &ClusterName,
        identity: &Identity,
        keys: &Keys,
    ) -> Result<Self> {
        let layout = Layout::new(cluster.clone());
        let name = layout.name(&ObjectName::Cluster);
        if !keys.is_none() && keys.archiver.is_none() {
            return Err(Error::new(
                Kind::WrongKey,
                "to archive takes an archiver key, and only a restore key is given",
            )
            .hint("name it with --key-file FILE, or key_file under [encryption] in pitr.toml"));
        }
        if store.head(&name).await?.is_none() {
            let encryption = match (&identity.encryption, &keys.archiver) {
                // A further copy of one that was made a moment ago.
                (Some(made), _) => Some(made.clone()),
                (None, Some(key)) => {
                    let id = format!("{:032x}", rand::random::<u128>());
                    Some(Encryption { version: 1, id, writer: writer_text(&key.writer()?) })
                }
                (None, None) => None,
            };
            let mut body = serde_json::to_vec_pretty(&Identity { encryption, ..identity.clone() })
                .map_err(|e| Error::failure("cannot write the cluster's identity").because(e))?;
            body.push(b'\n');
            match store.create(&name, vec![Bytes::from(body)]).await {
                Ok(Created::New | Created::Same) => {}
                // Somebody else was first; what counts is whose archive it is now.
                Err(error) if error.kind() == Kind::Fenced => {}
                Err(error) => return Err(error),
            }
        }
        let archive = Self::open(store, cluster, keys).await?;
        archive.check_identity(identity)?;
        Ok(archive)
    }

    /// What the archive holds now. Objects that proved damaged are set aside in it.
    ///
    /// # Errors
    /// As [`load::load`].
    pub async fn catalog(&self, engine: &dyn Engine) -> Result<Catalog> {
        self.catalog_with(engine, &Known::new()).await
    }

    /// As [`Archive::catalog`], but for what is `known` of its segments.
    ///
    /// # Errors
    /// As [`load::load`].
    pub async fn catalog_with(&self, engine: &dyn Engine, known: &Known) -> Result<Catalog> {
        load::load(self.store.as_ref(), self.layout.cluster(), &marks_of(engine), known).await
    }

    /// What it holds of one timeline, but for what is `known` of its segments.
    ///
    /// # Errors
    /// As [`load::load`].
    pub async fn timeline_log(&self, engine: &dyn Engine, timeline: TimelineId, known: &Known) -> Result<TimelineLog> {
        load::timeline(self.store.as_ref(), &self.layout, &self.identity, timeline, &marks_of(engine), known).await
    }

    /// Refuses a database that is not the one this archive is of.
    ///
    /// # Errors
    /// [`Kind::Config`] naming both identities.
    pub fn check_identity(&self, server: &Identity) -> Result<()> {
        let ours = &self.identity;
        let cluster = self.layout.cluster();
        if ours.engine != server.engine || ours.system != server.system {
            return Err(Error::config(format!(
                "cluster {cluster} in {} is the archive of {} system {}, but the source is {} system {}",
                self.store.location(),
                ours.engine,
                ours.system,
                server.engine,
                server.system
            ))
            .hint("was the database made anew (initdb, pg_upgrade), or is the source another one? give it a cluster name of its own with --cluster"));
        }
        if ours.log_file_bytes != server.log_file_bytes {
            return Err(Error::config(format!(
                "cluster {cluster} was archived with log files of {} bytes, but the source now has {}",
                ours.log_file_bytes, server.log_file_bytes
            ))
            .hint("was wal_segment_size changed with pg_resetwal? archive it under a new cluster name"));
        }
        Ok(())
    }

    /// A timeline's history, if the archive has one.
    ///
    /// # Errors
    /// [`Kind::Corruption`] when it cannot be read.
    pub async fn history(&self, timeline: TimelineId) -> Result<Option<History>> {
        let name = self.layout.name(&ObjectName::History(timeline));
        let decode = |bytes: Bytes| ready(load::decode_history(&name, timeline, &bytes));
        intact::read(self.store.as_ref(), &name, Part::All, decode).await
    }

    /// Keeps a timeline's history, before the first byte of that timeline. Another history
    /// under the same number is a conflict that only a person can judge.
    ///
    /// # Errors
    /// [`Kind::NotRecoverable`] when another history stands there.
    pub async fn keep_history(&self, history: &History) -> Result<()> {
        let name = self.layout.name(&ObjectName::History(history.timeline));
        let mut body =
            serde_json::to_vec_pretty(history).map_err(|e| Error::failure("cannot write a history").because(e))?;
        body.push(b'\n');
        match self.store.create(&name, vec![Bytes::from(body)]).await {
            Err(error) if error.kind() == Kind::Fenced => {
                for copy in copies(self.store.as_ref()) {
                    let read = match copy.get(&name, Part::All).await {
                        Ok(Some(bytes)) => load::decode_history(&name, history.timeline, &bytes).map(|_| ()),
                        Err(error) if error.kind() == Kind::Corruption => Err(error),
                        other => other.map(|_| ()),
                    };
                    if let Err(damage) = read {
                        if damage.kind() != Kind::Corruption {
                            return Err(damage);
                        }
                        // It differs because it is damaged. Streaming does not need it.
                        tracing::error!(error = %damage, hint = damage.advice(), "a timeline's history is damaged");
                        return Ok(());
                    }
                }
                Err(Error::new(
                    Kind::NotRecoverable,
                    format!("the server's history of timeline {} differs from the one in {name}", history.timeline.0),
                )
                .hint(
                    "were two standbys promoted to the same timeline? archive one of them under another cluster name",
                ))
            }
            other => other.map(|_| ()),
        }
    }

    /// The header of a segment that begins at `start`.
    #[must_use]
    pub fn header(&self, timeline: TimelineId, start: Offset, epoch: u32) -> Header {
        let (cluster, engine) = (self.layout.cluster().clone(), self.identity.engine.clone());
        Header { cluster, engine, timeline, start, epoch }
    }

    /// Makes a segment of log that is all in memory; nothing, if it is empty.
    ///
    /// # Errors
    /// From the store.
    pub async fn create_segment(
        &self,
        timeline: TimelineId,
        raw: &[u8],
        summary: &Summary,
        epoch: u32,
        compression: Compression,
    ) -> Result<()> {
        if summary.range.is_empty() {
            return Ok(());
        }
        let mut writer = SegmentWriter::new(self.header(timeline, summary.range.start, epoch), compression);
        writer.write(raw);
        let finished = writer.finish(summary)?;
        let object = ObjectName::Segment { timeline, range: summary.range, epoch, codec: finished.codec };
        self.store.create(&self.layout.name(&object), finished.body).await?;
        Ok(())
    }

    /// The name of the object that holds a segment.
    #[must_use]
    pub fn object_of(&self, timeline: TimelineId, segment: &SegmentInfo) -> String {
        self.layout.name(&segment.object(timeline))
    }

    /// What a segment's object must say of itself.
    #[must_use]
    pub fn expected(&self, timeline: TimelineId, range: OffsetRange, epoch: u32) -> Expected {
        Expected { cluster: self.layout.cluster().clone(), timeline, range, epoch }
    }

    /// What the footer of a closed segment says of it.
    ///
    /// # Errors
    /// [`Kind::Corruption`] naming the object when it is missing or not what was
    /// written.
    pub async fn summary(&self, timeline: TimelineId, segment: &SegmentInfo) -> Result<Summary> {
        let name = self.object_of(timeline, segment);
        let expected = self.expected(timeline, segment.range, segment.epoch);
        load::summary(self.store.as_ref(), &name, &expected).await
    }

    /// The raw log bytes of a segment, all of them verified.
    ///
    /// # Errors
    /// [`Kind::Corruption`] naming the object when it is missing or not what was
    /// written.
    pub async fn raw(&self, timeline: TimelineId, segment: &SegmentInfo) -> Result<Bytes> {
        let name = self.object_of(timeline, segment);
        match segment.holder {
            Holder::Segment(_) => {
                let expected = self.expected(timeline, segment.range, segment.epoch);
                let decode = |object: Bytes| {
                    let (name, expected) = (name.clone(), expected.clone());
                    let raw = move || decode_to_vec(&name, &expected, &object).map(|(_, raw)| Bytes::from(raw));
                    async {
                        let raw = tokio::task::spawn_blocking(raw).await;
                        raw.map_err(|e| Error::failure("a segment reader stopped").because(e))?
                    }
                };
                let raw = intact::read(self.store.as_ref(), &name, Part::All, decode).await?;
                raw.ok_or_else(|| {
                    Error::corruption(format!("{name} is missing from {}", self.store.location()))
                        .hint("did somebody remove it? `pitr verify` tells what is left")
                })
            }
            Holder::Tail => {
                let len = segment.range.len();
                match self.store.get(&name, Part::Range { start: 0, len }).await? {
                    Some(bytes) if bytes.len() as u64 == len => Ok(bytes),
                    Some(bytes) => Err(Error::corruption(format!(
                        "{name} holds {} bytes where {len} were found before",
                        bytes.len()
                    ))),
                    // The writer may have sealed it since the catalog was read.
                    None => self.raw_of_sealed_tail(timeline, segment).await,
                }
            }
        }
    }

    /// What a tail held that has become a segment, or the tail of a later writer.
    async fn raw_of_sealed_tail(&self, timeline: TimelineId, tail: &SegmentInfo) -> Result<Bytes> {
        let (mut found, mut adopted) = (None, None);
        let folder = self.layout.timeline(timeline);
        self.store
            .list(&folder, None, true, &mut |object| match self.layout.parse(&object.name) {
                // One of an earlier epoch is by a writer that did not know yet that it was fenced.
                Some(ObjectName::Segment { range, epoch, codec, .. })
                    if range.covers(tail.range) && epoch >= tail.epoch && found.is_none_or(|(_, of, _)| epoch > of) =>
                {
                    found = Some((range, epoch, codec));
                }
                Some(ObjectName::Tail { start, epoch, .. }) if start == tail.range.start && epoch > tail.epoch => {
                    adopted = adopted.max(Some(epoch));
                }
                _ => {}
            })
            .await?;
        if let (None, Some(epoch)) = (found, adopted) {
            return Box::pin(self.raw(timeline, &SegmentInfo { epoch, ..*tail })).await;
        }
        let Some((range, epoch, codec)) = found else {
            let name = self.object_of(timeline, tail);
            return Err(Error::corruption(format!("{name} is gone, and no segment holds {}", tail.range))
                .hint("did somebody remove it? `pitr verify` tells what is left"));
        };
        let sealed = SegmentInfo { range, epoch, holder: Holder::Segment(codec), ..*tail };
        let raw = Box::pin(self.raw(timeline, &sealed)).await?;
        Ok(raw.slice(tail.range.within(range.start)))
    }
}

/// What finds the end of a tail.
fn marks_of(engine: &dyn Engine) -> impl Fn(&Identity, TimelineId, ScanStart) -> Result<Box<dyn Scanner>> + Sync + '_ {
    |identity, timeline, start| Ok(engine.scanner(identity, timeline, start, Detail::Marks))
}

/// The names of all bases, oldest first.
///
/// # Errors
/// When the store cannot be listed.
pub async fn bases(archive: &Archive) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    let mut see = |object: crate::store::ObjectInfo| {
        if let Some(ObjectName::BaseManifest(id)) = archive.layout.parse(&object.name) {
            ids.push(id);
        }
    };
    archive.store.list(&archive.layout.bases(), None, false, &mut see).await?;
    ids.sort();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    async fn open(engine: &str, log_file_bytes: u64) -> Result<Archive> {
        let identity = Identity { engine: engine.into(), ..Identity::some(log_file_bytes) };
        Archive::open_or_create(Arc::new(MemoryStore::new()), &"main".parse()?, &identity, &Keys::default()).await
    }

    #[tokio::test]
    async fn an_identity_with_impossible_log_files_is_refused() {
        for bytes in [1 << 20, 16 << 20, 1 << 30] {
            assert_eq!(open("postgres", bytes).await.unwrap().identity.log_file_bytes, bytes);
        }
        for bytes in [0, 1, 100, 512 << 10, (16 << 20) + 1, 3 << 20, 2 << 30, u64::MAX] {
            let error = open("postgres", bytes).await.err().unwrap();
            assert_eq!(error.kind(), Kind::Corruption, "{bytes}");
            assert!(error.message().contains("main/cluster.json"), "{error}");
        }
    }
}
