//! A tail's segment, compressed beside the writer while the tail grows: what was verified goes
//! into it from memory, is never read back from the disk, and at the end little is left to do.

use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use crate::error::{Error, Result};
use crate::model::summary::Summary;
use crate::segment::write::{Finished, SegmentWriter};

/// Raw bytes gathered before they are compressed.
const PIECE_BYTES: usize = 256 << 10;

/// A segment that grows.
pub(super) struct Compressing {
    runtime: Handle,
    /// Gives the segment once all pieces handed over before are in it.
    segment: Option<JoinHandle<Result<SegmentWriter>>>,
    piece: Vec<u8>,
}

impl Compressing {
    pub(super) fn new(runtime: Handle, writer: SegmentWriter) -> Self {
        let segment = runtime.spawn(async { Ok(writer) });
        Self { runtime, segment: Some(segment), piece: Vec::new() }
    }

    /// Takes the next bytes of the segment.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(PIECE_BYTES - self.piece.len()));
            self.piece.extend_from_slice(piece);
            rest = after;
            if self.piece.len() == PIECE_BYTES {
                self.hand_over();
            }
        }
    }

    fn hand_over(&mut self) {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        let before = self.segment.take();
        self.segment = Some(self.runtime.spawn(async move {
            let mut writer = wait_for(before).await?;
            let compress = move || {
                writer.write(&piece);
                writer
            };
            spawn_blocking(compress).await.map_err(stopped)
        }));
    }

    /// Ends the segment with its footer.
    pub(super) async fn finish(self, summary: Summary) -> Result<Finished> {
        let mut writer = wait_for(self.segment).await?;
        let finish = move || {
            writer.write(&self.piece);
            writer.finish(&summary)
        };
        spawn_blocking(finish).await.map_err(stopped)?
    }
}

async fn wait_for(segment: Option<JoinHandle<Result<SegmentWriter>>>) -> Result<SegmentWriter> {
    match segment {
        Some(segment) => segment.await.map_err(stopped)?,
        None => Err(Error::failure("a segment was handed over twice")),
    }
}

fn stopped(error: JoinError) -> Error {
    Error::failure("a compressor stopped").because(error)
}
