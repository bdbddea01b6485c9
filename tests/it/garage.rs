//! Promise: an archive in a real service of several nodes loses nothing when they die and come back. That
//! service is Garage, which keeps no condition of a create: pitr says so.

use crate::mysql_restore::{Place, assert_ordinary, start};
use crate::mysql_stream::{assert_export_equals_binlogs, wait_until_it_follows};
use crate::support::garage::{Garage, KEY_SECRET};
use crate::support::load::{marker_table, pgbench_tables, wait_for_wal};
use crate::support::mysql::{self, Make, wait_for_log};
use crate::support::oracle::{amcheck, assert_export_equals_wal, marker_xids, open_restored};
use crate::support::pitr::Archiver;
use crate::support::{Load, PATIENCE, Pitr, Scratch, Server, condition};

fn server(scratch: &Scratch) -> Server {
    let server = Server::builder(scratch, "server").wal_segment_mib(1).setting("autovacuum", "off").start();
    marker_table(&server);
    server
}

#[test]
#[ignore = "needs Garage, which is built for minutes: make test-garage"]
fn it_is_for_one_archiver_and_pitr_says_so() {
    let scratch = Scratch::new();
    let garage = Garage::start(&scratch);
    let server = server(&scratch);
    let pitr = garage.pitr(&scratch, 0).source(&server);
    let apart = ["cannot keep two archivers apart", "it replaces objects", "only one archiver"];
    pitr.ok(["init"]).says(&apart).hides(KEY_SECRET);
    pitr.ok(["check"]).says(&["warning", "it replaces objects", "only one archiver"]);
    pitr.catch_up().says(&["see to it that there is only one"]);
    pitr.ok(["verify", "--read-data"]);
}

/// Runs `harm` on Garage while PostgreSQL is archived under load by way of its first node; then everything is there,
/// read by way of another one.
fn postgres_is_archived_while(harm: impl FnOnce(&mut Garage, &Server, &mut Archiver)) {
    let scratch = Scratch::new();
    let mut garage = Garage::start(&scratch);
    let server = server(&scratch);
    pgbench_tables(&server, 1);
    let pitr = garage.pitr(&scratch, 0).source(&server);
    let begin = server.flush_lsn();
    pitr.catch_up();
    let (load, markers) = (Load::pgbench_at(&server, 2, 400), Load::markers(&scratch, &server, 2, 5));
    let mut archiver = pitr.archive_with(&["--no-backup"]);
    archiver.wait_until_streaming();
    follows_a_while(&server, &mut archiver);
    harm(&mut garage, &server, &mut archiver);
    follows_a_while(&server, &mut archiver);
    load.stop(&server);
    markers.stop(&server);
    let end = server.switch_wal();
    archiver.wait_until_acknowledged(&server, end);
    archiver.stop();
    let pitr = garage.pitr(&scratch, 1).source(&server);
    assert_holds_everything(&scratch, &pitr, &server, begin, end);
}

/// The server goes on writing, and its log is archived.
fn follows_a_while(server: &Server, archiver: &mut Archiver) {
    wait_for_wal(server, 2 << 20);
    archiver.wait_until_caught_up(server);
}

fn assert_holds_everything(scratch: &Scratch, pitr: &Pitr<'_>, server: &Server, begin: u64, end: u64) {
    let export = scratch.join("export");
    pitr.ok(["export".as_ref(), export.as_os_str()]);
    assert!(assert_export_equals_wal(&export, server, 1, begin, end) >= 6);
    pitr.ok(["verify", "--read-data"]).says(&["the archive is sound"]);
    let to = scratch.join("restored");
    pitr.restore(server, &to, &["--target", "latest"]);
    let restored = open_restored(scratch, "restored", server, &to);
    assert_eq!(marker_xids(&restored), marker_xids(server));
    assert_eq!(restored.checksums(), server.checksums());
    amcheck(&restored);
}

#[test]
#[ignore = "needs Garage, which is built for minutes: make test-garage"]
fn another_node_dies_and_comes_back_and_archiving_goes_on() {
    postgres_is_archived_while(|garage, server, archiver| {
        garage.kill(2);
        follows_a_while(server, archiver);
        archiver.assert_running();
        garage.run(2);
    });
}

#[test]
#[ignore = "needs Garage, which is built for minutes: make test-garage"]
fn the_node_that_pitr_talks_to_dies_and_comes_back() {
    postgres_is_archived_while(|garage, server, archiver| {
        garage.kill(0);
        wait_for_wal(server, 2 << 20);
        condition("the archiver to notice", PATIENCE, || archiver.said().contains("trying again").then_some(()));
        archiver.assert_running();
        garage.run(0);
    });
}

#[test]
#[ignore = "needs Garage, which is built for minutes: make test-garage"]
fn binlogs_are_archived_while_nodes_die_and_come_back() {
    let scratch = Scratch::new();
    let mut garage = Garage::start(&scratch);
    let server = start(&scratch, Make::MariaDb1011, &[]);
    let place = Place::with(garage.pitr(&scratch, 0), &scratch, &server);
    place.pitr.ok(["archive", "--exit-when-caught-up"]);
    let load = mysql::Load::markers(&server, 4, 1);
    let mut archiver = place.pitr.archive_with(&["--no-backup"]);
    archiver.wait_until_streaming();
    wait_for_log(&server, 1 << 18);
    for node in [2, 0] {
        garage.kill(node);
        wait_for_log(&server, 1 << 18);
        server.flush_logs();
        garage.run(node);
        wait_for_log(&server, 1 << 18);
    }
    load.stop(&server);
    // The archiver waits for the service as long as it takes; other commands do so for seconds.
    garage.wait_until_healthy(0);
    wait_until_it_follows(&place.pitr);
    archiver.assert_running();
    archiver.stop();
    let place = Place::with(garage.pitr(&scratch, 1), &scratch, &server);
    assert_export_equals_binlogs(&place.pitr, &scratch.join("export"), &server);
    place.pitr.ok(["verify", "--read-data"]).says(&["the archive is sound"]);
    let restored = place.latest("restored");
    assert_ordinary(&restored);
    assert_eq!(restored.checksums(), server.checksums());
}
