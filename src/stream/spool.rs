//! Log on a disk of our own, for a remote store that is slow or away.
//!
//! A spool is a directory with the names of the archive in it. It holds the open [tail](super::tail), and closed segments that
//! could not go to the store as fast as they came; each is the very object that goes there, and is removed once it is.
//! What lies in a spool when its archiver dies is in no archive: the next one on this machine counts it in ([`WithSpool`]), brings it
//! there before it goes on ([`Spool::drain`]), and continues the last tail. A tail that a power cut has torn ends with its last whole record, as on any disk.
//!
//! Where the archive counts the offsets, another archiver may have given them to other log meanwhile. What lies here is set aside
//! then, and named.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{FlockOperation, flock};
use tokio::sync::watch;

use crate::catalog::archive::Archive;
use crate::catalog::fence::Epoch;
use crate::catalog::layout::{Layout, ObjectName};
use crate::error::{Error, Kind, Result};
use crate::model::cluster::ClusterName;
use crate::model::offset::{Offset, OffsetRange};
use crate::model::time::{Clock, SystemClock, Timestamp};
use crate::model::timeline::TimelineId;
use crate::store::local::{LocalStore, make_folder};
use crate::store::{Created, ObjectInfo, Part, Store};
use crate::stream::tail::sync_parent;

/// Files as large as a segment that lie in a spool beside those that wait: the tails of segments on their way, the open one, and
/// zeroed files for the next.
const TAILS: u64 = 6;

const DAY_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// The smallest limit of a spool whose segments have at most `segment_bytes`.
#[must_use]
pub const fn limit_min(segment_bytes: u64) -> u64 {
    2 * TAILS * segment_bytes
}

/// Where log waits for the store.
#[derive(Debug)]
pub struct Spool {
    store: LocalStore,
    layout: Layout,
    root: PathBuf,
    /// Bytes of segments that may wait.
    limit: u64,
    /// Bytes of those that do.
    used: watch::Sender<u64>,
    is_full: AtomicBool,
    /// One archiver only, for as long as it is open.
    _lock: File,
}

impl Spool {
    /// Opens the spool of `cluster` in the directory `root`, which is made if it is not there. It takes up to `bytes`, of which some are for
    /// tails with segments of at most `segment_bytes`.
    ///
    /// # Errors
    /// [`Kind::Busy`] when another archiver has it open; [`Kind::StoreUnreachable`] when the disk refuses.
    pub async fn open(root: &Path, cluster: &ClusterName, bytes: u64, segment_bytes: u64) -> Result<Self> {
        let store = LocalStore::make(root)?;
        let root = std::path::absolute(root).map_err(|e| Error::store_io("find", root, e))?;
        let folder = root.join(cluster.as_str());
        make_folder(&root, &folder)?;
        let lock = lock(&folder.join(".lock"))?;
        let layout = Layout::new(cluster.clone());
        let limit = bytes.saturating_sub(TAILS * segment_bytes);
        let spool = Self {
            store,
            layout,
            root,
            limit,
            used: watch::Sender::new(0),
            is_full: AtomicBool::new(false),
            _lock: lock,
        };
        // What a killed archiver of this cluster left half written; nobody else is at work there.
        LocalStore::open(&folder)?.sweep(Timestamp(SystemClock.now().0 + 2 * DAY_MICROS)).await?;
        let mut used = 0;
        let mut see = |info: ObjectInfo| {
            if let Some(ObjectName::Segment { .. }) = spool.layout.parse(&info.name) {
                used += info.bytes;
            }
        };
        spool.store.list(&spool.layout.log(), None, false, &mut see).await?;
        spool.used.send_replace(used);
        Ok(spool)
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether there is room for an object now.
    #[must_use]
    pub fn has_room(&self, body: &[Bytes]) -> bool {
        self.fits(*self.used.borrow(), bytes_of(body))
    }

    /// Whether so many bytes more may wait. One object may in any case.
    fn fits(&self, used: u64, bytes: u64) -> bool {
        used == 0 || used + bytes <= self.limit
    }

    /// Keeps a segment's object, durably, once there is room for it.
    ///
    /// # Errors
    /// [`Kind::StoreUnreachable`] when the disk refuses, or when there is no room and `closing` says not to wait.
    pub async fn keep(&self, name: &str, body: Vec<Bytes>, mut closing: watch::Receiver<bool>) -> Result<()> {
        let bytes = bytes_of(&body);
        let mut used = self.used.subscribe();
        if !self.fits(*used.borrow(), bytes) {
            if !self.is_full.swap(true, Ordering::Relaxed) {
                tracing::error!(
                    spool = %self.root.display(),
                    bytes = *used.borrow(),
                    "the spool is full: nothing more is read, and the server keeps its log from here on"
                );
            }
            tokio::select! {
                _ = used.wait_for(|used| self.fits(*used, bytes)) => {}
                _ = closing.wait_for(|closing| *closing) => return Err(Error::new(
                    Kind::StoreUnreachable,
                    format!("the spool {} is full", self.root.display()),
                )),
            }
            if self.is_full.swap(false, Ordering::Relaxed) {
                tracing::info!(spool = %self.root.display(), "the spool has room again");
            }
        }
        self.put(name, body).await.map(drop)
    }

    async fn put(&self, name: &str, body: Vec<Bytes>) -> Result<Created> {
        let bytes = bytes_of(&body);
        let created = self.store.create(name, body).await?;
        if created == Created::New {
            self.used.send_modify(|used| *used += bytes);
        }
        Ok(created)
    }

    /// A segment's object.
    ///
    /// # Errors
    /// [`Kind::Corruption`] when somebody removed it; the disk's.
    pub async fn read(&self, name: &str) -> Result<Bytes> {
        let read = self.store.get(name, Part::All).await.map_err(|error| error.with_kind(Kind::Failure))?;
        read.ok_or_else(|| Error::corruption(format!("{name} is missing from the spool {}", self.root.display())))
    }

    /// Removes a segment's object, which is in the store, or a tail that is in another.
    ///
    /// # Errors
    /// From the disk.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let bytes = match self.layout.parse(name) {
            Some(ObjectName::Segment { .. }) => self.store.head(name).await?.map_or(0, |info| info.bytes),
            _ => 0,
        };
        self.store.delete(name).await?;
        self.used.send_modify(|used| *used = used.saturating_sub(bytes));
        Ok(())
    }

    /// Sets aside what an earlier archiver left here, if another has gone on from before it: to be asked where the archive counts the
    /// offsets.
    ///
    /// # Errors
    /// From the store and the disk.
    pub async fn give_way(&self, archive: &Archive) -> Result<()> {
        if self.is_superseded(archive).await? {
            return self.set_aside(
                "another archiver has gone on from before the log in this spool, and the archive is that one's",
            );
        }
        Ok(())
    }

    /// Takes note that this spool's archiver holds an epoch: what is stored under that is no other's.
    ///
    /// # Errors
    /// From the disk.
    pub fn own(&self, epoch: &Epoch) -> Result<()> {
        let path = self.epochs();
        let failed = |e| Error::store_io("write", &path, e);
        let mut file = File::options().create(true).append(true).mode(0o640).open(&path).map_err(failed)?;
        // Behind whatever a disk without room may have left of another number.
        file.write_all(format!("\n{}\n", epoch.number()).as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(failed)
            .and_then(|()| sync_parent(&path))
    }

    fn owned(&self) -> Result<HashSet<u32>> {
        match fs::read_to_string(self.epochs()) {
            Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(HashSet::new()),
            Err(error) => Err(Error::store_io("read", &self.epochs(), error)),
        }
    }

    fn epochs(&self) -> PathBuf {
        self.root.join(self.layout.cluster().as_str()).join("epochs")
    }

    /// Whether anything waits, a tail included.
    ///
    /// # Errors
    /// From the disk.
    pub async fn holds_log(&self) -> Result<bool> {
        let mut holds = false;
        self.store.list(&self.layout.log(), None, false, &mut |_| holds = true).await?;
        Ok(holds)
    }

    /// The timelines of which something waits, oldest first.
    ///
    /// # Errors
    /// From the disk.
    pub async fn timelines(&self) -> Result<Vec<TimelineId>> {
        let folders = self.store.folders(&self.layout.log()).await?;
        let mut timelines: Vec<TimelineId> =
            folders.iter().filter_map(|folder| self.layout.timeline_of(folder)).collect();
        timelines.sort_unstable();
        Ok(timelines)
    }

    /// Brings the segments of a timeline that an earlier archiver or session left here to the store, in order, up to `end`, where its
    /// unbroken log ends. What lies behind that follows a hole. If that was in memory only, nothing behind it was ever acknowledged, and it is removed;
    /// if the log there `is_damaged`, it may have been, and is set aside.
    ///
    /// # Errors
    /// From the store and the disk; what was brought there stays.
    pub async fn drain(&self, archive: &Archive, timeline: TimelineId, end: Offset, is_damaged: bool) -> Result<()> {
        let mut waiting = Vec::new();
        let mut see = |info: ObjectInfo| match self.layout.parse(&info.name) {
            Some(ObjectName::Segment { range, .. }) => waiting.push((range.start, range.end, info.name)),
            Some(ObjectName::Tail { start, .. }) if start > end => waiting.push((start, Offset(u64::MAX), info.name)),
            _ => {}
        };
        self.store.list(&self.layout.timeline(timeline), None, true, &mut see).await?;
        waiting.sort();
        for (_, to, name) in &waiting {
            if *to <= end {
                archive.store.create(name, vec![self.read(name).await?]).await?;
                tracing::info!(object = name, "the spool's segment is in the store");
            } else if is_damaged {
                return self.set_aside("log before that in this spool is damaged in the store");
            } else {
                tracing::warn!(object = name, "log in the spool that follows a hole is read from the server again");
            }
            self.remove(name).await?;
        }
        Ok(())
    }

    /// Whether another writer has given log to offsets that are given to other log here.
    async fn is_superseded(&self, archive: &Archive) -> Result<bool> {
        let owned = self.owned()?;
        for folder in self.store.folders(&self.layout.log()).await? {
            let mut here = Vec::new();
            let mut see = |info: ObjectInfo| match self.layout.parse(&info.name) {
                Some(ObjectName::Segment { range, epoch, .. }) => here.push((range.start, epoch)),
                Some(ObjectName::Tail { start, epoch, .. }) => here.push((start, epoch)),
                _ => {}
            };
            self.store.list(&folder, None, true, &mut see).await?;
            let mut there: Vec<(OffsetRange, u32)> = Vec::new();
            let mut see = |info: ObjectInfo| {
                if let Some(ObjectName::Segment { range, epoch, .. }) = self.layout.parse(&info.name)
                    && !owned.contains(&epoch)
                {
                    there.push((range, epoch));
                }
            };
            archive.store.list(&folder, None, true, &mut see).await?;
            let is_later = |start, epoch| there.iter().any(|(range, of)| *of > epoch && range.end > start);
            if here.iter().any(|(start, epoch)| is_later(*start, *epoch)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Puts everything that waits where nobody asks for it.
    fn set_aside(&self, why: &str) -> Result<()> {
        let folder = self.root.join(self.layout.cluster().as_str());
        let mut free = (1..u32::MAX).map(|n| folder.join(format!("aside-{n}")));
        let Some(aside) = free.find(|aside| !aside.exists()) else {
            return Err(Error::failure(format!("{} holds too much that was set aside", folder.display())));
        };
        let log = folder.join("log");
        fs::rename(&log, &aside).map_err(|e| Error::store_io("set aside", &log, e))?;
        self.used.send_replace(0);
        tracing::error!(log = %aside.display(), "{why}: it is set aside");
        Ok(())
    }
}

fn bytes_of(body: &[Bytes]) -> u64 {
    body.iter().map(|piece| piece.len() as u64).sum()
}

fn lock(path: &Path) -> Result<File> {
    let mut options = File::options();
    options.create(true).truncate(false).write(true).mode(0o640);
    let file = options.open(path).map_err(|e| Error::store_io("open", path, e))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let folder = path.parent().unwrap_or(path).display();
            Err(Error::new(Kind::Busy, format!("another archiver uses the spool {folder}"))
                .hint("give each archiver a spool of its own with --spool"))
        }
        Err(error) => Err(Error::store_io("lock", path, error.into())),
    }
}

/// The store with what waits in a spool: tails, and segments that are not there yet.
pub struct WithSpool {
    /// Where everything else is.
    pub store: Arc<dyn Store>,
    /// Where they wait.
    pub spool: Arc<Spool>,
}

impl WithSpool {
    fn of(&self, name: &str) -> &dyn Store {
        match self.spool.layout.parse(name) {
            Some(ObjectName::Tail { .. }) => &self.spool.store,
            _ => self.store.as_ref(),
        }
    }
}

#[async_trait]
impl Store for WithSpool {
    /// Segments are made here: what lies before them may have to go to the store first.
    async fn create(&self, name: &str, body: Vec<Bytes>) -> Result<Created> {
        match self.spool.layout.parse(name) {
            Some(ObjectName::Segment { .. }) => self.spool.put(name, body).await,
            _ => self.store.create(name, body).await,
        }
    }

    async fn get(&self, name: &str, part: Part) -> Result<Option<Bytes>> {
        match self.of(name).get(name, part).await? {
            None => self.spool.store.get(name, part).await,
            found => Ok(found),
        }
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        shallow: bool,
        each: &mut (dyn FnMut(ObjectInfo) + Send),
    ) -> Result<()> {
        let mut waiting = BTreeMap::new();
        let mut see = |info: ObjectInfo| {
            if let Some(ObjectName::Tail { .. } | ObjectName::Segment { .. }) = self.spool.layout.parse(&info.name) {
                waiting.insert(info.name.clone(), info);
            }
        };
        self.spool.store.list(prefix, after, shallow, &mut see).await?;
        let mut once = |info: ObjectInfo| {
            waiting.remove(&info.name);
            each(info);
        };
        self.store.list(prefix, after, shallow, &mut once).await?;
        waiting.into_values().for_each(each);
        Ok(())
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let mut folders = self.store.folders(prefix).await?;
        folders.extend(self.spool.store.folders(prefix).await?);
        folders.sort();
        folders.dedup();
        Ok(folders)
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        match self.of(name).head(name).await? {
            None => self.spool.store.head(name).await,
            found => Ok(found),
        }
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.of(name).delete(name).await
    }

    async fn settle(&self, names: &[String]) -> Result<()> {
        self.store.settle(names).await
    }

    fn location(&self) -> String {
        self.store.location()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Codec;
    use crate::model::cluster::Identity;
    use crate::store::memory::MemoryStore;

    const T1: TimelineId = TimelineId(1);

    fn archive() -> Archive {
        let layout = Layout::new("main".parse().unwrap());
        Archive { store: Arc::new(MemoryStore::new()), layout, identity: Identity::some(100), sealed: None }
    }

    fn segment(archive: &Archive, start: u64, end: u64, epoch: u32) -> String {
        let range = OffsetRange::new(Offset(start), Offset(end));
        archive.layout.name(&ObjectName::Segment { timeline: T1, range, epoch, codec: Codec::Lz4 })
    }

    /// A spool in which segments [0, 10) and [20, 30) wait.
    async fn with_a_hole(dir: &Path, archive: &Archive) -> Spool {
        let spool = Spool::open(dir, archive.layout.cluster(), 1 << 20, 10).await.unwrap();
        for start in [20, 0] {
            spool.put(&segment(archive, start, start + 10, 1), vec!["log".into()]).await.unwrap();
        }
        spool
    }

    async fn there(archive: &Archive, name: &str) -> bool {
        archive.store.head(name).await.unwrap().is_some()
    }

    #[tokio::test]
    async fn what_follows_a_hole_never_comes_to_the_store() {
        for is_damaged in [false, true] {
            let (dir, archive) = (tempfile::tempdir().unwrap(), archive());
            let spool = with_a_hole(dir.path(), &archive).await;
            spool.drain(&archive, T1, Offset(10), is_damaged).await.unwrap();
            assert!(there(&archive, &segment(&archive, 0, 10, 1)).await);
            assert!(!there(&archive, &segment(&archive, 20, 30, 1)).await);
            assert!(!spool.holds_log().await.unwrap() && *spool.used.borrow() == 0);
            // What may have been acknowledged is kept.
            assert_eq!(dir.path().join("main/aside-1").exists(), is_damaged);
        }
    }

    #[tokio::test]
    async fn log_of_its_own_epochs_has_not_overtaken_a_spool_and_that_of_others_has() {
        let (dir, archive) = (tempfile::tempdir().unwrap(), archive());
        let spool = with_a_hole(dir.path(), &archive).await;
        archive.store.create(&segment(&archive, 10, 20, 2), vec!["log".into()]).await.unwrap();
        fs::write(spool.epochs(), "1\n2\n").unwrap();
        spool.give_way(&archive).await.unwrap();
        assert!(spool.holds_log().await.unwrap());
        fs::write(spool.epochs(), "1\n").unwrap();
        spool.give_way(&archive).await.unwrap();
        assert!(!spool.holds_log().await.unwrap() && dir.path().join("main/aside-1").exists());
    }
}
