//! Promise: what was acknowledged to the server is readable after `kill -9`, and the
//! archive goes on without a gap.

use std::time::Duration;

use crate::support::load::{mark, marker_table, pgbench_tables, wait_for_wal};
use crate::support::oracle::{amcheck, assert_ready_data_dir, assert_segments_equal_wal, marker_xids, open_restored};
use crate::support::pitr::acknowledged;
use crate::support::{Load, Pitr, Scratch, Server, env_number, seed};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// How often the archiver is killed: `PITR_KILLS` for a long run.
const KILLS: u64 = 40;

#[test]
fn killed_at_random_moments_under_load_it_loses_nothing() {
    let mut rng = StdRng::seed_from_u64(seed());
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).start();
    pgbench_tables(&server, 1);
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let load = Load::pgbench_at(&server, 2, 400);
    let markers = Load::markers(&scratch, &server, 1, 5);
    let mut told = 0;
    for kill in 0..env_number("PITR_KILLS", KILLS) {
        let mut archiver = pitr.archive();
        if kill % 4 == 0 {
            // Now and then it is killed only after it made progress, so that the run
            // as a whole moves on.
            archiver.wait_until_caught_up(&server);
        }
        // The moment of the kill is the experiment, not a wait for anything.
        std::thread::sleep(Duration::from_micros(rng.random_range(0..400_000)));
        archiver.kill();
        let now = acknowledged(&server).unwrap_or(0);
        assert!(now >= told, "the acknowledged position went back from {told:x} to {now:x}");
        told = now;
        if kill % 10 == 9 {
            pitr.ok(["verify", "--read-data"]);
        }
    }
    // All that was acknowledged is there although the server is gone.
    markers.stop(&server);
    load.stop(&server);
    let end = server.switch_wal();
    pitr.catch_up();
    assert!(acknowledged(&server).expect("the slot") >= end);
    assert!(assert_segments_equal_wal(&pitr.cluster_dir(), &server, 1, end) >= 1);
    pitr.ok(["verify", "--read-data"]);
    // What the killed ones had no time to remove, the last one did.
    pitr.catch_up();
    let names = std::fs::read_dir(pitr.cluster_dir().join("log/00000001")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let tails: Vec<String> = names.filter(|name| name.starts_with("tail-")).collect();
    assert!(tails.len() <= 1, "{tails:?}");

    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target", "latest"]);
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(restored.checksums(), server.checksums());
    amcheck(&restored);
}

/// The disk of the server is lost the moment after the archiver was killed: every
/// transaction that was acknowledged is restored.
#[test]
fn what_was_acknowledged_restores_without_archiver_and_server() {
    let mut rng = StdRng::seed_from_u64(seed());
    for round in 0..3 {
        let scratch = Scratch::new();
        let mut server = Server::new(&scratch, "server");
        marker_table(&server);
        let pitr = Pitr::new(&scratch).source(&server);
        pitr.ok(["init"]);
        let mut archiver = pitr.archive();
        let markers = Load::markers(&scratch, &server, 2, 2);
        crate::support::load::wait_for_markers(&server, 20);
        archiver.wait_until_caught_up(&server);
        std::thread::sleep(Duration::from_micros(rng.random_range(0..300_000)));
        archiver.kill();
        markers.stop(&server);
        // Rows whose commit lies wholly before the acknowledged offset.
        let told = acknowledged(&server).expect("the slot");
        let start = crate::support::oracle::archive_start(&pitr.cluster_dir(), 1);
        let safe: std::collections::BTreeSet<u32> =
            crate::support::oracle::transactions(&server, 1, start, server.flush_lsn())
                .iter()
                .filter(|end| end.committed && end.lsn < told)
                .map(|end| end.xid)
                .collect();
        let rows = marker_xids(&server);
        let promised: Vec<u32> = rows.intersection(&safe).copied().collect();
        server.stop_immediate();

        let to = scratch.join("restored");
        pitr.restore(&server, &to, &["--target", "latest"]);
        assert_ready_data_dir(&to);
        let restored = open_restored(&scratch, "restored", &server, &to);
        let have = marker_xids(&restored);
        let lost: Vec<&u32> = promised.iter().filter(|xid| !have.contains(xid)).collect();
        assert!(lost.is_empty(), "round {round}: acknowledged and lost: {lost:?}");
        assert!(have.is_subset(&rows), "round {round}: restored more than there was");
    }
}

#[test]
fn a_server_killed_under_load_is_followed_when_it_is_back() {
    let scratch = Scratch::new();
    let mut server = Server::builder(&scratch, "server").wal_segment_mib(1).start();
    pgbench_tables(&server, 1);
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    let mut archiver = pitr.archive();
    archiver.wait_until_caught_up(&server);
    for _ in 0..5 {
        let load = Load::pgbench(&server, 2);
        wait_for_wal(&server, 500_000);
        server.crash();
        drop(load);
        server.start();
        mark(&server);
        archiver.wait_until_caught_up(&server);
    }
    let end = server.switch_wal();
    archiver.wait_until_acknowledged(&server, end);
    archiver.stop();
    assert!(assert_segments_equal_wal(&pitr.cluster_dir(), &server, 1, end) >= 2);
    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target", "latest"]);
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(restored.checksums(), server.checksums());
}

/// A base backup cut off leaves no base, and the next one works.
#[test]
fn a_backup_killed_halfway_leaves_no_base() {
    let mut rng = StdRng::seed_from_u64(seed());
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "server");
    pgbench_tables(&server, 10);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.ok(["archive", "--slot", "pitr", "--no-backup", "--exit-when-caught-up"]);
    for _ in 0..5 {
        let mut child = pitr
            .command(["backup"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(rng.random_range(20_000..600_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        pitr.ok(["verify", "--read-data"]);
    }
    pitr.ok(["backup"]);
    pitr.catch_up();
    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target", "latest"]);
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(restored.checksums(), server.checksums());
}

/// Asked to stop in the middle of its base backup, the archiver ends well and at once;
/// the next one takes the base.
#[test]
fn an_archiver_asked_to_stop_during_its_base_backup_ends_well() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "server");
    pgbench_tables(&server, 20);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    let archiver = pitr.archive();
    crate::support::condition("the backup to begin", crate::support::PATIENCE, || {
        (server.sql("select count(*) from pg_stat_progress_basebackup where phase like 'streaming%'") == "1")
            .then_some(())
    });
    archiver.stop();
    let manifests = || {
        let bases = std::fs::read_dir(pitr.cluster_dir().join("base"));
        bases.map_or(0, |bases| bases.filter(|e| e.as_ref().unwrap().path().join("manifest.json").exists()).count())
    };
    assert_eq!(manifests(), 0, "half a base backup must not look like one");
    pitr.ok(["verify", "--read-data"]);
    pitr.catch_up();
    assert_eq!(manifests(), 1);
    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target", "latest"]);
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(restored.checksums(), server.checksums());
}

/// A restore cut off leaves nothing under the target's name that a server would open.
#[test]
fn a_restore_killed_halfway_never_looks_finished() {
    let mut rng = StdRng::seed_from_u64(seed());
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "server");
    pgbench_tables(&server, 5);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let load = Load::pgbench(&server, 2);
    wait_for_wal(&server, 20 << 20);
    load.stop(&server);
    pitr.catch_up();
    let to = scratch.join("restored");
    for _ in 0..5 {
        let mut command = pitr.command(["restore", "--target", "latest"]);
        command.arg("--to").arg(&to).arg("--bin-dir").arg(server.bin_dir());
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_micros(rng.random_range(20_000..1_500_000)));
        child.kill().unwrap();
        let finished = child.wait().unwrap().success();
        if to.exists() {
            // Killed after the rename, or not at all: then it is complete.
            assert_ready_data_dir(&to);
            assert!(finished || to.join("PG_VERSION").exists());
            std::fs::remove_dir_all(&to).unwrap();
        }
    }
    pitr.restore(&server, &to, &["--target", "latest"]);
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(restored.checksums(), server.checksums());
}
