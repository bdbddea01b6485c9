//! Promise: every byte of WAL that the server wrote is in the store, as the stock
//! tools read it, and the server was told so only then.

use std::process::Command;

use crate::support::load::{mark, marker_table, pgbench_tables, wait_for_wal};
use crate::support::oracle::{
    archive_start, assert_export_equals_wal, assert_segments_equal_wal, cat_lz4, covering, segment_files,
};
use crate::support::pitr::{SLOT, acknowledged};
use crate::support::server::{format_lsn, parse_lsn};
use crate::support::{Load, PATIENCE, Pitr, Scratch, Server, condition};
use rustix::process::{Pid, Signal, kill_process};

/// Archives a loaded server in the background over several WAL files, stops, and
/// compares segments and export with the server's files.
fn streams_every_byte(wal_segment_mib: u32, wal_bytes: u64) {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "server").wal_segment_mib(wal_segment_mib).start();
    pgbench_tables(&server, 1);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    let mut archiver = pitr.archive();
    let load = Load::pgbench(&server, 2);
    wait_for_wal(&server, wal_bytes);
    load.stop(&server);
    server.switch_wal();
    let end = archiver.wait_until_caught_up(&server);
    archiver.stop();

    let compared = assert_segments_equal_wal(&pitr.cluster_dir(), &server, 1, end);
    assert!(compared >= 2, "only {compared} whole WAL files were compared");
    let export = scratch.join("export");
    pitr.ok(["export".as_ref(), export.as_os_str()]);
    let start = archive_start(&pitr.cluster_dir(), 1);
    assert_eq!(assert_export_equals_wal(&export, &server, 1, start, end), compared);
}

#[test]
fn segments_through_stock_lz4_are_the_servers_wal_files() {
    streams_every_byte(16, 40 << 20);
}

#[test]
fn wal_files_of_1_mib_are_archived_byte_for_byte() {
    streams_every_byte(1, 12 << 20);
}

#[test]
fn wal_files_of_64_mib_are_archived_byte_for_byte() {
    streams_every_byte(64, 80 << 20);
}

#[test]
fn exits_when_caught_up_with_everything_acknowledged() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "server");
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    for _ in 0..10 {
        mark(&server);
    }
    let end = server.flush_lsn();
    pitr.catch_up();
    let acknowledged = acknowledged(&server).expect("the slot");
    assert!(acknowledged >= end, "{} was acknowledged of {}", format_lsn(acknowledged), format_lsn(end));
}

#[test]
fn catching_up_again_and_again_leaves_no_gap() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).start();
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    for round in 0..6 {
        for _ in 0..=round {
            mark(&server);
        }
        if round % 2 == 1 {
            server.switch_wal();
        }
        pitr.catch_up();
    }
    let end = server.switch_wal();
    pitr.catch_up();
    assert!(assert_segments_equal_wal(&pitr.cluster_dir(), &server, 1, end) >= 4);
    pitr.ok(["verify", "--read-data"]);
}

#[test]
fn stops_at_until_having_archived_up_to_it() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).start();
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    mark(&server);
    let until = server.flush_lsn();
    server.switch_wal();
    pitr.ok(["archive", "--slot", SLOT, "--until", &format_lsn(until)]);
    let reached = acknowledged(&server).expect("the slot");
    assert!(reached >= until, "{} was acknowledged, asked was {}", format_lsn(reached), format_lsn(until));
    pitr.ok(["verify", "--read-data"]);
}

#[test]
fn sigterm_and_sigint_flush_acknowledge_and_exit_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let scratch = Scratch::new();
        let server = Server::new(&scratch, "server");
        pgbench_tables(&server, 1);
        let pitr = Pitr::new(&scratch).source(&server);
        pitr.ok(["init"]);
        let mut archiver = pitr.archive();
        let load = Load::pgbench(&server, 2);
        wait_for_wal(&server, 2 << 20);
        archiver.wait_until_caught_up(&server);
        archiver.interrupt(signal).success();
        load.stop(&server);
        // What the server was told is in the store for good.
        let told = acknowledged(&server).expect("the slot");
        pitr.catch_up();
        let end = server.switch_wal();
        pitr.catch_up();
        assert!(end >= told);
        assert!(assert_segments_equal_wal(&pitr.cluster_dir(), &server, 1, end) >= 1);
    }
}

/// On a local store the tail answers for the open end: RPO is an fsync, not a file.
#[test]
fn one_commit_on_an_idle_server_is_acknowledged_at_once() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "server");
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    let mut archiver = pitr.archive();
    archiver.wait_until_caught_up(&server);
    let began = std::time::Instant::now();
    // Were they acknowledged by the status of each second only, it would take twice as long.
    for _ in 0..30 {
        mark(&server);
        archiver.wait_until_caught_up(&server);
    }
    assert!(began.elapsed().as_secs() < 10, "thirty single commits took {:?} to be acknowledged", began.elapsed());
    archiver.stop();
}

#[test]
fn an_idle_server_adds_no_objects() {
    let scratch = Scratch::new();
    // Without checkpoints and running-transactions records a server is truly idle.
    let server = Server::builder(&scratch, "server").setting("checkpoint_timeout", "1d").start();
    server.sql("checkpoint");
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    // The first one may end before the log switch at its base's end has come.
    pitr.catch_up();
    let before = segment_files(&pitr.cluster_dir());
    let settled = server.flush_lsn();
    for _ in 0..3 {
        pitr.catch_up();
    }
    if server.flush_lsn() == settled {
        assert_eq!(segment_files(&pitr.cluster_dir()), before);
    }
    assert!(before.len() <= 3, "an idle server has {} segments: {before:#?}", before.len());
}

#[test]
fn as_the_synchronous_standby_it_lets_commits_through() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "server");
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    let mut archiver = pitr.archive();
    archiver.wait_until_caught_up(&server);
    let name = server.sql("select application_name from pg_stat_replication where state = 'streaming'");
    server.sql(&format!("alter system set synchronous_standby_names = '\"{name}\"'; select pg_reload_conf();"));
    condition("the archiver to be the synchronous standby", PATIENCE, || {
        (server.sql("select sync_state from pg_stat_replication where state = 'streaming'") == "sync").then_some(())
    });
    for _ in 0..20 {
        mark(&server);
        // The commit returned, so it is durable in the store: nothing to wait for.
        let row = server.sql("select flush_lsn from pg_stat_replication where state = 'streaming'");
        assert!(parse_lsn(&row) > 0);
    }
    assert_eq!(server.sql("select count(*) from marker"), "20");
    server.sql("alter system reset synchronous_standby_names; select pg_reload_conf();");
    archiver.stop();
}

#[test]
fn streaming_goes_on_after_the_server_was_restarted() {
    let scratch = Scratch::new();
    let mut server = Server::builder(&scratch, "server").wal_segment_mib(1).start();
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    let mut archiver = pitr.archive();
    for round in 0..4 {
        mark(&server);
        archiver.wait_until_caught_up(&server);
        if round % 2 == 0 {
            server.stop()
        } else {
            server.crash()
        }
        server.start();
        mark(&server);
        archiver.wait_until_caught_up(&server);
    }
    let end = server.switch_wal();
    archiver.wait_until_acknowledged(&server, end);
    archiver.stop();
    assert!(assert_segments_equal_wal(&pitr.cluster_dir(), &server, 1, end) >= 1);
}

/// `zstd` in the configuration gives segments that the stock `zstd` reads.
#[test]
fn zstd_segments_through_stock_zstd_are_the_servers_wal_files() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).start();
    pgbench_tables(&server, 1);
    let config = scratch.join("pitr.toml");
    std::fs::write(&config, "[stream]\ncompression = \"zstd:1\"\n").unwrap();
    let pitr = Pitr::new(&scratch).source(&server).env("PITR_CONFIG", config.to_string_lossy());
    pitr.ok(["init"]);
    pitr.catch_up();
    let start = server.switch_wal();
    let end = {
        server.sql("update pgbench_accounts set abalance = 7 where aid <= 20000");
        server.switch_wal()
    };
    pitr.catch_up();
    let segments = segment_files(&pitr.cluster_dir());
    let size = server.wal_segment_bytes();
    assert!(end >= start + 2 * size);
    for at in (start..end).step_by(usize::try_from(size).unwrap()) {
        let chain = covering(&segments, 1, at, at + size);
        let mut ours = Vec::new();
        for segment in &chain {
            let output = Command::new("zstd").arg("-dc").arg(&segment.path).output().expect("running zstd");
            assert!(output.status.success(), "zstd -dc: {}", String::from_utf8_lossy(&output.stderr));
            ours.extend(output.stdout);
        }
        let name = crate::support::oracle::wal_file_name(1, at, size);
        crate::support::oracle::assert_same_bytes(&name, &ours, &std::fs::read(server.wal_dir().join(&name)).unwrap());
    }
}

/// What a person with nothing but coreutils and lz4 can do, byte by byte.
#[test]
fn one_wal_file_is_one_segment_once_it_is_through() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).start();
    pgbench_tables(&server, 1);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let start = server.switch_wal();
    server.sql("update pgbench_accounts set abalance = 7 where aid <= 20000");
    let end = server.switch_wal();
    pitr.catch_up();
    let segments = segment_files(&pitr.cluster_dir());
    let size = server.wal_segment_bytes();
    for at in (start + size..end).step_by(usize::try_from(size).unwrap()) {
        let chain = covering(&segments, 1, at, at + size);
        assert_eq!(chain.len(), 1, "{chain:#?}");
        assert_eq!(cat_lz4(&chain).len() as u64, size);
    }
}

/// A standby whose primary died in the middle of sending a record has no more to give:
/// everything it has is archived, though the record is not whole.
#[test]
fn catching_up_with_half_a_record_at_the_end_comes_to_an_end() {
    let scratch = Scratch::new();
    let primary = Server::new(&scratch, "primary");
    let standby = primary.standby(&scratch, "standby");
    let pitr = Pitr::new(&scratch).source(&standby);
    pitr.ok(["init"]);
    let postmaster = std::fs::read_to_string(primary.data().join("postmaster.pid")).unwrap();
    let postmaster = Pid::from_raw(postmaster.lines().next().unwrap().parse().unwrap()).unwrap();
    let received = |what: &str| parse_lsn(&standby.sql(&format!("select pg_last_wal_{what}_lsn()")));
    let before = received("receive");
    std::thread::scope(|scope| {
        scope.spawn(|| primary.try_sql("select pg_logical_emit_message(false, '', repeat('long', 50000000))"));
        condition("the standby to have part of a record", PATIENCE, || {
            (received("receive") > before + (8 << 20)).then_some(())
        });
        kill_process(postmaster, Signal::KILL).unwrap();
    });
    condition("the standby to notice", PATIENCE, || {
        (standby.sql("select count(*) from pg_stat_wal_receiver") == "0").then_some(())
    });
    let (end, whole) = (received("receive"), received("replay"));
    assert!(end > whole + (1 << 20), "the record is whole after all: {} {}", format_lsn(end), format_lsn(whole));
    pitr.ok(["archive", "--no-backup", "--exit-when-caught-up"]);
    let acknowledged = acknowledged(&standby).expect("the slot");
    assert!(acknowledged <= whole, "half a record was acknowledged: {}", format_lsn(acknowledged));
}
