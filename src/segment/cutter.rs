//! Where a segment ends: pure arithmetic, because an off-by-one here loses data.
//!
//! A segment ends at the first of: the end of the server's log file it lies in, the
//! largest allowed size, and, where nothing else makes its bytes durable,
//! [`Limits::flush_interval_micros`] after its first byte. Where log files have no fixed size
//! ([`NO_FILES`]) it ends before it is quite full, with a whole transaction, and only a
//! transaction that is large itself is cut.

use crate::model::offset::{Offset, OffsetRange};
use crate::model::time::Timestamp;

/// Size of "log files" on an axis that has none of a fixed size: any offset may begin one.
pub const NO_FILES: u64 = 1;

/// How much later than it should a small segment may end, so that those of a log file come out even.
const STRETCH: f64 = 1.1;

/// What bounds a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of the server's log files: no segment crosses a multiple of it. Or [`NO_FILES`].
    pub log_file_bytes: u64,
    /// Largest number of raw bytes in a segment.
    pub segment_bytes: u64,
    /// Longest time between a segment's first byte and its end, in microseconds, but for [`STRETCH`];
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

    /// Whether a small segment whose first byte came at `opened`, and which holds `range` by `now`, must be closed. It is a part
    /// of one that ends at `end` at the latest.
    ///
    /// Each part is an object, and a request. At the pace at which this one came so many more will follow, and a fraction of one:
    /// each waits a little longer, and that fraction is none of its own.
    #[must_use]
    pub fn overdue(&self, range: OffsetRange, end: Offset, opened: Timestamp, now: Timestamp) -> bool {
        let Some(limit) = self.flush_interval_micros else { return false };
        let age = now.micros_since(opened);
        if age < limit {
            return false;
        }
        #[allow(clippy::cast_precision_loss, reason = "a pace, of which nobody knows six digits")]
        let (age, limit, came, all) =
            (age as f64, limit as f64, range.len() as f64, end.0.saturating_sub(range.start.0) as f64);
        let parts = all / came * age / limit;
        let even = parts / parts.floor();
        // Of nothing, or in no time, none of this is a number.
        !(even <= STRETCH && age < limit * even)
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
        let small = OffsetRange::new(Offset(0), Offset(MIB / 4));
        let overdue = |limits: &Limits, now| limits.overdue(small, Offset(MIB), Timestamp(0), Timestamp(now));
        assert!(!overdue(&limits, 999_999));
        assert!(overdue(&limits, 1_000_000));
        assert!(!overdue(&Limits { flush_interval_micros: None, ..limits }, i64::MAX));
        let nothing = OffsetRange::new(Offset(0), Offset(0));
        assert!(limits.overdue(nothing, Offset(MIB), Timestamp(0), Timestamp(1_000_000)));
        assert!(Limits { flush_interval_micros: Some(0), ..limits }.overdue(
            small,
            Offset(MIB),
            Timestamp(0),
            Timestamp(0)
        ));
    }

    /// How many parts a file of so many bytes comes in, at so many bytes a millisecond, and the oldest of them.
    fn parts(file: u64, per_milli: u64) -> (u32, i64) {
        let limits = limits(file, file);
        let (mut start, mut opened, mut parts, mut oldest) = (0, 0, 0, 0);
        for milli in 1_i64.. {
            let at = (milli.cast_unsigned() * per_milli).min(file);
            let range = OffsetRange::new(Offset(start), Offset(at));
            let now = milli * 1000;
            if at == file || limits.overdue(range, Offset(file), Timestamp(opened), Timestamp(now)) {
                oldest = oldest.max(now - opened);
                parts += 1;
                (start, opened) = (at, now);
            }
            if at == file {
                break;
            }
        }
        (parts, oldest)
    }

    #[test]
    fn small_segments_of_a_log_file_come_out_even() {
        // 16.8 s, of which each part waits a twentieth longer.
        assert_eq!(parts(16 * MIB, 1000).0, 16);
        assert_eq!(parts(16 * MIB, 1 << 10).0, 16);
        assert_eq!(parts(16 * MIB, 1 << 20), (1, 16_000));
        for per_milli in (200..20_000).step_by(37) {
            let seconds = 16 * MIB / per_milli / 1000;
            let (parts, oldest) = parts(16 * MIB, per_milli);
            assert!(oldest <= 1_102_000, "{per_milli}: {oldest}");
            assert!(u64::from(parts) <= seconds + 1 && u64::from(parts) * 11 >= seconds * 10, "{per_milli}: {parts}");
        }
    }
}
