//! Promise: a base of statements only, taken over the network while others write, gives every
//! value, definition and account back, and the log goes on where it ends.

use std::path::Path;
use std::time::Instant;

use crate::support::mysql::{Load, Make, MySqlServer, STREAM, mark, marker_ids, marker_table, wait_for_markers};
use crate::support::pitr::Finished;
use crate::support::{PATIENCE, Pitr, Scratch};

const NONE: &[&str] = &[];

/// Databases that hold what a dump may get wrong: types, names, character sets, programs, accounts.
const BOTH: &str = include_str!("mysql_logical/both.sql");
const MARIADB: &str = include_str!("mysql_logical/mariadb.sql");
const MYSQL: &str = include_str!("mysql_logical/mysql.sql");

fn ugly(scratch: &Scratch, make: Make) -> MySqlServer {
    let server = MySqlServer::start(scratch, "source", make, NONE);
    server.sql(BOTH);
    server.sql(if make.is_mariadb() { MARIADB } else { MYSQL });
    if !make.is_mariadb() {
        server.sql("GRANT XA_RECOVER_ADMIN ON *.* TO pitr@'%'");
    }
    marker_table(&server);
    server
}

fn restore(pitr: &Pitr<'_>, make: Make, to: &Path, target: &[&str]) -> Finished {
    let bin = make.bin_dir();
    let mut words = vec!["restore", "--to", to.to_str().unwrap(), "--bin-dir", bin.to_str().unwrap()];
    if rustix::process::geteuid().is_root() {
        words.extend(["--os-user", "postgres"]);
    }
    words.extend(target);
    pitr.run(words)
}

/// Accounts and their rights, as the server keeps them.
fn accounts(server: &MySqlServer) -> String {
    let tables: &[&str] = if server.make().is_mariadb() {
        &["global_priv", "db", "tables_priv", "columns_priv", "procs_priv", "proxies_priv", "roles_mapping", "plugin"]
    } else {
        &["user", "db", "tables_priv", "columns_priv", "procs_priv", "role_edges", "default_roles", "global_grants"]
    };
    let dump = |table: &&str| format!("select '{table}'; select * from mysql.{table} order by 1, 2, 3;");
    let two = |table: &&str| dump(table).replace("1, 2, 3", "1, 2");
    let statements: String =
        tables.iter().map(|table| if *table == "plugin" { two(table) } else { dump(table) }).collect();
    server.sql(&statements)
}

/// What checksums leave out: rows of the past, counters, hidden columns.
fn unchecked(server: &MySqlServer) -> String {
    let counters = "select table_schema, table_name, auto_increment from information_schema.tables
                    where auto_increment is not null and table_schema in ('shop', 'test') order by 1, 2;";
    let own = if server.make().is_mariadb() {
        "select *, row_start, row_end from maria.history for system_time all order by id, row_start;
         select * from maria.own_names for system_time all order by id; select * from maria.counter;
         select id, hidden from maria.ids order by 1"
    } else {
        "set session information_schema_stats_expiry = 0; select id, j, n, hex(x), hidden from my_only.documents;
         select my_row_id, v from my_only.made_key"
    };
    server.sql(&format!("{own}; {counters}"))
}

/// A server on everything that the source has written.
fn latest(scratch: &Scratch, pitr: &Pitr<'_>, make: Make) -> MySqlServer {
    pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
    let to = scratch.join("restored");
    restore(pitr, make, &to, &["--target", "latest"]).success();
    MySqlServer::open(scratch, "restored", make, to, NONE)
}

#[test]
fn everything_comes_back_equal_while_others_write() {
    for make in Make::ALL {
        let scratch = Scratch::new();
        let server = ugly(&scratch, make);
        let pitr = Pitr::new(&scratch).source_url(server.url());
        pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
        let mut archiver = pitr.archive_with(&["--no-backup"]);
        let load = Load::markers(&server, 3, 0);
        let updates = Load::repeating(
            &server,
            2,
            0,
            "update shop.many set v = concat(left(v, 200), connection_id(), uuid()) where id = floor(1 + rand() * 4000);\n\
             insert into shop.many (v) values ('late'); insert into shop.old_rows select max(id) + 1, 'late' from shop.old_rows;\n",
        );
        wait_for_markers(&server, 200);
        pitr.ok(["backup", "--method", "logical"]);
        let count = marker_ids(&server).len() as u64;
        wait_for_markers(&server, count + 200);
        load.stop(&server);
        updates.stop(&server);
        // Stands for a view that does not work, in base and log.
        server.sql("drop view shop.broken; alter table shop.computed add column late int; drop table shop.parts");
        archiver.assert_running();
        archiver.stop();
        let restored = latest(&scratch, &pitr, make);
        // Before anything touches the MEMORY table, which MySQL then empties in its log.
        let variable = if make.is_mariadb() { "gtid_slave_pos" } else { "gtid_executed" };
        assert_eq!(restored.sql(&format!("select @@global.{variable}")).trim(), server.gtid_position());
        assert_eq!(restored.checksums(), server.checksums(), "{make:?}");
        assert_eq!(restored.definitions(), server.definitions(), "{make:?}");
        assert_eq!(accounts(&restored), accounts(&server), "{make:?}");
        assert_eq!(unchecked(&restored), unchecked(&server), "{make:?}");
        assert!(!restored.data().join("pitr-logical").exists());
        mark(&restored);
    }
}

/// MySQL's DDL waits until a base is taken; MariaDB's only until its snapshots are open.
#[test]
fn a_table_that_ddl_changes_meanwhile_is_refused_or_what_it_was() {
    for make in [Make::MariaDb1011, Make::MariaDb118] {
        let scratch = Scratch::new();
        let server = MySqlServer::start(&scratch, "source", make, NONE);
        server.sql(
            "create table test.altered (id int primary key auto_increment, v int);
             create trigger test.before_altered before insert on test.altered for each row set new.v = 1;
             create table test.emptied like test.altered; create table test.anew like test.altered;
             create table test.one like test.altered; insert into test.one (v) values (1);
             create table test.other like test.altered; insert into test.other (v) values (2), (3)",
        );
        let pitr = Pitr::new(&scratch).source_url(server.url());
        pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
        let mut archiver = pitr.archive_with(&["--no-backup"]);
        // Else a backup would stream the log itself. The server may still list the dump before.
        archiver.wait_until_streaming();
        let ddl = Load::repeating(
            &server,
            1,
            50,
            "alter table test.altered add column late int; insert into test.altered (v) values (1);\n\
             alter table test.altered drop column late;\n\
             truncate table test.emptied; insert into test.emptied (v) values (rand() * 1000);\n\
             rename table test.one to test.aside, test.other to test.one, test.aside to test.other;\n\
             drop table test.anew; create table test.anew like test.altered; insert into test.anew (v) values (rand() * 1000);\n",
        );
        // Whether a base is taken or refused. Any is whole, or says why it is not.
        let is_taken = || {
            let backup = pitr.run(["backup", "--method", "logical"]);
            if backup.code != Some(0) {
                backup.exit(5).says(&["while the backup was taken", "take it again"]);
                return false;
            }
            true
        };
        let taken = (0..6).filter(|_| is_taken()).count();
        ddl.stop(&server);
        if taken == 0 {
            pitr.ok(["backup", "--method", "logical"]);
        }
        // With larger ones to be read before them, tables do not stay what they were.
        for nth in 0..4 {
            server.sql(&format!("create table test.large_{nth} as select seq, md5(seq) from test.seq_1_to_100000"));
        }
        for one_kind in [
            "rename table test.one to test.aside, test.other to test.one, test.aside to test.other;\n",
            // The load before may have ended between the two.
            "alter table test.altered add column if not exists late int; do sleep(0.02);
             alter table test.altered drop column if exists late;\n",
        ] {
            // Without a pause: on a busy machine few changes come between two looks of a backup.
            let ddl = Load::repeating(&server, 1, 0, one_kind);
            let since = Instant::now();
            let mut refused = std::iter::repeat_with(|| !is_taken()).take_while(|_| since.elapsed() < 2 * PATIENCE);
            assert!(refused.any(|refused| refused), "{make:?}: no base met a table that had changed: {one_kind}");
            ddl.stop(&server);
        }
        archiver.assert_running();
        archiver.stop();
        let restored = latest(&scratch, &pitr, make);
        assert_eq!(restored.checksums(), server.checksums(), "{make:?}");
        assert_eq!(restored.definitions(), server.definitions(), "{make:?}");
    }
}

#[test]
fn what_the_account_lacks_is_said_before_anything_is_dumped() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        let scratch = Scratch::new();
        let server = MySqlServer::start(&scratch, "source", make, NONE);
        let pitr = Pitr::new(&scratch).source_url(server.url_as(STREAM));
        pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
        let refused = pitr.run(["backup", "--method", "logical"]).exit(5);
        let own = if make.is_mariadb() { "PROCESS" } else { "BACKUP_ADMIN, XA_RECOVER_ADMIN" };
        let grant = format!("GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, RELOAD, {own} ON *.* TO 'pitr_stream'@'%';");
        refused.says(&[&grant]);
        // And that is all it takes.
        server.sql(&grant);
        let mut archiver = pitr.archive_with(&["--no-backup"]);
        pitr.ok(["backup", "--method", "logical"]);
        archiver.assert_running();
    }
}

#[test]
fn auto_takes_statements_where_the_files_cannot_be_had_and_says_why() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        let scratch = Scratch::new();
        let server = MySqlServer::start(&scratch, "source", make, NONE);
        server.sql("create table test.t (id int primary key); insert into test.t values (1)");
        if !make.is_mariadb() {
            server.sql("grant xa_recover_admin on *.* to pitr@'%'");
        }
        // No mariadb-backup is there, and no clone plugin in the server.
        let pitr =
            Pitr::new(&scratch).source_url(server.url()).env("PATH", scratch.join("nothing").display().to_string());
        pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
        let why = if make.is_mariadb() { "mariadb-backup is not installed here" } else { "no clone plugin" };
        pitr.ok(["backup"]).says(&["the base backup is a logical one", why]);
        server.sql("insert into test.t values (2)");
        pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
        let to = scratch.join("restored");
        restore(&Pitr::new(&scratch), make, &to, &["--target", "latest"]).success();
        let restored = MySqlServer::open(&scratch, "restored", make, to, NONE);
        assert_eq!(restored.checksums(), server.checksums());
    }
}

#[test]
fn what_no_moment_or_no_statement_can_hold_is_refused_by_name() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        let scratch = Scratch::new();
        let server = MySqlServer::start(&scratch, "source", make, NONE);
        if !make.is_mariadb() {
            server.sql("grant xa_recover_admin on *.* to pitr@'%'");
        }
        let pitr = Pitr::new(&scratch).source_url(server.url());
        pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
        server.sql("create table test.t (id int primary key) engine=innodb");
        server.sql("xa start 'a'; insert into test.t values (1); xa end 'a'; xa prepare 'a'");
        pitr.run(["backup", "--method", "logical"]).exit(5).says(&["1 prepared XA transaction", "XA RECOVER"]);
        server.sql("xa commit 'a'");
        let unfit = if make.is_mariadb() {
            "create table test.by_transaction (id int primary key, a bigint unsigned generated always as row start,
             b bigint unsigned generated always as row end, period for system_time (a, b)) engine=innodb with system versioning"
        } else {
            "create tablespace shared add datafile 'shared.ibd'; create table test.elsewhere (id int) tablespace shared"
        };
        server.sql(unfit);
        let name = if make.is_mariadb() { "`test`.`by_transaction`" } else { "`test`.`elsewhere`" };
        pitr.run(["backup", "--method", "logical"]).exit(5).says(&[name, "--method"]);
    }
}
