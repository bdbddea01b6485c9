//! A closed segment's way into the store, beside the writer: compressed, created behind
//! the one before it, told durable; then the tail goes. And what is done at a log file's end.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::Shared;
use super::compressing::Closed;
use crate::catalog::archive::Archive;
use crate::catalog::fence::Epoch;
use crate::catalog::layout::ObjectName;
use crate::catalog::{Codec, SegmentInfo};
use crate::engine::Engine;
use crate::error::{Error, Kind, Result};
use crate::model::summary::Summary;
use crate::model::timeline::TimelineId;
use crate::segment::codec::Compression;
use crate::segment::cutter::Limits;
use crate::stream::compact::compact;
use crate::stream::roll_up::roll_up;
use crate::stream::tail::Spare;

/// The bytes of a closed segment.
pub(super) struct Made {
    pub(super) segment: Closed,
    /// The tail that holds them as well.
    pub(super) tail: Option<PathBuf>,
}

/// A closed segment on its way to the store.
pub(super) struct Upload {
    pub(super) archive: Archive,
    pub(super) timeline: TimelineId,
    pub(super) epoch: Epoch,
    /// Whoever writes this timeline writes the same bytes at the same offsets.
    pub(super) shares_log: bool,
    pub(super) codec: Codec,
    pub(super) summary: Summary,
    pub(super) shared: Arc<Shared>,
}

impl Upload {
    /// Creates the segment once the one `before` it is there, reports it durable, and
    /// only then retires the tail it came from.
    pub(super) async fn create(&self, made: Made, before: Option<oneshot::Receiver<()>>) -> Result<()> {
        let finished = made.segment.finished().await?;
        wait_for(before).await?;
        let Self { archive, timeline, epoch, shares_log, codec, summary, shared } = self;
        let object =
            ObjectName::Segment { timeline: *timeline, range: summary.range, epoch: epoch.number(), codec: *codec };
        archive.store.create(&archive.layout.name(&object), finished.body).await?;
        let store = archive.store.as_ref();
        if *shares_log && store.local_root().is_none() {
            epoch.check_seldom(store).await?;
        } else {
            // After the create: a later writer who did not see this segment had come before.
            epoch.check(store).await?;
        }
        shared.durable(summary.range, summary.boundary, summary.times.map(|t| t.1));
        if let Some(path) = made.tail {
            let retired = spawn_blocking(move || Spare::of_sealed(&path)).await;
            shared.retire(retired.map_err(|e| Error::failure("a sealer stopped").because(e))??);
        }
        Ok(())
    }
}

/// What is due at the end of a log file, once its segments are in the store: its small segments
/// are replaced by one, and footers rolled up into an index.
pub(super) struct Housekeeping {
    pub(super) archive: Archive,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) timeline: TimelineId,
    pub(super) epoch: Epoch,
    pub(super) limits: Limits,
    pub(super) compression: Compression,
    /// The small segments, if there are any.
    pub(super) parts: Vec<SegmentInfo>,
    /// Whether there are enough footers.
    pub(super) rolls_up: bool,
}

impl Housekeeping {
    /// Does it, behind the segment `before` it, and on a thread of its own: joining segments
    /// and reading a long catalog take time.
    pub(super) async fn keep(self, before: Option<oneshot::Receiver<()>>) -> Result<()> {
        wait_for(before).await?;
        let runtime = Handle::current();
        let work = spawn_blocking(move || runtime.block_on(self.work()));
        work.await.map_err(|error| Error::failure("housekeeping stopped").because(error))?
    }

    async fn work(&self) -> Result<()> {
        let Self { archive, engine, timeline, epoch, limits, compression, parts, rolls_up } = self;
        if !parts.is_empty() {
            match compact(archive, *timeline, parts, limits, epoch.number(), *compression).await {
                // The small ones stay as they are. The log to come needs none of them.
                Err(error) if error.kind() == Kind::Corruption => {
                    tracing::error!(%error, hint = error.advice(), "small segments of a log file are not joined");
                }
                compacted => drop(compacted?),
            }
        }
        if *rolls_up {
            roll_up(archive, engine.as_ref(), *timeline, epoch.number()).await?;
        }
        Ok(())
    }
}

async fn wait_for(before: Option<oneshot::Receiver<()>>) -> Result<()> {
    match before {
        Some(before) => before.await.map_err(|_| Error::failure("the segment before was not stored")),
        None => Ok(()),
    }
}
