//! Promise: whatever is wrong, pitr says what and where, what to do about it, and
//! with the exit code that scripts rely on; and it never makes things worse.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::load::{mark, marker_table, pgbench_tables, wait_for_wal};
use crate::support::oracle::{SegmentFile, assert_segments_equal_wal, marker_xids, open_restored, segment_files};
use crate::support::pitr::{SLOT, finish};
use crate::support::programs::{as_server_user, client, server_user, tool};
use crate::support::{Finished, Load, PATIENCE, Pitr, Scratch, Server, condition};

fn archived_with_rows(scratch: &Scratch) -> (Server, Pitr<'_>) {
    let server = Server::builder(scratch, "server").wal_segment_mib(1).start();
    marker_table(&server);
    let pitr = Pitr::new(scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    for _ in 0..4 {
        mark(&server);
        server.switch_wal();
    }
    mark(&server);
    pitr.catch_up();
    (server, pitr)
}

#[track_caller]
fn exits_with_one_of(finished: Finished, codes: &[i32]) -> Finished {
    assert!(finished.code.is_some_and(|c| codes.contains(&c)), "not one of {codes:?}: {finished}");
    finished
}

#[test]
fn a_wrong_password_is_exit_20_and_never_shown() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "server")
        .hba("host all,replication keeper 127.0.0.1/32 scram-sha-256")
        .hba("host replication keeper 127.0.0.1/32 scram-sha-256")
        .start();
    server.sql("create role keeper login replication password 'rightsecret'; grant pg_monitor to keeper");
    let good = Pitr::new(&scratch).source_url(server.url_as("keeper:rightsecret"));
    good.ok(["init"]).hides("rightsecret");
    good.ok(["-v", "archive", "--slot", SLOT, "--exit-when-caught-up"]).hides("rightsecret");
    let bad = Pitr::new(&scratch).source_url(server.url_as("keeper:wrongsecret"));
    for verb in [&["backup"][..], &["archive", "--slot", SLOT, "--exit-when-caught-up"]] {
        bad.run(verb).exit(20).says(&["password", "keeper", "127.0.0.1"]).hides("wrongsecret");
    }
    let log =
        String::from_utf8_lossy(&tool("grep").args(["-r", "rightsecret"]).arg(good.store()).output().unwrap().stdout)
            .into_owned();
    assert_eq!(log, "", "the password is in the store");
}

#[test]
fn an_unreachable_server_is_exit_20_and_named() {
    let scratch = Scratch::new();
    let mut server = Server::new(&scratch, "server");
    let pitr = Pitr::new(&scratch).source_url(server.url());
    pitr.ok(["init"]);
    server.stop();
    pitr.run(["backup"]).exit(20).says(&[&server.port().to_string()]);
}

#[test]
fn another_clusters_server_is_refused_with_both_identities() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "server");
    let other = Server::new(&scratch, "other");
    let id = |server: &Server| server.sql("select system_identifier from pg_control_system()");
    Pitr::new(&scratch).source(&server).ok(["init"]);
    let pitr = Pitr::new(&scratch).source(&other);
    for verb in [&["init"][..], &["backup"], &["status"], &["archive", "--slot", SLOT, "--exit-when-caught-up"]] {
        pitr.run(verb).exit(5).says(&[&id(&server), &id(&other)]);
    }
    assert!(segment_files(&pitr.cluster_dir()).is_empty());
}

#[test]
fn a_slot_in_use_is_refused_with_the_process_that_uses_it() {
    let scratch = Scratch::new();
    let (server, pitr) = archived_with_rows(&scratch);
    let dir = scratch.server_dir("receivewal");
    let mut receiver = client("pg_receivewal");
    receiver.args(["--slot", SLOT, "--no-loop", "-d", &server.url(), "-D"]).arg(&dir);
    let mut receiver = as_server_user(&mut receiver).stderr(Stdio::null()).spawn().unwrap();
    let pid = condition("pg_receivewal to hold the slot", PATIENCE, || {
        let pid = server.sql(&format!("select active_pid from pg_replication_slots where slot_name = '{SLOT}'"));
        (!pid.is_empty()).then_some(pid)
    });
    let refused = pitr.run(["archive", "--slot", SLOT, "--exit-when-caught-up"]);
    receiver.kill().unwrap();
    receiver.wait().unwrap();
    refused.exit(5).says(&["slot", SLOT, &pid]);
}

/// The WAL between the archive's end and what the server still has is lost: that is
/// recorded as a gap, a new base is taken at once, and both sides of it restore.
fn goes_on_after_a_gap(lose_the_slot: bool) {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "server")
        .wal_segment_mib(1)
        .setting("wal_keep_size", "0")
        .setting("max_wal_size", "4MB")
        .setting("min_wal_size", "2MB")
        .start();
    pgbench_tables(&server, 1);
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let before = mark(&server);
    let before_time = server.now();
    pitr.catch_up();
    if lose_the_slot {
        server.sql("alter system set max_slot_wal_keep_size = '2MB'");
        server.sql("select pg_reload_conf()");
    } else {
        server.sql(&format!("select pg_drop_replication_slot('{SLOT}')"));
    }
    let lost = mark(&server);
    server.sql("select pg_sleep(0.01)");
    let inside_gap = server.now();
    server.sql("update pgbench_accounts set abalance = abalance + 1");
    for _ in 0..4 {
        server.switch_wal();
        server.sql("checkpoint");
    }
    if lose_the_slot {
        condition("the slot to be lost", PATIENCE, || {
            server.switch_wal();
            let status = server.sql(&format!("select wal_status from pg_replication_slots where slot_name = '{SLOT}'"));
            (status == "lost").then_some(())
        });
        // One gap is enough: the next slot could be lost, too, while a slow machine takes the base.
        server.sql("alter system reset max_slot_wal_keep_size");
        server.sql("select pg_reload_conf()");
    }
    pitr.catch_up();
    let after = mark(&server);
    pitr.catch_up();

    let listed = pitr.json(&["list"]).to_string();
    assert!(listed.contains("gap"), "no gap in {listed}");
    assert_eq!(std::fs::read_dir(pitr.cluster_dir().join("base")).unwrap().count(), 2, "a new base at once: {listed}");

    // What there is comes out, and what does not is named.
    let exported = scratch.join("exported");
    pitr.run(["export".as_ref(), exported.as_os_str()]).exit(3).says(&["not whole", "000000010000"]);
    assert!(std::fs::read_dir(&exported).unwrap().count() > 1);

    let early = scratch.join("early");
    pitr.restore(&server, &early, &["--target-time", &before_time]);
    let restored = open_restored(&scratch, "early", &server, &early);
    assert_eq!(marker_xids(&restored), [before].into());
    drop(restored);
    pitr.run_restore(&server, &scratch.join("gap"), &["--target-time", &inside_gap]).exit(14).says(&["gap"]);
    let late = scratch.join("late");
    pitr.restore(&server, &late, &["--target", "latest"]);
    let restored = open_restored(&scratch, "late", &server, &late);
    assert_eq!(marker_xids(&restored), [before, lost, after].into());
}

#[test]
fn a_lost_slot_is_a_recorded_gap_and_a_new_base() {
    goes_on_after_a_gap(true);
}

#[test]
fn recycled_wal_is_a_recorded_gap_and_a_new_base() {
    goes_on_after_a_gap(false);
}

/// A disk that takes no more bytes, without needing a disk: a limit on file sizes
/// whose signal is ignored makes every further write fail. Raised again, streaming
/// has to go on as if nothing had been.
#[test]
fn a_full_disk_acknowledges_nothing_and_streaming_resumes_when_there_is_room() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "server");
    pgbench_tables(&server, 1);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    // Stop short of a file boundary, so that no small file does in place of a big one.
    server.switch_wal();
    let plain = pitr.command(["archive", "--slot", SLOT]);
    let mut command = Command::new("bash");
    command.args(["-c", "trap '' XFSZ; ulimit -S -f 2048; exec \"$@\"", "bash"]).arg(pitr.binary());
    command.args(["archive", "--slot", SLOT]);
    for (key, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    let log = std::fs::File::create(scratch.join("archiver.log")).unwrap();
    let mut child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();

    let load = Load::pgbench(&server, 2);
    wait_for_wal(&server, 10 << 20);
    load.stop(&server);
    let said = || std::fs::read_to_string(scratch.join("archiver.log")).unwrap();
    condition("the archiver to complain", PATIENCE, || said().contains("File too large").then_some(()));
    let told = crate::support::pitr::acknowledged(&server).unwrap();
    assert!(told < server.flush_lsn(), "acknowledged what it could not write");
    pitr.ok(["verify", "--read-data"]);

    let limit = format!("--pid={}", child.id());
    crate::support::programs::must(tool("prlimit").args([&limit, "--fsize=unlimited:unlimited"]));
    let end = server.switch_wal();
    // Either the process held out, or it ended saying that the store failed and the
    // next one goes on: what may not be is loss.
    condition("everything to be acknowledged", PATIENCE, || {
        if let Some(status) = child.try_wait().unwrap() {
            assert_eq!(status.code(), Some(21), "{}", said());
            pitr.catch_up();
        }
        (crate::support::pitr::acknowledged(&server)? >= end).then_some(())
    });
    // It is in a tail when it is acknowledged, and in a segment a moment later.
    condition("the last log file to be sealed", PATIENCE, || {
        segment_files(&pitr.cluster_dir()).iter().any(|segment| segment.end >= end).then_some(())
    });
    let _ = child.kill();
    let _ = child.wait();
    pitr.ok(["verify", "--read-data"]);
    assert!(assert_segments_equal_wal(&pitr.cluster_dir(), &server, 1, end) >= 1);
}

#[test]
fn a_store_that_cannot_be_written_is_exit_21_and_named() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "server");
    std::fs::write(scratch.join("a-file"), "").unwrap();
    let below_a_file = Pitr::with_store(&scratch, "a-file/store").source(&server);
    below_a_file.run(["init"]).exit(21).says(&["a-file"]);

    let pitr = Pitr::new(&scratch).source(&server).by_server_user();
    std::fs::set_permissions(pitr.store(), std::fs::Permissions::from_mode(0o555)).unwrap();
    pitr.run(["init"]).exit(21).says(&[&pitr.store().to_string_lossy(), "permission denied"]);
    std::fs::set_permissions(pitr.store(), std::fs::Permissions::from_mode(0o755)).unwrap();
    pitr.ok(["init"]);
}

#[test]
fn a_restore_target_with_something_in_it_is_refused_and_left_alone() {
    let scratch = Scratch::new();
    let (server, pitr) = archived_with_rows(&scratch);
    let to = scratch.server_dir("precious");
    std::fs::write(to.join("diary"), "dear diary").unwrap();
    pitr.run_restore(&server, &to, &["--target", "latest"]).exit(5).says(&["precious", "--delta"]);
    assert_eq!(std::fs::read_to_string(to.join("diary")).unwrap(), "dear diary");
    assert_eq!(std::fs::read_dir(&to).unwrap().count(), 1);
    // An empty one is as good as none.
    std::fs::remove_file(to.join("diary")).unwrap();
    pitr.restore(&server, &to, &["--target", "latest"]);
    assert!(to.join("PG_VERSION").exists());
}

/// The server's user has to pass through every directory on the way.
#[test]
fn a_place_that_the_servers_user_cannot_enter_is_refused() {
    // An ordinary user's servers run as that user, to whom every place is open that is to pitr.
    let Some(user) = server_user() else { return };
    let scratch = Scratch::new();
    let (server, pitr) = archived_with_rows(&scratch);
    let closed = scratch.join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    let refused = pitr.run_restore(&server, &closed.join("deep/restored"), &["--target", "latest"]);
    refused.exit(5).says(&[&format!("cannot enter {},", closed.display()), &user.name, "--os-user", "--to"]);
    assert_eq!(std::fs::read_dir(&closed).unwrap().count(), 0);
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o711)).unwrap();
    pitr.restore(&server, &closed.join("deep/restored"), &["--target", "latest"]);
}

#[test]
fn a_restore_into_the_store_or_around_it_is_refused() {
    let scratch = Scratch::new();
    let (server, pitr) = archived_with_rows(&scratch);
    let objects = || tool("find").arg(pitr.store()).output().unwrap().stdout;
    let before = objects();
    let store = pitr.store().to_string_lossy();
    for to in ["store/restored", "store/main/pack", "store"] {
        let refused = pitr.run_restore(&server, &scratch.join(to), &["--target", "latest"]);
        refused.exit(5).says(&["lies in the store", &store]);
    }
    let map = format!("/somewhere={store}/main");
    let refused = pitr.run_restore(&server, &scratch.join("to"), &["--target", "latest", "--tablespace-map", &map]);
    refused.exit(5).says(&["lies in the store", &store]);
    let around = pitr.run_restore(&server, scratch.path(), &["--target", "latest", "--delta"]);
    around.exit(5).says(&["holds the store", &store]);
    assert!(objects() == before, "the store is no longer what it was");
}

type Change = fn(&mut Vec<u8>);

/// Rewrites a stored object, which nobody may do.
pub fn damage(path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let original = std::fs::read(path).unwrap();
    let mut bytes = original.clone();
    change(&mut bytes);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(path, bytes).unwrap();
    original
}

pub fn file_name(segment: &SegmentFile) -> String {
    segment.path.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn a_damaged_segment_is_refused_by_name() {
    let scratch = Scratch::new();
    let (server, pitr) = archived_with_rows(&scratch);
    pitr.ok(["verify", "--read-data"]);
    let segments = segment_files(&pitr.cluster_dir());
    let victim = &segments[segments.len() / 2];
    let changes: [(&str, Change); 4] = [
        ("one bit", |b| {
            let middle = b.len() / 2;
            b[middle] ^= 1;
        }),
        ("cut short", |b| b.truncate(b.len() - 1)),
        ("cut to half", |b| b.truncate(b.len() / 2)),
        ("longer", |b| b.extend_from_slice(b"more")),
    ];
    for (what, change) in changes {
        let original = damage(&victim.path, change);
        let to = scratch.join("restored");
        pitr.run_restore(&server, &to, &["--target", "latest"]).exit(13).says(&[&file_name(victim)]);
        assert!(!to.exists(), "{what}: {} was made", to.display());
        pitr.run(["verify", "--read-data"]).exit(13).says(&[&file_name(victim)]);
        std::fs::write(&victim.path, original).unwrap();
    }
    pitr.ok(["verify", "--read-data"]);
}

#[test]
fn a_segment_under_anothers_name_is_refused() {
    let scratch = Scratch::new();
    let (server, pitr) = archived_with_rows(&scratch);
    let segments = segment_files(&pitr.cluster_dir());
    let size = server.wal_segment_bytes();
    let whole: Vec<&SegmentFile> = segments.iter().filter(|s| s.end - s.start == size).collect();
    let [first, second, ..] = whole[..] else { panic!("two whole segments in {segments:#?}") };
    let content = std::fs::read(&first.path).unwrap();
    damage(&second.path, |b| *b = content);
    pitr.run_restore(&server, &scratch.join("restored"), &["--target", "latest"]).exit(13).says(&[&file_name(second)]);
    pitr.run(["verify", "--read-data"]).exit(13).says(&[&file_name(second)]);
}

#[test]
fn a_missing_segment_is_never_skipped() {
    let scratch = Scratch::new();
    let (server, pitr) = archived_with_rows(&scratch);
    let segments = segment_files(&pitr.cluster_dir());
    let victim = segments.iter().rev().find(|s| s.end - s.start == server.wal_segment_bytes()).expect("a whole one");
    let hidden = scratch.join("hidden");
    std::fs::rename(&victim.path, &hidden).unwrap();
    let to = scratch.join("restored");
    let refused = pitr.run_restore(&server, &to, &["--target", "latest"]);
    exits_with_one_of(refused, &[13, 14]).says(&[&crate::support::server::format_lsn(victim.start)]);
    assert!(!to.exists());
    exits_with_one_of(pitr.run(["verify", "--read-data"]), &[13, 14]);
}

#[test]
fn a_damaged_or_missing_pack_is_refused_by_name() {
    let scratch = Scratch::new();
    let (server, pitr) = archived_with_rows(&scratch);
    let pack = std::fs::read_dir(pitr.cluster_dir().join("pack"))
        .unwrap()
        .flatten()
        .flat_map(|dir| std::fs::read_dir(dir.path()).unwrap().flatten())
        .map(|entry| entry.path())
        .next()
        .expect("a pack");
    let name = pack.file_name().unwrap().to_string_lossy().into_owned();
    let to = scratch.join("restored");
    let original = damage(&pack, |b| {
        let middle = b.len() / 2;
        b[middle] ^= 1;
    });
    pitr.run_restore(&server, &to, &["--target", "latest"]).exit(13).says(&[&name]);
    pitr.run(["verify", "--read-data"]).exit(13).says(&[&name]);
    assert!(!to.exists());
    std::fs::remove_file(&pack).unwrap();
    pitr.run_restore(&server, &to, &["--target", "latest"]).exit(13).says(&[&name]);
    pitr.run(["verify"]).exit(13).says(&[&name]);
    std::fs::write(&pack, original).unwrap();
    pitr.ok(["verify", "--read-data"]);
}

#[test]
fn times_that_cannot_be_restored_are_refused_with_what_can() {
    let scratch = Scratch::new();
    let (server, pitr) = archived_with_rows(&scratch);
    let to = scratch.join("restored");
    let restore = |words: &[&str]| pitr.run_restore(&server, &to, words);
    let year = server.sql("select extract(year from now())");

    // Both readings are shown: the zone of this machine and UTC.
    restore(&["--target-time", "2026-01-02 03:04:05"]).exit(2).says(&["zone", "2026-01-02T03:04:05Z", "--tz"]);
    restore(&["--target-time", "yesterday-ish"]).exit(2).says(&["yesterday-ish"]);
    restore(&["--target-time", "2026-02-30T00:00:00Z"]).exit(2).says(&["2026-02-30"]);
    restore(&["--target-time", "2001-01-01T00:00:00Z"]).exit(14).says(&["2001", &year]);
    restore(&["--target-time", "2999-01-01T00:00:00Z"]).exit(14).says(&["2999", &year]);
    restore(&["--target-lsn", "hello"]).exit(2).says(&["hello"]);
    restore(&["--target-lsn", "FFFF/0"]).exit(14).says(&["FFFF/0"]);
    restore(&["--target-xid", "minus one"]).exit(2).says(&["minus one"]);
    // Positions as the database writes them, in the advice too.
    restore(&["--target-xid", "4000000000"]).exit(14).says(&["4000000000", "that log is 0/"]);
    restore(&["--target-name", "no such point"]).exit(14).says(&["no such point"]);
    restore(&["--target", "latest", "--target-timeline", "9"]).exit(14).says(&["timeline", "9"]);
    // As timelines are printed, in hexadecimal.
    restore(&["--target", "latest", "--target-timeline", "00000010"]).exit(14).says(&["timeline 00000010"]);
    restore(&["--target", "latest", "--target-timeline", "10"]).exit(14).says(&["timeline 0000000A"]);
    restore(&["--target", "latest", "--target-timeline", "1F"]).exit(2).says(&["8 hexadecimal digits"]);
    for timeline in ["1", "00000001", "latest"] {
        pitr.ok(["plan", "--target", "latest", "--target-timeline", timeline]);
    }
    restore(&["--target", "latest", "--jobs", "0"]).exit(2).says(&["--jobs"]);
    restore(&["--target", "latest", "--target-lsn", "0/1"]).exit(2);
    restore(&[]).exit(2).says(&["--target"]);
    assert!(!to.exists());
    for words in [["plan", "--target-time", "2999-01-01T00:00:00Z"], ["plan", "--target-time", "2001-01-01T00:00:00Z"]]
    {
        pitr.run(words).exit(14);
    }
}

#[test]
fn where_there_is_no_archive_it_says_so() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "server");
    std::fs::create_dir(scratch.join("empty")).unwrap();
    for store in ["empty", "nowhere"] {
        let pitr = Pitr::with_store(&scratch, store).source(&server);
        for words in [&["list"][..], &["status"], &["verify"], &["plan", "--target", "latest"]] {
            pitr.run(words).exit(10).says(&["pitr init", store]);
        }
        pitr.run_restore(&server, &scratch.join("to"), &["--target", "latest"]).exit(10);
    }
    let pitr = Pitr::with_store(&scratch, "empty").source(&server);
    pitr.ok(["init"]);
    pitr.run(["--cluster", "another", "list"]).exit(10).says(&["another"]);
    // A store that exists and holds no base yet: nothing to restore.
    pitr.run_restore(&server, &scratch.join("to"), &["--target", "latest"]).exit(14);
}

#[test]
fn a_newer_writer_fences_the_older_one() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).start();
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    let mut first = pitr.archive();
    first.wait_until_caught_up(&server);
    let mut newer = pitr.command(["archive", "--slot", "second"]);
    newer.stdout(Stdio::null()).stderr(Stdio::null());
    let mut newer = newer.spawn().unwrap();
    let load = Load::markers(&scratch, &server, 1, 5);
    let fenced = first.wait();
    load.stop(&server);
    let _ = newer.kill();
    let _ = newer.wait();
    fenced.exit(4).says(&["epoch"]);
    let end = server.switch_wal();
    pitr.catch_up();
    pitr.ok(["verify", "--read-data"]);
    assert!(assert_segments_equal_wal(&pitr.cluster_dir(), &server, 1, end) >= 1);
}

/// Not even a single commit: from the moment another writer has come, what the older one
/// makes durable may not be what the archive goes on with.
#[test]
fn a_fenced_writer_acknowledges_nothing_more() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "server").setting("autovacuum", "off").start();
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    let mut first = pitr.archive();
    first.wait_until_caught_up(&server);
    pitr.ok(["archive", "--slot", "second", "--no-backup", "--exit-when-caught-up"]);
    let told = crate::support::pitr::acknowledged(&server).unwrap();
    let lost = mark(&server);
    first.wait().exit(4).says(&["epoch"]);
    assert_eq!(crate::support::pitr::acknowledged(&server), Some(told));
    // It was not acknowledged, so the server still has it.
    pitr.catch_up();
    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target", "latest"]);
    assert_eq!(marker_xids(&open_restored(&scratch, "restored", &server, &to)), [lost].into());
}

#[test]
fn wrong_settings_are_named() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "server");
    let pitr = Pitr::new(&scratch).source(&server);
    let config = scratch.join("pitr.toml");
    for (text, word) in [
        ("[stream]\nflush_intervall = \"1s\"\n", "flush_intervall"),
        ("[stream]\nflush_interval = \"often\"\n", "often"),
        ("[stream\n", "pitr.toml"),
    ] {
        std::fs::write(&config, text).unwrap();
        pitr.run(["--config".as_ref(), config.as_os_str(), "list".as_ref()]).exit(5).says(&[word]);
    }
    // It is also the file that is read when none is named.
    std::fs::remove_file(&config).unwrap();
    let missing = scratch.join("missing.toml");
    pitr.run(["--config".as_ref(), missing.as_os_str(), "list".as_ref()]).exit(5).says(&["missing.toml"]);
    exits_with_one_of(Pitr::new(&scratch).run(["archive", "--slot", SLOT]), &[2, 5]).says(&["--source"]);
    let mut no_store = pitr.command(["list"]);
    no_store.env_remove("PITR_STORE");
    exits_with_one_of(finish(&scratch, no_store), &[2, 5]).says(&["--store"]);
    exits_with_one_of(Pitr::new(&scratch).source_url("oracle://db/x").run(["backup"]), &[2, 5]).says(&["oracle"]);
    // libpq would take it for the name of a database.
    let place = Pitr::new(&scratch).source_url(format!("127.0.0.1:{}", server.port()));
    for verb in [&["init"][..], &["archive"], &["check"]] {
        place.run(verb).exit(2).says(&[&format!("postgres://USER@127.0.0.1:{}/postgres", server.port())]);
    }
    pitr.run(["grants", ""]).exit(2);
    pitr.run(["frobnicate"]).exit(2).says(&["frobnicate"]);
}

#[test]
fn a_role_without_the_privilege_is_told_what_to_grant() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "server");
    server.sql("create role nobody_special login");
    let pitr = Pitr::new(&scratch).source_url(server.url_as("nobody_special"));
    let refused = pitr.run(["backup"]);
    let refused = exits_with_one_of(refused, &[5, 10, 20]);
    assert!(!refused.stderr.is_empty());
    Pitr::new(&scratch).source(&server).ok(["init"]);
    exits_with_one_of(pitr.run(["backup"]), &[5, 20]).says(&["replication"]);
}
