//! Promise: what stands still or is slow delays the archive and does it no other harm. The
//! archiver ends when it is asked to, whatever the server does, and acknowledges nothing
//! before it is durable, however long that takes.

use std::time::{Duration, Instant};

use crate::support::load::{mark, marker_table, pgbench_tables, wait_for_wal};
use crate::support::oracle::{assert_segments_equal_wal, marker_xids, open_restored};
use crate::support::pitr::{Archiver, acknowledged};
use crate::support::relay::{Harm, Relay};
use crate::support::server::{Frozen, parse_lsn};
use crate::support::{Load, PATIENCE, Pitr, Scratch, Server, condition};

/// The archiver gives the server five seconds; the rest is for a busy machine.
const END_MAX: Duration = Duration::from_secs(30);

fn archived_server(scratch: &Scratch, settings: &[(&str, &str)]) -> Server {
    let mut server = Server::builder(scratch, "server").wal_segment_mib(1);
    for (key, value) in settings {
        server = server.setting(key, value);
    }
    let server = server.start();
    pgbench_tables(&server, 1);
    marker_table(&server);
    server
}

/// An archiver that streams: it has acknowledged what came after its start.
#[track_caller]
fn streaming(server: &Server, mut archiver: Archiver) -> Archiver {
    mark(server);
    archiver.wait_until_caught_up(server);
    archiver
}

/// Where the last whole record in the archive ends.
fn archived_end(pitr: &Pitr<'_>) -> u64 {
    parse_lsn(pitr.json(&["plan", "--target", "latest"])["cut"].as_str().unwrap())
}

/// Ends the archiver; gives up to where it says the log is durable.
#[track_caller]
fn end(archiver: Archiver) -> u64 {
    let ended = archiver.stop_within(END_MAX).says(&["everything received is durable"]);
    parse_lsn(ended.said().split("durable=").last().unwrap().split_whitespace().next().unwrap())
}

/// The log goes on without a gap, and is the server's.
#[track_caller]
fn assert_whole(pitr: &Pitr<'_>, server: &Server) {
    let end = server.switch_wal();
    pitr.catch_up();
    let list = pitr.json(&["list"]);
    assert_eq!(list["gaps"].as_array().unwrap().len(), 0, "{list:#}");
    assert!(assert_segments_equal_wal(&pitr.cluster_dir(), server, 1, end) >= 2);
}

#[test]
fn a_frozen_server_does_not_keep_the_archiver_from_ending() {
    let scratch = Scratch::new();
    let server = archived_server(&scratch, &[]);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let archiver = streaming(&server, pitr.archive());
    let load = Load::pgbench(&server, 2);
    wait_for_wal(&server, 2 << 20);
    let frozen = server.freeze();
    let durable = end(archiver);
    assert!(archived_end(&pitr) >= durable);
    drop(frozen);
    load.stop(&server);
    assert!(acknowledged(&server).unwrap() <= durable);
    assert_whole(&pitr, &server);
}

/// It answers the login and nothing more, to the archiver's first connection and to a later one.
#[test]
fn a_server_that_falls_silent_does_not_keep_the_archiver_from_ending() {
    let scratch = Scratch::new();
    let server = archived_server(&scratch, &[]);
    let relay = Relay::new(&scratch, &server);
    let pitr = Pitr::new(&scratch).source_url(relay.url());
    pitr.ok(["init"]);
    pitr.catch_up();
    for later in [false, true] {
        relay.set(if later { Harm::None } else { Harm::Silent });
        let mut archiver = pitr.archive();
        if later {
            archiver = streaming(&server, archiver);
            relay.set(Harm::Cut(0));
            mark(&server);
            relay.wait_until_closed();
            relay.set(Harm::Silent);
        }
        let before = relay.unanswered();
        condition("a question without an answer", PATIENCE, || (relay.unanswered() > before).then_some(()));
        archiver.stop_within(END_MAX);
    }
    relay.set(Harm::None);
    assert_whole(&pitr, &server);
}

/// Its log still comes, but it takes none of our answers, until no more of them can be sent.
#[test]
fn a_server_that_takes_nothing_does_not_keep_the_archiver_from_ending() {
    let scratch = Scratch::new();
    let server = archived_server(&scratch, &[("wal_sender_timeout", "0")]);
    let relay = Relay::new(&scratch, &server);
    let pitr = Pitr::new(&scratch).source_url(relay.url());
    pitr.ok(["init"]);
    pitr.catch_up();
    let mut archiver = streaming(&server, pitr.archive());
    relay.set(Harm::Deaf);
    let load = Load::pgbench(&server, 2);
    condition("the archiver to take nothing either", PATIENCE, || {
        archiver.assert_running();
        let behind = server.sql("select pg_current_wal_flush_lsn() - sent_lsn from pg_stat_replication");
        (behind.parse::<u64>().ok()? > 8 << 20).then_some(())
    });
    let durable = end(archiver);
    assert!(archived_end(&pitr) >= durable);
    relay.set(Harm::None);
    load.stop(&server);
    assert!(acknowledged(&server).unwrap() <= durable);
    assert_whole(&pitr, &server);
}

fn walsenders(server: &Server) -> String {
    server.sql("select pid from pg_stat_replication")
}

/// As when the machine is suspended, or its disk blocks everything: for a moment, and for
/// longer than the server waits.
#[test]
fn an_archiver_that_stood_still_goes_on_where_it_was() {
    let scratch = Scratch::new();
    let server = archived_server(&scratch, &[]);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let mut archiver = streaming(&server, pitr.archive());
    for dropped in [false, true] {
        let load = Load::pgbench(&server, 2);
        wait_for_wal(&server, 1 << 20);
        let walsender = walsenders(&server);
        let frozen = Frozen::process(archiver.pid());
        wait_for_wal(&server, 2 << 20);
        if dropped {
            server.sql("alter system set wal_sender_timeout = '1s'; select pg_reload_conf()");
            condition("the server to drop the connection", PATIENCE, || walsenders(&server).is_empty().then_some(()));
            server.sql("alter system reset wal_sender_timeout; select pg_reload_conf()");
        }
        let told = acknowledged(&server).unwrap();
        assert!(archived_end(&pitr) >= told, "acknowledged what is not there");
        drop(frozen);
        load.stop(&server);
        archiver.wait_until_caught_up(&server);
        assert_eq!(walsenders(&server) == walsender, !dropped);
    }
    archiver.stop();
    assert_whole(&pitr, &server);
}

/// Each sync takes its time, as on a disk that is all but dead: `strace` holds up the
/// archiver's own system calls, which then do what they always do.
#[test]
fn a_slow_disk_delays_acknowledgements_and_nothing_else() {
    const SYNC: Duration = Duration::from_millis(500);
    let scratch = Scratch::new();
    let server = archived_server(&scratch, &[("wal_sender_timeout", "5s")]);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let inject = format!("inject=fsync,fdatasync:delay_enter={}", SYNC.as_micros());
    let strace = "strace -D -f -q -o /dev/null -e signal=none -e trace=fsync,fdatasync -e";
    let mut slow: Vec<String> = strace.split(' ').map(String::from).collect();
    slow.push(inject);
    let mut archiver = streaming(&server, pitr.archive_by(&slow, &[]));
    let walsender = walsenders(&server);

    // Each commit waits until it is durable here, all of them longer than the server waits
    // for a sign of life.
    server.sql("alter system set synchronous_standby_names = 'pitr'; select pg_reload_conf()");
    condition("commits to wait for pitr", PATIENCE, || {
        (server.sql("select sync_state from pg_stat_replication") == "sync").then_some(())
    });
    for _ in 0..12 {
        let began = Instant::now();
        mark(&server);
        assert!(began.elapsed() >= SYNC, "acknowledged before it was synced");
    }
    server.sql("alter system reset synchronous_standby_names; select pg_reload_conf()");

    let load = Load::pgbench(&server, 2);
    for _ in 0..3 {
        wait_for_wal(&server, 1 << 20);
        let told = acknowledged(&server).unwrap();
        assert!(archived_end(&pitr) >= told, "acknowledged what is not there");
    }
    load.stop(&server);
    archiver.wait_until_caught_up(&server);
    assert_eq!(walsenders(&server), walsender, "the connection was lost");
    archiver.stop();
    assert_whole(&pitr, &server);
    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target", "latest"]);
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(marker_xids(&restored), marker_xids(&server));
}
