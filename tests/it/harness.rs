//! The harness itself: a test that trusts a broken ruler proves nothing.

use crate::support::load::{mark, marker_table, pgbench_tables, wait_for_wal};
use crate::support::oracle::{
    amcheck, cluster_state, marker_commit_times, marker_xids, parse_wal_file_name, replayed_at_time, transactions,
    wal_file_name,
};
use crate::support::{Load, Scratch, Server, Version};

#[test]
fn commit_times_of_the_server_and_of_pg_waldump_agree() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "server");
    marker_table(&server);
    let start = server.flush_lsn();
    let xids: Vec<u32> = (0..5).map(|_| mark(&server)).collect();
    let ends = transactions(&server, 1, start, server.flush_lsn());

    let times = marker_commit_times(&server);
    assert_eq!(marker_xids(&server), xids.iter().copied().collect());
    for xid in &xids {
        let end = ends.iter().find(|end| end.xid == *xid).expect("the marker's commit record");
        assert!(end.committed);
        assert_eq!(end.time, times[xid]);
    }
    let third = &times[&xids[2]];
    let place = ends.iter().position(|end| end.xid == xids[2]).unwrap();
    assert_eq!(replayed_at_time(&ends, third, true), place + 1);
    assert_eq!(replayed_at_time(&ends, third, false), place);
}

#[test]
fn checksums_see_a_changed_row_and_survive_a_crash() {
    let scratch = Scratch::new();
    let mut server = Server::new(&scratch, "server");
    pgbench_tables(&server, 1);
    let before = server.checksums();
    server.crash();
    server.start();
    assert_eq!(server.checksums(), before);
    server.sql("update pgbench_accounts set abalance = 1 where aid = 77777");
    assert_ne!(server.checksums(), before);
    amcheck(&server);
    server.stop();
    assert_eq!(cluster_state(server.data()), crate::support::oracle::SHUT_DOWN);
}

#[test]
fn a_standby_follows_under_load_and_is_promoted() {
    let scratch = Scratch::new();
    let primary = Server::new(&scratch, "primary");
    pgbench_tables(&primary, 1);
    let load = Load::pgbench(&primary, 2);
    let standby = primary.standby(&scratch, "standby");
    wait_for_wal(&primary, 100_000);
    load.stop(&primary);
    standby.promote();
    assert_eq!(standby.timeline(), 2);
}

#[test]
fn other_versions_start() {
    for major in [13, 14, 16, 17, 18] {
        let scratch = Scratch::new();
        let server = Server::builder(&scratch, "server").version(Version::Embedded(major)).wal_segment_mib(1).start();
        let version = server.sql("show server_version_num");
        assert_eq!(version.parse::<u32>().unwrap() / 10_000, major);
        assert_eq!(server.wal_segment_bytes(), 1 << 20);
    }
}

#[test]
fn wal_file_names_follow_the_segment_size() {
    for mib in [1, 16, 64, 1024] {
        let size = mib << 20;
        let offset = 0x12_3456_7890;
        let name = wal_file_name(3, offset, size);
        assert_eq!(parse_wal_file_name(&name, size), Some((3, offset / size * size)), "{name}");
    }
    assert_eq!(wal_file_name(1, 0x100_0000, 16 << 20), "000000010000000000000001");
}
