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

/// Between the last transaction and the gap, up to where the log is known to be complete.
#[test]
fn after_the_last_transaction_before_a_gap_nothing_is_in_doubt() {
    let mut world = line(&[10, 20, 30, 40, 50, 60, 70, 80], &[2]);
    world.catalog.timelines.get_mut(&TimelineId(1)).unwrap().gaps[0].confirmed = Some(Timestamp(45));
    for time in [42, 45] {
        let plan = world.plan(&at(time), None).unwrap();
        assert_eq!((plan.cut, id(plan.last_in.as_ref())), (Offset(104), Some(4)));
        assert_eq!(
            plan.notes,
            [
                "no later transaction lies before the gap, and the log before it is complete up to that time: the cut is the end of that log: log 0000000000000068-000000000000007C of timeline 00000001 is missing (lost 2)"
            ]
        );
    }
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

/// Both went on after they parted: a person has to say which is meant.
#[test]
fn a_time_that_two_timelines_hold_is_noted() {
    let mut world = World::new();
    let shared = vec![transaction(64, 74, 1, 10), transaction(74, 84, 2, 20)];
    let went_on = [transaction(84, 94, 3, 30), transaction(94, 104, 4, 40)];
    let promoted = [transaction(84, 100, 5, 30), transaction(100, 110, 6, 50)];
    world.timeline(1, &[], [shared.clone(), went_on.to_vec()].concat(), &[104], &[]);
    world.timeline(2, &[(1, 84)], [shared, promoted.to_vec()].concat(), &[110], &[]);
    world.base(1, 64, 74, 10);
    let notes = |target: Target| world.plan(&target, None).unwrap().notes.join("; ");
    assert!(notes(at(35)).contains("timeline 00000001 holds that time, too: `--target-timeline 00000001`"));
    // Asked for, before they parted, and when the other one was gone.
    assert_eq!(notes(Target { timeline: Some(TimelineId(2)), ..at(35) }), "");
    assert_eq!(notes(at(15)), "");
    assert!(!notes(at(50)).contains("timeline"), "{}", notes(at(50)));
}

/// It may be that of a restored copy.
#[test]
fn a_timeline_from_nowhere_is_not_taken_for_the_newest() {
    let mut world = line(&[10, 20, 30, 40], &[]);
    world.timeline(2, &[], vec![transaction(128, 140, 9, 35)], &[140], &[]);
    assert_eq!(cut(&world, &at(30)), (94, Some(3), Some(4)));
    assert_eq!(world.plan(&target(Point::Latest), None).unwrap().timeline, TimelineId(1));
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
    world.timeline(1, &[], [vec![point(54, 1)], marks].concat(), &[104], &[]);
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

#[test]
fn base_backups_of_one_stretch_are_one_window() {
    let mut world = line(&[10, 20, 30, 40, 50, 60], &[]);
    world.base(1, 104, 114, 50);
    world.base(1, 94, 104, 15);
    let found = windows(&world.catalog, TimelineId(1)).unwrap();
    let [window] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((window.base.as_str(), window.from.0, window.to.0), ("b0", 15, 60));
    assert_eq!(window.range, OffsetRange::new(Offset(84), Offset(124)));
}

#[test]
fn times_that_a_clock_put_back_leaves_apart_are_two_windows() {
    let mut world = line(&[10, 50, 60, 20, 25, 30], &[]);
    world.catalog.bases[0].ended = Timestamp(55);
    world.base(1, 104, 114, 26);
    let windows = windows(&world.catalog, TimelineId(1)).unwrap();
    let times: Vec<_> = windows.iter().map(|w| (w.base.as_str(), w.from.0, w.to.0)).collect();
    assert_eq!(times, [("b0", 55, 60), ("b1", 26, 30)]);
}

#[test]
fn a_gap_tells_up_to_when_the_log_before_it_was_complete() {
    let mut world = line(&[10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120], &[2, 4]);
    let gaps = &mut world.catalog.timelines.get_mut(&TimelineId(1)).unwrap().gaps;
    (gaps[0].confirmed, gaps[1].confirmed) = (Some(Timestamp(45)), Some(Timestamp(85)));
    assert_eq!(cut(&world, &at(44)), (104, Some(4), None));
    assert_eq!(refusal(&world, &at(46)).0, Why::InGap);
    assert_eq!(windows(&world.catalog, TimelineId(1)).unwrap()[0].to, Timestamp(45));
}

/// The timeline, and the cause of this gap, not of another one.
#[test]
fn missing_log_is_named_by_the_timeline_that_would_hold_it() {
    let mut world = World::new();
    let shared: Vec<Mark> = (0..6).map(|n| transaction(64 + 10 * n, 74 + 10 * n, n + 1, 10 * (n as i64 + 1))).collect();
    let promoted = [transaction(124, 140, 8, 80), transaction(140, 150, 9, 90)];
    world.timeline(1, &[], shared.clone(), &[84, 104, 124], &[1, 2]);
    world.timeline(2, &[(1, 124)], [shared, promoted.to_vec()].concat(), &[140, 150], &[0]);
    world.base(1, 64, 74, 10);
    let older = Gap {
        range: OffsetRange::new(Offset(10), Offset(20)),
        cause: "older".into(),
        found: NOW,
        confirmed: None,
        position: None,
    };
    world.catalog.timelines.get_mut(&TimelineId(1)).unwrap().gaps.insert(0, older);
    assert_eq!(
        refusal(&world, &target(Point::Latest)).1,
        "there is log after a gap but no base backup: log 0000000000000054-000000000000007C of timeline 00000001 is missing (lost 1)"
    );
}

#[test]
fn a_base_backup_alone_in_a_gap_or_at_the_end_cannot_be_used() {
    let mut world = line(&[10, 20, 30, 40, 50, 60], &[1]);
    world.catalog.bases.clear();
    world.base(1, 94, 114, 50);
    let (why, message, hint) = refusal(&world, &target(Point::Latest));
    assert_eq!(why, Why::NoBase);
    assert_eq!(
        message,
        "base backup b0 needs the log up to 0000000000000072, but log 000000000000005E-0000000000000068 of timeline 00000001 is missing (lost 1)"
    );
    assert_eq!(hint, "take a new base backup with `pitr backup`");

    let mut world = line(&[10, 20, 30, 40], &[]);
    world.catalog.bases.clear();
    world.base(1, 94, 120, 40);
    for point in [Point::Latest, Point::Time(Timestamp(40)), Point::Native { term: "xid", value: "1".into() }] {
        let refusal = world.plan(&target(point), Some(&Xid(1))).unwrap_err();
        assert_eq!(
            (refusal.why, refusal.message.as_str()),
            (
                Why::NoBase,
                "base backup b0 needs the log up to 0000000000000078, and the archive ends at 0000000000000068"
            )
        );
    }
}

#[test]
fn a_base_backup_is_restorable_when_its_own_timeline_has_its_log() {
    let mut world = World::new();
    let shared = vec![transaction(64, 74, 1, 10), transaction(74, 84, 2, 20)];
    let promoted = [transaction(84, 100, 5, 40), transaction(100, 110, 7, 50)];
    world.timeline(1, &[], [shared.clone(), vec![transaction(84, 94, 4, 30)]].concat(), &[94], &[]);
    world.timeline(2, &[(1, 84)], [shared, promoted.to_vec()].concat(), &[110], &[]);
    world.base(1, 84, 94, 30);
    world.base(2, 84, 100, 40);
    world.base(2, 100, 120, 60);
    let restorable: Vec<bool> = ["b0", "b1", "b2", "b9"].map(|id| restorable(&world.catalog, id)).to_vec();
    assert_eq!(restorable, [true, true, false, false], "of b2 the log has not arrived, b9 is none");
}

#[test]
fn a_timeline_of_which_only_the_history_is_kept_is_not_the_newest() {
    let mut world = line(&[10, 20, 30], &[]);
    let ancestors = vec![Ancestor { timeline: TimelineId(1), switch: Offset(84) }];
    let history = History { timeline: TimelineId(2), ancestors, native: String::new() };
    let log = TimelineLog { history: Some(history), ..TimelineLog::default() };
    world.catalog.timelines.insert(TimelineId(2), log);
    assert_eq!(cut(&world, &target(Point::Latest)), (94, Some(3), None));
}

/// The child's first file repeats it.
#[test]
fn a_restore_point_at_the_switch_is_one() {
    let point = Mark {
        start: Offset(74),
        end: Offset(84),
        kind: MarkKind::RestorePoint { name: "promoted".into(), time: Timestamp(15) },
    };
    let shared = vec![transaction(64, 74, 1, 10), point];
    let mut world = World::new();
    world.timeline(1, &[], shared.clone(), &[84], &[]);
    world.timeline(2, &[(1, 84)], [shared, vec![transaction(84, 94, 2, 20)]].concat(), &[94], &[]);
    world.base(1, 64, 74, 10);
    let plan = world.plan(&target(Point::Name("promoted".into())), None).unwrap();
    assert_eq!((plan.timeline, plan.cut, plan.notes.as_slice()), (TimelineId(1), Offset(84), [].as_slice()));
}

#[test]
fn a_restore_point_on_another_timeline_is_named_with_it() {
    let point = |start, name: &str| Mark {
        start: Offset(start),
        end: Offset(start + 10),
        kind: MarkKind::RestorePoint { name: name.into(), time: Timestamp(15) },
    };
    let mut world = World::new();
    let shared = vec![transaction(64, 74, 1, 10), transaction(74, 84, 2, 20)];
    world.timeline(1, &[], [shared.clone(), vec![point(84, "old")]].concat(), &[94], &[]);
    world.timeline(2, &[(1, 84)], [shared, vec![point(84, "new")]].concat(), &[94], &[]);
    world.base(1, 64, 74, 10);
    let (why, _, hint) = refusal(&world, &target(Point::Name("old".into())));
    assert_eq!((why, hint.as_str()), (Why::Unknown, "timeline 00000001 holds one: use `--target-timeline 00000001`"));
}

#[test]
fn a_restore_point_that_no_base_backup_reaches_says_why() {
    let point = |start, name: &str| Mark {
        start: Offset(start),
        end: Offset(start + 10),
        kind: MarkKind::RestorePoint { name: name.into(), time: Timestamp(15) },
    };
    let marks = vec![point(64, "early"), point(74, "first"), transaction(84, 94, 2, 20), point(94, "late")];
    let mut world = World::new();
    world.timeline(1, &[], marks, &[84, 94, 104], &[1]);
    world.base(1, 20, 30, 5);
    world.base(1, 64, 84, 10);
    let named = |name: &str| world.plan(&target(Point::Name(name.into())), None);
    let early = named("early").unwrap_err();
    assert_eq!((early.why, early.nearest_after), (Why::BeforeFirstBase, Some(Timestamp(10))));
    assert_eq!(
        early.message,
        "restore point \"early\" of 1970-01-01T00:00:00.000015Z lies at 000000000000004A, before the first base backup is consistent, at 0000000000000054"
    );
    assert_eq!(named("first").unwrap().cut, Offset(84));
    let late = named("late").unwrap_err();
    assert_eq!(late.why, Why::InGap);
    assert_eq!(
        late.message,
        "restore point \"late\" of 1970-01-01T00:00:00.000015Z lies at 0000000000000068, which no base backup reaches: log 0000000000000054-000000000000005E of timeline 00000001 is missing (lost 1)"
    );
}

#[test]
fn what_is_in_no_log_is_refused_with_the_log_there_is() {
    let absent = target(Point::Native { term: "xid", value: "99".into() });
    let refused = |world: &World| {
        let refusal = world.plan(&absent, Some(&Xid(99))).unwrap_err();
        assert_eq!(refusal.why, Why::Unknown);
        assert_eq!(refusal.message, "xid 99 is not in the log that can be restored on timeline 00000001");
        refusal.hint.unwrap()
    };
    assert_eq!(refused(&line(&[10, 20, 30], &[])), "that log is 0000000000000054-000000000000005E");
    let unknown = line(&[10, 15], &[]);
    assert_eq!(refused(&unknown), "use `--target latest` for everything the archive holds");
}

#[test]
fn of_a_time_that_only_another_timeline_holds_that_one_is_named() {
    let mut world = World::new();
    let shared = vec![transaction(64, 74, 1, 10), transaction(74, 84, 2, 20)];
    let promoted = [transaction(84, 100, 5, 40), transaction(100, 110, 7, 50)];
    world.timeline(1, &[], [shared.clone(), vec![transaction(84, 94, 4, 30)]].concat(), &[94], &[]);
    world.timeline(2, &[(1, 84)], [shared, promoted.to_vec()].concat(), &[110], &[]);
    world.base(1, 84, 94, 30);
    world.base(2, 84, 100, 40);
    let named = |time| {
        let (_, _, hint) = refusal(&world, &Target { timeline: Some(TimelineId(1)), ..at(time) });
        hint.contains("timeline 00000002 holds that time")
    };
    assert_eq!([39, 40, 45, 50, 51].map(named), [false, true, true, true, false]);
}

#[test]
fn where_the_clock_went_back_around_the_base_backup_the_refusal_says_so() {
    let mut world = line(&[10, 50, 30, 40, 60], &[]);
    world.base(1, 64, 94, 30);
    world.catalog.bases.remove(0);
    let refusal = world.plan(&at(35), None).unwrap_err();
    assert_eq!((refusal.why, refusal.nearest_before, refusal.nearest_after), (Why::ClockWentBack, None, None));
    assert!(refusal.message.contains("lies before any base backup is consistent"), "{refusal}");
    assert!(refusal.hint.unwrap().ends_with("give it as an exact position"), "no other timeline holds it");
}

#[test]
fn times_at_the_very_edges_are_refused_for_the_right_reason() {
    let world = line(&[10, 20, 30], &[]);
    assert_eq!(refusal(&world, &at(NOW.0)).0, Why::AfterEnd, "now is not the future");
    let mut nothing_known = line(&[10, 15], &[]);
    let (why, message, _) = refusal(&nothing_known, &at(20));
    assert_eq!(why, Why::AfterEnd, "the base backup's own end is not before it");
    assert!(message.ends_with("after the end of the archive: no time is known to be complete yet"), "{message}");
    nothing_known.base(1, 84, 120, 12);
    let (why, message, _) = refusal(&nothing_known, &at(18));
    assert_eq!(why, Why::BeforeFirstBase, "a base backup that cannot be used is not the first");
    assert!(message.ends_with("ended at 1970-01-01T00:00:00.000020Z"), "{message}");
}

#[test]
fn latest_at_a_gap_names_the_last_time_before_it_if_there_is_one() {
    let mut world = line(&[10, 20, 30, 40, 50, 60], &[2]);
    world.timeline(1, &[], world.marks[&TimelineId(1)].clone(), &[84, 94, 104, 124], &[2]);
    for (ended, nearest) in [(29, Some(30)), (30, Some(30)), (31, None)] {
        world.catalog.bases[0].ended = Timestamp(ended);
        let refusal = world.plan(&target(Point::Latest), None).unwrap_err();
        assert_eq!((refusal.why, refusal.nearest_before), (Why::InGap, nearest.map(Timestamp)), "{ended}");
    }
}

#[test]
fn latest_says_what_is_known_to_be_missing_behind_its_end() {
    let mut world = line(&[10, 20, 30, 40, 50, 60, 70, 80], &[1, 3]);
    world.base(1, 104, 114, 60);
    let plan = world.plan(&target(Point::Latest), None).unwrap();
    assert_eq!(plan.cut, Offset(124));
    assert_eq!(plan.notes, ["log 000000000000007C-0000000000000090 is known to be missing: lost 3"]);
}

/// However long the log, what is read is a segment or two.
#[test]
fn a_long_log_is_planned_by_reading_one_segment_and_perhaps_its_neighbour() {
    let times: Vec<i64> = (1..=2000).map(|n| n * 10).collect();
    let world = line(&times, &[]);
    let reads = |asked: &Target, locator: Option<&dyn Locator>| {
        let planner = Planner::new(&world.catalog, asked, locator, NOW).unwrap();
        let (mut narrowed, mut reads) = (planner.narrow().unwrap(), Vec::new());
        loop {
            let marks = narrowed.read.as_ref().map(|read| world.read(read)).unwrap_or_default();
            reads.extend(narrowed.read.as_ref().map(|read| (read.range.start.0, read.range.end.0)));
            match planner.settle(narrowed, &marks).unwrap() {
                Step::Done(_) => return reads,
                Step::Read(next) => narrowed = next,
            }
        }
    };
    // Segments begin with a transaction of odd number.
    let segment = |first: u64| (64 + 10 * (first - 1), 64 + 10 * (first + 1));
    for time in [15_000, 15_005] {
        assert_eq!(reads(&at(time), None), [segment(1501), segment(1499)], "its neighbour ends in the one before");
    }
    assert_eq!(reads(&at(15_010), None), [segment(1501)]);
    let xid = target(Point::Native { term: "xid", value: "1501".into() });
    assert_eq!(reads(&xid, Some(&Xid(1501))), [segment(1501)]);
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
