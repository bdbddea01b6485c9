//! Promise: the main path is the same on other major versions: archive under load,
//! drop a table, restore to just before.
//!
//! Client programs are the system's, so that here the rulers are plain SQL and the
//! server's own WAL files.

use std::collections::BTreeSet;

use crate::support::load::{mark, marker_table, pgbench_tables, wait_for_wal};
use crate::support::oracle::{
    assert_ready_data_dir, assert_segments_equal_wal, marker_commit_times, marker_xids, open_restored,
};
use crate::support::started::{RunningServer, recover_elsewhere};
use crate::support::{Load, PATIENCE, Pitr, Scratch, Server, Version, condition};

fn main_path(version: Version) {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "source").version(version).wal_segment_mib(1).start();
    pgbench_tables(&server, 1);
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.ok(["check"]);
    let mut archiver = pitr.archive();
    archiver.wait_until_caught_up(&server);
    let load = Load::pgbench(&server, 2);
    wait_for_wal(&server, 3 << 20);
    load.stop(&server);
    let inside = [mark(&server), mark(&server), mark(&server)];
    let sums = server.checksums();
    let time = marker_commit_times(&server)[&inside[2]].clone();
    mark(&server);
    server.sql("drop table pgbench_accounts");
    let end = server.switch_wal();
    archiver.wait_until_acknowledged(&server, end);
    pitr.ok(["backup"]);
    archiver.stop();
    assert!(assert_segments_equal_wal(&pitr.cluster_dir(), &server, 1, end) >= 2);
    pitr.ok(["verify", "--read-data"]);

    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target-time", &time]);
    assert_ready_data_dir(&to);
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(restored.checksums(), sums);
    assert_eq!(marker_xids(&restored), inside.into());

    let latest = scratch.join("latest");
    pitr.restore(&server, &latest, &["--target", "latest"]);
    let restored = open_restored(&scratch, "latest", &server, &latest);
    assert_eq!(restored.checksums(), server.checksums());
}

#[test]
fn postgresql_13_is_archived_and_restored() {
    main_path(Version::Embedded(13));
}

#[test]
fn postgresql_14_is_archived_and_restored() {
    main_path(Version::Embedded(14));
}

#[test]
fn postgresql_16_is_archived_and_restored() {
    main_path(Version::Embedded(16));
}

#[test]
fn postgresql_17_is_archived_and_restored() {
    main_path(Version::Embedded(17));
}

#[test]
fn postgresql_18_is_archived_and_restored() {
    main_path(Version::Embedded(18));
}

/// Such a slot keeps its position, unlike one whose log was removed.
#[test]
fn a_slot_that_postgresql_18_gave_up_for_idleness_is_made_anew() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "source")
        .version(Version::Embedded(18))
        .setting("idle_replication_slot_timeout", "1s")
        .start();
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let invalid = || server.sql("select coalesce(invalidation_reason, '') from pg_replication_slots");
    condition("the slot to be given up", PATIENCE, || {
        server.sql("checkpoint");
        (invalid() == "idle_timeout").then_some(())
    });
    pitr.catch_up();
    assert_eq!(invalid(), "");
    pitr.ok(["verify"]);
}

/// The other ends of a restore: a server that pitr leaves running, and one elsewhere that
/// recovers by itself from what was laid out. Both serve the moment that was asked for.
fn servers_on_restores(major: u32) {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "source").version(Version::Embedded(major)).wal_segment_mib(1).start();
    pgbench_tables(&server, 1);
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server).by_server_user();
    pitr.ok(["init"]);
    pitr.catch_up();
    let load = Load::pgbench(&server, 2);
    wait_for_wal(&server, 3 << 20);
    load.stop(&server);
    let inside = BTreeSet::from([mark(&server), mark(&server)]);
    let accounts = "select count(*), md5(string_agg(t::text, '' order by aid)) from pgbench_accounts t";
    let sum = server.sql(accounts);
    let sums = server.checksums();
    let time = marker_commit_times(&server)[inside.last().unwrap()].clone();
    mark(&server);
    server.sql("drop table pgbench_accounts");
    server.switch_wal();
    mark(&server);
    pitr.catch_up();

    let to = scratch.join("started");
    pitr.restore(&server, &to, &["--target-time", &time, "--start"]);
    let started = RunningServer::of(&to);
    assert_eq!(started.sql("select current_setting('server_version_num')::int / 10000"), major.to_string());
    assert_eq!(started.sql("select current_setting('data_directory')"), to.to_string_lossy());
    let rows = started.sql("select xid from marker");
    assert_eq!(rows.lines().map(|row| row.parse().unwrap()).collect::<BTreeSet<u32>>(), inside);
    assert_eq!(started.sql(accounts), sum);
    // And it takes writes.
    assert_eq!(started.sql("select pg_is_in_recovery()"), "f");
    started.sql("insert into marker default values");

    let to = scratch.join("laid-out");
    pitr.restore(&server, &to, &["--target-time", &time, "--no-recover"]);
    assert!(to.join("recovery.signal").exists(), "nothing was left to replay");
    let restored = recover_elsewhere(&scratch, "laid-out", &server, &to);
    assert_eq!(marker_xids(&restored), inside);
    assert_eq!(restored.checksums(), sums);
}

#[test]
fn postgresql_17_serves_what_was_restored_or_laid_out() {
    servers_on_restores(17);
}

#[test]
fn postgresql_18_serves_what_was_restored_or_laid_out() {
    servers_on_restores(18);
}
