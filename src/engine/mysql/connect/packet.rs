//! Frames and packets: the layer under every MySQL message, in both directions.
//!
//! ```text
//!   0      3     4
//!   +------+-----+----------------
//!   | len  | seq | len bytes
//!   +------+-----+----------------
//! ```
//!
//! `len` is little-endian. A packet of 16 MiB - 1 bytes or more travels as frames of
//! exactly 16 MiB - 1 and a shorter, perhaps empty, last one. `seq` counts frames and
//! wraps at 256; a client's command begins at 0, and the answer goes on from there.
//!
//! [`Unframer`] gives packets in pieces as they arrive: it allocates nothing, copies
//! nothing and never holds a packet, so that an event of 1 GiB costs what one of 1 KiB
//! costs. Its whole state is between two calls, so it may be fed wherever a read ends.
//!
//! Source: MySQL Internals, "MySQL Packets"; `sql-common/net_serv.cc`.

use bytes::BufMut;

use crate::error::{Error, Kind, Result};

#[cfg(test)]
mod tests;

/// Bytes before a frame's payload.
pub const HEADER_BYTES: usize = 4;

/// Payload of a full frame, after which the packet goes on in another.
pub const FRAME_BYTES_MAX: usize = 0xff_ff_ff;

/// A part of a packet's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The bytes, in the buffer they were fed from. Empty only when the packet is, or when
    /// its last frame is.
    pub bytes: &'a [u8],
    /// Whether a packet begins here.
    pub first: bool,
    /// Whether the packet ends here.
    pub last: bool,
}

/// Takes the frames off a stream of packets.
#[derive(Clone, Debug)]
pub struct Unframer {
    /// The part of a header that has arrived.
    header: [u8; HEADER_BYTES],
    header_len: usize,
    /// Payload still to come in the frame whose header was read; `None` between frames.
    frame: Option<usize>,
    /// Whether the packet goes on after this frame.
    more: bool,
    /// Whether no piece of the packet was given yet.
    first: bool,
    sequence: u8,
}

impl Unframer {
    /// Expects a packet whose first frame has this sequence number: 1 after a command.
    #[must_use]
    pub const fn new(sequence: u8) -> Self {
        Self { header: [0; HEADER_BYTES], header_len: 0, frame: None, more: false, first: true, sequence }
    }

    /// Expects this sequence number next. To be called between two packets: a server counts
    /// from 1 again after an event for which it wants a semi-synchronous acknowledgement
    /// (`flush_net` in `semisync_master.cc`, `readSlaveReply` in `semisync_source.cc`).
    pub const fn expect(&mut self, sequence: u8) {
        self.sequence = sequence;
    }

    /// The sequence number expected next, which is also that of an answer to the last packet.
    #[must_use]
    pub const fn sequence(&self) -> u8 {
        self.sequence
    }

    /// Whether no packet has begun that is not at its end.
    #[must_use]
    pub const fn is_between_packets(&self) -> bool {
        self.first && self.frame.is_none() && self.header_len == 0
    }

    /// The next piece of what is in `input`, which is moved past it; `None` when more bytes
    /// are needed, and then `input` is empty.
    ///
    /// # Errors
    /// [`Kind::DatabaseUnreachable`] for a frame out of sequence: bytes were lost, or the
    /// peer speaks something else. Nothing after it can be trusted.
    #[inline]
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>> {
        let left = match self.frame {
            Some(left) => left,
            None => match self.begin_frame(input)? {
                Some(length) => length,
                None => return Ok(None),
            },
        };
        let (bytes, rest) = input.split_at(left.min(input.len()));
        let frame_ends = bytes.len() == left;
        if bytes.is_empty() && !frame_ends {
            self.frame = Some(left);
            return Ok(None);
        }
        *input = rest;
        self.frame = (!frame_ends).then_some(left - bytes.len());
        let last = frame_ends && !self.more;
        let piece = Piece { bytes, first: self.first, last };
        self.first = last;
        Ok(Some(piece))
    }

    /// Reads a frame's header; gives the payload's length once it is whole.
    #[inline]
    fn begin_frame(&mut self, input: &mut &[u8]) -> Result<Option<usize>> {
        let header = match (self.header_len, input.split_first_chunk::<HEADER_BYTES>()) {
            (0, Some((header, rest))) => {
                *input = rest;
                *header
            }
            _ => match self.collect_header(input) {
                Some(header) => header,
                None => return Ok(None),
            },
        };
        let [a, b, c, sequence] = header;
        if sequence != self.sequence {
            return Err(out_of_sequence(sequence, self.sequence));
        }
        self.sequence = sequence.wrapping_add(1);
        let length = usize::from(a) | (usize::from(b) << 8) | (usize::from(c) << 16);
        self.more = length == FRAME_BYTES_MAX;
        Ok(Some(length))
    }

    /// Puts a header together that arrived in parts.
    #[cold]
    fn collect_header(&mut self, input: &mut &[u8]) -> Option<[u8; HEADER_BYTES]> {
        for place in self.header.iter_mut().skip(self.header_len) {
            let (byte, rest) = input.split_first()?;
            *place = *byte;
            self.header_len += 1;
            *input = rest;
        }
        self.header_len = 0;
        Some(self.header)
    }
}

#[cold]
fn out_of_sequence(found: u8, expected: u8) -> Error {
    Error::new(
        Kind::DatabaseUnreachable,
        format!("the server's packet has sequence number {found}, and {expected} was expected"),
    )
    .hint("is it a MySQL or MariaDB server that listens there, without a proxy in between?")
}

/// Appends `payload` to `out` as the frames of one packet, the first numbered `sequence`.
/// Gives the number after the last one.
pub fn frame(out: &mut impl BufMut, sequence: u8, payload: &[u8]) -> u8 {
    let mut sequence = sequence;
    let mut rest = payload;
    loop {
        let (part, after) = rest.split_at(rest.len().min(FRAME_BYTES_MAX));
        // At most 24 bits are set.
        let [a, b, c, ..] = part.len().to_le_bytes();
        out.put_slice(&[a, b, c, sequence]);
        out.put_slice(part);
        sequence = sequence.wrapping_add(1);
        rest = after;
        if part.len() < FRAME_BYTES_MAX {
            return sequence;
        }
    }
}
