//! Log that is lost: recorded, so that nobody takes the archive for whole.

use std::sync::Arc;

use bytes::Bytes;

use super::Run;
use super::resume::{self, Led};
use super::writer::Carried;
use crate::catalog::layout::ObjectName;
use crate::catalog::{Catalog, Gap, Holder};
use crate::error::{Error, Result};
use crate::model::offset::{Offset, OffsetRange};
use crate::model::position::Position;
use crate::model::time::Timestamp;
use crate::model::timeline::TimelineId;

impl Run<'_> {
    /// The server's log begins at `there` only: what the archive lacks before that is
    /// lost. `asked` is where streaming was to begin, if the archive holds no log yet.
    pub(super) async fn record_gap(
        &mut self,
        timeline: TimelineId,
        asked: Offset,
        there: Offset,
        cause: &Error,
    ) -> Result<()> {
        let catalog = self.catalog().await?;
        let log = catalog.timelines.get(&timeline);
        let (mut start, mut next) = (asked, None);
        if let Some((log, (count, end))) = log.and_then(|log| Some((log, log.unbroken()?))) {
            // The session may have stored some, and there may be log behind the hole.
            start = end.max(asked);
            next = log.segments.get(count).map(|segment| segment.range.start);
            if log.segments.iter().take(count).any(|segment| segment.holder == Holder::Tail) {
                self.close_tail(&catalog, timeline).await?;
            }
        }
        let range = OffsetRange::new(start, next.map_or(there, |next| next.min(there)));
        if range.start >= range.end {
            return Ok(());
        }
        // Of before the tail was closed, whose trailer told it.
        let confirmed = log.and_then(|log| log.confirmed);
        self.keep_gap(timeline, range, confirmed, None, cause).await
    }

    /// Records that the log of `range` is lost, up to when the log before it is complete, and
    /// where it ends in the engine's words if the offset does not tell; has a base taken behind.
    pub(super) async fn keep_gap(
        &mut self,
        timeline: TimelineId,
        range: OffsetRange,
        confirmed: Option<Timestamp>,
        position: Option<Position>,
        cause: &Error,
    ) -> Result<()> {
        let engine = Arc::clone(&self.archiver.engine);
        tracing::error!(
            timeline = timeline.0,
            from = %engine.position(range.start),
            to = %engine.position(range.end),
            cause = %cause,
            "the server no longer has log that the archive lacks: a gap is recorded and a new base backup begins"
        );
        let gap = Gap { range, cause: cause.to_string(), found: self.archiver.clock.now(), confirmed, position };
        let object = ObjectName::Gap { timeline, range, epoch: self.epoch.number() };
        let body = serde_json::to_vec_pretty(&gap).map_err(|e| Error::failure("cannot write a gap").because(e))?;
        self.archive.store.create(&self.archive.layout.name(&object), vec![Bytes::from(body)]).await?;
        let catalog = self.catalog().await?;
        self.want_base(&catalog);
        Ok(())
    }

    /// Seals the tail at the end of the log: log is to come behind a gap.
    pub(super) async fn close_tail(&self, catalog: &Catalog, timeline: TimelineId) -> Result<()> {
        let (engine, compression) = (self.archiver.engine.as_ref(), self.archiver.settings.compression);
        let ready =
            match resume::at_end(&self.with_spool(), engine, catalog, timeline, &self.epoch, compression).await? {
                Led::Ready(ready) => *ready,
                Led::Damaged(_, error) => return Err(error),
                // Without a tail there is nothing to close.
                Led::Sealed(_) => return Ok(()),
            };
        match ready.carried {
            Some(tail) => self.seal(timeline, &tail).await,
            None => Ok(()),
        }
    }

    /// Makes a segment of what a tail holds, and removes it, unless it is a newer writer's.
    pub(super) async fn seal(&self, timeline: TimelineId, tail: &Carried) -> Result<()> {
        self.epoch.check(self.archive.store.as_ref()).await?;
        if !tail.bytes.is_empty() {
            let (epoch, compression) = (self.epoch.number(), self.archiver.settings.compression);
            self.with_spool().create_segment(timeline, &tail.bytes, &tail.summary, epoch, compression).await?;
        }
        match &tail.tail {
            Some(object) => self.with_spool().store.delete(object).await,
            None => Ok(()),
        }
    }
}
