//! Cases that have a name, with the texts they give.

use super::*;
use crate::catalog::damage::Damaged;
use crate::catalog::layout::{Layout, ObjectName};

/// One timeline from 64 on, ten bytes a transaction, with these times; segments of
/// twenty bytes; a base backup over the first two.
fn line(times: &[i64], lost: &[usize]) -> World {
    let mut world = World::new();
    let marks: Vec<Mark> =
        (0_u64..).zip(times).map(|(n, &time)| transaction(64 + 10 * n, 74 + 10 * n, n + 1, time)).collect();
    let end = 64 + 10 * times.len() as u64;
    let ends: Vec<u64> = (1..).map(|n| 64 + 20 * n).take_while(|at| *at < end).chain([end]).collect();
    world.timeline(1, &[], marks, &ends, lost);
    world.base(1, 64, 84, 20);
    world
}

fn at(time: i64) -> Target {
    target(Point::Time(Timestamp(time)))
}

fn id(transaction: Option<&Transaction>) -> Option<u64> {
    match transaction?.id {
        TransactionId::Number(n) => Some(n),
        TransactionId::Text(_) => None,
    }
}

/// Cut, last transaction in, first one out.
fn cut(world: &World, target: &Target) -> (u64, Option<u64>, Option<u64>) {
    let plan = world.plan(target, None).unwrap();
    (plan.cut.0, id(plan.last_in.as_ref()), id(plan.first_out.as_ref()))
}

fn refusal(world: &World, target: &Target) -> (Why, String, String) {
    let refusal = world.plan(target, None).unwrap_err();
    let error = refusal.clone().into_error();
    assert_eq!(error.kind().exit_code(), 14);
    (refusal.why, error.message().to_owned(), error.advice().unwrap_or_default().to_owned())
}

#[test]
fn on_a_transaction_between_two_and_exclusive() {
    let world = line(&[10, 20, 30, 40, 50, 60], &[]);
    assert_eq!(cut(&world, &at(40)), (104, Some(4), Some(5)));
    assert_eq!(cut(&world, &at(45)), (104, Some(4), Some(5)));
    assert_eq!(cut(&world, &Target { inclusive: false, ..at(40) }), (94, Some(3), Some(4)));
    assert_eq!(cut(&world, &Target { inclusive: false, ..at(45) }), (104, Some(4), Some(5)));
}

#[test]
fn of_equal_times_all_are_in_or_all_are_out() {
    let world = line(&[10, 20, 30, 30, 30, 60], &[]);
    assert_eq!(cut(&world, &at(30)), (114, Some(5), Some(6)));
    assert_eq!(cut(&world, &Target { inclusive: false, ..at(30) }), (84, Some(2), Some(3)));
}

#[test]
fn where_the_clock_steps_back_log_order_decides() {
    let world = line(&[10, 20, 50, 40, 45, 60], &[]);
    assert_eq!(cut(&world, &at(45)), (84, Some(2), Some(3)), "40 and 45 come after 50, so they are out");
    assert_eq!(cut(&world, &at(50)), (114, Some(5), Some(6)));
}

#[test]
fn an_idle_database_restores_to_a_time_without_transactions() {
    let mut world = line(&[10, 20, 30], &[]);
    world.catalog.timelines.get_mut(&TimelineId(1)).unwrap().confirmed = Some(Timestamp(9000));
    let plan = world.plan(&at(8000), None).unwrap();
    assert_eq!((plan.cut, plan.more_follows, id(plan.last_in.as_ref())), (Offset(94), false, Some(3)));
    assert_eq!(plan.notes, ["no later transaction is in the archive: the cut is the end of its log"]);
}

#[test]
fn the_cut_may_lie_in_the_segment_before_the_one_that_tells() {
    let mut world = World::new();
    let marks = vec![transaction(64, 70, 1, 10), transaction(70, 76, 2, 20), transaction(76, 96, 4, 30)];
    world.timeline(1, &[], marks, &[80, 96], &[]);
    world.base(1, 64, 70, 10);
    let plan = world.plan(&at(25), None).unwrap();
    assert_eq!((plan.cut, id(plan.last_in.as_ref()), id(plan.first_out.as_ref())), (Offset(76), Some(2), Some(4)));
    assert_eq!(plan.log.len(), 2, "a server must see the record that is out, to stop before it");
}

#[test]
fn before_the_first_base_backup() {
    let world = line(&[10, 20, 30], &[]);
    assert_eq!(
        refusal(&world, &at(19)),
        (
            Why::BeforeFirstBase,
            "1970-01-01T00:00:00.000019Z is before the first base backup that leads to timeline 00000001, which ended at 1970-01-01T00:00:00.000020Z".into(),
            "the nearest recoverable time is 1970-01-01T00:00:00.000020Z".into()
        )
    );
}

#[test]
fn after_the_end_and_in_the_future() {
    let world = line(&[10, 20, 30], &[]);
    assert_eq!(
        refusal(&world, &at(31)),
        (
            Why::AfterEnd,
            "1970-01-01T00:00:00.000031Z is after the end of the archive: its log is complete up to 1970-01-01T00:00:00.000030Z".into(),
            "the nearest recoverable time is 1970-01-01T00:00:00.000030Z; use `--target latest` for everything the archive holds".into()
        )
    );
    let (why, message, _) = refusal(&world, &at(NOW.0 + 1));
    assert_eq!(why, Why::Future);
    assert_eq!(message, "1970-01-01T00:00:01.000001Z is in the future: it is 1970-01-01T00:00:01.000000Z now");
}

#[test]
fn in_a_gap_the_times_on_both_sides_are_named() {
    let mut world = line(&[10, 20, 30, 40, 50, 60, 70, 80], &[2]);
    world.base(1, 124, 134, 70);
    assert_eq!(
        refusal(&world, &at(55)),
        (
            Why::InGap,
            "1970-01-01T00:00:00.000055Z is in a gap: log 0000000000000068-000000000000007C of timeline 00000001 is missing (lost 2)".into(),
            "the nearest recoverable times are 1970-01-01T00:00:00.000040Z and 1970-01-01T00:00:00.000070Z".into()
        )
    );
    let before = world.plan(&at(40), None).unwrap();
    assert_eq!((before.base.id.as_str(), before.cut, before.more_follows), ("b0", Offset(104), false));
    assert!(before.notes[0].contains("is not known"), "{:?}", before.notes);
    assert_eq!(world.plan(&at(75), None).unwrap().base.id, "b1");
}

#[test]
fn latest_refuses_to_stop_at_a_gap_in_silence() {
    let mut world = line(&[10, 20, 30, 40, 50, 60, 70, 80], &[2]);
    assert_eq!(
        refusal(&world, &target(Point::Latest)),
        (
            Why::InGap,
            "there is log after a gap but no base backup: log 0000000000000068-000000000000007C of timeline 00000001 is missing (lost 2)".into(),
            "the nearest recoverable time is 1970-01-01T00:00:00.000040Z; take a new base backup with `pitr backup`".into()
        )
    );
    world.base(1, 124, 134, 70);
    assert_eq!(cut(&world, &target(Point::Latest)), (144, Some(8), None));
}

#[test]
fn a_base_backup_whose_log_has_not_arrived_gives_way_to_the_one_before() {
    let mut world = line(&[10, 20, 30, 40], &[]);
    world.base(1, 94, 120, 40);
    let plan = world.plan(&target(Point::Latest), None).unwrap();
    assert_eq!((plan.base.id.as_str(), plan.cut), ("b0", Offset(104)));
}

#[test]
fn after_a_failover_the_old_primarys_surplus_is_not_on_the_path() {
    let mut world = World::new();
    let shared = vec![transaction(64, 74, 1, 10), transaction(74, 84, 2, 20)];
    let surplus = transaction(84, 94, 4, 30);
    let promoted = [transaction(84, 100, 5, 40), transaction(100, 110, 7, 50)];
    world.timeline(1, &[], [shared.clone(), vec![surplus]].concat(), &[94], &[]);
    world.timeline(2, &[(1, 84)], [shared, promoted.to_vec()].concat(), &[110], &[]);
    world.base(1, 64, 74, 10);
    let plan = world.plan(&at(35), None).unwrap();
    assert_eq!((plan.timeline, plan.cut, id(plan.last_in.as_ref())), (TimelineId(1), Offset(84), Some(2)));
    let parts: Vec<_> = plan.log.iter().map(|s| (s.timeline.0, s.range.start.0, s.range.end.0)).collect();
    assert_eq!(parts, [(1, 64, 84), (2, 84, 110)]);
    // The surplus is reached by asking for its timeline.
    let first = Target { timeline: Some(TimelineId(1)), ..at(30) };
    assert_eq!(cut(&world, &first), (94, Some(4), None));
    let (_, _, hint) = refusal(&world, &Target { timeline: Some(TimelineId(1)), ..at(45) });
    assert!(hint.contains("timeline 00000002 holds that time: use `--target-timeline 00000002`"), "{hint}");
    let (why, message, _) = refusal(&world, &Target { timeline: Some(TimelineId(9)), ..at(30) });
    assert_eq!((why, message.as_str()), (Why::Unknown, "timeline 00000009 is not in the archive"));
}

/// The new timeline has no byte before the switch: who replays up to a cut that lies
/// before it replays the old one.
#[test]
fn replay_ends_on_the_timeline_that_holds_the_cut() {
    let mut world = World::new();
    let shared: Vec<Mark> = (0..6).map(|n| transaction(64 + 10 * n, 74 + 10 * n, n + 1, 10 * (n as i64 + 1))).collect();
    let promoted = [transaction(124, 140, 8, 80), transaction(140, 150, 9, 90)];
    world.timeline(1, &[], shared.clone(), &[84, 104, 124], &[]);
    world.timeline(2, &[(1, 124)], [shared, promoted.to_vec()].concat(), &[140, 150], &[]);
    world.base(1, 64, 74, 10);
    let on = |time| {
        let plan = world.plan(&at(time), None).unwrap();
        (plan.timeline.0, plan.cut.0, id(plan.first_out.as_ref()))
    };
    assert_eq!(on(25), (1, 84, Some(3)), "in a segment before the switch's");
    assert_eq!(on(55), (1, 114, Some(6)), "in the switch's own segment");
    assert_eq!(on(75), (1, 124, Some(8)), "at the switch");
    assert_eq!(on(85), (2, 140, Some(9)), "behind it");
    assert_eq!(world.plan(&target(Point::Latest), None).unwrap().timeline, TimelineId(2));
}

#[test]
fn a_name_used_twice_means_the_newest_and_says_so() {
    let point = |start, time| Mark {
        start: Offset(start),
        end: Offset(start + 10),
        kind: MarkKind::RestorePoint { name: "release".into(), time: Timestamp(time) },
    };
    let mut world = World::new();
    let marks = vec![transaction(64, 74, 1, 10), point(74, 11), transaction(84, 94, 2, 20), point(94, 21)];
    world.timeline(1, &[], marks, &[104], &[]);
    world.base(1, 64, 74, 10);
    let plan = world.plan(&target(Point::Name("release".into())), None).unwrap();
    assert_eq!((plan.cut, id(plan.last_in.as_ref())), (Offset(104), Some(2)));
    assert_eq!(
        plan.notes,
        [
            "several restore points are called \"release\"; this is the newest, of 1970-01-01T00:00:00.000021Z; the one before is of 1970-01-01T00:00:00.000011Z"
        ]
    );
    let (why, message, hint) = refusal(&world, &target(Point::Name("relese".into())));
    assert_eq!(why, Why::Unknown);
    assert_eq!(message, "restore point \"relese\" is not in the archive's log of timeline 00000001");
    assert!(hint.starts_with("the newest restore points are \"release\" of 1970"), "{hint}");
}

#[test]
fn without_log_or_base_backup_nothing_can_be_restored() {
    let empty = World::new();
    assert_eq!(refusal(&empty, &target(Point::Latest)).1, "the archive holds no log");
    let mut world = line(&[10, 20], &[]);
    world.catalog.bases.clear();
    let (why, message, hint) = refusal(&world, &target(Point::Latest));
    assert_eq!((why, message.as_str()), (Why::NoBase, "no base backup leads to timeline 00000001"));
    assert_eq!(hint, "take one with `pitr backup`");
}

#[test]
fn windows_are_broken_where_the_log_is() {
    let mut world = line(&[10, 20, 30, 40, 50, 60, 70, 80], &[2]);
    world.base(1, 124, 134, 70);
    world.catalog.timelines.get_mut(&TimelineId(1)).unwrap().confirmed = Some(Timestamp(99));
    let windows = windows(&world.catalog, TimelineId(1)).unwrap();
    let times: Vec<_> = windows.iter().map(|w| (w.base.as_str(), w.from.0, w.to.0)).collect();
    assert_eq!(times, [("b0", 20, 40), ("b1", 70, 99)]);
    assert_eq!(windows[0].missing.as_ref().unwrap().cause.as_deref(), Some("lost 2"));
    assert_eq!(windows[1].missing, None);
}

/// However long the log, what is read is one segment at a time.
#[test]
fn a_long_log_is_planned_by_reading_one_segment() {
    let times: Vec<i64> = (1..=2000).map(|n| n * 10).collect();
    let world = line(&times, &[]);
    let asked = at(15_005);
    let planner = Planner::new(&world.catalog, &asked, None, NOW).unwrap();
    let narrowed = planner.narrow().unwrap();
    let read = narrowed.read.clone().unwrap();
    assert_eq!(read.range.len(), 20);
    let marks: Vec<Mark> = world.marks[&TimelineId(1)]
        .iter()
        .filter(|m| read.range.start <= m.start && m.end <= read.range.end)
        .cloned()
        .collect();
    let Step::Read(second) = planner.settle(narrowed, &marks).unwrap() else {
        panic!("the last transaction in ends in the segment before");
    };
    assert_eq!(second.read.unwrap().range.end, read.range.start);
}

/// The world of [`line`] without segment `index`, which is damaged.
fn damaged_line(times: &[i64], index: usize) -> World {
    let mut world = line(times, &[index]);
    let timeline = TimelineId(1);
    let log = world.catalog.timelines.get_mut(&timeline).unwrap();
    let range = log.gaps.pop().unwrap().range;
    let is = ObjectName::Segment { timeline, range, epoch: 1, codec: Codec::Lz4 };
    log.damaged.push(damaged(is));
    world
}

fn damaged(is: ObjectName) -> Damaged {
    Damaged::new(&Layout::new("main".parse().unwrap()), is, crate::Error::corruption("rubbish")).unwrap()
}

/// The objects a refusal for damage names.
fn blamed(world: &World, target: &Target, locator: Option<&dyn Locator>) -> Vec<String> {
    let refusal = world.plan(target, locator).unwrap_err();
    let error = refusal.clone().into_error();
    assert_eq!(error.kind().exit_code(), if refusal.damaged.is_empty() { 14 } else { 13 }, "{error}");
    assert!(refusal.damaged.iter().all(|object| error.message().contains(object)), "{error}");
    refusal.damaged
}

#[test]
fn what_needs_a_damaged_segment_is_refused_by_its_name_and_what_does_not_goes_on() {
    let mut world = damaged_line(&[10, 20, 30, 40, 50, 60, 70, 80], 2);
    let object = "main/log/00000001/0000000000000068-000000000000007C-00000001.lz4".to_owned();
    assert_eq!(cut(&world, &at(30)), (94, Some(3), Some(4)));
    for target in [at(50), at(75), target(Point::Latest)] {
        assert_eq!(blamed(&world, &target, None), std::slice::from_ref(&object), "{target:?}");
    }
    let native = |xid: u64| target(Point::Native { term: "xid", value: xid.to_string() });
    assert_eq!(blamed(&world, &native(5), Some(&Xid(5))), std::slice::from_ref(&object));
    assert_eq!(blamed(&world, &target(Point::Name("unknown".into())), None), std::slice::from_ref(&object));
    // A base behind it needs none of it.
    world.base(1, 124, 134, 70);
    assert_eq!(cut(&world, &target(Point::Latest)), (144, Some(8), None));
    assert_eq!(cut(&world, &at(75)), (134, Some(7), Some(8)));
    assert_eq!(blamed(&world, &at(60), None), [object]);
    assert!(windows(&world.catalog, TimelineId(1)).unwrap()[0].missing.is_some());
}

#[test]
fn a_damaged_last_segment_is_not_the_end_of_the_archive() {
    let world = damaged_line(&[10, 20, 30, 40, 50, 60], 2);
    assert_eq!(cut(&world, &at(30)), (94, Some(3), Some(4)));
    for target in [target(Point::Latest), at(50)] {
        assert_eq!(blamed(&world, &target, None).len(), 1, "{target:?}");
    }
}

#[test]
fn a_damaged_base_is_blamed_only_for_what_it_might_have_given_back() {
    let mut world = line(&[10, 20, 30, 40, 50, 60], &[]);
    world.catalog.bases[0].id = "19700101T000000Z-bbbb".into();
    let object = damaged(ObjectName::BaseManifest("19700101T000000Z-aaaa".into()));
    world.catalog.damaged_bases.push(object.clone());
    assert_eq!(cut(&world, &target(Point::Latest)), (124, Some(6), None));
    assert_eq!(blamed(&world, &at(10), None), std::slice::from_ref(&object.object));
    assert!(blamed(&world, &at(2_000_000), None).is_empty());
    world.catalog.bases.clear();
    assert_eq!(blamed(&world, &target(Point::Latest), None), [object.object]);
}
