//! The planned log, fetched ahead and verified, in order.

use std::collections::VecDeque;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::JoinHandle;

use super::archived::LEAD_BYTES;
use crate::catalog::archive::Archive;
use crate::catalog::{Catalog, SegmentInfo};
use crate::engine::{Has, LogPiece, LogReader, LogSource};
use crate::error::{Error, Result};
use crate::model::offset::Offset;
use crate::model::timeline::TimelineId;
use crate::plan::{Plan, PlannedSegment};
use crate::segment::cutter::NO_FILES;

/// A plan's segments, to be read from the first one on.
pub struct PlannedSource {
    archive: Archive,
    segments: Vec<PlannedSegment>,
    ahead: usize,
    cut: Offset,
}

/// Reads a plan's segments, several at a time.
pub struct PlannedLog {
    archive: Archive,
    waiting: VecDeque<PlannedSegment>,
    running: VecDeque<(PlannedSegment, JoinHandle<Result<Bytes>>)>,
    ahead: usize,
    cut: Offset,
}

impl PlannedSource {
    /// The log of `plan`, from the start of the log file in which replay begins up to the
    /// cut; `ahead` segments are fetched at a time.
    #[must_use]
    pub fn new(archive: Archive, catalog: &Catalog, plan: &Plan, ahead: usize) -> Self {
        let segments = whole_files(&archive, catalog, &plan.log, plan.cut);
        Self { archive, segments, ahead: ahead.max(1), cut: plan.cut }
    }
}

#[async_trait]
impl LogSource for PlannedSource {
    async fn open(&self, _has: Has<'_>) -> Result<Box<dyn LogReader>> {
        let waiting = self.segments.iter().copied().collect();
        let (archive, ahead, cut) = (self.archive.clone(), self.ahead, self.cut);
        Ok(Box::new(PlannedLog { archive, waiting, running: VecDeque::new(), ahead, cut }))
    }
}

/// The plan's segments that begin before the cut, and those before them that the same log
/// files need: a server reads a log file from its start. What the plan names behind the
/// cut may be of another timeline, whose files hold other bytes than the cut's own.
fn whole_files(archive: &Archive, catalog: &Catalog, log: &[PlannedSegment], cut: Offset) -> Vec<PlannedSegment> {
    let mut whole: Vec<PlannedSegment> = Vec::with_capacity(log.len());
    let mut before: Option<TimelineId> = None;
    for planned in log.iter().filter(|planned| planned.range.start < cut) {
        if before != Some(planned.timeline) {
            before = Some(planned.timeline);
            let file = planned.info.range.start.floor_to(archive.identity.log_file_bytes);
            let known: &[SegmentInfo] = catalog.timelines.get(&planned.timeline).map_or(&[], |log| &log.segments);
            let start = planned.info.range.start;
            // Without files of a fixed size, what says which file it is lies a little before, in one of perhaps many segments.
            let counted = archive.identity.log_file_bytes == NO_FILES;
            let wanted = if counted { Offset(start.0.saturating_sub(LEAD_BYTES)) } else { file };
            let mut first = start;
            let lead = known.iter().rev().skip_while(|s| s.range.end > start).take_while(|s| {
                // A segment may begin inside a large transaction, where nobody can begin to read.
                let enough = if counted { first <= wanted && s.boundary == s.range.end } else { s.range.start < file };
                let leads = s.range.end == first && !enough;
                first = s.range.start;
                leads
            });
            let mut lead: Vec<PlannedSegment> = lead
                .map(|info| PlannedSegment { timeline: planned.timeline, info: *info, range: info.range })
                .collect();
            lead.reverse();
            whole.append(&mut lead);
        }
        whole.push(*planned);
    }
    whole
}

#[async_trait]
impl LogReader for PlannedLog {
    async fn next(&mut self) -> Result<Option<LogPiece>> {
        while self.running.len() < self.ahead
            && let Some(planned) = self.waiting.pop_front()
        {
            let archive = self.archive.clone();
            let (timeline, info) = (planned.timeline, planned.info);
            self.running.push_back((planned, tokio::spawn(async move { archive.raw(timeline, &info).await })));
        }
        let Some((planned, task)) = self.running.pop_front() else { return Ok(None) };
        let bytes = task.await.map_err(|e| Error::failure("a segment reader stopped").because(e))??;
        let start = planned.info.range.start;
        let keep = usize::try_from(self.cut.since(start)).unwrap_or(usize::MAX).min(bytes.len());
        Ok(Some(LogPiece { timeline: planned.timeline, start, bytes: bytes.slice(..keep) }))
    }
}

impl Drop for PlannedLog {
    fn drop(&mut self) {
        for (_, task) in &self.running {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::catalog::layout::Layout;
    use crate::catalog::{Codec, Holder, TimelineLog};
    use crate::model::cluster::Identity;
    use crate::model::offset::OffsetRange;
    use crate::model::summary::Summary;
    use crate::segment::codec::Compression;
    use crate::store::memory::MemoryStore;

    const FILE: u64 = 100;

    /// Timeline, first and last offset of each piece that a server is given up to `cut`,
    /// when a plan names `log`: timeline, segment, and from where on it is needed.
    async fn given(known: &[(u32, u64, u64)], log: &[(u32, u64, u64, u64)], cut: u64) -> Vec<(u32, u64, u64)> {
        given_of(FILE, known, log, cut).await
    }

    async fn given_of(
        file_bytes: u64,
        known: &[(u32, u64, u64)],
        log: &[(u32, u64, u64, u64)],
        cut: u64,
    ) -> Vec<(u32, u64, u64)> {
        let identity = Identity::some(file_bytes);
        let (store, layout) = (Arc::new(MemoryStore::new()), Layout::new("main".parse().unwrap()));
        let archive = Archive { store, layout, identity: identity.clone(), sealed: None };
        let info = |start, end| {
            let range = OffsetRange::new(Offset(start), Offset(end));
            let summary = Summary { range, ..Summary::empty(range.start, range.end) };
            (SegmentInfo::of(&summary, 1, Holder::Segment(Codec::Lz4)), summary)
        };
        let mut timelines: BTreeMap<TimelineId, TimelineLog> = BTreeMap::new();
        for &(timeline, start, end) in known {
            let (info, summary) = info(start, end);
            let raw: Vec<u8> = (start..end).map(|at| at as u8).collect();
            archive.create_segment(TimelineId(timeline), &raw, &summary, 1, Compression::Lz4).await.unwrap();
            timelines.entry(TimelineId(timeline)).or_default().segments.push(info);
        }
        let catalog = Catalog { identity, timelines, bases: Vec::new(), damaged_bases: Vec::new() };
        let planned = |&(timeline, start, end, from): &(u32, u64, u64, u64)| PlannedSegment {
            timeline: TimelineId(timeline),
            info: info(start, end).0,
            range: OffsetRange::new(Offset(from), Offset(end)),
        };
        let log: Vec<PlannedSegment> = log.iter().map(planned).collect();
        let waiting = whole_files(&archive, &catalog, &log, Offset(cut)).into();
        let mut log = PlannedLog { archive, waiting, running: VecDeque::new(), ahead: 2, cut: Offset(cut) };
        let mut given = Vec::new();
        while let Some(piece) = log.next().await.unwrap() {
            let end = piece.start.0 + piece.bytes.len() as u64;
            assert!(piece.bytes.iter().copied().eq((piece.start.0..end).map(|at| at as u8)));
            given.push((piece.timeline.0, piece.start.0, end));
        }
        given
    }

    #[tokio::test]
    async fn the_log_ends_at_the_cut_whatever_the_plan_names_behind_it() {
        let known = [(1, 0, 100), (1, 100, 200), (2, 100, 200), (2, 200, 300)];
        let log = [(1, 0, 100, 0), (1, 100, 200, 100), (2, 100, 200, 150), (2, 200, 300, 200)];
        assert_eq!(given(&known, &log, 150).await, [(1, 0, 100), (1, 100, 150)]);
        assert_eq!(given(&known, &log, 100).await, [(1, 0, 100)]);
    }

    /// What says which file it is may lie in any of the small segments before.
    #[tokio::test]
    async fn where_log_files_have_no_fixed_size_enough_is_given_before() {
        let mib = |n: u64| n << 20;
        let mut known: Vec<(u32, u64, u64)> = (0..100).map(|at| (1, mib(at) / 10, mib(at + 1) / 10)).collect();
        let log = [(1, mib(90) / 10, mib(91) / 10, mib(90) / 10)];
        let given = given_of(NO_FILES, &known, &log, u64::MAX).await;
        assert_eq!(given.first().unwrap().1, mib(50) / 10);
        assert!(given.windows(2).all(|pair| pair[0].2 == pair[1].1) && given.last().unwrap().2 == mib(91) / 10);
        // Not over a gap.
        known.remove(80);
        assert_eq!(given_of(NO_FILES, &known, &log, u64::MAX).await.first().unwrap().1, mib(81) / 10);
    }

    #[tokio::test]
    async fn a_log_file_is_given_from_its_start() {
        let known = [(1, 0, 100), (1, 100, 130), (1, 130, 160), (1, 160, 200), (2, 200, 230), (2, 230, 260)];
        let log = [(1, 160, 200, 170), (2, 230, 260, 240)];
        let whole = [(1, 100, 130), (1, 130, 160), (1, 160, 200), (2, 200, 230), (2, 230, 250)];
        assert_eq!(given(&known, &log, 250).await, whole);
    }
}
