//! One of the server's own log files, put together from the archive.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use bytes::Bytes;

use super::temporary::Temporary;
use crate::catalog::archive::Archive;
use crate::catalog::layout::ObjectName;
use crate::catalog::load::Known;
use crate::catalog::{Holder, SegmentInfo};
use crate::engine::Engine;
use crate::error::{Error, Kind, Result};
use crate::model::offset::{Offset, OffsetRange};
use crate::model::timeline::TimelineId;
use crate::segment::trailer::Finder;

#[cfg(test)]
mod tests;

/// What the archive holds of one timeline, by object names alone: no footer is read, for
/// a server waits for each file. Only of two tails that begin at one offset the log is read.
pub struct TimelineFiles {
    archive: Archive,
    timeline: TimelineId,
    /// Where the timeline left its parent, if it has one.
    begins: Option<Offset>,
    /// By start, then widest first.
    segments: Vec<SegmentInfo>,
    /// Log that is known to be missing.
    gaps: Vec<OffsetRange>,
}

/// What the names of all segments that begin in a range have in common.
fn common_beginning(range: OffsetRange) -> String {
    let (first, last) = (range.start.to_string(), Offset(range.end.0.saturating_sub(1)).to_string());
    first.chars().zip(last.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
}

/// How much of a log file the archive holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holding {
    /// All of it.
    Whole(Vec<SegmentInfo>),
    /// Its beginning, up to the archive's end on this timeline.
    Beginning(Vec<SegmentInfo>),
    /// Nothing, and nothing says that the timeline has such log: there is none behind it
    /// either, or the timeline begins later.
    Nothing,
    /// Bytes are missing from here on, though the timeline goes on behind them.
    Hole(Offset),
}

impl TimelineFiles {
    /// Lists what the archive holds of `timeline`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn list(archive: &Archive, engine: &dyn Engine, timeline: TimelineId) -> Result<Self> {
        Self::list_from(archive, engine, timeline, "").await
    }

    /// Lists what is enough to say what the archive holds of `range`. A bucket gives a thousand names at a
    /// time: of a long archive only those are asked for that begin like the range's. They do unless the archive lacks some of it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn around(
        archive: &Archive,
        engine: &dyn Engine,
        timeline: TimelineId,
        range: OffsetRange,
    ) -> Result<Self> {
        // Tails have names that begin otherwise.
        if archive.store.local_root().is_none() {
            let near = Self::list_from(archive, engine, timeline, &common_beginning(range)).await?;
            if matches!(near.holding(range), Holding::Whole(_)) {
                return Ok(near);
            }
        }
        Self::list(archive, engine, timeline).await
    }

    /// Of names that begin so.
    async fn list_from(archive: &Archive, engine: &dyn Engine, timeline: TimelineId, beginning: &str) -> Result<Self> {
        let (mut segments, mut gaps) = (Vec::new(), Vec::new());
        let tail_bytes = archive.identity.log_file_bytes;
        let mut see = |object: crate::store::ObjectInfo| match archive.layout.parse(&object.name) {
            Some(ObjectName::Segment { range, epoch, codec, .. }) => {
                segments.push(by_name(range, epoch, Holder::Segment(codec)));
            }
            Some(ObjectName::Tail { start, epoch, .. }) => {
                let end = Offset(start.0 + object.bytes.min(tail_bytes));
                segments.push(by_name(OffsetRange::new(start, end), epoch, Holder::Tail));
            }
            Some(ObjectName::Gap { range, .. }) => gaps.push(range),
            _ => {}
        };
        let prefix = format!("{}{beginning}", archive.layout.timeline(timeline));
        archive.store.list(&prefix, None, true, &mut see).await?;
        if has_twins(&segments) {
            let log = archive.timeline_log(engine, timeline, &Known::new()).await?;
            drop_twins(&mut segments, &log.segments);
        }
        end_tails_where_log_goes_on(&mut segments);
        // Closed segments before tails, so that a sealed tail never hides its segment.
        segments.sort_by_key(|s| (s.range.start, s.holder == Holder::Tail, std::cmp::Reverse((s.range.end, s.epoch))));
        let history = archive.history(timeline).await?;
        let begins = history.and_then(|history| history.ancestors.last().map(|parent| parent.switch));
        Ok(Self { archive: archive.clone(), timeline, begins, segments, gaps })
    }

    /// Whether there is any closed segment.
    #[must_use]
    pub fn holds_segments(&self) -> bool {
        self.segments.iter().any(|s| s.holder != Holder::Tail)
    }

    /// What the archive holds of a range.
    #[must_use]
    pub fn holding(&self, range: OffsetRange) -> Holding {
        let mut parts: Vec<SegmentInfo> = Vec::new();
        let mut at = range.start;
        let mut open = false;
        while at < range.end && !open {
            let here = self.segments.iter().filter(|s| s.range.contains(at));
            let best = here.max_by_key(|s| (s.holder != Holder::Tail, s.range.end, s.epoch));
            let Some(best) = best else { break };
            parts.push(*best);
            at = best.range.end;
            open = best.holder == Holder::Tail && !self.goes_on_behind(best);
        }
        let more = self.segments.iter().any(|s| s.range.start >= at && s.range.start >= range.start);
        let begun = self.begins.is_some_and(|begins| begins < range.end);
        let before = begun || self.segments.iter().any(|s| s.range.end <= range.start);
        match (parts.is_empty(), more) {
            _ if at >= range.end && !open => Holding::Whole(parts),
            (false, false) => Holding::Beginning(parts),
            (false, true) => Holding::Hole(at),
            (true, true) if before => Holding::Hole(at),
            (true, _) => Holding::Nothing,
        }
    }

    /// Whether another piece begins right where this one ends. A tail of which that is true
    /// is full: a writer opens the next one only then. Not where a gap was recorded in it.
    fn goes_on_behind(&self, part: &SegmentInfo) -> bool {
        self.segments.iter().any(|s| s.range.start == part.range.end)
            && !self.gaps.iter().any(|gap| gap.intersection(part.range).is_some())
    }

    /// Writes `range` to `path`, verified, as a file of exactly `range`'s length: what lies
    /// at or behind `until`, and what the archive does not hold at its end, is zeros.
    /// Complete under its name or not there: `false` when the pieces hold no log, as a tail
    /// does that was just begun.
    ///
    /// # Errors
    /// [`Kind::Corruption`] when a segment is damaged; otherwise what the disk said.
    pub async fn write(&self, range: OffsetRange, until: Offset, parts: &[SegmentInfo], path: &Path) -> Result<bool> {
        let temporary = Temporary::beside(path)?;
        let written = self.write_to(range, until, parts, temporary.file()).await;
        if !written.map_err(|e| e.context(path.display()))? {
            return Ok(false);
        }
        temporary.rename(path).map(|()| true)
    }

    /// The bytes of a piece, verified. Where they are damaged, those of another segment that
    /// holds the same log: what was damaged once may have been archived again.
    async fn raw(&self, part: &SegmentInfo) -> Result<Bytes> {
        let error = match self.archive.raw(self.timeline, part).await {
            Err(error) if error.kind() == Kind::Corruption && part.holder != Holder::Tail => error,
            read => return read,
        };
        let others = self.segments.iter().filter(|s| s.holder != Holder::Tail && *s != part);
        for other in others.filter(|s| s.range.covers(part.range)) {
            if let Ok(bytes) = self.archive.raw(self.timeline, other).await {
                tracing::warn!(%error, "the same log is read from another segment");
                return Ok(bytes.slice(part.range.within(other.range.start)));
            }
        }
        Err(error)
    }

    /// The log of a tail that is full. Such a one has no trailer: where there is one after
    /// all, the log ends before it, and what begins behind the tail does not follow.
    fn full(&self, part: &SegmentInfo, bytes: Bytes) -> Result<Bytes> {
        let log = without_trailer(part.range.start, bytes.clone());
        if log.len() == bytes.len() {
            return Ok(bytes);
        }
        let name = self.archive.object_of(self.timeline, part);
        let end = Offset(part.range.start.0 + log.len() as u64);
        Err(Error::new(Kind::NotRecoverable, format!("the log in {name} ends at {end}, though there is log behind it")))
    }

    async fn write_to(&self, range: OffsetRange, until: Offset, parts: &[SegmentInfo], file: &File) -> Result<bool> {
        let mut any = false;
        let held = OffsetRange::new(range.start, range.end.min(until));
        let failed = |e: std::io::Error| Error::failure("cannot be written").because(e);
        let mut out = BufWriter::with_capacity(1 << 20, file);
        for part in parts {
            let bytes = self.raw(part).await?;
            let Some(wanted) = held.intersection(part.range) else { continue };
            let bytes = match part.holder {
                Holder::Segment(_) => bytes,
                Holder::Tail if self.goes_on_behind(part) => self.full(part, bytes)?,
                Holder::Tail => without_trailer(part.range.start, bytes),
            };
            let std::ops::Range { start, end } = wanted.within(part.range.start);
            let bytes = bytes.get(start..end.min(bytes.len())).unwrap_or_default();
            any = any || bytes.iter().any(|byte| *byte != 0);
            out.write_all(bytes).map_err(failed)?;
        }
        out.flush().map_err(failed)?;
        file.set_len(range.len()).map_err(failed)?;
        file.sync_data().map_err(failed)?;
        Ok(any)
    }
}

/// Whether two tails begin at one offset, as they do while a writer takes over from one that died, and when that dies too. Their
/// names do not tell which of them holds the log.
fn has_twins(all: &[SegmentInfo]) -> bool {
    all.iter().filter(|s| s.holder == Holder::Tail).any(|s| all.iter().any(|other| is_twin(s, other)))
}

fn is_twin(a: &SegmentInfo, b: &SegmentInfo) -> bool {
    (a.holder, b.holder) == (Holder::Tail, Holder::Tail) && a.range.start == b.range.start && a.epoch != b.epoch
}

/// Drops those tails of one start of which another one `counts`.
fn drop_twins(all: &mut Vec<SegmentInfo>, counts: &[SegmentInfo]) {
    all.retain(|s| s.holder != Holder::Tail || !counts.iter().any(|one| is_twin(s, one)));
}

/// The file of a tail may be longer than its log will ever be: that ends where another tail
/// begins, or a closed segment that holds the rest.
fn end_tails_where_log_goes_on(all: &mut [SegmentInfo]) {
    let known = all.to_vec();
    for tail in all.iter_mut().filter(|s| s.holder == Holder::Tail) {
        let goes_on = |s: &&SegmentInfo| {
            tail.range.contains(s.range.start)
                && s.range.start > tail.range.start
                && (s.holder == Holder::Tail || s.range.end >= tail.range.end)
        };
        tail.range.end = known.iter().filter(goes_on).map(|s| s.range.start).min().unwrap_or(tail.range.end);
    }
}

/// The log of a tail that is open and begins at `start`.
fn without_trailer(start: Offset, tail: Bytes) -> Bytes {
    let mut finder = Finder::default();
    finder.feed(&tail);
    match finder.trailer(start) {
        Some((_, before)) => tail.slice(..usize::try_from(before).unwrap_or(usize::MAX).min(tail.len())),
        None => tail,
    }
}

/// A segment of which only the name is known.
fn by_name(range: OffsetRange, epoch: u32, holder: Holder) -> SegmentInfo {
    SegmentInfo { range, boundary: range.end, epoch, transactions: 0, times: None, ids: None, holder }
}

/// Whether the archive holds any log at all, of whatever timeline.
///
/// # Errors
/// When the store cannot be read.
pub async fn holds_log(archive: &Archive) -> Result<bool> {
    for folder in archive.store.folders(&archive.layout.log()).await? {
        let mut found = false;
        let mut see = |object: crate::store::ObjectInfo| {
            let name = archive.layout.parse(&object.name);
            found |= matches!(name, Some(ObjectName::Segment { .. } | ObjectName::Tail { .. }));
        };
        archive.store.list(&folder, None, true, &mut see).await?;
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The error for a log file of which the archive holds nothing.
#[must_use]
pub fn absent(name: &str) -> Error {
    Error::new(Kind::Absent, format!("log file {name} is not in the archive, nor any log behind it"))
}
