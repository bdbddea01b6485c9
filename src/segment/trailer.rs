//! The trailer of a tail: up to when the log in it is complete.
//!
//! A tail is raw log, and log does not tell that nothing happened. So behind the last
//! byte of log lie 32 more, written with it and overwritten by what comes next; behind
//! them are only zeros. A tail with less room than that left has none.
//!
//! ```text
//!  0  8 bytes of zero, with which no record begins
//!  8  boundary   u64, where the last whole record ended
//! 16  confirmed  i64, microseconds since 1970-01-01 UTC of the source's clock
//! 24  crc32c     u32, of the tail's first offset (u64) and bytes 0 to 24
//! 28  "TAIL"
//! ```
//!
//! Numbers are little endian. A crash may leave a trailer without the log before it, so
//! it counts only where the records themselves reach its boundary.

use crate::model::offset::Offset;
use crate::model::time::Timestamp;

/// Length of a trailer.
pub const TRAILER_BYTES: usize = 32;

const MAGIC: &[u8; 4] = b"TAIL";

/// Up to when a tail is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Where the last whole record before it ended.
    pub boundary: Offset,
    /// Up to this moment every transaction lies in the log before it.
    pub confirmed: Timestamp,
}

impl Trailer {
    /// The bytes of the trailer in the tail that begins at `start`.
    #[must_use]
    pub fn encode(self, start: Offset) -> [u8; TRAILER_BYTES] {
        let mut bytes = [0; TRAILER_BYTES];
        bytes[8..16].copy_from_slice(&self.boundary.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.confirmed.0.to_le_bytes());
        let crc = checksum(start, &bytes[..24]);
        bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        bytes[28..].copy_from_slice(MAGIC);
        bytes
    }

    fn decode(bytes: &[u8], start: Offset) -> Option<Self> {
        let bytes: &[u8; TRAILER_BYTES] = bytes.try_into().ok()?;
        let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let crc = u32::from_le_bytes(bytes.get(24..28)?.try_into().ok()?);
        let sound = bytes.ends_with(MAGIC) && word(0)? == 0 && crc == checksum(start, bytes.get(..24)?);
        sound.then_some(Self { boundary: Offset(word(8)?), confirmed: Timestamp(word(16)?.cast_signed()) })
    }
}

fn checksum(start: Offset, bytes: &[u8]) -> u32 {
    super::bytes::crc32c(&[&start.0.to_le_bytes(), bytes].concat())
}

/// Finds the trailer while a tail is read from front to end.
#[derive(Debug, Default)]
pub struct Finder {
    /// The last bytes up to the last one that is not zero.
    found: Vec<u8>,
    /// The last bytes of all.
    recent: Vec<u8>,
    read: u64,
    found_end: u64,
}

impl Finder {
    /// Takes the next bytes of the tail; tells whether they are more than zeros.
    pub fn feed(&mut self, piece: &[u8]) -> bool {
        let end = without_zeros(piece);
        if let Some(end) = end {
            self.found.clone_from(&self.recent);
            keep_last(&mut self.found, piece.get(..end).unwrap_or_default());
            self.found_end = self.read + end as u64;
        }
        keep_last(&mut self.recent, piece);
        self.read += piece.len() as u64;
        end.is_some()
    }

    /// The trailer of the tail that begins at `start`, and how many bytes lie before it.
    #[must_use]
    pub fn trailer(&self, start: Offset) -> Option<(Trailer, u64)> {
        let trailer = Trailer::decode(&self.found, start)?;
        Some((trailer, self.found_end - TRAILER_BYTES as u64))
    }
}

fn keep_last(kept: &mut Vec<u8>, piece: &[u8]) {
    kept.extend_from_slice(piece.get(piece.len().saturating_sub(TRAILER_BYTES)..).unwrap_or_default());
    kept.drain(..kept.len().saturating_sub(TRAILER_BYTES));
}

/// Where the zeros at the end begin, unless all are zeros.
fn without_zeros(bytes: &[u8]) -> Option<usize> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut end = bytes.len();
    for chunk in bytes.rchunks(ZEROS.len()) {
        if Some(chunk) != ZEROS.get(..chunk.len()) {
            let last = chunk.iter().rposition(|byte| *byte != 0)?;
            return Some(end - chunk.len() + last + 1);
        }
        end -= chunk.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Offset = Offset(1 << 24);

    fn trailer() -> Trailer {
        Trailer { boundary: Offset(START.0 + 90), confirmed: Timestamp(1_790_000_000_123_456) }
    }

    fn find(bytes: &[u8], piece: usize, start: Offset) -> Option<(Trailer, u64)> {
        let mut finder = Finder::default();
        for piece in bytes.chunks(piece) {
            finder.feed(piece);
        }
        finder.trailer(start)
    }

    proptest! {
        #[test]
        fn is_found_behind_any_log_however_it_is_read(
            log in prop::collection::vec(any::<u8>(), 0..200),
            zeros in 0usize..10_000,
            piece in 1usize..9000,
        ) {
            let bytes = [&log[..], &trailer().encode(START), &vec![0; zeros]].concat();
            prop_assert_eq!(find(&bytes, piece, START), Some((trailer(), log.len() as u64)));
        }
    }

    #[test]
    fn is_none_in_another_tail_or_where_log_was_written_over_it() {
        let mut bytes = [&[7; 50][..], &trailer().encode(START), &[0; 50]].concat();
        assert_eq!(find(&bytes, 64, Offset(START.0 + 1)), None);
        bytes[82] = 1;
        assert_eq!(find(&bytes, 64, START), None);
        assert_eq!(find(&[0; 100], 64, START), None);
        assert_eq!(find(b"TAIL", 64, START), None);
    }

    #[test]
    fn a_flipped_bit_anywhere_in_it_is_noticed() {
        for bit in 0..TRAILER_BYTES * 8 {
            let mut bytes = [&[7; 50][..], &trailer().encode(START), &[0; 50]].concat();
            bytes[50 + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(find(&bytes, 64, START), None, "bit {bit}");
        }
    }
}
