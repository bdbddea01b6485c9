//! What one store lacks of another's log, and in which order it is made there. Pure.
//!
//! Wanted is the log that counts in the one store: segments that a wider one hides are left behind. It is
//! made in the order of the log, each gap's record before what comes behind the gap, so that
//! whenever it ends the other store holds a beginning of that log and no hole of its own.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalog::layout::{Layout, ObjectName};
use crate::catalog::load::resolve::{Named, resolve};
use crate::error::Result;
use crate::model::offset::OffsetRange;
use crate::model::timeline::TimelineId;

/// Objects of a cluster and their sizes, as their names tell.
pub(super) type Names = BTreeMap<ObjectName, u64>;

/// Whose log there is, parents before their children.
pub(super) fn timelines(log: &Names) -> BTreeSet<TimelineId> {
    let of = |object: &ObjectName| match object {
        ObjectName::Segment { timeline, .. }
        | ObjectName::Tail { timeline, .. }
        | ObjectName::History(timeline)
        | ObjectName::Gap { timeline, .. }
        | ObjectName::Index { timeline, .. } => Some(*timeline),
        _ => None,
    };
    log.keys().filter_map(of).collect()
}

/// Whose log it is.
#[derive(Clone, Copy)]
pub(super) struct Log<'a> {
    pub(super) layout: &'a Layout,
    pub(super) timeline: TimelineId,
    /// Whether the archive counts the offsets; see [`resolve`].
    pub(super) counted: bool,
}

impl Log<'_> {
    /// What `to` lacks of `from`'s segments and gap records, in order. Segments of `damaged` are as good as not
    /// in `from`; those they hid count again.
    ///
    /// # Errors
    /// [`crate::Kind::Corruption`] naming two segments, of one store or of both, that overlap without either holding the other.
    pub(super) fn missing(self, from: &Names, damaged: &BTreeSet<ObjectName>, to: &Names) -> Result<Vec<ObjectName>> {
        let segments = |object: &&ObjectName| matches!(object, ObjectName::Segment { .. });
        let lost: Vec<OffsetRange> = damaged.iter().filter(segments).filter_map(range_of).collect();
        let sound: Vec<Named> = self.segments(from).filter(|s| !damaged.contains(&s.object(self.timeline))).collect();
        let wanted = resolve(self.layout, self.timeline, sound, &lost, self.counted)?;
        let there: BTreeSet<Named> = self.segments(to).collect();
        let both = there.iter().chain(&wanted).copied().collect::<BTreeSet<_>>().into_iter().collect();
        let both = resolve(self.layout, self.timeline, both, &lost, self.counted)?;
        let held = |range: OffsetRange| {
            let end = both
                .iter()
                .filter(|s| s.range.end > range.start)
                .fold(range.start, |at, s| if s.range.start <= at { at.max(s.range.end) } else { at });
            end >= range.end
        };
        let gaps = from.keys().filter(|object| match object {
            ObjectName::Gap { timeline, range, .. } => {
                *timeline == self.timeline && !to.contains_key(*object) && !damaged.contains(*object) && !held(*range)
            }
            _ => false,
        });
        let mut missing: Vec<ObjectName> = gaps.cloned().collect();
        // The target's own writer has that log in a tail, and would find other bytes under the name of its segment.
        let is_open = |s: &Named| {
            let tail = ObjectName::Tail { timeline: self.timeline, start: s.range.start, epoch: s.epoch };
            to.contains_key(&tail)
        };
        missing.extend(both.iter().filter(|s| !there.contains(s) && !is_open(s)).map(|s| s.object(self.timeline)));
        // A gap's record goes before the segment that begins with it.
        missing.sort_by_key(|object| (range_of(object), !matches!(object, ObjectName::Gap { .. })));
        Ok(missing)
    }

    fn segments(self, names: &Names) -> impl Iterator<Item = Named> {
        names.keys().filter_map(move |object| match object {
            ObjectName::Segment { timeline, range, epoch, codec } if *timeline == self.timeline => {
                Some(Named { range: *range, epoch: *epoch, codec: *codec })
            }
            _ => None,
        })
    }
}

/// The log an object holds or tells of.
const fn range_of(object: &ObjectName) -> Option<OffsetRange> {
    match object {
        ObjectName::Segment { range, .. } | ObjectName::Gap { range, .. } => Some(*range),
        ObjectName::Index { index, .. } => Some(index.range),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Codec;
    use crate::model::offset::Offset;

    const T1: TimelineId = TimelineId(1);

    fn segment(start: u64, end: u64, epoch: u32) -> ObjectName {
        let range = OffsetRange::new(Offset(start), Offset(end));
        ObjectName::Segment { timeline: T1, range, epoch, codec: Codec::Lz4 }
    }

    fn gap(start: u64, end: u64) -> ObjectName {
        ObjectName::Gap { timeline: T1, range: OffsetRange::new(Offset(start), Offset(end)), epoch: 1 }
    }

    fn names(objects: &[ObjectName]) -> Names {
        objects.iter().map(|object| (object.clone(), 1)).collect()
    }

    fn missing(from: &[ObjectName], damaged: &[ObjectName], to: &[ObjectName]) -> Result<Vec<ObjectName>> {
        let layout = Layout::new("main".parse().unwrap());
        let log = Log { layout: &layout, timeline: T1, counted: false };
        log.missing(&names(from), &damaged.iter().cloned().collect(), &names(to))
    }

    #[test]
    fn log_goes_in_its_order_with_gaps_before_what_comes_behind_them() {
        let from = [segment(0, 10, 1), gap(10, 20), segment(20, 30, 2), segment(30, 40, 2)];
        assert_eq!(missing(&from, &[], &[]).unwrap(), from);
        assert_eq!(missing(&from, &[], &from[..2]).unwrap(), from[2..]);
        assert_eq!(missing(&from, &[], &[from[0].clone(), from[3].clone()]).unwrap(), from[1..3]);
        assert!(missing(&from, &[], &from).unwrap().is_empty());
    }

    #[test]
    fn what_a_wider_segment_hides_is_left_behind_unless_that_is_damaged() {
        let from = [segment(0, 10, 1), segment(10, 20, 1), segment(0, 20, 1), segment(20, 30, 1)];
        assert_eq!(missing(&from, &[], &[]).unwrap(), from[2..]);
        let without = missing(&from, &from[2..3], &[]).unwrap();
        assert_eq!(without, [from[0].clone(), from[1].clone(), from[3].clone()]);
        assert!(missing(&from[..2], &[], &from[2..3]).unwrap().is_empty(), "held already");
        assert_eq!(missing(&from, &[], &from[..1]).unwrap(), from[2..], "what grew");
    }

    #[test]
    fn a_gap_that_the_other_store_has_the_log_of_is_none_there() {
        let from = [segment(0, 10, 1), gap(10, 20), segment(20, 30, 2)];
        assert_eq!(missing(&from, &[], &[segment(5, 25, 1)]).unwrap_err().kind(), crate::Kind::Corruption);
        assert_eq!(missing(&from, &[], &[segment(0, 20, 1)]).unwrap(), from[2..]);
    }

    #[test]
    fn a_tail_of_the_target_is_left_to_its_writer() {
        let from = [segment(0, 10, 1), segment(10, 15, 1)];
        let tail = |epoch| ObjectName::Tail { timeline: T1, start: Offset(10), epoch };
        assert_eq!(missing(&from, &[], &[tail(1)]).unwrap(), from[..1]);
        assert_eq!(missing(&from, &[], &[tail(2)]).unwrap(), from);
    }

    #[test]
    fn nothing_is_made_that_would_contradict_what_is_there() {
        let error = missing(&[segment(0, 10, 1), segment(10, 20, 1)], &[], &[segment(5, 15, 1)]).unwrap_err();
        assert!(error.message().contains("overlap"), "{error}");
    }
}
