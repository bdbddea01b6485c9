//! Makes ready to go on with a timeline: the scanner is led to the archive's end, and
//! what an earlier writer left in tails is sealed or carried over.

use super::writer::Carried;
use crate::catalog::archive::Archive;
use crate::catalog::fence::Epoch;
use crate::catalog::layout::ObjectName;
use crate::catalog::{Catalog, Holder, SegmentInfo, TimelineLog};
use crate::engine::{Axis, Detail, Engine, ScanStart, Scanner};
use crate::error::{Error, Kind, Result};
use crate::model::offset::Offset;
use crate::model::summary::Summary;
use crate::model::timeline::TimelineId;
use crate::segment::codec::Compression;
use crate::store::ObjectInfo;

#[cfg(test)]
mod tests;

/// Segments that may have been on their way when a writer died, and some more.
const SETTLED: usize = 4;

/// A scanner at the archive's end, and what lies open there.
pub struct Ready {
    /// Stands at `start`.
    pub scanner: Box<dyn Scanner>,
    /// The first byte the archive does not hold.
    pub start: Offset,
    /// The valid bytes of the last tail.
    pub carried: Option<Carried>,
    /// Segments of the log file `start` lies in.
    pub file_segments: Vec<SegmentInfo>,
}

/// What came of making ready.
pub enum Led {
    /// Streaming can go on.
    Ready(Box<Ready>),
    /// A segment whose bytes are needed proved damaged: without it, streaming goes on
    /// elsewhere.
    Damaged(SegmentInfo, Error),
    /// The record that is open at the end began in a segment that an earlier archiver encrypted.
    Sealed(Sealed),
}

/// An end that cannot be read, and what has to be read again because of it.
pub struct Sealed {
    /// In it the last whole record ends.
    pub segment: SegmentInfo,
    /// There.
    pub boundary: Offset,
    /// Segments of the same log file before it.
    pub file_segments: Vec<SegmentInfo>,
}

/// A scanner, or the damaged segment that it had to read.
type Lead = Result<Box<dyn Scanner>, (SegmentInfo, Error)>;

/// Leads a scanner to the end of `timeline` in the archive.
///
/// # Errors
/// From the store.
pub async fn at_end(
    archive: &Archive,
    engine: &dyn Engine,
    catalog: &Catalog,
    timeline: TimelineId,
    epoch: &Epoch,
    compression: Compression,
) -> Result<Led> {
    let Some((log, (count, _))) = catalog.timelines.get(&timeline).and_then(|log| Some((log, log.unbroken()?))) else {
        return Err(Error::failure(format!("timeline {timeline} holds no log to go on from")));
    };
    // Without tails, in the end.
    let mut segments = log.segments.get(..count).unwrap_or_default().to_vec();
    let last = count.saturating_sub(1);
    let mut carried = None;
    for i in 0..count {
        let (before, tail) = segments.split_at(i);
        let Some(tail) = tail.first().copied().filter(|s| s.holder == Holder::Tail) else { continue };
        let scanner = match lead(archive, engine, timeline, log, before, Some(tail.range.start)).await? {
            Ok(scanner) => scanner,
            // What a tail holds may have been acknowledged.
            Err((_, error)) if error.kind() == Kind::WrongKey => return Err(error),
            Err((segment, error)) => return Ok(Led::Damaged(segment, error)),
        };
        let (scanner, mut tail) = read_tail(archive, engine, timeline, &tail, scanner).await?;
        if i == last {
            tail.summary.confirmed = log.confirmed;
            carried = Some((scanner, tail));
        } else {
            archive.create_segment(timeline, &tail.bytes, &tail.summary, epoch.number(), compression).await?;
            if let Some(object) = &tail.tail {
                archive.store.delete(object).await?;
            }
            let holder = Holder::Segment(compression.codec());
            segments[i] = SegmentInfo::of(&tail.summary, epoch.number(), holder);
        }
    }
    let end = segments.last().map(|last| last.range.end);
    if let Some(end) = end {
        let boundary = carried.as_ref().map_or(end, |(scanner, _)| scanner.boundary());
        remove_sealed(archive, timeline, (boundary, end), epoch, log).await?;
    }
    let closed = if carried.is_some() { segments.split_last().map_or(&[][..], |(_, rest)| rest) } else { &segments };
    settle(archive, timeline, closed).await?;
    let (scanner, carried) = match carried {
        Some((scanner, tail)) => (scanner, Some(tail)),
        None => match lead(archive, engine, timeline, log, closed, None).await? {
            Ok(scanner) => (scanner, None),
            Err((segment, error)) if error.kind() == Kind::WrongKey => {
                let file = segment.range.start.floor_to(archive.identity.log_file_bytes);
                let before = closed.iter().filter(|s| s.range.start >= file && s.range.end <= segment.range.start);
                let boundary = closed.last().map_or(segment.boundary, |last| last.boundary);
                return Ok(Led::Sealed(Sealed { segment, boundary, file_segments: before.copied().collect() }));
            }
            Err((segment, error)) => return Ok(Led::Damaged(segment, error)),
        },
    };
    let start = end.unwrap_or_else(|| scanner.offset());
    let (scanner, start, carried) = match carried {
        Some(tail) if scanner.boundary() < tail.start => {
            // The record that is open began before the tail, of which nothing is whole: that goes, and what lies before is
            // gone on with inside the record.
            let scanner = match lead(archive, engine, timeline, log, closed, Some(tail.start)).await? {
                Ok(scanner) => scanner,
                Err((segment, error)) => return Ok(Led::Damaged(segment, error)),
            };
            if let Some(object) = &tail.tail {
                archive.store.delete(object).await?;
            }
            (scanner, tail.start, None)
        }
        Some(tail) if scanner.boundary() < start => {
            let (scanner, tail) = whole_records_only(engine, archive, timeline, scanner.as_ref(), tail)?;
            (scanner, tail.summary.range.end, Some(tail))
        }
        carried => (scanner, start, carried),
    };
    let file = start.floor_to(archive.identity.log_file_bytes);
    let file_segments = closed.iter().filter(|s| s.range.start >= file).copied().collect();
    Ok(Led::Ready(Box::new(Ready { scanner, start, carried, file_segments })))
}

/// The bytes of a tail and what they hold; `scanner` stands at its start.
async fn read_tail(
    archive: &Archive,
    engine: &dyn Engine,
    timeline: TimelineId,
    tail: &SegmentInfo,
    mut scanner: Box<dyn Scanner>,
) -> Result<(Box<dyn Scanner>, Carried)> {
    let bytes = archive.raw(timeline, tail).await?;
    let mut summary = Summary::empty(tail.range.start, scanner.boundary());
    let mut marks = Vec::new();
    scanner.feed(&bytes, &mut marks)?;
    marks.into_iter().for_each(|mark| summary.add(mark));
    summary.changes = scanner.take_changes();
    summary.range = tail.range;
    summary.boundary = scanner.boundary();
    summary.position = scanner.position().unwrap_or_else(|| engine.position(tail.range.end));
    let object = archive.object_of(timeline, tail);
    Ok((scanner, Carried { start: tail.range.start, bytes, summary, tail: Some(object) }))
}

/// Removes tails of earlier writers that begin at or before `end`, where the archive's log ends,
/// and are none of it: what they hold is in segments, or in a longer tail, or nothing.
/// Their writers ended before they removed them. Also one of this writer's that began inside a
/// record, behind `boundary`: that record is to be written elsewhere, and the tail would be taken
/// for where the log before it ends.
async fn remove_sealed(
    archive: &Archive,
    timeline: TimelineId,
    (boundary, end): (Offset, Offset),
    epoch: &Epoch,
    log: &TimelineLog,
) -> Result<()> {
    let counts = |start: Offset, epoch: u32| {
        log.segments.iter().any(|s| s.holder == Holder::Tail && s.range.start == start && s.epoch == epoch)
    };
    let mut sealed = Vec::new();
    let mut see = |object: ObjectInfo| {
        if let Some(ObjectName::Tail { start, epoch: of, .. }) = archive.layout.parse(&object.name)
            && start <= end
            && (of < epoch.number() || of == epoch.number() && start > boundary)
            && !counts(start, of)
        {
            sealed.push(object.name);
        }
    };
    archive.store.list(&archive.layout.timeline(timeline), None, true, &mut see).await?;
    for name in sealed {
        archive.store.delete(&name).await?;
    }
    Ok(())
}

/// Makes sure of the last segments before the server is told of them: whoever made them
/// may have died between their name and its fsync. Where the disk cannot tell, they are written once more.
async fn settle(archive: &Archive, timeline: TimelineId, closed: &[SegmentInfo]) -> Result<()> {
    let last = closed.get(closed.len().saturating_sub(SETTLED)..).unwrap_or_default();
    let names: Vec<String> = last.iter().map(|segment| archive.object_of(timeline, segment)).collect();
    let Err(error) = archive.store.settle(&names).await else { return Ok(()) };
    tracing::warn!(%error, hint = error.advice(), "the archive's last segments are made durable once more");
    for name in &names {
        let Some(bytes) = archive.store.as_stored(name).await? else { return Err(error) };
        archive.store.create(name, vec![bytes]).await?;
    }
    Ok(())
}

/// A tail may end inside a record whose rest never came. What was acknowledged ends
/// before it, so streaming goes on from there.
fn whole_records_only(
    engine: &dyn Engine,
    archive: &Archive,
    timeline: TimelineId,
    scanner: &dyn Scanner,
    mut tail: Carried,
) -> Result<(Box<dyn Scanner>, Carried)> {
    let boundary = scanner.boundary();
    let keep = usize::try_from(boundary.since(tail.start)).unwrap_or(usize::MAX);
    tail.bytes.truncate(keep);
    tail.summary.range.end = boundary;
    tail.summary.position = engine.position(boundary);
    let mut whole = engine.scanner(&archive.identity, timeline, ScanStart::Boundary(boundary), Detail::Changes);
    if let Some(position) = scanner.position() {
        whole.set_position(&position)?;
        tail.summary.position = whole.position().unwrap_or(position);
    }
    Ok((whole, tail))
}

/// A scanner that has read the archive's closed segments as far as needed to go on at
/// their end, which is `next` if given.
async fn lead(
    archive: &Archive,
    engine: &dyn Engine,
    timeline: TimelineId,
    log: &TimelineLog,
    closed: &[SegmentInfo],
    next: Option<Offset>,
) -> Result<Lead> {
    let counted = engine.axis() == Axis::Archive;
    let last = closed.last().filter(|last| next.is_none_or(|next| next == last.range.end));
    let position = match last {
        Some(last) if counted => match archive.summary(timeline, last).await {
            Ok(summary) => Some(summary.position),
            Err(error) if error.kind() == Kind::Corruption => return Ok(Err((*last, error))),
            Err(error) => return Err(error),
        },
        None if counted => next.and_then(|next| crate::catalog::positions::told(log, next)),
        _ => None,
    };
    let scanner = |start| {
        let mut scanner = engine.scanner(&archive.identity, timeline, start, Detail::Changes);
        position.as_ref().map_or(Ok(()), |position| scanner.set_position(position))?;
        Ok::<_, Error>(scanner)
    };
    let Some(last) = last else {
        let start = next.ok_or_else(|| Error::failure(format!("timeline {timeline} holds no log to go on from")))?;
        return Ok(Ok(scanner(ScanStart::LogFile(start))?));
    };
    let boundary = last.boundary;
    if boundary == last.range.end {
        return Ok(Ok(scanner(ScanStart::Boundary(boundary))?));
    }
    // The record that crosses the end began at `boundary`, perhaps some segments before.
    let from = closed.iter().rposition(|s| s.range.contains(boundary)).unwrap_or(closed.len() - 1);
    let mut scanner = match closed.get(from) {
        Some(segment) if segment.range.contains(boundary) => scanner(ScanStart::Boundary(boundary)),
        Some(segment) => scanner(ScanStart::LogFile(segment.range.start)),
        None => scanner(ScanStart::Boundary(boundary)),
    }?;
    let mut marks = Vec::new();
    for segment in closed.get(from..).unwrap_or_default() {
        let bytes = match archive.raw(timeline, segment).await {
            Err(error) if error.kind() == Kind::Corruption && segment.holder != Holder::Tail => {
                return Ok(Err((*segment, error)));
            }
            // What has to come again begins where the record does.
            Err(error) if error.kind() == Kind::WrongKey => {
                return Ok(Err((*closed.get(from).unwrap_or(segment), error)));
            }
            bytes => bytes?,
        };
        let skip = usize::try_from(scanner.offset().since(segment.range.start)).unwrap_or(usize::MAX);
        scanner.feed(bytes.get(skip..).unwrap_or_default(), &mut marks)?;
    }
    // What ended there has been told there.
    drop(scanner.take_changes());
    Ok(Ok(scanner))
}
