//! What may be acknowledged: the end of the unbroken run of durable bytes.
//!
//! Segments are made durable several at a time and may finish out of order. Only what
//! lies before the first byte that is *not* durable may be acknowledged, and of that
//! only whole, verified records: a record whose end has not been seen has not had its
//! checksum verified.

use std::collections::BTreeMap;

use crate::model::offset::{Offset, OffsetRange};

/// Turns durable ranges into the highest offset that may be acknowledged.
#[derive(Clone, Debug)]
pub struct AckTracker {
    /// Every byte before this one is durable.
    frontier: Offset,
    /// The last whole record that ends at or before `frontier` ends here.
    boundary: Offset,
    /// Durable ranges beyond the frontier, by start: end and boundary.
    waiting: BTreeMap<Offset, (Offset, Offset)>,
}

impl AckTracker {
    /// A tracker for an archive that durably ends at `end`, its last whole record at
    /// `boundary`.
    #[must_use]
    pub fn new(end: Offset, boundary: Offset) -> Self {
        Self { frontier: end, boundary, waiting: BTreeMap::new() }
    }

    /// Takes note that `range` is durable, and that the last whole record at or before
    /// its end ends at `boundary`. Gives the offset that may now be acknowledged.
    pub fn durable(&mut self, range: OffsetRange, boundary: Offset) -> Offset {
        let entry = self.waiting.entry(range.start).or_insert((range.end, boundary));
        if range.end > entry.0 {
            *entry = (range.end, boundary);
        }
        while let Some((&start, &(end, boundary))) = self.waiting.first_key_value() {
            if start > self.frontier {
                break;
            }
            self.waiting.remove(&start);
            if end > self.frontier {
                self.frontier = end;
                self.boundary = self.boundary.max(boundary);
            }
        }
        self.boundary
    }

    /// The offset that may be acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> Offset {
        self.boundary
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, end: u64) -> OffsetRange {
        OffsetRange::new(Offset(start), Offset(end))
    }

    #[test]
    fn a_hole_holds_back_what_lies_behind_it() {
        let mut tracker = AckTracker::new(Offset(0), Offset(0));
        assert_eq!(tracker.durable(range(10, 20), Offset(18)), Offset(0));
        assert_eq!(tracker.durable(range(10, 15), Offset(15)), Offset(0), "less of the same is no news");
        assert_eq!(tracker.durable(range(0, 10), Offset(9)), Offset(18));
    }

    #[test]
    fn half_a_record_is_not_acknowledged() {
        let mut tracker = AckTracker::new(Offset(0), Offset(0));
        assert_eq!(tracker.durable(range(0, 10), Offset(7)), Offset(7));
    }

    #[test]
    fn a_growing_tail_moves_the_acknowledgement() {
        let mut tracker = AckTracker::new(Offset(100), Offset(100));
        assert_eq!(tracker.durable(range(100, 110), Offset(110)), Offset(110));
        assert_eq!(tracker.durable(range(100, 130), Offset(125)), Offset(125));
        assert_eq!(tracker.durable(range(100, 120), Offset(120)), Offset(125), "never back");
        assert_eq!(tracker.durable(range(130, 140), Offset(120)), Offset(125), "never back");
    }

    proptest! {
        #[test]
        fn never_passes_a_byte_that_is_not_durable(
            lengths in prop::collection::vec(1u64..50, 1..30),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
        ) {
            let mut edges = vec![0];
            for length in &lengths {
                edges.push(edges.last().unwrap() + length);
            }
            let mut durable = vec![false; lengths.len()];
            let mut tracker = AckTracker::new(Offset(0), Offset(0));
            for index in order {
                let i = index.index(lengths.len());
                durable[i] = true;
                let acked = tracker.durable(range(edges[i], edges[i + 1]), Offset(edges[i + 1]));
                let first_hole = durable.iter().position(|d| !d).unwrap_or(lengths.len());
                prop_assert_eq!(acked, Offset(edges[first_hole]));
            }
        }
    }
}
