//! Promise: `pitr restore` gives MySQL and MariaDB back as they stood at a moment, to the
//! transaction.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::mysql::{Load, Make, MySqlServer, mark, marker_ids, marker_table, wait_for_markers};
use crate::support::pitr::{Finished, finish};
use crate::support::{Pitr, Scratch};

const NONE: &[&str] = &[];

/// The source of a test, ready for the base backups of its make.
pub fn start(scratch: &Scratch, make: Make, options: &[&str]) -> MySqlServer {
    let server = MySqlServer::start(scratch, "source", make, options);
    if !make.is_mariadb() {
        server.sql("INSTALL PLUGIN clone SONAME 'mysql_clone.so'");
    }
    marker_table(&server);
    server
}

/// What a server says it has replayed.
pub fn replayed(server: &MySqlServer) -> String {
    let variable = if server.make().is_mariadb() { "gtid_slave_pos" } else { "gtid_executed" };
    server.sql(&format!("SELECT REPLACE(@@GLOBAL.{variable}, '\\n', '')")).trim().to_owned()
}

/// An archive, and what restores from it.
pub struct Place<'a> {
    pub pitr: Pitr<'a>,
    make: Make,
    scratch: &'a Scratch,
}

impl<'a> Place<'a> {
    pub fn new(scratch: &'a Scratch, server: &MySqlServer) -> Self {
        Self::with(Pitr::new(scratch), scratch, server)
    }

    /// With an archive of its own.
    pub fn with(pitr: Pitr<'a>, scratch: &'a Scratch, server: &MySqlServer) -> Self {
        let path = std::env::var("PATH").unwrap_or_default();
        let tools = format!("{}:{path}", server.make().bin_dir().display());
        Self { pitr: pitr.source_url(server.url()).env("PATH", tools), make: server.make(), scratch }
    }

    pub fn restore(&self, to: &Path, target: &[&str]) -> Finished {
        finish(self.scratch, self.command(to, target))
    }

    /// A restore that has not begun.
    pub fn command(&self, to: &Path, target: &[&str]) -> Command {
        let mut command = self.pitr.command(["restore", "--to"]);
        command.arg(to).arg("--bin-dir").arg(self.make.bin_dir());
        if rustix::process::geteuid().is_root() {
            command.args(["--os-user", "postgres"]);
        }
        command.args(target);
        command
    }

    /// Everything that is archived, in a server of its own.
    pub fn latest(&self, name: &str) -> MySqlServer {
        let to = self.scratch.join(name);
        self.restore(&to, &["--target", "latest"]).success();
        self.open(name, to)
    }

    pub fn open(&self, name: &str, dir: PathBuf) -> MySqlServer {
        MySqlServer::open(self.scratch, name, self.make, dir, NONE)
    }
}

/// What every restored directory must be: no replication in it, no tool's files, no events.
pub fn assert_ordinary(server: &MySqlServer) {
    let status = if server.make().is_mariadb() { "SHOW ALL SLAVES STATUS" } else { "SHOW REPLICA STATUS" };
    assert_eq!(server.sql(status).trim(), "");
    let accounts = server.sql("SELECT user FROM mysql.user WHERE user LIKE 'pitr-restore%'");
    assert_eq!(accounts.trim(), "");
    for name in ["backup-my.cnf", "xtrabackup_info", "mariadb_backup_info", "master.info", "relay-log.info"] {
        assert!(!server.data().join(name).exists(), "{name} is left");
    }
}

#[test]
fn everything_comes_back_equal() {
    for make in Make::ALL {
        let scratch = Scratch::new();
        let server = start(&scratch, make, NONE);
        let place = Place::new(&scratch, &server);
        let load = Load::markers(&server, 4, 1);
        wait_for_markers(&server, 50);
        place.pitr.ok(["archive", "--exit-when-caught-up"]);
        wait_for_markers(&server, 400);
        load.stop(&server);
        server.sql("CREATE TABLE test.late (id INT PRIMARY KEY); INSERT INTO test.late VALUES (1), (2)");
        place.pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
        let to = scratch.join("restored");
        place.restore(&to, &["--target", "latest"]).success();
        let restored = place.open("restored", to);
        assert_ordinary(&restored);
        assert_eq!(restored.checksums(), server.checksums());
        assert_eq!(restored.definitions(), server.definitions());
        assert_eq!(replayed(&restored), server.gtid_position());
        // And goes on as a primary.
        mark(&restored);
    }
}

/// Nobody archives: the log up to the base's end comes with it.
#[test]
fn a_backup_alone_restores() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        let scratch = Scratch::new();
        let server = start(&scratch, make, NONE);
        let place = Place::new(&scratch, &server);
        let load = Load::markers(&server, 4, 1);
        wait_for_markers(&server, 50);
        place.pitr.ok(["backup"]);
        load.stop(&server);
        let to = scratch.join("restored");
        place.restore(&to, &["--target", "latest"]).success();
        let restored = place.open("restored", to);
        let (kept, all) = (marker_ids(&restored), marker_ids(&server));
        assert!(kept.len() >= 50, "{make:?}: {} markers", kept.len());
        assert!(kept.is_subset(&all), "{make:?}");
    }
}

#[test]
fn the_cut_is_exact_for_many_moments_and_names() {
    for make in Make::ALL {
        let scratch = Scratch::new();
        let server = start(&scratch, make, NONE);
        let place = Place::new(&scratch, &server);
        place.pitr.ok(["archive", "--exit-when-caught-up"]);
        let mut archiver = place.pitr.archive_with(&["--no-backup"]);
        // Several in one second, with moments between them.
        let mut moments: Vec<(u64, BTreeSet<u64>)> = Vec::new();
        for _ in 0..12 {
            mark(&server);
            // MariaDB's are times of receipt: late by as much as the machine is busy.
            moments.push((server.now_micros() + 300_000, marker_ids(&server)));
            crate::support::condition("the clock to go on", crate::support::PATIENCE, || {
                (server.now_micros() > moments.last().unwrap().0 + 50_000).then_some(())
            });
        }
        archiver.assert_running();
        archiver.stop();
        place.pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
        for (nth, (micros, ids)) in moments.iter().enumerate().skip(1).step_by(4) {
            let time = jiff(*micros);
            let to = scratch.join(&format!("time-{nth}"));
            place.restore(&to, &["--target-time", &time]).success();
            let restored = place.open(&format!("time-{nth}"), to);
            assert_eq!(marker_ids(&restored), *ids, "{make:?} at {time}");
        }
        let all = server.transactions();
        let chosen = &all[all.len() - 4];
        let ids: BTreeSet<u64> = marker_ids(&server);
        for (word, fewer) in [(None, 3), (Some("--exclusive"), 4)] {
            let to = scratch.join(&format!("gtid-{fewer}"));
            let mut target = vec!["--target-gtid", &chosen.gtid];
            target.extend(word);
            place.restore(&to, &target).success().says(&[if word.is_none() { &chosen.gtid } else { "first one out" }]);
            let restored = place.open(&format!("gtid-{fewer}"), to);
            let kept: BTreeSet<u64> = ids.iter().copied().take(ids.len() - fewer).collect();
            assert_eq!(marker_ids(&restored), kept, "{make:?} {word:?}");
        }
        let to = scratch.join("excluded");
        place.restore(&to, &["--target", "latest", "--exclude-gtid", &chosen.gtid]).success();
        let restored = place.open("excluded", to);
        let mut kept = ids.clone();
        let left_out = *ids.iter().nth(ids.len() - 4).unwrap();
        kept.remove(&left_out);
        assert_eq!(marker_ids(&restored), kept, "{make:?}: without {}", chosen.gtid);
    }
}

/// Found out days later, when every newer base holds it.
#[test]
fn what_is_left_out_may_lie_before_the_newest_bases() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        let scratch = Scratch::new();
        let server = start(&scratch, make, NONE);
        let place = Place::new(&scratch, &server);
        let catch_up = || place.pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
        place.pitr.ok(["archive", "--exit-when-caught-up"]);
        let oldest = place.pitr.json(&["list"])["bases"][0]["id"].as_str().expect("a base").to_owned();
        let (_, bad) = (mark(&server), mark(&server));
        let gtid = server.transactions().pop().unwrap().gtid;
        mark(&server);
        catch_up();
        place.pitr.ok(["backup"]);
        mark(&server);
        catch_up();
        let exclude = ["--target", "latest", "--exclude-gtid", &gtid];
        place.pitr.ok(["plan"].iter().chain(&exclude)).says(&[&oldest, "is newer, but holds"]);
        let to = scratch.join("restored");
        place.restore(&to, &exclude).success();
        let mut kept = marker_ids(&server);
        kept.remove(&bad);
        assert_eq!(marker_ids(&place.open("restored", to)), kept, "{make:?}");

        let to = scratch.join("refused");
        let behind = ["--target-gtid", &gtid, "--exclusive", "--exclude-gtid", &gtid];
        place.restore(&to, &behind).exit(14).says(&[&gtid, "behind the target"]);
        assert!(!to.exists());
    }
}

/// RFC 3339 with microseconds.
fn jiff(micros: u64) -> String {
    let seconds = i64::try_from(micros / 1_000_000).unwrap();
    let time = time_text(seconds);
    format!("{time}.{:06}Z", micros % 1_000_000)
}

fn time_text(seconds: i64) -> String {
    // Days to a date: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    let (days, rest) = (seconds.div_euclid(86_400) + 719_468, seconds.rem_euclid(86_400));
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

#[test]
fn all_kinds_of_statements_are_replayed() {
    for make in Make::ALL.into_iter().filter(|make| make.is_mariadb()) {
        let scratch = Scratch::new();
        let server = start(&scratch, make, &["--binlog-format=MIXED"]);
        let place = Place::new(&scratch, &server);
        place.pitr.ok(["archive", "--exit-when-caught-up"]);
        server.sql(
            "CREATE DATABASE shop; USE shop;
             CREATE TABLE items (id INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(50), made TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
             CREATE TABLE log (id INT PRIMARY KEY AUTO_INCREMENT, what TEXT) ENGINE=MyISAM;
             CREATE TRIGGER noted AFTER INSERT ON items FOR EACH ROW INSERT INTO log (what) VALUES (NEW.name);
             INSERT INTO items (name) VALUES ('a'), ('b');
             CREATE TEMPORARY TABLE scratch (id INT); INSERT INTO scratch VALUES (1);
             INSERT INTO items (name) SELECT CONCAT('from ', id) FROM scratch;
             DROP TEMPORARY TABLE scratch;
             SET time_zone = '+05:00'; INSERT INTO items (name, made) VALUES ('zone', '2026-01-01 00:00:00');
             SET SESSION binlog_format = STATEMENT; UPDATE items SET name = UPPER(name) WHERE id < 3;
             SET SESSION binlog_format = ROW; SET SESSION binlog_row_image = MINIMAL; UPDATE items SET name = 'minimal' WHERE id = 2;
             BEGIN; INSERT INTO items (name) VALUES ('kept'); SAVEPOINT s; INSERT INTO items (name) VALUES ('gone'); ROLLBACK TO s; COMMIT;
             XA START 'x'; INSERT INTO items (name) VALUES ('xa'); XA END 'x'; XA PREPARE 'x'; XA COMMIT 'x';
             SET SESSION gtid_domain_id = 7; INSERT INTO items (name) VALUES ('another domain');
             SET SESSION gtid_domain_id = 0;
             CREATE USER shopper@'%' IDENTIFIED BY 'secret'; GRANT SELECT ON shop.* TO shopper@'%';
             ALTER TABLE items ADD COLUMN price DECIMAL(9, 2) DEFAULT 1.5; DELETE FROM items WHERE id = 1;",
        );
        place.pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
        let to = scratch.join("restored");
        place.restore(&to, &["--target", "latest"]).success();
        let restored = place.open("restored", to);
        assert_eq!(restored.checksums_in("shop"), server.checksums_in("shop"));
        assert_eq!(restored.definitions(), server.definitions());
        assert_eq!(replayed(&restored), server.gtid_position());
        assert_ordinary(&restored);
    }
}

#[test]
fn a_restore_over_an_old_copy_rewrites_what_differs_and_spares_a_living_server() {
    let scratch = Scratch::new();
    let server = start(&scratch, Make::MariaDb1011, NONE);
    let place = Place::new(&scratch, &server);
    place.pitr.ok(["archive", "--exit-when-caught-up"]);
    for _ in 0..3 {
        mark(&server);
    }
    place.pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
    let to = scratch.join("restored");
    place.restore(&to, &["--target", "latest"]).success();
    let mut restored = place.open("restored", to.clone());
    place.restore(&to, &["--target", "latest", "--delta"]).exit(5).says(&["a server runs on"]);
    mark(&restored);
    restored.stop();
    place.restore(&to, &["--target", "latest", "--delta"]).success();
    let again = place.open("again", to);
    assert_eq!(again.checksums(), server.checksums());
}

#[test]
fn an_unknown_gtid_and_programs_of_another_version_are_refused_by_name() {
    let scratch = Scratch::new();
    let server = start(&scratch, Make::MariaDb1011, NONE);
    let place = Place::new(&scratch, &server);
    place.pitr.ok(["archive", "--exit-when-caught-up"]);
    mark(&server);
    place.pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
    let to = scratch.join("restored");
    place.restore(&to, &["--target-gtid", "0-99-12345"]).exit(14).says(&["0-99-12345"]);
    place.restore(&to, &["--target-gtid", "rubbish"]).exit(2).says(&["rubbish"]);
    place.restore(&to, &["--target-lsn", "0/1"]).exit(2);
    let other = Make::MariaDb118.bin_dir();
    let words = ["restore", "--to", to.to_str().unwrap(), "--target", "latest", "--bin-dir", other.to_str().unwrap()];
    place.pitr.run(words).exit(5).says(&["10.11", "--bin-dir"]);
    assert!(!to.exists());
}
