//! Thousands of generated worlds, each asked for many targets.

use super::*;

/// Bytes that decide; runs on zeros when used up, so that a shorter list is a
/// simpler world.
struct Dice<'a>(&'a [u8]);

impl Dice<'_> {
    fn roll(&mut self, sides: u64) -> u64 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        u64::from(*first) % sides
    }
}

struct Maker<'a> {
    dice: Dice<'a>,
    clock: i64,
    next_id: u64,
}

impl Maker<'_> {
    /// Records from `start` on until about `until`.
    fn records(&mut self, start: u64, until: u64) -> Vec<Mark> {
        let (mut marks, mut at) = (Vec::new(), start);
        while at < until {
            let end = at + 1 + self.dice.roll(9) * if self.dice.roll(8) == 0 { 9 } else { 1 };
            // The clock mostly goes forward, stands still, or steps back.
            self.clock += match self.dice.roll(8) {
                0 | 1 => 0,
                2 => -(self.dice.roll(12) as i64),
                _ => self.dice.roll(6) as i64,
            };
            marks.push(match self.dice.roll(6) {
                0 | 1 => Mark { start: Offset(at), end: Offset(end), kind: MarkKind::Record },
                2 if self.dice.roll(4) == 0 => Mark {
                    start: Offset(at),
                    end: Offset(end),
                    kind: MarkKind::RestorePoint {
                        name: format!("p{}", self.dice.roll(3)),
                        time: Timestamp(self.clock),
                    },
                },
                _ => {
                    self.next_id += 1;
                    // Transactions end in another order than that of their ids.
                    transaction(at, end, self.next_id ^ 1, self.clock)
                }
            });
            at = end;
        }
        marks
    }

    fn segments(&mut self, start: u64, end: u64) -> (Vec<u64>, Vec<usize>) {
        let (mut ends, mut at) = (Vec::new(), start);
        while at < end {
            let room = FILE - at % FILE;
            at = (at + 1 + self.dice.roll(room)).min(end);
            ends.push(at);
        }
        let lost = (0..ends.len()).filter(|_| self.dice.roll(12) == 1).collect();
        (ends, lost)
    }

    fn bases(&mut self, world: &mut World, timeline: u32, clocks: &[Mark]) {
        for _ in 0..self.dice.roll(4) {
            let (a, b) = (self.dice.roll(clocks.len() as u64) as usize, self.dice.roll(5) as usize);
            let (first, last) = (&clocks[a], &clocks[(a + b).min(clocks.len() - 1)]);
            // Mostly the clock of the moment; now and then one that is off.
            let near = clocks[..=(a + b).min(clocks.len() - 1)].iter().rev().find_map(Mark::transaction);
            let clock = near.map_or(100, |t| t.time.0);
            let ended = clock + if self.dice.roll(4) == 0 { self.dice.roll(20) as i64 - 10 } else { 0 };
            world.base(timeline, first.start.0, last.end.0, ended);
        }
    }
}

fn world(bytes: &[u8]) -> World {
    let mut maker = Maker { dice: Dice(bytes), clock: 100, next_id: 100 };
    let mut world = World::new();
    let mut parents: Vec<(u32, u64)> = Vec::new();
    let mut inherited: Vec<Mark> = Vec::new();
    for id in 1..=1 + maker.dice.roll(3) as u32 {
        let start = inherited.last().map_or(FILE, |m| m.end.0);
        let until = start + 20 + maker.dice.roll(200);
        let mut marks: Vec<Mark> = inherited.iter().filter(|m| m.start.0 >= start / FILE * FILE).cloned().collect();
        marks.extend(maker.records(start, until));
        let begin = if id == 1 { FILE } else { marks[0].start.0 / FILE * FILE };
        // The archive may end inside a record.
        let end = marks.last().unwrap().end.0 - maker.dice.roll(3);
        let (ends, lost) = maker.segments(begin, end);
        let own: Vec<Mark> = marks.iter().filter(|m| m.start.0 >= start).cloned().collect();
        world.timeline(id, &parents, marks.clone(), &ends, &lost);
        maker.bases(&mut world, id, &own);
        // Some gaps say up to when the log before them was known to be complete.
        for gap in &mut world.catalog.timelines.get_mut(&TimelineId(id)).unwrap().gaps {
            let before = marks.iter().filter(|m| m.end <= gap.range.start).filter_map(Mark::transaction);
            let (known, late) = (before.map(|t| t.time.0).max().unwrap_or(100), maker.dice.roll(8) as i64);
            gap.confirmed = (maker.dice.roll(2) == 0).then_some(Timestamp(known + late));
        }
        if maker.dice.roll(2) == 0 {
            let last = own.iter().filter_map(Mark::transaction).map(|t| t.time.0).max().unwrap_or(100);
            let confirmed = Timestamp(last + maker.dice.roll(8) as i64);
            world.catalog.timelines.get_mut(&TimelineId(id)).unwrap().confirmed = Some(confirmed);
        }
        // The next timeline leaves here or a little before the end.
        let leave = own.len() - (maker.dice.roll(6) as usize).min(own.len() - 1);
        inherited.extend(own.into_iter().take(leave));
        parents.push((id, inherited.last().unwrap().end.0));
    }
    world
}

/// What a server would do, one record after the other.
struct Oracle<'a> {
    world: &'a World,
    leaf: TimelineId,
    marks: Vec<Mark>,
    held: Vec<bool>,
}

#[derive(Debug, PartialEq)]
struct Answer {
    base: String,
    cut: Offset,
    more_follows: bool,
    last_in: Option<Transaction>,
    first_out: Option<Transaction>,
}

impl<'a> Oracle<'a> {
    fn new(world: &'a World, leaf: TimelineId) -> Self {
        let history = world.catalog.timelines[&leaf].history.clone();
        let mut legs = Vec::new();
        let mut from = Offset::ZERO;
        for ancestor in history.map(|h| h.ancestors).unwrap_or_default() {
            legs.push((ancestor.timeline, from, ancestor.switch));
            from = ancestor.switch;
        }
        legs.push((leaf, from, Offset(u64::MAX)));
        let (mut marks, mut held) = (Vec::new(), vec![false; 4000]);
        for (timeline, from, to) in legs {
            marks.extend(world.marks[&timeline].iter().filter(|m| from <= m.start && m.end <= to).cloned());
            for segment in &world.catalog.timelines[&timeline].segments {
                for at in segment.range.start.0..segment.range.end.0 {
                    held[at as usize] |= from.0 <= at && at < to.0;
                }
            }
        }
        Self { world, leaf, marks, held }
    }

    fn on_path(&self, base: &BaseInfo) -> bool {
        if base.timeline == self.leaf {
            return true;
        }
        let history = self.world.catalog.timelines[&self.leaf].history.as_ref();
        history.is_some_and(|h| h.ancestors.iter().any(|a| a.timeline == base.timeline && base.end <= a.switch))
    }

    /// Base backups that can be made consistent, newest first, with the end of their
    /// log and of its last whole record.
    fn bases(&self) -> Vec<(&'a BaseInfo, u64, Offset)> {
        let mut bases: Vec<_> = self.world.catalog.bases.iter().filter(|b| self.on_path(b)).collect();
        bases.sort_by_key(|b| (b.start, b.end));
        let mut out = Vec::new();
        for base in bases.into_iter().rev() {
            let end = (base.start.0..).find(|at| !self.held[*at as usize]).unwrap();
            let boundary = self.marks.iter().map(|m| m.end).filter(|e| e.0 <= end).max().unwrap_or(Offset::ZERO);
            if boundary >= base.end {
                out.push((base, end, boundary));
            }
        }
        out
    }

    fn replayed(&self, base: &BaseInfo, end: u64) -> impl Iterator<Item = &Mark> {
        self.marks.iter().filter(move |m| base.start <= m.start && m.end.0 <= end)
    }

    fn answer(&self, (base, end, boundary): (&BaseInfo, u64, Offset), cut: Offset) -> Answer {
        Answer {
            base: base.id.clone(),
            cut,
            more_follows: boundary > cut,
            last_in: self.replayed(base, end).filter(|m| m.end <= cut).filter_map(Mark::transaction).last(),
            first_out: self.replayed(base, end).filter(|m| m.start >= cut).find_map(Mark::transaction),
        }
    }

    fn log_behind(&self, end: u64) -> bool {
        self.held[end as usize..].contains(&true)
    }

    fn known(&self, base: &BaseInfo, end: u64) -> Option<Timestamp> {
        let latest = self.replayed(base, end).filter_map(Mark::transaction).map(|t| t.time).max();
        let log = &self.world.catalog.timelines[&self.leaf];
        // What a child repeats of its parent's log is not yet its own.
        let switch = log.history.as_ref().and_then(|h| h.ancestors.last()).map_or(Offset::ZERO, |a| a.switch);
        let leaf_ends = end > switch.0 && log.segments.last().is_some_and(|s| s.range.end.0 == end);
        let at_end = log.confirmed.filter(|_| leaf_ends && !self.log_behind(end));
        // A gap speaks for the timeline whose log it ends.
        let timelines = &self.world.catalog.timelines;
        let gaps = timelines[&self.speaker(Offset(end - 1))].gaps.iter().filter(|gap| gap.range.start.0 == end);
        let before_gap = gaps.filter_map(|gap| gap.confirmed).max().filter(|_| self.log_behind(end));
        latest.max(at_end).max(before_gap)
    }

    /// The timeline of a byte on the path.
    fn speaker(&self, byte: Offset) -> TimelineId {
        let history = self.world.catalog.timelines[&self.leaf].history.as_ref();
        let ancestor = history.and_then(|h| h.ancestors.iter().find(|a| byte < a.switch));
        ancestor.map_or(self.leaf, |a| a.timeline)
    }

    /// Whether the clock went back around a base backup that would otherwise give this
    /// time: a transaction that ended before it was consistent, and of which a segment
    /// speaks that goes on behind its start, says that time or a later one.
    fn clock_went_back(&self, time: Timestamp) -> bool {
        let history = self.world.catalog.timelines[&self.leaf].history.as_ref();
        let ancestors = history.map(|h| h.ancestors.as_slice()).unwrap_or_default();
        let path: Vec<TimelineId> = ancestors.iter().map(|a| a.timeline).chain([self.leaf]).collect();
        self.bases().into_iter().filter(|(base, ..)| base.ended <= time).any(|(base, ..)| {
            let segments = path.iter().flat_map(|id| &self.world.catalog.timelines[id].segments);
            let first = segments.filter(|s| s.range.end > base.start).map(|s| s.range.start).min().unwrap();
            let around = self.marks.iter().filter(|m| m.end > first && m.start < base.end);
            around.filter_map(Mark::transaction).any(|t| t.time >= time)
        })
    }

    fn time(&self, time: Timestamp, inclusive: bool) -> Option<Answer> {
        self.bases().into_iter().filter(|(base, ..)| base.ended <= time).find_map(|found| {
            let (base, end, boundary) = found;
            let late = |t: &Transaction| if inclusive { t.time > time } else { t.time >= time };
            let cut = match self.replayed(base, end).filter_map(Mark::transaction).find(late) {
                Some(t) if t.start >= base.end => t.start,
                Some(_) => return None,
                None if self.known(base, end) >= Some(time) => boundary,
                None => return None,
            };
            Some(self.answer(found, cut))
        })
    }

    fn latest(&self) -> Option<Answer> {
        let newest = *self.bases().first()?;
        (!self.log_behind(newest.1)).then(|| self.answer(newest, newest.2))
    }

    fn at(&self, cut: Offset) -> Option<Answer> {
        let found = self.bases().into_iter().find(|(base, _, boundary)| base.end <= cut && cut <= *boundary)?;
        Some(self.answer(found, cut))
    }

    fn name(&self, name: &str) -> Option<Answer> {
        let named = |m: &&Mark| matches!(&m.kind, MarkKind::RestorePoint { name: n, .. } if n == name);
        let held = |m: &&Mark| self.held[m.end.0 as usize - 1];
        self.at(self.marks.iter().rfind(|m| named(m) && held(m))?.end)
    }

    fn native(&self, locator: &dyn Locator, inclusive: bool) -> Option<Answer> {
        let mut bases = self.bases();
        bases.reverse();
        let mark = bases.iter().find_map(|(base, end, _)| self.replayed(base, *end).find(|m| locator.is(m)))?;
        self.at(if inclusive { mark.end } else { mark.start })
    }
}

fn short(plan: Result<Plan, Refusal>) -> Result<Answer, Refusal> {
    plan.map(|plan| Answer {
        base: plan.base.id,
        cut: plan.cut,
        more_follows: plan.more_follows,
        last_in: plan.last_in,
        first_out: plan.first_out,
    })
}

fn agree(asked: &Target, planned: Result<Plan, Refusal>, expected: Option<Answer>) -> Result<(), TestCaseError> {
    match (short(planned), expected) {
        (Ok(plan), Some(expected)) => prop_assert_eq!(plan, expected, "{:?}", asked),
        (Err(_), None) => {}
        (planned, expected) => prop_assert!(false, "{:?}: planned {:?}, expected {:?}", asked, planned, expected),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_is_what_replaying_everything_gives(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        let world = world(&bytes);
        for (&leaf, log) in &world.catalog.timelines {
            let oracle = Oracle::new(&world, leaf);
            let asked = |point, inclusive| Target { point, inclusive, timeline: Some(leaf) };

            let latest = asked(Point::Latest, true);
            agree(&latest, world.plan(&latest, None), oracle.latest())?;
            for name in ["p0", "p1", "p2"] {
                let name_target = asked(Point::Name(name.into()), true);
                agree(&name_target, world.plan(&name_target, None), oracle.name(name))?;
            }

            let marks: Vec<Transaction> = world.marks[&leaf].iter().filter_map(Mark::transaction).collect();
            let times = marks.iter().map(|t| t.time).chain(log.confirmed).chain(world.catalog.bases.iter().map(|b| b.ended));
            for time in times.flat_map(|t| [t.saturating_add(-1), t, t.saturating_add(1)]) {
                for inclusive in [true, false] {
                    let time_target = asked(Point::Time(time), inclusive);
                    agree(&time_target, world.plan(&time_target, None), oracle.time(time, inclusive))?;
                }
            }
            for t in &marks {
                for inclusive in [true, false] {
                    let TransactionId::Number(id) = t.id else { unreachable!() };
                    let native = asked(Point::Native { term: "xid", value: id.to_string() }, inclusive);
                    agree(&native, world.plan(&native, Some(&Xid(id))), oracle.native(&Xid(id), inclusive))?;
                }
            }
            // Any record may be the one that is asked for.
            for mark in &world.marks[&leaf] {
                for inclusive in [true, false] {
                    let (native, lsn) = (Point::Native { term: "lsn", value: mark.start.to_string() }, Lsn(mark.start.0));
                    let native = asked(native, inclusive);
                    agree(&native, world.plan(&native, Some(&lsn)), oracle.native(&lsn, inclusive))?;
                }
            }
        }
    }

    /// I2: what `list` shows, restores. The one reservation is a clock that goes back
    /// around a base backup, and the refusal then says so.
    #[test]
    fn every_time_in_a_window_has_a_plan(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        let world = world(&bytes);
        for &leaf in world.catalog.timelines.keys() {
            for window in windows(&world.catalog, leaf).unwrap() {
                for time in (window.from.0..=window.to.0).map(Timestamp) {
                    let asked = Target { point: Point::Time(time), inclusive: true, timeline: Some(leaf) };
                    match world.plan(&asked, None) {
                        Ok(_) => {}
                        Err(refusal) => {
                            prop_assert_eq!(refusal.why, Why::ClockWentBack, "{} in {:?}", time, window);
                            prop_assert!(Oracle::new(&world, leaf).clock_went_back(time), "{} in {:?}", time, window);
                        }
                    }
                }
            }
        }
    }

    /// And `list` shows all of it, where no switch hides what a segment's summary says.
    #[test]
    fn every_time_with_a_plan_is_in_a_window(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        let world = world(&bytes);
        let leaf = TimelineId(1);
        let (oracle, windows) = (Oracle::new(&world, leaf), windows(&world.catalog, leaf).unwrap());
        for window in &windows {
            prop_assert!(window.from <= window.to && window.range.start <= window.range.end, "{:?}", window);
            let base = world.catalog.bases.iter().find(|base| base.id == window.base).unwrap();
            prop_assert_eq!(window.range.start, base.end);
            let reached = oracle.bases().into_iter().find(|(usable, ..)| usable.id == base.id);
            prop_assert_eq!(reached.map(|(_, _, boundary)| boundary), Some(window.range.end));
            prop_assert_eq!(window.missing.is_some(), oracle.log_behind(reached.unwrap().1), "{:?}", window);
        }
        for time in (80..250).map(Timestamp) {
            let shown = windows.iter().any(|w| w.from <= time && time <= w.to);
            prop_assert!(shown || oracle.time(time, true).is_none(), "{} is in none of {:?}", time, windows);
        }
    }

    /// The nearest times of a refusal are themselves recoverable.
    #[test]
    fn the_nearest_times_of_a_refusal_have_plans(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        let world = world(&bytes);
        for time in (80..250).map(Timestamp) {
            let Err(refusal) = world.plan(&target(Point::Time(time)), None) else { continue };
            prop_assert!(refusal.nearest_before.is_none_or(|before| before < time), "{:?}", refusal);
            prop_assert!(refusal.nearest_after.is_none_or(|after| after > time), "{:?}", refusal);
            for near in [refusal.nearest_before, refusal.nearest_after].into_iter().flatten() {
                match world.plan(&target(Point::Time(near)), None) {
                    Ok(_) => {}
                    Err(other) => prop_assert_eq!(other.why, Why::ClockWentBack, "{} for {}", near, time),
                }
            }
        }
    }
}
