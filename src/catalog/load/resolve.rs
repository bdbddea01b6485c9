//! Which segments count where several hold the same bytes.
//!
//! A wider segment hides those it covers (it was compacted from them); of several of
//! one range that of the highest epoch counts. Of two that overlap in part, the one of
//! the lower epoch was made by a writer that did not know yet that it was fenced: it
//! is left out, if the others hold all its bytes. Anything else is a contradiction.
//!
//! Where the archive counts the offsets, two writers may give one offset to different bytes. There a segment does
//! not count either that hides what a later writer wrote: it was made when that one had come.

use crate::catalog::Codec;
use crate::catalog::layout::{Layout, ObjectName};
use crate::error::{Error, Result};
use crate::model::offset::OffsetRange;
use crate::model::timeline::TimelineId;

/// A segment, as its name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Named {
    pub(crate) range: OffsetRange,
    pub(crate) epoch: u32,
    pub(crate) codec: Codec,
}

impl Named {
    pub(crate) const fn object(&self, timeline: TimelineId) -> ObjectName {
        ObjectName::Segment { timeline, range: self.range, epoch: self.epoch, codec: self.codec }
    }

    pub(crate) fn name(&self, layout: &Layout, timeline: TimelineId) -> String {
        layout.name(&self.object(timeline))
    }
}

/// The segments that count, in order and without overlap; `damaged` are the ranges of those
/// that are none of `all` because they proved damaged. `counted` says that the archive counts the offsets.
///
/// # Errors
/// [`crate::Kind::Corruption`] naming two objects that contradict each other.
pub(crate) fn resolve(
    layout: &Layout,
    timeline: TimelineId,
    mut all: Vec<Named>,
    damaged: &[OffsetRange],
    counted: bool,
) -> Result<Vec<Named>> {
    all.sort_unstable_by_key(|s| (s.range.start, std::cmp::Reverse(s.range.end), std::cmp::Reverse(s.epoch), s.codec));
    if counted {
        drop_late(&mut all);
    }
    let mut left_out: Vec<(Named, Named)> = Vec::new();
    let kept = loop {
        match sweep(&all) {
            Ok(kept) => break kept,
            Err((a, b)) if a.epoch != b.epoch => {
                let (out, by) = if a.epoch < b.epoch { (a, b) } else { (b, a) };
                all.retain(|s| *s != out);
                left_out.push((out, by));
            }
            Err((a, b)) => return Err(contradiction(layout, timeline, a, b)),
        }
    };
    let mut known: Vec<OffsetRange> = kept.iter().map(|s| s.range).chain(damaged.iter().copied()).collect();
    known.sort_unstable();
    for (out, by) in left_out {
        if !holds(&known, out.range) {
            return Err(contradiction(layout, timeline, out, by));
        }
    }
    Ok(kept)
}

/// Drops what hides segments of a later writer, if others hold what lies before those. In order of the start, widest first.
fn drop_late(all: &mut Vec<Named>) {
    let mut late: Vec<Named> = Vec::new();
    let mut open: Vec<Named> = Vec::new();
    for next in all.iter() {
        open.retain(|wide| wide.range.end > next.range.start);
        let hides =
            |wide: &&Named| wide.range.covers(next.range) && wide.epoch < next.epoch && wide.range != next.range;
        for wide in open.iter().filter(hides).filter(|wide| !late.contains(wide)).copied().collect::<Vec<_>>() {
            let others: Vec<OffsetRange> =
                all.iter().filter(|s| **s != wide && !late.contains(s)).map(|s| s.range).collect();
            if holds(&others, OffsetRange::new(wide.range.start, next.range.start)) {
                late.push(wide);
            }
        }
        open.push(*next);
    }
    all.retain(|segment| !late.contains(segment));
}

/// Drops what is covered; two that overlap in part are given back.
fn sweep(all: &[Named]) -> Result<Vec<Named>, (Named, Named)> {
    let mut kept: Vec<Named> = Vec::with_capacity(all.len());
    for next in all {
        match kept.last() {
            Some(last) if last.range.covers(next.range) => {}
            Some(last) if next.range.start < last.range.end => return Err((*last, *next)),
            _ => kept.push(*next),
        }
    }
    Ok(kept)
}

/// Whether the ranges, in order of their start, hold every byte of `wanted`.
fn holds(ranges: &[OffsetRange], wanted: OffsetRange) -> bool {
    let mut at = wanted.start;
    for range in ranges {
        if range.start > at || at >= wanted.end {
            break;
        }
        at = at.max(range.end);
    }
    at >= wanted.end
}

fn contradiction(layout: &Layout, timeline: TimelineId, a: Named, b: Named) -> Error {
    Error::corruption(format!(
        "segments {} and {} overlap, and neither holds all of the other",
        a.name(layout, timeline),
        b.name(layout, timeline)
    ))
    .hint("did two archivers write here? run `pitr verify`, then move the one away that should not be there")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::offset::Offset;

    fn named(parts: &[(u64, u64, u32)]) -> Vec<Named> {
        let one = |&(start, end, epoch): &(u64, u64, u32)| Named {
            range: OffsetRange::new(Offset(start), Offset(end)),
            epoch,
            codec: Codec::Lz4,
        };
        parts.iter().map(one).collect()
    }

    fn resolved(parts: &[(u64, u64, u32)]) -> Result<Vec<Named>> {
        resolve(&Layout::new("main".parse().unwrap()), TimelineId(1), named(parts), &[], false)
    }

    fn counted(parts: &[(u64, u64, u32)]) -> Vec<Named> {
        resolve(&Layout::new("main".parse().unwrap()), TimelineId(1), named(parts), &[], true).unwrap()
    }

    #[test]
    fn where_the_archive_counts_a_paused_writer_hides_nothing_of_a_later_one() {
        let parts = [(0, 9, 1), (0, 30, 1), (9, 15, 2), (15, 22, 2)];
        assert_eq!(counted(&parts), named(&[(0, 9, 1), (9, 15, 2), (15, 22, 2)]));
        assert_eq!(resolved(&parts).unwrap(), named(&[(0, 30, 1)]), "the same bytes");
        assert_eq!(counted(&[(0, 30, 1), (9, 15, 2)]), named(&[(0, 30, 1)]), "nobody else holds the first bytes");
        assert_eq!(counted(&[(0, 4, 1), (0, 9, 1), (0, 9, 2), (4, 9, 1)]), named(&[(0, 9, 2)]));
        assert_eq!(counted(&[(0, 4, 1), (4, 9, 2), (0, 9, 2)]), named(&[(0, 9, 2)]));
    }

    #[test]
    fn a_wider_segment_hides_those_it_covers() {
        let kept = resolved(&[(0, 4, 1), (4, 9, 1), (9, 12, 2), (0, 12, 1), (12, 16, 2)]).unwrap();
        assert_eq!(kept, named(&[(0, 12, 1), (12, 16, 2)]));
    }

    #[test]
    fn of_one_range_the_highest_epoch_counts() {
        assert_eq!(resolved(&[(0, 4, 1), (0, 4, 3), (0, 4, 2)]).unwrap(), named(&[(0, 4, 3)]));
    }

    #[test]
    fn a_fenced_writers_last_segment_gives_way_where_the_others_hold_its_bytes() {
        let kept = resolved(&[(0, 10, 1), (10, 25, 1), (10, 20, 2), (20, 30, 2)]).unwrap();
        assert_eq!(kept, named(&[(0, 10, 1), (10, 20, 2), (20, 30, 2)]));
    }

    #[test]
    fn names_both_where_bytes_would_be_lost_or_nobody_is_later() {
        let lost = resolved(&[(0, 10, 1), (5, 15, 2)]).unwrap_err();
        assert_eq!(lost.kind(), crate::Kind::Corruption);
        assert_eq!(
            lost.message(),
            "segments main/log/00000001/0000000000000000-000000000000000A-00000001.lz4 and \
             main/log/00000001/0000000000000005-000000000000000F-00000002.lz4 overlap, and neither holds all of the other"
        );
        assert!(resolved(&[(0, 10, 1), (5, 15, 1), (0, 5, 1), (10, 15, 1)]).is_err());
    }

    #[test]
    fn a_damaged_segment_still_speaks_for_its_range() {
        let layout = Layout::new("main".parse().unwrap());
        let parts = named(&[(0, 10, 1), (10, 25, 1), (20, 30, 2)]);
        resolve(&layout, TimelineId(1), parts.clone(), &[], false).unwrap_err();
        let damaged = [OffsetRange::new(Offset(10), Offset(20))];
        let kept = resolve(&layout, TimelineId(1), parts, &damaged, false).unwrap();
        assert_eq!(kept, named(&[(0, 10, 1), (20, 30, 2)]));
    }
}
