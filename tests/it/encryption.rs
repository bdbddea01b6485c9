//! Promise: an encrypted archive restores with its restore key, and with nothing else; it shows no data to whoever has the
//! store, or the archiver's key; and what somebody else put into it is refused by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bad_input::damage;
use crate::mysql_restore::{Place, start};
use crate::support::load::{mark, marker_table};
use crate::support::mysql::{Load, Make, wait_for_markers};
use crate::support::oracle::{marker_xids, open_restored};
use crate::support::{Pitr, Scratch, Server};

/// Text that only data holds.
const SECRET: &str = "correct horse battery staple";

struct Keys {
    archiver: String,
    restore: String,
}

impl Keys {
    fn new(pitr: &Pitr<'_>, scratch: &Scratch, name: &str) -> Self {
        let dir = scratch.join(name);
        std::fs::create_dir(&dir).unwrap();
        let dir = dir.display().to_string();
        pitr.ok(["key", "new", "--to", &dir]).says(&["archiver.key", "restore.key", "next: pitr init"]);
        Self { archiver: format!("{dir}/archiver.key"), restore: format!("{dir}/restore.key") }
    }
}

struct World<'a> {
    scratch: &'a Scratch,
    server: Server,
    pitr: Pitr<'a>,
    keys: Keys,
    rows: Vec<u32>,
}

impl<'a> World<'a> {
    fn new(scratch: &'a Scratch) -> Self {
        let server = Server::builder(scratch, "server").wal_segment_mib(1).setting("autovacuum", "off").start();
        marker_table(&server);
        server.sql(&format!(
            "CREATE TABLE passwords AS SELECT '{SECRET}'::text AS word, n FROM generate_series(1, 500) n"
        ));
        let pitr = Pitr::new(scratch).source(&server);
        let keys = Keys::new(&pitr, scratch, "keys");
        pitr.ok(["init", "--key-file", &keys.archiver]);
        let mut world = Self { scratch, server, pitr, keys, rows: Vec::new() };
        world.catch_up();
        for _ in 0..3 {
            world.rows.push(mark(&world.server));
            world.server.sql(&format!("UPDATE passwords SET word = '{SECRET} ' || n"));
            world.server.switch_wal();
        }
        world.go_on();
        world
    }

    fn catch_up(&self) {
        self.pitr.ok(["archive", "--exit-when-caught-up", "--key-file", &self.keys.archiver]);
    }

    fn go_on(&mut self) {
        self.rows.push(mark(&self.server));
        self.catch_up();
    }

    #[track_caller]
    fn restores(&self, name: &str) {
        let to = self.scratch.join(name);
        self.pitr.restore(&self.server, &to, &["--target", "latest", "--restore-key", &self.keys.restore]);
        let restored = open_restored(self.scratch, name, &self.server, &to);
        assert_eq!(marker_xids(&restored), self.rows.iter().copied().collect());
        assert_eq!(restored.sql("SELECT count(*) FROM passwords"), "500");
    }

    fn plan(&self) -> Vec<&str> {
        vec!["plan", "--target", "latest", "--restore-key", &self.keys.restore]
    }

    /// Objects below a folder of the cluster, by name.
    fn objects(&self, folder: &str) -> BTreeMap<String, PathBuf> {
        files(&self.pitr.cluster_dir().join(folder))
    }
}

fn files(dir: &Path) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.insert(entry.file_name().into_string().unwrap(), entry.path());
        }
    }
    found
}

fn holds(path: &Path, text: &str) -> bool {
    std::fs::read(path).unwrap().windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn an_encrypted_archive_opens_with_its_restore_key_only() {
    let scratch = Scratch::new();
    let mut world = World::new(&scratch);
    // It goes on after any end, though it can read nothing of what it wrote before.
    for _ in 0..3 {
        let mut archiver = world.pitr.archive_with(&["--key-file", &world.keys.archiver, "--no-backup"]);
        world.rows.push(mark(&world.server));
        archiver.wait_until_caught_up(&world.server);
        archiver.kill();
        world.rows.push(mark(&world.server));
    }
    world.go_on();
    world.pitr.ok(["backup", "--key-file", &world.keys.archiver]);

    let (archiver, restore) = (world.keys.archiver.as_str(), world.keys.restore.as_str());
    world.pitr.ok(["list", "--key-file", archiver]);
    world.pitr.ok(["verify", "--read-data", "--key-file", archiver]).says(&["sound"]);
    world.pitr.ok(["verify", "--read-data", "--restore-key", restore]).says(&["sound"]);
    let checked = world.pitr.ok(["key", "check", "--restore-key", restore]);
    checked.says(&["opens", "main/key/0000000001", "reads", "the restore key opens this archive"]);
    world.restores("restored");

    let other = Keys::new(&world.pitr, &scratch, "other");
    let mixed = scratch.join("mixed.key");
    // A restore key that believes the right archiver, and opens nothing.
    let (theirs, ours) = (std::fs::read_to_string(&other.restore).unwrap(), std::fs::read_to_string(restore).unwrap());
    let writer = |text: &str| text.lines().find(|line| line.starts_with("# pitr writer")).unwrap().to_owned();
    std::fs::write(&mixed, theirs.replace(&writer(&theirs), &writer(&ours))).unwrap();
    let mixed = mixed.display().to_string();
    let to = scratch.join("none").display().to_string();
    for (key, says) in [
        (&["--restore-key", &other.restore][..], "another archiver key"),
        (&["--restore-key", &mixed], "main/key/"),
        (&["--key-file", archiver], "no restore key is given"),
        (&[], "is encrypted, and no key is given"),
    ] {
        for verb in [&["restore", "--target", "latest", "--to", &to][..], &["plan", "--target", "latest"]] {
            let refused = world.pitr.run(verb.iter().chain(key)).exit(12);
            assert!(refused.said().contains(says), "{says}: {}", refused.said());
        }
    }
    assert!(!Path::new(&to).exists());
    for key in [&["--key-file", &other.archiver][..], &["--restore-key", restore], &[]] {
        world.pitr.run(["archive", "--exit-when-caught-up"].iter().chain(key)).exit(12);
    }
    world.pitr.run(["list", "--key-file", restore]).exit(5).says(&["it is a restore key"]);
    world.pitr.run(["list", "--restore-key", archiver]).exit(5).says(&["it is an archiver key"]);

    // Nobody else reads data, nor the names of tables.
    for (name, path) in world.objects(".") {
        assert!(!holds(&path, SECRET) && !holds(&path, "passwords"), "{name} shows data");
    }
    // A store in which nothing is encrypted is not believed to be this one.
    let plain = Pitr::with_store(&scratch, "plain").source(&world.server);
    plain.catch_up();
    plain.run(["list", "--restore-key", restore]).exit(12).says(&["is not encrypted, and a key is given"]);
}

#[test]
fn what_somebody_else_put_into_an_encrypted_archive_is_refused_by_name() {
    let scratch = Scratch::new();
    let mut world = World::new(&scratch);
    world.pitr.ok(["backup", "--key-file", &world.keys.archiver]);
    world.go_on();
    let restore = world.keys.restore.clone();
    let refused = |what: &str, name: &str| {
        for verb in [&["verify", "--read-data"][..], &["verify"]] {
            let verified = world.pitr.run(verb.iter().chain(&["--restore-key", restore.as_str()]));
            if verified.code == Some(13) && verified.said().contains(name) {
                return;
            }
        }
        panic!("{what}: {name} is not refused");
    };
    let segments: Vec<PathBuf> =
        world.objects("log").into_values().filter(|path| path.extension().is_some_and(|e| e == "lz4")).collect();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();

    // Two segments, each under the other's name.
    let (a, b) = (&segments[0], &segments[1]);
    let (in_a, in_b) = (std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    std::fs::write(a, &in_b).unwrap();
    std::fs::write(b, &in_a).unwrap();
    refused("swapped", &name(a));
    refused("swapped", &name(b));
    std::fs::write(a, &in_a).unwrap();
    std::fs::write(b, &in_b).unwrap();

    // A segment without its first chunk, and one that ends early.
    let beheaded = damage(a, |bytes| drop(bytes.drain(..(64 << 10) + 16)));
    refused("beheaded", &name(a));
    std::fs::write(a, &beheaded).unwrap();
    damage(a, |bytes| bytes.truncate(bytes.len() / 2));
    refused("truncated", &name(a));
    std::fs::write(a, &beheaded).unwrap();

    // An old manifest as if it were that of the newest base.
    let manifests: Vec<PathBuf> =
        world.objects("base").into_values().map(|path| path.parent().unwrap().join("manifest.json")).collect();
    let mut bases: Vec<PathBuf> = std::fs::read_dir(world.pitr.cluster_dir().join("base"))
        .unwrap()
        .flatten()
        .map(|entry| entry.path().join("manifest.json"))
        .collect();
    bases.sort();
    assert!(bases.len() == 2 && !manifests.is_empty());
    let newest = std::fs::read(&bases[1]).unwrap();
    std::fs::copy(&bases[0], &bases[1]).unwrap();
    let id = name(bases[1].parent().unwrap());
    refused("replayed", &id);
    std::fs::write(&bases[1], &newest).unwrap();

    // Objects of another archiver, encrypted for the right restore key: all is sound but who signed it.
    let forger_keys = Keys::new(&world.pitr, &scratch, "forger");
    let recipient = std::fs::read_to_string(&world.keys.archiver).unwrap();
    let recipient = recipient.lines().find(|line| line.starts_with("recipient")).unwrap().to_owned();
    let text = std::fs::read_to_string(&forger_keys.archiver).unwrap();
    let forged: String = text
        .lines()
        .map(|line| if line.starts_with("recipient") { &recipient } else { line }.to_owned() + "\n")
        .collect();
    std::fs::write(&forger_keys.archiver, forged).unwrap();
    let forger = Pitr::with_store(&scratch, "forged").source(&world.server);
    forger.ok(["archive", "--exit-when-caught-up", "--key-file", &forger_keys.archiver]);
    forger.run(["list", "--restore-key", &restore]).exit(12).says(&["another archiver key"]);
    let key = |pitr: &Pitr<'_>| pitr.cluster_dir().join("key/0000000001");
    let sound = std::fs::read(key(&world.pitr)).unwrap();
    std::fs::copy(key(&forger), key(&world.pitr)).unwrap();
    world.pitr.run(["key", "check", "--restore-key", &restore]).exit(13).says(&["main/key/0000000001", "not signed"]);
    std::fs::write(key(&world.pitr), &sound).unwrap();
    let pack = world.objects("pack").into_values().next().unwrap();
    let there = forger.cluster_dir().join("pack/00");
    std::fs::create_dir_all(&there).unwrap();
    let theirs = files(&forger.cluster_dir().join("pack")).into_values().next().unwrap();
    let sound = std::fs::read(&pack).unwrap();
    std::fs::copy(theirs, &pack).unwrap();
    refused("forged", &name(&pack));
    std::fs::write(&pack, &sound).unwrap();

    // A key that is gone.
    let gone = std::fs::read(key(&world.pitr)).unwrap();
    std::fs::remove_file(key(&world.pitr)).unwrap();
    let without = world.pitr.run(["verify", "--read-data", "--restore-key", &restore]);
    assert!(without.code == Some(13) && without.said().contains("main/key/0000000001"), "{}", without.said());
    std::fs::write(key(&world.pitr), gone).unwrap();
    world.pitr.ok(["verify", "--read-data", "--restore-key", &restore]).says(&["sound"]);
    world.pitr.ok(world.plan());
    world.restores("restored");
}
