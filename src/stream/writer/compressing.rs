//! A segment that is compressed beside the writer while it grows, so that verifying and
//! compressing each have a processor. A tail's, too, is made from memory and never read back
//! from the disk. At its end little is left to do.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::error::{Error, Result};
use crate::model::summary::Summary;
use crate::segment::write::{Finished, SegmentWriter};

/// Small pieces are gathered up to this size before they are handed over.
const PIECE_BYTES: usize = 256 << 10;
/// A piece at least this long is handed over as it is.
const WHOLE_BYTES: usize = 64 << 10;
/// Pieces that wait to be compressed, before the writer waits for them.
const PIECES_MAX: usize = 16;

/// A segment that grows.
pub(super) enum Compressing {
    /// By the writer's own thread, while the bytes are in its processor's cache.
    Here(Box<SegmentWriter>),
    /// By a thread of its own.
    Beside(Beside),
}

/// The writer's end of a compressor.
pub(super) struct Beside {
    pieces: SyncSender<Bytes>,
    gathered: BytesMut,
    end: oneshot::Sender<Summary>,
    finished: JoinHandle<Result<Finished>>,
}

impl Compressing {
    /// Begins a compressor; `bytes` is how long the segment may become if its writer must never
    /// wait.
    pub(super) fn beside(runtime: &Handle, writer: SegmentWriter, bytes: Option<u64>) -> Self {
        let most = bytes.map_or(PIECES_MAX, |bytes| {
            // Every second piece may be a small one, sent to make way for a whole one.
            usize::try_from(bytes).unwrap_or(usize::MAX).div_ceil(WHOLE_BYTES).saturating_mul(2)
        });
        let (pieces, queue) = sync_channel(most);
        let (end, summary) = oneshot::channel();
        let finished = runtime.spawn_blocking(move || compress(writer, &queue, summary));
        Self::Beside(Beside { pieces, gathered: BytesMut::new(), end, finished })
    }

    /// Takes the next bytes of the segment, and waits until there is room for them; see
    /// [`Compressing::beside`].
    pub(super) fn feed(&mut self, bytes: Bytes) {
        match self {
            Self::Here(writer) => writer.write(&bytes),
            Self::Beside(beside) => beside.feed(bytes),
        }
    }

    /// Ends the segment with its footer, which comes behind all that was taken.
    pub(super) fn close(self, summary: Summary) -> Closed {
        match self {
            Self::Here(writer) => Closed::Finished(writer.finish(&summary)),
            Self::Beside(beside) => beside.close(summary),
        }
    }
}

impl Beside {
    fn feed(&mut self, bytes: Bytes) {
        if bytes.len() >= WHOLE_BYTES {
            self.hand_over_gathered();
            self.hand_over(bytes);
        } else {
            self.gathered.extend_from_slice(&bytes);
            if self.gathered.len() >= PIECE_BYTES {
                self.hand_over_gathered();
            }
        }
    }

    fn hand_over_gathered(&mut self) {
        if !self.gathered.is_empty() {
            let gathered = self.gathered.split().freeze();
            self.hand_over(gathered);
        }
    }

    fn hand_over(&self, piece: Bytes) {
        // A compressor that is no more is told of by `Closed::finished`.
        let _ = self.pieces.send(piece);
    }

    fn close(mut self, summary: Summary) -> Closed {
        self.hand_over_gathered();
        let _ = self.end.send(summary);
        Closed::Finishing(self.finished)
    }
}

/// A segment that has all its log.
pub(super) enum Closed {
    Finished(Result<Finished>),
    /// The compressor has still something to do.
    Finishing(JoinHandle<Result<Finished>>),
}

impl Closed {
    /// The segment, once it is made.
    pub(super) async fn finished(self) -> Result<Finished> {
        match self {
            Self::Finished(finished) => finished,
            Self::Finishing(compressor) => {
                compressor.await.map_err(|error| Error::failure("a compressor stopped").because(error))?
            }
        }
    }
}

/// The compressor's thread, for as long as the segment is open.
fn compress(
    mut writer: SegmentWriter,
    pieces: &Receiver<Bytes>,
    summary: oneshot::Receiver<Summary>,
) -> Result<Finished> {
    while let Ok(piece) = pieces.recv() {
        writer.write(&piece);
    }
    let summary = summary.blocking_recv().map_err(|_| Error::failure("a segment was given up"))?;
    writer.finish(&summary)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::offset::{Offset, OffsetRange};
    use crate::model::timeline::TimelineId;
    use crate::segment::codec::Compression;
    use crate::segment::format::Header;
    use crate::segment::read::{Expected, decode_to_vec};

    const SEGMENT_BYTES: usize = 2 << 20;

    /// The worst case: each whole piece finds a small one waiting.
    fn pieces() -> Vec<Bytes> {
        let mut rest = Bytes::from((0..SEGMENT_BYTES).map(|at| (at / 7) as u8).collect::<Vec<u8>>());
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let size = if pieces.len() % 2 == 0 { 1 } else { WHOLE_BYTES };
            pieces.push(rest.split_to(size.min(rest.len())));
        }
        pieces
    }

    #[test]
    fn what_is_in_a_tail_never_waits_for_a_compressor_that_has_not_begun() {
        let runtime = tokio::runtime::Builder::new_multi_thread().max_blocking_threads(1).build().unwrap();
        let (release, held) = std::sync::mpsc::channel::<()>();
        runtime.spawn_blocking(move || held.recv());

        let header = Header {
            cluster: "main".parse().unwrap(),
            engine: "postgres".into(),
            timeline: TimelineId(1),
            start: Offset(0),
            epoch: 1,
        };
        let range = OffsetRange::new(Offset(0), Offset(SEGMENT_BYTES as u64));
        let mut summary = Summary::empty(range.start, range.start);
        (summary.range, summary.boundary) = (range, range.end);
        let writer = SegmentWriter::new(header.clone(), Compression::Lz4);
        let mut segment = Compressing::beside(runtime.handle(), writer, Some(SEGMENT_BYTES as u64));
        let (closed, closing) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for piece in pieces() {
                segment.feed(piece);
            }
            let _ = closed.send(segment.close(summary));
        });
        let closed = closing.recv_timeout(Duration::from_secs(30)).expect("the writer waited");

        drop(release);
        let expected = Expected { cluster: header.cluster, timeline: header.timeline, range, epoch: header.epoch };
        let object = runtime.block_on(closed.finished()).unwrap().body.concat();
        let (_, raw) = decode_to_vec("segment", &expected, &object.into()).unwrap();
        assert_eq!(raw, pieces().concat());
    }
}
