//! Which bytes of which packs are read in which order. Pure.
//!
//! Chunks are sorted by where their whole entry lies and joined into *units*: one
//! read of one pack, and the few reads of other packs that the deltas of its chunks
//! need. A gap that is cheaper to read than to ask for again is read and thrown away.

use crate::base::load::Base;
use crate::base::table::Place;

/// Largest read, in bytes.
const READ_BYTES_MAX: u32 = 8 << 20;

/// Gap in bytes over which a read goes on.
const GAP_BYTES_MAX: u32 = 256 << 10;

/// Bytes of files a unit may make: bounds its deltas.
const UNIT_BYTES_MAX: u64 = 64 << 20;

/// A chunk that is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Index into the table.
    pub(super) chunk: u32,
    /// Index into the manifest's files.
    pub(super) file: u32,
    /// Where in the file.
    pub(super) offset: u64,
}

/// A part of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Read {
    /// Index into the manifest's packs.
    pub(super) pack: u32,
    /// First byte.
    pub(super) start: u32,
    /// One past the last.
    pub(super) end: u32,
}

impl Read {
    fn of(place: Place) -> Self {
        let start = place.extent.offset;
        Self { pack: place.pack, start, end: start.saturating_add(place.extent.len) }
    }

    /// Whether this read holds all of `place`.
    pub(super) fn holds(&self, place: Place) -> bool {
        let other = Self::of(place);
        self.pack == other.pack && self.start <= other.start && other.end <= self.end
    }

    /// This read grown to hold `place`, which begins no earlier; `None` when a new
    /// one is better.
    fn grown(self, place: Place) -> Option<Self> {
        let other = Self::of(place);
        let grown = Self { end: self.end.max(other.end), ..self };
        let near = other.pack == self.pack && other.start <= self.end.saturating_add(GAP_BYTES_MAX);
        (near && other.start >= self.start && grown.end - grown.start <= READ_BYTES_MAX).then_some(grown)
    }
}

/// What one worker does at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// Holds the whole entries of all pieces.
    pub(super) whole: Read,
    /// Hold their deltas.
    pub(super) deltas: Vec<Read>,
    /// In order of their whole entries: those of one entry stand together.
    pub(super) pieces: Vec<Piece>,
}

/// Joins pieces into units.
pub(super) fn units(base: &Base, mut pieces: Vec<Piece>) -> Vec<Unit> {
    let chunk = |piece: &Piece| base.table.chunks.get(piece.chunk as usize);
    let whole = |piece: &Piece| chunk(piece).map(|c| (c.whole.pack, c.whole.extent));
    pieces.sort_unstable_by_key(|piece| (whole(piece), piece.file, piece.offset));
    let mut units: Vec<Unit> = Vec::new();
    let mut bytes = 0;
    for piece in pieces {
        let Some(record) = chunk(&piece) else { continue };
        bytes += u64::from(record.raw_len);
        match units.last_mut().map(|unit| (unit.whole.grown(record.whole), unit)) {
            Some((Some(grown), unit)) if bytes <= UNIT_BYTES_MAX => {
                unit.whole = grown;
                unit.pieces.push(piece);
            }
            _ => {
                bytes = u64::from(record.raw_len);
                units.push(Unit { whole: Read::of(record.whole), deltas: Vec::new(), pieces: vec![piece] });
            }
        }
    }
    for unit in &mut units {
        let mut places: Vec<Place> = unit.pieces.iter().filter_map(|p| chunk(p)?.delta).collect();
        places.sort_unstable_by_key(|place| (place.pack, place.extent));
        for place in places {
            match unit.deltas.last_mut().map(|read| (read.grown(place), read)) {
                Some((Some(grown), read)) => *read = grown,
                _ => unit.deltas.push(Read::of(place)),
            }
        }
    }
    units
}
