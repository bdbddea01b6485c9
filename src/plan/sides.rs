//! The neighbours of the cut: the last transaction in and the first one out. With them
//! the plan is complete.

use super::cut;
use super::path::Link;
use super::{Detail, Narrowed, Plan, Planner, Read, State, Step, planned};
use crate::model::mark::{Mark, Transaction};
use crate::model::offset::{Offset, OffsetRange};

/// A search for the last transaction in and the first one out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sides {
    reach: usize,
    cut: Offset,
    /// Start of the link that is being read.
    link: Offset,
    last_in: Option<Transaction>,
    /// Only links that begin before may still tell the last transaction in.
    back: Option<Offset>,
    first_out: Option<Transaction>,
    /// Only links that end after may still tell the first transaction out.
    forward: Option<Offset>,
    notes: Vec<String>,
}

impl Sides {
    const fn new(reach: usize, cut: Offset, notes: Vec<String>) -> Self {
        let (back, forward) = (Some(cut), Some(cut));
        Self { reach, cut, link: cut, last_in: None, back, first_out: None, forward, notes }
    }
}

impl Planner<'_> {
    /// The cut is found in the marks of `link`, which tell its neighbours, too.
    pub(super) fn found(&self, reach: usize, cut: Offset, link: &Link<'_>, marks: &[Mark]) -> Step {
        let mut sides = Sides::new(reach, cut, Vec::new());
        sides.link = link.range.start;
        self.look_aside(&mut sides, marks);
        self.step(sides)
    }

    /// The cut is known without reading.
    pub(super) fn at(&self, reach: usize, cut: Offset, notes: Vec<String>) -> Narrowed {
        let mut sides = Sides::new(reach, cut, notes);
        let read = self.next_aside(&mut sides);
        self.narrowed(reach, read, State::Sides(sides))
    }

    /// Takes what the marks of the link that was read say of the cut's neighbours.
    pub(super) fn look_aside(&self, sides: &mut Sides, marks: &[Mark]) {
        let Some(link) = self.link_at(sides.link) else { return };
        let part = self.part(self.reach(sides.reach), &link);
        if sides.back.is_some_and(|back| link.range.start < back) {
            sides.last_in = cut::last_in(cut::within(marks, part), sides.cut);
            sides.back = sides.last_in.is_none().then_some(link.range.start);
        }
        if sides.forward.is_some_and(|forward| link.range.end > forward) {
            sides.first_out = cut::first_out(cut::within(marks, part), sides.cut);
            sides.forward = sides.first_out.is_none().then_some(link.range.end);
        }
    }

    /// The next piece to read for the cut's neighbours.
    fn next_aside(&self, sides: &mut Sides) -> Option<Read> {
        let reach = self.reach(sides.reach);
        let links = |from, to| self.path.links(self.catalog, OffsetRange::new(from, to));
        let busy = |link: &Link<'_>| link.info.transactions > 0;
        let back = sides.back.and_then(|back| links(reach.base.start, back).rev().find(busy));
        let link = match back {
            Some(link) => Some(link),
            None => {
                sides.back = None;
                sides.forward.and_then(|forward| links(forward, reach.end).find(busy))
            }
        };
        if link.is_none() {
            sides.forward = None;
        }
        let link = link?;
        sides.link = link.range.start;
        Some(self.read(reach, &link, Detail::Marks))
    }

    pub(super) fn step(&self, mut sides: Sides) -> Step {
        match self.next_aside(&mut sides) {
            Some(read) => Step::Read(self.narrowed(sides.reach, Some(read), State::Sides(sides))),
            None => Step::Done(self.plan(sides)),
        }
    }

    fn plan(&self, sides: Sides) -> Plan {
        let reach = self.reach(sides.reach);
        let more_follows = reach.boundary > sides.cut;
        let mut log = Vec::new();
        for link in self.path.links(self.catalog, OffsetRange::new(reach.base.start, reach.end)) {
            log.push(planned(&link, reach.base.start));
            if link.range.end >= sides.cut && (!more_follows || link.boundary() > sides.cut) {
                break;
            }
        }
        Plan {
            base: reach.base.clone(),
            timeline: self.path.leg_before(sides.cut).map_or(self.path.leaf(), |leg| leg.timeline),
            path: self.path.clone(),
            log,
            cut: sides.cut,
            more_follows,
            last_in: sides.last_in,
            first_out: sides.first_out,
            notes: [self.also_elsewhere(sides.cut), sides.notes].concat(),
            log_bytes: sides.cut.since(reach.base.start),
        }
    }
}
