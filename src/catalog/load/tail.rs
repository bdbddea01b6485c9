//! The open end of a log on a local store.
//!
//! A tail is raw log from its `start` on, perhaps with zeros up to the file's end and,
//! after a crash, with a torn record before them. Nothing in the file tells where the
//! log ends: the records' own checksums do. So a scanner reads it, and the end of the
//! last whole record is the end of what the tail holds. Up to when that is complete a
//! [trailer](crate::segment::trailer) tells. A record that began before the
//! tail is read from where it began, in the segments before.
//!
//! A tail whose bytes closed segments hold has become a segment, and a crash came before
//! it was removed. Any other counts, also one between segments: a crash may come when a
//! later segment is there already, and in a spool that is so whenever a segment on its way to the store
//! is in memory while those behind it wait. Of several with one start the longest counts, then the
//! highest epoch.

use super::Loader;
use crate::catalog::damage::Damaged;
use crate::catalog::{Holder, SegmentInfo, TimelineLog};
use crate::engine::{ScanStart, Scanner};
use crate::error::{Error, Kind, Result};
use crate::model::mark::Mark;
use crate::model::offset::{Offset, OffsetRange};
use crate::model::summary::Summary;
use crate::model::timeline::TimelineId;
use crate::segment::cutter::NO_FILES;
use crate::segment::read::{Expected, decode_to_vec};
use crate::segment::trailer::{Finder, Trailer};
use crate::store::Part;

/// Bytes read from a tail at a time.
const PIECE: u64 = 1 << 20;

/// A tail, as its name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NamedTail {
    pub(super) start: Offset,
    pub(super) epoch: u32,
    /// Size of its file: it holds no more than that.
    pub(super) bytes: u64,
}

impl NamedTail {
    fn info(self) -> SegmentInfo {
        let empty = Summary::empty(self.start, self.start);
        SegmentInfo::of(&empty, self.epoch, Holder::Tail)
    }
}

/// Whether a tail begins where a damaged segment ended, and no other leads there.
fn is_behind_damage(log: &TimelineLog, tail: Offset) -> bool {
    log.damaged.iter().filter_map(Damaged::log).any(|range| range.end == tail)
        && !log.segments.iter().any(|segment| segment.range.end == tail)
}

impl Loader<'_> {
    /// Adds what the tails hold to the log.
    pub(super) async fn tails(
        &self,
        timeline: TimelineId,
        mut tails: Vec<NamedTail>,
        log: &mut TimelineLog,
    ) -> Result<()> {
        tails.sort_unstable();
        // In order, since the record that crosses into a tail begins in the one before.
        for same_start in tails.chunk_by(|a, b| a.start == b.start) {
            let mut best: Option<(NamedTail, Summary)> = None;
            for &tail in same_start {
                if log.holds(OffsetRange::new(tail.start, Offset(tail.start.0.saturating_add(tail.bytes)))) {
                    continue;
                }
                // A writer opens the next tail only once this one is full and synced.
                let next = tails.iter().map(|next| next.start).find(|start| *start > tail.start);
                let summary = self.scan(timeline, tail, next, log).await?;
                log.confirmed = log.confirmed.max(summary.confirmed);
                if best
                    .as_ref()
                    .is_none_or(|(known, best)| (best.range.end, known.epoch) <= (summary.range.end, tail.epoch))
                {
                    best = Some((tail, summary));
                }
            }
            let Some((tail, mut summary)) = best.filter(|(_, summary)| !log.holds(summary.range)) else { continue };
            // Where a closed segment goes on, it holds the rest. One of the same writer's was begun when the tail was full and
            // synced: that reaches to there, though the last record in it may end behind.
            let goes_on = log.segments.iter().find(|s| s.range.start > tail.start && s.range.end > summary.range.end);
            let is_end = |next: &SegmentInfo| {
                let file = OffsetRange::new(tail.start, Offset(tail.start.0.saturating_add(tail.bytes)));
                let is_full = next.epoch == tail.epoch && next.range.start <= file.end;
                next.range.start < summary.range.end || next.range.start > summary.range.end && is_full
            };
            if let Some(next) = goes_on.filter(|next| is_end(next)).map(|next| next.range.start) {
                summary = self.scan(timeline, tail, Some(next), log).await?;
            }
            self.add_tail(timeline, summary, tail.epoch, log)?;
        }
        Ok(())
    }

    /// Puts a tail in its place, instead of closed segments that hold less of the same.
    fn add_tail(&self, timeline: TimelineId, summary: Summary, epoch: u32, log: &mut TimelineLog) -> Result<()> {
        let info = SegmentInfo::of(&summary, epoch, Holder::Tail);
        if log.holds(info.range) {
            return Ok(());
        }
        let first = log.segments.partition_point(|s| s.range.start < info.range.start);
        if let Some(last) = first.checked_sub(1).and_then(|last| log.segments.get(last))
            && info.range.start < last.range.end
        {
            let name = |info: &SegmentInfo| self.layout.name(&info.object(timeline));
            return Err(Error::corruption(format!(
                "{} and {} overlap, and neither holds all of the other",
                name(last),
                name(&info)
            ))
            .hint("did two archivers write here? see `pitr status`"));
        }
        let behind = log.segments.partition_point(|s| s.range.start < info.range.end);
        log.segments.splice(first..behind, [info]);
        log.restore_points.extend(summary.restore_points);
        Ok(())
    }

    /// What the tail holds: up to its last whole record or, if `next` is where the log is
    /// known to go on, up to there.
    async fn scan(
        &self,
        timeline: TimelineId,
        tail: NamedTail,
        next: Option<Offset>,
        log: &mut TimelineLog,
    ) -> Result<Summary> {
        let most = next.map_or(u64::MAX, |next| next.since(tail.start));
        let (mut summary, trailer) = self.scan_bytes(timeline, tail, most, log).await?;
        if let Some((_, before)) = trailer
            && summary.boundary.since(tail.start) > before
        {
            // What a log switch left unused may be anything, even our own trailer; but
            // behind that there is no log yet.
            (summary, _) = self.scan_bytes(timeline, tail, before, log).await?;
            summary.range.end = summary.boundary.max(tail.start);
        }
        let trailer = trailer.filter(|(trailer, _)| trailer.boundary <= summary.boundary);
        summary.confirmed = trailer.map(|(trailer, _)| trailer.confirmed);
        Ok(summary)
    }

    /// What the first `most` bytes of the tail hold, up to the last whole record or, if
    /// all of them are sound and there are so many, all of them. With the trailer, which
    /// may lie behind them.
    async fn scan_bytes(
        &self,
        timeline: TimelineId,
        tail: NamedTail,
        most: u64,
        log: &mut TimelineLog,
    ) -> Result<(Summary, Option<(Trailer, u64)>)> {
        let mut scanner = self.primed(timeline, tail.start, log).await?;
        let mut summary = Summary::empty(tail.start, scanner.boundary());
        let name = self.layout.name(&tail.info().object(timeline));
        let mut marks = Vec::new();
        let mut at = 0;
        let mut sound = true;
        let mut finder = Finder::default();
        loop {
            let piece = self.get(&name, Part::Range { start: at, len: PIECE }).await?;
            if piece.is_empty() {
                break;
            }
            let more_than_zeros = finder.feed(&piece);
            if !sound && !more_than_zeros {
                // Behind the log and its trailer. A file is read at each look at the archive.
                break;
            }
            let wanted = usize::try_from(most.saturating_sub(at)).unwrap_or(usize::MAX).min(piece.len());
            at += piece.len() as u64;
            if !sound {
                continue;
            }
            let fed = scanner.feed(piece.get(..wanted).unwrap_or_default(), &mut marks);
            marks.drain(..).for_each(|mark| summary.add(mark));
            match fed {
                Ok(()) => {}
                // Zeros or a torn record: the log ended before.
                Err(e) if e.kind() == Kind::Corruption => sound = false,
                Err(e) => return Err(e),
            }
        }
        summary.boundary = scanner.boundary();
        summary.range.end = if sound && at >= most {
            Offset(tail.start.0.saturating_add(most))
        } else {
            summary.boundary.max(tail.start)
        };
        Ok((summary, finder.trailer(tail.start)))
    }

    /// A scanner that has read what lies before a tail, as far as needed. A segment that proves
    /// damaged is set aside, and the record that crosses into the tail goes unchecked.
    async fn primed(&self, timeline: TimelineId, tail: Offset, log: &mut TimelineLog) -> Result<Box<dyn Scanner>> {
        let before = log.segments.partition_point(|s| s.range.start < tail);
        let (start, before) = self.scan_start(tail, log.segments.get(..before).unwrap_or_default());
        let mut scanner = (self.tail_scanner)(&self.identity, timeline, start)?;
        for info in before.iter().copied() {
            match self.prime(timeline, &info, tail, scanner.as_mut()).await {
                Ok(()) => {}
                Err(error) if matches!(info.holder, Holder::Segment(_)) => {
                    log.set_aside(&info, self.damaged(info.object(timeline), error)?);
                    return (self.tail_scanner)(&self.identity, timeline, ScanStart::LogFile(tail));
                }
                Err(error) => return Err(error),
            }
        }
        if is_behind_damage(log, tail) {
            return (self.tail_scanner)(&self.identity, timeline, ScanStart::LogFile(tail));
        }
        Ok(scanner)
    }

    /// Where to begin so that the first record that ends in the tail is read whole, and
    /// the segments to read before the tail.
    fn scan_start<'s>(&self, tail: Offset, segments: &'s [SegmentInfo]) -> (ScanStart, &'s [SegmentInfo]) {
        let file_bytes = self.identity.log_file_bytes.max(1);
        let on_file = |at: Offset| file_bytes != NO_FILES && at.floor_to(file_bytes) == at;
        let Some(last) = segments.last().filter(|last| last.range.end == tail) else {
            return (if on_file(tail) { ScanStart::LogFile(tail) } else { ScanStart::Boundary(tail) }, &[]);
        };
        if last.boundary == tail {
            return (ScanStart::Boundary(tail), &[]);
        }
        let mut next = tail;
        for (index, info) in segments.iter().enumerate().rev() {
            if info.range.end != next {
                break;
            }
            let before = segments.get(index..).unwrap_or_default();
            if info.range.start <= last.boundary {
                return (ScanStart::Boundary(last.boundary), before);
            }
            if on_file(info.range.start) {
                return (ScanStart::LogFile(info.range.start), before);
            }
            next = info.range.start;
        }
        (if on_file(tail) { ScanStart::LogFile(tail) } else { ScanStart::Boundary(tail) }, &[])
    }

    /// Feeds the bytes of a segment from where the scanner stands.
    async fn prime(
        &self,
        timeline: TimelineId,
        info: &SegmentInfo,
        until: Offset,
        scanner: &mut dyn Scanner,
    ) -> Result<()> {
        let name = self.layout.name(&info.object(timeline));
        let mut ignored: Vec<Mark> = Vec::new();
        if info.holder == Holder::Tail {
            let range = OffsetRange::new(scanner.offset(), until.min(info.range.end));
            let part = Part::Range { start: range.start.since(info.range.start), len: range.len() };
            let bytes = self.get(&name, part).await?;
            return scanner.feed(&bytes, &mut ignored);
        }
        let expected =
            Expected { cluster: self.layout.cluster().clone(), timeline, range: info.range, epoch: info.epoch };
        let raw = self.read(&name, |object| decode_to_vec(&name, &expected, object).map(|(_, raw)| raw)).await?;
        let skip = usize::try_from(scanner.offset().since(info.range.start)).unwrap_or(usize::MAX);
        scanner.feed(raw.get(skip..).unwrap_or_default(), &mut ignored)
    }
}
