//! Promise: of several stores each is the archive; one that goes away is passed over, or waited for, and brought up when it
//! comes back, whatever is killed meanwhile.

use std::fs;
use std::path::Path;

use crate::mysql_restore::{Place, start};
use crate::support::load::{mark, marker_table};
use crate::support::mysql::{self, Make};
use crate::support::oracle::{assert_segments_equal_wal, marker_xids, open_restored};
use crate::support::pitr::{Archiver, acknowledged};
use crate::support::s3::{Harm, KEY_ID, KEY_SECRET, S3};
use crate::support::{Load, PATIENCE, Pitr, Scratch, Server, condition};

/// A server, and two stores.
struct World<'a> {
    scratch: &'a Scratch,
    server: Server,
    pitr: Pitr<'a>,
    stores: [String; 2],
}

impl<'a> World<'a> {
    fn new(scratch: &'a Scratch) -> Self {
        let two = scratch.join("two").display().to_string();
        Self::with(scratch, two)
    }

    fn with(scratch: &'a Scratch, second: String) -> Self {
        let server = Server::builder(scratch, "server").wal_segment_mib(1).setting("autovacuum", "off").start();
        marker_table(&server);
        let pitr = Pitr::with_store(scratch, "one")
            .source(&server)
            .env("AWS_ACCESS_KEY_ID", KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", KEY_SECRET)
            .env("AWS_EC2_METADATA_DISABLED", "true");
        let stores = [pitr.store().display().to_string(), second];
        let world = Self { scratch, server, pitr, stores };
        world.pitr.ok(world.words(&["init"]));
        world
    }

    /// A verb for both stores.
    fn words<'w>(&'w self, words: &[&'w str]) -> Vec<&'w str> {
        let both = self.stores.iter().flat_map(|store| ["--store", store.as_str()]);
        words.iter().copied().chain(both).collect()
    }

    fn archive(&self, acks: &str) -> Archiver {
        let mut archiver = self.pitr.archive_with(&self.words(&["--ack-stores", acks]));
        archiver.wait_until_streaming();
        archiver.assert_running();
        archiver
    }

    /// Some whole WAL files.
    fn go_on(&self) {
        for _ in 0..3 {
            mark(&self.server);
            self.server.switch_wal();
        }
        mark(&self.server);
    }

    /// Each store alone gives back the server as it is.
    fn assert_each_is_whole(&self, prefix: &str) {
        let rows = marker_xids(&self.server);
        for (at, store) in self.stores.iter().enumerate() {
            self.pitr.ok(["verify", "--read-data", "--store", store]);
            let name = format!("{prefix}-{at}");
            let to = self.scratch.join(&name);
            self.pitr.restore(&self.server, &to, &["--target", "latest", "--store", store]);
            assert_eq!(marker_xids(&open_restored(self.scratch, &name, &self.server, &to)), rows, "from {store}");
        }
    }
}

/// A directory that is not mounted any more.
struct Away {
    store: String,
    there: String,
}

impl Away {
    fn take(store: &str) -> Self {
        let there = format!("{store}-away");
        fs::rename(store, &there).unwrap();
        Self { store: store.to_owned(), there }
    }

    fn bring_back(self) {
        fs::rename(self.there, self.store).unwrap();
    }
}

fn wait_until_it_says(archiver: &mut Archiver, what: &str) {
    condition(format!("the archiver to say {what:?}"), PATIENCE, || {
        archiver.assert_running();
        archiver.said().contains(what).then_some(())
    });
}

fn tails(store: &str) -> usize {
    let names = fs::read_dir(Path::new(store).join("main/log/00000001")).unwrap().flatten();
    names.filter(|name| name.file_name().to_string_lossy().starts_with("tail-")).count()
}

#[test]
fn each_of_several_stores_is_the_archive() {
    let scratch = Scratch::new();
    let world = World::new(&scratch);
    let mut archiver = world.archive("all");
    let load = Load::markers(&scratch, &world.server, 2, 5);
    world.go_on();
    archiver.wait_until_caught_up(&world.server);
    world.pitr.ok(world.words(&["backup"])).says(&["is stored"]);
    load.stop(&world.server);
    let end = world.server.switch_wal();
    archiver.wait_until_acknowledged(&world.server, end);
    archiver.stop();
    for store in &world.stores {
        assert!(assert_segments_equal_wal(&Path::new(store).join("main"), &world.server, 1, end) >= 3);
        assert_eq!(tails(store), 0);
    }
    let status = world.pitr.json(&world.words(&["status"]));
    assert_eq!(status["schema_version"], 1);
    let stores = status["stores"].as_array().unwrap();
    assert_eq!(stores.len(), 2, "{status}");
    for (store, url) in stores.iter().zip(&world.stores) {
        assert_eq!(
            (store["store"].as_str(), store["behind_bytes"].as_u64()),
            (Some(url.as_str()), Some(0)),
            "{status}"
        );
        assert_eq!(store["archived_to"], stores[0]["archived_to"]);
    }
    world.assert_each_is_whole("restored");
}

#[test]
fn a_store_that_goes_away_is_passed_over_and_brought_up_whatever_is_killed() {
    let scratch = Scratch::new();
    let world = World::new(&scratch);
    let mut archiver = world.archive("1");
    let load = Load::markers(&scratch, &world.server, 2, 5);
    archiver.wait_until_caught_up(&world.server);
    let away = Away::take(&world.stores[1]);
    world.go_on();
    archiver.wait_until_caught_up(&world.server);
    wait_until_it_says(&mut archiver, "a store has fallen behind");
    world.go_on();
    archiver.wait_until_caught_up(&world.server);
    let status = world.pitr.json(&world.words(&["status"]));
    assert!(status["stores"][1]["error"].as_str().unwrap().contains("is not there"), "{status}");
    archiver.kill();

    let mut archiver = world.archive("1");
    archiver.wait_until_caught_up(&world.server);
    world.go_on();
    away.bring_back();
    let behind = world.pitr.json(&world.words(&["status"]));
    assert!(behind["stores"][0]["behind_bytes"].as_u64().is_some(), "{behind}");
    wait_until_it_says(&mut archiver, "a store has everything again");
    archiver.kill();

    // Now the other one, where its base and all its log are.
    let mut archiver = world.archive("1");
    wait_until_it_says(&mut archiver, "a store is up to date");
    let away = Away::take(&world.stores[0]);
    world.go_on();
    let end = world.server.flush_lsn();
    condition("the log to be acknowledged", PATIENCE, || (acknowledged(&world.server)? >= end).then_some(()));
    wait_until_it_says(&mut archiver, "a store has fallen behind");
    away.bring_back();
    load.stop(&world.server);
    let end = world.server.switch_wal();
    archiver.wait_until_acknowledged(&world.server, end);
    archiver.stop();
    world.pitr.ok(world.words(&["archive", "--exit-when-caught-up", "--no-backup", "--ack-stores", "1"]));
    for store in &world.stores {
        assert!(assert_segments_equal_wal(&Path::new(store).join("main"), &world.server, 1, end) >= 9);
    }
    world.assert_each_is_whole("restored");
}

#[test]
fn nothing_is_acknowledged_that_a_store_lacks_which_counts() {
    let scratch = Scratch::new();
    let world = World::new(&scratch);
    let mut archiver = world.archive("all");
    archiver.wait_until_caught_up(&world.server);
    let away = Away::take(&world.stores[1]);
    let before = world.server.flush_lsn();
    world.go_on();
    wait_until_it_says(&mut archiver, "the store takes nothing");
    assert!(acknowledged(&world.server).unwrap() <= before, "told of what one store lacks");
    away.bring_back();
    archiver.wait_until_caught_up(&world.server);
    archiver.stop().says(&["the store answers again"]);
    world.assert_each_is_whole("restored");
}

/// What one store has and the other one lacks, as both have to have it, is in both in the end.
#[test]
fn log_that_waits_for_a_store_in_a_spool_survives_there() {
    let scratch = Scratch::new();
    let mut world = World::new(&scratch);
    world.pitr = world.pitr.env("PITR_SPOOL", scratch.join("spool").display().to_string());
    let mut archiver = world.archive("all");
    archiver.wait_until_caught_up(&world.server);
    let away = Away::take(&world.stores[1]);
    let before = world.server.flush_lsn();
    world.go_on();
    world.go_on();
    wait_until_it_says(&mut archiver, "the store takes nothing");
    archiver.kill();
    assert!(acknowledged(&world.server).unwrap() <= before, "told of what one store lacks");
    away.bring_back();
    let mut archiver = world.archive("all");
    let end = world.server.switch_wal();
    archiver.wait_until_acknowledged(&world.server, end);
    archiver.stop();
    for store in &world.stores {
        assert!(assert_segments_equal_wal(&Path::new(store).join("main"), &world.server, 1, end) >= 6);
    }
    world.assert_each_is_whole("restored");
}

#[test]
fn a_standby_takes_over_in_all_stores() {
    let scratch = Scratch::new();
    let world = World::new(&scratch);
    let mut first = world.archive("all");
    first.wait_until_caught_up(&world.server);
    let mut second = world.pitr.archive_with(&world.words(&["--no-backup", "--standby=2s"]));
    wait_until_it_says(&mut second, "standing by");
    first.kill();
    world.go_on();
    let end = world.server.switch_wal();
    second.wait_until_acknowledged(&world.server, end);
    second.stop().says(&["taking over"]);
    world.assert_each_is_whole("restored");
}

#[test]
fn a_directory_and_a_bucket_hold_one_archive() {
    let scratch = Scratch::new();
    let s3 = S3::start(&scratch);
    let world = World::with(&scratch, s3.url("db"));
    let mut archiver = world.archive("1");
    archiver.wait_until_caught_up(&world.server);
    s3.harm_when(|_| Some(Harm::Refused(503, "ServiceUnavailable")));
    world.go_on();
    archiver.wait_until_caught_up(&world.server);
    wait_until_it_says(&mut archiver, "a store has fallen behind");
    world.go_on();
    s3.heal();
    wait_until_it_says(&mut archiver, "a store has everything again");
    let end = world.server.switch_wal();
    archiver.wait_until_acknowledged(&world.server, end);
    archiver.stop();
    for cluster in [world.pitr.cluster_dir(), s3.dir("db").join("main")] {
        assert!(assert_segments_equal_wal(&cluster, &world.server, 1, end) >= 6);
    }
    world.assert_each_is_whole("restored");
}

/// What one directory has in a tail is in segments of both then.
#[test]
fn a_second_store_gets_what_the_first_had() {
    let scratch = Scratch::new();
    let world = World::new(&scratch);
    let (one, two) = (&world.stores[0], &world.stores[1]);
    world.pitr.ok(["archive", "--exit-when-caught-up", "--store", one]);
    world.go_on();
    world.pitr.ok(["archive", "--exit-when-caught-up", "--store", one]);
    assert_eq!(tails(one), 1);
    world.pitr.ok(world.words(&["archive", "--exit-when-caught-up"])).says(&["a store is up to date"]);
    assert_eq!((tails(one), tails(two)), (0, 0));
    world.assert_each_is_whole("restored");
    // And alone again.
    mark(&world.server);
    world.pitr.ok(["archive", "--exit-when-caught-up", "--store", two]);
    assert_eq!(tails(two), 1);
    mark(&world.server);
    world.pitr.ok(world.words(&["archive", "--exit-when-caught-up"]));
    world.assert_each_is_whole("again");
}

#[test]
fn an_archiver_ends_when_a_store_comes_back_that_another_one_has_written_to() {
    let scratch = Scratch::new();
    let world = World::new(&scratch);
    let mut archiver = world.archive("1");
    archiver.wait_until_caught_up(&world.server);
    let away = Away::take(&world.stores[1]);
    world.go_on();
    wait_until_it_says(&mut archiver, "a store has fallen behind");
    let other = ["archive", "--exit-when-caught-up", "--no-backup", "--slot", "other", "--store", &away.there];
    world.pitr.ok(other);
    away.bring_back();
    wait_until_it_ends(&world, archiver);
    // The later one's archive goes on. The log of both is the server's, and the same.
    world.pitr.ok(world.words(&["archive", "--no-backup", "--exit-when-caught-up"]));
    world.assert_each_is_whole("restored");
}

fn wait_until_it_ends(world: &World<'_>, archiver: Archiver) {
    condition("the other archiver to be seen", PATIENCE, || {
        mark(&world.server);
        archiver.said().contains("another archiver has written to a store").then_some(())
    });
    mark(&world.server);
    archiver.wait().exit(4).says(&["was claimed by an archiver"]);
}

/// Each archiver saw one store only, and neither the other's claim.
#[test]
fn stores_that_were_written_to_in_turn_are_not_mixed() {
    let scratch = Scratch::new();
    let world = World::new(&scratch);
    let archive = ["archive", "--exit-when-caught-up", "--ack-stores", "1"];
    world.pitr.ok(world.words(&archive));
    for store in &world.stores {
        let away = Away::take(store);
        world.go_on();
        world.pitr.ok(world.words(&archive)).says(&["does not answer", "lacks what others have"]);
        away.bring_back();
    }
    world.pitr.run(world.words(&archive)).exit(4).says(&["was claimed by an archiver that"]);
    fs::remove_dir_all(&world.stores[1]).unwrap();
    fs::create_dir(&world.stores[1]).unwrap();
    world.pitr.ok(world.words(&archive)).says(&["a store is up to date"]);
    world.assert_each_is_whole("restored");
}

/// Where the archive counts the offsets, two archivers must not go on separately.
#[test]
fn of_mariadb_a_store_may_go_away_while_archiving_and_a_new_archiver_sees_both() {
    let scratch = Scratch::new();
    let server = start(&scratch, Make::MariaDb1011, &[]);
    let place = Place::with(Pitr::with_store(&scratch, "one"), &scratch, &server);
    let stores = ["one", "two"].map(|name| scratch.join(name).display().to_string());
    let [one, two] = &stores;
    let both = ["--store", one, "--store", two];
    let words =
        |verb: &[&'static str]| -> Vec<String> { verb.iter().copied().chain(both).map(str::to_owned).collect() };
    place.pitr.ok(words(&["init"]));
    mysql::mark(&server);
    place.pitr.ok(words(&["archive", "--exit-when-caught-up"]));
    let load = mysql::Load::markers(&server, 4, 1);
    mysql::wait_for_markers(&server, 50);
    let run = || {
        let archiver = place.pitr.archive_with(&[&["--no-backup", "--ack-stores", "1"][..], &both].concat());
        archiver.wait_until_streaming();
        archiver
    };
    let mut archiver = run();
    let away = Away::take(two);
    wait_until_it_says(&mut archiver, "a store has fallen behind");
    let markers = mysql::marker_ids(&server).len() as u64;
    mysql::wait_for_markers(&server, markers + 200);
    server.flush_logs();
    archiver.kill();
    let begin = ["archive", "--no-backup", "--ack-stores", "1", "--exit-when-caught-up"];
    place.pitr.run(words(&begin)).exit(21).says(&["1 of 2 stores answer", "needs 2"]);
    away.bring_back();
    let mut archiver = run();
    wait_until_it_says(&mut archiver, "a store is up to date");
    archiver.kill();
    load.stop(&server);
    place.pitr.ok(words(&["archive", "--no-backup", "--exit-when-caught-up"]));
    for (at, store) in stores.iter().enumerate() {
        place.pitr.ok(["verify", "--read-data", "--store", store]);
        let name = format!("restored-{at}");
        let to = scratch.join(&name);
        place.restore(&to, &["--target", "latest", "--store", store]).success();
        assert_eq!(place.open(&name, to).checksums(), server.checksums(), "from {store}");
    }
}

#[test]
fn how_many_stores_count_is_refused_with_what_would_do() {
    let scratch = Scratch::new();
    let world = World::new(&scratch);
    for (acks, says) in [("3", "1 to 2"), ("0", "\"all\""), ("most", "\"all\""), ("-1", "\"all\"")] {
        let asked = format!("--ack-stores={acks}");
        world.pitr.run(world.words(&["archive", &asked])).exit(5).says(&["ack_stores", says]);
        world.pitr.run(world.words(&["backup", &asked])).exit(5).says(&["ack_stores", says]);
    }
    for text in ["ack_stores = 3\n", "[stream]\nack_stores = 0\n", "[cluster.main.stream]\nack_stores = \"some\"\n"] {
        fs::write(scratch.join("pitr.toml"), text).unwrap();
        world.pitr.run(world.words(&["archive"])).exit(5).says(&["ack_stores"]);
    }
    fs::remove_file(scratch.join("pitr.toml")).unwrap();
    let one = &world.stores[0];
    world.pitr.run(["archive", "--store", one, "--store", one]).exit(5).says(&["named twice"]);
}
