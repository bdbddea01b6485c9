//! Segments: a contiguous range of one timeline's log, compressed and checksummed.

pub mod codec;
pub mod cutter;
pub mod format;
pub mod read;
pub mod write;
