//! Where a position in the engine's words lies in the archive's log.
//!
//! A base of an engine whose log has no offsets of its own ends at a position. It exists only
//! once the archive holds the log up to there, for only then is it known where its replay
//! begins.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::backup::Find;
use crate::catalog::archive::Archive;
use crate::catalog::positions::{scan, told};
use crate::catalog::{Holder, SegmentInfo, TimelineLog};
use crate::engine::{Engine, Locator};
use crate::error::{Error, Kind, Result};
use crate::model::mark::Mark;
use crate::model::offset::Offset;
use crate::model::position::Position;
use crate::model::target::{Point, Target};
use crate::model::timeline::TimelineId;

/// How often the archive is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How long the archive may stand still before we stop waiting for it.
const STANDSTILL_MAX: Duration = Duration::from_secs(60);

/// Looks for positions in an archive that an archiver writes to.
pub(super) struct Finder<'a> {
    pub(super) archive: &'a Archive,
    pub(super) engine: &'a dyn Engine,
}

#[async_trait]
impl Find for Finder<'_> {
    async fn find(&self, position: &Position) -> Result<(TimelineId, Offset)> {
        let (mut moved, mut end) = (Instant::now(), None);
        loop {
            let catalog = self.archive.catalog(self.engine).await?;
            if let Some(timeline) = catalog.newest_timeline()
                && let Some(log) = catalog.timelines.get(&timeline)
            {
                if let Some(found) = self.look(timeline, log, position).await? {
                    return Ok((timeline, found));
                }
                let now = log.segments.last().map(|last| last.range.end);
                if now != end {
                    (moved, end) = (Instant::now(), now);
                }
            }
            if moved.elapsed() > STANDSTILL_MAX {
                return Err(Error::new(
                    Kind::Partial,
                    format!("the archive's log does not reach the end of the base backup, {position}"),
                )
                .hint("does `pitr archive` run? a base is kept only with the log behind it"));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

impl Finder<'_> {
    /// Looks from the end of the log backwards for the piece in which the position lies.
    async fn look(&self, timeline: TimelineId, log: &TimelineLog, position: &Position) -> Result<Option<Offset>> {
        let mut behind: Option<&SegmentInfo> = None;
        let mut end_behind: Option<Position> = None;
        for segment in log.segments.iter().rev() {
            if segment.holder == Holder::Tail {
                behind = Some(segment);
                continue;
            }
            let end = self.archive.summary(timeline, segment).await?.position;
            if !self.engine.reaches(&end, position)? {
                let Some(behind) = behind else { return Ok(None) };
                // A footer tells it, also of a segment that cannot be read.
                if let Some(its) = &end_behind
                    && self.engine.reaches(position, its)?
                {
                    return Ok(Some(behind.boundary));
                }
                return self.within(timeline, log, behind, Some(&end), position).await;
            }
            behind = Some(segment);
            end_behind = Some(end);
        }
        let Some(first) = behind else { return Ok(None) };
        self.within(timeline, log, first, told(log, first.range.start).as_ref(), position).await
    }

    /// Looks for the position in one segment, before which lies `start`.
    async fn within(
        &self,
        timeline: TimelineId,
        log: &TimelineLog,
        segment: &SegmentInfo,
        start: Option<&Position>,
        position: &Position,
    ) -> Result<Option<Offset>> {
        let mut marks: Vec<Mark> = Vec::new();
        let scanner = scan(self.archive, self.engine, timeline, log, segment, start, &mut marks).await?;
        let reached = match scanner.position() {
            Some(end) => self.engine.reaches(&end, position)?,
            None => false,
        };
        if !reached {
            return Ok(None);
        }
        let point = Point::Native { term: "base", value: position.0.clone() };
        let locator = self.engine.locator(&Target { point, inclusive: false, timeline: None })?;
        let first_out = marks.iter().find(|mark| Locator::is(locator.as_ref(), mark)).map(|mark| mark.start);
        Ok(Some(first_out.unwrap_or_else(|| scanner.boundary())))
    }
}
