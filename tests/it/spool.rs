//! Promise: while the store is away, log goes on into the spool, survives there, and comes to the store in order.

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::failover::wait_for_standby;
use crate::mysql_stream::{assert_export_equals_binlogs, wait_until_it_follows};
use crate::support::load::{mark, marker_table};
use crate::support::mysql::{self, Make, MySqlServer};
use crate::support::oracle::{assert_segments_equal_wal, marker_xids, open_restored};
use crate::support::pitr::{Archiver, acknowledged};
use crate::support::s3::{Harm, S3};
use crate::support::{Load, PATIENCE, Pitr, Scratch, Server, condition};

fn away(s3: &S3) {
    s3.harm_when(|_| Some(Harm::Refused(503, "ServiceUnavailable")));
}

fn wait_until_it_tells(archiver: &Archiver) {
    let told = || archiver.said().contains("the store takes nothing").then_some(());
    condition("the archiver to tell of the outage", PATIENCE, told);
}

/// An archiver at work, which needs nothing of the store but to bring more log there.
fn caught_up(pitr: &Pitr<'_>, server: &Server, words: &[&str]) -> Archiver {
    let mut archiver = pitr.archive_with(words);
    archiver.wait_until_streaming();
    archiver.wait_until_caught_up(server);
    archiver
}

fn source(scratch: &Scratch) -> Server {
    let server = Server::builder(scratch, "server").wal_segment_mib(1).setting("autovacuum", "off").start();
    marker_table(&server);
    server
}

fn with_spool<'a>(scratch: &'a Scratch, s3: &S3, ack: &str) -> Pitr<'a> {
    let spool = scratch.join("spool").to_str().unwrap().to_owned();
    Pitr::in_bucket(scratch, s3, "db").env("PITR_SPOOL", spool).env("PITR_ACK", ack)
}

/// The files in the spool whose names begin or end so.
fn spooled(scratch: &Scratch, is: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(&scratch.join("spool"), &mut found);
    found.retain(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(&is));
    found
}

fn segments(scratch: &Scratch) -> usize {
    spooled(scratch, |name| name.ends_with(".lz4") || name.ends_with(".zst")).len()
}

fn assert_all_is_there(scratch: &Scratch, pitr: &Pitr<'_>, server: &Server, end: u64, files: usize) {
    assert!(assert_segments_equal_wal(&pitr.cluster_dir(), server, 1, end) >= files);
    pitr.ok(["verify", "--read-data"]);
    let to = scratch.join("restored");
    pitr.restore(server, &to, &["--target", "latest"]);
    assert_eq!(marker_xids(&open_restored(scratch, "restored", server, &to)), marker_xids(server));
}

#[test]
fn log_waits_in_the_spool_and_nothing_is_acknowledged_that_the_store_lacks() {
    let scratch = Scratch::new();
    let (s3, server) = (S3::start(&scratch), source(&scratch));
    let pitr = with_spool(&scratch, &s3, "store").source(&server);
    let archiver = caught_up(&pitr, &server, &[]);
    let before = server.flush_lsn();
    away(&s3);
    let load = Load::markers(&scratch, &server, 2, 5);
    for _ in 0..6 {
        mark(&server);
        server.switch_wal();
    }
    condition("segments in the spool", PATIENCE, || (segments(&scratch) >= 3).then_some(()));
    assert!(acknowledged(&server).unwrap() <= before, "told of what only the spool has");
    archiver.kill();
    load.stop(&server);

    s3.heal();
    let end = server.switch_wal();
    let mut archiver = pitr.archive();
    archiver.wait_until_acknowledged(&server, end);
    archiver.stop().says(&["the spool's segment is in the store"]);
    assert_eq!(segments(&scratch), 0);
    assert_all_is_there(&scratch, &pitr, &server, end, 6);
}

/// Commits that wait for pitr go on without the store, and what was acknowledged is in the archive in the end.
#[test]
fn an_acknowledged_spool_lets_synchronous_commits_go_on() {
    let scratch = Scratch::new();
    let (s3, server) = (S3::start(&scratch), source(&scratch));
    let pitr = with_spool(&scratch, &s3, "spool").source(&server);
    let mut archiver = caught_up(&pitr, &server, &[]);
    away(&s3);
    server.sql("alter system set synchronous_standby_names = 'pitr'; select pg_reload_conf()");
    let mut end = 0;
    for _ in 0..4 {
        mark(&server);
        end = server.switch_wal();
    }
    archiver.wait_until_acknowledged(&server, end);
    wait_until_it_tells(&archiver);
    condition("segments in the spool", PATIENCE, || (segments(&scratch) >= 1).then_some(()));
    mark(&server);
    archiver.kill().says(&["lost with this disk", "the store takes nothing"]);

    server.sql("alter system reset synchronous_standby_names; select pg_reload_conf()");
    s3.heal();
    let end = server.switch_wal();
    let mut archiver = pitr.archive();
    archiver.wait_until_acknowledged(&server, end);
    condition("the store to have it all", PATIENCE, || {
        let known = pitr.run(["export", scratch.join("export").to_str().unwrap()]);
        let _ = fs::remove_dir_all(scratch.join("export"));
        (known.code == Some(0) && segments(&scratch) == 0).then_some(())
    });
    archiver.stop();
    assert_all_is_there(&scratch, &pitr, &server, end, 4);
}

#[test]
fn an_outage_ends_without_a_new_session() {
    let scratch = Scratch::new();
    let (s3, server) = (S3::start(&scratch), source(&scratch));
    let pitr = with_spool(&scratch, &s3, "store").source(&server);
    let mut archiver = caught_up(&pitr, &server, &[]);
    away(&s3);
    for _ in 0..4 {
        mark(&server);
        server.switch_wal();
    }
    wait_until_it_tells(&archiver);
    condition("segments in the spool", PATIENCE, || (segments(&scratch) >= 1).then_some(()));
    s3.heal();
    let end = server.switch_wal();
    archiver.wait_until_acknowledged(&server, end);
    let said = archiver.stop().says(&["the store answers again"]).said();
    assert_eq!(said.matches("streaming timeline").count(), 1, "{said}");
    assert_eq!(segments(&scratch), 0);
    assert_all_is_there(&scratch, &pitr, &server, end, 4);
}

/// After a power cut the end of a tail may be anything.
#[test]
fn a_torn_tail_in_the_spool_is_read_again_from_the_server() {
    let scratch = Scratch::new();
    let (s3, server) = (S3::start(&scratch), source(&scratch));
    let pitr = with_spool(&scratch, &s3, "store").source(&server);
    pitr.catch_up();
    let archiver = caught_up(&pitr, &server, &["--no-backup"]);
    away(&s3);
    mark(&server);
    server.sql("create table filling as select n, md5(n::text) from generate_series(1, 3000) n");
    mark(&server);
    let tails = || spooled(&scratch, |name| name.starts_with("tail-"));
    let len = |tail: &PathBuf| {
        let bytes = fs::read(tail).unwrap_or_default();
        bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count()
    };
    condition("log in the tail", PATIENCE, || (tails().iter().map(len).max() > Some(150_000)).then_some(()));
    archiver.kill();
    for tail in tails() {
        let torn = len(&tail) / 2;
        let mut file = OpenOptions::new().write(true).open(&tail).unwrap();
        file.seek(SeekFrom::Start(torn as u64)).unwrap();
        file.write_all(&[0x5a; 4096]).unwrap();
    }
    s3.heal();
    let end = server.switch_wal();
    let mut archiver = pitr.archive_with(&["--no-backup"]);
    archiver.wait_until_acknowledged(&server, end);
    archiver.stop();
    assert_all_is_there(&scratch, &pitr, &server, end, 1);
}

/// What the spool holds of the old timeline comes to the store, although nobody goes on with that.
#[test]
fn a_promotion_while_the_store_is_away_leaves_no_hole_in_the_old_timeline() {
    let scratch = Scratch::new();
    let (s3, mut primary) = (S3::start(&scratch), source(&scratch));
    let standby = primary.standby(&scratch, "standby");
    let pitr = with_spool(&scratch, &s3, "spool").source(&primary);
    pitr.catch_up();
    let mut archiver = caught_up(&pitr, &primary, &["--no-backup"]);
    away(&s3);
    for _ in 0..3 {
        mark(&primary);
        primary.switch_wal();
    }
    mark(&primary);
    archiver.wait_until_caught_up(&primary);
    archiver.kill();
    wait_for_standby(&primary, &standby);
    primary.stop_immediate();
    standby.promote();
    s3.heal();

    mark(&standby);
    let pitr = with_spool(&scratch, &s3, "spool").source(&standby);
    let mut archiver = pitr.archive_with(&["--no-backup"]);
    // Its slot is new there, and says nothing of what lies before.
    let followed = || archiver.said().contains("streaming timeline=2").then_some(());
    condition("the new timeline to be streamed", PATIENCE, followed);
    mark(&standby);
    let end = standby.switch_wal();
    archiver.wait_until_acknowledged(&standby, end);
    archiver.stop();
    pitr.ok(["verify", "--read-data"]);
    let to = scratch.join("restored");
    pitr.restore(&standby, &to, &["--target", "latest"]);
    assert_eq!(marker_xids(&open_restored(&scratch, "restored", &standby, &to)), marker_xids(&standby));
}

#[test]
fn a_full_spool_leaves_the_log_to_the_server() {
    let scratch = Scratch::new();
    let (s3, server) = (S3::start(&scratch), source(&scratch));
    server.sql("create table noise (bytes bytea)");
    fs::write(scratch.join("pitr.toml"), "[stream]\nsegment_size = \"1MiB\"\nspool_size = \"12MiB\"\n").unwrap();
    let pitr = with_spool(&scratch, &s3, "spool").source(&server);
    pitr.catch_up();
    let mut archiver = caught_up(&pitr, &server, &["--no-backup"]);
    away(&s3);
    let noise = "insert into noise select string_agg(sha512(random()::text::bytea), '') from generate_series(1, 8000)";
    for _ in 0..24 {
        server.sql(noise);
        server.sql("select pg_switch_wal()");
    }
    condition("the spool to be full", PATIENCE, || archiver.said().contains("the spool is full").then_some(()));
    archiver.assert_running();
    let bytes: u64 = spooled(&scratch, |_| true).iter().filter_map(|path| Some(fs::metadata(path).ok()?.len())).sum();
    assert!(bytes <= 12 << 20, "{bytes} bytes in the spool");
    assert!(acknowledged(&server).unwrap() < server.flush_lsn() - (4 << 20));
    s3.heal();
    let end = server.switch_wal();
    archiver.wait_until_acknowledged(&server, end);
    condition("an empty spool", PATIENCE, || (segments(&scratch) == 0).then_some(()));
    archiver.stop().says(&["the spool has room again"]);
    assert_all_is_there(&scratch, &pitr, &server, end, 20);
}

#[test]
fn binlogs_wait_in_the_spool_too() {
    let scratch = Scratch::new();
    let s3 = S3::start(&scratch);
    let server = MySqlServer::start(&scratch, "source", Make::MariaDb1011, &[] as &[&str]);
    mysql::marker_table(&server);
    let pitr = with_spool(&scratch, &s3, "spool").source_url(server.url());
    let archiver = pitr.archive_with(&["--no-backup"]);
    archiver.wait_until_streaming();
    mysql::mark(&server);
    wait_until_it_follows(&pitr);
    away(&s3);
    for _ in 0..3 {
        mysql::mark(&server);
        server.flush_logs();
    }
    condition("the outage to be seen", PATIENCE, || archiver.said().contains("the store takes nothing").then_some(()));
    archiver.kill();
    s3.heal();
    mysql::mark(&server);
    let archiver = pitr.archive_with(&["--no-backup"]);
    wait_until_it_follows(&pitr);
    archiver.stop();
    assert_export_equals_binlogs(&pitr, &scratch.join("export"), &server);
}

/// Where the archive counts the offsets, another archiver gives them to other log.
#[test]
fn a_spool_that_another_archiver_has_overtaken_is_set_aside() {
    let scratch = Scratch::new();
    let s3 = S3::start(&scratch);
    let server = MySqlServer::start(&scratch, "source", Make::MariaDb1011, &[] as &[&str]);
    mysql::marker_table(&server);
    let pitr = with_spool(&scratch, &s3, "store").source_url(server.url());
    let archiver = pitr.archive_with(&["--no-backup"]);
    archiver.wait_until_streaming();
    mysql::mark(&server);
    wait_until_it_follows(&pitr);
    away(&s3);
    mysql::mark(&server);
    condition("the outage to be seen", PATIENCE, || archiver.said().contains("the store takes nothing").then_some(()));
    archiver.kill();
    s3.heal();
    let other = Pitr::in_bucket(&scratch, &s3, "db").source_url(server.url());
    mysql::mark(&server);
    other.ok(["archive", "--no-backup", "--exit-when-caught-up"]);
    mysql::mark(&server);
    pitr.ok(["archive", "--no-backup", "--exit-when-caught-up"]).says(&["another archiver has gone on", "aside-1"]);
    assert_export_equals_binlogs(&pitr, &scratch.join("export"), &server);
}

#[test]
fn a_spool_is_for_one_archiver_and_for_a_remote_store() {
    let scratch = Scratch::new();
    let (s3, server) = (S3::start(&scratch), source(&scratch));
    let pitr = with_spool(&scratch, &s3, "store").source(&server);
    let mut first = pitr.archive_with(&["--no-backup"]);
    first.wait_until_caught_up(&server);
    pitr.run(["archive", "--no-backup"]).exit(5).says(&["another archiver uses the spool", "--spool"]);
    first.stop();
    let spool = scratch.join("spool");
    let local = Pitr::new(&scratch).source(&server);
    local.ok(["init"]);
    let words = ["archive", "--no-backup", "--spool", spool.to_str().unwrap()];
    local.run(words).exit(5).says(&["needs no spool"]);
    local.run(["archive", "--no-backup", "--ack", "spool"]).exit(5).says(&["no spool is named"]);
    let small = [&words[..], &["--spool-size", "1MiB"]].concat();
    pitr.run(small).exit(5).says(&["too small"]);
}
