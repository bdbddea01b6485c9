//! Writes that go past the page cache (`O_DIRECT`, open(2)).
//!
//! At the live end each group of commits is one small write and one sync. The page cache
//! costs them a copy, and pages to look up, to mark and to find again, which as a rule nobody
//! reads. A direct write has whole blocks and comes from memory that is aligned to them. Where
//! a file system knows none, or wants larger blocks, the same bytes go through the cache.

use std::fs::File;
use std::io::Result;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// The largest block of the disks that are common.
const BLOCK: usize = 4096;

/// Zeros written at once.
const ZEROS: usize = 1 << 20;

/// A file that is written directly where that can be.
#[derive(Debug)]
pub(super) struct DirectFile {
    file: File,
    direct: bool,
}

impl DirectFile {
    /// A file that is to be `len` bytes long: one that does not end with a block is written
    /// through the cache.
    pub(super) fn new(file: File, len: u64) -> Self {
        let direct = len.is_multiple_of(BLOCK as u64) && set_direct(&file, true).is_ok();
        Self { file, direct }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn len(&self) -> Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Makes what lies from `start` to `end` zeros. Where the file is written directly, both
    /// are between blocks.
    pub(super) fn write_zeros(&mut self, start: u64, end: u64) -> Result<()> {
        let zeros = Aligned::zeroed(ZEROS);
        let mut at = start;
        while at < end {
            let piece = zeros.get(0..usize::try_from(end - at).unwrap_or(usize::MAX).min(ZEROS))?;
            if !self.write_blocks(piece, at)? {
                self.file.write_all_at(piece, at)?;
            }
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Writes whole blocks, if the file is written directly.
    fn write_blocks(&mut self, blocks: &[u8], at: u64) -> Result<bool> {
        if self.direct {
            match self.file.write_all_at(blocks, at) {
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                    set_direct(&self.file, false)?;
                    self.direct = false;
                }
                done => return done.map(|()| true),
            }
        }
        Ok(false)
    }
}

fn set_direct(file: &File, on: bool) -> Result<()> {
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, on);
    Ok(fcntl_setfl(file, flags)?)
}

/// The end of a file that grows: what is to be written next, and before it what was written
/// of the block in which that begins.
#[derive(Debug)]
pub(super) struct Group {
    memory: Aligned,
    /// Where the memory lies in the file: at the start of a block.
    front: u64,
    /// Bytes of the memory that count.
    filled: usize,
    /// How many of them are in the file.
    written: usize,
    full: usize,
}

impl Group {
    /// At the start of a file. Is full with `full` bytes.
    pub(super) fn new(full: usize) -> Self {
        // Behind them are what is written with them, and the rest of that block.
        Self { memory: Aligned::zeroed(full + 2 * BLOCK), front: 0, filled: 0, written: 0, full }
    }

    /// Takes what there is room for, and gives the rest back.
    pub(super) fn take<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8]> {
        let (bytes, rest) = bytes.split_at(bytes.len().min(self.full - self.filled));
        self.memory.get_mut(self.filled..self.filled + bytes.len())?.copy_from_slice(bytes);
        self.filled += bytes.len();
        Ok(rest)
    }

    pub(super) fn is_full(&self) -> bool {
        self.filled == self.full
    }

    pub(super) fn is_written(&self) -> bool {
        self.filled == self.written
    }

    /// Where its last byte ends in the file.
    pub(super) fn end(&self) -> u64 {
        self.front + self.filled as u64
    }

    /// Writes what was not written yet, and `behind` after it, at most a block, which the next
    /// write covers. Gives the end of what was written: behind that may be zeros.
    pub(super) fn write(&mut self, file: &mut DirectFile, behind: &[u8]) -> Result<u64> {
        let end = self.filled + behind.len();
        let blocks_end = end.next_multiple_of(BLOCK);
        self.memory.get_mut(self.filled..end)?.copy_from_slice(behind);
        self.memory.get_mut(end..blocks_end)?.fill(0);
        let end = if file.write_blocks(self.memory.get(0..blocks_end)?, self.front)? {
            blocks_end
        } else {
            file.file.write_all_at(self.memory.get(self.written..end)?, self.front + self.written as u64)?;
            end
        };
        let end = self.front + end as u64;
        // The last block will be written again.
        let whole = self.filled / BLOCK * BLOCK;
        self.memory.get_mut(0..self.filled)?.copy_within(whole.., 0);
        self.front += whole as u64;
        self.filled -= whole;
        self.written = self.filled;
        Ok(end)
    }
}

/// Memory that begins like a block.
#[derive(Debug)]
struct Aligned {
    memory: Vec<u8>,
    front: usize,
    len: usize,
}

impl Aligned {
    fn zeroed(len: usize) -> Self {
        let memory = vec![0; len + BLOCK];
        let front = memory.as_ptr().align_offset(BLOCK).min(BLOCK);
        Self { memory, front, len }
    }

    fn get(&self, range: Range<usize>) -> Result<&[u8]> {
        self.memory.get(self.front..self.front + self.len).and_then(|bytes| bytes.get(range)).ok_or_else(too_short)
    }

    fn get_mut(&mut self, range: Range<usize>) -> Result<&mut [u8]> {
        let bytes = self.memory.get_mut(self.front..self.front + self.len);
        bytes.and_then(|bytes| bytes.get_mut(range)).ok_or_else(too_short)
    }
}

/// A bug; but never may nothing be written and called durable.
fn too_short() -> std::io::Error {
    std::io::Error::other("the memory for a write is too short")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups of these sizes, with the number of the group behind each.
    fn write_groups(file: &mut DirectFile, group: &mut Group, sizes: &[usize]) -> Vec<u8> {
        let mut log = Vec::new();
        for (number, size) in sizes.iter().enumerate() {
            let bytes: Vec<u8> = (0..*size).map(|i| (i % 251) as u8).collect();
            log.extend_from_slice(&bytes);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                rest = group.take(rest).unwrap();
                if group.is_full() {
                    group.write(file, &[]).unwrap();
                }
            }
            group.write(file, &[number as u8 + 1; 20]).unwrap();
            assert_eq!((group.end(), group.is_written()), (log.len() as u64, true));
        }
        log
    }

    fn assert_holds(path: &std::path::Path, log: &[u8], last: u8, len: usize) {
        let bytes = std::fs::read(path).unwrap();
        assert_eq!(bytes.len(), len);
        assert!(bytes[..log.len()] == *log);
        assert_eq!(bytes[log.len()..log.len() + 20], [last; 20]);
        assert!(bytes[log.len() + 20..].iter().all(|byte| *byte == 0));
    }

    const SIZES: [usize; 8] = [1, 4095, 4096, 4076, 20, 70_000, 8191, 3];

    #[test]
    fn groups_of_any_size_lie_one_behind_the_other() {
        for len in [1 << 20, (1 << 20) + 8] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("file");
            let mut file = DirectFile::new(File::create(&path).unwrap(), len as u64);
            file.write_zeros(0, len as u64).unwrap();
            let log = write_groups(&mut file, &mut Group::new(16384), &SIZES);
            assert_holds(&path, &log, 8, len);
        }
    }

    /// Memory that is not aligned is refused as larger blocks than ours would be.
    #[test]
    fn what_cannot_be_written_directly_goes_through_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut file = DirectFile::new(File::create(&path).unwrap(), 1 << 20);
        file.write_zeros(0, 1 << 20).unwrap();
        let mut group = Group::new(16384);
        group.memory.front = if group.memory.front == BLOCK { 1 } else { group.memory.front + 1 };
        let log = write_groups(&mut file, &mut group, &SIZES);
        assert_holds(&path, &log, 8, 1 << 20);
        // Some file systems take any memory, and then go on as they were.
        assert_eq!(file.direct, fcntl_getfl(file.file()).unwrap().contains(OFlags::DIRECT));
    }
}
