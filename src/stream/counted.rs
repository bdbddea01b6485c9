//! Where streaming goes on when the archive counts the offsets ([`Axis::Archive`]).
//!
//! The server is shown where the archive ends, in its own words, and either goes on there or
//! says why not. Then the archive says so for ever, before anything else is stored:
//!
//! - it no longer has that log: a gap is recorded, of [`GAP_BYTES`], for how much is missing
//!   nobody knows, and with where the log goes on behind it;
//! - its log is another one (it lost transactions that the archive holds, or began anew): a new
//!   timeline begins, and the old one is left as it is. A base follows it at once.
//!
//! A timeline's history says in the engine's words where it begins. It is kept before the
//! timeline's first byte.
//!
//! [`Axis::Archive`]: crate::engine::Axis::Archive

use super::resume::{self, Led, Ready};
use super::{Run, pass::Begun};
use crate::catalog::positions::{beginning, told};
use crate::catalog::{Catalog, Holder, TimelineLog};
use crate::engine::{Detail, ScanStart, Source};
use crate::error::{Error, Kind, Result};
use crate::model::cluster::ServerState;
use crate::model::offset::{Offset, OffsetRange};
use crate::model::position::{Position, Resume};
use crate::model::timeline::{Ancestor, History, TimelineId};

/// How long a gap is of which nobody knows how long it is.
const GAP_BYTES: u64 = 1 << 20;

impl Run<'_> {
    /// Has the server stream from where the archive ends; `None` when that must be looked for
    /// again: something was recorded, or proved damaged.
    pub(super) async fn begin_counted(
        &mut self,
        mut source: Box<dyn Source>,
        server: ServerState,
    ) -> Result<Option<Begun>> {
        let catalog = self.catalog().await?;
        let Some(timeline) = newest(&catalog) else {
            let oldest = source.prepare_slot().await?;
            let oldest = oldest.ok_or_else(|| Error::failure("the source does not say where its log begins"))?;
            self.begin_timeline(TimelineId(1), Vec::new(), oldest.position).await?;
            return Ok(None);
        };
        let Some(ready) = self.ready(&catalog, timeline).await? else { return Ok(None) };
        let position = ready.scanner.position().ok_or_else(|| {
            Error::corruption(format!(
                "where timeline {timeline} of the archive ends is not known in the server's terms"
            ))
            .hint("is its history.json gone? `pitr verify` tells")
        })?;
        let from = Resume { timeline, offset: ready.start, position };
        self.empty_spool(&catalog, timeline, ready.start).await?;
        match source.stream(&from).await {
            Ok(()) => Ok(Some(Begun { source, server, slot_start: None, history: None, catalog, timeline, ready })),
            Err(error) if error.kind() == Kind::Absent => {
                let oldest = source.prepare_slot().await?.map(|oldest| oldest.position);
                self.record_unknown_gap(&catalog, timeline, ready.start, oldest, &error).await?;
                Ok(None)
            }
            Err(error) if error.kind() == Kind::NotRecoverable => {
                self.part(&catalog, &ready, from, source.as_mut(), error).await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// A scanner at the end of a timeline, as [`resume::at_end`] makes it.
    async fn ready(&mut self, catalog: &Catalog, timeline: TimelineId) -> Result<Option<Ready>> {
        let Some(log) = catalog.timelines.get(&timeline) else { return Ok(None) };
        let unbroken = log.unbroken();
        let last = unbroken.and_then(|(count, _)| log.segments.get(count.checked_sub(1)?));
        let end = match (unbroken, &log.history) {
            (Some((_, end)), _) => end,
            (None, Some(history)) => log.past_gaps(beginning(history)),
            (None, None) => return Err(Error::failure(format!("timeline {timeline} holds no log to go on from"))),
        };
        if last.is_none_or(|last| last.range.end < end) {
            let mut ready = self.fresh(timeline, end);
            if let Some(position) = told(log, end) {
                ready.scanner.set_position(&position)?;
            }
            return Ok(Some(ready));
        }
        let (engine, compression) = (self.archiver.engine.clone(), self.archiver.settings.compression);
        match resume::at_end(&self.with_spool(), engine.as_ref(), catalog, timeline, &self.epoch, compression).await? {
            Led::Ready(ready) => Ok(Some(*ready)),
            Led::Sealed(sealed) => {
                let name = self.archive.object_of(timeline, &sealed.segment);
                Err(Error::new(
                    Kind::WrongKey,
                    format!("the archive ends inside a transaction, which began in {name}, encrypted by an earlier archiver"),
                )
                .hint("give --restore-key FILE this once; in a bucket, with --spool DIR, an archiver keeps its newest keys for the next one"))
            }
            Led::Damaged(segment, error) => {
                let name = self.archive.object_of(timeline, &segment);
                match self.unreadable.insert(name, Err(error.to_string())) {
                    Some(_) => Err(error),
                    None => Ok(None),
                }
            }
        }
    }

    async fn record_unknown_gap(
        &mut self,
        catalog: &Catalog,
        timeline: TimelineId,
        start: Offset,
        oldest: Option<Position>,
        cause: &Error,
    ) -> Result<()> {
        let log = catalog.timelines.get(&timeline);
        let last = log.and_then(|log| log.segments.last());
        let confirmed = log.and_then(|log| log.confirmed);
        if last.is_some_and(|last| last.holder == Holder::Tail) {
            self.close_tail(catalog, timeline).await?;
        }
        let range = OffsetRange::new(start, Offset(start.0.saturating_add(GAP_BYTES)));
        self.keep_gap(timeline, range, confirmed, oldest, cause).await
    }

    /// The server's log is not the archive's: a new timeline, which descends from the old one
    /// only if nothing parts them but the transaction that the archive holds in part.
    async fn part(
        &mut self,
        catalog: &Catalog,
        ready: &Ready,
        from: Resume,
        source: &mut dyn Source,
        why: Error,
    ) -> Result<()> {
        let next = TimelineId(from.timeline.0 + 1);
        if let Some(tail) = &ready.carried {
            // Nothing comes behind it any more.
            self.seal(from.timeline, tail).await?;
        }
        let boundary = ready.scanner.boundary();
        if boundary < ready.start {
            let engine = self.archiver.engine.as_ref();
            let mut scanner =
                engine.scanner(&self.archive.identity, from.timeline, ScanStart::Boundary(boundary), Detail::Marks);
            scanner.set_position(&from.position)?;
            let whole = Resume { offset: boundary, position: scanner.position().unwrap_or_default(), ..from.clone() };
            if source.stream(&whole).await.is_ok() {
                let history = catalog.timelines.get(&from.timeline).and_then(|log| log.history.as_ref());
                let mut ancestors = history.map(|history| history.ancestors.clone()).unwrap_or_default();
                ancestors.push(Ancestor { timeline: from.timeline, switch: boundary });
                tracing::warn!(from = from.timeline.0, to = next.0, cause = %why, "another server gives the last transaction in other bytes");
                return self.begin_timeline(next, ancestors, whole.position).await;
            }
        }
        let oldest = source.prepare_slot().await?.map(|oldest| oldest.position);
        let oldest = oldest.ok_or_else(|| Error::failure("the source does not say where its log begins"))?;
        tracing::error!(
            from = from.timeline.0,
            to = next.0,
            cause = %why,
            "the server's log is not the one the archive holds: a new timeline and a new base backup begin"
        );
        self.begin_timeline(next, Vec::new(), oldest).await
    }

    async fn begin_timeline(&mut self, timeline: TimelineId, ancestors: Vec<Ancestor>, at: Position) -> Result<()> {
        self.archive.keep_history(&History { timeline, ancestors, native: at.0 }).await?;
        let catalog = self.catalog().await?;
        self.want_base(&catalog);
        Ok(())
    }
}

/// The timeline to go on with: the newest one that has begun, perhaps without log yet.
fn newest(catalog: &Catalog) -> Option<TimelineId> {
    let begun = |log: &TimelineLog| log.history.is_some() || log.unbroken().is_some() || log.damaged_end().is_some();
    catalog.timelines.iter().rfind(|(_, log)| begun(log)).map(|(timeline, _)| *timeline)
}
