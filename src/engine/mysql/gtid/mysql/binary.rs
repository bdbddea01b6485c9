//! A set's bytes, in COM_BINLOG_DUMP_GTID and in PREVIOUS_GTIDS_LOG_EVENT.
//!
//! ```text
//!  0  entries u56, 0 u8                           untagged
//!  0  1 u8, entries u48, 1 u8                     tagged, since 8.3
//!  8  each entry, in order of UUID and tag:
//!       UUID 16, if tagged: length * 2 u8, tag,   a UUID comes again for each of its tags
//!       intervals u64, each: first u64, one after the last u64
//! ```
//!
//! Servers write the tagged form only when a tag occurs, since older ones refuse it; so
//! do we. Source: `Gtid_set::encode` and `add_gtid_encoding` in `sql/rpl_gtid_set.cc`,
//! `Tag::encode_tag` in `libs/mysql/gtid/tag.cpp`.

use super::super::intervals::Interval;
use super::super::tag::Tag;
use super::{MySqlSet, NUMBER_MAX};
use crate::engine::mysql::binlog::fields::Fields;
use crate::engine::mysql::binlog::serialized;
use crate::error::Result;

/// The format byte of a set with tags (`Gtid_format::tagged`).
const TAGGED: u8 = 1;

impl MySqlSet {
    /// The set's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let tagged = self.iter().any(|(_, tag, _)| !tag.is_empty());
        let entries = self.iter().count() as u64;
        let head = if tagged { u64::from(TAGGED) << 56 | entries << 8 | u64::from(TAGGED) } else { entries };
        let mut bytes = head.to_le_bytes().to_vec();
        for (uuid, tag, intervals) in self.iter() {
            bytes.extend_from_slice(uuid);
            if tagged {
                let tag = tag.as_str();
                // A variable-length integer of one byte, see `binlog/serialized.rs`.
                bytes.push((tag.len() as u8) << 1);
                bytes.extend_from_slice(tag.as_bytes());
            }
            let intervals = intervals.as_slice();
            bytes.extend_from_slice(&(intervals.len() as u64).to_le_bytes());
            for interval in intervals {
                bytes.extend_from_slice(&interval.start.to_le_bytes());
                bytes.extend_from_slice(&interval.end.to_le_bytes());
            }
        }
        bytes
    }

    /// Reads a set's bytes: the body of a PREVIOUS_GTIDS_LOG_EVENT without its checksum.
    ///
    /// # Errors
    /// [`crate::Kind::Corruption`] for an unknown format, bytes that end too early or go
    /// on, a tag that is none, and intervals that are empty or not in ascending order.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields::new("set of GTIDs", bytes);
        let head = fields.array::<8>()?;
        let [low, .., format] = head;
        let head = u64::from_le_bytes(head);
        let (tagged, entries) = match format {
            0 => (false, head),
            TAGGED if low == TAGGED => (true, head << 8 >> 16),
            _ => return Err(fields.refuse(format_args!("the unknown format {format}"))),
        };
        let mut set = Self::default();
        for _ in 0..entries {
            let uuid = fields.array()?;
            let tag = if tagged { serialized::tag(&mut fields)? } else { Tag::default() };
            let mut last_end = 0;
            for _ in 0..fields.u64()? {
                let (start, end) = (fields.u64()?, fields.u64()?);
                if start <= last_end || end <= start || end > NUMBER_MAX + 1 {
                    return Err(fields.refuse(format_args!("the interval from {start} up to {end} after {last_end}")));
                }
                set.add_interval(&uuid, &tag, Interval { start, end });
                last_end = end;
            }
        }
        if !fields.is_empty() {
            return Err(fields.refuse(format_args!("more than its {entries} entries")));
        }
        Ok(set)
    }
}
