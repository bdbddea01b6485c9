//! The one axis: a log is bytes at `u64` offsets of one timeline.
//!
//! For PostgreSQL an offset *is* the LSN. For MySQL it is the archive's own running
//! byte count. Adjacency, gap and overlap are arithmetic on [`OffsetRange`], which is
//! half-open: `start` is in, `end` is out.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A byte position on the axis of one timeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

impl Offset {
    /// The first position of every axis.
    pub const ZERO: Self = Self(0);

    /// This offset plus `bytes`, or `None` past the end of the axis.
    #[must_use]
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }

    /// Bytes from `earlier` to this offset; 0 when `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The largest multiple of `size` that is not past this offset.
    #[must_use]
    pub fn floor_to(self, size: u64) -> Self {
        Self(self.0 - self.0 % size)
    }
}

/// 16 hexadecimal digits, upper case: the form used in object names.
impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

impl FromStr for Offset {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)) {
            return Err(Error::failure(format!("offset {text:?} is not 16 hexadecimal digits")));
        }
        u64::from_str_radix(text, 16)
            .map(Self)
            .map_err(|e| Error::failure(format!("offset {text:?} cannot be read")).because(e))
    }
}

impl Serialize for Offset {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Offset {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The bytes from `start` up to but without `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OffsetRange {
    /// First byte.
    pub start: Offset,
    /// One past the last byte.
    pub end: Offset,
}

impl OffsetRange {
    /// The range from `start` to `end`.
    #[must_use]
    pub const fn new(start: Offset, end: Offset) -> Self {
        Self { start, end }
    }

    /// Number of bytes; 0 for a range whose end is not past its start.
    #[must_use]
    pub fn len(self) -> u64 {
        self.end.since(self.start)
    }

    /// Whether the range holds no byte.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.end <= self.start
    }

    /// Whether the byte at `offset` is in the range.
    #[must_use]
    pub fn contains(self, offset: Offset) -> bool {
        self.start <= offset && offset < self.end
    }

    /// Whether every byte of `other` is in this range.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Where the range lies in bytes that begin at `start`.
    #[must_use]
    pub fn within(self, start: Offset) -> std::ops::Range<usize> {
        let at = |offset: Offset| usize::try_from(offset.since(start)).unwrap_or(usize::MAX);
        at(self.start)..at(self.end)
    }

    /// The bytes both ranges hold, if any.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        let range = Self::new(self.start.max(other.start), self.end.min(other.end));
        (!range.is_empty()).then_some(range)
    }
}

impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}
