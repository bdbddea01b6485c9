//! A closed segment's way into the store, beside the writer: compressed, created behind
//! the one before it, told durable; then the tail goes.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Compressing, Shared};
use crate::catalog::Codec;
use crate::catalog::archive::Archive;
use crate::catalog::fence::Epoch;
use crate::catalog::layout::ObjectName;
use crate::error::{Error, Result};
use crate::model::summary::Summary;
use crate::model::timeline::TimelineId;
use crate::segment::write::Finished;
use crate::stream::tail::Spare;

/// The bytes of a closed segment.
pub(super) enum Made {
    /// Compressed already.
    InMemory(Finished),
    /// Beside a tail.
    InTail { segment: Compressing, path: PathBuf },
}

/// A closed segment on its way to the store.
pub(super) struct Upload {
    pub(super) archive: Archive,
    pub(super) timeline: TimelineId,
    pub(super) epoch: Epoch,
    pub(super) codec: Codec,
    pub(super) summary: Summary,
    pub(super) shared: Arc<Shared>,
}

impl Upload {
    /// Creates the segment once the one `before` it is there, reports it durable, and
    /// only then retires the tail it came from.
    pub(super) async fn create(&self, made: Made, before: Option<oneshot::Receiver<()>>) -> Result<()> {
        let (finished, tail) = match made {
            Made::InMemory(finished) => (finished, None),
            Made::InTail { segment, path } => (segment.finish(self.summary.clone()).await?, Some(path)),
        };
        if let Some(before) = before {
            before.await.map_err(|_| Error::failure("the segment before was not stored"))?;
        }
        let Self { archive, timeline, epoch, codec, summary, shared } = self;
        let object =
            ObjectName::Segment { timeline: *timeline, range: summary.range, epoch: epoch.number(), codec: *codec };
        archive.store.create(&archive.layout.name(&object), finished.body).await?;
        epoch.check(archive.store.as_ref()).await?;
        shared.durable(summary.range, summary.boundary, summary.times.map(|t| t.1));
        if let Some(path) = tail {
            let retired = tokio::task::spawn_blocking(move || Spare::of_sealed(&path)).await;
            shared.retire(retired.map_err(|e| Error::failure("a sealer stopped").because(e))??);
        }
        Ok(())
    }
}
