//! A chunk's head: everything before its content.

use std::sync::Arc;

use crate::engine::mysql::binlog::fields::Fields;
use crate::error::{Error, Result};

/// What errors call a chunk.
pub(super) const CHUNK: &str = "chunk of the backup stream";
/// What errors call a chunk of a type that is passed over.
pub(super) const PASSED_OVER: &str = "a chunk to pass over";
/// First bytes of each chunk.
pub(super) const MAGIC: &[u8; 8] = b"XBSTCK01";
/// Bytes of a chunk before its path.
const HEAD: usize = 14;
/// Path lengths stay below this (`FN_REFLEN`).
const PATH_BYTES: u32 = 512;
/// A flag: a reader that does not know the type may pass over the chunk.
pub(super) const IGNORABLE: u8 = 0x01;
/// Longest file that is taken: far above any file system's, and small enough that no sum
/// overflows.
const FILE_BYTES_MAX: u64 = 1 << 62;
/// Most entries of one sparse chunk: one for each of the smallest pages in the 10 MiB that
/// xtrabackup writes at a time, and some.
const ENTRIES_MAX: u32 = 1 << 16;

/// A head.
#[derive(Debug)]
pub(super) struct Head {
    /// Where in the stream the chunk begins.
    pub(super) at: u64,
    /// The file; none when the chunk is to be passed over.
    pub(super) path: Option<Arc<str>>,
    /// What follows; none at the end of a file.
    pub(super) content: Option<Content>,
}

/// What a head says of its chunk's content.
#[derive(Debug)]
pub(super) struct Content {
    /// Where in the file it begins.
    pub(super) start: u64,
    /// Its bytes, without holes.
    pub(super) length: u64,
    /// Entries of its map of holes.
    pub(super) entries: u32,
    /// Its checksum.
    pub(super) crc: u32,
}

/// How many bytes the head at `at` has, as far as its first bytes tell.
pub(super) fn length(head: &[u8], at: u64) -> Result<usize> {
    let mut fields = Fields::new(CHUNK, head);
    let (Ok(magic), Ok([flags, kind]), Ok(path_bytes)) = (fields.array::<8>(), fields.array(), fields.u32()) else {
        return Ok(HEAD);
    };
    let after_path = match kind {
        _ if magic != *MAGIC || path_bytes >= PATH_BYTES => None,
        b'E' => Some(0),
        b'S' => Some(24),
        b'P' => Some(20),
        _ if flags & IGNORABLE != 0 => Some(20),
        _ => None,
    };
    after_path.map(|after_path| HEAD + path_bytes as usize + after_path).ok_or_else(|| {
        let (magic, kind) = (magic.escape_ascii().to_string(), char::from(kind));
        strange(format!("has magic {magic:?}, type {kind:?}, flags {flags:#x} and a path of {path_bytes} bytes"), at)
    })
}

impl Head {
    /// Reads a whole head, which begins at `at`.
    pub(super) fn parse(head: &[u8], at: u64) -> Result<Self> {
        let mut fields = Fields::new(CHUNK, head);
        let [.., kind] = fields.array::<10>()?;
        let path_bytes = fields.u32()?;
        let path = fields.take(path_bytes as usize)?;
        let path = match kind {
            b'P' | b'S' | b'E' => Some(normal(path, at)?),
            // Any name would do, but one with what follows names in it has a changed length.
            _ if path.contains(&0) => return Err(unsafe_name(path, at)),
            _ => None,
        };
        if kind == b'E' {
            return Ok(Self { at, path, content: None });
        }
        let entries = if kind == b'S' { fields.u32()? } else { 0 };
        let (length, start, crc) = (fields.u64()?, fields.u64()?, fields.u32()?);
        if entries > ENTRIES_MAX || start > FILE_BYTES_MAX || length > FILE_BYTES_MAX - start {
            let name = path.as_deref().unwrap_or(PASSED_OVER);
            let limits = format!("more than {FILE_BYTES_MAX} and {ENTRIES_MAX}");
            let what = format!("has {length} bytes and {entries} holes for {name} from {start}, {limits},");
            return Err(strange(what, at));
        }
        Ok(Self { at, path, content: Some(Content { start, length, entries, crc }) })
    }
}

/// The error for what no backup tool writes.
pub(super) fn strange(what: String, at: u64) -> Error {
    Error::failure(format!("the backup stream {what} in the chunk at {at}"))
        .hint("is it the output of mariadb-backup --stream=mbstream or xtrabackup --stream=xbstream, and nothing else?")
}

/// A path without `./`, safe to put below a directory.
fn normal(path: &[u8], at: u64) -> Result<Arc<str>> {
    let plain = |path: &&str| path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains('\0');
    let text = str::from_utf8(path).ok().map(|mut text| {
        while let Some(rest) = text.strip_prefix("./") {
            text = rest;
        }
        text
    });
    text.filter(plain).map(Arc::from).ok_or_else(|| unsafe_name(path, at))
}

fn unsafe_name(path: &[u8], at: u64) -> Error {
    let path = path.escape_ascii().to_string();
    strange(format!("has a file {path:?}, not one below the data directory,"), at)
}
