//! Writes that go past the page cache (`O_DIRECT`, open(2)).
//!
//! At the live end each group of commits is one small write and one sync. The page cache
//! costs them about ten microseconds of processor time for a copy, a page to look up, to mark
//! and to find again, and nobody reads the page: a tail's log stays in memory until it is
//! sealed. A direct write has whole blocks and comes from memory that is aligned to them. Where a
//! file system knows none, or wants larger blocks, the same bytes go through the cache.

use std::fs::File;
use std::io::Result;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// The largest block of the disks that are common.
const BLOCK: usize = 4096;

/// Zeros written at once.
const ZEROS: usize = 1 << 20;

/// Zeroed memory, aligned as direct writes need it.
#[derive(Debug)]
pub(super) struct Buffer {
    memory: Vec<u8>,
    front: usize,
    len: usize,
}

impl Buffer {
    pub(super) fn zeroed(len: usize) -> Self {
        let memory = vec![0; len + BLOCK];
        let front = memory.as_ptr().align_offset(BLOCK).min(BLOCK);
        Self { memory, front, len }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn get(&self, range: Range<usize>) -> &[u8] {
        let len = self.len;
        self.memory.get(self.front..self.front + len).and_then(|bytes| bytes.get(range)).unwrap_or_default()
    }

    /// The bytes of `range`, or `None` where it reaches behind the end.
    pub(super) fn get_mut(&mut self, range: Range<usize>) -> Option<&mut [u8]> {
        self.memory.get_mut(self.front..self.front + self.len)?.get_mut(range)
    }

    /// The first `len` bytes.
    pub(super) fn into_bytes(self, len: usize) -> Bytes {
        Bytes::from(self.memory).slice(self.front..self.front + len.min(self.len))
    }
}

/// A file that is written directly where that can be.
#[derive(Debug)]
pub(super) struct DirectFile {
    file: File,
    direct: bool,
}

impl DirectFile {
    /// A file that is to be `len` bytes long: one that does not end with a block is written
    /// through the cache.
    pub(super) fn new(file: File, len: usize) -> Self {
        let direct = len.is_multiple_of(BLOCK) && set_direct(&file, true).is_ok();
        Self { file, direct }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Writes `range` of `buffer`, which holds what the file is to hold, to the same place of the file; where
    /// that is no whole blocks, what lies around it once more.
    pub(super) fn write(&mut self, buffer: &Buffer, range: Range<usize>) -> Result<()> {
        let blocks = range.start / BLOCK * BLOCK..range.end.next_multiple_of(BLOCK);
        self.write_at(buffer.get(blocks), buffer.get(range.clone()), range.start)
    }

    /// Makes the first `len` bytes zeros.
    pub(super) fn write_zeros(&mut self, len: usize) -> Result<()> {
        let zeros = Buffer::zeroed(ZEROS.min(len));
        let mut done = 0;
        while done < len {
            let piece = zeros.get(0..zeros.len().min(len - done));
            self.write_at(piece, piece, done)?;
            done += piece.len();
        }
        Ok(())
    }

    /// Writes `blocks`, which begin with the one that holds `at`, or only `bytes`.
    fn write_at(&mut self, blocks: &[u8], bytes: &[u8], at: usize) -> Result<()> {
        if self.direct {
            match self.file.write_all_at(blocks, (at / BLOCK * BLOCK) as u64) {
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                    set_direct(&self.file, false)?;
                    self.direct = false;
                }
                done => return done,
            }
        }
        self.file.write_all_at(bytes, at as u64)
    }
}

fn set_direct(file: &File, on: bool) -> Result<()> {
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, on);
    Ok(fcntl_setfl(file, flags)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory that is not aligned is refused as larger blocks than ours would be.
    #[test]
    fn what_cannot_be_written_directly_goes_through_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut file = DirectFile::new(File::create(&path).unwrap(), 2 * BLOCK);
        file.write_zeros(2 * BLOCK).unwrap();
        let mut buffer = Buffer::zeroed(2 * BLOCK);
        buffer.front = if buffer.front == BLOCK { 1 } else { buffer.front + 1 };
        buffer.get_mut(0..2 * BLOCK).unwrap().fill(7);
        file.write(&buffer, 5000..6000).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 2 * BLOCK);
        assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == if (5000..6000).contains(&at) { 7 } else { 0 }));
        assert!(!file.direct && !fcntl_getfl(file.file()).unwrap().contains(OFlags::DIRECT));
    }

    #[test]
    fn a_file_that_does_not_end_with_a_block_is_not_made_longer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut file = DirectFile::new(File::create(&path).unwrap(), BLOCK + 8);
        file.write_zeros(BLOCK + 8).unwrap();
        file.write(&Buffer::zeroed(BLOCK + 8), BLOCK..BLOCK + 8).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), BLOCK as u64 + 8);
    }
}
