//! Promise: an archive copied to another store is that archive, wherever the copy was interrupted; and
//! what is damaged in one of several stores is read, and put back, from another.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::Method;

use crate::bad_input::{damage, file_name};
use crate::mysql_restore::{Place, start};
use crate::support::load::{mark, marker_table};
use crate::support::mysql::{Load, Make, wait_for_markers};
use crate::support::oracle::{
    SegmentFile, assert_segments_equal_wal, marker_xids, open_restored, segment_files, wal_file_name,
};
use crate::support::s3::{Harm, KEY_ID, KEY_SECRET, S3};
use crate::support::{Pitr, Scratch, Server};

/// An archive in a directory: a base, whole WAL files, and a row that is in the tail only.
struct World<'a> {
    scratch: &'a Scratch,
    server: Server,
    pitr: Pitr<'a>,
    rows: Vec<u32>,
}

impl<'a> World<'a> {
    fn new(scratch: &'a Scratch) -> Self {
        let server = Server::builder(scratch, "server").wal_segment_mib(1).setting("autovacuum", "off").start();
        marker_table(&server);
        let pitr = Pitr::new(scratch)
            .source(&server)
            .env("AWS_ACCESS_KEY_ID", KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", KEY_SECRET)
            .env("AWS_EC2_METADATA_DISABLED", "true");
        pitr.ok(["init"]);
        pitr.catch_up();
        let mut world = Self { scratch, server, pitr, rows: Vec::new() };
        for _ in 0..4 {
            world.rows.push(mark(&world.server));
            world.server.switch_wal();
        }
        world.go_on();
        world
    }

    /// One more row, without a WAL file that ends.
    fn go_on(&mut self) {
        self.rows.push(mark(&self.server));
        self.pitr.catch_up();
    }

    fn store(&self) -> String {
        self.pitr.store().display().to_string()
    }

    /// A directory that is there and empty.
    fn directory(&self, name: &str) -> String {
        let dir = self.scratch.join(name);
        std::fs::create_dir(&dir).unwrap();
        dir.display().to_string()
    }

    #[track_caller]
    fn restores(&self, name: &str, stores: &[&str]) -> String {
        let to = self.scratch.join(name);
        let mut words = vec!["--target", "latest"];
        stores.iter().for_each(|store| words.extend(["--store", store]));
        let done = self.pitr.restore(&self.server, &to, &words);
        let restored = open_restored(self.scratch, name, &self.server, &to);
        assert_eq!(marker_xids(&restored), self.rows.iter().copied().collect());
        done.stderr
    }
}

fn cluster(store: &str) -> PathBuf {
    Path::new(store).join("main")
}

/// Closed segments, oldest first.
fn segments(store: &str) -> Vec<SegmentFile> {
    let mut segments = segment_files(&cluster(store));
    segments.sort_by_key(|segment| segment.start);
    segments
}

fn packs(store: &str) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(cluster(store).join("pack")).unwrap().flatten();
    let mut packs: Vec<PathBuf> = folders
        .flat_map(|folder| std::fs::read_dir(folder.path()).unwrap().flatten())
        .map(|file| file.path())
        .collect();
    packs.sort();
    packs
}

fn flip(path: &Path) {
    drop(damage(path, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    }));
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn a_copy_is_the_archive_wherever_it_was_interrupted_and_so_is_a_copy_of_it() {
    let scratch = Scratch::new();
    let mut world = World::new(&scratch);
    let s3 = S3::start(&scratch);
    let (store, bucket) = (world.store(), s3.url("db"));
    let copied = AtomicUsize::new(0);
    s3.harm_when(move |asked| {
        let refused = asked.method == Method::PUT && copied.fetch_add(1, Ordering::Relaxed) >= 6;
        refused.then_some(Harm::Refused(403, "AccessDenied"))
    });
    world.pitr.run(["copy", &store, &bucket]).exit(21);
    s3.heal();
    // What is there after six objects: no base yet, and nothing that is wrong.
    world.pitr.ok(["verify", "--read-data", "--store", &bucket]);
    world.pitr.ok(["copy", &store, &bucket]).says(&["copied", "reaches"]);
    let again = world.pitr.json(&["copy", &store, &bucket]);
    assert_eq!((again["copied_objects"].as_u64(), again["schema_version"].as_u64()), (Some(0), Some(1)), "{again}");
    world.restores("from-bucket", &[&bucket]);

    // The tail went on, and is sealed: what was made of it meanwhile is hidden.
    world.go_on();
    world.pitr.ok(["copy", &store, &bucket]);
    let end = world.server.switch_wal();
    world.go_on();
    world.pitr.ok(["copy", &store, &bucket]);
    world.pitr.ok(["verify", "--read-data", "--store", &bucket]).says(&["sound"]);
    let timeline = world.server.timeline();
    assert!(assert_segments_equal_wal(&s3.dir("db").join("main"), &world.server, timeline, end) > 4);

    // And back, where an archiver goes on. Then that is another archive.
    let back = world.directory("back");
    world.pitr.ok(["copy", &bucket, &back]);
    world.rows.push(mark(&world.server));
    let there = Pitr::with_store(&scratch, "back").source(&world.server);
    there.catch_up();
    world.restores("from-back", &[&back]);
    world.pitr.run(["copy", &store, &back]).exit(4).says(&["epoch", "copy the other way"]);
    world.pitr.ok(["copy", &back, &store]);
    world.restores("from-store", &[&store]);
    world.pitr.run(["copy", &store, &store]).exit(2);
    let absent = scratch.join("absent").display().to_string();
    world.pitr.run(["copy", &store, &absent]).exit(5).says(&["absent", "mounted"]);
}

#[test]
fn what_is_damaged_is_not_copied_and_named() {
    let scratch = Scratch::new();
    let world = World::new(&scratch);
    let (store, to) = (world.store(), world.directory("copy"));
    let victim = segments(&store).into_iter().nth(1).unwrap();
    let before = damage(&victim.path, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    world.pitr.run(["copy", &store, &to]).exit(13).says(&[&file_name(&victim), "copied", "reaches"]);
    assert_eq!(segments(&to).len(), segments(&store).len(), "the victim is missing, and the tail is a segment");
    assert_eq!(packs(&to).len(), packs(&store).len());
    std::fs::write(&victim.path, before).unwrap();
    world.pitr.ok(["copy", &store, &to]);
    world.restores("restored", &[&to]);
    world.pitr.ok(["verify", "--read-data", "--store", &to]);
}

#[test]
fn what_is_damaged_in_one_store_is_read_from_another_and_put_back() {
    let scratch = Scratch::new();
    let world = World::new(&scratch);
    let (one, two) = (world.store(), world.directory("two"));
    world.pitr.ok(["copy", &one, &two]);
    let both = ["--store", &one, "--store", &two];
    let words = |verb: &'static [&'static str]| verb.iter().copied().chain(both).collect::<Vec<&str>>();

    let (here, there) = (segments(&one)[2].clone(), segments(&two)[3].clone());
    let (pack, other_pack) = (packs(&one)[0].clone(), packs(&two).pop().unwrap());
    let manifest = std::fs::read_dir(cluster(&two).join("base")).unwrap().flatten().next().unwrap();
    let manifest = manifest.path().join("manifest.json");
    for path in [&here.path, &there.path, &pack, &manifest] {
        flip(path);
    }
    for store in [&one, &two] {
        world.pitr.run(["verify", "--read-data", "--store", store]).exit(13);
    }
    world.pitr.run(["plan", "--target", "latest", "--store", &two]).exit(13);
    let said = world.restores("restored", &[&one, &two]);
    for victim in [file_name(&here), name_of(&pack)] {
        assert!(said.contains(&victim), "{victim} in {said}");
    }
    world.pitr.ok(["plan", "--target", "latest", "--store", &two, "--store", &one]).says(&["manifest.json"]);

    // For a server that recovers by itself.
    let size = world.server.wal_segment_bytes();
    let file = scratch.join("file").display().to_string();
    for segment in [&here, &there] {
        let wal = wal_file_name(1, segment.start / size * size, size);
        let mut fetch = vec!["wal-fetch", &wal, &file];
        fetch.extend(both);
        world.pitr.ok(&fetch);
        assert!(std::fs::read(&file).unwrap() == std::fs::read(world.server.wal_dir().join(&wal)).unwrap(), "{wal}");
    }
    let absent = ["wal-fetch", "0000000100000F0000000001", &file];
    world.pitr.run(absent.iter().copied().chain(both)).exit(1);
    // A store that does not answer may hold it.
    let gone = scratch.join("gone").display().to_string();
    world.pitr.run(absent.iter().copied().chain(["--store", &gone, "--store", &two])).exit(126).says(&["gone"]);
    world.pitr.ok(["list", "--store", &gone, "--store", &two]).says(&["gone", "passed over"]);

    world.pitr.run(words(&["wal-push", "x"])).exit(5).says(&["2 stores"]);
    world.pitr.run(["verify", "--repair", "--store", &one]).exit(2);

    world.pitr.run(words(&["verify", "--read-data"])).exit(13);
    let repaired = world.pitr.ok(words(&["verify", "--repair"]));
    repaired.says(&[&file_name(&here), &file_name(&there), &name_of(&pack), "manifest.json", "sound"]);
    for store in [&one, &two] {
        world.pitr.ok(["verify", "--read-data", "--store", store]);
    }
    // What is missing is put back as well; what both have damaged is left.
    std::fs::remove_file(&there.path).unwrap();
    std::fs::remove_file(&other_pack).unwrap();
    world.pitr.ok(words(&["verify", "--repair"])).says(&["sound"]);
    assert!(there.path.exists() && other_pack.exists());
    flip(&pack);
    flip(&Path::new(&two).join(pack.strip_prefix(&one).unwrap()));
    world.pitr.run(words(&["verify", "--repair"])).exit(13).says(&[&name_of(&pack), "no other store"]);
}

/// Their log is on an axis that the archive counts.
#[test]
fn an_archive_of_mariadb_is_copied_as_it_grows() {
    let scratch = Scratch::new();
    let server = start(&scratch, Make::MariaDb1011, &[]);
    let place = Place::new(&scratch, &server);
    let load = Load::markers(&server, 4, 1);
    wait_for_markers(&server, 50);
    place.pitr.ok(["archive", "--exit-when-caught-up"]);
    let (store, to) = (place.pitr.store().display().to_string(), scratch.join("copy"));
    std::fs::create_dir(&to).unwrap();
    let to = to.display().to_string();
    place.pitr.ok(["copy", &store, &to]).says(&["reaches"]);
    wait_for_markers(&server, 200);
    place.pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
    place.pitr.ok(["copy", &store, &to]);
    server.sql("FLUSH BINARY LOGS");
    wait_for_markers(&server, 300);
    load.stop(&server);
    place.pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
    place.pitr.ok(["copy", &store, &to]);
    place.pitr.ok(["verify", "--read-data", "--store", &to]);
    let restored = scratch.join("restored");
    place.restore(&restored, &["--target", "latest", "--store", &to]).success();
    assert_eq!(place.open("restored", restored).checksums(), server.checksums());
}
