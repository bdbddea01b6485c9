//! The server's own `backup_manifest`: what it says it sent.
//!
//! JSON whose last line holds the SHA-256 of all lines before it. File checksums are
//! CRC-32C, since that is what we ask for; written as the bytes of a little-endian
//! number. Source: PostgreSQL manual, "Backup Manifest Format";
//! `src/backend/backup/backup_manifest.c`.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde::Deserialize;
use sha2::Digest;

use crate::engine::postgres::wal::name::parse_lsn;
use crate::error::{Error, Result};
use crate::model::offset::Offset;
use crate::model::timeline::TimelineId;

/// What was received of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its bytes.
    pub size: u64,
    /// CRC-32C of them.
    pub crc: u32,
}

/// The log that makes the backup consistent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRange {
    /// Its timeline.
    pub timeline: TimelineId,
    /// First byte.
    pub start: Offset,
    /// One past the last byte.
    pub end: Offset,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u32,
    files: Vec<FileLine>,
    #[serde(rename = "WAL-Ranges")]
    wal_ranges: Vec<RangeLine>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct FileLine {
    path: Option<String>,
    size: u64,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    checksum: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RangeLine {
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    start: String,
    #[serde(rename = "End-LSN")]
    end: String,
}

const SEAL: &[u8] = b"\"Manifest-Checksum\": \"";

/// Compares what was received with what the server says it sent, and gives the log
/// ranges, oldest timeline first as the server lists them.
///
/// # Errors
/// [`crate::Kind::Corruption`] naming the first file that differs, is missing or was
/// not announced.
pub fn check(manifest: &[u8], received: &HashMap<String, Received>) -> Result<Vec<LogRange>> {
    let document = read(manifest)?;
    let mut matched = 0;
    for line in &document.files {
        let Some(path) = &line.path else {
            return Err(Error::corruption("the server's backup manifest names a file that is not UTF-8"));
        };
        let Some(got) = received.get(path) else {
            return Err(Error::corruption(format!("the server's backup manifest names {path}, which did not come")));
        };
        if got.size != line.size {
            return Err(Error::corruption(format!(
                "{path} came with {} bytes, where the server's backup manifest says {}",
                got.size, line.size
            )));
        }
        let crc = got.crc.to_le_bytes().iter().fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        });
        if line.algorithm.as_deref() != Some("CRC32C") || line.checksum.as_deref() != Some(&crc) {
            return Err(Error::corruption(format!(
                "{path} came with CRC32C {crc}, where the server's backup manifest says {} {}",
                line.algorithm.as_deref().unwrap_or("nothing"),
                line.checksum.as_deref().unwrap_or("")
            )));
        }
        matched += 1;
    }
    if matched != received.len() {
        let named: std::collections::HashSet<_> = document.files.iter().filter_map(|f| f.path.as_deref()).collect();
        let extra = received.keys().find(|path| !named.contains(path.as_str()));
        return Err(match extra {
            Some(path) => Error::corruption(format!("{path} came, but the server's backup manifest does not name it")),
            None => Error::corruption("the server's backup manifest names a file twice"),
        });
    }
    document
        .wal_ranges
        .iter()
        .map(|line| {
            Ok(LogRange {
                timeline: TimelineId(line.timeline),
                start: read_lsn(&line.start)?,
                end: read_lsn(&line.end)?,
            })
        })
        .collect()
}

fn read(manifest: &[u8]) -> Result<Document> {
    let cut_off = || Error::corruption("the server's backup manifest is cut off: it does not end with its checksum");
    let seal_at = manifest.len().checked_sub(SEAL.len() + 64 + 3).ok_or_else(cut_off)?;
    let (body, seal) = manifest.split_at_checked(seal_at).ok_or_else(cut_off)?;
    let sum = seal.strip_prefix(SEAL).and_then(|s| s.strip_suffix(b"\"}\n")).ok_or_else(cut_off)?;
    let expected = sha2::Sha256::digest(body).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    if sum != expected.as_bytes() {
        return Err(Error::corruption(format!(
            "the server's backup manifest has SHA-256 {expected}, where its last line says {}",
            String::from_utf8_lossy(sum)
        )));
    }
    let document: Document = serde_json::from_slice(manifest)
        .map_err(|e| Error::corruption("the server's backup manifest cannot be read").because(e))?;
    if !(1..=2).contains(&document.version) {
        return Err(Error::config(format!(
            "the server's backup manifest has version {}, where this pitr knows 1 and 2",
            document.version
        ))
        .hint("is the server newer than this pitr?"));
    }
    Ok(document)
}

/// Reads an LSN as the server prints it, e.g. `16/B374D848`.
///
/// # Errors
/// [`crate::Kind::Failure`] for text that is none.
pub fn read_lsn(text: &str) -> Result<Offset> {
    parse_lsn(text).ok_or_else(|| Error::failure(format!("the server gave {text:?} where an LSN belongs")))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn manifest(files: &[(&str, &[u8])]) -> Vec<u8> {
        let lines: Vec<String> = files
            .iter()
            .map(|(path, bytes)| {
                let crc: String =
                    crc_fast::crc32_iscsi(bytes).to_le_bytes().iter().map(|b| format!("{b:02x}")).collect();
                format!(
                    "{{ \"Path\": \"{path}\", \"Size\": {}, \"Last-Modified\": \"2026-11-20 22:00:00 GMT\", \
                     \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{crc}\" }}",
                    bytes.len()
                )
            })
            .collect();
        let body = format!(
            "{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{}\n],\n\"WAL-Ranges\": [\n\
             {{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\" }}\n],\n",
            lines.join(",\n")
        );
        let sum: String = sha2::Sha256::digest(&body).iter().map(|b| format!("{b:02x}")).collect();
        format!("{body}\"Manifest-Checksum\": \"{sum}\"}}\n").into_bytes()
    }

    fn received(files: &[(&str, &[u8])]) -> HashMap<String, Received> {
        let one = |b: &[u8]| Received { size: b.len() as u64, crc: crc_fast::crc32_iscsi(b) };
        files.iter().map(|(path, bytes)| ((*path).to_owned(), one(bytes))).collect()
    }

    #[test]
    fn passes_what_came_as_it_was_sent() {
        let files: &[(&str, &[u8])] = &[("a", b"123"), ("base/1", b"")];
        let ranges = check(&manifest(files), &received(files)).unwrap();
        let range = LogRange { timeline: TimelineId(1), start: Offset(0x200_0028), end: Offset(0x200_0100) };
        assert_eq!(ranges, [range]);
    }

    #[test]
    fn reads_a_captured_manifest() {
        let path = "proto-fixtures/postgres/15/wire/base_backup_begins/backup_manifest.zst";
        let file = std::fs::File::open(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
        let bytes = zstd::decode_all(file).unwrap();
        let document = read(&bytes).unwrap();
        let listed = bytes.windows(8).filter(|w| w == b"\"Path\": ").count();
        assert!(listed > 900 && document.files.len() == listed, "{} of {listed}", document.files.len());
        let came = document.files.iter().map(|line| {
            let crc = u32::from_str_radix(line.checksum.as_deref().unwrap(), 16).unwrap().swap_bytes();
            (line.path.clone().unwrap(), Received { size: line.size, crc })
        });
        let range = LogRange { timeline: TimelineId(1), start: Offset(0x130_0028), end: Offset(0x130_0100) };
        assert_eq!(check(&bytes, &came.collect()).unwrap(), [range]);
    }

    /// The checksum of a line of a real manifest (PostgreSQL 15, `PG_VERSION`).
    #[test]
    fn reads_crc32c_as_the_server_writes_it() {
        assert!(String::from_utf8(manifest(&[("PG_VERSION", b"15\n")])).unwrap().contains("Size\": 3"));
        assert!(check(&manifest(&[("PG_VERSION", b"15\n")]), &received(&[("PG_VERSION", b"15\n")])).is_ok());
    }

    #[test]
    fn names_the_file_that_differs() {
        let files: &[(&str, &[u8])] = &[("a", b"123"), ("b", b"456")];
        let refused = |got: &[(&str, &[u8])], why: &str| {
            let error = check(&manifest(files), &received(got)).unwrap_err();
            assert_eq!(error.kind(), crate::Kind::Corruption);
            assert!(error.to_string().contains(why), "{error}");
        };
        refused(&[("a", b"123")], "b, which did not come");
        refused(&[("a", b"123"), ("b", b"45")], "b came with 2 bytes");
        refused(&[("a", b"124"), ("b", b"456")], "a came with CRC32C");
        refused(&[("a", b"123"), ("b", b"456"), ("c", b"")], "c came, but");
    }

    #[test]
    fn refuses_a_manifest_that_is_not_whole() {
        let files: &[(&str, &[u8])] = &[("a", b"123")];
        let bytes = manifest(files);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(check(&bad, &received(files)).is_err(), "byte {at}");
            assert!(check(&bytes[..at], &received(files)).is_err(), "{at} bytes");
        }
    }
}
