//! Promise: `wal-fetch` and `wal-push` behave as PostgreSQL's `restore_command` and
//! `archive_command` need it, exit codes above all: 1 to 125 mean "end of WAL" to the
//! server, so that only a proven absence may say so.

use std::path::Path;

use crate::support::load::{mark, marker_table, pgbench_tables};
use crate::support::oracle::{
    amcheck, archive_start, assert_same_bytes, marker_commit_times, open_restored, segment_files, wal_file_name,
};
use crate::support::{Load, PATIENCE, Pitr, Scratch, Server, condition};

fn archived(scratch: &Scratch) -> (Server, Pitr<'_>, u64) {
    let server = Server::builder(scratch, "server").wal_segment_mib(1).start();
    pgbench_tables(&server, 1);
    let pitr = Pitr::new(scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let load = Load::pgbench(&server, 2);
    crate::support::load::wait_for_wal(&server, 4 << 20);
    load.stop(&server);
    let end = server.switch_wal();
    pitr.catch_up();
    (server, pitr, end)
}

fn fetch(pitr: &Pitr, name: &str, to: &Path) -> crate::support::Finished {
    pitr.run(["wal-fetch".as_ref(), name.as_ref(), to.as_os_str()])
}

#[test]
fn fetched_files_are_the_servers() {
    let scratch = Scratch::new();
    let (server, pitr, end) = archived(&scratch);
    let size = server.wal_segment_bytes();
    let mut compared = 0;
    let mut at = archive_start(&pitr.cluster_dir(), 1).next_multiple_of(size);
    while at < end {
        let name = wal_file_name(1, at, size);
        let to = scratch.join(&name);
        fetch(&pitr, &name, &to).success();
        assert_same_bytes(&name, &std::fs::read(&to).unwrap(), &std::fs::read(server.wal_dir().join(&name)).unwrap());
        compared += 1;
        at += size;
    }
    assert!(compared >= 4);
}

/// The bytes before the end asked for are the server's, those behind it zeros; files that
/// begin there or later are absent.
#[test]
fn until_is_the_end_of_the_log_whatever_the_archive_holds() {
    let scratch = Scratch::new();
    let (server, pitr, end) = archived(&scratch);
    let size = server.wal_segment_bytes();
    let until = end - size - 1000;
    let fetch_until = |offset: u64, to: &Path| {
        let until = crate::support::server::format_lsn(until);
        let name = wal_file_name(1, offset, size);
        pitr.run(["wal-fetch".as_ref(), "--until".as_ref(), until.as_ref(), name.as_ref(), to.as_os_str()])
    };
    let original = |offset: u64| std::fs::read(server.wal_dir().join(wal_file_name(1, offset, size))).unwrap();
    let to = scratch.join("fetched");
    fetch_until(until - size, &to).success();
    assert_same_bytes("the file before", &std::fs::read(&to).unwrap(), &original(until - size));
    fetch_until(until, &to).success();
    let (fetched, mut expected) = (std::fs::read(&to).unwrap(), original(until));
    let kept = usize::try_from(until % size).unwrap();
    assert_ne!(expected[kept..], vec![0; expected.len() - kept], "there is log behind the end");
    expected[kept..].fill(0);
    assert_same_bytes("the last file", &fetched, &expected);
    let absent = scratch.join("absent");
    fetch_until(until + size, &absent).exit(1);
    assert!(!absent.exists());
    // The archive was to hold more than it does: no end of the log that anybody asked for.
    let later = crate::support::server::format_lsn(end + 10 * size);
    let name = wal_file_name(1, end + 5 * size, size);
    pitr.run(["wal-fetch".as_ref(), "--until".as_ref(), later.as_ref(), name.as_ref(), absent.as_os_str()]).exit(126);
    pitr.run(["wal-fetch".as_ref(), "--until".as_ref(), "x".as_ref(), name.as_ref(), absent.as_os_str()]).exit(126);
}

#[test]
fn a_proven_absence_is_exit_1_and_leaves_no_file() {
    let scratch = Scratch::new();
    let (server, pitr, end) = archived(&scratch);
    let size = server.wal_segment_bytes();
    for name in
        [wal_file_name(1, end + 100 * size, size), wal_file_name(7, end - size, size), "00000002.history".into()]
    {
        let to = scratch.join("absent");
        fetch(&pitr, &name, &to).exit(1);
        assert!(!to.exists());
    }
}

#[test]
fn anything_else_is_126_or_more() {
    let scratch = Scratch::new();
    let (server, pitr, end) = archived(&scratch);
    let size = server.wal_segment_bytes();
    let name = wal_file_name(1, end - size, size);
    let above = |what: &str, finished: crate::support::Finished| {
        assert!(finished.code.is_some_and(|c| c >= 126), "{what}: {finished}");
    };
    above("not a name", fetch(&pitr, "../../etc/passwd", &scratch.join("x")));
    above("no store", fetch(&Pitr::with_store(&scratch, "nowhere"), &name, &scratch.join("x")));
    above("directory missing", fetch(&pitr, &name, &scratch.join("no/such/dir/file")));
    above("bad option", pitr.run(["wal-fetch", "--no-such-option", &name, "x"]));
    above("too few words", pitr.run(["wal-fetch", &name]));
    // A damaged segment must never look like the end of the WAL.
    let segment = segment_files(&pitr.cluster_dir())
        .into_iter()
        .filter(|s| s.start < end && s.end > end - size)
        .max()
        .expect("the segment of that WAL file");
    let mut bytes = std::fs::read(&segment.path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::set_permissions(&segment.path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(&segment.path, bytes).unwrap();
    let refused = fetch(&pitr, &name, &scratch.join("x"));
    let file = segment.path.file_name().unwrap().to_string_lossy().into_owned();
    assert!(refused.said().contains(&file), "{file} is not named in {refused}");
    above("damaged segment", refused);
    assert!(!scratch.join("x").exists());
}

#[test]
fn a_hole_in_the_archive_is_not_the_end_of_the_wal() {
    let scratch = Scratch::new();
    let (server, pitr, end) = archived(&scratch);
    let size = server.wal_segment_bytes();
    let hole = end - 2 * size;
    for segment in segment_files(&pitr.cluster_dir()) {
        if segment.start < hole + size && segment.end > hole {
            std::fs::remove_file(&segment.path).unwrap();
        }
    }
    let finished = fetch(&pitr, &wal_file_name(1, hole, size), &scratch.join("x"));
    assert!(finished.code.is_some_and(|c| c >= 126), "{finished}");
}

/// The statements that make a server push into the archive.
fn push_command(pitr: &Pitr<'_>) -> String {
    let command = format!("'{}' --store '{}' wal-push \"%p\"", pitr.binary().display(), pitr.store().display());
    let quoted = command.replace('\'', "''");
    format!("alter system set archive_command = '{quoted}'; select pg_reload_conf();")
}

/// `archive_command` and nothing else: no slot, no streaming.
#[test]
fn an_archive_command_fills_an_archive_that_restores() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "server")
        .wal_segment_mib(1)
        .setting("archive_mode", "on")
        .setting("autovacuum", "off")
        .start();
    pgbench_tables(&server, 1);
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server).by_server_user();
    pitr.ok(["init"]);
    server.sql(&push_command(&pitr));
    pitr.ok(["backup"]);
    let load = Load::pgbench(&server, 2);
    crate::support::load::wait_for_wal(&server, 3 << 20);
    load.stop(&server);
    let row = mark(&server);
    // The file goes on to be written when nothing is committed any more.
    server.sql("select pg_sleep(1.5)");
    let last = server.sql("select pg_walfile_name(pg_current_wal_lsn())");
    server.switch_wal();
    condition(format!("{last} to be archived"), PATIENCE, || {
        (server.sql(&format!("select last_archived_wal >= '{last}' from pg_stat_archiver")) == "t").then_some(())
    });
    assert_eq!(server.sql("select failed_count from pg_stat_archiver"), "0", "{}", server.log_text());

    // Times are known up to the last transaction pushed, whenever its file was written.
    let time = marker_commit_times(&server)[&row].clone();
    let listed = pitr.json(&["list"]);
    let window = listed["windows"][0]["to"].as_str().unwrap();
    let same = server.sql(&format!("select timestamptz '{window}' = timestamptz '{time}'"));
    assert_eq!(same, "t", "{time} is not the end of {listed}");

    // Both before either is opened: they push their own timelines, too.
    let targets = [("latest", vec!["--target", "latest"]), ("timely", vec!["--target-time", &time])];
    for (name, target) in &targets {
        pitr.restore(&server, &scratch.join(name), target);
    }
    for (name, _) in &targets {
        let restored = open_restored(&scratch, name, &server, &scratch.join(name));
        assert!(crate::support::oracle::marker_xids(&restored).contains(&row));
        amcheck(&restored);
    }
}

/// Primary and standby push into one archive. The promotion leaves a partial file of the
/// old timeline, whose last record is cut off or none of it is, and a history.
#[test]
fn an_archive_command_follows_a_promotion() {
    let scratch = Scratch::new();
    let mut primary = Server::builder(&scratch, "primary")
        .wal_segment_mib(1)
        .setting("archive_mode", "on")
        .setting("autovacuum", "off")
        .start();
    pgbench_tables(&primary, 1);
    marker_table(&primary);
    let pitr = Pitr::new(&scratch).source(&primary).by_server_user();
    pitr.ok(["init"]);
    primary.sql(&push_command(&pitr));
    pitr.ok(["backup"]);
    let standby = primary.standby(&scratch, "standby");
    let load = Load::pgbench(&primary, 2);
    crate::support::load::wait_for_wal(&primary, 2 << 20);
    load.stop(&primary);
    let old = mark(&primary);
    let end = crate::support::server::format_lsn(primary.flush_lsn());
    condition("the standby to follow", PATIENCE, || {
        (standby.sql(&format!("select pg_last_wal_replay_lsn() >= '{end}'")) == "t").then_some(())
    });
    // What only the primary had is lost with it.
    condition("the primary's files to be archived", PATIENCE, || {
        let status = std::fs::read_dir(primary.wal_dir().join("archive_status")).unwrap();
        status.flatten().all(|file| !file.file_name().to_string_lossy().ends_with(".ready")).then_some(())
    });
    primary.stop_immediate();
    standby.promote();
    let new = mark(&standby);
    let last = standby.sql("select pg_walfile_name(pg_current_wal_lsn())");
    standby.switch_wal();
    condition(format!("{last} to be archived"), PATIENCE, || {
        (standby.sql(&format!("select last_archived_wal >= '{last}' from pg_stat_archiver")) == "t").then_some(())
    });
    assert_eq!(standby.sql("select failed_count from pg_stat_archiver"), "0", "{}", standby.log_text());
    assert!(standby.wal_dir().join("00000002.history").exists());
    let partial = std::fs::read_dir(standby.wal_dir().join("archive_status")).unwrap();
    assert!(partial.flatten().any(|file| file.file_name().to_string_lossy().ends_with(".partial.done")));

    let sums = standby.checksums();
    for (name, timeline, expected) in [("first", "1", vec![old]), ("second", "2", vec![old, new])] {
        let to = scratch.join(name);
        pitr.restore(&standby, &to, &["--target", "latest", "--target-timeline", timeline]);
        let restored = open_restored(&scratch, name, &standby, &to);
        assert_eq!(crate::support::oracle::marker_xids(&restored), expected.into_iter().collect());
        amcheck(&restored);
        if timeline == "2" {
            assert_eq!(restored.checksums(), sums);
        }
    }
}

/// A restored copy has the source's `archive_command`. Looked at or forgotten, it must not
/// become the source's history.
#[test]
fn a_restored_copy_does_not_push_into_its_sources_archive() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).setting("archive_mode", "on").start();
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server).by_server_user();
    pitr.ok(["init"]);
    server.sql(&push_command(&pitr));
    pitr.catch_up();
    let first = mark(&server);
    pitr.catch_up();
    let to = scratch.join("copy");
    pitr.restore(&server, &to, &["--target", "latest"]);
    let second = mark(&server);

    let mut copy = Server::at(&scratch, "copy", crate::support::Version::System, to.clone());
    copy.launch(&[]);
    condition("the copy to have failed to push", PATIENCE, || {
        copy.try_sql("select pg_logical_emit_message(false, 'x', 'y'); select pg_switch_wal()").ok()?;
        (copy.sql("select failed_count > 0 from pg_stat_archiver") == "t").then_some(())
    });
    assert!(copy.log_text().contains("is this a server on a restored copy?"), "{}", copy.log_text());
    assert!(!pitr.cluster_dir().join("log/00000002").exists());
    pitr.catch_up();
    let latest = scratch.join("latest");
    pitr.restore(&server, &latest, &["--target", "latest"]);
    let restored = open_restored(&scratch, "latest", &server, &latest);
    assert_eq!(crate::support::oracle::marker_xids(&restored), [first, second].into_iter().collect());

    // Should it take the source's place, it is enough to say so.
    pitr.ok(["wal-push".as_ref(), copy.wal_dir().join("00000002.history").as_os_str()]);
    condition("the copy to push", PATIENCE, || {
        (copy.sql("select last_archived_wal like '00000002%' from pg_stat_archiver") == "t").then_some(())
    });
}

/// PostgreSQL pushes a file again when it crashed before it noted the success.
#[test]
fn pushing_the_same_file_again_succeeds_and_other_content_is_refused() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).start();
    pgbench_tables(&server, 1);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    let size = server.wal_segment_bytes();
    let name = wal_file_name(1, server.switch_wal() - size, size);
    let path = server.wal_dir().join(&name);
    for _ in 0..3 {
        pitr.ok(["wal-push".as_ref(), path.as_os_str()]);
    }
    let to = scratch.join("fetched");
    fetch(&pitr, &name, &to).success();
    assert_same_bytes(&name, &std::fs::read(&to).unwrap(), &std::fs::read(&path).unwrap());

    // The same name with other, well-formed content: another cluster's file.
    let other = Server::builder(&scratch, "other").wal_segment_mib(1).start();
    pgbench_tables(&other, 1);
    let theirs = other.wal_dir().join(&name);
    if theirs.exists() {
        pitr.run(["wal-push".as_ref(), theirs.as_os_str()]).exit(5).says(&["system identifier"]);
    }
    // The same name with a changed byte.
    let changed = scratch.join(&name);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[size as usize / 2] ^= 1;
    std::fs::write(&changed, bytes).unwrap();
    let refused = pitr.run(["wal-push".as_ref(), changed.as_os_str()]);
    assert!(refused.code.is_some_and(|c| c == 4 || c == 13), "{refused}");
    fetch(&pitr, &name, &to).success();
    assert_same_bytes(&name, &std::fs::read(&to).unwrap(), &std::fs::read(&path).unwrap());
}

#[test]
fn a_cut_off_wal_file_is_not_taken() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).start();
    pgbench_tables(&server, 1);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    let size = server.wal_segment_bytes();
    let name = wal_file_name(1, server.switch_wal() - size, size);
    let bytes = std::fs::read(server.wal_dir().join(&name)).unwrap();
    let short = scratch.join(&name);
    std::fs::write(&short, &bytes[..bytes.len() / 2]).unwrap();
    let refused = pitr.run(["wal-push".as_ref(), short.as_os_str()]);
    assert!(refused.code.is_some_and(|c| c != 0), "{refused}");
    // An archive without any log proves nothing by not holding this file.
    fetch(&pitr, &name, &scratch.join("fetched")).exit(126).says(&["holds no log", "mounted"]);
    fetch(&pitr, "00000002.history", &scratch.join("fetched")).exit(126).says(&["holds no log"]);
}

/// One preparer at a time: two that write the same file would be in each other's way.
#[test]
fn files_are_prepared_by_one_process_at_a_time() {
    let scratch = Scratch::new();
    let (server, pitr, end) = archived(&scratch);
    let size = server.wal_segment_bytes();
    let ready = scratch.join("ready");
    std::fs::create_dir(&ready).unwrap();
    let name = wal_file_name(1, end - 2 * size, size);
    let prepare = || {
        let words = ["wal-fetch".as_ref(), "--ahead".as_ref(), name.as_ref(), ready.as_os_str()];
        pitr.run(words).success();
        ready.join(&name).exists()
    };
    let lock = std::fs::File::create(ready.join(".lock")).unwrap();
    lock.lock().unwrap();
    assert!(!prepare());
    drop(lock);
    assert!(prepare());
    let original = std::fs::read(server.wal_dir().join(&name)).unwrap();
    assert_same_bytes(&name, &std::fs::read(ready.join(&name)).unwrap(), &original);
}

/// Planning reads few objects, whoever made the archive.
#[test]
fn pushed_segments_are_rolled_up_into_indexes() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).setting("autovacuum", "off").start();
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    let size = server.wal_segment_bytes();
    let first = server.switch_wal();
    // A switch alone writes nothing after another one.
    server.sql(&"select pg_logical_emit_message(false, 'test', 'x'); select pg_switch_wal();".repeat(40));
    let files: Vec<String> = (0..35).map(|i| wal_file_name(1, first + i * size, size)).collect();
    let indexes = || {
        std::fs::read_dir(pitr.cluster_dir().join("log/00000001/index/0"))
            .map(|dir| dir.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>())
            .unwrap_or_default()
    };
    let push = |name: &String| pitr.ok(["wal-push".as_ref(), server.wal_dir().join(name).as_os_str()]);
    files[..15].iter().for_each(|name| drop(push(name)));
    assert_eq!(indexes(), Vec::<String>::new());
    files[15..].iter().for_each(|name| drop(push(name)));
    let index = indexes();
    assert!(!index.is_empty());
    assert!(index.iter().any(|index| index.starts_with(&format!("{first:016X}-"))), "{index:?} lacks {first:016X}");
    pitr.ok(["verify"]);
    // Who reads it takes the log for what it is: streaming goes on behind it.
    pitr.catch_up();
    let listed = pitr.json(&["list"]);
    assert_eq!(listed["gaps"], serde_json::json!([]), "{listed}");
    assert_eq!(archive_start(&pitr.cluster_dir(), 1), first);
    let files = segment_files(&pitr.cluster_dir());
    assert!(files.windows(2).all(|pair| pair[0].end == pair[1].start), "{files:?}");
}
