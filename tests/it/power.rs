//! Promise: when the power fails, at any moment and whatever the disk then has of what it was given, all that had been
//! acknowledged is there, and nothing is taken for log that is none.
//!
//! Archivers are recorded at work, some of them killed, some on a disk whose fsync fails now and then (see `support::power`). From the
//! record come hundreds of states of the disk, and each is looked at with the product's own eyes, and compared with the server's.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;

use crate::support::load::{mark, marker_table};
use crate::support::oracle::{assert_segments_equal_wal, parse_wal_file_name};
use crate::support::pitr::{SLOT, acknowledged};
use crate::support::power::{Disk, Recorder, State};
use crate::support::s3::{Harm, S3};
use crate::support::server::parse_lsn;
use crate::support::{Load, Pitr, Scratch, Server, env_number, seed};

const SEGMENT: u64 = 1 << 20;

fn source(scratch: &Scratch) -> Server {
    let server = Server::builder(scratch, "server").wal_segment_mib(1).setting("autovacuum", "off").start();
    marker_table(&server);
    server.sql("create table noise (bytes bytea)");
    server
}

fn load(scratch: &Scratch, server: &Server) -> Load {
    Load::script(
        scratch,
        server,
        1,
        "insert into marker default values;\n\
         insert into noise select string_agg(sha512(random()::text::bytea), '') from generate_series(1, 300);\n\
         \\sleep 10 ms\n",
    )
}

/// What is made to fail in a recorded archiver.
fn fault(dice: &mut StdRng) -> Vec<String> {
    let (call, most) = [("", 1), ("fsync", 12), ("fdatasync", 30), ("renameat2", 3)][dice.random_range(0..4)];
    if call.is_empty() {
        return Vec::new();
    }
    vec![format!("inject={call}:error=EIO:when={}", dice.random_range(1..=most))]
}

/// Checks that `dir`, filled by `pitr export`, has all of the server's log up to `told`, and in whole files nothing else than the
/// server has. What a torn tail holds behind its last whole record is in the last file, as in a server's own after a crash.
fn assert_exported(dir: &Path, server: &Server, told: u64, what: &str) {
    let mut end = 0;
    for entry in fs::read_dir(dir).expect("what was exported").flatten() {
        let name = entry.file_name().into_string().expect("a name");
        let whole = name.strip_suffix(".partial").unwrap_or(&name);
        let Some((_, start)) = parse_wal_file_name(whole, SEGMENT) else { continue };
        let ours = fs::read(entry.path()).expect("an exported file");
        let theirs = fs::read(server.wal_dir().join(whole)).expect("the server's file");
        assert!(name != whole || ours == theirs, "{what}: {name} is not the server's");
        let must = usize::try_from(told.saturating_sub(start).min(SEGMENT)).expect("a length");
        assert!(ours.len() >= must && ours[..must] == theirs[..must], "{what}: {name} lacks what was acknowledged");
        end = end.max(start + SEGMENT);
    }
    assert!(end >= told, "{what}: exported up to {end:x} only");
}

/// All that lies before `told` is there: an archiver goes on behind it.
fn assert_goes_on(pitr: &Pitr<'_>, server: &Server, told: u64, what: &str) {
    let said = pitr.ok(["archive", "--slot", SLOT, "--no-backup", "--exit-when-caught-up"]).said();
    let from = said.split_once("streaming timeline=1 from=").expect("where it goes on").1;
    let from = parse_lsn(from.split_whitespace().next().expect("a position"));
    assert!(from >= told, "{what}: it goes on at {from:x}:\n{said}");
    assert!(!said.contains("gap"), "{what}: {said}");
    let end = server.flush_lsn();
    assert!(assert_segments_equal_wal(&pitr.cluster_dir(), server, 1, end / SEGMENT * SEGMENT) >= 1, "{what}");
    pitr.ok(["verify", "--read-data"]);
}

/// How many states are looked at: `PITR_POWER_CUTS` for a long run.
fn states(default: u64) -> u64 {
    env_number("PITR_POWER_CUTS", default)
}

/// The share of calls behind which the power is to fail.
fn share(trace: &Path, states: u64) -> f64 {
    let text = fs::read(trace).expect("a trace");
    states as f64 / text.iter().filter(|byte| **byte == b'\n').count() as f64 * 3.0
}

/// An archiver at work for a while, recorded.
fn record(pitr: &Pitr<'_>, trace: &Path, dice: &mut StdRng) -> String {
    let faults = fault(dice);
    let recorder = Recorder::new(trace);
    let archiver = &mut pitr.archive_by(&recorder.words(&faults), &["--no-backup"]);
    // How long is the experiment, not a wait for anything.
    archiver.ends_within(Duration::from_millis(dice.random_range(600..1500)));
    if dice.random() {
        archiver.signal(Signal::TERM);
        archiver.ends_within(Duration::from_secs(10));
    }
    archiver.signal(Signal::KILL);
    archiver.ends_within(Duration::from_secs(10));
    recorder.end();
    format!("{faults:?}")
}

/// Whether the power is to fail behind a call. Names that come and go are rarer than log, and tell more.
fn fails(call: &str, share: f64, dice: &mut StdRng) -> bool {
    let often = if call.starts_with("rename") || call == "unlink" { 4.0 } else { 1.0 };
    dice.random_bool((share * often).min(1.0))
}

#[test]
fn what_was_acknowledged_is_in_the_archive_after_any_power_cut() {
    let mut dice = StdRng::seed_from_u64(seed());
    let scratch = Scratch::new();
    let server = source(&scratch);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.ok(["archive", "--slot", SLOT, "--no-backup", "--exit-when-caught-up"]);
    let mut disk = Disk::read(pitr.store());
    let (sessions, states) = (4, states(100));
    let mut looked = 0;
    for session in 0..sessions {
        let trace = scratch.join("trace");
        let load = load(&scratch, &server);
        let fault = record(&pitr, &trace, &mut dice);
        load.stop(&server);
        mark(&server);
        let share = share(&trace, states / sessions);
        disk.replay(&trace, |disk, call| {
            if !fails(call, share, &mut dice) {
                return;
            }
            looked += 1;
            let what = format!("session {session} {fault}, state {looked}, behind {call}, {disk}");
            let store = format!("state-{looked}");
            let laid_out = State(scratch.join(&store));
            disk.lay_out(&laid_out.0, &mut dice);
            let state = Pitr::with_store(&scratch, &store).source(&server);
            let verified = state.run(["verify", "--read-data"]);
            assert_eq!(verified.code, Some(0), "{what}: {verified}");
            let export = scratch.join("export");
            let exported = state.run(["export", export.to_str().expect("a name")]);
            assert_eq!(exported.code, Some(0), "{what}: {exported}");
            assert_exported(&export, &server, disk.told, &what);
            fs::remove_dir_all(&export).expect("what was exported");
            if dice.random_ratio(1, 12) {
                assert_goes_on(&state, &server, disk.told, &what);
            }
        });
        fs::remove_file(&trace).expect("a trace");
        assert!(disk.told <= acknowledged(&server).expect("the slot"), "the record tells of more than the server");
    }
    eprintln!("{looked} states of a directory after a power cut");
    assert!(looked * 4 > states, "too few states: {looked}");
}

/// What a store in a bucket had at that moment.
fn copy_store(from: &Path, to: &Path, at_micros: i64) {
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let (from, to, data) = (entry.path(), to.join(entry.file_name()), entry.metadata().expect("an object"));
        if data.is_dir() {
            copy_store(&from, &to, at_micros);
        } else if data.mtime() * 1_000_000 + data.mtime_nsec() / 1000 <= at_micros {
            fs::create_dir_all(to.parent().expect("a directory")).expect("a directory");
            fs::copy(from, to).expect("an object");
        }
    }
}

/// The machine with the spool loses its power; what the store had by then it keeps.
#[test]
fn what_was_acknowledged_is_in_the_store_or_the_spool_after_any_power_cut() {
    let mut dice = StdRng::seed_from_u64(seed());
    let scratch = Scratch::new();
    let (s3, server) = (S3::start(&scratch), source(&scratch));
    let with_spool = |prefix: &str, spool: &Path| {
        let pitr = Pitr::in_bucket(&scratch, &s3, prefix).env("PITR_ACK", "spool").source(&server);
        pitr.env("PITR_SPOOL", spool.to_str().expect("a name"))
    };
    let spool = scratch.join("spool");
    let pitr = with_spool("db", &spool);
    pitr.ok(["archive", "--slot", SLOT, "--no-backup", "--exit-when-caught-up"]);
    let mut disk = Disk::read(&spool);
    let (sessions, states) = (5, states(30));
    let mut looked = 0;
    for session in 0..sessions {
        if dice.random_ratio(2, 3) {
            s3.harm_when(|asked| {
                let away = asked.method == "PUT" && asked.key.contains("/log/");
                away.then_some(Harm::Refused(503, "ServiceUnavailable"))
            });
        }
        let trace = scratch.join("trace");
        let load = load(&scratch, &server);
        let fault = record(&pitr, &trace, &mut dice);
        load.stop(&server);
        s3.heal();
        mark(&server);
        let share = share(&trace, states / sessions);
        disk.replay(&trace, |disk, call| {
            if !fails(call, share, &mut dice) {
                return;
            }
            looked += 1;
            let what = format!("session {session} {fault}, state {looked}, behind {call}, {disk}");
            let prefix = format!("state-{looked}");
            let (store, spool) = (State(s3.dir(&prefix)), State(scratch.join("state")));
            copy_store(&s3.dir("db"), &store.0, disk.at_micros);
            disk.lay_out(&spool.0, &mut dice);
            assert_goes_on(&with_spool(&prefix, &spool.0), &server, disk.told, &what);
        });
        fs::remove_file(&trace).expect("a trace");
        assert!(disk.told <= acknowledged(&server).expect("the slot"), "the record tells of more than the server");
    }
    eprintln!("{looked} states of a spool after a power cut");
    assert!(looked * 4 > states, "too few states: {looked}");
}
