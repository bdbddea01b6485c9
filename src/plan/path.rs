//! Which timelines lead to the target, and the pieces of log that lie on that way.
//!
//! A [`Path`] is the leaf timeline and its ancestors, each with the offsets for which
//! it speaks: an ancestor up to the switch, its child from there on. An offset thus
//! belongs to exactly one timeline of a path. What an ancestor wrote past the switch
//! (a failed primary's surplus) and what a child's first log file repeats from before
//! it (PostgreSQL copies the parent's part) are not on the path.
//!
//! Relies on: the switch is the end of a whole record, as PostgreSQL's history files
//! promise (`xlog.c`, `StartupXLOG`: the end of the last record replayed).

use crate::catalog::layout::ObjectName;
use crate::catalog::{Catalog, SegmentInfo};
use crate::model::offset::{Offset, OffsetRange};
use crate::model::timeline::TimelineId;

use super::refusal::{Refusal, Why};

/// A timeline's part of a [`Path`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// The timeline.
    pub timeline: TimelineId,
    /// The offsets for which it speaks; the leaf's have no end ([`u64::MAX`]).
    pub range: OffsetRange,
}

/// The timelines from the oldest ancestor to the leaf, one after the other on the axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Never empty; the last one is the leaf.
    legs: Vec<Leg>,
    leaf: TimelineId,
}

/// A segment's part of a [`Path`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Link<'a> {
    /// The leg it lies on.
    pub(super) leg: Leg,
    /// The segment.
    pub(super) info: &'a SegmentInfo,
    /// The bytes of it that are on the path.
    pub(super) range: OffsetRange,
}

impl Link<'_> {
    /// Where the last whole record on the path, at or before the end of the link, ends.
    pub(super) fn boundary(&self) -> Offset {
        if self.surplus() { self.range.end } else { self.info.boundary.max(self.leg.range.start) }
    }

    /// Whether the segment goes on past the switch, so that its summary also speaks of
    /// what is not on the path.
    pub(super) fn surplus(&self) -> bool {
        self.info.range.end > self.range.end
    }
}

impl Path {
    /// The path to `timeline`, or to the newest timeline that holds log.
    ///
    /// # Errors
    /// A [`Refusal`] when the archive holds no log, or does not know the timeline.
    pub fn to(catalog: &Catalog, timeline: Option<TimelineId>) -> Result<Self, Refusal> {
        let known = || catalog.timelines.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let leaf = match timeline {
            Some(timeline) if catalog.timelines.contains_key(&timeline) => timeline,
            Some(timeline) => {
                return Err(Refusal::new(Why::Unknown, format!("timeline {timeline} is not in the archive"))
                    .hint(format!("the archive knows timeline {}", known())));
            }
            None => catalog.newest_timeline().ok_or_else(|| {
                Refusal::new(Why::NoBase, "the archive holds no log".to_owned())
                    .hint("does `pitr archive` run? see `pitr status`")
            })?,
        };
        let damaged = catalog.timelines.get(&leaf).into_iter().flat_map(|log| &log.damaged);
        let mut history = damaged.filter(|damaged| matches!(damaged.is, ObjectName::History(_)));
        if let Some(damaged) = history.next() {
            let message = format!("where timeline {leaf} comes from is not known");
            return Err(Refusal::new(Why::Unknown, message).damaged([damaged.object.clone()]));
        }
        let mut legs = Vec::new();
        let mut from = Offset::ZERO;
        let history = catalog.timelines.get(&leaf).and_then(|log| log.history.as_ref());
        for ancestor in history.map(|h| h.ancestors.as_slice()).unwrap_or_default() {
            legs.push(Leg { timeline: ancestor.timeline, range: OffsetRange::new(from, ancestor.switch) });
            from = from.max(ancestor.switch);
        }
        legs.push(Leg { timeline: leaf, range: OffsetRange::new(from, Offset(u64::MAX)) });
        Ok(Self { legs, leaf })
    }

    /// The timeline at the end of the path.
    #[must_use]
    pub const fn leaf(&self) -> TimelineId {
        self.leaf
    }

    /// The timelines, oldest first.
    #[must_use]
    pub fn legs(&self) -> &[Leg] {
        &self.legs
    }

    /// Up to where this path and another one are the same.
    pub(super) fn parts_from(&self, other: &Self) -> Offset {
        let mut legs = self.legs.iter().zip(&other.legs);
        let differ = legs.find(|(own, others)| own != others);
        differ.map_or(Offset(u64::MAX), |(own, others)| {
            if own.timeline == others.timeline { own.range.end.min(others.range.end) } else { own.range.start }
        })
    }

    /// The leg of this timeline, if the path leads over it.
    pub(super) fn leg(&self, timeline: TimelineId) -> Option<Leg> {
        self.legs.iter().find(|leg| leg.timeline == timeline).copied()
    }

    /// The leg that speaks for this offset.
    pub(super) fn leg_at(&self, offset: Offset) -> Option<Leg> {
        self.legs.iter().find(|leg| leg.range.contains(offset)).copied()
    }

    /// The leg that holds the last byte before this offset.
    pub(super) fn leg_before(&self, offset: Offset) -> Option<Leg> {
        self.legs.iter().find(|leg| leg.range.start < offset && offset <= leg.range.end).copied()
    }

    /// The links that hold at least one byte of `within`, in order.
    pub(super) fn links<'a>(
        &'a self,
        catalog: &'a Catalog,
        within: OffsetRange,
    ) -> impl DoubleEndedIterator<Item = Link<'a>> {
        self.legs.iter().flat_map(move |&leg| {
            let all = catalog.timelines.get(&leg.timeline).map(|log| log.segments.as_slice()).unwrap_or_default();
            let part = leg.range.intersection(within).unwrap_or(OffsetRange::new(Offset::ZERO, Offset::ZERO));
            let first = all.partition_point(|s| s.range.end <= part.start);
            let last = all.partition_point(|s| s.range.start < part.end);
            let segments = all.get(first..last).unwrap_or_default();
            segments
                .iter()
                .filter_map(move |info| leg.range.intersection(info.range).map(|range| Link { leg, info, range }))
        })
    }
}
