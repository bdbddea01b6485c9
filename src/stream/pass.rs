//! One pass over a connection: who the server is, where the log goes on, one session.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::JoinHandle;

use super::resume::{self, Led, Ready};
use super::session::{self, End};
use super::whence::{Whence, whence};
use super::writer::Tails;
use super::{CLAIMED_BY, Run, unless_stopped, writer};
use crate::catalog::fence;
use crate::catalog::layout::ObjectName;
use crate::catalog::{Catalog, TimelineLog};
use crate::engine::{Axis, Detail, ScanStart, Source};
use crate::error::{Error, Kind, Result};
use crate::model::cluster::ServerState;
use crate::model::offset::Offset;
use crate::model::position::Resume;
use crate::model::timeline::{History, TimelineId};
use crate::segment::cutter::Limits;

/// What one pass over a connection came to.
pub(super) enum Pass {
    Done,
    Again,
}

/// A stream that has begun.
pub(super) struct Begun {
    pub(super) source: Box<dyn Source>,
    pub(super) server: ServerState,
    /// From where on the slot keeps log; without a slot, where the server stands.
    pub(super) slot_start: Option<Resume>,
    pub(super) history: Option<History>,
    /// What the archive held before.
    pub(super) catalog: Catalog,
    pub(super) timeline: TimelineId,
    pub(super) ready: Ready,
}

/// How many closed segments of a log no index holds yet.
fn unindexed(log: &TimelineLog) -> usize {
    let indexed = log.indexes.last().map_or(Offset::ZERO, |index| index.range.end);
    log.segments.len() - log.segments.partition_point(|segment| segment.range.start < indexed)
}

/// Where a timeline's log ends.
fn log_end(catalog: &Catalog, timeline: TimelineId) -> Option<Offset> {
    catalog.timelines.get(&timeline).and_then(TimelineLog::unbroken).map(|(_, end)| end)
}

impl Run<'_> {
    /// Streams one timeline over one connection.
    pub(super) async fn pass(&mut self, connected: Option<(Box<dyn Source>, ServerState)>) -> Result<Pass> {
        let stop = self.until.stop.clone();
        let Some(begun) = unless_stopped(&stop, self.begin(connected)).await else { return Ok(Pass::Done) };
        let Some(begun) = begun? else { return Ok(Pass::Again) };
        let Begun { mut source, server, slot_start, history, catalog, timeline, ready } = begun;
        let start = ready.start;
        let engine = &self.archiver.engine;
        let from = ready.scanner.position();
        let from = from.map_or_else(|| engine.position(start).to_string(), |from| engine.place(&from));
        tracing::info!(timeline = timeline.0, %from, "streaming");
        if self.base_wanted && self.base.as_ref().is_none_or(JoinHandle::is_finished) {
            self.begin_base();
        }
        let counted = self.archiver.engine.axis() == Axis::Archive;
        let log_end = if timeline == server.timeline { server.log_end } else { start };
        let confirms = !server.standby && (counted || timeline == server.timeline);
        let slot_floor = slot_start.as_ref().map_or(Offset::ZERO, |slot| slot.offset);
        let setup = self.setup(&catalog, timeline, ready, log_end, confirms, slot_floor);
        let end = match session::run(source.as_mut(), setup, self.until.clone(), self.report).await {
            // The server tells only once the stream has begun that it lacks the log.
            Err(error) if error.kind() == Kind::Absent && !counted => {
                self.from.take_if(|(_, from)| *from <= start);
                let at = self.beginning(slot_start, &server).offset;
                if at <= start {
                    return Err(error.with_kind(Kind::DatabaseUnreachable));
                }
                // Behind the switch there never was log of this timeline.
                let left_at = history.as_ref().and_then(|history| history.switch_from(timeline));
                self.record_gap(timeline, start, left_at.map_or(at, |switch| at.min(switch)), &error).await?;
                return Ok(Pass::Again);
            }
            other => other?,
        };
        match end {
            End::Stopped => {
                source.stop().await?;
                Ok(Pass::Done)
            }
            End::TimelineEnd { next, at } => {
                tracing::info!(from = timeline.0, to = next.0, at = %self.archiver.engine.position(at), "following to the next timeline");
                Ok(Pass::Again)
            }
            End::ServerEnded => Err(Error::new(Kind::DatabaseUnreachable, "the server ended the stream")),
        }
    }

    /// Asks the server who it is, and has it stream from where the archive ends; `None` when
    /// a segment there proved damaged, without which the archive ends elsewhere.
    async fn begin(&mut self, connected: Option<(Box<dyn Source>, ServerState)>) -> Result<Option<Begun>> {
        let engine = Arc::clone(&self.archiver.engine);
        let (mut source, server) = match connected {
            Some(connected) => connected,
            None => self.archiver.connect().await?,
        };
        self.archive.check_identity(&server.identity)?;
        self.outrank_late().await?;
        if engine.axis() == Axis::Archive {
            if let Some(spool) = &self.spool {
                spool.give_way(&self.archive).await?;
            }
            return self.begin_counted(source, server).await;
        }
        let slot_start = source.prepare_slot().await?;
        let history = source.history(server.timeline).await?;
        if let Some(history) = &history {
            self.archive.keep_history(history).await?;
            for ancestor in &history.ancestors {
                // A server made from a copy may lack those; the newest one names them all.
                match source.history(ancestor.timeline).await {
                    Ok(Some(history)) => self.archive.keep_history(&history).await?,
                    Ok(None) => {}
                    Err(error) => tracing::debug!(%error, "the server has no older history"),
                }
            }
        }
        let catalog = self.catalog().await?;
        let (timeline, ready) = match whence(&catalog, &server, history.as_ref())? {
            Whence::Empty => {
                let at = self.beginning(slot_start.clone(), &server);
                (at.timeline, self.fresh(at.timeline, at.offset))
            }
            Whence::Start(timeline, offset) => (timeline, self.fresh(timeline, offset)),
            Whence::EndOf(timeline) => {
                let compression = self.archiver.settings.compression;
                let led =
                    resume::at_end(&self.with_spool(), engine.as_ref(), &catalog, timeline, &self.epoch, compression)
                        .await?;
                match led {
                    Led::Ready(ready) => (timeline, *ready),
                    Led::Sealed(sealed) => match self.read_again(source.as_mut(), &server, timeline, &sealed).await {
                        Err(error) if error.kind() == Kind::Absent => {
                            let end = log_end(&catalog, timeline).unwrap_or(sealed.segment.range.end);
                            let at = self.beginning(slot_start, &server).offset;
                            if at <= end {
                                return Err(error.with_kind(Kind::DatabaseUnreachable));
                            }
                            self.record_gap(timeline, end, at, &error).await?;
                            return Ok(None);
                        }
                        ready => (timeline, ready?),
                    },
                    Led::Damaged(segment, error) => {
                        let name = self.archive.object_of(timeline, &segment);
                        if self.unreadable.insert(name, Err(error.to_string())).is_some() {
                            return Err(error);
                        }
                        return Ok(None);
                    }
                }
            }
        };
        self.outrank_damaged(&catalog, timeline, ready.start).await?;
        self.empty_spool(&catalog, timeline, ready.start).await?;
        source.stream(&self.resume(timeline, ready.start)).await?;
        Ok(Some(Begun { source, server, slot_start, history, catalog, timeline, ready }))
    }

    /// What is streamed again because its segment is damaged gets other names than that: one
    /// of our own epoch calls for a new one.
    async fn outrank_damaged(&mut self, catalog: &Catalog, timeline: TimelineId, start: Offset) -> Result<()> {
        let log = catalog.timelines.get(&timeline);
        let again = log.into_iter().flat_map(|log| &log.damaged).filter(|damaged| match damaged.is {
            ObjectName::Segment { range, epoch, .. } => range.end > start && epoch >= self.epoch.number(),
            _ => false,
        });
        if again.count() == 0 { Ok(()) } else { self.claim_next().await }
    }

    /// A service may yet do what it gave no answer to. Such a segment comes after the look at what there is, and must not
    /// bear the name, nor the epoch, of what is streamed again.
    async fn outrank_late(&mut self) -> Result<()> {
        if self.late { self.claim_next().await } else { Ok(()) }
    }

    /// Claims the epoch behind our own, if that is still the last.
    async fn claim_next(&mut self) -> Result<()> {
        let body = match &self.claim {
            Some(body) => body.clone(),
            None => fence::claim_body(self.archiver.clock.as_ref(), CLAIMED_BY)?,
        };
        // Kept until it is known to be there: it may be, without an answer.
        self.claim = Some(body.clone());
        self.epoch = self.epoch.succeed(self.archive.store.as_ref(), &self.archive.layout, &body).await?;
        if let Some(spool) = &self.spool {
            spool.own(&self.epoch)?;
        }
        (self.claim, self.late) = (None, false);
        self.creates.store(false, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn resume(&self, timeline: TimelineId, offset: Offset) -> Resume {
        Resume { timeline, offset, position: self.archiver.engine.position(offset) }
    }

    /// Where log that follows nothing begins, at the start of a log file: where it is wanted from,
    /// or the slot keeps it from, or the server stands now.
    fn beginning(&self, slot_start: Option<Resume>, server: &ServerState) -> Resume {
        let wanted = self.from.map(|(timeline, from)| self.resume(timeline, from));
        wanted.or(slot_start).unwrap_or_else(|| {
            self.resume(server.timeline, server.log_end.floor_to(self.archive.identity.log_file_bytes))
        })
    }

    pub(super) fn fresh(&self, timeline: TimelineId, start: Offset) -> Ready {
        let scanner =
            self.archiver.engine.scanner(&self.archive.identity, timeline, ScanStart::LogFile(start), Detail::Changes);
        Ready { scanner, start, carried: None, file_segments: Vec::new() }
    }

    fn setup(
        &self,
        catalog: &Catalog,
        timeline: TimelineId,
        ready: Ready,
        log_end: Offset,
        confirms: bool,
        slot_floor: Offset,
    ) -> writer::Setup {
        let settings = &self.archiver.settings;
        let local = self.archive.store.local_root();
        let root = local.or(self.spool.as_ref().map(|spool| spool.root()));
        let tails = root.map(|root| Tails {
            root: root.to_owned(),
            folder: root.join(self.archive.layout.timeline(timeline)),
            count: local.is_some() || settings.spool.as_ref().is_some_and(|spool| spool.counts),
        });
        let flush_interval_micros =
            local.is_none().then(|| i64::try_from(settings.flush_interval.as_micros()).unwrap_or(i64::MAX));
        let log_file_bytes = self.archive.identity.log_file_bytes;
        let damaged_end = catalog.timelines.get(&timeline).and_then(TimelineLog::damaged_end);
        writer::Setup {
            archive: self.archive.clone(),
            engine: Arc::clone(&self.archiver.engine),
            epoch: self.epoch.clone(),
            timeline,
            limits: Limits { log_file_bytes, segment_bytes: settings.segment_bytes, flush_interval_micros },
            compression: settings.compression,
            scanner: ready.scanner,
            start: ready.start,
            log_end,
            acknowledged: damaged_end.unwrap_or(Offset::ZERO).max(slot_floor),
            confirms,
            carried: ready.carried,
            file_segments: ready.file_segments,
            creates: Arc::clone(&self.creates),
            unindexed: catalog.timelines.get(&timeline).map_or(0, unindexed),
            tails,
            spool: self.spool.clone(),
            clock: Arc::clone(&self.archiver.clock),
        }
    }
}
