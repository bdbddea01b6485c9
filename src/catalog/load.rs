//! From a store to a [`Catalog`]: few reads, all checked.
//!
//! Order of reading: `cluster.json`; then for each timeline its indexes and beside them the
//! names of what lies past them, the footers of those segments that count, and the tails; then
//! the manifests of base backups. Names past the indexes are enough to see what
//! supersedes what, so that hidden segments are never read.
//!
//! `confirmed` comes from the footer of the last segment or, where a log has an open
//! tail, from the tail's trailer.
//!
//! An object that is not what was written is set aside by name ([`super::damage`]): where
//! others hold what it held, they count. Of several stores it is read from one that has it intact. Names that
//! contradict each other are refused.

use std::collections::{BTreeMap, HashMap};
use std::future::ready;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::de::DeserializeOwned;

use super::damage::Damaged;
use super::layout::{Layout, ObjectName};
use super::{BaseInfo, Catalog, Gap, Holder, SegmentInfo, TimelineLog};
use crate::base::manifest::Manifest;
use crate::engine::{ScanStart, Scanner};
use crate::error::{Error, Kind, Result};
use crate::model::cluster::{ClusterName, Identity};
use crate::model::offset::{Offset, OffsetRange};
use crate::model::summary::Summary;
use crate::model::time::Timestamp;
use crate::model::timeline::{History, TimelineId};
use crate::segment::cutter::NO_FILES;
use crate::segment::format::Footer;
use crate::segment::read::{Expected, FooterRead, read_footer, too_short};
use crate::store::several::copies;
use crate::store::{ObjectInfo, Part, Store, intact};

mod indexes;
pub(crate) mod resolve;
mod tail;

#[cfg(test)]
mod tests;

use indexes::Run;
use resolve::Named;
use tail::NamedTail;

/// The store layout this program reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// Objects read at the same time.
const AT_ONCE: usize = 16;

/// How many bytes at the end of a segment nearly always hold its footer.
const FOOTER_BYTES: u64 = 4096;

/// Times a timeline is read when something that was listed is gone by the time it is read, as a
/// tail that became a segment.
const TRIES: usize = 8;

/// Makes the scanner that finds the end of a tail.
pub type TailScanner<'a> = &'a (dyn Fn(&Identity, TimelineId, ScanStart) -> Result<Box<dyn Scanner>> + Sync);

/// What is known of segments without asking the store, by the names of their objects: what one holds, or what is wrong
/// with one that proved damaged when it was read.
pub type Known = BTreeMap<String, Result<Summary, String>>;

/// Reads what the store holds of a cluster, but for what is `known` of its segments.
///
/// # Errors
/// [`Kind::NoArchive`] when there is none, [`Kind::Corruption`] naming objects that
/// contradict each other, [`Kind::Config`] for an archive of a newer format,
/// [`Kind::StoreUnreachable`] as the store reports it.
pub async fn load(
    store: &dyn Store,
    cluster: &ClusterName,
    tail_scanner: TailScanner<'_>,
    known: &Known,
) -> Result<Catalog> {
    let layout = Layout::new(cluster.clone());
    let identity = identity(store, &layout).await?;
    let loader = Loader { store, layout, identity, tail_scanner, known };
    let mut catalog = Catalog {
        identity: loader.identity.clone(),
        timelines: BTreeMap::new(),
        bases: Vec::new(),
        damaged_bases: Vec::new(),
    };
    for folder in store.folders(&loader.layout.log()).await? {
        if let Some(timeline) = loader.layout.timeline_of(&folder) {
            catalog.timelines.insert(timeline, loader.timeline(timeline).await?);
        }
    }
    loader.bases(&mut catalog).await?;
    Ok(catalog)
}

/// Reads what the store holds of one timeline, but for what is `known` of its segments.
///
/// # Errors
/// As [`load`].
pub async fn timeline(
    store: &dyn Store,
    layout: &Layout,
    identity: &Identity,
    timeline: TimelineId,
    tail_scanner: TailScanner<'_>,
    known: &Known,
) -> Result<TimelineLog> {
    let loader = Loader { store, layout: layout.clone(), identity: identity.clone(), tail_scanner, known };
    loader.timeline(timeline).await
}

/// Reads what the store holds of one timeline past its indexes, of which it tells no more than there are, but for what is `known` of its
/// segments.
///
/// # Errors
/// As [`load`].
pub async fn past_indexes(
    store: &dyn Store,
    layout: &Layout,
    identity: &Identity,
    timeline: TimelineId,
    known: &Known,
) -> Result<TimelineLog> {
    let no_tails = |_: &Identity, _, _| Err(Error::failure("tails are not read"));
    let (layout, identity) = (layout.clone(), identity.clone());
    let loader = Loader { store, layout, identity, tail_scanner: &no_tails, known };
    loader.again(|| loader.try_past_indexes(timeline)).await
}

/// Reads `cluster.json`. Of several stores each is asked: their archives must be of one database.
///
/// # Errors
/// As [`load`]; [`Kind::Config`] when they are not.
pub async fn identity(store: &dyn Store, layout: &Layout) -> Result<Identity> {
    let name = layout.name(&ObjectName::Cluster);
    let (mut found, mut failed): (Option<(Identity, String)>, Option<Error>) = (None, None);
    for copy in copies(store) {
        let read = copy.get(&name, Part::All).await;
        match (read.and_then(|bytes| bytes.map(|bytes| decode_identity(&name, &bytes)).transpose()), &found) {
            (Ok(None), _) => {}
            (Ok(Some(identity)), None) => found = Some((identity, copy.location())),
            (Ok(Some(other)), Some((identity, at))) => {
                if (&identity.engine, &identity.system) != (&other.engine, &other.system) {
                    return Err(Error::config(format!(
                        "cluster {} in {at} is the archive of {} system {}, but in {} of {} system {}",
                        layout.cluster(),
                        identity.engine,
                        identity.system,
                        copy.location(),
                        other.engine,
                        other.system
                    ))
                    .hint("several stores are read as one, so each must hold a copy of the same archive"));
                }
            }
            (Err(error), _) if matches!(error.kind(), Kind::Corruption | Kind::StoreUnreachable) => {
                failed.get_or_insert(error);
            }
            (Err(error), _) => return Err(error),
        }
    }
    match (found, failed) {
        (Some((identity, _)), failed) => {
            if let Some(error) = failed.filter(|error| error.kind() == Kind::Corruption) {
                tracing::warn!(%error, "{name} is damaged, and read from another store");
            }
            Ok(identity)
        }
        (None, Some(error)) => Err(error),
        (None, None) => Err(Error::new(
            Kind::NoArchive,
            format!("there is no archive of cluster {} in {}", layout.cluster(), store.location()),
        )
        .hint("is this the right --store and --cluster? `pitr init` makes a new archive")),
    }
}

/// Reads what `cluster.json` holds.
///
/// # Errors
/// [`Kind::Corruption`] when it is none, [`Kind::Config`] for one of a newer format.
pub fn decode_identity(name: &str, bytes: &[u8]) -> Result<Identity> {
    // The version decides how the rest is to be read, so it is read first.
    #[derive(serde::Deserialize)]
    struct Version {
        format_version: u32,
    }
    let Version { format_version } = json(name, bytes)?;
    if format_version != FORMAT_VERSION {
        return Err(Error::config(format!(
            "{name} is of format version {format_version}; this version of pitr reads version {FORMAT_VERSION}"
        ))
        .hint("was the archive made by a newer pitr?"));
    }
    let identity: Identity = json(name, bytes)?;
    if identity.engine == "postgres" && !is_wal_file_size(identity.log_file_bytes) {
        return Err(Error::corruption(format!(
            "{name} says that log files have {} bytes, and not a power of two from 1 MiB to 1 GiB",
            identity.log_file_bytes
        ))
        .hint("was it changed by hand? `show wal_segment_size` on the server tells the size"));
    }
    Ok(identity)
}

/// PostgreSQL's rule (`IsValidWalSegSize`, `src/include/access/xlog_internal.h`).
const fn is_wal_file_size(bytes: u64) -> bool {
    bytes.is_power_of_two() && 1 << 20 <= bytes && bytes <= 1 << 30
}

fn json<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::corruption(format!("{name} cannot be read")).because(e))
}

/// Reads a timeline's history.
///
/// # Errors
/// [`Kind::Corruption`] when it is none, or that of another timeline.
pub fn decode_history(name: &str, timeline: TimelineId, bytes: &[u8]) -> Result<History> {
    let history: History = json(name, bytes)?;
    let ordered = history.ancestors.windows(2).all(|pair| match pair {
        [older, newer] => older.timeline < newer.timeline && older.switch <= newer.switch,
        _ => true,
    });
    let older = history.ancestors.last().is_none_or(|parent| parent.timeline < timeline);
    if history.timeline != timeline || !ordered || !older {
        return Err(Error::corruption(format!("{name} is not the history of timeline {timeline}")));
    }
    Ok(history)
}

/// Reads the record of a gap.
///
/// # Errors
/// [`Kind::Corruption`] when it is none, or that of another gap.
pub fn decode_gap(name: &str, range: OffsetRange, bytes: &[u8]) -> Result<Gap> {
    let gap: Gap = json(name, bytes)?;
    if gap.range == range { Ok(gap) } else { Err(Error::corruption(format!("{name} tells of a gap {}", gap.range))) }
}

/// Reads the manifest of base `id`.
///
/// # Errors
/// [`Kind::Corruption`] when it is none, or that of another base or system.
pub fn decode_manifest(name: &str, identity: &Identity, id: &str, bytes: &[u8]) -> Result<Manifest> {
    let manifest = Manifest::decode(name, bytes)?;
    manifest.check_identity(identity)?;
    if manifest.id == id {
        Ok(manifest)
    } else {
        Err(Error::corruption(format!("{name} is the manifest of base {}", manifest.id)))
    }
}

struct Loader<'a> {
    store: &'a dyn Store,
    layout: Layout,
    identity: Identity,
    tail_scanner: TailScanner<'a>,
    known: &'a Known,
}

/// What the names of a timeline's objects tell.
#[derive(Default)]
struct Names {
    segments: Vec<Named>,
    tails: Vec<NamedTail>,
    gaps: Vec<(OffsetRange, u32)>,
    history: bool,
}

impl Loader<'_> {
    async fn timeline(&self, timeline: TimelineId) -> Result<TimelineLog> {
        self.again(|| self.try_timeline(timeline)).await
    }

    /// Reads again when something went away meanwhile.
    async fn again<F: Future<Output = Result<TimelineLog>>>(&self, read: impl Fn() -> F) -> Result<TimelineLog> {
        for _ in 1..TRIES {
            match read().await {
                Err(error) if std::error::Error::source(&error).is_some_and(|source| source.is::<WentAway>()) => {}
                read => return read,
            }
        }
        read().await
    }

    async fn try_past_indexes(&self, timeline: TimelineId) -> Result<TimelineLog> {
        let (mut log, mut run) = (TimelineLog::default(), Run::default());
        self.find_indexes(timeline, &mut run).await?;
        let names = self.names(timeline, run.end()).await?;
        log.indexes = run.of;
        self.segments(timeline, names.segments, &mut log).await?;
        self.gaps(timeline, names.gaps, &mut log).await?;
        Ok(log)
    }

    /// Reads a timeline, if nothing that was listed goes away meanwhile.
    async fn try_timeline(&self, timeline: TimelineId) -> Result<TimelineLog> {
        let mut log = TimelineLog::default();
        // Of a long log both take their time: the names are listed while the indexes are read.
        let mut run = Run::default();
        self.find_indexes(timeline, &mut run).await?;
        let hoped = run.end();
        let (read, names) = tokio::join!(self.read_indexes(timeline, &mut run, &mut log), self.names(timeline, hoped));
        read?;
        let names = if run.end() == hoped { names? } else { self.names(timeline, run.end()).await? };
        if names.history {
            match self.history(timeline).await {
                Ok(history) => log.history = Some(history),
                Err(error) => log.damaged.push(self.damaged(ObjectName::History(timeline), error)?),
            }
        }
        self.segments(timeline, names.segments, &mut log).await?;
        self.tails(timeline, names.tails, &mut log).await?;
        self.gaps(timeline, names.gaps, &mut log).await?;
        log.sort_damaged();
        log.restore_points.sort_by_key(|point| point.end);
        // A tail may hold what small segments held before it.
        log.restore_points.dedup_by(|a, b| a == b);
        Ok(log)
    }

    /// Adds the recorded gaps.
    async fn gaps(&self, timeline: TimelineId, named: Vec<(OffsetRange, u32)>, log: &mut TimelineLog) -> Result<()> {
        let mut gaps = stream::iter(named)
            .map(|(range, epoch)| async move { (range, epoch, self.gap(timeline, range, epoch).await) })
            .buffered(AT_ONCE);
        while let Some((range, epoch, gap)) = gaps.next().await {
            log.gaps.push(match gap {
                Ok(gap) => gap,
                Err(error) => {
                    let damaged = self.damaged(ObjectName::Gap { timeline, range, epoch }, error)?;
                    let cause = format!("its record {} is damaged", damaged.object);
                    log.damaged.push(damaged);
                    Gap { range, cause, found: Timestamp(0), confirmed: None, position: None }
                }
            });
        }
        log.gaps.sort_by_key(|gap| gap.range);
        Ok(())
    }

    /// Sets aside what `error` says is damaged; any other error is given back.
    fn damaged(&self, is: ObjectName, error: Error) -> Result<Damaged> {
        Damaged::new(&self.layout, is, error)
    }

    /// Lists what lies past the indexes.
    async fn names(&self, timeline: TimelineId, indexed: Option<Offset>) -> Result<Names> {
        let folder = self.layout.timeline(timeline);
        // Segments sort by their start, and everything else sorts after them.
        let after = indexed.map(|end| format!("{folder}{end}"));
        let mut names = Names::default();
        let mut see = |info: ObjectInfo| match self.layout.parse(&info.name) {
            Some(ObjectName::Segment { range, epoch, codec, .. }) => {
                names.segments.push(Named { range, epoch, codec });
            }
            Some(ObjectName::Tail { start, epoch, .. }) => {
                names.tails.push(NamedTail { start, epoch, bytes: info.bytes });
            }
            Some(ObjectName::Gap { range, epoch, .. }) => names.gaps.push((range, epoch)),
            Some(ObjectName::History(_)) => names.history = true,
            _ => {}
        };
        self.store.list(&folder, after.as_deref(), true, &mut see).await?;
        Ok(names)
    }

    /// Adds the segments past the indexes, from their footers. Where one is damaged, those
    /// that it supersedes count again.
    async fn segments(&self, timeline: TimelineId, mut named: Vec<Named>, log: &mut TimelineLog) -> Result<()> {
        if named.is_empty()
            && let Some(last) = log.segments.last().copied()
            && let Holder::Segment(codec) = last.holder
        {
            // An index does not tell what is confirmed.
            match self.summary(timeline, Named { range: last.range, epoch: last.epoch, codec }).await {
                Ok(summary) => log.confirmed = summary.confirmed,
                Err(error) => log.set_aside(&last, self.damaged(last.object(timeline), error)?),
            }
        }
        let counted = self.identity.log_file_bytes == NO_FILES;
        let mut known: HashMap<Named, Summary> = HashMap::new();
        let mut damaged: Vec<OffsetRange> = Vec::new();
        let counting = loop {
            let counting = resolve::resolve(&self.layout, timeline, named.clone(), &damaged, counted)?;
            let unread: Vec<Named> = counting.iter().filter(|named| !known.contains_key(*named)).copied().collect();
            if unread.is_empty() {
                break counting;
            }
            let mut read = stream::iter(unread)
                .map(|named| async move { (named, self.summary(timeline, named).await) })
                .buffered(AT_ONCE);
            while let Some((one, summary)) = read.next().await {
                match summary {
                    Ok(summary) => drop(known.insert(one, summary)),
                    Err(error) => {
                        log.damaged.push(self.damaged(one.object(timeline), error)?);
                        damaged.push(one.range);
                        named.retain(|named| *named != one);
                    }
                }
            }
        };
        for one in counting {
            let Some(summary) = known.remove(&one) else { continue };
            log.segments.push(SegmentInfo::of(&summary, one.epoch, Holder::Segment(one.codec)));
            log.confirmed = summary.confirmed;
            if !summary.changes.is_empty() {
                log.touched.insert(summary.range.start, Arc::new(summary.changes.touched()));
            }
            log.restore_points.extend(summary.restore_points);
        }
        Ok(())
    }

    /// Reads a segment's footer.
    async fn summary(&self, timeline: TimelineId, named: Named) -> Result<Summary> {
        let name = named.name(&self.layout, timeline);
        match self.known.get(&name) {
            Some(Ok(summary)) => return Ok(summary.clone()),
            Some(Err(problem)) => return Err(Error::corruption(problem.clone())),
            None => {}
        }
        let expected =
            Expected { cluster: self.layout.cluster().clone(), timeline, range: named.range, epoch: named.epoch };
        summary(self.store, &name, &expected).await
    }

    async fn history(&self, timeline: TimelineId) -> Result<History> {
        let name = self.layout.name(&ObjectName::History(timeline));
        self.read(&name, |bytes| decode_history(&name, timeline, bytes)).await
    }

    async fn gap(&self, timeline: TimelineId, range: OffsetRange, epoch: u32) -> Result<Gap> {
        let name = self.layout.name(&ObjectName::Gap { timeline, range, epoch });
        self.read(&name, |bytes| decode_gap(&name, range, bytes)).await
    }

    async fn bases(&self, catalog: &mut Catalog) -> Result<()> {
        let mut ids = Vec::new();
        let mut see = |info: ObjectInfo| {
            if let Some(ObjectName::BaseManifest(id)) = self.layout.parse(&info.name) {
                ids.push(id);
            }
        };
        self.store.list(&self.layout.bases(), None, false, &mut see).await?;
        ids.sort_unstable();
        let mut read = stream::iter(ids).map(|id| async move { (id.clone(), self.base(id).await) }).buffered(AT_ONCE);
        while let Some((id, base)) = read.next().await {
            match base {
                Ok(base) => catalog.bases.push(base),
                Err(error) => catalog.damaged_bases.push(self.damaged(ObjectName::BaseManifest(id), error)?),
            }
        }
        catalog.bases.sort_by(|a, b| (a.began, &a.id).cmp(&(b.began, &b.id)));
        Ok(())
    }

    async fn base(&self, id: String) -> Result<BaseInfo> {
        let name = self.layout.name(&ObjectName::BaseManifest(id.clone()));
        let info = |bytes: &Bytes| decode_manifest(&name, &self.identity, &id, bytes).map(|manifest| manifest.info());
        self.read(&name, info).await
    }

    /// Reads an object that was listed a moment ago, from a store that has it intact.
    async fn read<T: Send>(&self, name: &str, decode: impl Fn(&Bytes) -> Result<T> + Send + Sync) -> Result<T> {
        let read = intact::read(self.store, name, Part::All, |bytes| ready(decode(&bytes))).await?;
        read.ok_or_else(|| went_away(name))
    }

    /// Reads a part of a tail that was listed a moment ago.
    async fn get(&self, name: &str, part: Part) -> Result<Bytes> {
        self.store.get(name, part).await?.ok_or_else(|| went_away(name))
    }
}

/// Why something cannot be read: it is gone.
#[derive(Debug, thiserror::Error)]
#[error("it was there a moment ago")]
struct WentAway;

/// The error for an object that was listed a moment ago, because of [`WentAway`].
fn went_away(name: &str) -> Error {
    Error::failure(format!("{name} went away while the catalog was read"))
        .because(WentAway)
        .hint("an archiver is at work: run the command again")
}

/// What a segment's footer says.
///
/// # Errors
/// [`Kind::Corruption`] when it is not what was written.
pub async fn summary(store: &dyn Store, name: &str, expected: &Expected) -> Result<Summary> {
    footer(store, name, expected).await.map(|footer| footer.summary)
}

/// A segment's footer.
///
/// # Errors
/// [`Kind::Corruption`] when it is not what was written.
pub async fn footer(store: &dyn Store, name: &str, expected: &Expected) -> Result<Footer> {
    let found = intact::any(store, name, |copy| read_footer_of(copy, name, expected)).await?;
    found.ok_or_else(|| went_away(name))
}

/// A segment's footer in one store.
async fn read_footer_of(store: &dyn Store, name: &str, expected: &Expected) -> Result<Option<Footer>> {
    let mut wanted = FOOTER_BYTES;
    loop {
        let Some(bytes) = store.get(name, Part::Last(wanted)).await? else { return Ok(None) };
        match read_footer(name, expected, &bytes)? {
            FooterRead::Done(footer) => return Ok(Some(*footer)),
            FooterRead::More(more) if more > wanted && bytes.len() as u64 == wanted => wanted = more,
            FooterRead::More(_) => return Err(too_short(name, bytes.len() as u64)),
        }
    }
}
