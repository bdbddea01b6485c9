//! The bytes of one unit: unpack, check against their names, write into place.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;

use super::Job;
use super::tree::open_file;
use super::work::{Piece, Read, Unit};
use crate::base::chunk::{BLOCK_BYTES, ChunkHash};
use crate::base::pack::{Entry, EntryKind};
use crate::base::table::{ChunkRecord, Place};
use crate::error::{Error, Result};

/// Buffers a worker keeps between units.
#[derive(Default)]
pub(super) struct Scratch {
    /// The whole chunk of the entry read last.
    whole: Vec<u8>,
    /// A chunk made from `whole` and a delta.
    chunk: Vec<u8>,
    /// A delta's changed blocks, or the bytes that stand in the file.
    other: Vec<u8>,
}

/// What a unit did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    pub(super) written: u64,
    pub(super) kept: u64,
}

/// Writes all pieces of `unit`, whose reads gave `whole` and `deltas`.
pub(super) fn write_unit(
    job: &Job,
    unit: &Unit,
    whole: &Bytes,
    deltas: &[Bytes],
    scratch: &mut Scratch,
) -> Result<Done> {
    let mut done = Done::default();
    let mut open: Option<(u32, File)> = None;
    let mut unpacked: Option<(Place, ChunkHash)> = None;
    for piece in &unit.pieces {
        let record = job.chunk(piece)?;
        let anchor = match unpacked {
            Some((place, hash)) if place == record.whole => hash,
            _ => {
                let name = job.pack_name(record.whole.pack);
                let entry = Entry::parse(&name, part(&name, &unit.whole, whole, record.whole)?)?;
                if entry.kind != EntryKind::Whole {
                    return Err(Error::corruption(format!("pack {name} has a delta where a whole chunk belongs")));
                }
                entry.unpack(&name, &mut scratch.whole)?;
                unpacked = Some((record.whole, entry.hash));
                entry.hash
            }
        };
        if let Some(place) = record.delta {
            make_from_delta(job, unit, deltas, place, anchor, scratch)?;
        }
        let raw = if record.delta.is_some() { &scratch.chunk } else { &scratch.whole };
        if raw.len() != record.raw_len as usize || ChunkHash::of(raw) != record.hash {
            let packs: Vec<String> = record.places().map(|p| job.pack_name(p.pack)).collect();
            return Err(Error::corruption(format!(
                "chunk {} of {} is not what pack {} gives",
                record.hash,
                job.file_name(piece),
                packs.join(" and ")
            )));
        }
        let file = match &mut open {
            Some((index, file)) if *index == piece.file => file,
            _ => &mut open.insert((piece.file, open_file(&job.path(piece))?)).1,
        };
        let wrote = if job.delta {
            write_differing(file, &job.path(piece), piece.offset, raw, &mut scratch.other)?
        } else {
            file.write_all_at(raw, piece.offset).map_err(|e| Error::io("write", &job.path(piece), e))?;
            raw.len() as u64
        };
        done.written += wrote;
        done.kept += raw.len() as u64 - wrote;
    }
    Ok(done)
}

/// Puts the chunk of the delta at `place` into `scratch.chunk`.
fn make_from_delta(
    job: &Job,
    unit: &Unit,
    deltas: &[Bytes],
    place: Place,
    anchor: ChunkHash,
    scratch: &mut Scratch,
) -> Result<()> {
    let name = job.pack_name(place.pack);
    let not_read = || Error::failure(format!("a delta of pack {name} was not planned for"));
    let (read, bytes) = unit.deltas.iter().zip(deltas).find(|(read, _)| read.holds(place)).ok_or_else(not_read)?;
    let entry = Entry::parse(&name, part(&name, read, bytes, place)?)?;
    let EntryKind::Delta { anchor: expected, changed } = entry.kind else {
        return Err(Error::corruption(format!("pack {name} has a whole chunk where a delta belongs")));
    };
    if expected != anchor {
        return Err(Error::corruption(format!(
            "a delta in pack {name} is against chunk {expected}, where the table leads to {anchor}"
        )));
    }
    entry.unpack(&name, &mut scratch.other)?;
    scratch.chunk.clear();
    scratch.chunk.extend_from_slice(&scratch.whole);
    changed.apply(&mut scratch.chunk, entry.raw_len, &scratch.other).map_err(|e| e.context(format!("pack {name}")))
}

/// The bytes of an entry in what was read.
/// Whether `bytes`, which `read` gave, hold the entries that the pieces of `unit` are to be made from.
///
/// # Errors
/// [`crate::Kind::Corruption`] naming the pack.
pub(super) fn check(job: &Job, unit: &Unit, read: Read, bytes: &Bytes) -> Result<()> {
    let name = job.pack_name(read.pack);
    for piece in &unit.pieces {
        let record = job.chunk(piece)?;
        for place in record.places().filter(|place| read.holds(*place)) {
            let entry = Entry::parse(&name, part(&name, &read, bytes, place)?)?;
            let is_anchor = record.delta.is_some() && place == record.whole;
            if !is_anchor && entry.hash != record.hash {
                return Err(Error::corruption(format!(
                    "pack {name} has chunk {} in place of {}",
                    entry.hash, record.hash
                )));
            }
        }
    }
    Ok(())
}

fn part<'a>(name: &str, read: &Read, bytes: &'a Bytes, place: Place) -> Result<&'a [u8]> {
    let start = place.extent.offset.checked_sub(read.start).map(|start| start as usize);
    start
        .and_then(|start| bytes.get(start..start.checked_add(place.extent.len as usize)?))
        .ok_or_else(|| Error::corruption(format!("pack {name} is cut off: it ends before byte {}", read.end)))
}

/// Writes the blocks of `raw` that do not stand in the file; gives how many bytes.
fn write_differing(file: &File, path: &Path, offset: u64, raw: &[u8], had: &mut Vec<u8>) -> Result<u64> {
    read_up_to(file, path, offset, raw.len(), had)?;
    let mut wrote = 0;
    let mut at = offset;
    for (index, block) in raw.chunks(BLOCK_BYTES).enumerate() {
        let start = index * BLOCK_BYTES;
        if had.get(start..start + block.len()) != Some(block) {
            file.write_all_at(block, at).map_err(|e| Error::io("write", path, e))?;
            wrote += block.len() as u64;
        }
        at += block.len() as u64;
    }
    Ok(wrote)
}

/// Reads `len` bytes at `offset` into `out`, fewer when the file ends before.
pub(super) fn read_up_to(file: &File, path: &Path, offset: u64, len: usize, out: &mut Vec<u8>) -> Result<()> {
    out.resize(len, 0);
    let mut filled = 0;
    while let Some(room) = out.get_mut(filled..).filter(|room| !room.is_empty()) {
        match file.read_at(room, offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io("read", path, e)),
        }
    }
    out.truncate(filled);
    Ok(())
}

/// Whether the file already holds this chunk.
pub(super) fn stands(
    file: &File,
    path: &Path,
    piece: &Piece,
    record: &ChunkRecord,
    buffer: &mut Vec<u8>,
) -> Result<bool> {
    read_up_to(file, path, piece.offset, record.raw_len as usize, buffer)?;
    Ok(buffer.len() == record.raw_len as usize && ChunkHash::of(buffer) == record.hash)
}
