//! Promise: what transactions did to tables is in the archive's footers, table by table: rows as
//! the server counted them, whatever their columns are and however the log holds them.

use std::collections::BTreeMap;
use std::sync::Arc;

use pitr::catalog::Holder;
use pitr::catalog::archive::Archive;
use pitr::engine;
use pitr::model::changes::{ChangeKind, Changes};
use pitr::seal::key::Keys;
use pitr::store::local::LocalStore;

use crate::support::mysql::{Make, MySqlServer};
use crate::support::{Pitr, Scratch};

/// How many of each kind, by table.
type Counted = BTreeMap<String, [u64; 6]>;

/// A server, and what it was told to do so far.
struct Told {
    server: MySqlServer,
    /// Statements that each session begins with.
    session: String,
    expected: Counted,
}

impl Told {
    fn new(server: MySqlServer) -> Self {
        Self { server, session: String::new(), expected: Counted::new() }
    }

    fn expect(&mut self, kind: ChangeKind, table: &str, count: u64) {
        self.expected.entry(table.to_owned()).or_default()[kind as usize] += count;
    }

    /// Runs a statement that changes rows: as many as the server says.
    fn rows(&mut self, kind: ChangeKind, table: &str, statement: &str) -> u64 {
        let said = self.server.sql(&format!("{}{statement};\nSELECT ROW_COUNT();", self.session));
        let rows = said.lines().last().unwrap().parse().unwrap();
        assert!(rows > 0, "{statement}");
        self.expect(kind, table, rows);
        rows
    }

    /// Runs a statement that the log holds as text.
    fn text(&mut self, kind: ChangeKind, table: &str, statement: &str) {
        self.server.sql(&format!("{}{statement}", self.session));
        self.expect(kind, table, 1);
    }

    /// What the footers say, after all of the log is archived, and so much more that it is in closed
    /// segments.
    fn assert_archived(&self, scratch: &Scratch) {
        if self.server.make().is_mariadb() {
            self.server.sql("SET GLOBAL log_bin_compress = OFF");
        }
        self.server.sql("CREATE TABLE test.filler (v LONGBLOB)");
        self.server.sql(&"INSERT INTO test.filler SELECT REPEAT(RANDOM_BYTES(1000), 8000);\n".repeat(4));
        let pitr = Pitr::new(scratch).source_url(self.server.url());
        pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
        pitr.ok(["verify", "--read-data"]);
        let changes = archived(&pitr);
        assert!(!changes.more, "{changes:?}");
        let counted: Counted = changes
            .tables
            .iter()
            .filter(|of| &*of.table != "test.filler")
            .map(|of| (of.table.to_string(), ChangeKind::ALL.map(|kind| of.counts.get(kind))))
            .collect();
        assert_eq!(counted, self.expected, "{:?}", self.server.make());
    }
}

/// The footers of all segments together.
fn archived(pitr: &Pitr<'_>) -> Changes {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = LocalStore::open(pitr.cluster_dir().parent().unwrap()).unwrap();
        let archive = Archive::open(Arc::new(store), &"main".parse().unwrap(), &Keys::default()).await.unwrap();
        let catalog = archive.catalog(engine::by_name("mysql").unwrap().as_ref()).await.unwrap();
        let mut changes = Changes::default();
        for (timeline, log) in &catalog.timelines {
            for segment in log.segments.iter().filter(|segment| segment.holder != Holder::Tail) {
                changes.merge(&archive.summary(*timeline, segment).await.unwrap().changes);
            }
        }
        changes
    })
}

const COLUMNS: &[(&str, &str)] = &[
    ("TINYINT", "1"),
    ("SMALLINT", "2"),
    ("MEDIUMINT", "3"),
    ("INT", "4"),
    ("BIGINT", "5"),
    ("FLOAT", "1.5"),
    ("FLOAT(30)", "1.5"),
    ("DOUBLE", "2.5"),
    ("DECIMAL(65,30)", "12345.678"),
    ("DECIMAL(10,0)", "12345"),
    ("DECIMAL(5,5)", "0.12345"),
    ("BIT(1)", "1"),
    ("BIT(13)", "13"),
    ("BIT(64)", "64"),
    ("YEAR", "2026"),
    ("DATE", "'2026-11-20'"),
    ("TIME", "'12:34:56'"),
    ("TIME(3)", "'12:34:56.789'"),
    ("DATETIME", "'2026-11-20 12:34:56'"),
    ("DATETIME(6)", "'2026-11-20 12:34:56.123456'"),
    ("TIMESTAMP NULL", "'2026-11-20 12:34:56'"),
    ("TIMESTAMP(1) NULL", "'2026-11-20 12:34:56.1'"),
    ("CHAR(10)", "'char'"),
    ("CHAR(255) CHARACTER SET utf8mb4", "REPEAT('ä', 200)"),
    ("VARCHAR(20)", "''"),
    ("VARCHAR(255) CHARACTER SET latin1", "REPEAT('x', 255)"),
    ("VARCHAR(1000) CHARACTER SET utf8mb4", "REPEAT('ä', 900)"),
    ("BINARY(16)", "REPEAT('b', 16)"),
    ("VARBINARY(300)", "REPEAT('b', 3)"),
    ("TINYTEXT", "REPEAT('t', 255)"),
    ("TEXT", "REPEAT('t', 300)"),
    ("MEDIUMTEXT", "REPEAT('m', 3000)"),
    ("LONGBLOB", "REPEAT('l', 30000)"),
    ("ENUM('a', 'b')", "'b'"),
    ("SET('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i')", "'a,i'"),
    ("JSON", "'{\"a\": 1, \"tags\": [1, 2, 3], \"b\": \"text text text text\"}'"),
    ("GEOMETRY", "ST_GeomFromText('LINESTRING(0 0, 1 1, 2 2)')"),
    ("POINT", "ST_GeomFromText('POINT(1 1)')"),
];

/// Types that one make has.
fn own_columns(make: Make) -> Vec<(&'static str, &'static str)> {
    let mut columns = match make {
        Make::MySql97 => vec![("VECTOR(3)", "TO_VECTOR('[1,2,3]')")],
        _ => vec![
            ("INET4", "'192.0.2.1'"),
            ("INET6", "'2001:db8::1'"),
            ("UUID", "UUID()"),
            ("VARCHAR(500) COMPRESSED", "REPEAT('c', 400)"),
            ("TEXT COMPRESSED", "REPEAT('c', 400)"),
        ],
    };
    if make == Make::MariaDb118 {
        columns.push(("VECTOR(3)", "VEC_FromText('[1,2,3]')"));
        columns.push(("VECTOR(300)", "NULL"));
    }
    columns
}

/// A table of every type, with rows of which columns are null in turn.
fn every_type(told: &mut Told, table: &str) {
    let mut columns = COLUMNS.to_vec();
    columns.extend(own_columns(told.server.make()));
    let mut definition = "id INT PRIMARY KEY AUTO_INCREMENT, n INT NOT NULL DEFAULT 0".to_owned();
    for (nth, (of, _)) in columns.iter().enumerate() {
        definition += &format!(", c{nth} {of}");
    }
    if told.server.make() == Make::MySql97 {
        let json = columns.iter().position(|(of, _)| *of == "JSON").unwrap();
        definition += &format!(", INDEX mv ((CAST(c{json}->'$.tags' AS UNSIGNED ARRAY))), INDEX f ((n + 1))");
        definition += &format!(", INDEX mc ((CAST(c{json}->'$.tags' AS CHAR(9) ARRAY)))");
    }
    told.text(ChangeKind::Ddl, table, &format!("CREATE TABLE {table} ({definition})"));
    let names: Vec<String> = (0..columns.len()).map(|nth| format!("c{nth}")).collect();
    let row = |null: &dyn Fn(usize) -> bool| {
        let value = |(nth, (_, value)): (usize, &(&str, &str))| if null(nth) { "NULL" } else { *value }.to_owned();
        format!("({})", columns.iter().enumerate().map(value).collect::<Vec<_>>().join(", "))
    };
    let rows = [row(&|_| false), row(&|_| true), row(&|nth| nth % 2 == 0), row(&|nth| nth % 3 == 0)];
    let names = names.join(", ");
    for times in [1, 20] {
        let rows = rows.join(", ");
        let rows = vec![rows.as_str(); times].join(", ");
        told.rows(ChangeKind::Insert, table, &format!("INSERT INTO {table} ({names}) VALUES {rows}"));
    }
    told.rows(ChangeKind::Update, table, &format!("UPDATE {table} SET n = id, c0 = NULL WHERE id > 3"));
    told.rows(ChangeKind::Update, table, &format!("UPDATE {table} SET c22 = 'other', c25 = NULL WHERE id < 20"));
    told.rows(ChangeKind::Delete, table, &format!("DELETE FROM {table} WHERE id % 3 = 0"));
}

#[test]
fn rows_of_every_type_are_counted_as_the_server_counted_them() {
    for make in Make::ALL {
        let scratch = Scratch::new();
        let options: &[&str] = if make.is_mariadb() { &["--log-bin-compress-min-len=10"] } else { &[] };
        let mut told = Told::new(MySqlServer::start(&scratch, "source", make, options));
        every_type(&mut told, "test.full");
        told.session = "SET SESSION binlog_row_image = MINIMAL;".into();
        every_type(&mut told, "test.minimal");
        told.session = "SET SESSION binlog_row_image = NOBLOB;".into();
        every_type(&mut told, "test.noblob");
        if make.is_mariadb() {
            told.session.clear();
            told.server.sql("SET GLOBAL log_bin_compress = ON");
            every_type(&mut told, "test.compressed");
        } else {
            told.session = "SET SESSION binlog_transaction_compression = ON;".into();
            every_type(&mut told, "test.compressed");
            told.session = "SET SESSION binlog_row_value_options = PARTIAL_JSON;".into();
            every_type(&mut told, "test.partial");
            let set = "UPDATE test.partial SET c35 = JSON_SET(c35, '$.a', id)";
            told.rows(ChangeKind::Update, "test.partial", set);
        }
        told.assert_archived(&scratch);
    }
}

/// Events that no memory holds: their rows are counted while they pass. And a transaction that
/// is cut over several segments.
#[test]
fn large_rows_and_large_transactions_are_counted_once() {
    for make in [Make::MariaDb118, Make::MySql97] {
        let scratch = Scratch::new();
        let mut told = Told::new(MySqlServer::start(&scratch, "source", make, &[] as &[&str]));
        let table = "test.wide";
        told.text(
            ChangeKind::Ddl,
            table,
            "CREATE TABLE test.wide (id INT PRIMARY KEY AUTO_INCREMENT, v LONGBLOB, w INT)",
        );
        for compressed in [false, true] {
            if make.is_mariadb() {
                told.server.sql(&format!("SET GLOBAL log_bin_compress = {compressed}"));
            } else {
                told.session = format!("SET SESSION binlog_transaction_compression = {compressed};");
            }
            let one = "INSERT INTO test.wide (v) SELECT REPEAT(RANDOM_BYTES(1000), 8000);\n";
            told.server.sql(&format!("{}BEGIN;\n{}COMMIT;\n", told.session, one.repeat(5)));
            told.expect(ChangeKind::Insert, table, 5);
            told.rows(ChangeKind::Update, table, "UPDATE test.wide SET w = id, v = CONCAT(v, 'more')");
            told.server.sql(&format!("{}BEGIN; DELETE FROM test.wide; ROLLBACK;", told.session));
        }
        told.rows(ChangeKind::Delete, table, "DELETE FROM test.wide");
        told.assert_archived(&scratch);
    }
}

#[test]
fn statements_are_told_of_by_table_or_by_schema() {
    for make in Make::ALL {
        let scratch = Scratch::new();
        let mut told = Told::new(MySqlServer::start(&scratch, "source", make, &[] as &[&str]));
        told.session = "USE test; SET SESSION binlog_format = STATEMENT;".into();
        told.text(ChangeKind::Ddl, "test.orders", "CREATE TABLE orders (id INT PRIMARY KEY AUTO_INCREMENT, v INT)");
        told.text(ChangeKind::Statement, "test.orders", "INSERT INTO orders (v) VALUES (1), (2), (3)");
        told.text(ChangeKind::Statement, "test.orders", "UPDATE `orders` SET v = v + 1");
        told.text(ChangeKind::Statement, "test.orders", "DELETE FROM test.orders WHERE v = 2");
        told.text(ChangeKind::Statement, "test.*", "UPDATE orders a JOIN orders b ON a.id = b.id SET a.v = 9");
        told.text(ChangeKind::Ddl, "test.*", "CREATE INDEX i ON orders (v)");
        told.text(ChangeKind::Ddl, "test.orders", "ALTER TABLE orders ADD c INT");
        told.text(ChangeKind::Ddl, "test.orders", "TRUNCATE orders");
        told.text(ChangeKind::Ddl, "test.old orders", "RENAME TABLE orders TO `old orders`");
        told.expect(ChangeKind::Ddl, "test.orders", 1);
        told.text(ChangeKind::Ddl, "test.old orders", "DROP TABLE `old orders`");
        told.assert_archived(&scratch);
    }
}
