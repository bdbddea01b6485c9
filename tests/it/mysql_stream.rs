//! Promise: every event that MySQL or MariaDB wrote is in the archive, byte for byte, whatever
//! ends the archiver, the connection or the server; and nothing is called continuous that is not.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::mysql::{Load, Make, MySqlServer, mark, marker_table, wait_for_log};
use crate::support::{PATIENCE, Pitr, Scratch, condition};

const NONE: &[&str] = &[];

fn pitr<'a>(scratch: &'a Scratch, server: &MySqlServer) -> Pitr<'a> {
    Pitr::new(scratch).source_url(server.url())
}

/// Archives all that the server has, without a base.
fn catch_up(pitr: &Pitr<'_>) {
    pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
}

/// Waits until the archive lacks nothing that the server has.
pub fn wait_until_it_follows(pitr: &Pitr<'_>) {
    let follows = || (pitr.json(&["status"])["source"]["lag_bytes"] == 0).then_some(());
    condition("the archive to follow", PATIENCE, follows);
}

/// How many segments of the first timeline are closed.
fn segments(pitr: &Pitr<'_>) -> usize {
    let names = fs::read_dir(pitr.cluster_dir().join("log/00000001")).into_iter().flatten().flatten();
    names.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "zst")).count()
}

/// Archives the last of what the server writes, which nobody else writes to any more, and
/// exports the archive. Whoever compares whole files begins here.
fn export_all(pitr: &Pitr<'_>, dir: &Path, server: &MySqlServer) {
    server.wait_for_quiet_log();
    catch_up(pitr);
    pitr.ok(["export".as_ref(), dir.as_os_str()]);
}

/// Compares a file of the export with the server's: but for the mark that a file is open, which
/// the server keeps to itself.
fn assert_equals_binlog(dir: &Path, server: &MySqlServer, name: &str) {
    let ours = fs::read(dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut theirs = server.binlog_bytes(name);
    theirs[21] &= 0xfe;
    assert!(ours == theirs, "{name} differs: {} bytes and {}", ours.len(), theirs.len());
}

/// Compares an export with the files of the server, all of which the archive has.
pub fn assert_export_equals_binlogs(pitr: &Pitr<'_>, dir: &Path, server: &MySqlServer) {
    export_all(pitr, dir, server);
    let logs = server.binlogs();
    let mut ours: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    ours.sort();
    let theirs: Vec<&String> = logs.iter().map(|log| &log.name).collect();
    assert_eq!(ours.iter().collect::<Vec<_>>(), theirs);
    for log in logs {
        assert_equals_binlog(dir, server, &log.name);
        let read = Command::new(server.make().binlog_reader())
            .args(["--no-defaults", "--verify-binlog-checksum"])
            .arg(dir.join(&log.name))
            .output()
            .unwrap();
        assert!(read.status.success(), "{}: {}", log.name, String::from_utf8_lossy(&read.stderr));
    }
}

#[test]
fn exported_files_are_the_servers_own() {
    for make in Make::ALL {
        let scratch = Scratch::new();
        let server = MySqlServer::start(&scratch, "source", make, NONE);
        marker_table(&server);
        let pitr = pitr(&scratch, &server);
        catch_up(&pitr);
        let mut archiver = pitr.archive_with(&["--no-backup"]);
        let load = Load::markers(&server, 4, 1);
        wait_for_log(&server, 1 << 20);
        server.flush_logs();
        wait_for_log(&server, 2 << 20);
        load.stop(&server);
        archiver.assert_running();
        archiver.stop();
        assert_export_equals_binlogs(&pitr, &scratch.join("export"), &server);
        pitr.ok(["verify", "--read-data"]).says(&["the archive is sound"]);
    }
}

/// Each commit comes by itself, so that it is written where it is received, until the segment
/// ends.
#[test]
fn segments_end_while_the_log_comes_transaction_by_transaction() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        let scratch = Scratch::new();
        let server = MySqlServer::start(&scratch, "source", make, NONE);
        server.sql("CREATE TABLE test.wide (id INT PRIMARY KEY AUTO_INCREMENT, v MEDIUMBLOB)");
        let pitr = pitr(&scratch, &server);
        let mut archiver = pitr.archive_with(&["--no-backup"]);
        let one = "INSERT INTO test.wide (v) SELECT REPEAT(RANDOM_BYTES(1000), 20);\n";
        server.sql(&one.repeat(2_000));
        archiver.assert_running();
        archiver.stop();
        assert_export_equals_binlogs(&pitr, &scratch.join("export"), &server);
        assert!(segments(&pitr) >= 2, "{make:?}: 40 MB are more than two segments");
    }
}

#[test]
fn kill_9_of_the_archiver_leaves_no_hole_and_no_repetition() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        let scratch = Scratch::new();
        let server = MySqlServer::start(&scratch, "source", make, NONE);
        marker_table(&server);
        let pitr = pitr(&scratch, &server);
        let load = Load::markers(&server, 4, 0);
        for round in 0..8 {
            let archiver = pitr.archive_with(&["--no-backup"]);
            wait_for_log(&server, 60_000 + 37_000 * round);
            archiver.kill();
            if round == 4 {
                server.flush_logs();
            }
        }
        load.stop(&server);
        assert_export_equals_binlogs(&pitr, &scratch.join("export"), &server);
        let listed = pitr.json(&["status"]);
        assert_eq!(listed["gaps"], 0, "{listed}");
    }
}

/// A server with a table for wide rows, all of which is archived.
fn with_wide_table(scratch: &Scratch, make: Make) -> (MySqlServer, Pitr<'_>) {
    let server = MySqlServer::start(scratch, "source", make, NONE);
    server.sql("CREATE TABLE test.wide (id INT PRIMARY KEY AUTO_INCREMENT, v LONGBLOB)");
    let pitr = pitr(scratch, &server);
    catch_up(&pitr);
    (server, pitr)
}

/// A transaction of so many events of so many thousand bytes each.
fn wide_transaction(events: usize, thousands: usize) -> String {
    let one = format!("INSERT INTO test.wide (v) SELECT REPEAT(RANDOM_BYTES(1000), {thousands});\n");
    format!("BEGIN;\n{}COMMIT;\n", one.repeat(events))
}

#[test]
fn a_transaction_larger_than_a_segment_is_cut_off_by_kill_9_and_gone_on_with() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        let scratch = Scratch::new();
        let (server, pitr) = with_wide_table(&scratch, make);
        for _ in 0..3 {
            server.sql(&wide_transaction(5, 8000));
            server.sql("INSERT INTO test.wide (v) VALUES ('behind')");
            let before = segments(&pitr);
            let archiver = pitr.archive_with(&["--no-backup"]);
            condition("another segment in the archive", PATIENCE, || (segments(&pitr) > before).then_some(()));
            archiver.kill();
        }
        assert_export_equals_binlogs(&pitr, &scratch.join("export"), &server);
    }
}

#[test]
fn kill_9_of_the_source_and_its_next_file_are_followed() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        let scratch = Scratch::new();
        let mut server = MySqlServer::start(&scratch, "source", make, NONE);
        marker_table(&server);
        let pitr = pitr(&scratch, &server);
        let mut archiver = pitr.archive_with(&["--no-backup"]);
        archiver.wait_until_streaming();
        for _ in 0..2 {
            let load = Load::markers(&server, 4, 0);
            wait_for_log(&server, 100_000);
            server.kill();
            drop(load);
            server.run();
        }
        mark(&server);
        archiver.assert_running();
        let tail = || {
            let listed = pitr.json(&["status"]);
            listed["newest_transaction"].as_str().map(str::to_owned)
        };
        condition("the archive to follow", PATIENCE, tail);
        archiver.stop();
        // What a server was writing when it was killed may have been cut off by itself.
        let dir = scratch.join("export");
        export_all(&pitr, &dir, &server);
        assert_equals_binlog(&dir, &server, &server.log_end().name);
        let missing = pitr.json(&["status"]);
        assert_eq!(missing["gaps"], 0, "{missing}");
    }
}

/// The same of a transaction that comes while the archive is up to date, so that a tail is open.
#[test]
fn a_large_transaction_that_has_just_come_is_cut_off_by_kill_9_and_gone_on_with() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        let scratch = Scratch::new();
        let (server, pitr) = with_wide_table(&scratch, make);
        for _ in 0..3 {
            let archiver = pitr.archive_with(&["--no-backup"]);
            server.sql("INSERT INTO test.wide (v) VALUES ('before')");
            wait_until_it_follows(&pitr);
            let before = segments(&pitr);
            server.sql(&wide_transaction(24, 3000));
            condition("another segment in the archive", PATIENCE, || (segments(&pitr) > before).then_some(()));
            archiver.kill();
        }
        assert_export_equals_binlogs(&pitr, &scratch.join("export"), &server);
        let status = pitr.json(&["status"]);
        assert_eq!((&status["timeline"], &status["gaps"]), (&1.into(), &0.into()), "{status}");
    }
}

/// What a server has been killed at writing, appended to its log: `events` of the last transaction
/// and the first bytes of the next event; or zeros, as a file system leaves them where the power failed.
fn append_half_a_transaction(server: &MySqlServer, name: &str, events: usize, bytes: usize, zeros: usize) {
    let path = server.data().join(name);
    let mut file = fs::read(&path).unwrap();
    let u32_at = |file: &[u8], at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let mut starts = vec![4];
    while let Some(&at) = starts.last().filter(|&&at| at < file.len()) {
        starts.push(at + u32_at(&file, at + 9));
    }
    let gtid = starts.iter().rposition(|&at| file.get(at + 4) == Some(&162)).expect("a transaction");
    for pair in starts[gtid..].windows(2).take(events) {
        let mut event = file[pair[0]..pair[1]].to_vec();
        let end = (file.len() + event.len()) as u32;
        event[13..17].copy_from_slice(&end.to_le_bytes());
        let (covered, crc) = event.split_last_chunk_mut::<4>().unwrap();
        *crc = crc32fast::hash(covered).to_le_bytes();
        file.extend_from_slice(&event);
    }
    let next = starts[gtid + events];
    file.extend_from_within(next..next + bytes);
    file.resize(file.len() + zeros, 0);
    fs::write(&path, file).unwrap();
}

/// MariaDB leaves the end of such a file as it is, and gives away nothing behind it.
#[test]
fn a_file_that_ends_inside_an_event_is_followed_by_the_next() {
    for (make, connected) in [(Make::MariaDb1011, true), (Make::MariaDb118, false)] {
        let scratch = Scratch::new();
        let mut server = MySqlServer::start(&scratch, "source", make, NONE);
        marker_table(&server);
        let pitr = pitr(&scratch, &server);
        let ends = [(0, 30, 0), (1, 30, 0), (0, 10, 0), (2, 30, 0), (0, 0, 64), (1, 0, 5000)];
        for (round, (events, bytes, zeros)) in ends.into_iter().enumerate() {
            let archiver = connected.then(|| pitr.archive_with(&["--no-backup"]));
            if let Some(archiver) = &archiver {
                archiver.wait_until_streaming();
            }
            mark(&server);
            let name = server.log_end().name;
            server.kill();
            append_half_a_transaction(&server, &name, events, bytes, zeros);
            server.run();
            mark(&server);
            mark(&server);
            server.wait_for_quiet_log();
            if let Some(mut archiver) = archiver {
                wait_until_it_follows(&pitr);
                archiver.assert_running();
                archiver.stop();
            }
            let dir = scratch.join(&format!("export-{round}"));
            export_all(&pitr, &dir, &server);
            assert_equals_binlog(&dir, &server, &server.log_end().name);
            let status = pitr.json(&["status"]);
            assert_eq!((&status["timeline"], &status["gaps"]), (&1.into(), &0.into()), "{status}");
        }
    }
}

/// There the next file says that more was before it than the archive holds.
#[test]
fn a_transaction_that_the_source_cannot_read_any_more_is_not_passed_over() {
    let scratch = Scratch::new();
    let mut server = MySqlServer::start(&scratch, "source", Make::MariaDb1011, NONE);
    marker_table(&server);
    mark(&server);
    let pitr = pitr(&scratch, &server);
    server.wait_for_quiet_log();
    catch_up(&pitr);
    let end = server.log_end();
    mark(&server);
    server.flush_logs();
    mark(&server);
    server.stop();
    let path = server.data().join(&end.name);
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(end.size + 30).unwrap();
    server.run();
    let archived = pitr.json(&["status"])["archived_to"].clone();
    let mut archiver = pitr.archive_with(&["--no-backup"]);
    let refused = || archiver.said().matches("truncated in the middle of event").count();
    condition("the source to have been asked twice", PATIENCE, || (refused() >= 2).then_some(()));
    archiver.assert_running();
    archiver.stop();
    let status = pitr.json(&["status"]);
    assert_eq!((&status["archived_to"], &status["gaps"]), (&archived, &0.into()), "{status}");
}

#[test]
fn checksums_may_be_switched_off_and_on_while_the_log_streams() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        let scratch = Scratch::new();
        let server = MySqlServer::start(&scratch, "source", make, NONE);
        marker_table(&server);
        let pitr = pitr(&scratch, &server);
        let mut archiver = pitr.archive_with(&["--no-backup"]);
        for setting in ["NONE", "CRC32", "NONE"] {
            server.sql(&format!("SET GLOBAL binlog_checksum = {setting}"));
            for _ in 0..3 {
                mark(&server);
            }
        }
        archiver.assert_running();
        archiver.stop();
        assert_export_equals_binlogs(&pitr, &scratch.join("export"), &server);
        pitr.ok(["verify", "--read-data"]);
    }
}

#[test]
fn reset_begins_a_new_timeline_and_overwrites_nothing() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        let scratch = Scratch::new();
        let server = MySqlServer::start(&scratch, "source", make, NONE);
        marker_table(&server);
        mark(&server);
        let pitr = pitr(&scratch, &server);
        server.sql("GRANT ALL ON *.* TO 'pitr'@'%'");
        let archiver = pitr.archive_with(&["--no-backup"]);
        archiver.wait_until_streaming();
        pitr.ok(["backup", "--method", "logical"]);
        archiver.stop();
        mark(&server);
        catch_up(&pitr);
        let window = || pitr.json(&["list"])["windows"][0].clone();
        let restorable = window();
        let before = fs::read_dir(pitr.cluster_dir().join("log/00000001")).unwrap().count();
        server.sql(if make.is_mariadb() { "RESET MASTER" } else { "RESET BINARY LOGS AND GTIDS" });
        mark(&server);
        catch_up(&pitr);
        let listed = pitr.json(&["status"]);
        assert_eq!(listed["timeline"], 2, "{listed}");
        assert_eq!(fs::read_dir(pitr.cluster_dir().join("log/00000001")).unwrap().count(), before);
        assert!(restorable["end"].is_string(), "{restorable}");
        assert_eq!(window()["end"], restorable["end"], "{make:?}: the old log is known to be complete no further");
        let dir = scratch.join("export");
        export_all(&pitr, &dir, &server);
        assert_equals_binlog(&dir.join("00000002"), &server, &server.log_end().name);
    }
}

/// After a reset the same file is written anew, and goes on beyond where the archive ends: in
/// events that lie as the old ones did, and in events that lie elsewhere.
#[test]
fn a_file_written_anew_under_its_old_name_begins_a_new_timeline() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        for comment in ["", "/* longer than before */"] {
            let scratch = Scratch::new();
            let server = MySqlServer::start(&scratch, "source", make, &["--binlog-format=STATEMENT"]);
            let reset = if make.is_mariadb() { "RESET MASTER" } else { "RESET BINARY LOGS AND GTIDS" };
            server.sql("CREATE TABLE test.t (id INT PRIMARY KEY AUTO_INCREMENT, v INT)");
            server.sql(reset);
            let pitr = pitr(&scratch, &server);
            server.sql(&"INSERT INTO test.t (v) VALUES (1);\n".repeat(5));
            catch_up(&pitr);
            server.sql(reset);
            server.sql(&format!("INSERT INTO test.t (v) VALUES {comment} (2);\n").repeat(20));
            catch_up(&pitr);
            let status = pitr.json(&["status"]);
            assert_eq!(status["timeline"], 2, "{make:?} {comment:?}: {status}");
            let dir = scratch.join("export");
            pitr.ok(["export".as_ref(), dir.as_os_str()]);
            let last = server.log_end();
            let mut theirs = server.binlog_bytes(&last.name);
            theirs[21] &= 0xfe;
            assert!(fs::read(dir.join("00000002").join(&last.name)).unwrap() == theirs);
        }
    }
}

#[test]
fn purged_log_is_a_recorded_gap() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        let scratch = Scratch::new();
        let server = MySqlServer::start(&scratch, "source", make, NONE);
        marker_table(&server);
        let pitr = pitr(&scratch, &server);
        catch_up(&pitr);
        mark(&server);
        server.flush_logs();
        mark(&server);
        server.flush_logs();
        server.purge_old_logs();
        mark(&server);
        catch_up(&pitr);
        let listed = pitr.json(&["status"]);
        assert_eq!(listed["gaps"], 1, "{listed}");
        let dir = scratch.join("export");
        export_all(&pitr, &dir, &server);
        assert_equals_binlog(&dir, &server, &server.log_end().name);
    }
}

#[test]
fn goes_on_with_another_server_by_gtid() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        let scratch = Scratch::new();
        let mut first = MySqlServer::start(&scratch, "first", make, NONE);
        let second = MySqlServer::start(&scratch, "second", make, NONE);
        second.follow(&first);
        marker_table(&first);
        let on_first = pitr(&scratch, &first);
        for _ in 0..5 {
            mark(&first);
        }
        catch_up(&on_first);
        // These come from the second server only.
        for _ in 0..5 {
            mark(&first);
        }
        second.wait_for(&first);
        first.stop();
        second.promote();
        mark(&second);
        let both = Pitr::new(&scratch).source_url(second.url());
        catch_up(&both);
        let status = both.json(&["status"]);
        assert_eq!((&status["timeline"], &status["gaps"]), (&1.into(), &0.into()), "{status}");
        let listed = both.json(&["status"]);
        assert_eq!(listed["gaps"], 0, "{listed}");
        both.ok(["verify", "--read-data"]).says(&["the archive is sound"]);
    }
}

#[test]
fn a_replica_that_has_not_caught_up_is_waited_for() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        let scratch = Scratch::new();
        let mut first = MySqlServer::start(&scratch, "first", make, NONE);
        let second = MySqlServer::start(&scratch, "second", make, NONE);
        second.follow(&first);
        marker_table(&first);
        let (stop, start) = if make.is_mariadb() {
            first.sql("GRANT SLAVE MONITOR ON *.* TO pitr@'%'");
            ("STOP SLAVE SQL_THREAD", "START SLAVE SQL_THREAD")
        } else {
            ("STOP REPLICA SQL_THREAD", "START REPLICA SQL_THREAD")
        };
        second.wait_for(&first);
        second.sql(stop);
        mark(&first);
        catch_up(&pitr(&scratch, &first));
        first.stop();
        let behind = Pitr::new(&scratch).source_url(second.url());
        let mut archiver = behind.archive_with(&["--no-backup"]);
        condition("the archiver to wait", PATIENCE, || archiver.said().contains("caught up").then_some(()));
        archiver.assert_running();
        second.sql(start);
        condition("the stream to go on", PATIENCE, || archiver.said().contains("streaming timeline=1").then_some(()));
        archiver.stop();
        let status = behind.json(&["status"]);
        assert_eq!((&status["timeline"], &status["gaps"]), (&1.into(), &0.into()), "{status}");
    }
}

#[test]
fn another_database_is_refused() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        let scratch = Scratch::new();
        let server = MySqlServer::start(&scratch, "source", make, NONE);
        marker_table(&server);
        catch_up(&pitr(&scratch, &server));
        let other = MySqlServer::start(&scratch, "other", make, NONE);
        marker_table(&other);
        Pitr::new(&scratch)
            .source_url(other.url())
            .run(["archive", "--exit-when-caught-up", "--no-backup"])
            .exit(5)
            .says(&["another database"]);
    }
}

#[test]
fn a_server_without_a_binlog_and_a_user_without_privileges_are_told_what_lacks() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        let scratch = Scratch::new();
        let without = MySqlServer::start(&scratch, "without", make, &["--skip-log-bin"]);
        pitr(&scratch, &without).run(["archive", "--exit-when-caught-up"]).exit(5).says(&["no binary log", "log_bin"]);
        let server = MySqlServer::start(&scratch, "source", make, NONE);
        let nobody = Pitr::new(&scratch).source_url(server.url_as(crate::support::mysql::NOBODY));
        nobody.run(["archive", "--exit-when-caught-up"]).exit(5).says(&["GRANT", "pitr grants"]);
        let lacking = ["REPLICATION SLAVE", "is lacking", "by statements SELECT, SHOW VIEW"];
        nobody.run(["check"]).exit(5).says(&lacking);
    }
}

/// Beside replicas that a failover relies on, the archive must not answer for them.
#[test]
fn semi_synchronous_replication_may_be_declined() {
    for make in Make::ALL {
        let scratch = Scratch::new();
        let options = make.semi_sync_source(20);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let server = MySqlServer::start(&scratch, "source", make, &options);
        marker_table(&server);
        let pitr = Pitr::new(&scratch).source_url(format!("{}?semi-sync=off", server.url()));
        let mut archiver = pitr.archive_with(&["--no-backup"]);
        archiver.wait_until_streaming();
        for _ in 0..3 {
            mark(&server);
        }
        wait_until_it_follows(&pitr);
        archiver.assert_running();
        assert_eq!(server.semi_sync_clients(), 0, "{make:?}");
        let acknowledged = server.status(&format!("Rpl_semi_sync_{}_yes_tx", make.source_role()));
        assert_eq!(acknowledged, "0", "{make:?}");
        archiver.stop();
        assert_export_equals_binlogs(&pitr, &scratch.join("export"), &server);
    }
}

/// A server that begins to wait for replicas while pitr is connected has one at once.
#[test]
fn semi_synchronous_replication_may_be_switched_on_and_off_meanwhile() {
    for make in Make::ALL {
        let scratch = Scratch::new();
        let role = make.source_role();
        let mut options = make.semi_sync_source(60_000);
        options.push(format!("--rpl-semi-sync-{role}-enabled=OFF"));
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let server = MySqlServer::start(&scratch, "source", make, &options);
        marker_table(&server);
        let pitr = pitr(&scratch, &server);
        let mut archiver = pitr.archive_with(&["--no-backup"]);
        condition("pitr to be a replica", PATIENCE, || (server.semi_sync_clients() == 1).then_some(()));
        for _ in 0..3 {
            mark(&server);
            server.sql(&format!("set global rpl_semi_sync_{role}_enabled = on"));
            mark(&server);
            mark(&server);
            assert!(server.semi_sync_is_on(), "{make:?}: the server gave up waiting");
            assert_eq!(server.status(&format!("Rpl_semi_sync_{role}_no_tx")), "0", "{make:?}");
            server.sql(&format!("set global rpl_semi_sync_{role}_enabled = off"));
        }
        archiver.assert_running();
        archiver.stop();
        assert_export_equals_binlogs(&pitr, &scratch.join("export"), &server);
    }
}
