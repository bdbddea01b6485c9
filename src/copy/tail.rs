//! The open end of a log becomes a segment in the other store.
//!
//! It holds the tail's whole, verified records, under the epoch of the tail's writer. What that log becomes later
//! begins where the tail does and reaches as far or farther, so that it hides this
//! segment, or has its name and the same log. Only what is synced is taken: what a crash may still take back would
//! stand in the other store alone.

use bytes::Bytes;

use crate::catalog::archive::Archive;
use crate::catalog::positions::{end_of, told};
use crate::catalog::{Holder, SegmentInfo, TimelineLog};
use crate::engine::{Axis, Detail, Engine, ScanStart, Scanner};
use crate::error::{Error, Result};
use crate::model::offset::Offset;
use crate::model::summary::Summary;
use crate::model::timeline::TimelineId;
use crate::segment::codec::Compression;
use crate::segment::write::SegmentWriter;

/// The bytes of the segment that a tail of `log` makes.
///
/// # Errors
/// [`crate::Kind::Corruption`] when it is no log any more; the store's.
pub(super) async fn sealed(
    archive: &Archive,
    engine: &dyn Engine,
    timeline: TimelineId,
    log: &TimelineLog,
    tail: &SegmentInfo,
    compression: Compression,
) -> Result<Bytes> {
    let raw = archive.raw(timeline, tail).await?;
    let mut scanner = led(archive, engine, timeline, log, tail.range.start).await?;
    let (mut summary, mut marks) = (Summary::empty(tail.range.start, scanner.boundary()), Vec::new());
    scanner.feed(&raw, &mut marks).map_err(|e| e.context(archive.object_of(timeline, tail)))?;
    marks.into_iter().for_each(|mark| summary.add(mark));
    summary.changes = scanner.take_changes();
    summary.range = tail.range;
    summary.boundary = scanner.boundary();
    summary.position = scanner.position().unwrap_or_else(|| engine.position(tail.range.end));
    summary.confirmed = log.confirmed.filter(|_| log.segments.last() == Some(tail));
    let header = archive.header(timeline, tail.range.start, tail.epoch);
    tokio::task::spawn_blocking(move || {
        let mut writer = SegmentWriter::new(header, compression);
        writer.write(&raw);
        writer.finish(&summary).map(|finished| finished.body.concat().into())
    })
    .await
    .map_err(|e| Error::failure("a thread that compresses died").because(e))?
}

/// Makes segments of an archive's tails, under their writers' epochs, and removes them: for a store that is to keep tails no
/// more. The claim of a later writer must be in it, so that nobody is told any more that a tail is durable.
///
/// # Errors
/// As [`sealed`].
pub(super) async fn seal_all(archive: &Archive, engine: &dyn Engine, compression: Compression) -> Result<()> {
    if archive.store.local_root().is_none() {
        return Ok(());
    }
    let catalog = archive.catalog(engine).await?;
    for (timeline, log) in &catalog.timelines {
        for tail in log.segments.iter().filter(|s| s.holder == Holder::Tail && !s.range.is_empty()) {
            let name = archive.object_of(*timeline, tail);
            archive.store.settle(std::slice::from_ref(&name)).await?;
            let bytes = sealed(archive, engine, *timeline, log, tail, compression).await?;
            let segment = SegmentInfo { holder: Holder::Segment(compression.codec()), ..*tail };
            archive.store.create(&archive.object_of(*timeline, &segment), vec![bytes]).await?;
            archive.store.delete(&name).await?;
        }
    }
    Ok(())
}

/// A scanner at the start of a tail, which has read the record that crosses into it.
async fn led(
    archive: &Archive,
    engine: &dyn Engine,
    timeline: TimelineId,
    log: &TimelineLog,
    start: Offset,
) -> Result<Box<dyn Scanner>> {
    let scanner = |at| engine.scanner(&archive.identity, timeline, at, Detail::Changes);
    let count = log.segments.partition_point(|s| s.range.end <= start);
    let before = log.segments.get(..count).unwrap_or_default();
    let Some(last) = before.last().filter(|last| last.range.end == start) else {
        let on_file = start.0.is_multiple_of(archive.identity.log_file_bytes);
        let mut scanner = scanner(if on_file { ScanStart::LogFile(start) } else { ScanStart::Boundary(start) });
        if engine.axis() == Axis::Archive
            && let Some(position) = told(log, start)
        {
            scanner.set_position(&position)?;
        }
        return Ok(scanner);
    };
    // From where the crossing record begins, if the log reaches back so far.
    let first = before.iter().rposition(|s| s.range.contains(last.boundary));
    let from = match first {
        _ if last.boundary == start => count,
        Some(first) => first,
        None => return Ok(scanner(ScanStart::LogFile(start))),
    };
    let mut scanner = scanner(ScanStart::Boundary(last.boundary));
    if engine.axis() == Axis::Archive
        && let Some(position) = end_of(archive, engine, timeline, log, last).await?
    {
        scanner.set_position(&position)?;
    }
    for segment in before.get(from..).unwrap_or_default() {
        let bytes = archive.raw(timeline, segment).await?;
        let skip = usize::try_from(scanner.offset().since(segment.range.start)).unwrap_or(usize::MAX);
        scanner.feed(bytes.get(skip..).unwrap_or_default(), &mut Vec::new())?;
    }
    // What ended there is told there.
    drop(scanner.take_changes());
    Ok(scanner)
}
