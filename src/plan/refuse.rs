//! The planner's refusals and notes: what it says, not what it decides.

use crate::catalog::{Codec, Holder, SegmentInfo, TimelineLog};
use crate::model::offset::Offset;
use crate::model::time::Timestamp;
use crate::model::timeline::TimelineId;

use super::chain::Reach;
use super::refusal::{Refusal, Why};
use super::{Path, Planner, Point, window};

const EVERYTHING: &str = "use `--target latest` for everything the archive holds";

/// Not less than the name of any base that began by `time`.
fn base_name(time: Timestamp) -> String {
    let digits = time.to_string().chars().filter(|c| !matches!(c, '-' | ':')).collect::<String>();
    // 20261120T212837.123456Z; what follows the second in a name is `Z-` and more.
    digits.split('.').next().map(|second| format!("{second}Z~")).unwrap_or(digits)
}

impl Planner<'_> {
    /// No base backup on the path can be made consistent.
    pub(super) fn no_base(&self) -> Refusal {
        let leaf = self.path.leaf();
        let Some(reach) = self.reaches.last() else {
            return Refusal::new(Why::NoBase, format!("no base backup leads to timeline {leaf}"))
                .hint("take one with `pitr backup`")
                .damaged(self.damaged_bases(|_| true));
        };
        let base = reach.base;
        match &reach.missing {
            Some(missing) => Refusal::new(
                Why::NoBase,
                format!("base backup {} needs the log up to {}, but {missing}", base.id, base.end),
            )
            .hint("take a new base backup with `pitr backup`")
            .damaged(missing.damaged.iter().cloned().chain(self.damaged_bases(|_| true))),
            None => Refusal::new(
                Why::NoBase,
                format!(
                    "base backup {} needs the log up to {}, and the archive ends at {}",
                    base.id, base.end, reach.boundary
                ),
            )
            .hint("does `pitr archive` run? see `pitr status`")
            .damaged(self.damaged_bases(|_| true)),
        }
    }

    /// The manifests of damaged bases of these names.
    fn damaged_bases(&self, which: impl Fn(&str) -> bool) -> impl Iterator<Item = String> {
        let bases = self.catalog.damaged_bases.iter().filter(move |damaged| damaged.base().is_some_and(&which));
        bases.map(|damaged| damaged.object.clone())
    }

    /// What is damaged of that with which `time` might be given back: the log that the last
    /// base before it lacks, and bases between the two.
    fn damaged_before(&self, time: Timestamp) -> Vec<String> {
        let last = self.reaches.iter().filter(|reach| reach.base.ended <= time).max_by_key(|reach| reach.base.ended);
        let missing = last.and_then(|reach| reach.missing.as_ref());
        let after = last.map_or_else(String::new, |reach| reach.base.id.clone());
        // A base's name begins with the time at which it began.
        let until = base_name(time);
        let bases = self.damaged_bases(move |id| after.as_str() < id && id <= until.as_str());
        missing.map(|missing| missing.damaged.clone()).unwrap_or_default().into_iter().chain(bases).collect()
    }

    /// Segments on the path that are damaged and may hold the locator's point.
    fn damaged_log(&self) -> Vec<String> {
        let may_hold = |range| {
            let info = SegmentInfo {
                range,
                boundary: range.end,
                epoch: 0,
                transactions: u32::MAX,
                times: None,
                ids: Some((0, u64::MAX)),
                holder: Holder::Segment(Codec::Lz4),
            };
            self.locator.is_none_or(|locator| locator.may_hold(&info))
        };
        let mut objects = Vec::new();
        for leg in self.path.legs() {
            let lost = self.catalog.timelines.get(&leg.timeline).into_iter().flat_map(TimelineLog::lost);
            let lost = lost.filter(|(range, _)| leg.range.intersection(*range).is_some() && may_hold(*range));
            objects.extend(lost.map(|(_, damaged)| damaged.object.clone()));
        }
        objects
    }

    /// There is log behind a gap, and no base backup to begin with there.
    pub(super) fn broken(&self, reach: &Reach<'_>, missing: &super::Missing) -> Refusal {
        let what = if missing.damaged.is_empty() {
            "there is log after a gap but no base backup"
        } else {
            "no base backup leads past damaged log"
        };
        let refusal = Refusal::new(Why::InGap, format!("{what}: {missing}"))
            .hint("take a new base backup with `pitr backup`")
            .damaged(missing.damaged.iter().cloned());
        refusal.nearest(reach.known.filter(|known| *known >= reach.base.ended), None)
    }

    /// No base backup gives this time.
    pub(super) fn no_time(&self, time: Timestamp) -> Refusal {
        let windows = window::of(&self.path, &self.reaches);
        let before = windows.iter().filter(|w| w.to < time).map(|w| w.to).max();
        let after = windows.iter().filter(|w| w.from > time).map(|w| w.from).min();
        let Some(first) = self.reaches.iter().filter(|reach| reach.usable()).map(|reach| reach.base.ended).min() else {
            return self.no_base();
        };
        let refusal = if windows.iter().any(|w| w.from <= time && time <= w.to) {
            Refusal::new(
                Why::ClockWentBack,
                format!("the first transaction after {time} lies before any base backup is consistent, for the source's clock went back there"),
            )
            .hint("find the place in the log (`pitr export`, then `pg_waldump` or the like) and give it as an exact position")
        } else if time > self.now {
            Refusal::new(Why::Future, format!("{time} is in the future: it is {} now", self.now)).hint(EVERYTHING)
        } else if time < first {
            Refusal::new(
                Why::BeforeFirstBase,
                format!(
                    "{time} is before the first base backup that leads to timeline {}, which ended at {first}",
                    self.path.leaf()
                ),
            )
        } else if let Some(missing) = windows.iter().rev().find(|w| w.to < time).and_then(|w| w.missing.as_ref()) {
            Refusal::new(Why::InGap, format!("{time} is in a gap: {missing}"))
        } else {
            let end = before.map_or_else(
                || "no time is known to be complete yet".to_owned(),
                |before| format!("its log is complete up to {before}"),
            );
            Refusal::new(Why::AfterEnd, format!("{time} is after the end of the archive: {end}")).hint(EVERYTHING)
        };
        let refusal = match refusal.why {
            Why::BeforeFirstBase | Why::InGap | Why::AfterEnd => refusal.damaged(self.damaged_before(time)),
            _ => refusal,
        };
        self.elsewhere(refusal.nearest(before, after), time)
    }

    /// The timelines that the path does not end on.
    fn others(&self) -> impl Iterator<Item = TimelineId> {
        self.catalog.timelines.keys().copied().filter(|id| *id != self.path.leaf())
    }

    /// Whether a timeline holds a time, in a window that ends behind an offset.
    fn holds(&self, id: TimelineId, time: Timestamp, behind: Offset) -> bool {
        let holds = |w: &window::Window| w.from <= time && time <= w.to && w.range.end > behind;
        super::windows(self.catalog, id).is_ok_and(|windows| windows.iter().any(holds))
    }

    /// Names other timelines that hold the time.
    fn elsewhere(&self, refusal: Refusal, time: Timestamp) -> Refusal {
        let holding = self.others().filter(|id| self.holds(*id, time, Offset::ZERO));
        holding.fold(refusal, |refusal, id| {
            refusal.hint(format!("timeline {id} holds that time: use `--target-timeline {id}`"))
        })
    }

    /// Where the timeline was not asked for and another one went on beside it, it is for a
    /// person to say which of the two is meant.
    pub(super) fn also_elsewhere(&self, cut: Offset) -> Vec<String> {
        let (Point::Time(time), None) = (&self.target.point, self.target.timeline) else { return Vec::new() };
        let went_on = |id: &TimelineId| {
            let parts = Path::to(self.catalog, Some(*id)).map(|path| self.path.parts_from(&path));
            parts.is_ok_and(|parts| parts <= cut && self.holds(*id, *time, parts))
        };
        self.others()
            .filter(went_on)
            .map(|id| format!("timeline {id} holds that time, too: `--target-timeline {id}` restores what is there"))
            .collect()
    }

    /// A cut is known, but no base backup leads there.
    pub(super) fn no_offset(&self, cut: Offset, what: &str) -> Refusal {
        let Some(first) = self.reaches.iter().find(|reach| reach.usable()) else { return self.no_base() };
        if cut < first.base.end {
            let lost = self.reaches.iter().filter(|reach| !reach.usable() && reach.base.end <= cut);
            let lost = lost.filter_map(|reach| reach.missing.as_ref()).flat_map(|missing| missing.damaged.clone());
            return Refusal::new(
                Why::BeforeFirstBase,
                format!("{what} lies at {cut}, before the first base backup is consistent, at {}", first.base.end),
            )
            .nearest(None, Some(first.base.ended))
            .damaged(lost.chain(self.damaged_bases(|id| id < first.base.id.as_str())));
        }
        let broken =
            self.reaches.iter().rev().filter(|reach| reach.base.end <= cut).find_map(|reach| reach.missing.as_ref());
        match broken {
            Some(missing) => {
                Refusal::new(Why::InGap, format!("{what} lies at {cut}, which no base backup reaches: {missing}"))
                    .damaged(missing.damaged.iter().cloned())
            }
            None => Refusal::new(Why::AfterEnd, format!("{what} lies at {cut}, after the end of the archive"))
                .hint(EVERYTHING),
        }
    }

    /// No restore point of that name is on the path.
    pub(super) fn no_name(&self, name: &str) -> Refusal {
        let points =
            || self.catalog.timelines.iter().flat_map(|(id, log)| log.restore_points.iter().map(move |p| (*id, p)));
        let leaf = self.path.leaf();
        let refusal = Refusal::new(
            Why::Unknown,
            format!("restore point {name:?} is not in the archive's log of timeline {leaf}"),
        )
        .damaged(self.damaged_log());
        if let Some((timeline, _)) = points().find(|(_, p)| p.name == name) {
            return refusal.hint(format!("timeline {timeline} holds one: use `--target-timeline {timeline}`"));
        }
        let mut newest: Vec<_> = points().map(|(_, p)| p).collect();
        newest.sort_by_key(|p| std::cmp::Reverse(p.time));
        match newest.as_slice() {
            [] => refusal.hint("the archive holds no restore point"),
            some => {
                let names: Vec<String> = some.iter().take(5).map(|p| format!("{:?} of {}", p.name, p.time)).collect();
                refusal.hint(format!("the newest restore points are {}", names.join(", ")))
            }
        }
    }

    /// The locator's point is not in any log that can be replayed.
    pub(super) fn no_native(&self, term: &str, value: &str) -> Refusal {
        if !self.reaches.iter().any(Reach::usable) {
            return self.no_base();
        }
        let windows = window::of(&self.path, &self.reaches);
        let refusal = Refusal::new(
            Why::Unknown,
            format!("{term} {value} is not in the log that can be restored on timeline {}", self.path.leaf()),
        )
        .damaged(self.damaged_log());
        let ranges: Vec<String> = windows.iter().map(|w| w.range.to_string()).collect();
        if ranges.is_empty() {
            refusal.hint(EVERYTHING)
        } else {
            refusal.hint(format!("that log is {}", ranges.join(", ")))
        }
    }

    /// What to say when a time takes in the whole log.
    pub(super) fn whole_log(&self, reach: &Reach<'_>, time: Timestamp) -> Vec<String> {
        match &reach.missing {
            Some(missing) if reach.certain > Some(time) || reach.latest < Some(time) => vec![format!(
                "no later transaction lies before the gap, and the log before it is complete up to that time: the cut is the end of that log: {missing}"
            )],
            Some(missing) => vec![format!(
                "{time} is the time of the last transaction before a gap; whether another one ended at that very moment is not known: {missing}"
            )],
            None => vec!["no later transaction is in the archive: the cut is the end of its log".to_owned()],
        }
    }

    /// A recorded gap that begins where the log ends, with nothing behind it yet.
    pub(super) fn gap_at_end(&self, reach: &Reach<'_>) -> Vec<String> {
        let log = self.catalog.timelines.get(&self.path.leaf());
        let gap = log.and_then(|log| log.gaps.iter().find(|gap| gap.range.end > reach.end));
        gap.map(|gap| format!("log {} is known to be missing: {}", gap.range, gap.cause)).into_iter().collect()
    }
}
