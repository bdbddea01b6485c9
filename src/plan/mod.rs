//! From a catalog and a target to a plan or a refusal: values in, a value out.
//!
//! Nothing here reads, waits or asks for the time. A [`Planner`] works in steps:
//! [`Planner::narrow`] chooses with what the catalog knows and names the piece of log
//! that has to be read; the caller reads it with the engine's scanner and hands the
//! marks to [`Planner::settle`], which gives the [`Plan`] or asks for another piece.
//! One piece is the rule, two or three happen.
//!
//! ```text
//! let planner = Planner::new(&catalog, &target, locator, now)?;
//! let mut narrowed = planner.narrow()?;
//! let plan = loop {
//!     let marks = read(narrowed.read.as_ref());      // none to read: no marks
//!     match planner.settle(narrowed, &marks)? {
//!         Step::Done(plan) => break plan,
//!         Step::Read(next) => narrowed = next,
//!     }
//! };
//! ```
//!
//! Which base backup: the newest one on the path to the target whose log is unbroken
//! from its start to the cut, and which is consistent at or before the cut.

use crate::catalog::{BaseInfo, Catalog, SegmentInfo};
use crate::engine::{Detail, Locator};
use crate::model::mark::{Mark, Transaction};
use crate::model::offset::{Offset, OffsetRange};
use crate::model::target::{Point, Target};
use crate::model::time::Timestamp;
use crate::model::timeline::TimelineId;

mod chain;
mod cut;
mod path;
mod refusal;
mod refuse;
mod seek;
mod sides;
mod window;

#[cfg(test)]
mod tests;

pub use chain::{Missing, Reach};
pub use path::{Leg, Path};
pub use refusal::{Refusal, Why};
pub use window::{Window, windows};

use path::Link;
use seek::Seek;
use sides::Sides;

/// What restore is to do; it decides nothing of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The base backup to lay out.
    pub base: BaseInfo,
    /// The timeline that holds the last byte before the cut, on which replay ends: an
    /// ancestor of the path's leaf when the cut lies before the switch.
    pub timeline: TimelineId,
    /// The timelines that lead to the target.
    pub path: Path,
    /// The log to replay, in order and without a break from `base.start`. It reaches
    /// at least to the cut and, if `more_follows`, to the end of the first whole
    /// record after it, which a server may have to see in order to stop before it.
    pub log: Vec<PlannedSegment>,
    /// Where replay stops: the end of a whole record.
    pub cut: Offset,
    /// Whether the archive holds whole records past the cut on this path.
    pub more_follows: bool,
    /// The last transaction that is in; `None` when none ended between the start of
    /// the base backup and the cut.
    pub last_in: Option<Transaction>,
    /// The first transaction that is out; `None` when the archive knows of none.
    pub first_out: Option<Transaction>,
    /// What else the operator should know, a sentence each.
    pub notes: Vec<String>,
    /// Bytes of log from the start of the base backup to the cut.
    pub log_bytes: u64,
}

/// A segment, and the part of it that is on the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedSegment {
    /// The timeline under which the segment is stored.
    pub timeline: TimelineId,
    /// The segment.
    pub info: SegmentInfo,
    /// The bytes of it to use: less than all where a timeline was left or entered in
    /// the middle of it, or where a base backup begins in it.
    pub range: OffsetRange,
}

/// A piece of log whose marks are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The timeline of all of it.
    pub timeline: TimelineId,
    /// The bytes: `start` is the end of a whole record, to be given to the scanner as
    /// [`crate::engine::ScanStart::Boundary`].
    pub range: OffsetRange,
    /// The segments that hold these bytes, in order.
    pub segments: Vec<PlannedSegment>,
    /// Which marks are needed.
    pub detail: Detail,
}

/// What the catalog alone can tell, and what must be read to tell the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Narrowed {
    /// The base backup, unless what is read speaks against it.
    pub base: BaseInfo,
    /// The timelines that lead to the target.
    pub path: Path,
    /// What to read; `None` when nothing is needed.
    pub read: Option<Read>,
    state: State,
}

/// What [`Planner::settle`] comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The plan stands.
    Done(Plan),
    /// More must be read.
    Read(Narrowed),
}

/// What the marks that are read next are for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// The cut is not known yet.
    Seek(Seek),
    /// The cut is known; its neighbours are not.
    Sides(Sides),
}

/// Whether the archive holds the log that makes a base backup consistent.
#[must_use]
pub fn restorable(catalog: &Catalog, base: &str) -> bool {
    let timeline = catalog.bases.iter().find(|info| info.id == base).map(|info| info.timeline);
    let path = timeline.and_then(|timeline| Path::to(catalog, Some(timeline)).ok());
    path.is_some_and(|path| chain::reaches(catalog, &path).iter().any(|reach| reach.base.id == base && reach.usable()))
}

/// The log of a timeline that is there without a break up to `end`, or to where it ends.
///
/// # Errors
/// A [`Refusal`] for a timeline that the archive does not know.
pub fn unbroken(catalog: &Catalog, timeline: TimelineId, end: Offset) -> Result<Vec<PlannedSegment>, Refusal> {
    let path = Path::to(catalog, Some(timeline))?;
    let mut log: Vec<PlannedSegment> = Vec::new();
    for link in path.links(catalog, OffsetRange::new(Offset::ZERO, end)).rev() {
        if log.last().is_some_and(|behind| behind.range.start != link.range.end) {
            break;
        }
        let range = OffsetRange::new(link.range.start, link.range.end.min(end));
        log.push(PlannedSegment { range, ..planned(&link, Offset::ZERO) });
    }
    log.reverse();
    Ok(log)
}

/// Makes plans for one target from one catalog.
pub struct Planner<'a> {
    catalog: &'a Catalog,
    target: &'a Target,
    locator: Option<&'a dyn Locator>,
    now: Timestamp,
    path: Path,
    reaches: Vec<Reach<'a>>,
}

impl<'a> Planner<'a> {
    /// Finds the timelines that lead to the target. `locator` is needed for a
    /// [`Point::Native`]; `now` tells a time that is not archived yet from one that has
    /// not come yet.
    ///
    /// # Errors
    /// A [`Refusal`] when the archive holds no log, or does not know the timeline.
    pub fn new(
        catalog: &'a Catalog,
        target: &'a Target,
        locator: Option<&'a dyn Locator>,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        let path = Path::to(catalog, target.timeline)?;
        let reaches = chain::reaches(catalog, &path);
        Ok(Self { catalog, target, locator, now, path, reaches })
    }

    /// Chooses with what the catalog knows.
    ///
    /// # Errors
    /// A [`Refusal`] when the catalog alone shows that the target cannot be given back.
    pub fn narrow(&self) -> Result<Narrowed, Refusal> {
        match &self.target.point {
            Point::Latest => self.latest(),
            Point::Time(time) => self.time(*time, self.reaches.len()),
            Point::Name(name) => self.name(name),
            Point::Native { term, value } => self.native(0, term, value),
        }
    }

    /// Goes on with the marks of what [`Narrowed::read`] asked for, in log order.
    ///
    /// # Errors
    /// A [`Refusal`] when the target cannot be given back.
    pub fn settle(&self, narrowed: Narrowed, marks: &[Mark]) -> Result<Step, Refusal> {
        match narrowed.state {
            State::Seek(seek) => self.sought(seek, marks),
            State::Sides(mut sides) => {
                self.look_aside(&mut sides, marks);
                Ok(self.step(sides))
            }
        }
    }

    /// Everything, if the log is unbroken from a base backup to its end.
    fn latest(&self) -> Result<Narrowed, Refusal> {
        let newest = self.reaches.iter().rposition(Reach::usable).ok_or_else(|| self.no_base())?;
        let reach = self.reach(newest);
        match &reach.missing {
            Some(missing) => Err(self.broken(reach, missing)),
            None => Ok(self.at(newest, reach.boundary, self.gap_at_end(reach))),
        }
    }

    /// The newest restore point of this name on the path.
    fn name(&self, name: &str) -> Result<Narrowed, Refusal> {
        let mut found = self.path.legs().iter().flat_map(|leg| {
            let log = self.catalog.timelines.get(&leg.timeline);
            let points = log.map(|log| log.restore_points.as_slice()).unwrap_or_default();
            points.iter().filter(move |p| p.name == name && leg.range.start < p.end && p.end <= leg.range.end)
        });
        let Some(newest) = found.next_back() else { return Err(self.no_name(name)) };
        let mut notes = Vec::new();
        if let Some(other) = found.next_back() {
            notes.push(format!(
                "several restore points are called {name:?}; this is the newest, of {}; the one before is of {}",
                newest.time, other.time
            ));
        }
        let index = self
            .base_for(newest.end)
            .ok_or_else(|| self.no_offset(newest.end, &format!("restore point {name:?} of {}", newest.time)))?;
        Ok(self.at(index, newest.end, notes))
    }

    /// The newest base backup with which a cut can be reached.
    fn base_for(&self, cut: Offset) -> Option<usize> {
        self.reaches.iter().rposition(|reach| reach.usable() && reach.base.end <= cut && cut <= reach.boundary)
    }

    fn narrowed(&self, reach: usize, read: Option<Read>, state: State) -> Narrowed {
        Narrowed { base: self.reach(reach).base.clone(), path: self.path.clone(), read, state }
    }

    /// The bytes that tell all marks that end in `link`: from the end of the last whole
    /// record before it.
    fn read(&self, reach: &Reach<'_>, link: &Link<'_>, detail: Detail) -> Read {
        let before = OffsetRange::new(reach.base.start, link.range.start);
        let boundary = self.path.links(self.catalog, before).next_back().map(|before| before.boundary());
        let start = boundary.unwrap_or(reach.base.start).max(reach.base.start);
        let range = OffsetRange::new(start, link.range.end);
        let segments = self.path.links(self.catalog, range).map(|link| planned(&link, start)).collect();
        Read { timeline: link.leg.timeline, range, segments, detail }
    }

    /// Where marks must lie to count.
    fn part(&self, reach: &Reach<'_>, link: &Link<'_>) -> OffsetRange {
        OffsetRange::new(link.leg.range.start.max(reach.base.start), link.range.end)
    }

    fn link_at(&self, start: Offset) -> Option<Link<'_>> {
        self.path.links(self.catalog, OffsetRange::new(start, Offset(start.0.saturating_add(1)))).next()
    }

    fn reach(&self, index: usize) -> &Reach<'a> {
        &self.reaches[index]
    }
}

/// A segment from `start` on.
fn planned(link: &Link<'_>, start: Offset) -> PlannedSegment {
    let range = OffsetRange::new(link.range.start.max(start), link.range.end);
    PlannedSegment { timeline: link.leg.timeline, info: *link.info, range }
}
