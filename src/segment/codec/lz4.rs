//! LZ4 frames (lz4 `doc/lz4_Frame_format.md` 1.6.x) written around the *block* functions.
//!
//! ```text
//! 0  u32  0x184D2204
//! 4  u8   FLG = 0x60: version 1, independent blocks, no checksums, no content size
//! 5  u8   BD  = 0x50: blocks of up to 256 KiB
//! 6  u8   HC  = 0xFB: second byte of xxh32(FLG, BD)
//! 7  blocks: u32 length, highest bit set for a block stored raw, then its bytes
//!    u32 0 (end mark)
//! ```
//!
//! Why not `lz4_flex::frame`: its encoder with checksums is half as fast, and its
//! decoder takes a frame cut at a block boundary as a clean end (0.14.0).

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};

use crate::error::{Error, Result};

pub(super) const MAGIC: u32 = 0x184D_2204;
/// The frame's first bytes; a reader of version 1 accepts no others.
const FRAME_START: [u8; 7] = [0x04, 0x22, 0x4D, 0x18, 0x60, 0x50, 0xFB];
/// Largest block, as `BD` says.
const BLOCK_MAX: usize = 256 << 10;
/// A slice at least this long is compressed where it lies; shorter ones are gathered.
/// LZ4 looks back 64 KiB at most, so that larger blocks gain next to nothing.
const DIRECT_MIN: usize = 64 << 10;
/// Set in a block's length when its bytes are stored as they are.
const STORED_RAW: u32 = 1 << 31;

pub(in crate::segment) struct Encoder {
    table: CompressTable,
    /// Small slices waiting to become a block.
    pending: Vec<u8>,
    /// Room for one block's worst case; the output grows by what a block really took.
    scratch: Vec<u8>,
}

impl Encoder {
    pub(super) fn new(out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(&FRAME_START);
        Self { table: CompressTable::large(), pending: Vec::new(), scratch: Vec::new() }
    }

    pub(super) fn write(&mut self, mut raw: &[u8], out: &mut Vec<u8>) -> Result<()> {
        if raw.len() >= DIRECT_MIN {
            self.flush(out)?;
            for block in raw.chunks(BLOCK_MAX) {
                self.block(block, out)?;
            }
            return Ok(());
        }
        while !raw.is_empty() {
            let (now, later) = raw.split_at(raw.len().min(BLOCK_MAX - self.pending.len()));
            self.pending.extend_from_slice(now);
            raw = later;
            if self.pending.len() == BLOCK_MAX {
                self.flush(out)?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self, out: &mut Vec<u8>) -> Result<()> {
        self.flush(out)?;
        out.extend_from_slice(&0_u32.to_le_bytes());
        Ok(())
    }

    fn flush(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let mut pending = std::mem::take(&mut self.pending);
        let done = if pending.is_empty() { Ok(()) } else { self.block(&pending, out) };
        pending.clear();
        self.pending = pending;
        done
    }

    fn block(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let room = get_maximum_output_size(raw.len());
        if self.scratch.len() < room {
            self.scratch.resize(room, 0);
        }
        let len = compress_into_with_table(raw, &mut self.scratch, &mut self.table)
            .map_err(|e| Error::failure("cannot compress a block of log").because(e))?;
        let (flag, bytes) = if len < raw.len() { (0, &self.scratch[..len]) } else { (STORED_RAW, raw) };
        // No block is longer than BLOCK_MAX, so that the length never reaches the flag.
        out.extend_from_slice(&(bytes.len() as u32 | flag).to_le_bytes());
        out.extend_from_slice(bytes);
        Ok(())
    }
}

pub(super) fn decode(frame: &[u8], each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut rest = frame.strip_prefix(&FRAME_START[..]).ok_or_else(|| {
        Error::corruption(format!(
            "LZ4 frame begins with {:02x?}, expected {FRAME_START:02x?}",
            frame.get(..FRAME_START.len()).unwrap_or(frame)
        ))
    })?;
    let mut raw = vec![0; BLOCK_MAX];
    loop {
        let (length, after) =
            rest.split_first_chunk::<4>().ok_or_else(|| Error::corruption("LZ4 frame has no end mark"))?;
        let length = u32::from_le_bytes(*length);
        if length == 0 {
            return match after.len() {
                0 => Ok(()),
                extra => Err(Error::corruption(format!("LZ4 frame has {extra} bytes after its end mark"))),
            };
        }
        let len = (length & !STORED_RAW) as usize;
        if len == 0 || len > BLOCK_MAX {
            return Err(Error::corruption(format!("LZ4 block says it is {len} bytes long, {BLOCK_MAX} is the limit")));
        }
        let (block, after) = after.split_at_checked(len).ok_or_else(|| {
            Error::corruption(format!("LZ4 block ends after {} bytes where {len} were expected", after.len()))
        })?;
        rest = after;
        if length & STORED_RAW != 0 {
            each(block)?;
        } else {
            let len = decompress_into(block, &mut raw)
                .map_err(|e| Error::corruption("LZ4 block cannot be decompressed").because(e))?;
            each(raw.get(..len).unwrap_or_default())?;
        }
    }
}
