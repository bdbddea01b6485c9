//! An open segment: raw log in, a finished object out.
//!
//! Everything is appended to one buffer, which becomes the object without being copied
//! again. Checksums are taken while the bytes are still in the processor's cache.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};

use super::codec::{Compression, Encoder};
use super::format::{Footer, Header};
use crate::catalog::Codec;
use crate::error::{Error, Result};
use crate::model::offset::Offset;
use crate::model::summary::Summary;

/// A segment that is being written.
pub struct SegmentWriter {
    header: Header,
    compression: Compression,
    /// `Err` from the moment on when something failed; told by [`SegmentWriter::finish`].
    encoder: Result<Encoder>,
    out: Vec<u8>,
    /// Bytes of `out` that `stored_crc` has seen, or that are the header.
    summed: usize,
    raw_bytes: u64,
    raw_crc: Digest,
    stored_crc: Digest,
}

/// A segment ready to be stored.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The object's bytes, in pieces.
    pub body: Vec<Bytes>,
    /// The codec, which is the object's file name extension.
    pub codec: Codec,
    /// Bytes of log in it.
    pub raw_bytes: u64,
    /// Bytes of the object.
    pub stored_bytes: u64,
}

impl SegmentWriter {
    /// Begins a segment.
    #[must_use]
    pub fn new(header: Header, compression: Compression) -> Self {
        let mut out = Vec::new();
        let mut summed = 0;
        let encoder = header.encode(&mut out).and_then(|()| {
            summed = out.len();
            Encoder::new(compression, &mut out)
        });
        let crc = || Digest::new(CrcAlgorithm::Crc32Iscsi);
        Self { header, compression, encoder, out, summed, raw_bytes: 0, raw_crc: crc(), stored_crc: crc() }
    }

    /// Appends log. Slices of 64 KiB or more are compressed where they lie; smaller
    /// ones are gathered first.
    pub fn write(&mut self, raw: &[u8]) {
        self.raw_crc.update(raw);
        self.raw_bytes += raw.len() as u64;
        if let Ok(encoder) = &mut self.encoder
            && let Err(error) = encoder.write(raw, &mut self.out)
        {
            self.encoder = Err(error);
        }
        self.sum();
    }

    /// Log bytes written so far.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// Offset of the next byte to be written.
    #[must_use]
    pub fn offset(&self) -> Offset {
        Offset(self.header.start.0.saturating_add(self.raw_bytes))
    }

    /// Ends the segment with its footer.
    ///
    /// # Errors
    /// [`crate::Kind::Failure`] when nothing was written, when `summary.range` is not
    /// what was written, or when a compressor failed for want of memory.
    pub fn finish(mut self, summary: &Summary) -> Result<Finished> {
        if summary.range.start != self.header.start || summary.range.end != self.offset() {
            return Err(Error::failure(format!(
                "summary of {} does not fit the segment {}-{} that was written",
                summary.range,
                self.header.start,
                self.offset()
            ))
            .hint("this is a bug in pitr; nothing was stored"));
        }
        let encoder = std::mem::replace(&mut self.encoder, Err(Error::failure("segment is finished")))?;
        encoder.finish(&mut self.out)?;
        self.sum();
        let footer = Footer {
            summary: summary.clone(),
            raw_bytes: self.raw_bytes,
            raw_crc: self.raw_crc.finalize() as u32,
            stored_crc: self.stored_crc.finalize() as u32,
        };
        footer.encode(&self.header, &mut self.out)?;
        let stored_bytes = self.out.len() as u64;
        Ok(Finished {
            body: vec![Bytes::from(self.out)],
            codec: self.compression.codec(),
            raw_bytes: self.raw_bytes,
            stored_bytes,
        })
    }

    /// Takes what the encoder put out into the checksum.
    fn sum(&mut self) {
        self.stored_crc.update(&self.out[self.summed..]);
        self.summed = self.out.len();
    }
}

#[cfg(test)]
mod tests;
