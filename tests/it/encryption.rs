//! Promise: an encrypted archive restores with its restore key, and with nothing else; it shows no data to whoever has the
//! store, or the archiver's key; and what somebody else put into it is refused by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::bad_input::damage;
use crate::mysql_restore::{Place, start};
use crate::support::load::{mark, marker_table};
use crate::support::mysql::{self, Make, wait_for_markers};
use crate::support::oracle::{
    archive_start, assert_export_equals_wal, assert_same_bytes, marker_xids, open_restored, segment_files,
    wal_file_name,
};
use crate::support::programs::tool;
use crate::support::s3::{Harm, S3};
use crate::support::{Load, PATIENCE, Pitr, Scratch, Server, condition};

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
    // Nor is log read with the archiver's key: packs are not all that is closed.
    let export = scratch.join("export").display().to_string();
    world.pitr.run(["export", &export, "--key-file", archiver]).exit(12).says(&[".lz4", "no restore key is given"]);

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
        let restore = ["restore", "--target", "latest", "--to", &to];
        world.pitr.run(restore.iter().chain(key)).exit(12).says(&[says]);
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

    // One of another archive of the same database by the same archiver: an earlier life of this one.
    let earlier = Pitr::with_store(&scratch, "earlier").source(&world.server);
    earlier.ok(["archive", "--exit-when-caught-up", "--key-file", &world.keys.archiver]);
    let theirs = files(&earlier.cluster_dir().join("pack")).into_values().next().unwrap();
    std::fs::copy(theirs, &pack).unwrap();
    refused("of another archive", &name(&pack));
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

/// Its small segments end wherever the clock says.
#[test]
fn an_archiver_goes_on_in_the_middle_of_a_record_that_it_cannot_read() {
    let scratch = Scratch::new();
    let mut world = World::new(&scratch);
    let load = Load::markers(&scratch, &world.server, 2, 1);
    let mut asked = 0;
    for _ in 0..6 {
        world.server.sql(&format!("INSERT INTO passwords SELECT '{SECRET}', n FROM generate_series(1, 100000) n"));
        let before = world.objects("log").len();
        let archiver = world.pitr.archive_with(&["--key-file", &world.keys.archiver, "--no-backup"]);
        condition("some segments", PATIENCE, || (world.objects("log").len() > before + 3).then_some(()));
        asked += usize::from(archiver.kill().said().contains("is asked for its log once more"));
    }
    load.stop(&world.server);
    assert!(asked > 0, "no segment ended inside a record");
    world.server.sql("TRUNCATE passwords; INSERT INTO passwords SELECT 'gone', n FROM generate_series(1, 500) n");
    world.catch_up();
    world.pitr.ok(["verify", "--read-data", "--restore-key", &world.keys.restore]).says(&["sound"]);
    assert_exported(&world);
    world.rows = marker_xids(&world.server).into_iter().collect();
    world.restores("restored");
}

/// The spool keeps the keys for the next archiver, beside log that is not encrypted.
#[test]
fn what_waits_in_the_spool_of_an_encrypted_archive_survives_the_archiver() {
    let scratch = Scratch::new();
    let s3 = S3::start(&scratch);
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).setting("autovacuum", "off").start();
    marker_table(&server);
    let spool = scratch.join("spool").display().to_string();
    let pitr = Pitr::in_bucket(&scratch, &s3, "db").source(&server).env("PITR_SPOOL", &spool).env("PITR_ACK", "spool");
    let keys = Keys::new(&pitr, &scratch, "keys");
    let words = ["--key-file", &keys.archiver];
    let load = Load::markers(&scratch, &server, 2, 1);
    for away in [false, true, true] {
        let mut archiver = pitr.archive_with(&words);
        archiver.wait_until_streaming();
        archiver.wait_until_caught_up(&server);
        if away {
            s3.harm_when(|_| Some(Harm::Refused(503, "ServiceUnavailable")));
        }
        mark(&server);
        archiver.wait_until_caught_up(&server);
        archiver.kill();
        s3.heal();
    }
    load.stop(&server);
    pitr.ok(["archive", "--exit-when-caught-up", "--key-file", &keys.archiver]);
    pitr.ok(["verify", "--read-data", "--restore-key", &keys.restore]).says(&["sound"]);
    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target", "latest", "--restore-key", &keys.restore]);
    assert_eq!(marker_xids(&open_restored(&scratch, "restored", &server, &to)), marker_xids(&server));
}

/// Their offsets are the archive's own: the end has to be proven when an archiver comes back.
#[test]
fn an_encrypted_archive_of_mariadb_goes_on_and_restores() {
    let scratch = Scratch::new();
    let server = start(&scratch, Make::MariaDb1011, &[]);
    let place = Place::new(&scratch, &server);
    let keys = Keys::new(&place.pitr, &scratch, "keys");
    let load = mysql::Load::markers(&server, 4, 1);
    for (count, words) in [(50, &[][..]), (200, &["--no-backup"]), (300, &["--no-backup"])] {
        wait_for_markers(&server, count);
        let archive = ["archive", "--exit-when-caught-up", "--key-file", &keys.archiver];
        place.pitr.ok(archive.iter().chain(words));
    }
    load.stop(&server);
    place.pitr.ok(["archive", "--exit-when-caught-up", "--no-backup", "--key-file", &keys.archiver]);
    place.pitr.ok(["verify", "--read-data", "--restore-key", &keys.restore]).says(&["sound"]);
    let restored = scratch.join("restored");
    place.restore(&restored, &["--target", "latest", "--restore-key", &keys.restore]).success();
    assert_eq!(place.open("restored", restored).checksums(), server.checksums());
}

#[test]
fn an_encrypted_archive_is_copied_and_repaired_by_who_cannot_read_it() {
    let scratch = Scratch::new();
    let mut world = World::new(&scratch);
    let (one, two) = (world.pitr.store().display().to_string(), scratch.join("two"));
    std::fs::create_dir(&two).unwrap();
    let two = two.display().to_string();
    world.pitr.run(["copy", &one, &two]).exit(12);
    let archiver = world.keys.archiver.clone();
    let copy = ["copy", &one, &two, "--key-file", &archiver];
    world.pitr.ok(copy);
    world.go_on();
    world.pitr.ok(copy).says(&["reaches"]);
    // What `init` found of the first store is said of that one only.
    for (name, path) in ["log", "pack", "base", "key"].into_iter().flat_map(|folder| world.objects(folder)) {
        let copied = Path::new(&two).join(path.strip_prefix(&one).unwrap());
        assert!(std::fs::read(path).unwrap() == std::fs::read(copied).unwrap(), "{name} is another in the copy");
    }
    let both = ["--store", &one, "--store", &two];
    let victims: Vec<PathBuf> = [world.objects("log"), world.objects("pack")]
        .into_iter()
        .filter_map(|objects| objects.into_values().next())
        .collect();
    for victim in &victims {
        damage(victim, |bytes| bytes[100] ^= 4);
    }
    // Readers take what is intact.
    let to = scratch.join("from-both");
    let words = ["--target", "latest", "--restore-key", &world.keys.restore];
    let words: Vec<&str> = words.into_iter().chain(both).collect();
    world.pitr.restore(&world.server, &to, &words);
    let verify = ["verify", "--repair", "--key-file", &archiver];
    let repaired = world.pitr.ok(verify.iter().chain(&both));
    for victim in &victims {
        assert!(repaired.said().contains(victim.file_name().unwrap().to_str().unwrap()), "{}", repaired.said());
    }
    world.pitr.ok(["verify", "--read-data", "--restore-key", &world.keys.restore]).says(&["sound"]);
    let from_copy = ["verify", "--read-data", "--restore-key", &world.keys.restore, "--store", &two];
    world.pitr.ok(from_copy).says(&["sound"]);
}

#[test]
fn data_keys_are_wrapped_anew_for_other_restore_keys() {
    let scratch = Scratch::new();
    let world = World::new(&scratch);
    let next = Keys::new(&world.pitr, &scratch, "next");
    // The successor's public half in place of the first one's, and the archiver that both believe.
    let swap = |path: &str, from: &str, to: &str| {
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains(from));
        std::fs::write(path, text.replace(from, to)).unwrap();
    };
    let line = |path: &str, begins: &str| {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().find(|line| line.starts_with(begins)).unwrap().to_owned()
    };
    let (ours, theirs) = (line(&world.keys.archiver, "recipient"), line(&next.archiver, "recipient"));
    swap(&world.keys.archiver, &ours, &theirs);
    swap(&next.restore, &line(&next.restore, "# pitr writer"), &line(&world.keys.restore, "# pitr writer"));
    let check = |key: &str| world.pitr.run(["key", "check", "--restore-key", key]);
    check(&world.keys.restore).exit(0);
    check(&next.restore).exit(12);
    let both = ["--key-file", &world.keys.archiver, "--restore-key", &world.keys.restore];
    world.pitr.run(["key", "rotate", "--key-file", &world.keys.archiver]).exit(12).says(&["restore key is needed"]);
    world.pitr.ok(["key", "rotate"].iter().chain(&both)).says(&["wrapped anew", "--forget"]);
    check(&next.restore).exit(0).says(&["main/key/0000000001-01"]);
    world.pitr.ok(["key", "rotate", "--forget", "--key-file", &world.keys.archiver, "--restore-key", &next.restore]);
    assert!(!world.objects("key").contains_key("0000000001"), "the first wrap is still there");
    check(&world.keys.restore).exit(12);
    world.pitr.ok(["verify", "--read-data", "--restore-key", &next.restore]).says(&["sound"]);
}

/// Byte for byte what the server wrote.
fn assert_exported(world: &World<'_>) {
    let dir = world.scratch.join("exported");
    let to = dir.display().to_string();
    let end = world.server.switch_wal();
    world.catch_up();
    world.pitr.ok(["export", &to, "--restore-key", &world.keys.restore]);
    let start = archive_start(&world.pitr.cluster_dir(), 1);
    assert!(assert_export_equals_wal(&dir, &world.server, 1, start, end) > 3);
}

/// With the page's own commands and program, the stock `age` and the stock `lz4`.
#[test]
fn log_is_decrypted_as_the_page_on_restores_without_pitr_says() {
    let scratch = Scratch::new();
    let world = World::new(&scratch);
    let page = include_str!("../../docs/restore-without-pitr.md");
    let program = page.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    std::fs::write(scratch.join("unseal.py"), program).unwrap();
    let shell = |script: &str| {
        let done = tool("sh")
            .args(["-euc", script])
            .env("KEY", &world.keys.restore)
            .env("HERE", scratch.path())
            // The system's own Python, for which its packages are.
            .env("PATH", "/usr/bin:/bin")
            .current_dir(world.pitr.store())
            .output()
            .unwrap();
        assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    };
    let size = world.server.wal_segment_bytes();
    let segments = segment_files(&world.pitr.cluster_dir());
    let whole: Vec<_> = segments.iter().filter(|s| s.start % size == 0 && s.end - s.start == size).collect();
    assert!(whole.len() > 2, "{segments:?}");
    for segment in whole {
        let name = segment.path.strip_prefix(world.pitr.store()).unwrap().display().to_string();
        let log = shell(&format!("python3 \"$HERE\"/unseal.py \"$KEY\" . {name} | lz4 -dc"));
        let wal = std::fs::read(world.server.wal_dir().join(wal_file_name(1, segment.start, size))).unwrap();
        assert_same_bytes(&name, &log, &wal);
    }
    // By hand.
    let by_hand =
        page.lines().find(|line| line.trim().starts_with("python3 -c")).unwrap().replace("restore.key", "\"$KEY\"");
    assert_eq!(shell(&by_hand.replace("> 1.key", "")).len(), 64);
    // The program believes nobody else either: not a changed object, nor a key that somebody else wrapped for this restore key.
    let victim = &segments[0];
    let name = victim.path.strip_prefix(world.pitr.store()).unwrap().display().to_string();
    let read = format!("python3 \"$HERE\"/unseal.py \"$KEY\" . {name} > /dev/null 2>&1 && echo read || echo refused");
    assert_eq!(shell(&read), b"read\n");
    let before = damage(&victim.path, |bytes| bytes[50] ^= 1);
    assert_eq!(shell(&read), b"refused\n");
    std::fs::write(&victim.path, before).unwrap();
    let key = world.pitr.cluster_dir().join("key/0000000001");
    damage(&key, |bytes| {
        let at = bytes.windows(4).position(|window| window == b"age1").unwrap();
        bytes[at + 4] ^= 1;
    });
    assert_eq!(shell(&read), b"refused\n");
}

/// The same bytes in each, with one key for all.
#[test]
fn an_encrypted_archive_in_two_stores_survives_one_of_them() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).setting("autovacuum", "off").start();
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    let keys = Keys::new(&pitr, &scratch, "keys");
    let stores = ["one", "two"].map(|name| {
        std::fs::create_dir(scratch.join(name)).unwrap();
        scratch.join(name).display().to_string()
    });
    let both = ["--store", &stores[0], "--store", &stores[1], "--ack-stores", "1", "--key-file", &keys.archiver];
    let archive = |more: &[&str]| {
        pitr.ok(["archive", "--exit-when-caught-up"].iter().chain(&both).chain(more));
    };
    archive(&[]);
    let away = scratch.join("away");
    for gone in &stores {
        std::fs::rename(gone, &away).unwrap();
        mark(&server);
        server.switch_wal();
        archive(&["--no-backup"]);
        std::fs::rename(&away, gone).unwrap();
        mark(&server);
        archive(&["--no-backup"]);
    }
    for (at, store) in stores.iter().enumerate() {
        let one = ["--store", store, "--restore-key", &keys.restore];
        pitr.ok(["verify", "--read-data"].iter().chain(&one)).says(&["sound"]);
        let (name, words) = (format!("restored-{at}"), ["--target", "latest"]);
        let to = scratch.join(&name);
        pitr.restore(&server, &to, &words.into_iter().chain(one).collect::<Vec<_>>());
        assert_eq!(marker_xids(&open_restored(&scratch, &name, &server, &to)), marker_xids(&server));
        for (name, path) in files(&Path::new(store).join("main/log")) {
            assert!(
                std::fs::read(path).unwrap().windows(8).any(|window| window == b"PITRSEAL"),
                "{name} is not sealed"
            );
        }
    }
}
