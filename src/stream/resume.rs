//! Makes ready to go on with a timeline: the scanner is led to the archive's end, and
//! what an earlier writer left in tails is sealed or carried over.

use super::writer::Carried;
use crate::catalog::archive::Archive;
use crate::catalog::fence::Epoch;
use crate::catalog::layout::ObjectName;
use crate::catalog::{Catalog, Holder, SegmentInfo};
use crate::engine::{Detail, Engine, ScanStart, Scanner};
use crate::error::{Error, Result};
use crate::model::offset::Offset;
use crate::model::summary::Summary;
use crate::model::timeline::TimelineId;
use crate::segment::codec::Compression;
use crate::store::ObjectInfo;

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

/// Leads a scanner to the end of `timeline` in the archive.
///
/// # Errors
/// [`crate::Kind::Corruption`] when the last segments are not what was written.
pub async fn at_end(
    archive: &Archive,
    engine: &dyn Engine,
    catalog: &Catalog,
    timeline: TimelineId,
    epoch: &Epoch,
    compression: Compression,
) -> Result<Ready> {
    let segments = catalog.timelines.get(&timeline).map(|log| log.segments.as_slice()).unwrap_or_default();
    let closed = segments.iter().rposition(|s| s.holder != Holder::Tail).map_or(0, |last| last + 1);
    let (closed, tails) = segments.split_at(closed);
    let mut scanner = lead(archive, engine, timeline, closed, tails.first().map(|tail| tail.range.start)).await?;
    if let Some(last) = closed.last() {
        remove_sealed(archive, timeline, last.range.end, epoch).await?;
    }
    let mut carried = None;
    for (i, tail) in tails.iter().enumerate() {
        let bytes = archive.raw(timeline, tail).await?;
        let mut summary = Summary::empty(tail.range.start, scanner.boundary());
        let mut marks = Vec::new();
        scanner.feed(&bytes, &mut marks)?;
        marks.iter().for_each(|mark| summary.add(mark));
        summary.range = tail.range;
        summary.boundary = scanner.boundary();
        summary.position = engine.position(tail.range.end);
        let object = archive.object_of(timeline, tail);
        if i + 1 < tails.len() {
            archive.create_segment(timeline, &bytes, &summary, epoch.number(), compression).await?;
            archive.store.delete(&object).await?;
        } else {
            let confirmed = catalog.timelines.get(&timeline).and_then(|log| log.confirmed);
            carried = Some(Carried { start: tail.range.start, bytes, summary, object, confirmed });
        }
    }
    let start = segments.last().map_or(scanner.offset(), |last| last.range.end);
    let file = start.floor_to(archive.identity.log_file_bytes);
    let file_segments = closed.iter().filter(|s| s.range.start >= file).copied().collect();
    if let Some(tail) = &carried
        && scanner.boundary() < start
    {
        return Ok(whole_records_only(engine, archive, timeline, scanner.as_ref(), tail, file_segments));
    }
    Ok(Ready { scanner, start, carried, file_segments })
}

/// Removes tails of earlier writers that begin before `closed`, the end of the closed
/// segments: they became segments, and their writer died before it removed them.
async fn remove_sealed(archive: &Archive, timeline: TimelineId, closed: Offset, epoch: &Epoch) -> Result<()> {
    let mut sealed = Vec::new();
    let mut see = |object: ObjectInfo| {
        if let Some(ObjectName::Tail { start, epoch: of, .. }) = archive.layout.parse(&object.name)
            && start < closed
            && of < epoch.number()
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

/// A tail may end inside a record whose rest never came. What was acknowledged ends
/// before it, so streaming goes on from there.
fn whole_records_only(
    engine: &dyn Engine,
    archive: &Archive,
    timeline: TimelineId,
    scanner: &dyn Scanner,
    tail: &Carried,
    file_segments: Vec<SegmentInfo>,
) -> Ready {
    let boundary = scanner.boundary().max(tail.start);
    let keep = usize::try_from(boundary.since(tail.start)).unwrap_or(usize::MAX);
    let bytes = tail.bytes.slice(..keep.min(tail.bytes.len()));
    let mut summary = tail.summary.clone();
    summary.range.end = boundary;
    summary.position = engine.position(boundary);
    let scanner = engine.scanner(&archive.identity, timeline, ScanStart::Boundary(boundary), Detail::Marks);
    let carried =
        Some(Carried { start: tail.start, bytes, summary, object: tail.object.clone(), confirmed: tail.confirmed });
    Ready { scanner, start: boundary, carried, file_segments }
}

/// A scanner that has read the archive's closed segments as far as needed to go on at
/// their end, which is `next` if given.
async fn lead(
    archive: &Archive,
    engine: &dyn Engine,
    timeline: TimelineId,
    closed: &[SegmentInfo],
    next: Option<Offset>,
) -> Result<Box<dyn Scanner>> {
    let scanner = |start| engine.scanner(&archive.identity, timeline, start, Detail::Marks);
    let last = closed.last().filter(|last| next.is_none_or(|next| next == last.range.end));
    let Some(last) = last else {
        let start = next.ok_or_else(|| Error::failure(format!("timeline {timeline} holds no log to go on from")))?;
        return Ok(scanner(ScanStart::LogFile(start)));
    };
    let boundary = last.boundary;
    if boundary == last.range.end {
        return Ok(scanner(ScanStart::Boundary(boundary)));
    }
    // The record that crosses the end began at `boundary`, perhaps some segments before.
    let from = closed.iter().rposition(|s| s.range.contains(boundary)).unwrap_or(closed.len() - 1);
    let mut scanner = match closed.get(from) {
        Some(segment) if segment.range.contains(boundary) => scanner(ScanStart::Boundary(boundary)),
        Some(segment) => scanner(ScanStart::LogFile(segment.range.start)),
        None => scanner(ScanStart::Boundary(boundary)),
    };
    let mut marks = Vec::new();
    for segment in closed.get(from..).unwrap_or_default() {
        let bytes = archive.raw(timeline, segment).await?;
        let skip = usize::try_from(scanner.offset().since(segment.range.start)).unwrap_or(usize::MAX);
        scanner.feed(bytes.get(skip..).unwrap_or_default(), &mut marks)?;
    }
    Ok(scanner)
}
