//! The planned log, fetched ahead and verified, in order.

use std::collections::VecDeque;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::catalog::archive::Archive;
use crate::catalog::{Catalog, SegmentInfo};
use crate::engine::{LogPiece, LogReader};
use crate::error::{Error, Result};
use crate::model::offset::Offset;
use crate::model::timeline::TimelineId;
use crate::plan::{Plan, PlannedSegment};

/// Reads a plan's segments, several at a time.
pub struct PlannedLog {
    archive: Archive,
    waiting: VecDeque<PlannedSegment>,
    running: VecDeque<(PlannedSegment, JoinHandle<Result<Bytes>>)>,
    ahead: usize,
    cut: Offset,
}

impl PlannedLog {
    /// The log of `plan`, from the start of the log file in which replay begins up to the
    /// cut; `ahead` segments are fetched at a time.
    #[must_use]
    pub fn new(archive: Archive, catalog: &Catalog, plan: &Plan, ahead: usize) -> Self {
        let waiting = whole_files(&archive, catalog, plan).into();
        Self { archive, waiting, running: VecDeque::new(), ahead: ahead.max(1), cut: plan.cut }
    }
}

/// The plan's segments that begin before the cut, and those before them that the same log
/// files need: a server reads a log file from its start. What the plan names behind the
/// cut may be of another timeline, whose files hold other bytes than the cut's own.
fn whole_files(archive: &Archive, catalog: &Catalog, plan: &Plan) -> Vec<PlannedSegment> {
    let mut whole: Vec<PlannedSegment> = Vec::with_capacity(plan.log.len());
    let mut before: Option<TimelineId> = None;
    for planned in plan.log.iter().filter(|planned| planned.range.start < plan.cut) {
        if before != Some(planned.timeline) {
            before = Some(planned.timeline);
            let file = planned.info.range.start.floor_to(archive.identity.log_file_bytes);
            let known: &[SegmentInfo] = catalog.timelines.get(&planned.timeline).map_or(&[], |log| &log.segments);
            let lead = known.iter().filter(|s| s.range.start >= file && s.range.end <= planned.info.range.start);
            whole.extend(lead.map(|info| PlannedSegment {
                timeline: planned.timeline,
                info: *info,
                range: info.range,
            }));
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
