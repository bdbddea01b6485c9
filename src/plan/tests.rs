//! Plans are held against an oracle that knows every byte and every mark of a small
//! world and replays them one after the other, as a server would. The worlds have
//! several timelines, gaps, clocks that step back, equal times, records that cross
//! segments, a failed primary's surplus and a child's copy of its parent's file.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::catalog::{Codec, Gap, Holder, TimelineLog};
use crate::model::cluster::Identity;
use crate::model::mark::{MarkKind, TransactionId};
use crate::model::summary::Summary;
use crate::model::timeline::{Ancestor, History};

const FILE: u64 = 64;
const NOW: Timestamp = Timestamp(1_000_000);

/// The catalog, and what it was made from.
pub(super) struct World {
    pub(super) catalog: Catalog,
    /// All records of a timeline, one after the other.
    pub(super) marks: BTreeMap<TimelineId, Vec<Mark>>,
}

impl World {
    pub(super) fn new() -> Self {
        let identity = Identity {
            format_version: 1,
            engine: "test".into(),
            system: "1".into(),
            log_file_bytes: FILE,
            server_version: 1,
            encryption: None,
        };
        Self {
            catalog: Catalog { identity, timelines: BTreeMap::new(), bases: Vec::new(), damaged_bases: Vec::new() },
            marks: BTreeMap::new(),
        }
    }

    /// A timeline whose log begins at `start`, is cut into segments at `ends`, and
    /// lacks those whose index is in `lost`.
    pub(super) fn timeline(&mut self, id: u32, parents: &[(u32, u64)], marks: Vec<Mark>, ends: &[u64], lost: &[usize]) {
        let mut log = TimelineLog {
            history: (!parents.is_empty()).then(|| History {
                timeline: TimelineId(id),
                ancestors: parents
                    .iter()
                    .map(|&(t, s)| Ancestor { timeline: TimelineId(t), switch: Offset(s) })
                    .collect(),
                native: String::new(),
            }),
            ..TimelineLog::default()
        };
        let mut start = marks.first().map_or(Offset::ZERO, |m| m.start.floor_to(FILE).max(m.start));
        if let (Some(first), false) = (marks.first(), parents.is_empty()) {
            start = first.start.floor_to(FILE);
        }
        // As a scanner that began inside a record would say.
        let unknown = start;
        for (index, &end) in ends.iter().enumerate() {
            let range = OffsetRange::new(start, Offset(end));
            let mut summary = Summary::empty(start, start);
            let boundary = marks.iter().map(|m| m.end).filter(|e| *e <= range.end).max();
            for mark in marks.iter().filter(|m| range.start < m.end && m.end <= range.end) {
                summary.add(mark.clone());
            }
            start = range.end;
            if lost.contains(&index) {
                log.gaps.push(Gap {
                    range,
                    cause: format!("lost {index}"),
                    found: NOW,
                    confirmed: None,
                    position: None,
                });
                continue;
            }
            log.restore_points.extend(summary.restore_points);
            log.segments.push(SegmentInfo {
                range,
                boundary: boundary.unwrap_or(unknown),
                epoch: 1,
                transactions: summary.transactions as u32,
                times: summary.times,
                ids: summary.ids,
                holder: Holder::Segment(Codec::Lz4),
            });
        }
        self.catalog.timelines.insert(TimelineId(id), log);
        self.marks.insert(TimelineId(id), marks);
    }

    pub(super) fn base(&mut self, timeline: u32, start: u64, end: u64, ended: i64) {
        self.catalog.bases.push(BaseInfo {
            id: format!("b{}", self.catalog.bases.len()),
            timeline: TimelineId(timeline),
            start: Offset(start),
            end: Offset(end),
            began: Timestamp(ended - 1),
            ended: Timestamp(ended),
            bytes: 1,
            stored_bytes: 1,
        });
    }

    /// What the shell does: reads what is asked for and hands over the marks, after
    /// checking that the question made sense.
    pub(super) fn plan(&self, target: &Target, locator: Option<&dyn Locator>) -> Result<Plan, Refusal> {
        let planner = Planner::new(&self.catalog, target, locator, NOW)?;
        let mut narrowed = planner.narrow()?;
        let mut aside = Vec::new();
        for _ in 0..1000 {
            let marks = narrowed.read.as_ref().map(|read| self.read(read)).unwrap_or_default();
            if let (State::Sides(_), Some(read)) = (&narrowed.state, &narrowed.read) {
                assert!(!aside.contains(&read.range), "{read:?} is read twice for the cut's neighbours");
                assert!(read.segments.last().is_some_and(|s| s.info.transactions > 0), "{read:?} tells nothing");
                aside.push(read.range);
            }
            match planner.settle(narrowed, &marks)? {
                Step::Done(plan) => {
                    self.check(&plan);
                    return Ok(plan);
                }
                Step::Read(next) => narrowed = next,
            }
        }
        panic!("the planner asks without end");
    }

    fn read(&self, read: &Read) -> Vec<Mark> {
        let marks = &self.marks[&read.timeline];
        assert!(
            marks.iter().any(|m| m.start == read.range.start || m.end == read.range.start),
            "{read:?} does not begin on a boundary"
        );
        self.check_chain(&read.segments, read.range.start, read.range.end);
        assert!(read.segments.iter().all(|s| s.timeline == read.timeline));
        let read_marks = marks.iter().filter(|m| read.range.start <= m.start && m.end <= read.range.end);
        read_marks.filter(|m| read.detail == Detail::Records || m.kind != MarkKind::Record).cloned().collect()
    }

    fn check_chain(&self, segments: &[PlannedSegment], start: Offset, end: Offset) {
        let mut at = start;
        for segment in segments {
            assert_eq!(segment.range.start, at, "a break in {segments:?}");
            assert!(segment.info.range.covers(segment.range));
            assert!(self.catalog.timelines[&segment.timeline].segments.contains(&segment.info));
            at = segment.range.end;
        }
        assert!(at >= end, "{segments:?} ends before {end}");
    }

    fn check(&self, plan: &Plan) {
        self.check_chain(&plan.log, plan.base.start, plan.cut);
        assert!(plan.cut >= plan.base.end);
        let last_byte = Offset(plan.cut.0 - 1);
        assert!(plan.path.legs().iter().any(|leg| leg.timeline == plan.timeline && leg.range.contains(last_byte)));
        assert_eq!(plan.log_bytes, plan.cut.since(plan.base.start));
        // The log ends where it has to, and no segment later.
        let leg = plan.path.leg_at(plan.cut).unwrap();
        let follows = self.marks[&leg.timeline].iter().find(|m| m.start >= plan.cut).filter(|_| plan.more_follows);
        let needed = follows.map_or(plan.cut, |m| m.end);
        let (last, others) = plan.log.split_last().unwrap();
        assert!(last.range.end >= needed, "{:?} ends before {needed}", plan.log);
        assert!(others.last().is_none_or(|s| s.range.end < needed), "{:?} goes on past {needed}", plan.log);
    }
}

pub(super) fn transaction(start: u64, end: u64, id: u64, time: i64) -> Mark {
    let kind = MarkKind::Transaction {
        id: TransactionId::Number(id),
        time: Timestamp(time),
        committed: !id.is_multiple_of(3),
    };
    Mark { start: Offset(start), end: Offset(end), kind }
}

pub(super) fn target(point: Point) -> Target {
    Target { point, inclusive: true, timeline: None }
}

struct Xid(u64);

impl Locator for Xid {
    fn may_hold(&self, segment: &SegmentInfo) -> bool {
        segment.ids.is_some_and(|(low, high)| low <= self.0 && self.0 <= high)
    }

    fn is(&self, mark: &Mark) -> bool {
        matches!(&mark.kind, MarkKind::Transaction { id: TransactionId::Number(n), .. } if *n == self.0)
    }
}

struct Lsn(u64);

impl Locator for Lsn {
    fn may_hold(&self, segment: &SegmentInfo) -> bool {
        segment.range.end.0 > self.0
    }

    fn is(&self, mark: &Mark) -> bool {
        mark.start.0 >= self.0
    }

    fn detail(&self) -> Detail {
        Detail::Records
    }
}

mod named;
mod oracle;
