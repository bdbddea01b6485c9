//! Promise: after a failover the archive goes on with the new timeline, nothing is
//! overwritten, and both histories restore.

use std::collections::BTreeSet;

use crate::support::load::{mark, marker_table, pgbench_tables};
use crate::support::oracle::{
    amcheck, archive_start, assert_ready_data_dir, assert_segments_equal_wal, marker_commit_times, marker_xids,
    open_restored, segment_files,
};
use crate::support::server::parse_lsn;
use crate::support::{Load, PATIENCE, Pitr, Scratch, Server, condition};

/// Waits until the standby has replayed all that the primary has.
pub fn wait_for_standby(primary: &Server, standby: &Server) {
    let end = crate::support::server::format_lsn(primary.flush_lsn());
    condition("the standby to follow", PATIENCE, || {
        (standby.sql(&format!("select pg_last_wal_replay_lsn() >= '{end}'")) == "t").then_some(())
    });
}

/// The older timelines of a server's history, oldest first, and where each was left: the
/// server's own file says so.
fn switches(server: &Server) -> Vec<(u32, u64)> {
    let name = format!("{:08X}.history", server.timeline());
    let history = std::fs::read_to_string(server.wal_dir().join(name)).unwrap();
    let lines = history.lines().map(|line| line.split('\t').collect::<Vec<_>>()).filter(|line| line.len() >= 2);
    lines.map(|line| (line[0].trim().parse().unwrap(), parse_lsn(line[1]))).collect()
}

/// A primary and a standby, archived from the primary up to the same place in the
/// middle of a WAL file; then the standby is promoted.
struct Failover<'a> {
    primary: Server,
    standby: Server,
    pitr: Pitr<'a>,
    before: BTreeSet<u32>,
}

fn failover(scratch: &Scratch) -> Failover<'_> {
    let primary = Server::builder(scratch, "primary").wal_segment_mib(1).start();
    pgbench_tables(&primary, 1);
    marker_table(&primary);
    let standby = primary.standby(scratch, "standby");
    // Both at once, as an operator writes it: the one that takes writes is followed.
    let url = format!(
        "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres?target_session_attrs=read-write",
        primary.port(),
        standby.port()
    );
    let pitr = Pitr::new(scratch).source_url(url);
    pitr.ok(["init"]);
    pitr.catch_up();
    let load = Load::pgbench(&primary, 2);
    crate::support::load::wait_for_wal(&primary, 3 << 20);
    load.stop(&primary);
    let before = (0..5).map(|_| mark(&primary)).collect();
    wait_for_standby(&primary, &standby);
    Failover { primary, standby, pitr, before }
}

#[test]
fn a_promotion_in_the_middle_of_a_wal_file_is_followed() {
    let scratch = Scratch::new();
    let Failover { mut primary, standby, pitr, mut before } = failover(&scratch);
    let mut archiver = pitr.archive();
    archiver.wait_until_caught_up(&primary);
    primary.stop_immediate();
    standby.promote();
    before.insert(mark(&standby));
    archiver.wait_until_caught_up(&standby);
    let load = Load::pgbench(&standby, 2);
    crate::support::load::wait_for_wal(&standby, 3 << 20);
    load.stop(&standby);
    let end = standby.switch_wal();
    archiver.wait_until_acknowledged(&standby, end);
    archiver.stop();

    // The whole files of the new timeline, the first of which begins with a copy of
    // the old one's bytes in the server's directory, from the switch on.
    let segments = segment_files(&pitr.cluster_dir());
    assert!(segments.iter().any(|s| s.timeline == 1) && segments.iter().any(|s| s.timeline == 2));
    assert!(archive_start(&pitr.cluster_dir(), 2) > 0);
    assert!(assert_segments_equal_wal(&pitr.cluster_dir(), &standby, 2, end) >= 2);

    let to = scratch.join("restored");
    pitr.restore(&standby, &to, &["--target", "latest"]);
    assert_ready_data_dir(&to);
    let restored = open_restored(&scratch, "restored", &standby, &to);
    assert_eq!(marker_xids(&restored), before);
    assert_eq!(restored.checksums(), standby.checksums());
    amcheck(&restored);
}

/// The old primary wrote on after the standby's promotion, and both were archived:
/// each timeline's own end can be asked for.
#[test]
fn either_timeline_restores_after_a_split() {
    let scratch = Scratch::new();
    let Failover { mut primary, standby, pitr, before } = failover(&scratch);
    let mut old = before.clone();
    // The archive follows the old primary a little beyond the switch...
    standby.promote();
    let only_old = mark(&primary);
    old.insert(only_old);
    pitr.catch_up();
    let old_time = marker_commit_times(&primary)[&only_old].clone();
    primary.stop_immediate();
    // ...and then finds the promoted one, which has diverged before that.
    let mut new = before;
    let only_new = mark(&standby);
    new.insert(only_new);
    pitr.catch_up();

    let latest = scratch.join("latest");
    pitr.restore(&standby, &latest, &["--target", "latest"]);
    let restored = open_restored(&scratch, "latest", &standby, &latest);
    assert_eq!(restored.sql("select count(*) from marker").parse::<usize>().unwrap(), new.len());
    assert_eq!(marker_commit_times(&restored), marker_commit_times(&standby));
    drop(restored);

    let orphan = scratch.join("orphan");
    pitr.restore(&standby, &orphan, &["--target-time", &old_time, "--target-timeline", "1"]);
    assert_ready_data_dir(&orphan);
    let restored = open_restored(&scratch, "orphan", &standby, &orphan);
    assert_eq!(marker_xids(&restored), old);
    assert_eq!(marker_commit_times(&restored)[&only_old], old_time);
}

#[test]
fn a_moment_before_the_promotion_restores_from_the_new_history() {
    let scratch = Scratch::new();
    let Failover { mut primary, standby, pitr, before } = failover(&scratch);
    pitr.catch_up();
    let last = *before.last().unwrap();
    let time = marker_commit_times(&standby)[&last].clone();
    primary.stop_immediate();
    standby.promote();
    mark(&standby);
    pitr.catch_up();
    let to = scratch.join("restored");
    pitr.restore(&standby, &to, &["--target-time", &time]);
    assert_ready_data_dir(&to);
    let restored = open_restored(&scratch, "restored", &standby, &to);
    assert_eq!(marker_xids(&restored), before);
}

/// The first transaction out is still the old primary's, so that replay has to stop before
/// the switch: in an earlier WAL file, and in the one in which the timeline was left.
#[test]
fn moments_well_before_the_promotion_restore_from_the_new_history() {
    let scratch = Scratch::new();
    let Failover { mut primary, standby, pitr, before } = failover(&scratch);
    let early = mark(&primary);
    let mut rows = vec![early, mark(&primary)];
    let file = primary.switch_wal();
    let late = mark(&primary);
    rows.extend([late, mark(&primary)]);
    wait_for_standby(&primary, &standby);
    let times = marker_commit_times(&primary);
    pitr.catch_up();
    primary.stop_immediate();
    standby.promote();
    let (_, switch) = switches(&standby)[0];
    assert_eq!(switch / standby.wal_segment_bytes() * standby.wal_segment_bytes(), file);
    mark(&standby);
    pitr.catch_up();
    for (name, row) in [("early", early), ("late", late)] {
        let to = scratch.join(name);
        pitr.restore(&standby, &to, &["--target-time", &times[&row]]);
        assert_ready_data_dir(&to);
        let restored = open_restored(&scratch, name, &standby, &to);
        let until = rows.iter().take_while(|other| **other <= row).copied();
        assert_eq!(marker_xids(&restored), before.iter().copied().chain(until).collect());
        // Its number is none that the archive knows.
        assert_eq!(restored.timeline(), 3);
    }
}

/// Three promotions in a row, of servers whose WAL files have `mib` MiB.
fn timelines_follow_one_another(mib: u32) {
    let scratch = Scratch::new();
    let first = Server::builder(&scratch, "s1").wal_segment_mib(mib).setting("min_wal_size", "512MB").start();
    marker_table(&first);
    let pitr = Pitr::new(&scratch).source(&first);
    pitr.ok(["init"]);
    pitr.catch_up();
    let mut current = first;
    let mut rows = BTreeSet::new();
    for generation in 2..=4 {
        let next = current.standby(&scratch, &format!("s{generation}"));
        rows.insert(mark(&current));
        wait_for_standby(&current, &next);
        // A standby made just now does not have the log from before it was made.
        Pitr::new(&scratch).source(&current).catch_up();
        current.stop_immediate();
        next.promote();
        rows.insert(mark(&next));
        Pitr::new(&scratch).source(&next).catch_up();
        current = next;
    }
    assert_eq!(current.timeline(), 4);
    let to = scratch.join("restored");
    pitr.restore(&current, &to, &["--target", "latest"]);
    let restored = open_restored(&scratch, "restored", &current, &to);
    assert_eq!(marker_xids(&restored), rows);
}

#[test]
fn timelines_may_follow_one_another() {
    timelines_follow_one_another(1);
}

/// Of files this large few are staged at a time, and the last one of each timeline that
/// was left is never asked for.
#[test]
fn timelines_of_large_wal_files_may_follow_one_another() {
    timelines_follow_one_another(64);
}

/// Two promotions between one look of the archiver and the next: the server in the middle
/// was never archived from.
struct Unseen<'a> {
    third: Server,
    pitr: Pitr<'a>,
    /// Rows of timeline 1 that are archived, and those that came after that.
    archived: BTreeSet<u32>,
    missed: BTreeSet<u32>,
    /// Rows of timelines 2 and 3.
    middle: BTreeSet<u32>,
    newest: BTreeSet<u32>,
}

fn unseen_promotion(scratch: &Scratch) -> Unseen<'_> {
    let mut first = Server::builder(scratch, "first").wal_segment_mib(1).start();
    marker_table(&first);
    let pitr = Pitr::new(scratch).source(&first);
    pitr.ok(["init"]);
    pitr.catch_up();
    let mut second = first.standby(scratch, "second");
    let third = second.standby(scratch, "third");
    let archived = BTreeSet::from([mark(&first), mark(&first)]);
    pitr.catch_up();
    let missed = BTreeSet::from([mark(&first), mark(&first)]);
    wait_for_standby(&first, &second);
    wait_for_standby(&first, &third);
    first.stop_immediate();

    second.promote();
    let mut middle = BTreeSet::from([mark(&second)]);
    second.switch_wal();
    middle.insert(mark(&second));
    second.switch_wal();
    middle.insert(mark(&second));
    wait_for_standby(&second, &third);
    second.stop_immediate();

    third.promote();
    let newest = BTreeSet::from([mark(&third), mark(&third)]);
    assert_eq!(switches(&third).iter().map(|(timeline, _)| *timeline).collect::<Vec<_>>(), [1, 2]);
    let pitr = Pitr::new(scratch).source(&third);
    Unseen { third, pitr, archived, missed, middle, newest }
}

impl Unseen<'_> {
    /// Restores to each of these moments and compares the rows.
    fn check_restores(&self, scratch: &Scratch, moments: &[(&str, &[&str], BTreeSet<u32>)]) {
        for (name, target, rows) in moments {
            let to = scratch.join(name);
            self.pitr.restore(&self.third, &to, target);
            assert_ready_data_dir(&to);
            let restored = open_restored(scratch, name, &self.third, &to);
            assert_eq!(marker_xids(&restored), *rows, "{name}");
        }
    }
}

fn union(sets: &[&BTreeSet<u32>]) -> BTreeSet<u32> {
    sets.iter().flat_map(|set| set.iter().copied()).collect()
}

#[test]
fn a_timeline_that_nobody_archived_is_read_from_the_server_that_came_after() {
    let scratch = Scratch::new();
    let archive = unseen_promotion(&scratch);
    let Unseen { third, pitr, archived, missed, middle, newest } = &archive;
    pitr.catch_up();
    let end = third.switch_wal();
    pitr.catch_up();
    let list = pitr.json(&["list"]);
    assert_eq!(list["gaps"].as_array().unwrap().len(), 0, "{list:#}");
    assert_eq!(list["bases"].as_array().unwrap().len(), 1, "the first base still leads to the present: {list:#}");
    let size = third.wal_segment_bytes();
    let (_, left) = switches(third)[1];
    assert!(assert_segments_equal_wal(&pitr.cluster_dir(), third, 2, left / size * size) >= 2);
    assert!(assert_segments_equal_wal(&pitr.cluster_dir(), third, 3, end) >= 1);

    let times = marker_commit_times(third);
    let one = times[missed.first().unwrap()].clone();
    let two = times[middle.last().unwrap()].clone();
    let on_one = union(&[archived, &BTreeSet::from([*missed.first().unwrap()])]);
    let on_two = union(&[archived, missed, middle]);
    let all = union(&[&on_two, newest]);
    archive.check_restores(
        &scratch,
        &[
            ("one", &["--target-time", &one], on_one),
            ("two", &["--target-time", &two], on_two),
            ("three", &["--target", "latest"], all),
        ],
    );
}

/// The server that came after has nothing of it left, and perhaps it has gone on since, so
/// that what its new slot keeps begins behind both switches.
fn timeline_gone(server_has_gone_on: bool) {
    let scratch = Scratch::new();
    let archive = unseen_promotion(&scratch);
    let Unseen { third, pitr, archived, missed, middle, newest } = &archive;
    let size = third.wal_segment_bytes();
    let mut removed = 0;
    for entry in std::fs::read_dir(third.wal_dir()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with("00000002") && !name.ends_with(".history") {
            std::fs::remove_file(third.wal_dir().join(name)).unwrap();
            removed += 1;
        }
    }
    assert!(removed >= 3, "{removed} files");
    if server_has_gone_on {
        third.switch_wal();
    }
    pitr.catch_up().says(&["a gap is recorded and a new base backup begins"]);
    mark(third);
    let end = third.switch_wal();
    pitr.catch_up();

    // What never was is not missing: each gap ends where its timeline was left. The file of
    // the last switch is there as the newest timeline's.
    let list = pitr.json(&["list"]);
    let gaps = list["gaps"].as_array().unwrap().iter();
    let gaps: Vec<_> = gaps.map(|gap| (gap["timeline"].as_u64(), parse_lsn(gap["end"].as_str().unwrap()))).collect();
    let [(_, one), (_, two)] = switches(third)[..] else { unreachable!() };
    let two = if server_has_gone_on { two } else { two / size * size };
    assert_eq!(gaps, [(Some(1), one), (Some(2), two)], "{list:#}");
    assert_eq!(list["bases"].as_array().unwrap().len(), 2, "{list:#}");
    assert!(assert_segments_equal_wal(&pitr.cluster_dir(), third, 3, end) >= 1);
    pitr.ok(["verify", "--read-data"]);

    let times = marker_commit_times(third);
    for row in missed.iter().chain(middle) {
        pitr.run(["plan", "--target-time", &times[row]]).exit(14).says(&["missing"]);
    }
    let one = times[archived.first().unwrap()].clone();
    let all = marker_xids(third);
    assert!(all.is_superset(&union(&[archived, missed, middle, newest])));
    archive.check_restores(
        &scratch,
        &[
            ("one", &["--target-time", &one], BTreeSet::from([*archived.first().unwrap()])),
            ("three", &["--target", "latest"], all),
        ],
    );
}

#[test]
fn a_timeline_that_is_gone_is_a_gap_and_the_archive_goes_on_behind_it() {
    timeline_gone(false);
}

#[test]
fn a_timeline_that_is_long_gone_is_a_gap_and_the_archive_goes_on_behind_it() {
    timeline_gone(true);
}
