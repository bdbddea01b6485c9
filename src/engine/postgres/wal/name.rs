//! How PostgreSQL writes places in its log: `16/B374D848`, and the names of WAL files.
//!
//! ```text
//! 00000001 00000016 000000B3      a WAL file's name: 24 hexadecimal digits
//! timeline  LSN >>   number of the file within
//!             32     these 4 GiB (LSN & 0xFFFFFFFF) / wal_segment_size
//! ```
//!
//! Source: `src/include/access/xlog_internal.h` (`XLogFileName`, `IsXLogFileName`) and
//! `src/backend/utils/adt/pg_lsn.c`.

use super::page::PAGE_BYTES;
use crate::model::cluster::Identity;
use crate::model::offset::{Offset, OffsetRange};
use crate::model::timeline::TimelineId;

/// The log bytes that share the middle part of a WAL file's name.
const BYTES_PER_LOG_ID: u64 = 1 << 32;

/// The size of a cluster's WAL files. An identity may be read from a damaged archive:
/// a size that no server has is brought within one page and 1 GiB, so that arithmetic
/// on it is safe; log that does not fit is then refused where its pages are checked.
pub(in crate::engine::postgres) fn file_bytes(identity: &Identity) -> u64 {
    identity.log_file_bytes.clamp(PAGE_BYTES, 1 << 30)
}

/// An offset as PostgreSQL prints an LSN: `16/B374D848`.
#[must_use]
pub fn format_lsn(offset: Offset) -> String {
    format!("{:X}/{:X}", offset.0 >> 32, offset.0 & 0xFFFF_FFFF)
}

/// Reads an LSN as the type `pg_lsn` does: one to eight hexadecimal digits, a slash,
/// one to eight more. `None` for anything else.
#[must_use]
pub fn parse_lsn(text: &str) -> Option<Offset> {
    let (high, low) = text.split_once('/')?;
    let part = |digits: &str| -> Option<u64> {
        let good = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
        good.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
    };
    Some(Offset(part(high)? << 32 | part(low)?))
}

/// The name of the WAL file of `file_bytes` (not 0) that holds the byte at `offset`.
#[must_use]
pub fn format_wal_file(timeline: TimelineId, offset: Offset, file_bytes: u64) -> String {
    format!("{timeline}{:08X}{:08X}", offset.0 >> 32, offset.0 % BYTES_PER_LOG_ID / file_bytes)
}

/// The timeline and range of a WAL file of `file_bytes` (not 0); `None` for a name that is none.
#[must_use]
pub fn parse_wal_file(name: &str, file_bytes: u64) -> Option<(TimelineId, OffsetRange)> {
    if name.len() != 24 || !name.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)) {
        return None;
    }
    let part = |at: usize| u32::from_str_radix(name.get(at..at + 8)?, 16).ok();
    let (timeline, high, number) = (part(0)?, u64::from(part(8)?), u64::from(part(16)?));
    if timeline == 0 || number >= BYTES_PER_LOG_ID / file_bytes {
        return None;
    }
    let start = Offset(high * BYTES_PER_LOG_ID + number * file_bytes);
    Some((TimelineId(timeline), OffsetRange::new(start, start.checked_add(file_bytes)?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn writes_and_reads_an_lsn_as_the_server_does() {
        let offset = Offset(0x16_B374_D848);
        assert_eq!(format_lsn(offset), "16/B374D848");
        assert_eq!(parse_lsn("16/B374D848"), Some(offset));
        assert_eq!(parse_lsn("16/b374d848"), Some(offset));
        assert_eq!(parse_lsn("0/1"), Some(Offset(1)));
        assert_eq!(parse_lsn("0/0B374D84"), Some(Offset(0x0B37_4D84)));
    }

    #[test]
    fn refuses_text_that_is_no_lsn() {
        for text in ["", "/", "0/", "/0", "0", "0/123456789", "123456789/0", "0/+1", " 0/1", "0/1 ", "0/G", "0/1/2"] {
            assert_eq!(parse_lsn(text), None, "{text:?}");
        }
    }

    #[test]
    fn refuses_names_that_no_server_gives() {
        let sixteen_mib = 16 << 20;
        for name in [
            "",
            "00000001000000160000B3",
            "000000010000001600000100",
            "00000000000000160000000B",
            "0000000100000016000000b3",
            "0000000100000016000000B3.partial",
            "00000001FFFFFFFF000000FF",
        ] {
            assert_eq!(parse_wal_file(name, sixteen_mib), None, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn an_lsn_reads_back(offset: u64) {
            prop_assert_eq!(parse_lsn(&format_lsn(Offset(offset))), Some(Offset(offset)));
        }

        #[test]
        fn a_wal_file_name_reads_back(timeline in 1..u32::MAX, offset in 0..u64::MAX - (2 << 30), log2 in 20..=30u32) {
            let (offset, file_bytes) = (Offset(offset), 1 << log2);
            let name = format_wal_file(TimelineId(timeline), offset, file_bytes);
            let (parsed, range) = parse_wal_file(&name, file_bytes).unwrap();
            prop_assert_eq!(parsed, TimelineId(timeline));
            prop_assert!(range.contains(offset));
            prop_assert_eq!(range.len(), file_bytes);
            prop_assert_eq!(range.start, offset.floor_to(file_bytes));
        }
    }
}
