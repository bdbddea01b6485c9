//! Packs: objects that hold chunks, and say themselves what they hold.
//!
//! ```text
//! pack     0  magic "PITRPACK"          8
//!          8  version u32 = 1           4
//!         12  entries, one after the other
//!          .  footer: names of its whole chunks and of their blocks
//!          .  trailer                  24
//!
//! entry    0  kind u8                   1 whole chunk, 2 delta
//!          1  codec u8                  0 raw, 1 LZ4 block
//!          2  zero                      2
//!          4  raw_len u32               bytes of the chunk, 1 to 1 MiB
//!          8  stored_len u32            bytes of the payload
//!         12  chunk hash               32   BLAKE3 of the chunk
//!         44  anchor hash              32   delta only: the whole chunk it changes
//!         76  changed blocks u128      16   delta only: bit n is block n
//!          .  CRC-32C u32               4   of the entry's bytes before it and of the payload
//!          .  payload                       whole: the chunk; delta: its changed blocks
//!
//! footer   per whole chunk, in order of its entry:
//!          0  entry offset u32          4
//!          4  n u32                     4   how many blocks: raw_len / 8 KiB, rounded up
//!          8  chunk hash               32
//!         40  block names          16 x n
//!
//! trailer  0  footer_len u32            4
//!          4  entries u32               4   how many
//!          8  CRC-32C u32               4   of the footer and the trailer's first 8 bytes
//!         12  zero                      4
//!         16  magic "PITRPEND"          8
//! ```
//! Integers are little-endian. A pack's name is the BLAKE3 hash of its bytes, and
//! each chunk's name that of its own; the CRCs only make a part readable on its own.
//! The footer is what the *next* backup needs to see which blocks of a chunk have
//! changed; a restore never reads it.

use std::collections::HashMap;
use std::ops::Range;

use crate::error::{Error, Result};

use super::chunk::{BLOCK_BYTES, BLOCKS_PER_CHUNK, BlockHash, Blocks, CHUNK_BYTES, ChunkHash};

const MAGIC: &[u8; 8] = b"PITRPACK";
const END_MAGIC: &[u8; 8] = b"PITRPEND";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 12;
const WHOLE_HEAD_BYTES: usize = 48;
const DELTA_HEAD_BYTES: usize = 96;
const RECORD_HEAD_BYTES: usize = 40;

/// Bytes of the trailer: read these first to find the footer.
pub const TRAILER_BYTES: usize = 24;

/// A pack is closed once its entries reach this many bytes.
pub const PACK_BYTES: usize = 16 << 20;

/// Largest pack that is read: entries up to [`PACK_BYTES`], one more, and a footer.
pub const PACK_BYTES_MAX: u64 = 64 << 20;

/// Where an entry lies in its pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// First byte of the entry's head.
    pub offset: u32,
    /// Bytes of head and payload.
    pub len: u32,
}

/// CRC-32C (Castagnoli) of several pieces as one.
fn crc(pieces: &[&[u8]]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    for piece in pieces {
        digest.update(piece);
    }
    // The algorithm is 32 bits wide.
    digest.finalize() as u32
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

/// A pack that is being filled.
pub struct PackWriter {
    bytes: Vec<u8>,
    footer: Vec<u8>,
    entries: u32,
    table: lz4_flex::block::CompressTable,
    /// Where a payload is compressed to: kept, so that it is cleared only once.
    room: Vec<u8>,
}

impl PackWriter {
    /// An empty pack in `buffer`, which is emptied first.
    #[must_use]
    pub fn new(buffer: Vec<u8>) -> Self {
        let mut writer = Self {
            bytes: Vec::new(),
            footer: Vec::new(),
            entries: 0,
            table: lz4_flex::block::CompressTable::large(),
            room: vec![0; lz4_flex::block::get_maximum_output_size(CHUNK_BYTES)],
        };
        writer.begin(buffer);
        writer
    }

    fn begin(&mut self, buffer: Vec<u8>) {
        self.bytes = buffer;
        self.bytes.clear();
        self.bytes.extend_from_slice(MAGIC);
        self.bytes.extend_from_slice(&VERSION.to_le_bytes());
        self.footer.clear();
        self.entries = 0;
    }

    /// Whether the pack holds no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Whether the pack is large enough to be closed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= PACK_BYTES
    }

    /// Adds a whole chunk with the hashes [`super::chunk::digest`] gave for it.
    pub fn add_whole(&mut self, raw: &[u8], hash: &ChunkHash, blocks: &[BlockHash]) -> Extent {
        let extent = self.add(1, raw.len(), hash, &[], raw);
        self.footer.extend_from_slice(&extent.offset.to_le_bytes());
        self.footer.extend_from_slice(&(blocks.len() as u32).to_le_bytes());
        self.footer.extend_from_slice(&hash.0);
        for block in blocks {
            self.footer.extend_from_slice(&block.0);
        }
        extent
    }

    /// Adds a chunk as the blocks in which it differs from the whole chunk `anchor`.
    /// `gathered` is what [`Blocks::gather`] gave for `changed`.
    pub fn add_delta(
        &mut self,
        raw_len: usize,
        hash: &ChunkHash,
        anchor: &ChunkHash,
        changed: Blocks,
        gathered: &[u8],
    ) -> Extent {
        let mut extra = [0u8; 48];
        let (left, right) = extra.split_at_mut(32);
        left.copy_from_slice(&anchor.0);
        right.copy_from_slice(&changed.0.to_le_bytes());
        self.add(2, raw_len, hash, &extra, gathered)
    }

    fn add(&mut self, kind: u8, raw_len: usize, hash: &ChunkHash, extra: &[u8], payload: &[u8]) -> Extent {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[kind, 0, 0, 0]);
        self.bytes.extend_from_slice(&(raw_len as u32).to_le_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&hash.0);
        self.bytes.extend_from_slice(extra);
        self.bytes.extend_from_slice(&[0; 4]);
        let body = self.bytes.len();
        // Compression fails only for want of room, and a chunk has enough of it.
        let stored = lz4_flex::block::compress_into_with_table(payload, &mut self.room, &mut self.table);
        let compressed = stored.ok().and_then(|len| self.room.get(..len)).filter(|c| c.len() < payload.len());
        let codec = u8::from(compressed.is_some());
        self.bytes.extend_from_slice(compressed.unwrap_or(payload));
        let end = self.bytes.len();
        if let Some(entry) = self.bytes.get_mut(start..) {
            let (head, payload) = entry.split_at_mut(body - start);
            let (fields, sum) = head.split_at_mut(body - start - 4);
            fields[1] = codec;
            fields[8..12].copy_from_slice(&((end - body) as u32).to_le_bytes());
            sum.copy_from_slice(&crc(&[fields, payload]).to_le_bytes());
        }
        self.entries += 1;
        // A pack is closed at 16 MiB and an entry has at most 1.1 MiB: u32 holds all.
        Extent { offset: start as u32, len: (end - start) as u32 }
    }

    /// Closes the pack: its name and its bytes. The writer begins the next one in
    /// `buffer`, which is emptied first.
    pub fn finish(&mut self, buffer: Vec<u8>) -> (ChunkHash, Vec<u8>) {
        let footer_len = (self.footer.len() as u32).to_le_bytes();
        let entries = self.entries.to_le_bytes();
        let sum = crc(&[&self.footer, &footer_len, &entries]);
        self.bytes.extend_from_slice(&self.footer);
        for field in [&footer_len, &entries, &sum.to_le_bytes(), &[0; 4]] {
            self.bytes.extend_from_slice(field);
        }
        self.bytes.extend_from_slice(END_MAGIC);
        let bytes = std::mem::take(&mut self.bytes);
        self.begin(buffer);
        (ChunkHash::of(&bytes), bytes)
    }
}

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A whole chunk.
    Whole,
    /// The blocks in which a chunk differs from a whole one.
    Delta {
        /// The whole chunk.
        anchor: ChunkHash,
        /// Which blocks differ.
        changed: Blocks,
    },
}

/// An entry of a pack whose CRC holds.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Whole or delta.
    pub kind: EntryKind,
    /// Bytes of the chunk.
    pub raw_len: usize,
    /// The chunk's name.
    pub hash: ChunkHash,
    /// Bytes of head and payload.
    pub len: usize,
    compressed: bool,
    payload: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Reads the entry at the front of `bytes`. `pack` names the object in errors.
    ///
    /// # Errors
    /// [`crate::Kind::Corruption`] for anything but a sound entry.
    pub fn parse(pack: &str, bytes: &'a [u8]) -> Result<Self> {
        Self::parse_head(bytes).map_err(|flaw| Error::corruption(format!("pack {pack} has {flaw}")))
    }

    fn parse_head(bytes: &'a [u8]) -> Result<Self, &'static str> {
        const SHORT: &str = "an entry that is cut off";
        let (&kind, &codec) = bytes.first().zip(bytes.get(1)).ok_or(SHORT)?;
        let head_len = match kind {
            1 => WHOLE_HEAD_BYTES,
            2 => DELTA_HEAD_BYTES,
            _ => return Err("an entry of unknown kind"),
        };
        let stored_len = le32(bytes, 8).ok_or(SHORT)? as usize;
        let len = head_len.checked_add(stored_len).ok_or(SHORT)?;
        let (head, payload) = bytes.get(..len).and_then(|entry| entry.split_at_checked(head_len)).ok_or(SHORT)?;
        let (fields, sum) = head.split_at_checked(head_len - 4).ok_or(SHORT)?;
        if le32(sum, 0) != Some(crc(&[fields, payload])) {
            return Err("an entry whose checksum is wrong");
        }
        let raw_len = le32(fields, 4).ok_or(SHORT)? as usize;
        let hash = fields.get(12..).and_then(|b| b.first_chunk()).map(|b| ChunkHash(*b)).ok_or(SHORT)?;
        let (kind, payload_len) = if kind == 1 {
            (EntryKind::Whole, Some(raw_len))
        } else {
            let anchor = fields.get(44..).and_then(|b| b.first_chunk()).map(|b| ChunkHash(*b)).ok_or(SHORT)?;
            let bits = fields.get(76..).and_then(|b| b.first_chunk()).ok_or(SHORT)?;
            let changed = Blocks(u128::from_le_bytes(*bits));
            (EntryKind::Delta { anchor, changed }, changed.bytes(raw_len))
        };
        let sane = raw_len > 0
            && raw_len <= CHUNK_BYTES
            && payload_len.is_some()
            && fields.get(2..4) == Some(&[0, 0])
            && match codec {
                0 => payload_len == Some(stored_len),
                1 => payload_len > Some(stored_len),
                _ => false,
            };
        if !sane {
            return Err("an entry whose lengths make no sense");
        }
        Ok(Self { kind, raw_len, hash, len, compressed: codec == 1, payload })
    }

    /// Unpacks the payload into `out`, which is emptied first: the chunk, or a
    /// delta's changed blocks. The chunk's hash is *not* checked here.
    ///
    /// # Errors
    /// [`crate::Kind::Corruption`] when it does not unpack to its length.
    pub fn unpack(&self, pack: &str, out: &mut Vec<u8>) -> Result<()> {
        let len = match self.kind {
            EntryKind::Whole => self.raw_len,
            EntryKind::Delta { changed, .. } => changed.bytes(self.raw_len).unwrap_or(0),
        };
        if !self.compressed {
            out.clear();
            out.extend_from_slice(self.payload);
            return Ok(());
        }
        // Every byte is overwritten or the entry is refused, so what a reused buffer
        // held before needs no clearing.
        out.resize(len, 0);
        match lz4_flex::block::decompress_into(self.payload, out) {
            Ok(got) if got == len => Ok(()),
            Ok(got) => Err(self.does_not_unpack(pack, &format!("gives {got} bytes, not {len}"))),
            Err(e) => Err(self.does_not_unpack(pack, "does not unpack").because(e)),
        }
    }

    fn does_not_unpack(&self, pack: &str, how: &str) -> Error {
        Error::corruption(format!("chunk {} in pack {pack} {how}", self.hash))
    }
}

/// Reads a whole pack and gives each entry, with its place, to `each`.
///
/// # Errors
/// [`crate::Kind::Corruption`] naming the pack when a byte is not as it was written;
/// what `each` returns.
pub fn walk(pack: &str, bytes: &[u8], mut each: impl FnMut(Extent, &Entry<'_>) -> Result<()>) -> Result<()> {
    let refuse = |flaw: &str| Err(Error::corruption(format!("pack {pack} has {flaw}")));
    if bytes.len() as u64 > PACK_BYTES_MAX {
        return refuse("more bytes than a pack may have");
    }
    let Some(head) = bytes.get(..HEAD_BYTES) else {
        return refuse("no whole head");
    };
    if head != [&MAGIC[..], &VERSION.to_le_bytes()].concat() {
        return refuse("another head than a pack of format version 1");
    }
    let trailer = Trailer::parse(pack, bytes)?;
    let Some(end) = bytes.len().checked_sub(TRAILER_BYTES + trailer.footer_len).filter(|&end| end >= HEAD_BYTES) else {
        return refuse("a footer longer than itself");
    };
    let footer = Footer::parse(pack, bytes.get(end..).unwrap_or_default())?;
    let (mut at, mut entries, mut whole) = (HEAD_BYTES, 0, 0);
    while at < end {
        let entry = Entry::parse(pack, bytes.get(at..end).unwrap_or_default())?;
        let extent = Extent { offset: at as u32, len: entry.len as u32 };
        if entry.kind == EntryKind::Whole {
            let blocks = entry.raw_len.div_ceil(BLOCK_BYTES);
            if footer.anchor(extent.offset).is_none_or(|a| a.hash != entry.hash || a.blocks.len() != blocks) {
                return refuse("a footer that does not fit its entries");
            }
            whole += RECORD_HEAD_BYTES + 16 * blocks;
        }
        each(extent, &entry)?;
        at += entry.len;
        entries += 1;
    }
    if entries != trailer.entries || whole != trailer.footer_len {
        return refuse("a trailer that does not fit its entries");
    }
    Ok(())
}

/// The fixed end of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Bytes of the footer, which stands before the trailer.
    pub footer_len: usize,
    entries: u32,
    sum: u32,
}

impl Trailer {
    /// Reads the trailer from the last bytes of a pack (at least [`TRAILER_BYTES`]).
    ///
    /// # Errors
    /// [`crate::Kind::Corruption`] when it is none.
    pub fn parse(pack: &str, last: &[u8]) -> Result<Self> {
        let trailer = last.last_chunk::<TRAILER_BYTES>().and_then(|t| {
            let sound = t.ends_with(END_MAGIC) && t.get(12..16) == Some(&[0; 4]);
            let fields = (le32(t, 0)?, le32(t, 4)?, le32(t, 8)?);
            sound.then_some(Self { footer_len: fields.0 as usize, entries: fields.1, sum: fields.2 })
        });
        trailer
            .filter(|t| t.footer_len as u64 <= PACK_BYTES_MAX)
            .ok_or_else(|| Error::corruption(format!("pack {pack} is cut off or no pack: it has no trailer")))
    }
}

/// A whole chunk, as a footer tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Its name.
    pub hash: ChunkHash,
    /// Its blocks' names.
    pub blocks: Vec<BlockHash>,
}

/// The names of a pack's whole chunks and their blocks.
#[derive(Clone, Debug)]
pub struct Footer {
    bytes: Vec<u8>,
    /// Entry offset to where hash and block names stand in `bytes`.
    records: HashMap<u32, Range<usize>>,
}

impl Footer {
    /// Reads the footer from the last bytes of a pack, which must hold all of it and
    /// the trailer.
    ///
    /// # Errors
    /// [`crate::Kind::Corruption`] when it is not as it was written.
    pub fn parse(pack: &str, last: &[u8]) -> Result<Self> {
        let trailer = Trailer::parse(pack, last)?;
        let bytes = last
            .len()
            .checked_sub(TRAILER_BYTES + trailer.footer_len)
            .and_then(|start| last.get(start..start + trailer.footer_len))
            .ok_or_else(|| Error::corruption(format!("pack {pack} is cut off: its footer is not whole")))?;
        if crc(&[bytes, &(trailer.footer_len as u32).to_le_bytes(), &trailer.entries.to_le_bytes()]) != trailer.sum {
            return Err(Error::corruption(format!("the footer of pack {pack} has a wrong checksum")));
        }
        let mut records = HashMap::new();
        let mut at = 0;
        while at < bytes.len() {
            let record = le32(bytes, at).zip(le32(bytes, at + 4)).and_then(|(offset, count)| {
                let end = at + RECORD_HEAD_BYTES + 16 * count as usize;
                let sane = (1..=BLOCKS_PER_CHUNK).contains(&(count as usize)) && end <= bytes.len();
                sane.then_some((offset, at + 8..end))
            });
            let Some((offset, range)) = record else {
                return Err(Error::corruption(format!("the footer of pack {pack} makes no sense at byte {at}")));
            };
            at = range.end;
            if records.insert(offset, range).is_some() {
                return Err(Error::corruption(format!("the footer of pack {pack} names entry {offset} twice")));
            }
        }
        Ok(Self { bytes: bytes.to_vec(), records })
    }

    /// The whole chunk whose entry begins at `offset`; `None` when the pack has none
    /// there.
    #[must_use]
    pub fn anchor(&self, offset: u32) -> Option<Anchor> {
        let record = self.bytes.get(self.records.get(&offset)?.clone())?;
        let (hash, names) = record.split_first_chunk::<32>()?;
        let blocks = names.as_chunks::<16>().0.iter().map(|b| BlockHash(*b)).collect();
        Some(Anchor { hash: ChunkHash(*hash), blocks })
    }

    /// Memory it takes, roughly, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.bytes.len() + self.records.len() * 48
    }
}

#[cfg(test)]
mod tests;
