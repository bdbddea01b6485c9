//! A closed segment's way into the store, beside the writer: compressed, created behind
//! the one before it, told durable; then the tail goes.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Shared;
use crate::catalog::Codec;
use crate::catalog::archive::Archive;
use crate::catalog::fence::Epoch;
use crate::catalog::layout::ObjectName;
use crate::error::{Error, Result};
use crate::model::summary::Summary;
use crate::model::timeline::TimelineId;
use crate::segment::write::{Finished, SegmentWriter};
use crate::stream::tail::Spare;

/// The bytes of a closed segment.
pub(super) enum Made {
    /// Compressed already.
    InMemory(Finished),
    /// Raw in a full tail.
    InTail { writer: Box<SegmentWriter>, path: PathBuf, bytes: u64, sum: u32 },
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
            Made::InTail { writer, path, bytes, sum } => {
                let (from, summary) = (path.clone(), self.summary.clone());
                let compressed =
                    tokio::task::spawn_blocking(move || compress_file(*writer, &from, bytes, sum, &summary)).await;
                (compressed.map_err(|e| Error::failure("a sealer stopped").because(e))??, Some(path))
            }
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

/// Compresses the log in a tail, whose CRC-32C was `sum` when it was verified: what a disk
/// gives back otherwise must not get a valid checksum.
fn compress_file(mut writer: SegmentWriter, path: &Path, bytes: u64, sum: u32, summary: &Summary) -> Result<Finished> {
    let file = std::fs::File::open(path).map_err(|e| Error::store_io("open", path, e))?;
    let mut buffer = vec![0u8; 1 << 18];
    let mut found = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    let mut done = 0;
    while done < bytes {
        let want = usize::try_from(bytes - done).unwrap_or(usize::MAX).min(buffer.len());
        let piece = buffer.get_mut(..want).unwrap_or_default();
        file.read_exact_at(piece, done).map_err(|e| Error::store_io("read", path, e))?;
        found.update(piece);
        writer.write(piece);
        done += want as u64;
    }
    // The algorithm is 32 bits wide.
    if found.finalize() as u32 != sum {
        return Err(Error::corruption(format!("{} does not hold what was written into it", path.display()))
            .hint("the disk gave back other bytes: do not rely on it; see `dmesg`"));
    }
    writer.finish(summary)
}
