//! Where a segment ends: pure arithmetic, because an off-by-one here loses data.
//!
//! A segment ends at the first of: the end of the server's log file it lies in, the
//! largest allowed size, and, where nothing else makes its bytes durable,
//! [`Limits::flush_interval_micros`] after its first byte. Where log files have no fixed size
//! ([`NO_FILES`]) it ends before it is quite full, with a whole transaction, and only a
//! transaction that is large itself is cut.

use crate::model::offset::Offset;
use crate::model::time::Timestamp;

/// Size of "log files" on an axis that has none of a fixed size: any offset may begin one.
pub const NO_FILES: u64 = 1;

/// What bounds a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of the server's log files: no segment crosses a multiple of it. Or [`NO_FILES`].
    pub log_file_bytes: u64,
    /// Largest number of raw bytes in a segment.
    pub segment_bytes: u64,
    /// Longest time between a segment's first byte and its end, in microseconds;
    /// `None` where a tail makes each byte durable as it comes.
    pub flush_interval_micros: Option<i64>,
}

impl Limits {
    /// The furthest a segment that begins at `start` may reach. Sizes are counted from
    /// the start of the log file, so that segments of one file fall on the same offsets
    /// wherever streaming began.
    #[must_use]
    pub fn end_of(&self, start: Offset) -> Offset {
        if self.log_file_bytes == NO_FILES {
            return Offset(start.0.saturating_add(self.segment_bytes));
        }
        let file = start.floor_to(self.log_file_bytes);
        let file_end = Offset(file.0.saturating_add(self.log_file_bytes));
        let within = start.since(file);
        let piece_end =
            Offset(file.0.saturating_add((within / self.segment_bytes + 1).saturating_mul(self.segment_bytes)));
        piece_end.min(file_end)
    }

    /// The most raw bytes that a segment may have.
    #[must_use]
    pub fn largest(&self) -> u64 {
        if self.log_file_bytes == NO_FILES { self.segment_bytes } else { self.segment_bytes.min(self.log_file_bytes) }
    }

    /// Whether a segment that began at `start` ends here, where a transaction ends, rather
    /// than in the middle of one of the next.
    #[must_use]
    pub fn is_nearly_full(&self, start: Offset, at: Offset) -> bool {
        self.log_file_bytes == NO_FILES && at.since(start) >= self.segment_bytes - self.segment_bytes / 8
    }

    /// Whether `offset` is where a server's log file ends.
    #[must_use]
    pub fn is_file_end(&self, offset: Offset) -> bool {
        offset.0.is_multiple_of(self.log_file_bytes)
    }

    /// Whether a segment whose first byte came at `opened` must be closed by `now`.
    #[must_use]
    pub fn overdue(&self, opened: Timestamp, now: Timestamp) -> bool {
        self.flush_interval_micros.is_some_and(|limit| now.micros_since(opened) >= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn limits(file: u64, segment: u64) -> Limits {
        Limits { log_file_bytes: file, segment_bytes: segment, flush_interval_micros: Some(1_000_000) }
    }

    #[test]
    fn a_segment_never_crosses_a_log_file() {
        let limits = limits(16 * MIB, 16 * MIB);
        assert_eq!(limits.end_of(Offset(0)), Offset(16 * MIB));
        assert_eq!(limits.end_of(Offset(16 * MIB - 1)), Offset(16 * MIB));
        assert_eq!(limits.end_of(Offset(16 * MIB)), Offset(32 * MIB));
    }

    #[test]
    fn a_large_log_file_is_cut_at_the_same_places_wherever_streaming_began() {
        let limits = limits(64 * MIB, 16 * MIB);
        assert_eq!(limits.end_of(Offset(64 * MIB)), Offset(80 * MIB));
        assert_eq!(limits.end_of(Offset(64 * MIB + 5)), Offset(80 * MIB));
        assert_eq!(limits.end_of(Offset(127 * MIB)), Offset(128 * MIB));
    }

    #[test]
    fn a_segment_size_that_does_not_divide_the_file_ends_with_the_file() {
        let limits = limits(16 * MIB, 10 * MIB);
        assert_eq!(limits.end_of(Offset(3)), Offset(10 * MIB));
        assert_eq!(limits.end_of(Offset(10 * MIB)), Offset(16 * MIB));
    }

    #[test]
    fn no_segment_is_larger_than_the_largest() {
        for (file, segment, largest) in [(16, 16, 16), (16, 64, 16), (64, 16, 16)] {
            assert_eq!(limits(file * MIB, segment * MIB).largest(), largest * MIB);
        }
        let free = limits(NO_FILES, 16 * MIB);
        assert_eq!(free.end_of(Offset(5)).since(Offset(5)), free.largest());
    }

    #[test]
    fn without_log_files_a_segment_ends_with_a_transaction_when_it_is_nearly_full() {
        let free = limits(NO_FILES, 16 * MIB);
        assert_eq!(free.end_of(Offset(5)), Offset(16 * MIB + 5));
        assert!(!free.is_nearly_full(Offset(5), Offset(14 * MIB + 4)));
        assert!(free.is_nearly_full(Offset(5), Offset(14 * MIB + 5)));
        assert!(!limits(16 * MIB, 16 * MIB).is_nearly_full(Offset(0), Offset(16 * MIB - 1)));
    }

    #[test]
    fn age_counts_from_the_first_byte() {
        let limits = limits(MIB, MIB);
        assert!(!limits.overdue(Timestamp(0), Timestamp(999_999)));
        assert!(limits.overdue(Timestamp(0), Timestamp(1_000_000)));
        assert!(!Limits { flush_interval_micros: None, ..limits }.overdue(Timestamp(0), Timestamp(i64::MAX)));
    }
}
