//! A closed segment's way into the store, beside the writer: compressed, created behind
//! the one before it, told durable; then the tail goes. And what is done at a log file's end.
//!
//! A remote store that does not answer is asked again until it does, or the writer is to end. A segment
//! waits in memory or, where there is one, in the spool.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::Shared;
use super::compressing::Closed;
use crate::catalog::SegmentInfo;
use crate::catalog::archive::Archive;
use crate::catalog::fence::Epoch;
use crate::error::{Error, Kind, Result};
use crate::model::offset::{Offset, OffsetRange};
use crate::model::summary::Summary;
use crate::model::time::Timestamp;
use crate::model::timeline::TimelineId;
use crate::segment::codec::Compression;
use crate::segment::cutter::Limits;
use crate::store::Store;
use crate::stream::compact::compact;
use crate::stream::roll_up::RollUp;
use crate::stream::spool::Spool;
use crate::stream::tail::Spare;

/// First and longest wait before a store that does not answer is asked again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));

/// How often is said that it still does not.
const REMIND: Duration = Duration::from_secs(60);

/// Comes when an upload has succeeded.
#[derive(Clone)]
pub(super) struct Turn(Option<watch::Receiver<bool>>);

impl Turn {
    /// Of whoever has nobody before him.
    pub(super) const fn first() -> Self {
        Self(None)
    }

    /// Comes when `true` is sent, and never if nothing is.
    pub(super) fn new() -> (watch::Sender<bool>, Self) {
        let (done, turn) = watch::channel(false);
        (done, Self(Some(turn)))
    }

    fn has_come(&self) -> bool {
        self.0.as_ref().is_none_or(|turn| *turn.borrow())
    }

    async fn come(self) -> Result<()> {
        match self.0 {
            Some(mut turn) => turn
                .wait_for(|done| *done)
                .await
                .map(drop)
                .map_err(|_| Error::failure("the segment before was not stored")),
            None => Ok(()),
        }
    }
}

/// How long to wait for a store that does not answer, and what is said of it.
pub(super) struct Patience {
    /// Turns true when nothing is to be waited for any more.
    closing: watch::Receiver<bool>,
    /// A disk that failed is not asked again: what it says then means nothing.
    is_local: bool,
    trouble: Mutex<Option<Trouble>>,
}

struct Trouble {
    since: Instant,
    told: Instant,
}

impl Patience {
    pub(super) fn new(closing: watch::Receiver<bool>, is_local: bool) -> Self {
        Self { closing, is_local, trouble: Mutex::default() }
    }

    /// Tries until the store answers.
    async fn until_done<F>(&self, mut attempt: impl FnMut() -> F) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        let mut pause = PAUSES.0;
        loop {
            let error = match attempt().await {
                Err(error) if error.kind() == Kind::StoreUnreachable && !self.is_local => error,
                done => {
                    self.is_over();
                    return done;
                }
            };
            self.tell(&error);
            let mut closing = self.closing.clone();
            let jitter = rand::rng().random_range(0.5..1.0);
            tokio::select! {
                () = tokio::time::sleep(pause.mul_f64(jitter)) => {}
                _ = closing.wait_for(|closing| *closing) => return Err(error),
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    fn tell(&self, error: &Error) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let known = trouble.get_or_insert(Trouble { since: now, told: now });
        if known.since == now {
            tracing::warn!(%error, hint = error.advice(), "the store takes nothing; trying again until it does");
        } else if known.told.elapsed() >= REMIND {
            known.told = now;
            let seconds = known.since.elapsed().as_secs();
            tracing::warn!(%error, hint = error.advice(), seconds, "the store still takes nothing");
        }
    }

    fn is_over(&self) {
        if let Some(trouble) = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take() {
            tracing::info!(seconds = trouble.since.elapsed().as_secs(), "the store answers again");
        }
    }
}

/// The bytes of a closed segment.
pub(super) struct Made {
    pub(super) segment: Closed,
    /// The tail that holds them as well.
    pub(super) tail: Option<PathBuf>,
    /// Whether it is more than a part of one that is to come.
    pub(super) whole: bool,
}

/// Where a segment is on its way.
pub(super) enum Held {
    Memory { made: Made, permit: OwnedSemaphorePermit },
    Spool,
}

/// A closed segment on its way to the store.
pub(super) struct Upload {
    pub(super) archive: Archive,
    pub(super) name: String,
    pub(super) epoch: Epoch,
    /// Whoever writes this timeline writes the same bytes at the same offsets.
    pub(super) shares_log: bool,
    pub(super) range: OffsetRange,
    pub(super) boundary: Offset,
    pub(super) newest: Option<Timestamp>,
    pub(super) shared: Arc<Shared>,
    pub(super) spool: Option<Arc<Spool>>,
    /// Whether it is durable in the spool already.
    pub(super) spool_counts: bool,
}

impl Upload {
    /// Brings a segment into the spool, and its tail to an end.
    pub(super) async fn spilled(&self, made: Made) -> Result<Held> {
        let body = made.segment.finished().await?.body;
        self.spill(body, made.tail).await?;
        Ok(Held::Spool)
    }

    async fn spill(&self, body: Vec<Bytes>, tail: Option<PathBuf>) -> Result<()> {
        let Some(spool) = &self.spool else { return Err(Error::failure("there is no spool")) };
        spool.keep(&self.name, body, self.shared.patience.closing.clone()).await?;
        if self.spool_counts {
            self.shared.durable(self.range, self.boundary, self.newest);
        }
        self.retire(tail).await
    }

    async fn retire(&self, tail: Option<PathBuf>) -> Result<()> {
        let Some(path) = tail else { return Ok(()) };
        let retired = spawn_blocking(move || Spare::of_sealed(&path)).await;
        self.shared.retire(retired.map_err(|e| Error::failure("a sealer stopped").because(e))??);
        Ok(())
    }

    /// Creates the segment once its `turn` has come, retires the tail it came from, and reports it durable.
    pub(super) async fn create(self, held: Held, turn: Turn) -> Result<()> {
        match held {
            Held::Memory { made, permit } => self.create_from_memory(made, turn, permit).await?,
            Held::Spool => self.create_from_spool(turn).await?,
        }
        self.shared.durable(self.range, self.boundary, self.newest);
        Ok(())
    }

    async fn create_from_memory(&self, made: Made, turn: Turn, permit: OwnedSemaphorePermit) -> Result<()> {
        let body = made.segment.finished().await?.body;
        let (store, patience) = (self.archive.store.as_ref(), &self.shared.patience);
        let attempt = || async {
            store.create_behind(&self.name, body.clone(), Box::pin(turn.clone().come())).await?;
            self.check_epoch(store).await
        };
        let created = if self.spool.is_some() && made.whole {
            // It need not wait here.
            if self.spool_counts && made.tail.is_none() && !turn.has_come() {
                self.spill(body, None).await?;
                drop(permit);
                return self.create_from_spool(turn).await;
            }
            match attempt().await {
                Err(error) if error.kind() == Kind::StoreUnreachable => {
                    patience.tell(&error);
                    // Room that only those behind this one could make is not to be waited for.
                    if self.spool.as_ref().is_some_and(|spool| spool.has_room(&body)) {
                        self.spill(body, made.tail).await?;
                        drop(permit);
                        return self.create_from_spool(turn).await;
                    }
                    patience.until_done(attempt).await
                }
                created => created,
            }
        } else {
            patience.until_done(attempt).await
        };
        match created {
            Ok(()) => self.retire(made.tail).await,
            // The next session finds it there.
            Err(error) if error.kind() != Kind::Fenced && self.spool.is_some() && made.whole && made.tail.is_none() => {
                self.spill(body, None).await.and(Err(error))
            }
            Err(error) => Err(error),
        }
    }

    async fn create_from_spool(&self, turn: Turn) -> Result<()> {
        let Some(spool) = &self.spool else { return Err(Error::failure("there is no spool")) };
        turn.come().await?;
        let store = self.archive.store.as_ref();
        let attempt = || async {
            store.create(&self.name, vec![spool.read(&self.name).await?]).await?;
            self.check_epoch(store).await
        };
        self.shared.patience.until_done(attempt).await?;
        spool.remove(&self.name).await
    }

    /// Makes sure that no later archiver has come; where the log is the same for both, that none had come a while ago.
    async fn check_epoch(&self, store: &dyn Store) -> Result<()> {
        if self.shares_log && store.local_root().is_none() {
            self.epoch.check_seldom(store).await
        } else {
            // After the create: a later writer who did not see this segment had come before.
            self.epoch.check(store).await
        }
    }
}

/// What is due at the end of a log file, once its segments are in the store: its small segments
/// are replaced by one, and footers rolled up into an index.
pub(super) struct Housekeeping {
    pub(super) archive: Archive,
    pub(super) timeline: TimelineId,
    pub(super) epoch: Epoch,
    pub(super) limits: Limits,
    pub(super) compression: Compression,
    /// The small segments, if there are any.
    pub(super) parts: Vec<SegmentInfo>,
    /// Rolls footers up, if there are enough.
    pub(super) rolls_up: bool,
    pub(super) roll_up: Arc<tokio::sync::Mutex<RollUp>>,
    /// What has been made since it did the last time.
    pub(super) made: Vec<(SegmentInfo, Summary)>,
    pub(super) shared: Arc<Shared>,
}

impl Housekeeping {
    /// Does it, behind the segment `before` it, and on a thread of its own: joining segments
    /// takes time.
    pub(super) async fn keep(self, turn: Turn) -> Result<()> {
        turn.come().await?;
        let runtime = Handle::current();
        let work = spawn_blocking(move || runtime.block_on(self.shared.patience.until_done(|| self.work())));
        work.await.map_err(|error| Error::failure("housekeeping stopped").because(error))?
    }

    async fn work(&self) -> Result<()> {
        let Self { archive, timeline, epoch, limits, compression, parts, .. } = self;
        let mut roll_up = self.roll_up.lock().await;
        if !parts.is_empty() {
            roll_up.forget();
            match compact(archive, *timeline, parts, limits, epoch.number(), *compression).await {
                // The small ones stay as they are. The log to come needs none of them.
                Err(error) if error.kind() == Kind::Corruption => {
                    tracing::error!(%error, hint = error.advice(), "small segments of a log file are not joined");
                }
                Err(error) if error.kind() == Kind::WrongKey => {
                    tracing::debug!(%error, "small segments of an earlier archiver are not joined");
                }
                compacted => drop(compacted?),
            }
        }
        if self.rolls_up { roll_up.go_on(archive, *timeline, epoch.number(), &self.made).await } else { Ok(()) }
    }
}
