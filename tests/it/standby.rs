//! Promise: of a pair of archivers the second goes on when the first falls silent, and only then.

use rustix::process::{Signal, kill_process};

use crate::mysql_stream::{assert_export_equals_binlogs, wait_until_it_follows};
use crate::support::load::{mark, marker_table};
use crate::support::mysql::{self, Make, MySqlServer};
use crate::support::oracle::assert_segments_equal_wal;
use crate::support::s3::S3;
use crate::support::{PATIENCE, Pitr, Scratch, Server, condition};

const STANDBY: &[&str] = &["--no-backup", "--standby=2s"];

fn epochs(pitr: &Pitr<'_>) -> usize {
    std::fs::read_dir(pitr.cluster_dir().join("epoch")).map_or(0, Iterator::count)
}

#[test]
fn a_standby_takes_over_from_an_archiver_that_hangs_and_that_one_ends() {
    let scratch = Scratch::new();
    let s3 = S3::start(&scratch);
    // The server gives up the connection of the one that hangs, and with it the slot.
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).setting("wal_sender_timeout", "2s").start();
    marker_table(&server);
    let pitr = Pitr::in_bucket(&scratch, &s3, "db").source(&server);
    pitr.catch_up();
    let mut first = pitr.archive_with(&["--no-backup"]);
    first.wait_until_caught_up(&server);
    first.wait_until_streaming();
    let mut second = pitr.archive_with(STANDBY);
    // It looks again and again, and has nothing to do.
    let before = s3.requests();
    condition("the standby to look", PATIENCE, || (s3.requests() > before + 60).then_some(()));
    mark(&server);
    first.wait_until_caught_up(&server);
    assert!(!second.said().contains("taking over"), "{}", second.said());
    let claimed = epochs(&pitr);

    kill_process(first.pid(), Signal::STOP).unwrap();
    mark(&server);
    let end = server.switch_wal();
    second.wait_until_acknowledged(&server, end);
    assert_eq!(epochs(&pitr), claimed + 1);
    kill_process(first.pid(), Signal::CONT).unwrap();
    first.wait().exit(4).says(&["was claimed by"]);
    second.stop().says(&["has fallen silent", "taking over"]);
    assert!(assert_segments_equal_wal(&pitr.cluster_dir(), &server, 1, end) >= 1);
    pitr.ok(["verify", "--read-data"]);
}

#[test]
fn a_standby_takes_over_binlogs_from_an_archiver_that_died() {
    let scratch = Scratch::new();
    let s3 = S3::start(&scratch);
    let server = MySqlServer::start(&scratch, "source", Make::MariaDb1011, &[] as &[&str]);
    mysql::marker_table(&server);
    let pitr = Pitr::in_bucket(&scratch, &s3, "db").source_url(server.url());
    let first = pitr.archive_with(&["--no-backup"]);
    first.wait_until_streaming();
    let second = pitr.archive_with(STANDBY);
    mysql::mark(&server);
    wait_until_it_follows(&pitr);
    first.kill();
    mysql::mark(&server);
    server.flush_logs();
    wait_until_it_follows(&pitr);
    second.stop().says(&["taking over"]);
    assert_export_equals_binlogs(&pitr, &scratch.join("export"), &server);
}

#[test]
fn a_standby_that_is_asked_to_stop_leaves_no_trace() {
    let scratch = Scratch::new();
    let s3 = S3::start(&scratch);
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).start();
    marker_table(&server);
    let pitr = Pitr::in_bucket(&scratch, &s3, "db").source(&server);
    pitr.catch_up();
    let claimed = epochs(&pitr);
    let standby = pitr.archive_with(&["--no-backup", "--standby"]);
    condition("it to stand by", PATIENCE, || standby.said().contains("standing by").then_some(()));
    standby.stop();
    assert_eq!(epochs(&pitr), claimed);
}
