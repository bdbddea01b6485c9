//! All the log of a timeline that the archive holds without a break, for readers that say
//! themselves what they have: replicas. It may be followed as it grows.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::catalog::archive::Archive;
use crate::catalog::positions::told;
use crate::catalog::{Catalog, Holder};
use crate::engine::{Detail, Engine, Has, LogPiece, LogReader, LogSource, ScanStart};
use crate::error::{Error, Kind, Result};
use crate::model::offset::Offset;
use crate::model::position::Position;
use crate::model::timeline::TimelineId;
use crate::plan::{PlannedSegment, unbroken};

/// How often the archive is looked at for more.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// So much log is read before what a reader lacks: in it lies what says which file it is of. That is told at least once a
/// megabyte, between transactions.
pub(super) const LEAD_BYTES: u64 = 4 << 20;

/// Within so much log its beginning says what lies before it.
const HEAD_BYTES: usize = 1 << 20;

/// The log of one timeline and of what it descends from.
pub struct ArchivedLog {
    archive: Archive,
    engine: Arc<dyn Engine>,
    timeline: TimelineId,
    /// Where it ends; without it, nowhere.
    cut: Option<Offset>,
}

impl ArchivedLog {
    /// The log of `timeline` up to `cut`, or as it grows.
    #[must_use]
    pub fn new(archive: Archive, engine: Arc<dyn Engine>, timeline: TimelineId, cut: Option<Offset>) -> Self {
        Self { archive, engine, timeline, cut }
    }

    fn segments(&self, catalog: &Catalog) -> Result<Vec<PlannedSegment>> {
        unbroken(catalog, self.timeline, self.cut.unwrap_or(Offset(u64::MAX))).map_err(Error::from)
    }

    /// Where a segment ends in the engine's words; what is not closed yet ends nowhere.
    async fn end_of(&self, segment: &PlannedSegment) -> Result<Option<Position>> {
        if segment.info.holder == Holder::Tail || segment.range.end < segment.info.range.end {
            return Ok(None);
        }
        Ok(Some(self.archive.summary(segment.timeline, &segment.info).await?.position))
    }

    /// What lies before the log, which its first bytes tell.
    async fn beginning(&self, catalog: &Catalog, first: &PlannedSegment) -> Result<Option<Position>> {
        let start = first.range.start;
        let mut scanner =
            self.engine.scanner(&self.archive.identity, first.timeline, ScanStart::Boundary(start), Detail::Marks);
        let log = catalog.timelines.get(&first.timeline);
        if let Some(position) = log.and_then(|log| told(log, start)) {
            scanner.set_position(&position)?;
        }
        let bytes = self.archive.raw(first.timeline, &first.info).await?;
        let bytes = bytes.slice(first.range.within(first.info.range.start));
        for byte in bytes.chunks(1).take(HEAD_BYTES) {
            scanner.feed(byte, &mut Vec::new())?;
            if scanner.boundary() > start
                && let Some(position) = scanner.position()
            {
                return Ok(Some(position));
            }
        }
        Ok(None)
    }
}

#[async_trait]
impl LogSource for ArchivedLog {
    async fn open(&self, has: Has<'_>) -> Result<Box<dyn LogReader>> {
        let catalog = self.archive.catalog(self.engine.as_ref()).await?;
        let segments = self.segments(&catalog)?;
        let (mut had, mut end) = (0, segments.len());
        while had < end {
            let middle = had.midpoint(end);
            let position = match segments.get(middle) {
                Some(segment) => self.end_of(segment).await?,
                None => None,
            };
            if position.is_some_and(|position| has(&position)) {
                had = middle + 1;
            } else {
                end = middle;
            }
        }
        if had == 0
            && let Some(first) = segments.first()
        {
            let before = self.beginning(&catalog, first).await?;
            if !before.as_ref().is_some_and(has) {
                let before = before.map_or_else(|| "an unknown place".to_owned(), |before| before.to_string());
                return Err(Error::new(
                    Kind::NotRecoverable,
                    format!("the archive's unbroken log begins at {before}, and earlier log is asked for"),
                )
                .hint("begin with a database restored from this archive: pitr restore --to DIR"));
            }
        }
        let wanted = segments.get(had).map_or(Offset(u64::MAX), |segment| segment.range.start);
        let lead = segments.partition_point(|segment| segment.range.start.0.saturating_add(LEAD_BYTES) <= wanted.0);
        let mut first = lead.min(had).saturating_sub(1);
        // A segment may begin inside a large transaction, where nobody can begin to read.
        let is_open = |before: &PlannedSegment| before.info.boundary != before.info.range.end;
        while first > 0 && segments.get(first - 1).is_some_and(is_open) {
            first -= 1;
        }
        let waiting: Vec<PlannedSegment> = segments.get(first..).unwrap_or_default().to_vec();
        let at = waiting.first().map(|segment| segment.range.start);
        Ok(Box::new(Reader {
            log: Self::new(self.archive.clone(), Arc::clone(&self.engine), self.timeline, self.cut),
            waiting: waiting.into(),
            at,
        }))
    }
}

struct Reader {
    log: ArchivedLog,
    waiting: std::collections::VecDeque<PlannedSegment>,
    /// The next byte; not known before there is any log.
    at: Option<Offset>,
}

impl Reader {
    /// Waits for more log. Cancel safe.
    async fn wait(&mut self) -> Result<()> {
        loop {
            let catalog = self.log.archive.catalog(self.log.engine.as_ref()).await?;
            let mut segments = self.log.segments(&catalog)?;
            if let Some(at) = self.at {
                let broken = segments.first().is_some_and(|first| first.range.start > at);
                if broken {
                    return Err(Error::new(Kind::NotRecoverable, "the archive's log has a gap where this reader is")
                        .hint("`pitr list` shows it; begin anew with a database restored from behind it"));
                }
                segments.retain(|segment| segment.range.end > at);
            }
            if segments.is_empty() {
                if let Some(newest) = catalog.newest_timeline().filter(|newest| *newest > self.log.timeline) {
                    return Err(Error::new(
                        Kind::NotRecoverable,
                        format!(
                            "timeline {} has ended: the server's history goes on as timeline {newest}",
                            self.log.timeline
                        ),
                    )
                    .hint("begin anew with a database restored from the new timeline"));
                }
                tokio::time::sleep(LOOK_INTERVAL).await;
                continue;
            }
            self.waiting = segments.into();
            return Ok(());
        }
    }
}

#[async_trait]
impl LogReader for Reader {
    async fn next(&mut self) -> Result<Option<LogPiece>> {
        loop {
            let Some(segment) = self.waiting.front().copied() else {
                if self.log.cut.is_some() {
                    return Ok(None);
                }
                self.wait().await?;
                continue;
            };
            let bytes = self.log.archive.raw(segment.timeline, &segment.info).await?;
            self.waiting.pop_front();
            let start = self.at.map_or(segment.range.start, |at| at.max(segment.range.start));
            let within = crate::model::offset::OffsetRange::new(start, segment.range.end);
            self.at = Some(segment.range.end);
            let bytes = bytes.slice(within.within(segment.info.range.start));
            return Ok(Some(LogPiece { timeline: segment.timeline, start, bytes }));
        }
    }
}
