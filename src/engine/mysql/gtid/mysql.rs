//! MySQL's sets of GTIDs: intervals of numbers for each UUID and tag.
//!
//! ```text
//! 3e11fa47-71ca-11e1-9e33-c80aa9429562:1-3:11:tag_a:1-5,
//! 4c2c85e9-71ca-11e1-9e33-c80aa9429562:1
//! ```
//!
//! A tag holds for the intervals after it, until the next tag or UUID. The order is by
//! UUID, then without tag, then by tag. Source: "GTID Sets" in MySQL's manual,
//! `Gtid_set::add_gtid_text` and `Gtid_set::to_string` in `sql/rpl_gtid_set.cc`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::intervals::{Interval, Intervals};
use super::{Gtid, Tag};
use crate::error::{Error, Result};

mod binary;

/// Greatest number of a GTID (`GNO_END - 1` in `sql/rpl_gtid.h`).
pub(in crate::engine::mysql) const NUMBER_MAX: u64 = i64::MAX as u64 - 1;

/// The intervals of one UUID, by tag. Never empty, nor are its intervals.
type Tagged = BTreeMap<Tag, Intervals>;

/// A set of MySQL's GTIDs. Equal sets are equal in text and bytes, too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MySqlSet {
    uuids: BTreeMap<[u8; 16], Tagged>,
}

impl MySqlSet {
    /// Adds one transaction. `number` is at least 1 and at most 2^63 - 2.
    pub fn add(&mut self, uuid: &[u8; 16], tag: &Tag, number: u64) {
        self.add_interval(uuid, tag, Interval { start: number, end: number.saturating_add(1) });
    }

    fn add_interval(&mut self, uuid: &[u8; 16], tag: &Tag, new: Interval) {
        // Looked up before anything is made, as nearly all transactions are of a known
        // UUID and tag.
        let tagged = match self.uuids.get_mut(uuid) {
            Some(tagged) => tagged,
            None => self.uuids.entry(*uuid).or_default(),
        };
        match tagged.get_mut(tag) {
            Some(intervals) => intervals.add(new),
            None => tagged.entry(tag.clone()).or_default().add(new),
        }
    }

    /// Adds all that `other` holds.
    pub fn add_all(&mut self, other: &Self) {
        for (uuid, tag, intervals) in other.iter() {
            for &interval in intervals.as_slice() {
                self.add_interval(uuid, tag, interval);
            }
        }
    }

    /// Whether this holds the transaction.
    #[must_use]
    pub fn contains(&self, uuid: &[u8; 16], tag: &Tag, number: u64) -> bool {
        let asked = Interval { start: number, end: number.saturating_add(1) };
        self.intervals(uuid, tag).is_some_and(|intervals| intervals.covers(asked))
    }

    /// Whether this holds all that `other` holds.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.iter().all(|(uuid, tag, asked)| {
            self.intervals(uuid, tag).is_some_and(|held| asked.as_slice().iter().all(|&asked| held.covers(asked)))
        })
    }

    /// What this holds and `other` does not.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut left = Self::default();
        for (uuid, tag, held) in self.iter() {
            let rest = other.intervals(uuid, tag).map_or_else(|| held.clone(), |taken| held.minus(taken));
            if !rest.is_empty() {
                left.uuids.entry(*uuid).or_default().insert(tag.clone(), rest);
            }
        }
        left
    }

    /// Whether this holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.uuids.is_empty()
    }

    /// Whether both hold transactions that began on the same server.
    #[must_use]
    pub fn shares_origin(&self, other: &Self) -> bool {
        self.uuids.keys().any(|uuid| other.uuids.contains_key(uuid))
    }

    fn intervals(&self, uuid: &[u8; 16], tag: &Tag) -> Option<&Intervals> {
        self.uuids.get(uuid)?.get(tag)
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8; 16], &Tag, &Intervals)> {
        self.uuids.iter().flat_map(|(uuid, tagged)| tagged.iter().map(move |(tag, held)| (uuid, tag, held)))
    }
}

/// As `gtid_executed` has it: one line for each UUID, all but the last with a comma.
/// `{:#}` leaves out the ends of lines, for where a text has to be one line.
impl fmt::Display for MySqlSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (uuid, tagged)) in self.uuids.iter().enumerate() {
            if index > 0 {
                f.write_str(if f.alternate() { "," } else { ",\n" })?;
            }
            write_uuid(f, uuid)?;
            for (tag, intervals) in tagged {
                if !tag.is_empty() {
                    write!(f, ":{tag}")?;
                }
                for &Interval { start, end } in intervals.as_slice() {
                    write!(f, ":{start}")?;
                    if start + 1 < end {
                        write!(f, "-{}", end - 1)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Reads a server's text. White space is allowed around every part, intervals may come
/// in any order and overlap, UUIDs and tags may come again.
///
/// # Errors
/// [`crate::Kind::Usage`] for a part that is no UUID, tag or interval, a UUID or tag
/// without an interval, and an interval that ends before it starts.
impl FromStr for MySqlSet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut set = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let mut words = part.split(':').map(str::trim);
            let uuid = parse_uuid(words.next().unwrap_or_default())?;
            let mut tag = Tag::default();
            let mut wants_interval = true;
            let mut wants_tag = true;
            for word in words {
                if word.starts_with(|first: char| first.is_ascii_digit()) {
                    set.add_interval(&uuid, &tag, parse_interval(word)?);
                    (wants_interval, wants_tag) = (false, true);
                } else if wants_tag && !word.is_empty() {
                    tag = word.parse()?;
                    (wants_interval, wants_tag) = (true, false);
                } else {
                    return Err(malformed(part));
                }
            }
            if wants_interval {
                return Err(malformed(part));
            }
        }
        Ok(set)
    }
}

/// `uuid:number` or `uuid:tag:number`.
pub(super) fn parse_gtid(text: &str) -> Result<Gtid> {
    let broken = || {
        Error::usage(format!("{text:?} is no GTID of MySQL"))
            .hint("it looks like 3e11fa47-71ca-11e1-9e33-c80aa9429562:23, with a tag like uuid:tag:23")
    };
    let (uuid, rest) = text.split_once(':').ok_or_else(broken)?;
    let (tag, number) = rest.rsplit_once(':').unwrap_or_default();
    let number = if tag.is_empty() { rest } else { number };
    let (uuid, tag) = (parse_uuid(uuid.trim())?, tag.trim().parse()?);
    let number = parse_number(number.trim()).ok_or_else(broken)?;
    Ok(Gtid::MySql { uuid, tag, number })
}

/// Writes a UUID as MySQL does: lower case, with hyphens.
pub(super) fn write_uuid(f: &mut fmt::Formatter<'_>, uuid: &[u8; 16]) -> fmt::Result {
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            f.write_str("-")?;
        }
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

/// Reads 36 characters of either case.
fn parse_uuid(text: &str) -> Result<[u8; 16]> {
    let broken = || {
        Error::usage(format!("{text:?} is no UUID"))
            .hint("a GTID of MySQL begins with the server's server_uuid, like 3e11fa47-71ca-11e1-9e33-c80aa9429562")
    };
    let hyphens = text.bytes().enumerate().filter(|&(_, byte)| byte == b'-').map(|(index, _)| index);
    if text.len() != 36 || !hyphens.eq([8, 13, 18, 23]) {
        return Err(broken());
    }
    let mut digits = text.chars().filter(|&c| c != '-').map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()));
    let mut uuid = [0; 16];
    for byte in &mut uuid {
        let (Some(Some(high)), Some(Some(low))) = (digits.next(), digits.next()) else { return Err(broken()) };
        *byte = high << 4 | low;
    }
    Ok(uuid)
}

/// `number` or `first-last`.
fn parse_interval(text: &str) -> Result<Interval> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (parse_number(first.trim()), parse_number(last.trim())) {
        (Some(first), Some(last)) if first <= last => Ok(Interval { start: first, end: last + 1 }),
        _ => Err(malformed(text)),
    }
}

/// A number in its range, digits only.
fn parse_number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && (1..=NUMBER_MAX).contains(number))
}

fn malformed(part: &str) -> Error {
    Error::usage(format!("{part:?} is no part of a set of MySQL's GTIDs"))
        .hint("a set looks like uuid:1-5:7, with tags like uuid:1-5:tag:1-3; numbers count from 1")
}
