//! Promise: streaming never steps over log that is in no segment. A hole is filled, or
//! recorded; and the archive claims nothing that its source cannot know.

use crate::support::load::{mark, marker_table, pgbench_tables, wait_for_wal};
use crate::support::oracle::{
    assert_segments_equal_wal, marker_commit_times, marker_xids, open_restored, wal_file_name,
};
use crate::support::pitr::{Archiver, acknowledged};
use crate::support::relay::{Harm, Relay};
use crate::support::{Load, PATIENCE, Pitr, Scratch, Server, condition};

fn tail_names(pitr: &Pitr) -> Vec<String> {
    let folder = pitr.cluster_dir().join("log/00000001");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("tail-")).collect()
}

fn tails(pitr: &Pitr) -> usize {
    tail_names(pitr).len()
}

/// `archive_command` is turned on while streaming is down, and pushes a file behind the
/// one in which the archive ends.
#[test]
fn a_file_pushed_ahead_of_the_stream_leaves_no_hole() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).start();
    pgbench_tables(&server, 1);
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let mut archiver = pitr.archive();
    let mut rows = std::collections::BTreeSet::from([mark(&server)]);
    archiver.wait_until_caught_up(&server);
    archiver.kill();
    assert_eq!(tails(&pitr), 1, "what was acknowledged last is in a tail");

    let load = Load::pgbench(&server, 2);
    wait_for_wal(&server, 4 << 20);
    load.stop(&server);
    rows.insert(mark(&server));
    let size = server.wal_segment_bytes();
    let end = server.switch_wal();
    let ahead = server.wal_dir().join(wal_file_name(1, end - size, size));
    pitr.ok(["wal-push".as_ref(), ahead.as_os_str()]);
    pitr.catch_up();

    assert!(assert_segments_equal_wal(&pitr.cluster_dir(), &server, 1, end) >= 4);
    let gaps = std::fs::read_dir(pitr.cluster_dir().join("log/00000001")).unwrap();
    assert_eq!(gaps.filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|e| e == "gap")).count(), 0);
    pitr.ok(["verify", "--read-data"]);
    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target", "latest"]);
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(marker_xids(&restored), rows);
    assert_eq!(restored.checksums(), server.checksums());
}

/// A tail may hold more than a segment may now.
#[test]
fn a_lowered_segment_size_goes_on_with_a_longer_tail() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "server");
    pgbench_tables(&server, 1);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    server.switch_wal();
    pitr.catch_up();
    let mut archiver = pitr.archive();
    let load = Load::pgbench(&server, 2);
    wait_for_wal(&server, 3 << 20);
    load.stop(&server);
    archiver.wait_until_caught_up(&server);
    archiver.stop();
    assert_eq!(tails(&pitr), 1);

    let config = scratch.join("pitr.toml");
    std::fs::write(&config, "[stream]\nsegment_size = \"1MiB\"\n").unwrap();
    let pitr = pitr.env("PITR_CONFIG", config.display().to_string());
    let mut archiver = pitr.archive();
    let load = Load::pgbench(&server, 2);
    wait_for_wal(&server, 1 << 20);
    load.stop(&server);
    let end = server.switch_wal();
    archiver.wait_until_acknowledged(&server, end);
    archiver.stop();
    pitr.catch_up();
    pitr.ok(["verify", "--read-data"]);
    assert!(assert_segments_equal_wal(&pitr.cluster_dir(), &server, 1, end) >= 1);
}

/// A standby's clock goes on when its primary's log no longer comes.
#[test]
fn a_standby_does_not_tell_up_to_when_the_log_is_complete() {
    let scratch = Scratch::new();
    let primary = Server::builder(&scratch, "primary").wal_segment_mib(1).start();
    marker_table(&primary);
    let standby = primary.standby(&scratch, "standby");
    let from_standby = Pitr::with_store(&scratch, "from_standby").source(&standby);
    let from_primary = Pitr::with_store(&scratch, "from_primary").source(&primary);
    for pitr in [&from_standby, &from_primary] {
        pitr.ok(["init"]);
        pitr.catch_up();
    }
    let row = mark(&primary);
    let time = marker_commit_times(&primary)[&row].clone();
    let later = primary.sql(&format!("select pg_sleep(0.3), timestamptz '{time}' + interval '0.1 s'"));
    let later = later.rsplit('|').next().unwrap().to_owned();
    let end = crate::support::server::format_lsn(primary.flush_lsn());
    condition("the standby to follow", PATIENCE, || {
        (standby.sql(&format!("select pg_last_wal_replay_lsn() >= '{end}'")) == "t").then_some(())
    });
    for (pitr, known) in [(&from_primary, true), (&from_standby, false)] {
        pitr.catch_up();
        pitr.ok(["plan", "--target-time", &time]);
        let planned = pitr.run(["plan", "--target-time", &later]);
        assert_eq!(planned.code == Some(0), known, "{planned}");
    }
}

/// What a restore needs, streaming can do without.
#[test]
fn a_damaged_base_does_not_stop_streaming() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).start();
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let base = std::fs::read_dir(pitr.cluster_dir().join("base")).unwrap().next().unwrap().unwrap().path();
    let manifest = base.join("manifest.json");
    std::fs::remove_file(&manifest).unwrap();
    std::fs::write(&manifest, "{").unwrap();
    pitr.ok(["list"]).says(&["manifest.json"]);
    mark(&server);
    let end = server.switch_wal();
    // With the only base gone it also takes another.
    pitr.catch_up().says(&["manifest.json"]);
    assert!(assert_segments_equal_wal(&pitr.cluster_dir(), &server, 1, end) >= 1);
    assert_eq!(std::fs::read_dir(pitr.cluster_dir().join("base")).unwrap().count(), 2);
}

/// What an archiver finds in the tail it began last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    /// The file was made and no log written to it.
    Empty,
    /// The beginning of a record, whose rest never came.
    HalfARecord,
}

/// A tail that begins at the start of a WAL file and holds nothing whole; then `meanwhile`
/// happens, and the log goes on.
fn a_tail_without_a_whole_record(
    begun: Begun,
    meanwhile: impl FnOnce(&mut Server, &Pitr<'_>, &Relay, Archiver) -> Archiver,
) {
    let scratch = Scratch::new();
    let mut server = Server::builder(&scratch, "server").wal_segment_mib(1).setting("autovacuum", "off").start();
    marker_table(&server);
    let relay = Relay::new(&scratch, &server);
    let pitr = Pitr::new(&scratch).source_url(relay.url());
    pitr.ok(["init"]);
    pitr.catch_up();
    let mut archiver = pitr.archive();
    let mut rows = std::collections::BTreeSet::from([mark(&server)]);
    archiver.wait_until_caught_up(&server);
    let size = server.wal_segment_bytes();
    let next = (server.flush_lsn() / size + 1) * size;
    // The header of the first page: what begins so is refused, and nothing of it written. Or
    // the middle of a record that takes many messages.
    relay.set(match begun {
        Begun::Empty => Harm::Change(next),
        Begun::HalfARecord => Harm::Cut(next + 300_000),
    });
    server.sql("select pg_switch_wal(); select pg_logical_emit_message(true, '', repeat('half', 150000))");
    relay.wait_until_closed();
    condition("the archiver to notice", PATIENCE, || archiver.said().contains("streaming stopped").then_some(()));
    let name = tail_names(&pitr).into_iter().find(|name| name.starts_with(&format!("tail-{next:016X}-")));
    let name = name.unwrap_or_else(|| panic!("no tail at {next:X}: {:?}", tail_names(&pitr)));
    let tail = std::fs::read(pitr.cluster_dir().join("log/00000001").join(&name)).unwrap();
    // XLOG_PAGE_MAGIC of PostgreSQL 15 (`src/include/access/xlog_internal.h`).
    assert_eq!(tail.starts_with(&0xD110_u16.to_le_bytes()), begun == Begun::HalfARecord);
    assert!(acknowledged(&server).unwrap() <= next);

    let mut archiver = meanwhile(&mut server, &pitr, &relay, archiver);
    relay.set(Harm::None);
    rows.insert(mark(&server));
    archiver.wait_until_caught_up(&server);
    let end = server.switch_wal();
    archiver.wait_until_acknowledged(&server, end);
    archiver.stop();
    pitr.catch_up();
    assert!(tails(&pitr) <= 1, "{:?}", tail_names(&pitr));
    let list = pitr.json(&["list"]);
    assert_eq!(list["gaps"].as_array().unwrap().len(), 0, "{list:#}");
    pitr.ok(["verify", "--read-data"]);
    assert!(assert_segments_equal_wal(&pitr.cluster_dir(), &server, 1, end) >= 2);
    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target", "latest"]);
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(marker_xids(&restored), rows);
}

#[test]
fn a_tail_without_a_whole_record_is_gone_on_with_after_a_new_connection() {
    for begun in [Begun::Empty, Begun::HalfARecord] {
        a_tail_without_a_whole_record(begun, |_, _, _, archiver| archiver);
    }
}

#[test]
fn a_tail_without_a_whole_record_is_gone_on_with_when_the_server_was_restarted() {
    for begun in [Begun::Empty, Begun::HalfARecord] {
        a_tail_without_a_whole_record(begun, |server, _, _, archiver| {
            server.stop_immediate();
            server.start();
            archiver
        });
    }
}

#[test]
fn a_tail_without_a_whole_record_is_gone_on_with_by_the_next_archiver() {
    for begun in [Begun::Empty, Begun::HalfARecord] {
        a_tail_without_a_whole_record(begun, |_, pitr, relay, archiver| {
            archiver.kill();
            relay.set(Harm::None);
            pitr.archive()
        });
    }
}
