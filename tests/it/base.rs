//! Promise: a base backup holds everything the server has, laid out again exactly as
//! the server's own manifest says, and a second one costs what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::support::load::{mark, marker_table, pgbench_tables};
use crate::support::oracle::{amcheck, assert_ready_data_dir, marker_xids, open_restored, verify_backup};
use crate::support::programs::{client, must};
use crate::support::{Load, PATIENCE, Pitr, Scratch, Server, condition};

/// Bytes of all files below `dir`.
fn bytes_below(dir: &Path) -> u64 {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            let meta = entry.metadata().expect("metadata");
            if meta.is_dir() { bytes_below(&entry.path()) } else { meta.len() }
        })
        .sum()
}

/// Takes a base backup, lays it out without recovery and has PostgreSQL's own
/// program compare it with the server's manifest.
fn laid_out_base_verifies(server: &Server, scratch: &Scratch, pitr: &Pitr, map: &[&str]) {
    pitr.ok(["init"]);
    pitr.catch_up();
    let to = scratch.join("laid-out");
    let mut words = vec!["--target", "latest", "--no-recover"];
    words.extend(map);
    pitr.restore(server, &to, &words);
    // Settings for the recovery are ours and not the backup's.
    let ours = ["recovery.signal", "postgresql.auto.conf"];
    must(
        client("pg_verifybackup")
            .arg("--no-parse-wal")
            .args(ours.iter().map(|name| format!("--ignore={name}")))
            .arg("--ignore=pg_wal")
            .arg(&to),
    );
}

#[test]
fn a_laid_out_base_passes_pg_verifybackup() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "source");
    pgbench_tables(&server, 2);
    let load = Load::pgbench(&server, 2);
    let pitr = Pitr::new(&scratch).source(&server);
    laid_out_base_verifies(&server, &scratch, &pitr, &[]);
    load.stop(&server);
}

/// A slot that nobody reads keeps log until the server's disk is full.
#[test]
fn a_backup_leaves_no_slot_behind() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "source")
        .wal_segment_mib(1)
        .setting("wal_keep_size", "0")
        .setting("max_wal_size", "2MB")
        .setting("min_wal_size", "2MB")
        .start();
    pgbench_tables(&server, 1);
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    let slots = || server.sql("select slot_name, active from pg_replication_slots order by 1");
    let wal_files = || {
        let files = std::fs::read_dir(server.wal_dir()).expect("pg_wal").flatten();
        files.map(|file| file.file_name()).filter(|name| name.len() == 24).collect::<BTreeSet<_>>()
    };
    let load = Load::pgbench(&server, 2);
    for slot in ["pitr", "mine"] {
        pitr.ok(["backup", "--slot", slot]);
        condition("the temporary slot to go", PATIENCE, || slots().is_empty().then_some(()));
        // So the next backup finds that the server lacks log from the archive's end on.
        let archived = wal_files();
        condition("the log to be removed", PATIENCE, || wal_files().is_disjoint(&archived).then_some(()));
    }
    load.stop(&server);
    let log = server.log_text();
    let commands: Vec<&str> = log
        .lines()
        .filter_map(|line| line.split_once("LOG:  received replication command: CREATE_REPLICATION_SLOT "))
        .map(|(_, slot)| slot)
        .collect();
    assert!(commands.len() == 2 && commands.iter().all(|slot| slot.contains(" TEMPORARY ")), "{commands:?}");
    assert!(log.contains("has already been removed"), "the second backup met no gap: {log}");
    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target", "latest"]);
    assert_ready_data_dir(&to);

    // One that is there is used, and stays: the archive goes on from where it ends.
    pitr.ok(["archive", "--slot", "mine", "--no-backup", "--exit-when-caught-up"]);
    pitr.ok(["backup", "--slot", "mine"]);
    assert_eq!(slots(), "mine|f");
    let mut archiver = pitr.archive_with(&["--no-backup"]);
    archiver.wait_until_caught_up(&server);
    pitr.ok(["backup"]);
    assert_eq!(slots(), "mine|f\npitr|t");
    archiver.stop();
}

/// Streams from where the base begins, whether or not anything keeps that log.
#[test]
fn a_backup_does_without_a_slot() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "source").setting("max_replication_slots", "0").start();
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.run(["backup"]).exit(0).says(&["no slot keeps the log"]);
    let marked = mark(&server);
    server.switch_wal();
    pitr.ok(["backup"]);
    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target", "latest"]);
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(marker_xids(&restored), [marked].into());
}

#[test]
fn a_base_without_page_checksums_passes_too() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "source").without_data_checksums().start();
    pgbench_tables(&server, 1);
    let pitr = Pitr::new(&scratch).source(&server);
    laid_out_base_verifies(&server, &scratch, &pitr, &[]);
}

#[test]
fn several_tablespaces_are_laid_out_where_the_map_says() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "source");
    let mut map = Vec::new();
    for name in ["one", "two"] {
        let old = scratch.server_dir(name);
        server.sql(&format!("create tablespace {name} location '{}'", old.display()));
        server.sql(&format!("create table in_{name} tablespace {name} as select generate_series(1, 50000) n"));
        let new = scratch.join(&format!("{name}-again"));
        map.push(format!("{}={}", old.display(), new.display()));
    }
    let words: Vec<&str> = map.iter().flat_map(|m| ["--tablespace-map", m]).collect();
    let pitr = Pitr::new(&scratch).source(&server);
    laid_out_base_verifies(&server, &scratch, &pitr, &words);
}

/// One cluster with everything that is not a plain table, archived, restored and
/// compared.
#[test]
fn every_kind_of_relation_comes_back() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "source");
    marker_table(&server);
    server.sql(
        "create database \"Ünusual name\";
         select lo_from_bytea(0, decode(repeat('c0ffee', 100000), 'hex')) from generate_series(1, 5);
         create unlogged table forgotten as select generate_series(1, 1000) n;
         create table toasted as select n, repeat(md5(n::text), 2000) wide from generate_series(1, 200) n;
         alter table toasted alter wide set storage external;
         update toasted set wide = wide || 'x';
         create index on toasted (n);
         create materialized view seen as select count(*) from toasted;
         create sequence counter; select nextval('counter') from generate_series(1, 40);
         create table empty (n int);",
    );
    server.sql_in("Ünusual name", "create table \"a.b\" as select generate_series(1, 10) n");
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    server.sql(
        "insert into toasted select n, md5(n::text) from generate_series(300, 400) n; refresh materialized view seen;",
    );
    server.sql("select lo_unlink(loid) from (select loid from pg_largeobject group by 1 order by 1 limit 1) one");
    server.sql("insert into forgotten values (1)");
    mark(&server);
    let sums = server.checksums();
    pitr.catch_up();

    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target", "latest"]);
    assert_ready_data_dir(&to);
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(restored.checksums(), sums);
    // An unlogged table is there and empty, as after a crash.
    assert_eq!(restored.sql("select count(*) from forgotten"), "0");
    restored.sql("insert into forgotten values (1)");
    assert!(restored.sql("select nextval('counter')").parse::<i64>().unwrap() > 40);
    amcheck(&restored);
}

/// PostgreSQL splits relations at 1 GiB; the second file must come back as well.
#[test]
fn a_relation_over_1_gib_comes_back() {
    let scratch = Scratch::new();
    let mut server = Server::builder(&scratch, "source")
        .setting("shared_buffers", "256MB")
        .setting("wal_level", "minimal")
        .setting("max_wal_senders", "0")
        .start();
    // Created with minimal WAL, so that only the relation itself is large.
    server.sql(
        "begin;
         create table big (n int, filler text);
         alter table big alter filler set storage plain;
         insert into big select n, repeat(chr(65 + n % 26), 7900) from generate_series(1, 135000) n;
         commit; checkpoint;",
    );
    assert!(server.sql("select pg_relation_size('big')").parse::<u64>().unwrap() > 1 << 30);
    server.sql("alter system set wal_level = replica; alter system set max_wal_senders = 10;");
    server.stop();
    server.start();
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    server.sql("update big set filler = 'changed' where n in (1, 134999)");
    let sum = "select count(*), sum(n), sum(length(filler)), md5(string_agg(md5(filler), '' order by n)) from big";
    let before = server.sql(sum);
    pitr.catch_up();
    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target", "latest"]);
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(restored.sql(sum), before);
}

/// `pg_wal` on another disk, by a symbolic link, is the server's affair: the restored
/// directory has a real one and the link's target is not touched.
#[test]
fn a_pg_wal_that_is_a_symbolic_link_is_restored_as_a_directory() {
    let scratch = Scratch::new();
    let mut server = Server::new(&scratch, "source");
    marker_table(&server);
    server.stop();
    let elsewhere = scratch.join("wal-disk");
    let wal = server.wal_dir();
    must(std::process::Command::new("mv").arg(&wal).arg(&elsewhere));
    std::os::unix::fs::symlink(&elsewhere, &wal).unwrap();
    server.start();
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    mark(&server);
    pitr.catch_up();
    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target", "latest"]);
    assert!(to.join("pg_wal").symlink_metadata().unwrap().is_dir());
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(marker_xids(&restored), marker_xids(&server));
}

#[test]
fn a_prepared_transaction_is_still_prepared() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "source");
    server.sql("create table t (n int)");
    server.sql("begin; insert into t values (1); prepare transaction 'before the base'");
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    server.sql("begin; insert into t values (2); prepare transaction 'after the base'");
    server.sql("begin; insert into t values (3); prepare transaction 'committed later'");
    // Far enough behind for a restore to be through with the file it was prepared in.
    for _ in 0..16 {
        server.sql("select pg_logical_emit_message(false, '', ''); select pg_switch_wal()");
    }
    let open = server.now();
    server.sql("select pg_sleep(0.01); commit prepared 'committed later'");
    server.sql("rollback prepared 'before the base'");
    pitr.catch_up();

    for (name, target, prepared, rows) in [
        ("open", vec!["--target-time", &open], "after the base,before the base,committed later", ""),
        ("latest", vec!["--target", "latest"], "after the base", "3"),
    ] {
        let to = scratch.join(name);
        pitr.restore(&server, &to, &target);
        assert_ready_data_dir(&to);
        let restored = open_restored(&scratch, name, &server, &to);
        assert_eq!(restored.sql("select string_agg(gid, ',' order by gid) from pg_prepared_xacts"), prepared);
        assert_eq!(restored.sql("select n from t order by n"), rows);
        restored.sql("commit prepared 'after the base'");
    }
}

#[test]
fn a_backup_from_a_standby_restores() {
    let scratch = Scratch::new();
    let primary = Server::new(&scratch, "primary");
    pgbench_tables(&primary, 1);
    marker_table(&primary);
    let standby = primary.standby(&scratch, "standby");
    let load = Load::pgbench(&primary, 1);
    // The standby serves both: its base backup and its WAL.
    let pitr = Pitr::new(&scratch).source(&standby);
    pitr.ok(["init"]);
    let mut archiver = pitr.archive();
    let row = mark(&primary);
    load.stop(&primary);
    let end = primary.flush_lsn();
    archiver.wait_until_acknowledged(&standby, end);
    archiver.stop();
    let sums = primary.checksums();
    let to = scratch.join("restored");
    pitr.restore(&primary, &to, &["--target", "latest"]);
    assert_ready_data_dir(&to);
    let restored = open_restored(&scratch, "restored", &primary, &to);
    assert!(marker_xids(&restored).contains(&row));
    assert_eq!(restored.checksums(), sums);
    amcheck(&restored);
}

/// A base whose checkpoint took `files` WAL files to finish, restored: the server reads
/// the checkpoint's record before anything else, goes back to where the checkpoint began,
/// and comes to the record again.
fn a_base_with_a_long_checkpoint_restores(files: u32) {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "source");
    marker_table(&server);
    pgbench_tables(&server, 2);
    server.sql("create table filler (n int, t text)");
    // Enough for replay to take its time.
    let next_file =
        "insert into filler select n, repeat('x', 150) from generate_series(1, 50000) n; select pg_switch_wal()";
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    let mut archiver = pitr.archive_with(&["--no-backup"]);
    archiver.wait_until_caught_up(&server);
    let mut backup = pitr.command(["backup", "--spread-checkpoint"]).spawn().expect("starting pitr backup");
    condition("the checkpoint to have begun", PATIENCE, || {
        let spreading = "select count(*) from pg_stat_activity where wait_event = 'CheckpointWriteDelay'";
        (server.sql(spreading) == "1").then_some(())
    });
    for _ in 0..files {
        mark(&server);
        server.sql(next_file);
    }
    // One that is asked for finishes the one that runs at once.
    server.sql("checkpoint");
    assert!(backup.wait().expect("waiting for pitr backup").success());
    for _ in 0..12 {
        mark(&server);
        server.sql(next_file);
    }
    archiver.wait_until_caught_up(&server);
    archiver.stop();
    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target", "latest"]);
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(marker_xids(&restored), marker_xids(&server));
}

#[test]
fn a_checkpoint_that_ended_some_files_after_it_began_is_replayed() {
    a_base_with_a_long_checkpoint_restores(6);
}

#[test]
fn a_checkpoint_that_ended_further_away_than_log_is_staged_is_replayed() {
    a_base_with_a_long_checkpoint_restores(12);
}

#[test]
fn a_second_backup_costs_what_changed() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "source");
    pgbench_tables(&server, 20);
    server.sql("vacuum freeze; checkpoint");
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let packs = pitr.cluster_dir().join("pack");
    let first = bytes_below(&packs);
    assert!(first > 0, "the first backup stored no packs in {}", packs.display());
    must(client("pgbench").args(["-n", "-S", "-t", "10", &server.socket_url("postgres")]));
    must(client("pgbench").args(["-n", "-b", "simple-update", "-t", "500", &server.socket_url("postgres")]));
    // Nobody archives meanwhile: the base waits for its log.
    pitr.run(["backup", "--wait", "0"]).exit(3).says(&["pitr archive"]);
    let second = bytes_below(&packs) - first;
    assert!(second * 100 <= first * 15, "the second backup stored {second} bytes, the first {first}");

    let sums = server.checksums();
    pitr.catch_up();
    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target", "latest"]);
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(restored.checksums(), sums);
    amcheck(&restored);
}

#[test]
fn a_backup_taken_while_archiving_is_listed_and_restores() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "source");
    pgbench_tables(&server, 1);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    let mut archiver = pitr.archive();
    let load = Load::pgbench(&server, 2);
    archiver.wait_until_caught_up(&server);
    pitr.ok(["backup"]);
    pitr.ok(["backup"]);
    load.stop(&server);
    archiver.wait_until_caught_up(&server);
    archiver.stop();
    let bases = std::fs::read_dir(pitr.cluster_dir().join("base")).unwrap().count();
    assert_eq!(bases, 3);
    let sums: BTreeMap<String, String> = server.checksums();
    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target", "latest"]);
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(restored.checksums(), sums);
}

/// A page whose checksum is wrong on the server makes the backup fail, naming it.
#[test]
fn a_damaged_page_on_the_server_is_refused_and_named() {
    let scratch = Scratch::new();
    let mut server = Server::new(&scratch, "source");
    pgbench_tables(&server, 1);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let file = server.sql("checkpoint; select pg_relation_filepath('pgbench_accounts')");
    server.stop();
    let path = server.data().join(&file);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[3 * 8192 + 5000] ^= 0x40;
    std::fs::write(&path, bytes).unwrap();
    server.start();
    pitr.run(["backup"]).exit(13).says(&[&file]);
    let bases = std::fs::read_dir(pitr.cluster_dir().join("base")).unwrap().flatten();
    let published = bases.filter(|entry| entry.path().join("manifest.json").exists()).count();
    assert_eq!(published, 1, "a damaged backup was published");
}

/// Not a promise of ours but of the ruler: `pg_verifybackup` sees one changed byte.
#[test]
fn pg_verifybackup_would_see_a_changed_byte() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "source");
    let copy = scratch.join("copy");
    must(client("pg_basebackup").args(["-X", "none", "--checkpoint=fast", "-d", &server.url(), "-D"]).arg(&copy));
    verify_backup(&copy);
    let path = copy.join("PG_VERSION");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(std::panic::catch_unwind(|| verify_backup(&copy)).is_err());
}
