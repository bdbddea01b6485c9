//! WAL pages: 8 KiB each, opened by a header that says where it belongs.
//!
//! ```text
//!  0  xlp_magic     u16   version of the WAL format
//!  2  xlp_info      u16   flags, below
//!  4  xlp_tli       u32   timeline of the first record on the page
//!  8  xlp_pageaddr  u64   LSN of the page's first byte
//! 16  xlp_rem_len   u32   bytes of a record from earlier pages that are still to come
//! 20  (padding)
//! 24  --- end of the short header; the first page of each WAL file goes on: ---
//! 24  xlp_sysid     u64   system identifier
//! 32  xlp_seg_size  u32   wal_segment_size
//! 36  xlp_xlog_blcksz u32 page size, 8192
//! 40  --- end of the long header ---
//! ```
//!
//! All numbers are little-endian: the archive reads logs of little-endian servers, and
//! refuses others by their magic. Source: `src/include/access/xlog_internal.h`
//! (`XLogPageHeaderData`, `XLogLongPageHeaderData`) and `XLogReaderValidatePageHeader`
//! in `src/backend/access/transam/xlogreader.c`.

use super::name::{file_bytes, format_lsn};
use crate::model::cluster::Identity;
use crate::model::offset::Offset;
use crate::model::timeline::TimelineId;

/// Bytes of a WAL page (`XLOG_BLCKSZ` as every packager builds it).
pub(super) const PAGE_BYTES: u64 = 8192;
/// Bytes of the header of most pages (`SizeOfXLogShortPHD`).
pub(super) const SHORT_HEADER_BYTES: usize = 24;
/// Bytes of the header of a WAL file's first page (`SizeOfXLogLongPHD`).
pub(super) const LONG_HEADER_BYTES: usize = 40;

/// The page begins with the rest of a record (`XLP_FIRST_IS_CONTRECORD`).
const CONTINUES: u16 = 0x0001;
/// The header is a long one (`XLP_LONG_HEADER`).
const LONG: u16 = 0x0002;
/// A record ought to go on here, but a crash lost its rest and the server wrote on
/// (`XLP_FIRST_IS_OVERWRITE_CONTRECORD`).
const OVERWRITES: u16 = 0x0008;
/// Every flag there is (`XLP_ALL_FLAGS`).
const ALL_FLAGS: u16 = 0x000F;

/// What every page of one log must say, and how far its timelines have got.
#[derive(Debug)]
pub(super) struct PageRules {
    /// `None` for a server newer than this program: its magic is learnt from the first page.
    magic: Option<u16>,
    /// `None` for an identity that is not PostgreSQL's; no page satisfies it then.
    system: Option<u64>,
    file_bytes: u64,
    timeline: TimelineId,
    /// The timeline of the page before; timelines never go back.
    latest: u32,
}

/// What a sound page header says of the record that lies across it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// The page begins with a record.
    Fresh,
    /// The page begins with the last so many bytes of a record.
    Continues(u32),
    /// The page begins with a record that takes the place of a lost rest.
    Overwrites,
}

/// The magic of a major version's log, `None` for one newer than this program.
/// `XLOG_PAGE_MAGIC` in each release's `xlog_internal.h`.
pub(super) const fn magic_of(server_version: u32) -> Option<u16> {
    match server_version {
        ..=13 => Some(0xD106),
        14 => Some(0xD10D),
        15 => Some(0xD110),
        16 => Some(0xD113),
        17 => Some(0xD116),
        18 => Some(0xD118),
        _ => None,
    }
}

/// Bytes of the header of the page that begins at `page`.
pub(super) const fn header_bytes(page: u64, file_bytes: u64) -> usize {
    if page.is_multiple_of(file_bytes) { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES }
}

impl PageRules {
    pub(super) fn new(identity: &Identity, timeline: TimelineId) -> Self {
        Self {
            magic: magic_of(identity.server_version),
            system: identity.system.parse().ok(),
            file_bytes: file_bytes(identity),
            timeline,
            latest: 0,
        }
    }

    /// Checks the header of the page that begins at `page`. `header` is exactly
    /// [`header_bytes`] long.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub(super) fn check(&mut self, page: u64, header: &[u8]) -> Result<Opening, String> {
        let magic = u16_at(header, 0);
        match self.magic {
            Some(expected) if magic != expected => {
                return Err(format!("magic is {magic:04X}, not {expected:04X}"));
            }
            None if !(0xD119..=0xD1FF).contains(&magic) => {
                return Err(format!("magic is {magic:04X}, not that of PostgreSQL 19 or newer"));
            }
            _ => self.magic = Some(magic),
        }
        let info = u16_at(header, 2);
        let long = header.len() == LONG_HEADER_BYTES;
        if info & !ALL_FLAGS != 0 || (info & LONG != 0) != long {
            return Err(format!("flags are {info:04X}"));
        }
        let address = u64_at(header, 8);
        if address != page {
            return Err(format!("it says it belongs at {}", format_lsn(Offset(address))));
        }
        // The file in which a timeline begins opens with a copy of the parent's pages, so an
        // ancestor's number is right; the history that names the ancestors is not known here.
        let timeline = u32_at(header, 4);
        if timeline > self.timeline.0 || timeline < self.latest || timeline == 0 {
            return Err(format!("it is of timeline {timeline}, not {}", self.timeline.0));
        }
        if long {
            self.check_long(header)?;
        }
        self.latest = timeline;
        let rest = u32_at(header, 16);
        match (info & CONTINUES != 0, info & OVERWRITES != 0) {
            (false, false) => Ok(Opening::Fresh),
            (false, true) => Ok(Opening::Overwrites),
            (true, false) if rest > 0 => Ok(Opening::Continues(rest)),
            (true, _) => Err(format!("flags are {info:04X} with {rest} bytes to continue")),
        }
    }

    fn check_long(&self, header: &[u8]) -> Result<(), String> {
        let system = u64_at(header, 24);
        if Some(system) != self.system {
            let expected = self.system.map_or_else(|| "a PostgreSQL system".to_owned(), |s| s.to_string());
            return Err(format!("its WAL file is of system {system}, not {expected}"));
        }
        let file_bytes = u64::from(u32_at(header, 32));
        if file_bytes != self.file_bytes {
            return Err(format!("its WAL file is {file_bytes} bytes long, not {}", self.file_bytes));
        }
        let page_bytes = u64::from(u32_at(header, 36));
        if page_bytes != PAGE_BYTES {
            return Err(format!("WAL pages are {page_bytes} bytes long, not {PAGE_BYTES}"));
        }
        Ok(())
    }
}

/// The little-endian number at `at`; 0 past the end, which no caller asks for.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().map_or(0, u16::from_le_bytes)
}

/// As [`u16_at`].
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().map_or(0, u32::from_le_bytes)
}

/// As [`u16_at`].
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().map_or(0, u64::from_le_bytes)
}
