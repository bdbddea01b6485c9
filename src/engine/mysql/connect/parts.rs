//! A session's two directions, for a replication stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWriteExt as _, ReadBuf, ReadHalf, WriteHalf};

use super::{lost, packet};
use crate::engine::stream::Stream;
use crate::error::Result;

/// What the server sends, from the first byte that was not yet taken. For [`packet::Unframer`].
#[derive(Debug)]
pub struct Reader {
    pub(super) buffered: BytesMut,
    pub(super) stream: ReadHalf<Stream>,
}

impl AsyncRead for Reader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let reader = self.get_mut();
        if reader.buffered.is_empty() {
            return Pin::new(&mut reader.stream).poll_read(cx, buf);
        }
        let count = reader.buffered.len().min(buf.remaining());
        buf.put_slice(&reader.buffered.split_to(count));
        Poll::Ready(Ok(()))
    }
}

/// What goes to the server.
#[derive(Debug)]
pub struct Writer {
    pub(super) place: String,
    pub(super) stream: WriteHalf<Stream>,
    /// Accepted and not yet taken by the socket.
    pub(super) unsent: BytesMut,
}

impl Writer {
    /// Sends one packet, its first frame numbered `sequence`. Cancel safe: what was not yet
    /// written goes out before the next packet.
    ///
    /// # Errors
    /// [`crate::Kind::DatabaseUnreachable`] when the connection is lost.
    pub async fn write_packet(&mut self, sequence: u8, payload: &[u8]) -> Result<()> {
        packet::frame(&mut self.unsent, sequence, payload);
        while self.unsent.has_remaining() {
            if self.stream.write_buf(&mut self.unsent).await.map_err(|e| lost(&self.place, Some(e)))? == 0 {
                return Err(lost(&self.place, None));
            }
        }
        self.stream.flush().await.map_err(|e| lost(&self.place, Some(e)))
    }

    /// Closes our direction. Errors no longer matter.
    pub async fn close(mut self) {
        let _ = self.stream.shutdown().await;
    }
}
