//! The receive buffer: a few large blocks that go round.
//!
//! A message's payload is handed out as a slice of the block it was read into. The
//! block is used again when everybody has dropped their slices, so that at full speed
//! the same few MiB are written over and over: no allocation, no page fault and no
//! copy per message, but for the piece of one message that lies across the end of a
//! block.
//!
//! Blocks held by a slow consumer are replaced by new ones; how much it may hold is
//! bounded by its own queue.

use bytes::{Bytes, BytesMut};

use crate::engine::postgres::wire::frame::{Head, Phase};
use crate::error::Result;

/// Size of a block. Reads are as long as what is left of one.
const BLOCK_BYTES: usize = 1 << 20;

/// Blocks that are kept: 4 MiB in all.
const BLOCKS: usize = 4;

/// Shortest read worth a system call; with less room than this the next block is
/// taken.
const READ_BYTES_MIN: usize = 256 << 10;

/// Bytes received and not yet taken.
#[derive(Debug, Default)]
pub(super) struct Receive {
    current: BytesMut,
    /// Blocks not written to now, the last used last; others may still read them.
    resting: Vec<BytesMut>,
}

impl Receive {
    /// Takes the next whole message: its tag and its body.
    ///
    /// # Errors
    /// As [`Head::parse`].
    pub(super) fn message(&mut self, phase: Phase) -> Result<Option<(u8, Bytes)>> {
        let Some(head) = Head::parse(&self.current, phase)? else { return Ok(None) };
        if self.current.len() < head.total {
            return Ok(None);
        }
        let mut message = self.current.split_to(head.total).freeze();
        bytes::Buf::advance(&mut message, crate::engine::postgres::wire::frame::HEADER_BYTES);
        Ok(Some((head.tag, message)))
    }

    /// The buffer to read into, with room for the rest of the message that has begun
    /// and for a read that is worth it.
    ///
    /// # Errors
    /// As [`Head::parse`].
    pub(super) fn room(&mut self, phase: Phase) -> Result<&mut BytesMut> {
        let begun = self.current.len();
        let missing = Head::parse(&self.current, phase)?.map_or(0, |head| head.total.saturating_sub(begun));
        if self.current.capacity() - begun >= missing.max(READ_BYTES_MIN) {
            return Ok(&mut self.current);
        }
        let size = BLOCK_BYTES.max(begun + missing.max(READ_BYTES_MIN));
        // Nothing handed out any more: begin this block again.
        if begun == 0 && self.current.try_reclaim(size) {
            return Ok(&mut self.current);
        }
        // The block used last is the warmest in the processor's caches.
        let free = self.resting.iter_mut().rposition(|block| block.try_reclaim(size));
        let mut next = match free {
            Some(index) => self.resting.remove(index),
            None => BytesMut::with_capacity(size),
        };
        next.extend_from_slice(&self.current);
        let mut used = std::mem::replace(&mut self.current, next);
        used.clear();
        if self.resting.len() + 1 >= BLOCKS {
            self.resting.remove(0);
        }
        self.resting.push(used);
        Ok(&mut self.current)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::postgres::wire::frame::put;

    fn feed(receive: &mut Receive, mut bytes: &[u8], piece: usize) -> Vec<(u8, Bytes)> {
        let mut messages = Vec::new();
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at(piece.min(bytes.len()));
            let room = receive.room(Phase::Ready).unwrap();
            assert!(room.capacity() - room.len() >= head.len());
            room.extend_from_slice(head);
            bytes = rest;
            while let Some(message) = receive.message(Phase::Ready).unwrap() {
                messages.push(message);
            }
        }
        messages
    }

    #[test]
    fn blocks_go_round_when_nobody_holds_their_bytes() {
        let mut receive = Receive::default();
        let mut message = Vec::new();
        put(&mut message, b'd', &vec![7; 100_000]);
        let mut places = std::collections::BTreeSet::new();
        for _ in 0..200 {
            for (_, body) in feed(&mut receive, &message, 40_000) {
                places.insert(body.as_ptr() as usize / BLOCK_BYTES);
            }
        }
        // 20 MB went through; a block may touch two megabyte-aligned ranges.
        assert!(places.len() <= 2 * BLOCKS, "{} places", places.len());
    }

    #[test]
    fn a_slow_consumer_keeps_its_bytes() {
        let mut receive = Receive::default();
        let mut held = Vec::new();
        for fill in 0..60_u8 {
            let mut message = Vec::new();
            put(&mut message, b'd', &vec![fill; 120_000]);
            held.extend(feed(&mut receive, &message, 50_000));
        }
        assert!(receive.resting.len() < BLOCKS);
        for (fill, (_, body)) in (0..60_u8).zip(&held) {
            assert_eq!(body.len(), 120_000);
            assert!(body.iter().all(|b| *b == fill));
        }
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in(
            sizes in proptest::collection::vec(0_usize..300_000, 1..12),
            piece in 1_usize..200_000,
        ) {
            let mut bytes = Vec::new();
            for (fill, size) in sizes.iter().enumerate() {
                put(&mut bytes, b'd', &vec![u8::try_from(fill).unwrap(); *size]);
            }
            let messages = feed(&mut Receive::default(), &bytes, piece.max(bytes.len() / 500));
            prop_assert_eq!(messages.len(), sizes.len());
            for (fill, ((_, body), size)) in messages.iter().zip(&sizes).enumerate() {
                prop_assert_eq!(body.len(), *size);
                prop_assert!(body.iter().all(|b| usize::from(*b) == fill));
            }
        }
    }
}
