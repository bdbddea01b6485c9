//! Does the log on a path carry a base backup forward, how far, and what is missing
//! where it ends.
//!
//! This is the only place that decides whether log is continuous: restore, `list` and
//! `expire` all ask here, so they cannot disagree.

use serde::Serialize;

use crate::catalog::{BaseInfo, Catalog, TimelineLog};
use crate::model::offset::{Offset, OffsetRange};
use crate::model::time::Timestamp;
use crate::model::timeline::TimelineId;

use super::path::Path;

/// Log that the archive does not hold, with log behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The timeline that would hold it.
    pub timeline: TimelineId,
    /// The missing bytes.
    pub range: OffsetRange,
    /// The cause, where the archiver recorded one.
    pub cause: Option<String>,
    /// The damaged objects that should hold some of it.
    pub damaged: Vec<String>,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "log {} of timeline {} is missing", self.range, self.timeline)?;
        match &self.cause {
            Some(cause) => write!(f, " ({cause})"),
            None => Ok(()),
        }
    }
}

/// How far the log carries a base backup along a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach<'a> {
    /// The base backup.
    pub base: &'a BaseInfo,
    /// Where the unbroken log that begins at `base.start` ends.
    pub end: Offset,
    /// Where its last whole record ends.
    pub boundary: Offset,
    /// Every transaction that ended by then lies in that log: the time of the latest
    /// transaction in it or, at the end of the archive, the confirmed time. `None`
    /// without either.
    pub known: Option<Timestamp>,
    /// As `known`, without the segment in which the base backup begins: its latest
    /// transaction may lie before the base backup where the source's clock went back.
    pub(super) certain: Option<Timestamp>,
    /// The latest time in the summaries of its segments, which may be that of a
    /// transaction that is not on the path.
    pub(super) latest: Option<Timestamp>,
    /// What is missing at `end`; `None` at the end of the archive's log. What only a damaged
    /// object held is missing even with no log behind it.
    pub missing: Option<Missing>,
}

impl Reach<'_> {
    /// Whether the base backup can be made consistent.
    #[must_use]
    pub fn usable(&self) -> bool {
        self.boundary >= self.base.end
    }
}

/// How far the log carries each base backup on the path, in order of their start.
pub(super) fn reaches<'a>(catalog: &'a Catalog, path: &Path) -> Vec<Reach<'a>> {
    let on_path = |base: &BaseInfo| {
        path.leg(base.timeline).is_some_and(|leg| leg.range.covers(OffsetRange::new(base.start, base.end)))
    };
    let mut reaches: Vec<Reach<'a>> = catalog
        .bases
        .iter()
        .filter(|base| on_path(base))
        .map(|base| Reach {
            base,
            end: base.start,
            boundary: base.start,
            known: None,
            certain: None,
            latest: None,
            missing: None,
        })
        .collect();
    reaches.sort_by_key(|reach| (reach.base.start, reach.base.end));

    // One pass over the log. `open..next` are the base backups that begin in the
    // present unbroken stretch; the last of them collects what its segments say.
    let (mut open, mut next) = (0, 0);
    let mut stretch: Option<Stretch> = None;
    for link in path.links(catalog, OffsetRange::new(Offset::ZERO, Offset(u64::MAX))) {
        if let Some(ended) = stretch.take_if(|s| s.end != link.range.start) {
            close(reaches.get_mut(open..next).unwrap_or_default(), &ended);
            let confirmed = confirmed_before_gap(catalog, &ended);
            for reach in reaches.get_mut(open..next).unwrap_or_default() {
                reach.known = reach.known.max(confirmed);
                reach.certain = reach.certain.max(confirmed);
            }
            let missing = missing(catalog, path, ended.end, link.range.start);
            reaches.iter_mut().take(next).skip(open).for_each(|reach| reach.missing = Some(missing.clone()));
            open = next;
        }
        // Base backups that begin where there is no log.
        while let Some(reach) = reaches.get_mut(next).filter(|r| r.base.start < link.range.start) {
            reach.missing = Some(missing(catalog, path, reach.base.start, link.range.start));
            next += 1;
            open = next;
        }
        stretch = Some(Stretch { end: link.range.end, boundary: link.boundary(), timeline: link.leg.timeline });
        let latest = link.info.times.map(|(_, latest)| latest);
        let say = |reach: &mut Reach<'_>| {
            reach.latest = reach.latest.max(latest);
            if !link.surplus() {
                reach.known = reach.known.max(latest);
            }
        };
        if let Some(last) = reaches.get_mut(open..next).and_then(<[_]>::last_mut) {
            say(last);
        }
        while let Some(reach) = reaches.get_mut(next).filter(|r| r.base.start < link.range.end) {
            say(reach);
            next += 1;
        }
        // The last base backup with all of the segment behind it need not be the last one
        // that is open: others may begin in the segment.
        let begun = reaches.get_mut(open..next).unwrap_or_default();
        let whole = begun.partition_point(|reach| reach.base.start <= link.info.range.start);
        if let (Some(reach), false) = (begun.get_mut(..whole).and_then(<[_]>::last_mut), link.surplus()) {
            reach.certain = reach.certain.max(latest);
        }
    }
    let end = stretch.as_ref().map(|ended| ended.end);
    if let Some(ended) = stretch {
        let stretch = reaches.get_mut(open..next).unwrap_or_default();
        close(stretch, &ended);
        // What is confirmed, is so for the end of the leaf's log.
        if ended.timeline == path.leaf() {
            let confirmed = catalog.timelines.get(&path.leaf()).and_then(|log| log.confirmed);
            for reach in stretch {
                reach.known = reach.known.max(confirmed);
                reach.certain = reach.certain.max(confirmed);
            }
        }
    }
    for (index, reach) in reaches.iter_mut().enumerate().skip(open) {
        let at = if index < next { end.unwrap_or(reach.base.start) } else { reach.base.start };
        reach.missing = damaged_behind(catalog, path, at);
    }
    reaches
}

/// Log on the path from `at` on that only a damaged object held, where no log follows it.
fn damaged_behind(catalog: &Catalog, path: &Path, at: Offset) -> Option<Missing> {
    path.legs().iter().find_map(|leg| {
        let lost = catalog.timelines.get(&leg.timeline)?.lost();
        let (range, damaged) = lost
            .filter_map(|(range, damaged)| Some((leg.range.intersection(range)?, damaged)))
            .find(|(range, _)| range.end > at)?;
        let range = OffsetRange::new(leg.range.start.max(at), range.end);
        Some(Missing { timeline: leg.timeline, range, cause: None, damaged: vec![damaged.object.clone()] })
    })
}

/// Up to when the log was known to be complete where a recorded gap begins.
fn confirmed_before_gap(catalog: &Catalog, stretch: &Stretch) -> Option<Timestamp> {
    let log = catalog.timelines.get(&stretch.timeline)?;
    log.gaps.iter().filter(|gap| gap.range.start == stretch.end).filter_map(|gap| gap.confirmed).max()
}

/// An unbroken piece of log, as far as it has been walked.
struct Stretch {
    end: Offset,
    boundary: Offset,
    timeline: TimelineId,
}

/// Gives the base backups of a stretch its end. What the segments after a later base
/// backup say also holds for an earlier one.
fn close(reaches: &mut [Reach<'_>], stretch: &Stretch) {
    let (mut known, mut certain, mut latest) = (None, None, None);
    for reach in reaches.iter_mut().rev() {
        reach.end = stretch.end;
        reach.boundary = stretch.boundary.max(reach.base.start);
        known = known.max(reach.known);
        certain = certain.max(reach.certain);
        latest = latest.max(reach.latest);
        (reach.known, reach.certain, reach.latest) = (known, certain, latest);
    }
}

/// The first range that is missing between `end` and `next`, which holds the next log.
fn missing(catalog: &Catalog, path: &Path, end: Offset, next: Offset) -> Missing {
    let leg = path.leg_at(end);
    let timeline = leg.map_or(path.leaf(), |leg| leg.timeline);
    let range = OffsetRange::new(end, leg.map_or(next, |leg| leg.range.end.min(next)));
    let log = catalog.timelines.get(&timeline);
    let gaps = log.map(|log| log.gaps.as_slice()).unwrap_or_default();
    let cause = gaps.iter().find(|gap| gap.range.intersection(range).is_some()).map(|gap| gap.cause.clone());
    let lost = log.into_iter().flat_map(TimelineLog::lost).filter(|(lost, _)| lost.intersection(range).is_some());
    let damaged = lost.map(|(_, damaged)| damaged.object.clone()).collect();
    Missing { timeline, range, cause, damaged }
}
