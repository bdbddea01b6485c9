//! The chunk table of one base: where each of its chunks lies.
//!
//! ```text
//! table    0  magic "PITRCHNK"          8
//!          8  version u32 = 1           4
//!         12  chunks u32                4   how many records
//!         16  records                  60 each, in order of the manifest's files
//!          .  CRC-32C u32               4   of everything before it
//!
//! record   0  chunk hash               32   BLAKE3 of the chunk
//!         32  raw_len u32               4   bytes of the chunk
//!         36  whole: pack u32           4   index into the manifest's packs
//!         40         offset u32         4   of the entry in the pack
//!         44         len u32            4   of the entry
//!         48  delta: pack, offset, len 12   all ones when the chunk is the whole one
//! ```
//! Integers are little-endian. The first chunk of a file is in the manifest; the
//! others follow it, one per MiB. The manifest holds the table's length and BLAKE3.

use crate::error::{Error, Result};

use super::chunk::{CHUNK_BYTES, ChunkHash};
use super::pack::Extent;

const MAGIC: &[u8; 8] = b"PITRCHNK";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 16;
const RECORD_BYTES: usize = 60;
const NONE: u32 = u32::MAX;

/// Where an entry lies in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Index into the manifest's packs.
    pub pack: u32,
    /// Where in the pack.
    pub extent: Extent,
}

/// A chunk of a base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRecord {
    /// Its name.
    pub hash: ChunkHash,
    /// Its bytes.
    pub raw_len: u32,
    /// The entry of the whole chunk, or of the anchor of `delta`.
    pub whole: Place,
    /// The entry of the delta against `whole`, when it is stored as one.
    pub delta: Option<Place>,
}

impl ChunkRecord {
    /// The places it is read from: one or two.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        std::iter::once(self.whole).chain(self.delta)
    }
}

/// All chunks of a base, file after file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The records.
    pub chunks: Vec<ChunkRecord>,
}

impl Table {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES + self.chunks.len() * RECORD_BYTES + 4);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(self.chunks.len() as u32).to_le_bytes());
        for chunk in &self.chunks {
            out.extend_from_slice(&chunk.hash.0);
            let none = Place { pack: NONE, extent: Extent { offset: NONE, len: NONE } };
            let (whole, delta) = (chunk.whole, chunk.delta.unwrap_or(none));
            for field in [
                chunk.raw_len,
                whole.pack,
                whole.extent.offset,
                whole.extent.len,
                delta.pack,
                delta.extent.offset,
                delta.extent.len,
            ] {
                out.extend_from_slice(&field.to_le_bytes());
            }
        }
        let sum = crc_fast::crc32_iscsi(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads a table of a base with `packs` packs. `name` names the object in errors.
    ///
    /// # Errors
    /// [`crate::Kind::Corruption`] for anything but a sound table.
    pub fn decode(name: &str, bytes: &[u8], packs: usize) -> Result<Self> {
        let refuse = |flaw: String| Error::corruption(format!("chunk table {name} {flaw}"));
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or_else(|| refuse("is cut off".into()))?;
        let (head, records) = body.split_first_chunk::<HEAD_BYTES>().ok_or_else(|| refuse("is cut off".into()))?;
        if !head.starts_with(MAGIC) {
            return Err(refuse("is none: it does not begin with PITRCHNK".into()));
        }
        let version = u32_at(head, 8);
        if version != VERSION {
            return Err(refuse(format!("has format version {version}, where this pitr reads {VERSION}"))
                .hint("was the archive made by a newer pitr?"));
        }
        let count = u32_at(head, 12) as usize;
        let (records, rest) = records.as_chunks::<RECORD_BYTES>();
        if count != records.len() || !rest.is_empty() {
            return Err(refuse(format!("has {} bytes, which do not fit its {count} chunks", bytes.len())));
        }
        if crc_fast::crc32_iscsi(body) != u32::from_le_bytes(*sum) {
            return Err(refuse("has a wrong checksum".into()));
        }
        let chunks = records.iter().enumerate().map(|(index, record)| {
            decode_record(record, packs).ok_or_else(|| refuse(format!("makes no sense at chunk {index}")))
        });
        Ok(Self { chunks: chunks.collect::<Result<_>>()? })
    }
}

fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

fn decode_record(record: &[u8; RECORD_BYTES], packs: usize) -> Option<ChunkRecord> {
    let place = |at: usize| Place {
        pack: u32_at(record, at),
        extent: Extent { offset: u32_at(record, at + 4), len: u32_at(record, at + 8) },
    };
    let sane =
        |place: &Place| (place.pack as usize) < packs && place.extent.offset.checked_add(place.extent.len).is_some();
    let hash = ChunkHash(*record.first_chunk()?);
    let raw_len = u32_at(record, 32);
    let whole = Some(place(36)).filter(sane)?;
    let delta = match place(48) {
        Place { pack: NONE, extent: Extent { offset: NONE, len: NONE } } => None,
        place => Some(Some(place).filter(sane)?),
    };
    (1..=CHUNK_BYTES as u32).contains(&raw_len).then_some(ChunkRecord { hash, raw_len, whole, delta })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let place = |pack, offset| Place { pack, extent: Extent { offset, len: 100 } };
        let chunk =
            |name: &[u8], delta| ChunkRecord { hash: ChunkHash::of(name), raw_len: 8192, whole: place(0, 12), delta };
        Table { chunks: vec![chunk(b"a", None), chunk(b"b", Some(place(1, 500)))] }
    }

    #[test]
    fn gives_back_what_was_written() {
        let bytes = table().encode();
        assert_eq!(bytes.len(), HEAD_BYTES + 2 * RECORD_BYTES + 4);
        assert_eq!(Table::decode("t", &bytes, 2).unwrap(), table());
        assert_eq!(Table::decode("t", &Table::default().encode(), 0).unwrap(), Table::default());
    }

    #[test]
    fn refuses_any_flipped_byte_and_any_other_length() {
        let bytes = table().encode();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert!(Table::decode("t", &bad, 2).is_err(), "byte {at}");
            assert!(Table::decode("t", &bytes[..at], 2).is_err(), "{at} bytes");
        }
    }

    #[test]
    fn refuses_a_pack_that_the_manifest_does_not_name() {
        assert!(Table::decode("t", &table().encode(), 1).is_err());
    }
}
