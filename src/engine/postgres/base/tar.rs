//! A strict reader of the tar streams that `BASE_BACKUP` sends.
//!
//! Bytes go in as they come, entries come out; file content is handed on without a
//! copy. The server writes plain ustar (`tarCreateHeader`, `src/port/tar.c`) with
//! directories, regular files and symbolic links only. Everything else a tar may hold
//! is refused: extended headers (`x`, `g`, `L`, `K`), which rename what follows, hard
//! links, devices, absolute names, names with `..`, a wrong header checksum.
//!
//! ```text
//! header   0  name 100      100  mode 8      124  size 12      136  mtime 12
//!        148  checksum 8    156  type 1      157  link 100     257  "ustar\0" "00"
//!        345  prefix 155, always empty: the server refuses longer names
//! ```
//! Numbers are octal text, or big-endian with the first bit set where octal is too
//! short. Content is padded to 512 bytes. Servers before 15 send no end blocks.

use bytes::{Buf, Bytes};

use crate::engine::EntryMeta;
use crate::error::{Error, Result};

/// Bytes of a header and the unit of padding.
const BLOCK: usize = 512;

/// Largest file that is taken: far above what PostgreSQL writes (1 GiB), and small
/// enough that no sum of sizes overflows.
const FILE_BYTES_MAX: u64 = 1 << 50;

/// What comes out of a tar stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TarEvent {
    /// A directory.
    Directory(EntryMeta),
    /// A symbolic link and what it points to.
    Symlink(EntryMeta, String),
    /// A file and its size; `Data` and `FileEnd` follow.
    File(EntryMeta, u64),
    /// Bytes of the open file.
    Data(Bytes),
    /// The open file is complete.
    FileEnd,
}

#[derive(Debug)]
enum State {
    /// Collecting a header.
    Header(Vec<u8>),
    /// Inside a file: bytes of content and of padding that are still to come.
    Content { left: u64, padding: usize },
    /// Skipping padding.
    Padding(usize),
    /// After the first zero block: only zeros may follow.
    End,
}

/// Reads one tar stream.
#[derive(Debug)]
pub struct TarReader {
    state: State,
}

impl Default for TarReader {
    fn default() -> Self {
        Self::new()
    }
}

impl TarReader {
    /// A reader at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self { state: State::Header(Vec::with_capacity(BLOCK)) }
    }

    /// Takes the next bytes of the stream and gives what they complete to `each`.
    ///
    /// # Errors
    /// [`crate::Kind::Failure`] for anything the server does not send; what `each`
    /// returns. The reader is then of no more use.
    pub fn feed(&mut self, mut bytes: Bytes, mut each: impl FnMut(TarEvent) -> Result<()>) -> Result<()> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Header(head) => {
                    let take = bytes.len().min(BLOCK - head.len());
                    head.extend_from_slice(&bytes.split_to(take));
                    if let Some(block) = head.first_chunk::<BLOCK>() {
                        self.state = begin(block, &mut each)?;
                    }
                }
                State::Content { left, padding } => {
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= take as u64;
                    each(TarEvent::Data(bytes.split_to(take)))?;
                    if *left == 0 {
                        each(TarEvent::FileEnd)?;
                        self.state = after_content(*padding);
                    }
                }
                State::Padding(left) => {
                    let take = bytes.len().min(*left);
                    bytes.advance(take);
                    self.state = after_content(*left - take);
                }
                State::End => {
                    if bytes.iter().any(|&b| b != 0) {
                        return Err(Error::failure("the server's tar goes on after its end"));
                    }
                    bytes.clear();
                }
            }
        }
        Ok(())
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// [`crate::Kind::Failure`] inside an entry.
    pub fn finish(self) -> Result<()> {
        match self.state {
            State::Header(head) if head.is_empty() => Ok(()),
            State::End => Ok(()),
            State::Header(_) => Err(Error::failure("the server's tar ends inside a header")),
            State::Content { left, .. } => {
                Err(Error::failure(format!("the server's tar ends {left} bytes before the end of a file")))
            }
            State::Padding(_) => Err(Error::failure("the server's tar ends inside a file's padding")),
        }
    }
}

fn after_content(padding: usize) -> State {
    if padding == 0 { State::Header(Vec::with_capacity(BLOCK)) } else { State::Padding(padding) }
}

/// Reads a header and says what follows it.
fn begin(block: &[u8; BLOCK], each: &mut impl FnMut(TarEvent) -> Result<()>) -> Result<State> {
    if block.iter().all(|&b| b == 0) {
        return Ok(State::End);
    }
    let field = |start: usize, len: usize| block.get(start..start + len).unwrap_or_default();
    let name = text(field(0, 100))?;
    let refuse = |flaw: &str| Error::failure(format!("the server's tar has {flaw} at {name:?}"));
    // The checksum counts its own field as spaces.
    let sum = block.iter().map(|&b| u64::from(b)).sum::<u64>()
        - field(148, 8).iter().map(|&b| u64::from(b)).sum::<u64>()
        + 8 * u64::from(b' ');
    if number(field(148, 8)) != Some(sum) {
        return Err(refuse("a header with a wrong checksum"));
    }
    if field(257, 8) != b"ustar\x0000" {
        return Err(refuse("a header that is not ustar"));
    }
    if field(345, 155).iter().any(|&b| b != 0) {
        return Err(refuse("a name in two parts, which PostgreSQL does not write"));
    }
    let (Some(mode), Some(size), Some(mtime)) = (number(field(100, 8)), number(field(124, 12)), number(field(136, 12)))
    else {
        return Err(refuse("a number that cannot be read"));
    };
    let kind = block.get(156).copied().unwrap_or(0);
    // Directories and links end with a slash (`tarCreateHeader`).
    let path = if matches!(kind, b'5' | b'2') { name.strip_suffix('/').unwrap_or(&name) } else { &name };
    // The server names what it makes up itself with a `./` before it, e.g.
    // `./pg_wal/archive_status` (`sendDir`, `basebackup.c`).
    let path = path.strip_prefix("./").unwrap_or(path);
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(refuse("a name that is not plain and relative"));
    }
    let meta = EntryMeta {
        path: path.to_owned(),
        mode: (mode & 0o7777) as u32,
        mtime: i64::try_from(mtime).map_err(|_| refuse("a time that cannot be read"))?,
    };
    if kind != b'0' && size != 0 {
        return Err(refuse("content in an entry that is no file"));
    }
    match kind {
        b'0' if size > FILE_BYTES_MAX => return Err(refuse("a file of absurd size")),
        b'0' => {
            each(TarEvent::File(meta, size))?;
            if size > 0 {
                let padding = (BLOCK - (size % BLOCK as u64) as usize) % BLOCK;
                return Ok(State::Content { left: size, padding });
            }
            each(TarEvent::FileEnd)?;
        }
        b'5' => each(TarEvent::Directory(meta))?,
        b'2' => {
            let target = text(field(157, 100))?;
            if target.is_empty() {
                return Err(refuse("a link to nowhere"));
            }
            each(TarEvent::Symlink(meta, target))?;
        }
        other => {
            return Err(refuse(&format!("an entry of type {:?}, which PostgreSQL does not write,", char::from(other))));
        }
    }
    Ok(after_content(0))
}

/// A text field: up to the first zero byte, or all of it.
fn text(field: &[u8]) -> Result<String> {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    let bytes = field.get(..end).unwrap_or_default();
    String::from_utf8(bytes.to_vec()).map_err(|_| {
        Error::failure(format!("file name {:?} in the data directory is not UTF-8", String::from_utf8_lossy(bytes)))
            .hint("PostgreSQL makes no such name: did somebody put a file of their own there?")
    })
}

/// A number field: octal text closed by spaces or zeros, or base 256. `None` for
/// anything else, also for a negative number.
fn number(field: &[u8]) -> Option<u64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // Bit 0x40 is the sign.
        let mut value = u64::from(first & 0x7f);
        if value & 0x40 != 0 {
            return None;
        }
        for &byte in rest {
            value = value.checked_mul(256)? | u64::from(byte);
        }
        return Some(value);
    }
    let digits = field.split(|&b| b == b' ' || b == 0).next()?;
    let closed = field.get(digits.len()..)?.iter().all(|&b| b == b' ' || b == 0);
    if digits.is_empty() || !closed {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &digit| {
        matches!(digit, b'0'..=b'7').then(|| value.checked_mul(8)?.checked_add(u64::from(digit - b'0')))?
    })
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header as `tarCreateHeader` writes it.
    pub(in super::super) fn header(name: &str, kind: u8, size: u64, link: &str) -> Vec<u8> {
        let mut block = vec![0u8; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(100, b"0000600 ");
        put(108, b"0000145 ");
        put(116, b"0000150 ");
        if size < 1 << 33 {
            put(124, format!("{size:011o} ").as_bytes());
        } else {
            put(124, &[0x80, 0, 0, 0]);
            put(128, &size.to_be_bytes());
        }
        put(136, b"15164112345 ");
        put(148, b"        ");
        put(156, &[kind]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000postgres");
        fix(&mut block);
        block
    }

    fn fix(block: &mut [u8]) {
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block[..BLOCK].iter().map(|&b| u32::from(b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }

    pub(in super::super) fn file(name: &str, content: &[u8]) -> Vec<u8> {
        let mut out = header(name, b'0', content.len() as u64, "");
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        out
    }

    /// Reads `tar` in pieces of `step` bytes; joins the data of each file.
    fn read(tar: &[u8], step: usize) -> Result<Vec<TarEvent>> {
        let mut events: Vec<TarEvent> = Vec::new();
        let mut reader = TarReader::new();
        for piece in tar.chunks(step) {
            reader.feed(Bytes::copy_from_slice(piece), |event| {
                match (events.last_mut(), event) {
                    (Some(TarEvent::Data(had)), TarEvent::Data(more)) => *had = [&had[..], &more[..]].concat().into(),
                    (_, event) => events.push(event),
                }
                Ok(())
            })?;
        }
        reader.finish()?;
        Ok(events)
    }

    fn meta(path: &str) -> EntryMeta {
        EntryMeta { path: path.into(), mode: 0o600, mtime: 0o15164112345 }
    }

    fn sample() -> (Vec<u8>, Vec<TarEvent>) {
        let tar = [
            header("base/", b'5', 0, ""),
            file("base/1", &[7; 700]),
            file("empty", b""),
            file("full", &[1; 512]),
            header("pg_tblspc/16400/", b'2', 0, "/srv/ts"),
        ]
        .concat();
        let events = vec![
            TarEvent::Directory(meta("base")),
            TarEvent::File(meta("base/1"), 700),
            TarEvent::Data(Bytes::from_static(&[7; 700])),
            TarEvent::FileEnd,
            TarEvent::File(meta("empty"), 0),
            TarEvent::FileEnd,
            TarEvent::File(meta("full"), 512),
            TarEvent::Data(Bytes::from_static(&[1; 512])),
            TarEvent::FileEnd,
            TarEvent::Symlink(meta("pg_tblspc/16400"), "/srv/ts".into()),
        ];
        (tar, events)
    }

    #[test]
    fn reads_a_stream_in_pieces_of_any_size_with_and_without_end_blocks() {
        let (tar, events) = sample();
        let ended = [&tar[..], &[0; 1024]].concat();
        for step in [1, 3, 511, 512, 513, 1000, 100_000] {
            assert_eq!(read(&tar, step).unwrap(), events, "{step}");
            assert_eq!(read(&ended, step).unwrap(), events, "{step}");
        }
    }

    #[test]
    fn refuses_a_stream_cut_inside_an_entry() {
        let (tar, _) = sample();
        let boundaries = [0, 512, 2048, 2560, 3584, 4096];
        for len in 0..tar.len() {
            assert_eq!(read(&tar[..len], 4096).is_ok(), boundaries.contains(&len), "{len} bytes");
        }
    }

    #[test]
    fn refuses_what_postgresql_does_not_send() {
        let refused = |tar: &[u8], why: &str| {
            let error = read(tar, 4096).unwrap_err().to_string();
            assert!(error.contains(why), "{error:?} says nothing of {why:?}");
        };
        for kind in [b'x', b'g', b'L', b'K', b'1', b'3', b'4', b'6', b'7', 0, b'S'] {
            refused(&header("a", kind, 0, ""), "of type");
        }
        for name in ["/etc/passwd", "../a", "a/../b", "././a", "a/./b", "a//b", "", ".."] {
            refused(&header(name, b'0', 0, ""), "plain and relative");
        }
        refused(&header("a/", b'0', 0, ""), "plain and relative");
        refused(&header("a", b'5', 512, ""), "no file");
        refused(&header("a", b'2', 0, ""), "nowhere");
        refused(&header("a", b'0', 1 << 60, ""), "absurd");
        let mut block = header("a", b'0', 0, "");
        block[0] = b'b';
        refused(&block, "wrong checksum");
        for (at, why) in [(257, "not ustar"), (345, "two parts"), (125, "number"), (0, "UTF-8")] {
            let mut block = header("a", b'0', 0, "");
            block[at] = 0xff;
            fix(&mut block);
            refused(&block, why);
        }
        refused(&[&[0; 1024][..], &header("a", b'0', 0, "")].concat(), "after its end");
    }

    #[test]
    fn reads_the_names_that_the_server_makes_up() {
        let events = read(&header("./pg_wal/archive_status/", b'5', 0, ""), 512).unwrap();
        assert_eq!(events, [TarEvent::Directory(meta("pg_wal/archive_status"))]);
    }

    #[test]
    fn reads_sizes_that_need_more_than_octal() {
        let mut reader = TarReader::new();
        let mut events = Vec::new();
        let size = 3 << 40;
        reader
            .feed(header("big", b'0', size, "").into(), |event| {
                events.push(event);
                Ok(())
            })
            .unwrap();
        assert_eq!(events, [TarEvent::File(meta("big"), size)]);
        assert!(reader.finish().is_err());
    }

    proptest! {
        #[test]
        fn any_files_come_out_as_they_went_in(
            sizes in proptest::collection::vec(0usize..3000, 0..8),
            step in 1usize..4000,
        ) {
            let mut tar = Vec::new();
            let mut expected = Vec::new();
            for (index, &size) in sizes.iter().enumerate() {
                let name = format!("d/{index}");
                tar.extend(file(&name, &vec![index as u8; size]));
                expected.push(TarEvent::File(meta(&name), size as u64));
                if size > 0 {
                    expected.push(TarEvent::Data(vec![index as u8; size].into()));
                }
                expected.push(TarEvent::FileEnd);
            }
            prop_assert_eq!(read(&tar, step).unwrap(), expected);
        }

        /// No changed byte of a header passes; content is for the manifest to judge.
        #[test]
        fn a_changed_header_is_refused(at in 0usize..4096, flip in 1u8.., step in 1usize..2000) {
            let (mut tar, events) = sample();
            tar[at] ^= flip;
            let header = [0, 512, 2048, 2560, 3584].iter().find(|&&start| (start..start + BLOCK).contains(&at));
            match (read(&tar, step), header) {
                // Its own field has room for other spellings of the same number.
                (Ok(read), Some(start)) if (148..156).contains(&(at - start)) => prop_assert_eq!(read, events),
                (read, Some(_)) => prop_assert!(read.is_err()),
                (read, None) => prop_assert_eq!(read.unwrap().len(), events.len()),
            }
        }
    }
}
