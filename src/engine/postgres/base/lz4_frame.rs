//! A push reader of the LZ4 frames in which a server compresses its archives.
//!
//! Bytes go in as they come, what they decompress to comes out in pieces of a block's
//! size. PostgreSQL 15 and newer write one frame for each archive, with linked blocks
//! of 256 KiB and without checksums (`src/backend/backup/basebackup_lz4.c`); every file
//! in it is checked by the server's manifest. Format: lz4 `doc/lz4_Frame_format.md`.
//!
//! ```text
//! 0  u32  0x184D2204
//! 4  u8   FLG: version 01, independent blocks, block sums, size, content sum, 0, dictionary
//! 5  u8   BD: largest block, 4 = 64 KiB to 7 = 4 MiB
//! 6  [u64 size]  u8 check of the header
//!    blocks: u32 length, highest bit set for a block stored raw; its bytes; [u32 sum]
//!    u32 0, [u32 sum of the content]
//! ```
//! `lz4_flex::frame` reads only from a blocking reader, and takes a frame that is cut
//! at a block's end as whole (0.14.0).

use bytes::{Bytes, BytesMut};
use lz4_flex::block::decompress_into_with_dict;

use crate::error::{Error, Result};

const MAGIC: [u8; 4] = 0x184D_2204_u32.to_le_bytes();

/// Set in a block's length when its bytes are stored as they are.
const STORED_RAW: u32 = 1 << 31;

/// How far back a match of the next block may lie.
const WINDOW_BYTES: usize = 64 << 10;

/// Output blocks that are kept for use again.
const BLOCKS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Magic, FLG and BD.
    Start,
    /// The header's other fields, which say nothing we need.
    Header,
    /// A block's length.
    Length,
    /// A block's bytes.
    Block { len: usize, raw: bool },
    /// The sum behind the end mark.
    Sum,
    /// After the frame: nothing may follow.
    End,
}

/// Reads one frame.
#[derive(Debug)]
pub struct FrameReader {
    state: State,
    /// How many bytes the state waits for.
    need: usize,
    /// Those of them that have come, when they did not come at once.
    begun: BytesMut,
    block_max: usize,
    block_sums: bool,
    content_sum: bool,
    linked: bool,
    /// The last [`WINDOW_BYTES`] that came out.
    window: Bytes,
    /// Blocks handed out before, each whole; one is free when nobody else holds it.
    blocks: Vec<Bytes>,
}

impl Default for FrameReader {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameReader {
    /// A reader at the start of a frame.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Start,
            need: 6,
            begun: BytesMut::new(),
            block_max: 0,
            block_sums: false,
            content_sum: false,
            linked: false,
            window: Bytes::new(),
            blocks: Vec::new(),
        }
    }

    /// Takes the next bytes of the frame and gives what they decompress to to `each`.
    ///
    /// # Errors
    /// [`crate::Kind::Failure`] for what is no such frame; what `each` returns. The
    /// reader is then of no more use.
    pub fn feed(&mut self, mut bytes: Bytes, mut each: impl FnMut(Bytes) -> Result<()>) -> Result<()> {
        while !bytes.is_empty() {
            if self.state == State::End {
                return Err(Error::failure("the server's LZ4 frame goes on after its end"));
            }
            let missing = self.need - self.begun.len();
            let field = if self.begun.is_empty() && bytes.len() >= missing {
                bytes.split_to(missing)
            } else {
                self.begun.extend_from_slice(&bytes.split_to(missing.min(bytes.len())));
                if self.begun.len() < self.need {
                    break;
                }
                self.begun.split().freeze()
            };
            (self.state, self.need) = self.take(field, &mut each)?;
        }
        Ok(())
    }

    /// Ends the frame.
    ///
    /// # Errors
    /// [`crate::Kind::Failure`] before its end mark.
    pub fn finish(self) -> Result<()> {
        match self.state {
            State::End => Ok(()),
            _ => Err(Error::failure("the server's LZ4 frame is cut off")),
        }
    }

    /// Takes what the state was waiting for; gives the next one and its need.
    fn take(&mut self, field: Bytes, each: &mut impl FnMut(Bytes) -> Result<()>) -> Result<(State, usize)> {
        match self.state {
            State::Start => self.start(&field),
            State::Header => Ok((State::Length, 4)),
            State::Length => {
                let length = u32::from_le_bytes(*field.first_chunk().unwrap_or(&[0; 4]));
                let len = (length & !STORED_RAW) as usize;
                match len {
                    0 if self.content_sum => Ok((State::Sum, 4)),
                    0 => Ok((State::End, 0)),
                    _ if len <= self.block_max => {
                        let sum = if self.block_sums { 4 } else { 0 };
                        Ok((State::Block { len, raw: length & STORED_RAW != 0 }, len + sum))
                    }
                    _ => Err(Error::failure(format!(
                        "the server's LZ4 frame has a block of {len} bytes, where its header allows {}",
                        self.block_max
                    ))),
                }
            }
            State::Block { len, raw } => {
                let stored = field.slice(..len.min(field.len()));
                let out = if raw { stored } else { self.decompress(&stored)? };
                if self.linked {
                    self.slide(&out);
                }
                if !out.is_empty() {
                    each(out)?;
                }
                Ok((State::Length, 4))
            }
            State::Sum | State::End => Ok((State::End, 0)),
        }
    }

    fn start(&mut self, field: &[u8]) -> Result<(State, usize)> {
        let refuse = |what: &str| Err(Error::failure(format!("the server's LZ4 frame {what}")));
        let [magic @ .., flags, sizes] = field else { return refuse("has no header") };
        if magic != MAGIC {
            return refuse(&format!("begins with {magic:02x?}"));
        }
        if flags >> 6 != 1 || flags & 1 != 0 {
            return refuse(&format!("is of an unknown kind, FLG {flags:#04x}"));
        }
        self.block_max = match sizes >> 4 & 7 {
            size @ 4..=7 => 1 << (8 + 2 * size),
            size => return refuse(&format!("has blocks of an unknown size, {size}")),
        };
        self.linked = flags & 0x20 == 0;
        self.block_sums = flags & 0x10 != 0;
        self.content_sum = flags & 0x04 != 0;
        Ok((State::Header, if flags & 0x08 != 0 { 9 } else { 1 }))
    }

    fn decompress(&mut self, stored: &[u8]) -> Result<Bytes> {
        let free = self.blocks.iter().rposition(Bytes::is_unique).map(|index| self.blocks.swap_remove(index));
        // A block that comes back still has its bytes, so that nothing is cleared.
        let mut block = match free.map(Bytes::try_into_mut) {
            Some(Ok(block)) if block.len() == self.block_max => block,
            _ => BytesMut::zeroed(self.block_max),
        };
        let len = decompress_into_with_dict(stored, &mut block, &self.window)
            .map_err(|e| Error::failure("a block of the server's LZ4 frame does not decompress").because(e))?;
        let block = block.freeze();
        let out = block.slice(..len.min(block.len()));
        if self.blocks.len() == BLOCKS {
            self.blocks.remove(0);
        }
        self.blocks.push(block);
        Ok(out)
    }

    /// Keeps the last of what came out for the next block to refer to.
    fn slide(&mut self, out: &Bytes) {
        self.window = match out.len().checked_sub(WINDOW_BYTES) {
            Some(start) => out.slice(start..),
            None => {
                let kept = self.window.len().min(WINDOW_BYTES - out.len());
                let before = self.window.slice(self.window.len() - kept..);
                [before, out.clone()].concat().into()
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    use proptest::prelude::*;

    use super::*;
    use crate::engine::postgres::wire::fixtures::conversation;

    fn frame(info: FrameInfo, pieces: &[&[u8]]) -> Vec<u8> {
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        for piece in pieces {
            encoder.write_all(piece).unwrap();
            encoder.flush().unwrap();
        }
        encoder.finish().unwrap()
    }

    fn read(frame: &[u8], piece: usize) -> Result<Vec<u8>> {
        let mut reader = FrameReader::new();
        let mut out = Vec::new();
        for bytes in frame.chunks(piece.max(1)) {
            reader.feed(Bytes::copy_from_slice(bytes), |bytes| {
                out.extend_from_slice(&bytes);
                Ok(())
            })?;
        }
        reader.finish()?;
        Ok(out)
    }

    /// As the server's frames.
    fn linked() -> FrameInfo {
        FrameInfo::new().block_mode(BlockMode::Linked).block_size(BlockSize::Max64KB)
    }

    /// Bytes that compress a little and refer far back.
    fn text(len: usize) -> Vec<u8> {
        let mut state = 1_u32;
        (0..len)
            .map(|at| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if at % 50_000 < 20_000 { (at % 20_000 / 7) as u8 } else { (state >> 24) as u8 }
            })
            .collect()
    }

    proptest! {
        #[test]
        fn what_was_compressed_comes_out(
            cuts in proptest::collection::vec(1_usize..150_000, 1..6),
            piece in 1_usize..40_000,
            flags in 0_u8..16,
        ) {
            let raw = text(cuts.iter().sum());
            let mut rest = &raw[..];
            let pieces: Vec<&[u8]> = cuts.iter().map(|&cut| { let (now, later) = rest.split_at(cut); rest = later; now }).collect();
            let mut info = linked().block_checksums(flags & 1 != 0).content_checksum(flags & 2 != 0);
            if flags & 4 != 0 {
                info = info.block_mode(BlockMode::Independent);
            }
            if flags & 8 != 0 {
                info = info.content_size(Some(raw.len() as u64));
            }
            prop_assert!(read(&frame(info, &pieces), piece).unwrap() == raw);
        }
    }

    #[test]
    fn a_block_may_refer_to_several_small_ones_before_it() {
        let raw = text(60_000);
        let pieces: Vec<&[u8]> = raw.chunks(3_000).chain(raw.chunks(9_000)).collect();
        assert!(read(&frame(linked(), &pieces), 1_000).unwrap() == [&raw[..], &raw[..]].concat());
    }

    #[test]
    fn a_frame_cut_anywhere_is_refused() {
        let bytes = frame(linked().content_checksum(true), &[b"some bytes", b"some more bytes", &text(70_000)]);
        for len in 0..bytes.len() {
            assert!(read(&bytes[..len], 4_096).is_err(), "{len} of {} bytes", bytes.len());
        }
        assert!(read(&[&bytes[..], b"x"].concat(), 4_096).is_err());
    }

    #[test]
    fn what_the_format_forbids_is_refused() {
        let whole = frame(linked(), &[&[7; 100]]);
        let bad = |at: usize, byte: u8, why: &str| {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            let error = read(&bytes, 100).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        };
        bad(0, 0, "begins with");
        bad(4, 0x80, "unknown kind");
        bad(4, 0x41, "unknown kind");
        bad(5, 0x30, "unknown size");
        // 16 MiB in a block where 64 KiB is the limit.
        bad(10, 1, "its header allows");
        // A match that reaches before the start.
        bad(11, 0x0F, "does not decompress");
    }

    /// The first 48 kB of what PostgreSQL 15 sends for `COMPRESSION 'lz4'`.
    #[test]
    fn reads_what_a_server_compressed_up_to_where_it_is_cut() {
        let messages = conversation("base_backup_compressed");
        let data = messages.iter().map(|m| m.bytes.as_slice()).filter(|b| b[0] == b'd' && b[5] == b'd');
        let frame: Vec<u8> = data.flat_map(|bytes| bytes[6..].to_vec()).collect();
        for piece in [1, 1000, frame.len()] {
            let mut reader = FrameReader::new();
            let mut out = Vec::new();
            for bytes in frame.chunks(piece) {
                let each = |bytes: Bytes| {
                    out.extend_from_slice(&bytes);
                    Ok(())
                };
                reader.feed(Bytes::copy_from_slice(bytes), each).unwrap();
            }
            assert!(out.starts_with(b"backup_label\0") && out.len() > frame.len(), "{} bytes", out.len());
            assert!(reader.finish().is_err(), "the frame is cut off");
        }
    }

    #[test]
    fn blocks_go_round_when_nobody_holds_their_bytes() {
        let raw: Vec<u8> = (0..4 << 20_u32).map(|at| (at / 7) as u8).collect();
        let bytes = frame(linked(), &[&raw]);
        let mut places = std::collections::BTreeSet::new();
        let mut reader = FrameReader::new();
        for piece in bytes.chunks(10_000) {
            reader
                .feed(Bytes::copy_from_slice(piece), |out| {
                    places.insert(out.as_ptr() as usize);
                    Ok(())
                })
                .unwrap();
        }
        reader.finish().unwrap();
        assert!(places.len() <= BLOCKS, "{places:x?}");
    }
}
