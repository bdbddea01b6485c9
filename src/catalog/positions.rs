//! Where pieces of the log lie in the engine's words, where offsets do not tell
//! ([`Axis::Archive`](crate::engine::Axis::Archive)).

use super::archive::Archive;
use super::{Holder, SegmentInfo, TimelineLog};
use crate::engine::{Detail, Engine, ScanStart, Scanner};
use crate::error::Result;
use crate::model::mark::Mark;
use crate::model::offset::Offset;
use crate::model::position::Position;
use crate::model::timeline::{History, TimelineId};

/// Where a timeline without ancestors begins: not at 0, which stands for nothing at all.
pub const FIRST_OFFSET: Offset = Offset(1 << 24);

/// Where a timeline's own log begins.
#[must_use]
pub fn beginning(history: &History) -> Offset {
    history.ancestors.last().map_or(FIRST_OFFSET, |parent| parent.switch)
}

/// Where a timeline's log goes on, if nothing but the end of a gap or the beginning of the
/// timeline tells.
#[must_use]
pub fn told(log: &TimelineLog, at: Offset) -> Option<Position> {
    let gap = log.gaps.iter().find(|gap| gap.range.end == at).and_then(|gap| gap.position.clone());
    gap.or_else(|| {
        let history = log.history.as_ref()?;
        (beginning(history) == at).then(|| Position(history.native.clone()))
    })
}

/// Where a segment begins, if that is known.
///
/// # Errors
/// From the store.
pub async fn start_of(
    archive: &Archive,
    timeline: TimelineId,
    log: &TimelineLog,
    segment: &SegmentInfo,
) -> Result<Option<Position>> {
    match log.segments.iter().rfind(|before| before.range.end == segment.range.start) {
        Some(before) => Ok(Some(archive.summary(timeline, before).await?.position)),
        None => Ok(told(log, segment.range.start)),
    }
}

/// Where a segment ends, if that is known.
///
/// # Errors
/// From the store; [`crate::Kind::Corruption`] for a tail that is none.
pub async fn end_of(
    archive: &Archive,
    engine: &dyn Engine,
    timeline: TimelineId,
    log: &TimelineLog,
    segment: &SegmentInfo,
) -> Result<Option<Position>> {
    if segment.holder != Holder::Tail {
        return Ok(Some(archive.summary(timeline, segment).await?.position));
    }
    let start = start_of(archive, timeline, log, segment).await?;
    Ok(scan(archive, engine, timeline, log, segment, start.as_ref(), &mut Vec::new()).await?.position())
}

/// Where a timeline's log ends, if that is known.
///
/// # Errors
/// As [`end_of`].
pub async fn end_of_log(
    archive: &Archive,
    engine: &dyn Engine,
    timeline: TimelineId,
    log: &TimelineLog,
) -> Result<Option<Position>> {
    match log.segments.last() {
        Some(last) => end_of(archive, engine, timeline, log, last).await,
        None => Ok(None),
    }
}

/// A scanner that has read a segment, before which lies `start`.
///
/// # Errors
/// From the store; [`crate::Kind::Corruption`] for bytes that are no log.
pub async fn scan(
    archive: &Archive,
    engine: &dyn Engine,
    timeline: TimelineId,
    log: &TimelineLog,
    segment: &SegmentInfo,
    start: Option<&Position>,
    marks: &mut Vec<Mark>,
) -> Result<Box<dyn Scanner>> {
    let (mut scanner, pieces) = begin(archive, engine, timeline, log, segment, start).await?;
    for piece in pieces {
        scanner.feed(&piece, marks)?;
    }
    Ok(scanner)
}

/// A scanner at the last boundary before a segment, and the bytes from there to its end.
///
/// # Errors
/// As [`scan`].
pub async fn begin(
    archive: &Archive,
    engine: &dyn Engine,
    timeline: TimelineId,
    log: &TimelineLog,
    segment: &SegmentInfo,
    start: Option<&Position>,
) -> Result<(Box<dyn Scanner>, Vec<bytes::Bytes>)> {
    let before = log.segments.iter().rfind(|before| before.range.end == segment.range.start);
    let boundary = before.map_or(segment.range.start, |before| before.boundary);
    let mut scanner = engine.scanner(&archive.identity, timeline, ScanStart::Boundary(boundary), Detail::Marks);
    if let Some(start) = start {
        scanner.set_position(start)?;
    }
    // What began before the segment is read from there.
    let from = log.segments.partition_point(|s| s.range.end <= boundary);
    let (mut pieces, mut at) = (Vec::new(), boundary);
    for segment in log.segments.iter().skip(from).take_while(|s| s.range.start <= segment.range.start) {
        let bytes = archive.raw(timeline, segment).await?;
        let skip = usize::try_from(at.since(segment.range.start)).unwrap_or(usize::MAX).min(bytes.len());
        pieces.push(bytes.slice(skip..));
        at = segment.range.end;
    }
    Ok((scanner, pieces))
}
