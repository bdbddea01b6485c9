//! Promise: killed at any system call, or on a disk on which any of them fails, the archiver loses nothing that was acknowledged,
//! and goes on by itself once it can.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::load::marker_table;
use crate::support::oracle::{assert_ready_data_dir, assert_segments_equal_wal, marker_xids, open_restored};
use crate::support::pitr::{Archiver, SLOT, acknowledged, finish, inside};
use crate::support::programs::server_user;
use crate::support::s3::{Harm, S3};
use crate::support::server::parse_lsn;
use crate::support::strace::{At, Calls};
use crate::support::{Load, PATIENCE, Pitr, Scratch, Server, env_number, seed};

/// What changes a disk.
/// But for `unlink`: whoever tries again does so on another thread, which has its own first call.
const DISK: &Calls =
    &[("fsync", 6), ("fdatasync", 20), ("renameat2", 2), ("rename", 1), ("pwrite64", 25), ("writev", 1), ("mkdir", 2)];

/// The same, and what is read and told.
const ANY: &Calls = &[
    ("fsync", 6),
    ("fdatasync", 20),
    ("renameat2", 2),
    ("rename", 1),
    ("unlink", 2),
    ("pwrite64", 25),
    ("writev", 1),
    ("openat", 30),
    ("statx", 30),
    ("sendto", 40),
    ("recvfrom", 60),
];

/// What a backup does to the disk.
const BACKUP: &Calls = &[("fsync", 5), ("writev", 2), ("renameat2", 2), ("openat", 20), ("recvfrom", 80), ("mkdir", 2)];

/// What a restore does to it.
const RESTORE: &Calls = &[
    ("openat", 200),
    ("pwrite64", 100),
    ("mkdir", 10),
    ("ftruncate", 10),
    ("syncfs", 1),
    ("rename", 3),
    ("fsync", 2),
    ("fchmod", 10),
    ("utimensat", 10),
];

const ERRORS: [&str; 4] = ["EIO", "ENOSPC", "EROFS", "EDQUOT"];

const AWAY: Harm = Harm::Refused(503, "ServiceUnavailable");

/// How long an archiver may go on that has not come to its fault.
const ROUND: Duration = Duration::from_millis(800);

fn source(scratch: &Scratch) -> Server {
    let server = Server::builder(scratch, "server").wal_segment_mib(1).start();
    marker_table(&server);
    server.sql("create table noise (bytes bytea)");
    server
}

/// Some megabytes of log in a second: segments are sealed and opened all the time.
fn load(scratch: &Scratch, server: &Server) -> Load {
    Load::script(
        scratch,
        server,
        2,
        "insert into marker default values;\n\
         insert into noise select string_agg(sha512(random()::text::bytea), '') from generate_series(1, 600);\n\
         \\sleep 20 ms\n",
    )
}

/// What one round after the other must hold.
struct Rounds<'a> {
    pitr: &'a Pitr<'a>,
    server: &'a Server,
    told: u64,
    /// Rounds in which the fault came.
    came: u64,
}

impl<'a> Rounds<'a> {
    fn new(pitr: &'a Pitr<'a>, server: &'a Server) -> Self {
        Self { pitr, server, told: 0, came: 0 }
    }

    /// An archiver that is killed where `at` says, or a while later.
    fn killed(&mut self, at: &At) {
        let mut archiver = self.pitr.archive_by(&at.words(), &["--no-backup"]);
        self.came += u64::from(archiver.ends_within(ROUND));
        self.check(at, &archiver.kill().said());
    }

    /// An archiver whose calls fail where `at` says. At its start it may end with that; later it says so, and goes on by itself, if
    /// need be once `mend` has been called.
    fn failing(&mut self, at: &At, mend: impl FnOnce()) {
        let mut archiver = self.pitr.archive_by(&at.words(), &["--no-backup"]);
        let failed = |archiver: &Archiver| archiver.said().contains("(os error");
        let began = Instant::now();
        let mut ended = false;
        while !ended && began.elapsed() < ROUND && !failed(&archiver) {
            ended = archiver.ends_within(Duration::from_millis(20));
        }
        self.came += u64::from(failed(&archiver));
        mend();
        let end = self.server.flush_lsn();
        while !ended && acknowledged(self.server).unwrap_or(0) < end {
            assert!(began.elapsed() < PATIENCE, "{at}: it does not go on:\n{}", archiver.said());
            ended = archiver.ends_within(Duration::from_millis(20));
        }
        if !ended {
            return self.check(at, &archiver.kill().said());
        }
        let ended = archiver.wait();
        self.check(at, &ended.said());
        assert!(matches!(ended.code, Some(1 | 21)) && !ended.said().contains("streaming"), "{at}: {ended}");
        ended.says(&["pitr: ", "(os error"]);
    }

    /// Where it went on, there the archive ended: before that must be all that had been acknowledged.
    fn check(&mut self, at: &At, said: &str) {
        let first = said.lines().find_map(|line| line.split_once("streaming timeline=1 from="));
        if let Some((_, from)) = first {
            let from = parse_lsn(from.split_whitespace().next().expect("a position"));
            assert!(from >= self.told, "{at}: {:x} was acknowledged, and it goes on at {from:x}:\n{said}", self.told);
        }
        assert!(!said.contains("panicked"), "{at}: {said}");
        assert!(!said.contains("gap"), "{at}: {said}");
        let now = acknowledged(self.server).unwrap_or(0);
        assert!(now >= self.told, "{at}: the acknowledged position went back from {:x} to {now:x}:\n{said}", self.told);
        self.told = now;
    }

    fn end(self, load: Load, what: &str, of: u64) {
        load.stop(self.server);
        let end = self.server.switch_wal();
        self.pitr.ok(["archive", "--slot", SLOT, "--no-backup", "--exit-when-caught-up"]);
        assert!(acknowledged(self.server).expect("the slot") >= end);
        let files = assert_segments_equal_wal(&self.pitr.cluster_dir(), self.server, 1, end);
        self.pitr.ok(["verify", "--read-data"]);
        assert_eq!(self.pitr.json(&["list"])["gaps"].as_array().map(Vec::len), Some(0));
        eprintln!("{what}: the fault came in {} of {of} rounds; {files} WAL files compared", self.came);
        // A busy machine comes to fewer of them.
        assert!(self.came > 0, "no round met its fault");
    }
}

/// How many rounds: `PITR_FAULTS` for a long run.
fn rounds(default: u64) -> u64 {
    env_number("PITR_FAULTS", default)
}

#[test]
fn nothing_is_lost_by_an_archiver_killed_at_any_system_call() {
    let mut dice = StdRng::seed_from_u64(seed());
    let scratch = Scratch::new();
    let server = source(&scratch);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let load = load(&scratch, &server);
    let mut all = Rounds::new(&pitr, &server);
    let rounds = rounds(50);
    for n in 0..rounds {
        all.killed(&At::killing(ANY, &mut dice));
        if n % 20 == 19 {
            pitr.ok(["verify", "--read-data"]);
        }
    }
    all.end(load, "killed, directory", rounds);
}

/// The store takes log or takes none: so much that waits in the spool goes there, or more comes into the spool.
fn here_or_away(s3: &S3, dice: &mut StdRng) {
    s3.heal();
    if dice.random() {
        s3.harm_when(|asked| (asked.method == "PUT" && asked.key.contains("/log/")).then_some(AWAY));
    }
}

/// The store answers in some rounds and not in others, so that kills come while log goes into the spool, and out of it.
#[test]
fn nothing_is_lost_by_an_archiver_with_a_spool_killed_at_any_system_call() {
    let mut dice = StdRng::seed_from_u64(seed());
    let scratch = Scratch::new();
    let (s3, server) = (S3::start(&scratch), source(&scratch));
    let load = load(&scratch, &server);
    let rounds = rounds(40);
    let spool = scratch.join("spool").to_str().expect("a name").to_owned();
    let pitr = Pitr::in_bucket(&scratch, &s3, "db").env("PITR_SPOOL", spool).env("PITR_ACK", "spool").source(&server);
    pitr.catch_up();
    let mut all = Rounds::new(&pitr, &server);
    for _ in 0..rounds {
        here_or_away(&s3, &mut dice);
        all.killed(&At::killing(ANY, &mut dice));
    }
    s3.heal();
    all.end(load, "killed, spool", rounds);
}

#[test]
fn an_archive_on_a_disk_that_fails_now_and_then_loses_nothing_and_goes_on() {
    let mut dice = StdRng::seed_from_u64(seed());
    let scratch = Scratch::new();
    let server = source(&scratch);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let load = load(&scratch, &server);
    let mut all = Rounds::new(&pitr, &server);
    let rounds = rounds(20);
    for _ in 0..rounds {
        all.failing(&At::failing(DISK, &ERRORS, &mut dice), || ());
    }
    all.end(load, "failing disk, directory", rounds);
}

#[test]
fn a_spool_on_a_disk_that_fails_now_and_then_loses_nothing_and_goes_on() {
    let mut dice = StdRng::seed_from_u64(seed());
    let scratch = Scratch::new();
    let (s3, server) = (S3::start(&scratch), source(&scratch));
    let load = load(&scratch, &server);
    let rounds = rounds(20);
    let spool = scratch.join("spool").to_str().expect("a name").to_owned();
    let pitr = Pitr::in_bucket(&scratch, &s3, "db").env("PITR_SPOOL", spool).env("PITR_ACK", "spool").source(&server);
    pitr.catch_up();
    let mut all = Rounds::new(&pitr, &server);
    for _ in 0..rounds {
        here_or_away(&s3, &mut dice);
        // What lies in the spool when a session begins has to be in the store first.
        all.failing(&At::failing(DISK, &ERRORS, &mut dice), || s3.heal());
    }
    all.end(load, "failing disk, spool", rounds);
}

#[test]
fn a_backup_killed_at_any_system_call_leaves_no_base_and_the_next_one_works() {
    let mut dice = StdRng::seed_from_u64(seed());
    let scratch = Scratch::new();
    let server = source(&scratch);
    server.sql("insert into noise select sha512(n::text::bytea) from generate_series(1, 50000) n");
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.ok(["archive", "--slot", SLOT, "--no-backup", "--exit-when-caught-up"]);
    let manifests = || {
        let bases = std::fs::read_dir(pitr.cluster_dir().join("base"));
        bases.map_or(0, |bases| bases.filter(|e| e.as_ref().unwrap().path().join("manifest.json").exists()).count())
    };
    let (mut killed, rounds) = (0, rounds(10));
    for _ in 0..rounds {
        let at = At::killing(BACKUP, &mut dice);
        let before = manifests();
        let ended = finish(&scratch, inside(&at.words(), &pitr.command(["backup"])));
        assert!(matches!(ended.code, None | Some(0)), "{at}: {ended}");
        killed += u64::from(ended.code.is_none());
        let listed = pitr.json(&["list"])["bases"].as_array().map(Vec::len);
        assert_eq!(listed, Some(manifests()), "{at}");
        assert!(manifests() <= before + 1 && (ended.code.is_none() || manifests() == before + 1), "{at}");
        // What is listed is whole, also where the kill came behind the last name.
        pitr.ok(["verify", "--read-data"]);
    }
    eprintln!("backups: {killed} of {rounds} killed, {} bases", manifests());
    pitr.ok(["backup"]);
    pitr.catch_up();
    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target", "latest"]);
    assert_eq!(open_restored(&scratch, "restored", &server, &to).checksums(), server.checksums());
}

/// On whichever write: the restore says so and leaves nothing under the name that was wanted, and the next one works.
#[test]
fn a_restore_onto_a_disk_that_fails_never_looks_finished() {
    let mut dice = StdRng::seed_from_u64(seed());
    let scratch = Scratch::new();
    let server = source(&scratch);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let load = load(&scratch, &server);
    crate::support::load::wait_for_wal(&server, 4 << 20);
    load.stop(&server);
    pitr.catch_up();
    let to = scratch.join("restored");
    let (mut failed, rounds) = (0, rounds(12));
    for n in 0..rounds {
        let at = At::failing(RESTORE, &["EIO", "ENOSPC", "EROFS"], &mut dice);
        let mut command = pitr.command(["restore", "--target", "latest", "--to"]);
        command.arg(&to).arg("--bin-dir").arg(server.bin_dir());
        if n % 6 != 0 {
            command.arg("--no-recover");
        } else if let Some(user) = server_user() {
            command.args(["--os-user", &user.name]);
        }
        let ended = finish(&scratch, inside(&at.words(), &command));
        assert!(!ended.said().contains("panicked"), "{at}: {ended}");
        if ended.code == Some(0) {
            assert!(to.join("PG_VERSION").exists(), "{at}: {ended}");
        } else {
            failed += 1;
            assert!(ended.code.is_some() && ended.stderr.contains("pitr: "), "{at}: {ended}");
            assert!(!to.join("PG_VERSION").exists(), "{at}: it looks like a restored one: {ended}");
        }
        let _ = std::fs::remove_dir_all(&to);
    }
    eprintln!("restores: {failed} of {rounds} failed");
    pitr.restore(&server, &to, &["--target", "latest"]);
    assert_ready_data_dir(&to);
    assert_eq!(marker_xids(&open_restored(&scratch, "restored", &server, &to)), marker_xids(&server));
}
