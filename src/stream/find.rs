//! Where a position in the engine's words lies in the archive's log.
//!
//! A base of an engine whose log has no offsets of its own ends at a position. It exists only
//! once the archive holds the log up to there, for only then is it known where its replay
//! begins.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::backup::Find;
use super::counted::told;
use crate::catalog::archive::Archive;
use crate::catalog::{Holder, SegmentInfo, TimelineLog};
use crate::engine::{Detail, Engine, Locator, ScanStart, Scanner};
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

/// The end of a timeline's log in the engine's words, if that is known.
///
/// # Errors
/// From the store; [`Kind::Corruption`] for a tail that is none.
pub async fn end_of_log(
    archive: &Archive,
    engine: &dyn Engine,
    timeline: TimelineId,
    log: &TimelineLog,
) -> Result<Option<Position>> {
    let closed = log.segments.iter().rfind(|segment| segment.holder != Holder::Tail);
    let start = match closed {
        Some(segment) => Some(archive.summary(timeline, segment).await?.position),
        None => log.segments.first().and_then(|first| told(log, first.range.start)),
    };
    match log.segments.last() {
        Some(tail) if tail.holder == Holder::Tail => {
            let finder = Finder { archive, engine };
            Ok(finder.read(timeline, log, tail, start.as_ref(), &mut Vec::new()).await?.position())
        }
        _ => Ok(start),
    }
}

impl Finder<'_> {
    /// Looks from the end of the log backwards for the piece in which the position lies.
    async fn look(&self, timeline: TimelineId, log: &TimelineLog, position: &Position) -> Result<Option<Offset>> {
        let mut behind: Option<&SegmentInfo> = None;
        for segment in log.segments.iter().rev() {
            if segment.holder == Holder::Tail {
                behind = Some(segment);
                continue;
            }
            let end = self.archive.summary(timeline, segment).await?.position;
            if !self.engine.reaches(&end, position)? {
                let Some(behind) = behind else { return Ok(None) };
                return self.within(timeline, log, behind, Some(&end), position).await;
            }
            behind = Some(segment);
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
        let scanner = self.read(timeline, log, segment, start, &mut marks).await?;
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

    /// A scanner that has read a segment, before which lies `start`.
    async fn read(
        &self,
        timeline: TimelineId,
        log: &TimelineLog,
        segment: &SegmentInfo,
        start: Option<&Position>,
        marks: &mut Vec<Mark>,
    ) -> Result<Box<dyn Scanner>> {
        let before = log.segments.iter().rfind(|before| before.range.end == segment.range.start);
        let boundary = before.map_or(segment.range.start, |before| before.boundary);
        let mut scanner =
            self.engine.scanner(&self.archive.identity, timeline, ScanStart::Boundary(boundary), Detail::Marks);
        if let Some(start) = start {
            scanner.set_position(start)?;
        }
        // What began before the segment is read from there.
        let from = log.segments.partition_point(|s| s.range.end <= boundary);
        for segment in log.segments.iter().skip(from).take_while(|s| s.range.start <= segment.range.start) {
            let bytes = self.archive.raw(timeline, segment).await?;
            let skip = usize::try_from(scanner.offset().since(segment.range.start)).unwrap_or(usize::MAX);
            scanner.feed(bytes.get(skip..).unwrap_or_default(), marks)?;
        }
        Ok(scanner)
    }
}
