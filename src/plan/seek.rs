//! The search for the cut: from link to link, until the marks of one hold it.

use super::cut;
use super::path::Link;
use super::{Detail, Narrowed, Planner, Point, Reach, Refusal, State, Step};
use crate::model::mark::Mark;
use crate::model::offset::{Offset, OffsetRange};
use crate::model::time::Timestamp;

/// A search for the cut, from link to link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seek {
    /// The base backup, as its place in the planner's list, from which the log is searched.
    reach: usize,
    /// Start of the link that is being read.
    link: Offset,
    /// The latest transaction read so far.
    seen: Option<Timestamp>,
}

impl Planner<'_> {
    /// Tries the base backups before `newer`, the newest first.
    pub(super) fn time(&self, time: Timestamp, newer: usize) -> Result<Narrowed, Refusal> {
        for (index, reach) in self.reaches.iter().enumerate().take(newer).rev() {
            if !reach.usable() || reach.base.ended > time {
                continue;
            }
            if let Some(link) = self.late_link(reach, time, reach.base.start) {
                return Ok(self.seek(Seek { reach: index, link: link.range.start, seen: None }, &link));
            }
            if reach.certain >= Some(time) {
                return Ok(self.at(index, reach.boundary, self.whole_log(reach, time)));
            }
        }
        Err(self.no_time(time))
    }

    /// The first link that ends after `from` and may hold a late transaction, or one
    /// that tells how far the log is known.
    fn late_link(&self, reach: &Reach<'_>, time: Timestamp, from: Offset) -> Option<Link<'_>> {
        if reach.latest < Some(time) {
            return None;
        }
        let asks = |link: &Link<'_>| {
            let clipped = link.surplus() || link.info.range.start < reach.base.start;
            link.info.times.is_some_and(|(_, latest)| {
                cut::is_late(latest, time, self.target.inclusive) || (clipped && latest >= time)
            })
        };
        self.path.links(self.catalog, OffsetRange::new(from, reach.end)).find(asks)
    }

    /// Searches every stretch of log that can be replayed, from the oldest on; `from`
    /// is the base backup to begin with.
    pub(super) fn native(&self, from: usize, term: &str, value: &str) -> Result<Narrowed, Refusal> {
        let mut searched = Offset::ZERO;
        for (index, reach) in self.reaches.iter().enumerate().skip(from) {
            // A later base backup of a stretch adds no log to it.
            if !reach.usable() || reach.end <= searched {
                continue;
            }
            searched = reach.end;
            if let Some(link) = self.holding_link(reach, reach.base.start) {
                return Ok(self.seek(Seek { reach: index, link: link.range.start, seen: None }, &link));
            }
        }
        Err(self.no_native(term, value))
    }

    /// The first link that ends after `from` and may hold the locator's point.
    fn holding_link(&self, reach: &Reach<'_>, from: Offset) -> Option<Link<'_>> {
        let locator = self.locator?;
        let mut links = self.path.links(self.catalog, OffsetRange::new(from, reach.end));
        links.find(|link| locator.may_hold(link.info))
    }

    /// Looks for the cut in the marks of the link that was read.
    pub(super) fn sought(&self, seek: Seek, marks: &[Mark]) -> Result<Step, Refusal> {
        let reach = self.reach(seek.reach);
        let Some(link) = self.link_at(seek.link) else { return Err(self.no_base()) };
        let part = self.part(reach, &link);
        let seen = seek.seen.max(cut::latest(cut::within(marks, part)));
        let next =
            |link: Link<'_>| Step::Read(self.seek(Seek { reach: seek.reach, link: link.range.start, seen }, &link));
        match (&self.target.point, self.locator) {
            (Point::Time(time), _) => {
                match cut::for_time(cut::within(marks, part), *time, self.target.inclusive) {
                    Some(cut) if cut >= reach.base.end => Ok(self.found(seek.reach, cut, &link, marks)),
                    // This base backup is consistent only later.
                    Some(_) => self.time(*time, seek.reach).map(|narrowed| self.onward(narrowed)),
                    None => match self.late_link(reach, *time, link.range.end) {
                        Some(link) => Ok(next(link)),
                        None if reach.certain.max(seen) >= Some(*time) => {
                            let narrowed = self.at(seek.reach, reach.boundary, self.whole_log(reach, *time));
                            Ok(self.onward(narrowed))
                        }
                        None => self.time(*time, seek.reach).map(|narrowed| self.onward(narrowed)),
                    },
                }
            }
            (Point::Native { term, value }, Some(locator)) => {
                match cut::for_locator(cut::within(marks, part), locator, self.target.inclusive) {
                    Some(cut) => {
                        let base = self.base_for(cut).ok_or_else(|| self.no_offset(cut, &format!("{term} {value}")))?;
                        Ok(self.found(base, cut, &link, marks))
                    }
                    None => match self.holding_link(reach, link.range.end) {
                        Some(link) => Ok(next(link)),
                        None => {
                            let stretch = self.reaches.partition_point(|r| r.base.start < reach.end);
                            self.native(stretch, term, value).map(|narrowed| self.onward(narrowed))
                        }
                    },
                }
            }
            // No other point begins a search.
            _ => Err(self.no_base()),
        }
    }

    fn onward(&self, narrowed: Narrowed) -> Step {
        match narrowed {
            Narrowed { read: None, state: State::Sides(sides), .. } => self.step(sides),
            narrowed => Step::Read(narrowed),
        }
    }

    fn seek(&self, seek: Seek, link: &Link<'_>) -> Narrowed {
        let detail = match self.locator {
            Some(locator) if matches!(self.target.point, Point::Native { .. }) => locator.detail(),
            _ => Detail::Marks,
        };
        let read = self.read(self.reach(seek.reach), link, detail);
        self.narrowed(seek.reach, Some(read), State::Seek(seek))
    }
}
