//! A strict reader of the stream that `mariadb-backup --backup --stream=mbstream` and
//! `xtrabackup --backup --stream=xbstream` write: files in chunks, several at a time.
//!
//! Bytes go in as they come, in pieces of any size; content is handed on without a copy,
//! before its chunk is whole. So what [`Item::Data`] gave is good only when the file's
//! [`Item::End`] has come, and the backup only when [`StreamReader::finish`] agrees.
//!
//! ```text
//!  0  "XBSTCK01"     8  flags u8     9  type u8     10  bytes of path u32     14  path
//! 'E', end of file: nothing more
//! 'P', payload:  bytes u64  offset in the file u64  CRC-32 u32  content
//! 'S', sparse:   entries u32  bytes u64  offset u64  CRC-32 u32
//!                each entry: bytes to skip u32, then bytes of content u32;  content
//! ```
//!
//! Numbers are little-endian. The CRC-32 (ISO 3309) is over the entries and the content.
//! A chunk of any other type with flag 1 may be passed over and has the form of 'P'. A
//! chunk's offset is where the file had got to, holes included. Source:
//! `extra/mariabackup/xbstream_read.cc` in MariaDB; `xbstream.cc` and "xbstream file
//! format" in xtrabackup.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use self::head::{Content, Head, strange};
use crate::engine::mysql::binlog::fields::Fields;
use crate::error::{Error, Result};

mod head;

/// Most files of one stream: beyond any server's, it bounds our memory.
const FILES_MAX: usize = 1 << 24;

/// What comes out of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Bytes of a file.
    Data {
        /// The file, relative to the data directory, without `./`.
        path: Arc<str>,
        /// Where in the file they belong: where its last item ended.
        offset: u64,
        /// The bytes; at least one.
        bytes: Bytes,
    },
    /// A hole in a file: bytes that are zero and need no place on disk.
    Hole {
        /// The file.
        path: Arc<str>,
        /// Where in the file it begins.
        offset: u64,
        /// Its length, at least 1.
        length: u64,
    },
    /// The file is complete; it may be empty.
    End {
        /// The file.
        path: Arc<str>,
        /// Its length in bytes.
        length: u64,
    },
}

/// What a file's next chunk must be.
#[derive(Clone, Copy, Debug)]
enum Progress {
    /// One that begins here.
    Open(u64),
    /// None: the file has ended.
    Ended,
}

/// Content of a chunk that lies together in its file.
#[derive(Debug)]
struct Run {
    /// Bytes of the hole before it.
    skip: u64,
    /// Bytes still to come.
    left: u64,
}

/// A chunk with content, being read.
#[derive(Debug)]
struct Chunk {
    /// The file; none when the chunk is passed over.
    path: Option<Arc<str>>,
    /// Where in the stream it begins.
    at: u64,
    /// Where in the file it begins.
    start: u64,
    /// Where in the file the next run begins.
    offset: u64,
    runs: VecDeque<Run>,
    crc: crc32fast::Hasher,
    crc_said: u32,
}

#[derive(Debug)]
enum State {
    /// Collecting a chunk's head.
    Head,
    /// Collecting a sparse chunk's entries, so many more; its content has so many bytes.
    Entries(Chunk, u32, u64),
    /// In the content of a chunk.
    Content(Chunk),
}

/// Reads one stream.
#[derive(Debug)]
pub struct StreamReader {
    state: State,
    /// The head or entry being collected.
    collected: Vec<u8>,
    /// Bytes of the stream that were taken.
    at: u64,
    files: HashMap<Arc<str>, Progress>,
    open: usize,
}

impl Default for StreamReader {
    fn default() -> Self {
        Self::new()
    }
}

impl StreamReader {
    /// A reader at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self { state: State::Head, collected: Vec::new(), at: 0, files: HashMap::new(), open: 0 }
    }

    /// Takes the next bytes of the stream and gives what they hold to `each`.
    ///
    /// # Errors
    /// [`crate::Kind::Corruption`] for a chunk that fails its checksum,
    /// [`crate::Kind::Failure`] for anything else that the tools do not write; what
    /// `each` returns. The reader is then of no more use.
    pub fn feed(&mut self, mut bytes: Bytes, mut each: impl FnMut(Item) -> Result<()>) -> Result<()> {
        while !bytes.is_empty() {
            match std::mem::replace(&mut self.state, State::Head) {
                State::Head => {
                    let at = self.at - self.collected.len() as u64;
                    let wanted = head::length(&self.collected, at)?;
                    if self.collect(&mut bytes, wanted) && head::length(&self.collected, at)? == wanted {
                        let head = Head::parse(&std::mem::take(&mut self.collected), at)?;
                        self.begin(head, &mut bytes, &mut each)?;
                    }
                }
                State::Entries(chunk, entries, left) => self.entry(chunk, entries, left, &mut bytes, &mut each)?,
                State::Content(chunk) => self.content(chunk, &mut bytes, &mut each)?,
            }
        }
        Ok(())
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// [`crate::Kind::Failure`] inside a chunk, when a file has not ended, and when
    /// there was no file at all.
    pub fn finish(self) -> Result<()> {
        let hint = "the backup tool did not finish: what was its last message?";
        let cut = |what: String| Err(Error::failure(what).hint(hint));
        let inside = match &self.state {
            State::Head if self.collected.is_empty() => None,
            State::Head => Some(None),
            State::Entries(chunk, ..) | State::Content(chunk) => Some(chunk.path.as_deref()),
        };
        if let Some(path) = inside {
            let of = path.map(|path| format!(" of {path}")).unwrap_or_default();
            return cut(format!("the backup stream ends after {} bytes inside a chunk{of}", self.at));
        }
        let open = self.files.iter().filter(|(_, progress)| matches!(progress, Progress::Open(_)));
        if let Some(path) = open.map(|(path, _)| path).min() {
            return cut(format!("the backup stream ends before {path} does, and {} more", self.open - 1));
        }
        if self.files.is_empty() {
            return cut("the backup stream holds no file".to_owned());
        }
        Ok(())
    }

    /// Moves bytes to what is collected; whether that are `wanted` bytes now.
    fn collect(&mut self, bytes: &mut Bytes, wanted: usize) -> bool {
        let taken = bytes.split_to(bytes.len().min(wanted.saturating_sub(self.collected.len())));
        self.at += taken.len() as u64;
        self.collected.extend_from_slice(&taken);
        self.collected.len() >= wanted
    }

    /// Takes a whole head and what `bytes` has of the content behind it.
    fn begin(&mut self, head: Head, bytes: &mut Bytes, each: &mut impl FnMut(Item) -> Result<()>) -> Result<()> {
        let Head { at, path, content } = head;
        let expected = path.as_ref().map(|path| self.expected(path, at)).transpose()?;
        let Some(Content { start, length, entries, crc }) = content else {
            return match path.zip(expected) {
                Some((path, length)) => {
                    self.files.insert(path.clone(), Progress::Ended);
                    self.open -= 1;
                    each(Item::End { path, length })
                }
                None => Ok(()),
            };
        };
        if let Some((path, expected)) = path.as_ref().zip(expected).filter(|(_, expected)| *expected != start) {
            return Err(strange(format!("goes on with byte {start} of {path}, not with byte {expected},"), at));
        }
        let crc_said = crc;
        let crc = crc32fast::Hasher::new();
        let mut chunk = Chunk { path, at, start, offset: start, runs: VecDeque::new(), crc, crc_said };
        if entries > 0 {
            self.state = State::Entries(chunk, entries, length);
            return Ok(());
        }
        chunk.runs.push_back(Run { skip: 0, left: length });
        self.content(chunk, bytes, each)
    }

    /// Where the file's next chunk must begin; a file not seen before is opened.
    fn expected(&mut self, path: &Arc<str>, at: u64) -> Result<u64> {
        match self.files.get(path) {
            Some(Progress::Open(length)) => Ok(*length),
            Some(Progress::Ended) => Err(strange(format!("goes on with {path} after its end,"), at)),
            None if self.files.len() >= FILES_MAX => Err(strange(format!("has more than {FILES_MAX} files"), at)),
            None => {
                self.files.insert(path.clone(), Progress::Open(0));
                self.open += 1;
                Ok(0)
            }
        }
    }

    /// Reads an entry of a sparse chunk. `entries` and `left` bytes of content are not
    /// accounted for yet.
    fn entry(
        &mut self,
        mut chunk: Chunk,
        entries: u32,
        left: u64,
        bytes: &mut Bytes,
        each: &mut impl FnMut(Item) -> Result<()>,
    ) -> Result<()> {
        if !self.collect(bytes, 8) {
            self.state = State::Entries(chunk, entries, left);
            return Ok(());
        }
        let entry = std::mem::take(&mut self.collected);
        chunk.crc.update(&entry);
        let mut fields = Fields::new(head::CHUNK, &entry);
        let (skip, length) = (u64::from(fields.u32()?), u64::from(fields.u32()?));
        let left = left.checked_sub(length).filter(|&left| entries > 1 || left == 0).ok_or_else(|| {
            let name = chunk.path.as_deref().unwrap_or_default();
            strange(format!("has holes in {name} that do not fit its content"), chunk.at)
        })?;
        chunk.runs.push_back(Run { skip, left: length });
        if entries > 1 {
            self.state = State::Entries(chunk, entries - 1, left);
            return Ok(());
        }
        self.content(chunk, bytes, each)
    }

    /// Gives out content, and closes the chunk when that is all.
    fn content(
        &mut self,
        mut chunk: Chunk,
        bytes: &mut Bytes,
        each: &mut impl FnMut(Item) -> Result<()>,
    ) -> Result<()> {
        while let Some(run) = chunk.runs.front_mut() {
            let skip = std::mem::take(&mut run.skip);
            if let Some(path) = chunk.path.as_ref().filter(|_| skip > 0) {
                each(Item::Hole { path: path.clone(), offset: chunk.offset, length: skip })?;
            }
            chunk.offset += skip;
            if run.left == 0 {
                chunk.runs.pop_front();
                continue;
            }
            if bytes.is_empty() {
                self.state = State::Content(chunk);
                return Ok(());
            }
            let taken = bytes.split_to(usize::try_from(run.left).unwrap_or(usize::MAX).min(bytes.len()));
            let count = taken.len() as u64;
            run.left -= count;
            self.at += count;
            chunk.crc.update(&taken);
            if let Some(path) = &chunk.path {
                each(Item::Data { path: path.clone(), offset: chunk.offset, bytes: taken })?;
            }
            chunk.offset += count;
        }
        self.close(chunk)
    }

    /// Judges a chunk by its checksum; also one that is passed over, whose length may be what changed.
    fn close(&mut self, chunk: Chunk) -> Result<()> {
        let Chunk { path, at, start, offset, crc, crc_said, .. } = chunk;
        let crc = crc.finalize();
        if crc != crc_said {
            let name = path.as_deref().unwrap_or(head::PASSED_OVER);
            return Err(Error::corruption(format!(
                "bytes {start} to {offset} of {name} have checksum {crc:08X}, not {crc_said:08X}, in the backup \
                 stream's chunk at {at}"
            ))
            .hint("they changed on their way from the backup tool to here: is this machine's memory sound?"));
        }
        if let Some(path) = path {
            self.files.insert(path, Progress::Open(offset));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
