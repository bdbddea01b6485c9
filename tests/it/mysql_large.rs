//! Promise: how large an event, a transaction or a file is matters to nothing: not to what is
//! archived, not to where the archiver goes on, and not to its memory.

use std::fs;
use std::process::Command;

use crate::mysql_restore::{Place, start};
use crate::support::mysql::{Make, MySqlServer, mark, marker_table};
use crate::support::pitr::Archiver;
use crate::support::programs::must;
use crate::support::{Pitr, Scratch, condition};

const NONE: &[&str] = &[];

/// For gigabytes on a machine that does other things as well.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(280);

/// An archiver's memory, whatever it archives, in KiB.
const MEMORY_MAX: u64 = 96 << 10;

/// The most memory that the archiver has had so far (`VmHWM`, proc(5)), in KiB; `None` once it has
/// ended.
fn memory_peak(archiver: &Archiver) -> Option<u64> {
    let pid = archiver.pid().as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Archives all that the server has; gives the archiver's most memory, in KiB.
fn catch_up(pitr: &Pitr<'_>) -> u64 {
    let archiver = pitr.archive_with(&["--no-backup", "--exit-when-caught-up"]);
    let mut peak = 0;
    condition("the archiver to catch up", PATIENCE, || match memory_peak(&archiver) {
        Some(now) => {
            peak = now;
            None
        }
        None => Some(()),
    });
    archiver.wait().success();
    peak
}

/// Compares a file that the server has closed with ours, which may be larger than memory.
fn assert_same(scratch: &Scratch, server: &MySqlServer, name: &str) {
    must(Command::new("cmp").arg(scratch.join("export").join(name)).arg(server.data().join(name)));
}

/// As near to `max_allowed_packet`, the largest that there can be, as makes no difference.
#[test]
fn an_event_of_a_gigabyte_passes_through_little_memory() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        let scratch = Scratch::new();
        let server = start(&scratch, make, NONE);
        server.sql("CREATE TABLE test.wide (v LONGBLOB) ENGINE=MyISAM");
        let place = Place::new(&scratch, &server);
        catch_up(&place.pitr);
        server.sql("INSERT INTO test.wide SELECT REPEAT(RANDOM_BYTES(1024), (1 << 20) - 1024)");
        mark(&server);
        let closed = server.flush_logs();
        assert!(server.binlogs()[0].size > (1 << 30) - (2 << 20));
        let peak = catch_up(&place.pitr);
        assert!(peak > 0 && peak < MEMORY_MAX, "{make:?}: {peak} KiB");
        place.pitr.ok(["export".as_ref(), scratch.join("export").as_os_str()]);
        assert_same(&scratch, &server, &closed);
    }
}

/// Positions in events have 32 bits. A file is longer than they reach only by a transaction that
/// is: one, and those that the server commits together with it.
///
/// 14 GB on disk and some minutes: not for every run.
#[test]
#[ignore = "large: cargo test --test it mysql_large -- --ignored"]
fn a_file_beyond_4_gib_goes_on_where_it_was_cut_off() {
    let make = Make::MariaDb118;
    let scratch = Scratch::new();
    let plugins = make.bin_dir().join("../lib/mysql/plugin").canonicalize().unwrap();
    let options = [
        "--plugin-load-add=ha_blackhole".to_owned(),
        format!("--plugin-dir={}", plugins.display()),
        // So that the transaction is copied behind what is there, and others behind it.
        "--binlog-large-commit-threshold=18446744073709551615".to_owned(),
        "--max-binlog-size=1G".to_owned(),
    ];
    let server = MySqlServer::start(&scratch, "source", make, &options);
    marker_table(&server);
    server.sql("CREATE TABLE test.wide (v LONGBLOB) ENGINE=BLACKHOLE");
    let pitr = Pitr::new(&scratch).source_url(server.url());
    pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
    // The large transaction waits for the small ones, which are behind it.
    server.sql("SET GLOBAL binlog_commit_wait_count = 4, GLOBAL binlog_commit_wait_usec = 250000000");
    let large = "USE test; BEGIN; INSERT INTO test.marker () VALUES ();
         INSERT INTO test.wide SELECT REPEAT(RANDOM_BYTES(1024), 65536) FROM seq_1_to_70; COMMIT;";
    std::thread::scope(|scope| {
        scope.spawn(|| server.sql(large));
        condition("the large transaction to commit", PATIENCE, || {
            let asked = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'COMMIT%'";
            (server.sql(asked) == "1").then_some(())
        });
        for _ in 0..3 {
            scope.spawn(|| server.sql("INSERT INTO test.marker () VALUES ()"));
        }
    });
    server.sql("SET GLOBAL binlog_commit_wait_count = 0");
    mark(&server);
    let log = server.binlogs().remove(0);
    assert!(log.size > (4 << 30) + (64 << 20), "{log:?}");
    let late = server.rows(&format!("SHOW BINLOG EVENTS IN '{}' FROM 4", log.name));
    let behind = late.iter().filter(|row| row[2] == "Gtid" && row[1].parse::<u64>().unwrap() > 4 << 30);
    assert_eq!(behind.count(), 3, "the small ones are behind the large one");

    let objects = || fs::read_dir(pitr.cluster_dir().join("log/00000001")).unwrap().count();
    // Early in the transaction, and behind the first 4 GiB of it: an object holds 16 MiB of log.
    for held in [40, 262] {
        let mut archiver = pitr.archive_with(&["--no-backup"]);
        condition("more of the transaction in the archive", PATIENCE, || {
            archiver.assert_running();
            (objects() > held).then_some(())
        });
        archiver.kill();
    }
    let began = std::time::Instant::now();
    let peak = catch_up(&pitr);
    eprintln!("{} bytes: the rest in {:.1?}, at most {peak} KiB", log.size, began.elapsed());
    mark(&server);
    server.wait_for_quiet_log();
    catch_up(&pitr);
    let status = pitr.json(&["status"]);
    assert_eq!((&status["timeline"], &status["gaps"]), (&1.into(), &0.into()), "{status}");
    pitr.ok(["export".as_ref(), scratch.join("export").as_os_str()]);
    assert_same(&scratch, &server, &log.name);
    pitr.ok(["verify", "--read-data"]).says(&["the archive is sound"]);
}
