//! Promise: the main path is the same on other major versions: archive under load,
//! drop a table, restore to just before.
//!
//! Client programs are the system's, so that here the rulers are plain SQL and the
//! server's own WAL files.

use crate::support::load::{mark, marker_table, pgbench_tables, wait_for_wal};
use crate::support::oracle::{
    assert_ready_data_dir, assert_segments_equal_wal, marker_commit_times, marker_xids, open_restored,
};
use crate::support::{Load, Pitr, Scratch, Server, Version};

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
