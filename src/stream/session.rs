//! One streaming session on one timeline: source on one side, writer on the other.
//!
//! The session takes log from the source, hands it to the writer through a bounded
//! queue (so that a slow disk slows the server's sender and memory stays bounded), and
//! tells the server what has become durable.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::writer::{self, Here, Input, Progress, Setup, Tried};
use crate::engine::{Source, StreamEvent};
use crate::error::{Error, Result};
use crate::model::offset::Offset;
use crate::model::timeline::TimelineId;

/// Messages between source and writer. The walsender's are at most 128 KiB, a dump's 512 KiB.
const QUEUE_MESSAGES: usize = 24;

/// How often the server hears from us when nothing changes, as its own standbys do.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// How often the writer looks whether something is overdue, when no log comes.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Silence after which the connection counts as lost. We ask for a reply every second.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// How long the last words with the server may take. Everything is there by then, and a server
/// that is frozen must not keep us from ending.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

/// Why a session ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// We were asked to stop, or the wanted position is durable.
    Stopped,
    /// The timeline ends; the next one begins at `at`.
    TimelineEnd {
        /// The next timeline.
        next: TimelineId,
        /// Its first own offset.
        at: Offset,
    },
    /// The server ended the stream (shutdown); everything sent is durable.
    ServerEnded,
}

/// When a session stops by itself.
#[derive(Clone, Debug)]
pub struct Until {
    /// Set to `true` to stop after a flush.
    pub stop: watch::Receiver<bool>,
    /// Stop once the log up to this offset is here. Changes when a base backup finds out what it
    /// needs.
    pub goal: watch::Receiver<Goal>,
}

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// For ever.
    Never,
    /// Something else must happen first.
    Wait,
    /// To where the server's log ended when the stream began.
    Present,
    /// As [`Goal::Present`], and to where it has nothing more, if that comes soon.
    Quiet,
    /// To this offset.
    Offset(Offset),
}

/// Streams until told to stop, or the source or store fails. Whatever ends it, what was
/// received is durable when this returns without an error.
///
/// # Errors
/// From source, scanner or store; what was acknowledged stays durable.
pub async fn run(
    source: &mut dyn Source,
    setup: Setup,
    mut until: Until,
    report: &watch::Sender<Report>,
) -> Result<End> {
    let (queue, inbox) = mpsc::channel(QUEUE_MESSAGES);
    let (closing, closes) = watch::channel(false);
    let (timeline, looks) = (setup.timeline, setup.limits.flush_interval_micros.is_some());
    let (writer, here, mut progress) = writer::run(setup, inbox, closes);
    let (received, stop) = (progress.borrow().received, until.stop.clone());
    let mut session =
        Session { source, queue: Some(queue), here, received, report, timeline, stop, asked: 0, answered: 0 };
    let outcome = session.pump(&mut progress, &mut until, looks).await;
    closing.send_replace(true);
    let seal = matches!(outcome, Ok(End::TimelineEnd { .. }));
    if let Some(queue) = session.queue.take() {
        // A writer that failed no longer listens; its own error is what counts.
        let _ = queue.send(Input::Finish { seal }).await;
    }
    let written = writer.await.map_err(|e| Error::failure("the writer stopped").because(e))?;
    report.send_modify(|report| report.incomplete = written.is_err());
    let end = match (outcome, written) {
        (_, Err(error)) | (Err(error), Ok(())) => return Err(error),
        (Ok(end), Ok(())) => end,
    };
    let last = *progress.borrow();
    session.report(last, None);
    if end != End::ServerEnded {
        let farewell = session.source.ack(last.received, last.durable, false);
        tokio::time::timeout(FAREWELL_MAX, farewell).await.unwrap_or_else(|_| Err(takes_nothing(FAREWELL_MAX)))?;
    }
    Ok(end)
}

fn takes_nothing(limit: Duration) -> Error {
    let text = format!("the server has taken nothing from us for {} seconds", limit.as_secs());
    Error::new(crate::Kind::DatabaseUnreachable, text)
}

/// How streaming stands, for whoever watches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The timeline being streamed.
    pub timeline: Option<TimelineId>,
    /// One past the last byte received.
    pub received: Offset,
    /// Acknowledged: durable, whole records.
    pub durable: Offset,
    /// The end of the server's log as last heard.
    pub log_end: Offset,
    /// The last session ended before everything received was durable.
    pub incomplete: bool,
}

struct Session<'a> {
    source: &'a mut dyn Source,
    queue: Option<mpsc::Sender<Input>>,
    here: Here,
    received: Offset,
    report: &'a watch::Sender<Report>,
    timeline: TimelineId,
    stop: watch::Receiver<bool>,
    /// How often the server was asked for a keepalive, and how often it answered: each answer
    /// is to the oldest question that has none.
    asked: u64,
    answered: u64,
}

impl Session<'_> {
    fn report(&self, progress: Progress, log_end: Option<Offset>) {
        self.report.send_modify(|report| {
            report.timeline = Some(self.timeline);
            report.received = progress.received.max(self.received);
            report.durable = progress.durable;
            report.log_end = log_end.unwrap_or(report.log_end);
        });
    }

    async fn acknowledge(&mut self, progress: &mut watch::Receiver<Progress>) -> Result<()> {
        let now = *progress.borrow_and_update();
        self.tell(now.durable, false).await?;
        self.report(now, None);
        Ok(())
    }

    /// Tells the server how far we are. One that takes nothing counts as lost after a while,
    /// and does not keep us from stopping: what is half sent then goes out with the rest.
    async fn tell(&mut self, durable: Offset, request_reply: bool) -> Result<()> {
        self.asked += u64::from(request_reply);
        tokio::select! {
            biased;
            told = tokio::time::timeout(SILENCE_MAX, self.source.ack(self.received, durable, request_reply)) =>
                told.unwrap_or_else(|_| Err(takes_nothing(SILENCE_MAX))),
            _ = self.stop.wait_for(|stop| *stop) => Ok(()),
        }
    }

    /// `looks` is whether the writer has to be told that time passes.
    async fn pump(&mut self, progress: &mut watch::Receiver<Progress>, until: &mut Until, looks: bool) -> Result<End> {
        let Some(queue) = self.queue.clone() else { return Ok(End::Stopped) };
        let mut tick = tokio::time::interval(STATUS_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = tokio::time::Instant::now();
        // Since when nothing is missing but the server's word that this is all.
        let mut caught_up = false;
        let mut parting: Option<(tokio::time::Instant, u64)> = None;
        loop {
            // Received is enough: what was received is made durable before `run` ends. And it
            // is all there may be: a server's log can end inside a record whose rest will
            // never come, and durable counts whole records.
            let reached = match *until.goal.borrow() {
                Goal::Never | Goal::Wait => false,
                // The source's clock came with it: there is nothing to ask.
                Goal::Present if caught_up => return Ok(End::Stopped),
                Goal::Present => false,
                Goal::Quiet => caught_up,
                Goal::Offset(goal) => self.received >= goal,
            };
            match parting {
                _ if !reached => parting = None,
                // Without it nobody knows up to when the log of an idle server is complete.
                None => {
                    let now = *progress.borrow();
                    self.tell(now.durable, true).await?;
                    parting = Some((tokio::time::Instant::now(), self.asked));
                }
                Some((_, question)) if self.answered >= question => return Ok(End::Stopped),
                Some((since, _)) if since.elapsed() > FAREWELL_MAX => return Ok(End::Stopped),
                Some(_) => {}
            }
            if *until.stop.borrow() {
                return Ok(End::Stopped);
            }
            tokio::select! {
                biased;
                changed = progress.changed() => {
                    if changed.is_err() {
                        // The writer is gone: `run` fetches its error.
                        return Ok(End::Stopped);
                    }
                    self.acknowledge(progress).await?;
                }
                _ = tick.tick() => {
                    let now = *progress.borrow();
                    if queue.capacity() == 0 {
                        // It is us who do not listen.
                        heard = tokio::time::Instant::now();
                    }
                    if heard.elapsed() > SILENCE_MAX {
                        return Err(Error::new(crate::Kind::DatabaseUnreachable, format!(
                            "the server has been silent for {} seconds", SILENCE_MAX.as_secs())));
                    }
                    self.tell(now.durable, true).await?;
                }
                _ = look.tick(), if looks => {
                    // A full queue is busy enough to notice the time by itself.
                    let _ = queue.try_send(Input::Tick);
                }
                changed = until.stop.changed() => {
                    if changed.is_err() {
                        return Ok(End::Stopped);
                    }
                }
                changed = until.goal.changed() => {
                    if changed.is_err() {
                        return Ok(End::Stopped);
                    }
                }
                event = next(&queue, self.source) => {
                    heard = tokio::time::Instant::now();
                    let Some((permit, event)) = event? else { return Ok(End::Stopped) };
                    match event {
                        StreamEvent::Data { start, bytes, log_end, time } => {
                            self.received = Offset(start.0 + bytes.len() as u64);
                            match self.here.write(start, &bytes, log_end, time) {
                                Tried::Done => {}
                                Tried::NotHere => permit.send(Input::Data { start, bytes, log_end, time }),
                                Tried::Failed => return Ok(End::Stopped),
                            }
                            self.report(*progress.borrow(), Some(log_end));
                        }
                        StreamEvent::Keepalive { log_end, time, reply_requested, idle } => {
                            permit.send(Input::Confirmed { log_end, time, idle });
                            if idle && *until.goal.borrow() == Goal::Quiet && parting.is_some() {
                                return Ok(End::Stopped);
                            }
                            // The server's own questions are no answers.
                            self.answered += u64::from(!reply_requested);
                            let now = *progress.borrow();
                            if reply_requested {
                                self.tell(now.durable, false).await?;
                            }
                            self.report(now, Some(log_end));
                        }
                        StreamEvent::CaughtUp { log_end, time } => {
                            permit.send(Input::Confirmed { log_end, time, idle: true });
                            caught_up = true;
                        }
                        StreamEvent::TimelineEnd { next, at } => return Ok(End::TimelineEnd { next, at }),
                        StreamEvent::Ended => return Ok(End::ServerEnded),
                    }
                }
                // Nothing more has come: what came is one group.
                () = std::future::ready(()), if self.here.is_unsynced() => match self.here.sync() {
                    Tried::Done => self.acknowledge(progress).await?,
                    Tried::NotHere => {
                        let _ = queue.try_send(Input::Tick);
                    }
                    Tried::Failed => return Ok(End::Stopped),
                },
            }
        }
    }
}

/// The next event, taken only when the writer has room for it. Cancel safe.
async fn next<'q>(
    queue: &'q mpsc::Sender<Input>,
    source: &mut dyn Source,
) -> Result<Option<(mpsc::Permit<'q, Input>, StreamEvent)>> {
    let Ok(permit) = queue.reserve().await else { return Ok(None) };
    Ok(Some((permit, source.next().await?)))
}
