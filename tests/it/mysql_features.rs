//! Promise: whatever MySQL and MariaDB write into a binlog, in whatever form, and however they
//! keep it on their disk, comes back.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::mysql_restore::{Place, assert_ordinary, replayed, start};
use crate::support::mysql::{Load, Make, MySqlServer, REPLICA, mark, marker_table, wait_for_log};
use crate::support::programs::{give_to_server_user, must};
use crate::support::{PATIENCE, Scratch, condition};

const NONE: &[&str] = &[];

/// Rows for `LOAD DATA`, on the client's side.
fn rows_file(scratch: &Scratch) -> String {
    let path = scratch.join("rows.txt");
    let rows: String = (0..2_000).map(|n| format!("loaded {n}\n")).collect();
    fs::write(&path, rows).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A time zone that only this server's own tables know.
const TIME_ZONE: &str = "
    INSERT INTO mysql.time_zone (Time_zone_id, Use_leap_seconds) VALUES (77, 'N');
    INSERT INTO mysql.time_zone_name (Name, Time_zone_id) VALUES ('Test/Zone', 77);
    INSERT INTO mysql.time_zone_transition_type
        (Time_zone_id, Transition_type_id, `Offset`, Is_DST, Abbreviation) VALUES (77, 0, 12600, 0, 'TST');";

const TABLES: &str = "
    CREATE DATABASE shop;
    USE shop;
    CREATE TABLE items (id INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(60), doc JSON,
        made TIMESTAMP(6) NULL DEFAULT CURRENT_TIMESTAMP(6));
    CREATE TABLE log (id INT PRIMARY KEY AUTO_INCREMENT, what TEXT, at DATETIME NULL);
    CREATE TABLE plain (id INT PRIMARY KEY AUTO_INCREMENT, what TEXT) ENGINE=MyISAM;
    CREATE TRIGGER noted AFTER INSERT ON items FOR EACH ROW INSERT INTO log (what, at) VALUES (NEW.name, NOW());
    INSERT INTO items (name, doc) VALUES ('a', JSON_OBJECT('long', REPEAT('x', 3000), 'n', 1)), ('b', '[1, 2, 3]');
    INSERT INTO plain (what) VALUES ('not'), ('transactional');
    CREATE FUNCTION shout(word TEXT) RETURNS TEXT DETERMINISTIC RETURN UPPER(word);
    CREATE VIEW names AS SELECT name FROM items;";

/// In all three formats, with what only statements know.
const STATEMENTS: &str = "
    USE shop;
    SET SESSION binlog_format = STATEMENT;
    UPDATE items SET name = shout(name) WHERE id = 1;
    CREATE TEMPORARY TABLE scratch (id INT);
    INSERT INTO scratch VALUES (1), (2);
    INSERT INTO items (name) SELECT CONCAT('from ', id) FROM scratch ORDER BY id;
    DROP TEMPORARY TABLE scratch;
    SET @word = 'variable';
    INSERT INTO items (name) VALUES (@word), (LAST_INSERT_ID());
    INSERT INTO log (what, at) VALUES (RAND() > 2, CURRENT_TIMESTAMP);
    SET time_zone = '+05:00';
    INSERT INTO items (name, made) VALUES ('zone', '2026-01-01 00:00:00');
    SET time_zone = 'Test/Zone';
    INSERT INTO items (name, made) VALUES ('named zone', '2026-01-01 00:00:00');
    INSERT INTO log (what, at) VALUES ('zone', FROM_UNIXTIME(1000000000));
    SET SESSION sql_mode = 'ANSI_QUOTES,PIPES_AS_CONCAT';
    INSERT INTO items (\"name\") VALUES ('a' || 'b');
    SET SESSION binlog_format = MIXED;
    INSERT INTO items (name) VALUES (UUID());
    SET SESSION binlog_format = ROW;
    SET SESSION binlog_row_image = MINIMAL;
    UPDATE items SET name = 'minimal' WHERE id = 2;
    SET SESSION binlog_row_image = NOBLOB;
    UPDATE items SET doc = '{}' WHERE id = 2;
    DELETE FROM log WHERE id = 1;
    BEGIN;
    INSERT INTO items (name) VALUES ('kept');
    SAVEPOINT s;
    INSERT INTO items (name) VALUES ('gone');
    ROLLBACK TO s;
    COMMIT;
    XA START 'done'; INSERT INTO items (name) VALUES ('xa'); XA END 'done'; XA PREPARE 'done'; XA COMMIT 'done';
    XA START 'undone'; INSERT INTO items (name) VALUES ('xa'); XA END 'undone'; XA PREPARE 'undone'; XA ROLLBACK 'undone';
    XA START 'once'; INSERT INTO items (name) VALUES ('one phase'); XA END 'once'; XA COMMIT 'once' ONE PHASE;
    CREATE USER shopper@'%' IDENTIFIED BY 'secret-Aa1'; GRANT SELECT ON shop.* TO shopper@'%';
    ALTER TABLE items ADD COLUMN price DECIMAL(9, 2) DEFAULT 1.5;";

fn load_data(rows: &str) -> String {
    format!(
        "USE shop;
         SET SESSION binlog_format = STATEMENT; LOAD DATA LOCAL INFILE '{rows}' INTO TABLE items (name);
         SET SESSION binlog_format = ROW; LOAD DATA LOCAL INFILE '{rows}' INTO TABLE items (name);"
    )
}

/// The event has done its work here, and may not do it again there.
fn run_an_event(server: &MySqlServer) {
    server.sql(
        "SET GLOBAL event_scheduler = ON; USE shop;
         CREATE EVENT once ON SCHEDULE AT CURRENT_TIMESTAMP + INTERVAL 1 SECOND
             DO INSERT INTO log (what, at) VALUES ('by an event', NOW());",
    );
    condition("the event to run and to go", PATIENCE, || {
        let left = "SELECT COUNT(*) FROM information_schema.events WHERE event_schema = 'shop'";
        (server.sql(left) == "0").then_some(())
    });
    assert_eq!(server.sql("SELECT COUNT(*) FROM shop.log WHERE what = 'by an event'"), "1");
}

fn archive(place: &Place<'_>) {
    place.pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
}

fn assert_comes_back(place: &Place<'_>, server: &MySqlServer) -> MySqlServer {
    archive(place);
    let restored = place.latest("restored");
    assert_eq!(restored.checksums(), server.checksums());
    assert_eq!(restored.definitions(), server.definitions());
    assert_eq!(replayed(&restored), server.gtid_position());
    let accounts = "SELECT user, host FROM mysql.user ORDER BY 1, 2";
    assert_eq!(restored.sql(accounts), server.sql(accounts));
    assert_ordinary(&restored);
    restored
}

#[test]
fn every_form_of_mysqls_log_is_replayed_on_a_clone() {
    let scratch = Scratch::new();
    let server = start(&scratch, Make::MySql97, NONE);
    server.sql(TIME_ZONE);
    let place = Place::new(&scratch, &server);
    place.pitr.ok(["archive", "--exit-when-caught-up"]);
    server.sql(TABLES);
    server.sql(STATEMENTS);
    server.sql(&load_data(&rows_file(&scratch)));
    run_an_event(&server);
    server.sql(
        "USE shop;
         SET SESSION binlog_row_value_options = PARTIAL_JSON;
         UPDATE items SET doc = JSON_SET(doc, '$.n', 2) WHERE id = 1;
         UPDATE items SET doc = JSON_REPLACE(doc, '$.long', 'short') WHERE id = 1;
         SET SESSION binlog_row_value_options = '';
         SET SESSION binlog_transaction_compression = ON;
         INSERT INTO items (name) SELECT REPEAT('z', 60) FROM items LIMIT 1000;
         BEGIN; INSERT INTO log (what) SELECT name FROM items; UPDATE log SET what = 'compressed' WHERE id < 100; COMMIT;
         SET SESSION binlog_transaction_compression = OFF;
         SET SESSION gtid_next = 'AUTOMATIC:tagged'; INSERT INTO items (name) VALUES ('a tag');
         INSERT INTO items (name) VALUES ('the same tag');
         SET SESSION gtid_next = 'AUTOMATIC:another_tag'; CREATE TABLE made_by_a_tag (id INT PRIMARY KEY);
         SET SESSION gtid_next = 'AUTOMATIC';
         CREATE TABLE chosen (PRIMARY KEY (id)) SELECT id, name FROM items;
         SET SESSION gtid_next = '11111111-2222-3333-4444-555555555555:7'; INSERT INTO items (name) VALUES ('its own');
         SET SESSION gtid_next = 'AUTOMATIC';",
    );
    let restored = assert_comes_back(&place, &server);
    assert!(replayed(&restored).contains(":tagged:1-2"), "{}", replayed(&restored));
}

#[test]
fn every_form_of_mariadbs_log_is_replayed() {
    for make in [Make::MariaDb1011, Make::MariaDb118] {
        let scratch = Scratch::new();
        let server = start(&scratch, make, NONE);
        server.sql(TIME_ZONE);
        let place = Place::new(&scratch, &server);
        place.pitr.ok(["archive", "--exit-when-caught-up"]);
        server.sql(TABLES);
        server.sql(STATEMENTS);
        server.sql(&load_data(&rows_file(&scratch)));
        run_an_event(&server);
        server.sql(
            "USE shop;
             SET GLOBAL log_bin_compress = ON; SET GLOBAL log_bin_compress_min_len = 10;
             INSERT INTO items (name) SELECT REPEAT('z', 60) FROM items LIMIT 1000;
             SET SESSION binlog_format = STATEMENT;
             UPDATE items SET name = 'a compressed statement, which is long enough to be one' WHERE id < 20;
             SET SESSION binlog_format = ROW;
             SET GLOBAL log_bin_compress = OFF;
             CREATE SEQUENCE numbers; SELECT NEXTVAL(numbers); SELECT SETVAL(numbers, 100);
             CREATE TABLE versions (id INT PRIMARY KEY, v INT) WITH SYSTEM VERSIONING;
             INSERT INTO versions VALUES (1, 1); UPDATE versions SET v = 2;
             SET SESSION skip_replication = 0; SET SESSION binlog_annotate_row_events = OFF;
             INSERT INTO items (name) VALUES ('without its statement');
             CREATE TABLE chosen (PRIMARY KEY (id)) SELECT id, name FROM items;
             SET SESSION server_id = 4711; INSERT INTO items (name) VALUES ('of another id');",
        );
        assert_comes_back(&place, &server);
    }
}

/// Each client writes in a domain of its own, into one table where what one does depends on what
/// the other did.
#[test]
fn two_domains_come_back_in_the_logs_order() {
    for make in [Make::MariaDb1011, Make::MariaDb118] {
        let scratch = Scratch::new();
        let server = start(&scratch, make, NONE);
        let place = Place::new(&scratch, &server);
        server.sql("CREATE TABLE test.turns (id INT PRIMARY KEY, n BIGINT); INSERT INTO test.turns VALUES (1, 1)");
        place.pitr.ok(["archive", "--exit-when-caught-up"]);
        let turn = |domain: u32, change: &str| {
            format!(
                "SET SESSION gtid_domain_id = {domain}, binlog_format = STATEMENT; UPDATE test.turns SET n = {change};\n"
            )
        };
        let loads = [turn(1, "(n * 3 + 1) % 1000003"), turn(2, "(n * 5 + 2) % 1000003")]
            .map(|statements| Load::repeating(&server, 2, 0, &statements));
        wait_for_log(&server, 400_000);
        for load in loads {
            load.stop(&server);
        }
        // What exists only once the other domain has made it.
        for round in 0..20 {
            server.sql(&format!(
                "SET SESSION gtid_domain_id = 1; CREATE TABLE test.t{round} (id INT PRIMARY KEY);
                 SET SESSION gtid_domain_id = 2; INSERT INTO test.t{round} VALUES (1);
                 SET SESSION gtid_domain_id = 3; RENAME TABLE test.t{round} TO test.r{round};"
            ));
        }
        archive(&place);
        let restored = place.latest("restored");
        assert_eq!(restored.checksums(), server.checksums());
        let sorted = |position: String| {
            let mut gtids: Vec<String> = position.split(',').map(str::to_owned).collect();
            gtids.sort();
            gtids
        };
        assert_eq!(sorted(replayed(&restored)), sorted(server.gtid_position()));
    }
}

/// Statements of every kind that a client may mix with small transactions, which are replayed
/// several as one.
#[test]
fn small_transactions_come_back_whatever_lies_between() {
    for make in [Make::MariaDb1011, Make::MariaDb118] {
        let scratch = Scratch::new();
        let server = start(&scratch, make, NONE);
        let place = Place::new(&scratch, &server);
        server.sql(
            "USE test; CREATE TABLE a (id INT PRIMARY KEY, u INT, b LONGBLOB, UNIQUE (u));
             CREATE TABLE parent (id INT PRIMARY KEY, n INT);
             CREATE TABLE child (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES parent (id) ON DELETE CASCADE);
             CREATE TABLE audit (id INT AUTO_INCREMENT PRIMARY KEY, a INT);
             CREATE TRIGGER noted AFTER INSERT ON a FOR EACH ROW INSERT INTO audit (a) VALUES (NEW.id);
             CREATE TABLE words (id INT PRIMARY KEY, t MEDIUMTEXT, FULLTEXT (t));
             CREATE TABLE plain (id INT PRIMARY KEY) ENGINE=MyISAM; CREATE SEQUENCE numbers;",
        );
        place.pitr.ok(["archive", "--exit-when-caught-up"]);
        let mut load = "USE test;\n".to_owned();
        for i in 0..400 {
            let length = i * 7;
            load += &format!(
                "INSERT INTO a (id, u, b) VALUES ({i}, {i}, REPEAT('x', {length})); UPDATE a SET u = u + 1000 WHERE id = {i};
                 BEGIN; DELETE FROM a WHERE id = {i}; INSERT INTO a (id, u, b) VALUES ({i}, {i} + 1000, 'again'); COMMIT;
                 INSERT INTO parent VALUES ({i}, 0); INSERT INTO child VALUES ({i}, {i});
                 UPDATE a, parent SET a.b = 'both', parent.n = {i} WHERE a.id = {i} AND parent.id = {i};
                 INSERT INTO words VALUES ({i}, 'one word and number{i}'); REPLACE INTO words VALUES ({i}, 'other{i}');
                 INSERT INTO words SELECT NEXT VALUE FOR numbers + 10000, 'numbered';
                 DELETE FROM words WHERE id = {i} - 3;\n"
            );
            load += &match i % 40 {
                3 => format!("DELETE FROM parent WHERE id < {i} - 10;"),
                7 => format!("ALTER TABLE a ADD COLUMN c{i} INT DEFAULT {i}; UPDATE a SET c{i} = 1 WHERE id = {i};"),
                11 => "FLUSH TABLES;".to_owned(),
                15 => format!(
                    "SET foreign_key_checks = 0; INSERT INTO child VALUES (100000 + {i}, -1); SET foreign_key_checks = 1;
                     SET unique_checks = 0; INSERT INTO parent VALUES (100000 + {i}, 1); SET unique_checks = 1;"
                ),
                19 => format!("INSERT INTO words VALUES (200000 + {i}, REPEAT('long ', {length} * 20));"),
                23 => format!(
                    "BEGIN; INSERT INTO parent VALUES (300000 + {i}, 1); SAVEPOINT s; DELETE FROM parent;
                     ROLLBACK TO s; UPDATE parent SET n = -1 WHERE id = {i}; COMMIT;"
                ),
                27 => format!("INSERT INTO plain VALUES ({i}); BEGIN; DELETE FROM parent; ROLLBACK;"),
                31 => format!("SET binlog_format = STATEMENT; UPDATE parent SET n = n + 1; SET binlog_format = ROW;
                     INSERT INTO parent VALUES (400000 + {i}, 1);"),
                35 => "TRUNCATE TABLE child;".to_owned(),
                _ => String::new(),
            };
        }
        server.sql(&load);
        archive(&place);
        let restored = place.latest("restored");
        assert_eq!(restored.checksums(), server.checksums(), "{make:?}");
        assert_eq!(replayed(&restored), server.gtid_position(), "{make:?}");
        for ask in [
            "SELECT COUNT(*), SUM(id) FROM test.words WHERE MATCH (t) AGAINST ('numbered other77')",
            "SELECT COUNT(*), SUM(u) FROM test.a FORCE INDEX (u)",
        ] {
            assert_eq!(restored.sql(ask), server.sql(ask), "{make:?} {ask}");
        }
        for table in ["a", "parent", "child", "audit", "words", "plain"] {
            let checked = restored.sql(&format!("CHECK TABLE test.{table} EXTENDED"));
            assert!(checked.ends_with("OK"), "{make:?} {checked}");
        }
    }
}

/// A replica that has all of the log and is not done with it hears heartbeats, which name the place
/// that it must have counted: behind small transactions, in a file that goes on.
#[test]
fn heartbeats_come_while_the_last_transactions_are_applied() {
    for make in Make::ALL {
        let scratch = Scratch::new();
        let server = start(&scratch, make, NONE);
        let place = Place::new(&scratch, &server);
        server.sql("CREATE TABLE test.slow (id INT PRIMARY KEY, slept INT)");
        place.pitr.ok(["archive", "--exit-when-caught-up"]);
        for _ in 0..10 {
            mark(&server);
        }
        server.sql("SET SESSION binlog_format = STATEMENT; INSERT INTO test.slow SELECT 1, SLEEP(2.5)");
        for _ in 0..10 {
            mark(&server);
        }
        archive(&place);
        let restored = place.latest("restored");
        assert_eq!(restored.checksums(), server.checksums(), "{make:?}");
        assert_eq!(replayed(&restored), server.gtid_position(), "{make:?}");
    }
}

/// A table that keeps a version of a row for each transaction, made by the log and in the base.
#[test]
fn every_version_of_a_row_comes_back() {
    for make in [Make::MariaDb1011, Make::MariaDb118] {
        let scratch = Scratch::new();
        let server = start(&scratch, make, NONE);
        let place = Place::new(&scratch, &server);
        let versions = "SELECT id, n FROM test.h FOR SYSTEM_TIME ALL ORDER BY id, n";
        let change = |rounds: std::ops::Range<u32>| {
            for n in rounds {
                server.sql(&format!(
                    "UPDATE test.h SET n = {n} WHERE id = 1; UPDATE test.h SET n = {n} * 2 WHERE id = 2"
                ));
            }
        };
        place.pitr.ok(["archive", "--exit-when-caught-up"]);
        server.sql(
            "CREATE TABLE test.h (id INT PRIMARY KEY, n INT, s BIGINT UNSIGNED GENERATED ALWAYS AS ROW START,
             e BIGINT UNSIGNED GENERATED ALWAYS AS ROW END, PERIOD FOR SYSTEM_TIME (s, e)) WITH SYSTEM VERSIONING;
             INSERT INTO test.h (id, n) VALUES (1, 0), (2, 0)",
        );
        change(1..8);
        archive(&place);
        assert_eq!(place.latest("by_the_log").sql(versions), server.sql(versions), "{make:?}");
        place.pitr.ok(["backup"]);
        change(8..15);
        archive(&place);
        let wanted = server.sql(versions);
        assert_eq!(wanted.lines().count(), 2 + 2 * 14);
        assert_eq!(place.latest("in_the_base").sql(versions), wanted, "{make:?}");
    }
}

/// A transaction that is prepared, and neither committed nor rolled back, at the moment that is
/// restored: its locks and its rows are there, and it can be either.
#[test]
fn a_prepared_transaction_stays_prepared() {
    for make in Make::ALL {
        let scratch = Scratch::new();
        let server = start(&scratch, make, NONE);
        let place = Place::new(&scratch, &server);
        place.pitr.ok(["archive", "--exit-when-caught-up"]);
        server.sql("XA START 'open'; INSERT INTO test.marker (id) VALUES (77); XA END 'open'; XA PREPARE 'open'");
        mark(&server);
        archive(&place);
        let restored = place.latest("restored");
        assert_eq!(restored.sql("XA RECOVER"), server.sql("XA RECOVER"), "{make:?}");
        assert_eq!(restored.checksums(), server.checksums());
        restored.sql("XA COMMIT 'open'");
        assert_eq!(restored.sql("SELECT COUNT(*) FROM test.marker WHERE id = 77"), "1");
    }
}

/// An event that the log makes is switched off by whoever replays it as a replica does; the user
/// is told, for the source had it on.
#[test]
fn an_event_made_by_the_log_is_named() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        let scratch = Scratch::new();
        let server = start(&scratch, make, NONE);
        let place = Place::new(&scratch, &server);
        server.sql("CREATE EVENT test.before_it ON SCHEDULE EVERY 1 YEAR DO DO 1");
        place.pitr.ok(["archive", "--exit-when-caught-up"]);
        server.sql("CREATE EVENT test.in_the_log ON SCHEDULE EVERY 1 YEAR DO DO 1");
        archive(&place);
        let to = scratch.join("restored");
        place
            .restore(&to, &["--target", "latest"])
            .success()
            .says(&["test.in_the_log", "ALTER EVENT"])
            .hides("before_it");
        let restored = place.open("restored", to);
        let status = "SELECT event_name, status FROM information_schema.events WHERE event_schema = 'test' ORDER BY 1";
        let listed = restored.rows(status);
        assert_eq!(listed[0], ["before_it", "ENABLED"]);
        assert_ne!(listed[1][1], "ENABLED", "then there is nothing to be told");
        restored.sql("ALTER EVENT test.in_the_log ENABLE");
        assert_eq!(restored.definitions(), server.definitions());
    }
}

/// Encrypted binlogs on this server's disk.
fn start_encrypted(scratch: &Scratch, make: Make) -> MySqlServer {
    let keys = scratch.server_dir("keys");
    if make.is_mariadb() {
        let file = keys.join("keys.txt");
        fs::write(&file, "1;770A8A65DA156D24EE2A093277530142770A8A65DA156D24EE2A093277530142\n").unwrap();
        give_to_server_user(&file);
        let plugins = make.bin_dir().join("../lib/mysql/plugin");
        let options = [
            "--plugin-load-add=file_key_management".to_owned(),
            format!("--plugin-dir={}", plugins.canonicalize().unwrap().display()),
            format!("--file-key-management-filename={}", file.display()),
            "--encrypt-binlog=ON".to_owned(),
        ];
        return MySqlServer::start(scratch, "source", make, &options);
    }
    let program = mysql_with_keyring(scratch, &keys);
    let options = [format!("--plugin-dir={}", keys.join("plugins").display()), "--binlog-encryption=ON".to_owned()];
    MySqlServer::start_with(scratch, "source", make, program, &options)
}

/// A keyring component is named beside the server program, and configured beside itself.
fn mysql_with_keyring(scratch: &Scratch, keys: &Path) -> std::path::PathBuf {
    let theirs = Make::MySql97.bin_dir().parent().unwrap().canonicalize().unwrap();
    let copy = scratch.server_dir("mysql");
    let sbin = copy.join("root/usr/sbin");
    let plugins = keys.join("plugins");
    for dir in [&sbin, &copy.join("bin"), &plugins] {
        fs::create_dir_all(dir).unwrap();
    }
    must(Command::new("cp").arg(theirs.join("bin/mysqld")).arg(copy.join("bin")));
    must(Command::new("cp").arg(theirs.join("root/usr/sbin/mysqld")).arg(&sbin));
    for entry in fs::read_dir(theirs.join("root/usr")).unwrap().flatten().filter(|e| e.file_name() != "sbin") {
        std::os::unix::fs::symlink(entry.path(), copy.join("root/usr").join(entry.file_name())).unwrap();
    }
    for plugin in fs::read_dir(theirs.join("root/usr/lib/mysql/plugin")).unwrap().flatten() {
        std::os::unix::fs::symlink(plugin.path(), plugins.join(plugin.file_name())).unwrap();
    }
    fs::write(sbin.join("mysqld.my"), r#"{"components": "file://component_keyring_file"}"#).unwrap();
    let settings = format!(r#"{{"path": "{}/keyring", "read_only": false}}"#, keys.display());
    fs::write(plugins.join("component_keyring_file.cnf"), settings).unwrap();
    for dir in [&copy, keys] {
        must(Command::new("chmod").args(["-R", "a+rX"]).arg(dir));
        if let Some(user) = crate::support::programs::server_user() {
            must(Command::new("chown").args(["-R", &user.name]).arg(dir));
        }
    }
    copy.join("bin/mysqld")
}

/// The files as the server sends them to its own program.
fn dump_raw(scratch: &Scratch, server: &MySqlServer) -> std::path::PathBuf {
    let to = scratch.join("dumped");
    fs::create_dir(&to).unwrap();
    let mut dump = Command::new(server.make().binlog_reader());
    dump.args(["--no-defaults", "--read-from-remote-server", "--raw", "--to-last-log", "--host=127.0.0.1"]);
    dump.args([format!("--port={}", server.port()), format!("--user={}", REPLICA.user)]);
    dump.arg(format!("--result-file={}/", to.display())).arg(&server.binlogs()[0].name);
    must(dump.env("MYSQL_PWD", REPLICA.password));
    to
}

#[test]
fn encrypted_binlogs_are_archived_as_they_are_sent() {
    for make in [Make::MariaDb118, Make::MySql97] {
        let scratch = Scratch::new();
        let mut server = start_encrypted(&scratch, make);
        if !make.is_mariadb() {
            server.sql("INSTALL PLUGIN clone SONAME 'mysql_clone.so'");
        }
        marker_table(&server);
        let place = Place::new(&scratch, &server);
        place.pitr.ok(["archive", "--exit-when-caught-up"]);
        let mut archiver = place.pitr.archive_with(&["--no-backup"]);
        let load = Load::markers(&server, 4, 1);
        wait_for_log(&server, 200_000);
        server.flush_logs();
        wait_for_log(&server, 100_000);
        load.stop(&server);
        archiver.assert_running();
        condition("the archive to follow", PATIENCE, || {
            (place.pitr.json(&["status"])["source"]["lag_bytes"] == 0).then_some(())
        });
        archiver.kill();
        mark(&server);
        archive(&place);
        // A running archiver that the server's end interrupts in the middle of a file.
        let archiver = place.pitr.archive_with(&["--no-backup"]);
        condition("the stream", PATIENCE, || archiver.said().contains("streaming").then_some(()));
        mark(&server);
        server.restart();
        mark(&server);
        condition("the archive to go on", PATIENCE, || {
            (place.pitr.json(&["status"])["source"]["lag_bytes"] == 0).then_some(())
        });
        archiver.stop();
        server.wait_for_quiet_log();
        archive(&place);
        let disk = server.binlog_bytes(&server.binlogs()[0].name);
        assert!(!disk.windows(9).any(|window| window == b"test.mark" || window == b"marker ()"), "it is not encrypted");
        let status = place.pitr.json(&["status"]);
        assert_eq!((&status["timeline"], &status["gaps"]), (&1.into(), &0.into()), "{make:?}: {status}");
        let export = scratch.join("export");
        place.pitr.ok(["export".as_ref(), export.as_os_str()]);
        let dumped = dump_raw(&scratch, &server);
        assert_eq!(fs::read_dir(&export).unwrap().count(), server.binlogs().len());
        for log in server.binlogs() {
            let ours = fs::read(export.join(&log.name)).unwrap_or_else(|e| panic!("{make:?} {}: {e}", log.name));
            let mut theirs = fs::read(dumped.join(&log.name)).unwrap();
            theirs[21] &= 0xfe;
            assert!(ours == theirs, "{make:?}: {} differs: {} bytes and {}", log.name, ours.len(), theirs.len());
        }
        let restored = place.latest("restored");
        assert_eq!(restored.checksums(), server.checksums());
        assert_eq!(replayed(&restored), server.gtid_position());
    }
}
