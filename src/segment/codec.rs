//! One standard LZ4 or zstd frame: raw log in, frame out, and back.
//!
//! An encoder appends to one growing buffer; a decoder gives pieces of bounded size
//! and refuses what the stock formats would let pass: a missing end, bytes after it,
//! more output than announced. Checksums are the footer's business, so that frames
//! carry none of their own.

use std::fmt;
use std::str::FromStr;

use crate::catalog::Codec;
use crate::error::{Error, Result};

mod lz4;
mod zstd;

/// How to compress segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// LZ4: the least work.
    Lz4,
    /// Zstandard that looks for repetitions in fewer places and less far back than level 1
    /// does: a third less work, an eighth more bytes.
    ZstdFast,
    /// Zstandard at this level, 1 to 19: the smaller store.
    Zstd(i32),
}

/// Higher levels want windows of more than 8 MiB, which every reader would then need.
const ZSTD_LEVEL_MAX: i32 = 19;

impl Compression {
    /// The codec that reads it back.
    #[must_use]
    pub const fn codec(self) -> Codec {
        match self {
            Self::Lz4 => Codec::Lz4,
            Self::ZstdFast | Self::Zstd(_) => Codec::Zstd,
        }
    }
}

impl FromStr for Compression {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let level = match text {
            "lz4" => return Ok(Self::Lz4),
            "zstd:fast" => return Ok(Self::ZstdFast),
            "zstd" => Some(1),
            _ => text.strip_prefix("zstd:").and_then(|level| level.parse().ok()),
        };
        match level {
            Some(level) if (1..=ZSTD_LEVEL_MAX).contains(&level) => Ok(Self::Zstd(level)),
            _ => Err(Error::usage(format!("compression {text:?} is not known"))
                .hint(format!("use lz4, zstd:fast, zstd or zstd:LEVEL with a level from 1 to {ZSTD_LEVEL_MAX}"))),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lz4 => f.write_str("lz4"),
            Self::ZstdFast => f.write_str("zstd:fast"),
            Self::Zstd(level) => write!(f, "zstd:{level}"),
        }
    }
}

/// Makes one frame.
pub(super) enum Encoder {
    Lz4(lz4::Encoder),
    Zstd(zstd::Encoder),
}

impl Encoder {
    pub(super) fn new(compression: Compression, out: &mut Vec<u8>) -> Result<Self> {
        Ok(match compression {
            Compression::Lz4 => Self::Lz4(lz4::Encoder::new(out)),
            Compression::ZstdFast => Self::Zstd(zstd::Encoder::fast()?),
            Compression::Zstd(level) => Self::Zstd(zstd::Encoder::new(level)?),
        })
    }

    pub(super) fn write(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Lz4(encoder) => encoder.write(raw, out),
            Self::Zstd(encoder) => encoder.write(raw, out),
        }
    }

    pub(super) fn finish(self, out: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Lz4(encoder) => encoder.finish(out),
            Self::Zstd(encoder) => encoder.finish(out),
        }
    }
}

/// Decompresses one whole frame, whichever codec made it, in pieces of at most 256 KiB.
/// A frame that gives more than `limit` bytes is refused before the surplus is handed on.
pub(super) fn decode(frame: &[u8], limit: u64, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut total = 0_u64;
    let mut each = |piece: &[u8]| {
        total = total.saturating_add(piece.len() as u64);
        if total > limit {
            return Err(Error::corruption(format!("log is longer than {limit} bytes, its footer's count")));
        }
        each(piece)
    };
    match frame.first_chunk::<4>().map(|magic| u32::from_le_bytes(*magic)) {
        Some(lz4::MAGIC) => lz4::decode(frame, &mut each)?,
        Some(zstd::MAGIC) => zstd::decode(frame, &mut each)?,
        Some(other) => {
            return Err(Error::corruption(format!("log begins with {other:#010x}, neither an LZ4 nor a zstd frame")));
        }
        None => return Err(Error::corruption(format!("log takes {} bytes, too few for a frame", frame.len()))),
    }
    if total == limit {
        Ok(())
    } else {
        Err(Error::corruption(format!("log is {total} bytes long, its footer counts {limit}")))
    }
}

#[cfg(test)]
mod tests;
