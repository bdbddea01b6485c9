//! Chunks and blocks: names by content, and what differs between two chunks.
//!
//! A chunk is up to 1 MiB of one file, aligned to the file's start, so that a chunk
//! at one place can be compared with the chunk that stood there before. Its name is
//! the BLAKE3 hash of its bytes. Each of its 8 KiB blocks has a name too: the first
//! half of the *chaining value* of that block's subtree in the chunk's own BLAKE3
//! tree (BLAKE3 paper, section 2.1), so that block names cost no second pass over
//! the bytes. A block's name depends on where in its chunk it stands; only blocks at
//! the same place are ever compared.

use std::fmt;
use std::str::FromStr;

use blake3::hazmat::{self, ChainingValue, HasherExt, Mode};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Bytes of a chunk; the last one of a file may be shorter.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Bytes of a block: PostgreSQL's page, and a power of two times BLAKE3's leaf.
pub const BLOCK_BYTES: usize = 8 << 10;

/// Blocks of a full chunk: one bit each in a [`Blocks`].
pub const BLOCKS_PER_CHUNK: usize = CHUNK_BYTES / BLOCK_BYTES;

/// BLAKE3 hash of a chunk's, a pack's or a table's bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ChunkHash(pub [u8; 32]);

impl ChunkHash {
    /// The hash of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

/// 64 hexadecimal digits, lower case, as `b3sum` prints them.
impl fmt::Display for ChunkHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for ChunkHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ChunkHash {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        // One spelling only, so that a name has one value and a value one name.
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(Error::corruption(format!("hash {text:?} is not in lower case")));
        }
        blake3::Hash::from_hex(text)
            .map(|hash| Self(*hash.as_bytes()))
            .map_err(|e| Error::corruption(format!("hash {text:?} is not 64 hexadecimal digits")).because(e))
    }
}

impl TryFrom<String> for ChunkHash {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<ChunkHash> for String {
    fn from(hash: ChunkHash) -> Self {
        hash.to_string()
    }
}

/// The name of a block at its place in a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHash(pub [u8; 16]);

/// Hashes a chunk of 1 to [`CHUNK_BYTES`] bytes and puts its blocks' names into
/// `blocks`, which is emptied first.
///
/// The result equals `blake3::hash(raw)`.
pub fn digest(raw: &[u8], blocks: &mut Vec<BlockHash>) -> ChunkHash {
    blocks.clear();
    let mut values = [[0u8; 32]; BLOCKS_PER_CHUNK];
    for (index, (block, value)) in raw.chunks(BLOCK_BYTES).zip(&mut values).enumerate() {
        // Not `reset`: in blake3 1.8.7 it keeps the input offset of the block before.
        let mut hasher = blake3::Hasher::new();
        *value = hasher.set_input_offset((index * BLOCK_BYTES) as u64).update(block).finalize_non_root();
        let [half, _] = halves(value);
        blocks.push(BlockHash(half));
    }
    debug_assert!(!raw.is_empty() && raw.len() <= CHUNK_BYTES);
    match values.get(..blocks.len()) {
        Some([left_and_right @ .., _]) if !left_and_right.is_empty() => {
            let values = &values[..blocks.len()];
            let (left, right) = values.split_at(left_blocks(values.len()));
            ChunkHash(*hazmat::merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash).as_bytes())
        }
        // A single block is its own root.
        _ => ChunkHash::of(raw),
    }
}

fn halves(value: &ChainingValue) -> [[u8; 16]; 2] {
    let mut halves = [[0; 16]; 2];
    for (half, bytes) in halves.iter_mut().zip(value.chunks_exact(16)) {
        half.copy_from_slice(bytes);
    }
    halves
}

/// Blocks in the left subtree: the largest power of two that leaves something for
/// the right one.
fn left_blocks(count: usize) -> usize {
    count.next_power_of_two() / 2
}

fn subtree(values: &[ChainingValue]) -> ChainingValue {
    match values {
        [] => [0; 32],
        [one] => *one,
        _ => {
            let (left, right) = values.split_at(left_blocks(values.len()));
            hazmat::merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
        }
    }
}

/// A set of blocks of one chunk; bit `n` stands for block `n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blocks(pub u128);

impl Blocks {
    /// The blocks of `new` that `old` does not have at the same place.
    #[must_use]
    pub fn changed(old: &[BlockHash], new: &[BlockHash]) -> Self {
        let mut bits = 0u128;
        for (index, hash) in new.iter().enumerate().take(BLOCKS_PER_CHUNK) {
            if old.get(index) != Some(hash) {
                bits |= 1 << index;
            }
        }
        Self(bits)
    }

    /// How many blocks are in the set.
    #[must_use]
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Bytes the blocks take in a chunk of `raw_len` bytes; `None` when the set names
    /// a block past its end.
    #[must_use]
    pub fn bytes(self, raw_len: usize) -> Option<usize> {
        let mut bytes = 0;
        for index in self.indexes() {
            bytes += raw_len.checked_sub(index * BLOCK_BYTES).filter(|&left| left > 0)?.min(BLOCK_BYTES);
        }
        Some(bytes)
    }

    fn indexes(self) -> impl Iterator<Item = usize> {
        let mut bits = self.0;
        std::iter::from_fn(move || {
            let index = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
            bits &= bits - 1;
            Some(index)
        })
    }

    /// Appends these blocks of `raw` to `out`, one after the other.
    pub fn gather(self, raw: &[u8], out: &mut Vec<u8>) {
        for index in self.indexes() {
            if let Some(block) = raw.chunks(BLOCK_BYTES).nth(index) {
                out.extend_from_slice(block);
            }
        }
    }

    /// Makes `chunk`, which holds the anchor, into the chunk of `raw_len` bytes whose
    /// blocks of this set are `changed`, as [`Blocks::gather`] lays them.
    ///
    /// # Errors
    /// [`crate::Kind::Corruption`] when the sizes do not fit each other.
    pub fn apply(self, chunk: &mut Vec<u8>, raw_len: usize, mut changed: &[u8]) -> Result<()> {
        if raw_len > CHUNK_BYTES || self.bytes(raw_len) != Some(changed.len()) {
            return Err(Error::corruption(format!(
                "a delta of {} blocks has {} bytes for a chunk of {raw_len}",
                self.count(),
                changed.len()
            )));
        }
        chunk.resize(raw_len, 0);
        for index in self.indexes() {
            if let Some(block) = chunk.chunks_mut(BLOCK_BYTES).nth(index) {
                let (bytes, rest) = changed.split_at(block.len());
                block.copy_from_slice(bytes);
                changed = rest;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(len: usize, seed: u8) -> Vec<u8> {
        (0..len).map(|i| (i / 977) as u8 ^ (i as u8).wrapping_mul(31) ^ seed).collect()
    }

    /// The tree is rebuilt by hand from block values; every shape must give the name
    /// that stock tools give.
    #[test]
    fn the_name_of_a_chunk_is_its_plain_blake3_hash() {
        let mut blocks = Vec::new();
        for len in
            [1, 1023, 1024, 1025, 8191, 8192, 8193, 16384, 24576, 24577, 100_000, 1 << 19, CHUNK_BYTES - 1, CHUNK_BYTES]
        {
            let raw = bytes(len, 7);
            assert_eq!(digest(&raw, &mut blocks), ChunkHash::of(&raw), "{len} bytes");
            assert_eq!(blocks.len(), len.div_ceil(BLOCK_BYTES));
        }
        for count in 1..=BLOCKS_PER_CHUNK {
            let raw = bytes(count * BLOCK_BYTES - 5, 9);
            assert_eq!(digest(&raw, &mut blocks), ChunkHash::of(&raw), "{count} blocks");
        }
    }

    #[test]
    fn a_hash_is_read_in_one_spelling_only() {
        let hash = ChunkHash::of(b"a");
        assert_eq!(hash.to_string().parse::<ChunkHash>().unwrap(), hash);
        assert!(hash.to_string().to_uppercase().parse::<ChunkHash>().is_err());
        assert!("12".parse::<ChunkHash>().is_err());
    }

    #[test]
    fn refuses_a_delta_that_does_not_fit() {
        let mut chunk = bytes(BLOCK_BYTES * 3, 0);
        assert!(Blocks(0b1000).apply(&mut chunk.clone(), BLOCK_BYTES * 3, &[0; BLOCK_BYTES]).is_err());
        assert!(Blocks(0b10).apply(&mut chunk.clone(), BLOCK_BYTES * 3, &[0; BLOCK_BYTES - 1]).is_err());
        assert!(Blocks(0b10).apply(&mut chunk, CHUNK_BYTES + 1, &[0; BLOCK_BYTES]).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Old chunk, new chunk of another length with some blocks changed: the delta
        /// gives the new one from the old one.
        #[test]
        fn a_delta_gives_the_new_chunk(
            old_len in 1..=CHUNK_BYTES,
            new_len in 1..=CHUNK_BYTES,
            touched in proptest::collection::vec(0..CHUNK_BYTES, 0..20),
        ) {
            let old = bytes(old_len, 1);
            let mut new = bytes(new_len, 1);
            for at in touched {
                if let Some(byte) = new.get_mut(at) {
                    *byte ^= 0x55;
                }
            }
            let (mut old_blocks, mut new_blocks) = (Vec::new(), Vec::new());
            digest(&old, &mut old_blocks);
            digest(&new, &mut new_blocks);
            let changed = Blocks::changed(&old_blocks, &new_blocks);
            let mut payload = Vec::new();
            changed.gather(&new, &mut payload);
            prop_assert_eq!(Some(payload.len()), changed.bytes(new.len()));
            let mut chunk = old;
            changed.apply(&mut chunk, new.len(), &payload).unwrap();
            prop_assert!(chunk == new);
        }
    }
}
