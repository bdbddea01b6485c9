//! One store's archive into another store: a mirror, or what a store lacks that fell behind.
//!
//! Promise: whenever it ends, the other store is an archive that holds everything it claims. Begun
//! again it does what is left. Every object is checked before it is made ([`sound`]); one that
//! is damaged is named and left out. Nothing is ever replaced.
//!
//! Order of writes, and why:
//!
//! | object | because |
//! |---|---|
//! | `cluster.json` | without it there is no archive |
//! | epochs | log is there only with its writer's claim, so that whoever archives there next takes a higher number |
//! | data keys | nothing that is encrypted is there without its key |
//! | of each timeline its history, segments and gap records, indexes | [`plan`]: never a hole that the source has not; an index only with all it speaks of |
//! | of each base its packs, chunk table, manifest | a base exists when its manifest does; its log is there before |
//! | drills | |
//!
//! They are listed the other way around, so that what is listed has what it needs among what is
//! listed later. Packs that no manifest names stay behind, and so do segments that a wider one hides.
//! What vanishes from the source meanwhile, as what expires does, is no error.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use crate::catalog::archive::Archive;
use crate::catalog::layout::{Layout, ObjectName};
use crate::catalog::load::{self, footer};
use crate::catalog::sound;
use crate::engine::Engine;
use crate::error::{Kind, Result};
use crate::segment::codec::Compression;
use crate::store::{ObjectInfo, Store};

mod base;
mod log;
pub mod mirrors;
mod plan;
pub mod repair;
mod tail;
#[cfg(test)]
mod tests;
mod writers;

use plan::{Names, timelines};

/// Objects read and checked at the same time: a pack may have 64 MiB.
const AT_ONCE: usize = 4;

/// Is told how many bytes were copied, and of about how many.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// What a copy did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Objects made.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was not copied because it is damaged, or because something else stands in its place.
    pub problems: Vec<Problem>,
    /// All of a timeline was left out: what the other store holds of it contradicts this one.
    pub contradicts: bool,
}

/// Why an object is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Its name.
    pub object: String,
    /// What is wrong with it, and where.
    pub problem: String,
}

/// Copies to the store `to` what it lacks of `from`. The open end of a log that `from` keeps in a
/// tail becomes a segment, compressed as said.
///
/// # Errors
/// [`Kind::Fenced`] when `to` was written by an archiver that `from` does not know, or is meanwhile;
/// [`Kind::Config`] when it holds the archive of another database; [`Kind::Corruption`] for a damaged
/// identity or claim of an epoch; what the stores report. What else is damaged is in the report.
pub async fn copy(
    from: &Archive,
    to: Arc<dyn Store>,
    engine: &dyn Engine,
    compression: Compression,
    progress: Progress<'_>,
) -> Result<Report> {
    let (source, layout) = (from.store.as_ref(), &from.layout);
    let drills = names(source, layout, &layout.drills()).await?;
    let bases = names(source, layout, &layout.bases()).await?;
    let packs = names(source, layout, &layout.packs()).await?;
    let log = names(source, layout, &layout.log()).await?;
    let epochs = names(source, layout, &layout.epochs()).await?;
    let to = from.over(to);
    let there = names(to.store.as_ref(), layout, &layout.everything()).await?;
    let mut copy = Copy::new(from, to, engine, compression, progress, there);
    copy.about = copy.about(&log, &packs);
    copy.cluster().await?;
    copy.epochs(&epochs).await?;
    copy.keys().await?;
    for timeline in timelines(&log) {
        copy.timeline(timeline).await?;
    }
    for (object, bytes) in &bases {
        if let ObjectName::BaseManifest(id) = object {
            copy.base(id, *bytes).await?;
        }
    }
    for drill in drills.keys() {
        copy.one(drill).await?;
    }
    Ok(copy.report)
}

/// Copies the archive's identity and the claims of its writers alone: whoever archives in `to` next takes a higher number.
///
/// # Errors
/// As [`copy`].
async fn copy_claims(from: &Archive, to: Arc<dyn Store>, engine: &dyn Engine, compression: Compression) -> Result<()> {
    let to = from.over(to);
    let layout = &from.layout;
    let epochs = names(from.store.as_ref(), layout, &layout.epochs()).await?;
    let there = names(to.store.as_ref(), layout, &layout.epochs()).await?;
    let mut copy = Copy::new(from, to, engine, compression, &|_, _| {}, there);
    copy.cluster().await?;
    copy.epochs(&epochs).await
}

/// What a store holds below a prefix.
async fn names(store: &dyn Store, layout: &Layout, prefix: &str) -> Result<Names> {
    let mut names = Names::new();
    let mut see = |info: ObjectInfo| {
        if let Some(object) = layout.parse(&info.name) {
            names.insert(object, info.bytes);
        }
    };
    store.list(prefix, None, false, &mut see).await?;
    Ok(names)
}

struct Copy<'a> {
    from: Archive,
    to: Archive,
    engine: &'a dyn Engine,
    compression: Compression,
    progress: Progress<'a>,
    /// What the target holds.
    there: Names,
    /// The last one whose claim is in the target. Log of a later one is left for the next copy.
    last_epoch: u32,
    /// Bytes there were to copy.
    about: u64,
    report: Report,
}

/// What came of reading an object.
enum Read {
    Sound(Bytes),
    /// It is reported.
    Damaged,
    Gone,
}

impl<'a> Copy<'a> {
    fn new(
        from: &Archive,
        to: Archive,
        engine: &'a dyn Engine,
        compression: Compression,
        progress: Progress<'a>,
        there: Names,
    ) -> Self {
        Self {
            from: from.clone(),
            to,
            engine,
            compression,
            progress,
            there,
            last_epoch: 0,
            about: 0,
            report: Report::default(),
        }
    }

    /// About how many bytes there are to copy.
    fn about(&self, log: &Names, packs: &Names) -> u64 {
        let missing = timelines(log).into_iter().flat_map(|timeline| {
            self.log_of(timeline).missing(log, &std::collections::BTreeSet::new(), &self.there).unwrap_or_default()
        });
        let packs = packs.iter().filter(|(pack, _)| !self.there.contains_key(pack)).map(|(_, bytes)| bytes);
        missing.filter_map(|object| log.get(&object)).chain(packs).sum()
    }

    async fn cluster(&mut self) -> Result<()> {
        match load::identity(self.to.store.as_ref(), &self.from.layout).await {
            Ok(there) => self.to.check_copy(&there),
            Err(error) if error.kind() == Kind::NoArchive => self.one(&ObjectName::Cluster).await,
            Err(error) => Err(error),
        }
    }

    /// The data keys, where there are any.
    async fn keys(&mut self) -> Result<()> {
        if self.from.sealed.is_some() {
            // In order: the last wrap of a number comes last. Those before it may be there to be forgotten.
            let mut newest: BTreeMap<u32, u32> = BTreeMap::new();
            for key in names(self.from.store.as_ref(), &self.from.layout, &self.from.layout.keys()).await?.keys() {
                if let ObjectName::Key { number, wrap } = key {
                    newest.insert(*number, *wrap);
                }
            }
            for (number, wrap) in newest {
                let range = ObjectName::Key { number, wrap }..=ObjectName::Key { number, wrap: u32::MAX };
                if self.there.range(range).next().is_none() {
                    self.one(&ObjectName::Key { number, wrap }).await?;
                }
            }
        }
        Ok(())
    }

    /// Copies an object, if it is sound and the target lacks it.
    async fn one(&mut self, object: &ObjectName) -> Result<()> {
        if self.there.contains_key(object) {
            return Ok(());
        }
        let read = sound::read(&self.from, object).await;
        match self.noted(object, read)? {
            Read::Sound(bytes) => self.put(object, bytes).await,
            Read::Damaged | Read::Gone => Ok(()),
        }
    }

    /// Takes note of damage; other errors are given back.
    fn noted(&mut self, object: &ObjectName, read: Result<Option<Bytes>>) -> Result<Read> {
        match read {
            Ok(Some(bytes)) => Ok(Read::Sound(bytes)),
            Ok(None) => Ok(Read::Gone),
            Err(error) if error.kind() == Kind::Corruption => {
                self.problem(self.from.layout.name(object), &error);
                Ok(Read::Damaged)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes an object in the target.
    async fn put(&mut self, object: &ObjectName, body: Bytes) -> Result<()> {
        let bytes = self.from.plain_bytes(&body);
        match self.to.store.create(&self.to.layout.name(object), vec![body]).await {
            Ok(_) => self.made(object, bytes),
            Err(error) if error.kind() == Kind::Fenced => self.differs(object).await?,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn made(&mut self, object: &ObjectName, bytes: u64) {
        self.there.insert(object.clone(), bytes);
        self.report.objects += 1;
        self.report.bytes += bytes;
        (self.progress)(self.report.bytes, self.about.max(self.report.bytes));
    }

    fn problem(&mut self, object: String, problem: impl std::fmt::Display) {
        let problem = Problem { object, problem: problem.to_string() };
        if !self.report.problems.contains(&problem) {
            self.report.problems.push(problem);
        }
    }

    /// Names an object that has other bytes in the target, unless it is a segment of the same log:
    /// the same log may be compressed otherwise, or known to be complete for longer.
    async fn differs(&mut self, object: &ObjectName) -> Result<()> {
        let name = self.from.layout.name(object);
        for archive in [self.from.clone(), self.to.clone()] {
            match sound::read(&archive, object).await {
                Ok(Some(bytes)) => drop(self.there.entry(object.clone()).or_insert(archive.plain_bytes(&bytes))),
                Ok(None) => return Ok(()),
                Err(error) if error.kind() == Kind::Corruption => {
                    self.problem(name, format_args!("damaged in {}: {error}", archive.store.location()));
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        if let ObjectName::Segment { timeline, range, epoch, .. } = object {
            let expected = self.from.expected(*timeline, *range, *epoch);
            let (ours, theirs) = tokio::try_join!(
                footer(self.from.store.as_ref(), &name, &expected),
                footer(self.to.store.as_ref(), &name, &expected)
            )?;
            if (ours.raw_bytes, ours.raw_crc) == (theirs.raw_bytes, theirs.raw_crc) {
                return Ok(());
            }
        }
        let (from, to) = (self.from.store.location(), self.to.store.location());
        self.problem(name, format_args!("holds other bytes in {to} than in {from}"));
        Ok(())
    }
}
