//! Segments: a contiguous range of one timeline's log, compressed and checksummed.

mod bytes;
pub mod codec;
pub mod cutter;
pub mod format;
pub mod read;
#[cfg(test)]
mod samples;
pub mod trailer;
pub mod write;
