//! Promise: a damaged object is named, with what to do, and costs only what needs it. Log
//! goes on being archived, and every moment that can be reached without it restores.

use std::path::PathBuf;

use crate::bad_input::{damage, file_name};
use crate::support::load::{mark, marker_table};
use crate::support::oracle::{SegmentFile, marker_xids, open_restored, segment_files};
use crate::support::pitr::acknowledged;
use crate::support::{Pitr, Scratch, Server};

/// An archive with two bases and log before, between and behind them.
struct World<'a> {
    server: Server,
    pitr: Pitr<'a>,
    /// Rows in order: two before the victim, one in it, one behind it and before the second
    /// base, one after that; and a moment behind each.
    rows: Vec<u32>,
    moments: Vec<String>,
    /// A closed segment that only a restore from the first base needs.
    victim: SegmentFile,
}

impl<'a> World<'a> {
    fn new(scratch: &'a Scratch) -> Self {
        let server = Server::builder(scratch, "server").wal_segment_mib(1).start();
        marker_table(&server);
        let pitr = Pitr::new(scratch).source(&server);
        pitr.ok(["init"]);
        pitr.catch_up();
        let (mut rows, mut moments) = (Vec::new(), Vec::new());
        let mut step = || {
            rows.push(mark(&server));
            let at = server.flush_lsn();
            moments.push(server.sql("select pg_sleep(0.05), now()").rsplit('|').next().unwrap().to_owned());
            server.switch_wal();
            at
        };
        step();
        step();
        let at = step();
        step();
        pitr.catch_up();
        pitr.ok(["backup"]);
        step();
        pitr.catch_up();
        let segments = segment_files(&pitr.cluster_dir());
        let victim = segments.into_iter().find(|s| s.start < at && at <= s.end).expect("the victim");
        Self { server, pitr, rows, moments, victim }
    }

    fn restores(&self, scratch: &Scratch, name: &str, target: &[&str], rows: &[u32]) {
        let to = scratch.join(name);
        self.pitr.restore(&self.server, &to, target);
        assert_eq!(marker_xids(&open_restored(scratch, name, &self.server, &to)), rows.iter().copied().collect());
    }

    /// Oldest first. Two that began within a second do not tell by their names.
    fn bases(&self) -> Vec<PathBuf> {
        let mut bases: Vec<PathBuf> = std::fs::read_dir(self.pitr.cluster_dir().join("base"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        bases.sort_by_key(|base| std::fs::metadata(base.join("manifest.json")).unwrap().modified().unwrap());
        bases
    }
}

#[test]
fn a_damaged_old_segment_costs_only_the_moments_that_need_it() {
    let scratch = Scratch::new();
    let mut world = World::new(&scratch);
    let name = file_name(&world.victim);
    let pitr = &world.pitr;
    let changes: [fn(&mut Vec<u8>); 3] = [
        |b| {
            let footer = b.len() - 40;
            b[footer] ^= 1;
        },
        |b| b.clear(),
        |b| b.truncate(b.len() / 2),
    ];
    let mut original = None;
    for change in changes {
        let before = damage(&world.victim.path, change);
        original.get_or_insert(before);
        pitr.ok(["list"]).says(&[&name, "damaged", "intact copy"]);
        pitr.ok(["status"]).says(&[&name]);
        pitr.ok(["plan", "--target", "latest"]).says(&[&name]);
        std::fs::write(&world.victim.path, original.as_ref().unwrap()).unwrap();
    }
    damage(&world.victim.path, |b| b.truncate(b.len() / 2));
    for verb in ["list", "status"] {
        let damaged = pitr.json(&[verb])["damaged"].clone();
        assert_eq!(damaged.as_array().unwrap().len(), 1, "{damaged}");
        assert!(damaged[0]["object"].as_str().unwrap().ends_with(&name), "{damaged}");
    }

    // Archiving goes on, from where it was, and no further base is needed.
    let told = acknowledged(&world.server).unwrap();
    world.rows.push(mark(&world.server));
    let end = world.server.switch_wal();
    pitr.catch_up().says(&[&name]);
    assert!(acknowledged(&world.server).unwrap() >= end && end > told);
    assert_eq!(world.bases().len(), 2);

    world.restores(&scratch, "before", &["--target-time", &world.moments[0]], &world.rows[..1]);
    world.restores(&scratch, "latest", &["--target", "latest"], &world.rows);
    // Whether a transaction ended between the second row and that moment only the victim tells.
    for moment in &world.moments[1..4] {
        pitr.run(["plan", "--target-time", moment]).exit(13).says(&[&name]);
    }
    let to = scratch.join("refused");
    pitr.run_restore(&world.server, &to, &["--target-time", &world.moments[2]]).exit(13).says(&[&name]);
    assert!(!to.exists());

    // Every other file is exported, whether the footer tells of the damage or only the data.
    let exported = |name: &str| {
        let dir = scratch.join(name);
        pitr.run(["export", &dir.display().to_string()]).exit(13).says(&[&file_name(&world.victim)]);
        std::fs::read_dir(dir).unwrap().count()
    };
    let footer = exported("footer_damaged");
    std::fs::write(&world.victim.path, original.as_ref().unwrap()).unwrap();
    damage(&world.victim.path, |b| {
        let data = b.len() / 2;
        b[data] ^= 1;
    });
    let data = exported("data_damaged");
    std::fs::write(&world.victim.path, original.as_ref().unwrap()).unwrap();
    let dir = scratch.join("sound");
    pitr.ok(["export", &dir.display().to_string()]);
    assert_eq!((footer, data), (std::fs::read_dir(dir).unwrap().count() - 1, footer));

    damage(&world.victim.path, |b| b.truncate(b.len() / 2));
    for words in [&["verify"][..], &["verify", "--read-data"]] {
        let told = pitr.run(words).exit(13).says(&[&name, "2 base backups"]);
        assert!(!told.stdout.contains(" 0 packs"), "{told}");
    }
    std::fs::write(&world.victim.path, original.unwrap()).unwrap();
    pitr.ok(["verify", "--read-data"]);
    pitr.ok(["plan", "--target-time", &world.moments[2]]);
}

/// The server is asked for that log again, and never told of less than before.
#[test]
fn a_damaged_newest_segment_is_streamed_again() {
    let scratch = Scratch::new();
    let mut world = World::new(&scratch);
    let newest = segment_files(&world.pitr.cluster_dir()).into_iter().max_by_key(|s| s.start).unwrap();
    for entry in std::fs::read_dir(newest.path.parent().unwrap()).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("tail-") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    damage(&newest.path, |b| b.truncate(b.len() / 2));
    world.pitr.run(["plan", "--target", "latest"]).exit(13).says(&[&file_name(&newest)]);
    // What the tail held behind it was taken away here.
    let told = acknowledged(&world.server).unwrap().min(newest.end);
    let archiver = world.pitr.archive();
    world.rows.push(mark(&world.server));
    let mut lowest = u64::MAX;
    crate::support::condition("the new row to be acknowledged", crate::support::PATIENCE, || {
        lowest = lowest.min(acknowledged(&world.server).unwrap());
        (acknowledged(&world.server).unwrap() >= world.server.flush_lsn()).then_some(())
    });
    assert!(lowest >= told, "the server was told of less than before");
    drop(archiver.stop());
    world.restores(&scratch, "latest", &["--target", "latest"], &world.rows);
    assert_eq!(world.bases().len(), 2, "nothing is lost, so no other base is needed");
}

#[test]
fn a_damaged_old_manifest_costs_only_the_moments_that_need_it() {
    let scratch = Scratch::new();
    let world = World::new(&scratch);
    let old = world.bases()[0].join("manifest.json");
    let name = format!("{}/manifest.json", world.bases()[0].file_name().unwrap().to_string_lossy());
    damage(&old, |b| b.truncate(b.len() / 2));
    world.pitr.ok(["list"]).says(&[&name]);
    world.pitr.ok(["status"]).says(&[&name]);
    world.pitr.ok(["plan", "--target", "latest"]).says(&[&name]);
    world.restores(&scratch, "latest", &["--target", "latest"], &world.rows);
    for moment in &world.moments[..4] {
        world.pitr.run(["plan", "--target-time", moment]).exit(13).says(&[&name]);
    }
    let told = world.pitr.run(["verify"]).exit(13).says(&[&name, "2 base backups"]);
    assert!(!told.stdout.contains(" 0 packs"), "{told}");
    world.pitr.catch_up();
}

#[test]
fn verify_goes_on_and_names_everything_that_is_damaged() {
    let scratch = Scratch::new();
    let world = World::new(&scratch);
    let packs: Vec<PathBuf> = std::fs::read_dir(world.pitr.cluster_dir().join("pack"))
        .unwrap()
        .flatten()
        .flat_map(|folder| std::fs::read_dir(folder.path()).unwrap().flatten())
        .map(|entry| entry.path())
        .collect();
    let sound = world.pitr.ok(["verify", "--read-data"]).stdout;
    assert!(sound.contains(&format!("{} packs", packs.len())), "{} packs: {sound}", packs.len());
    for pack in &packs {
        damage(pack, |b| {
            let middle = b.len() / 2;
            b[middle] ^= 1;
        });
    }
    damage(&world.victim.path, |b| b.truncate(b.len() / 2));
    let mut names: Vec<String> =
        packs.iter().map(|pack| pack.file_name().unwrap().to_string_lossy().into_owned()).collect();
    names.push(file_name(&world.victim));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let told = world.pitr.run(["verify", "--read-data"]).exit(13).says(&names);
    for word in ["2 base backups".to_owned(), format!("{} packs", packs.len())] {
        assert!(told.stdout.contains(&word), "{word} in {told}");
    }
}
