//! Real replicas of what `engine::mysql::serve` hands out: they end as their source did, or
//! exactly where the log was cut.
//!
//! A source's data directory is copied while it is stopped; it writes; a server on the copy
//! replicates what the source wrote meanwhile from its plain binlog files, with parallel
//! appliers, and is compared with it by the servers' own rulers.

use std::path::PathBuf;
use std::sync::Arc;

use pitr::engine::mysql::serve::{Flavor, Server, Settings};
use pitr::model::time::SystemClock;
use tokio::runtime::Runtime;

use crate::support::mysql::{Make, MySqlServer, marker_ids, marker_table};
use crate::support::programs::{as_server_user, must};
use crate::support::{PATIENCE, Scratch, condition};

mod files;

use files::Files;

const PASSWORD: &str = "'secret\"";

/// How a replica says what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Gtid,
    /// File and position. MariaDB then keeps the log's order over all domains, which otherwise
    /// are applied apart from each other.
    Place,
}

/// A source that has been copied, and the copy.
struct Pair {
    scratch: Scratch,
    make: Make,
    source: MySqlServer,
    base: PathBuf,
    /// The source's GTID position, and how many binlog files it had, when it was copied.
    position: String,
    files: usize,
}

impl Pair {
    fn new(make: Make) -> Self {
        let scratch = Scratch::new();
        let mut source = MySqlServer::start(&scratch, "source", make, &["--log-bin=binlog"]);
        marker_table(&source);
        source.sql("create table test.t (id int primary key, v longblob)");
        let position = source.gtid_position();
        source.stop();
        let base = scratch.server_dir("base");
        must(as_server_user(
            std::process::Command::new("cp")
                .arg("-a")
                .arg("--")
                .arg(format!("{}/.", source.data().display()))
                .arg(&base),
        ));
        for entry in std::fs::read_dir(&base).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.starts_with("binlog") || name == "auto.cnf" {
                std::fs::remove_file(path).unwrap();
            }
        }
        source.run();
        let files = source.binlogs().len() - 1;
        Self { scratch, make, source, base, position, files }
    }

    /// The source's log since it was copied.
    fn log(&self) -> Vec<PathBuf> {
        self.source.binlogs().iter().skip(self.files).map(|log| self.source.data().join(&log.name)).collect()
    }

    fn replica(&self, name: &str, workers: u32, by: By) -> Replica {
        let data = self.scratch.server_dir(name);
        must(as_server_user(
            std::process::Command::new("cp").arg("-a").arg("--").arg(format!("{}/.", self.base.display())).arg(&data),
        ));
        let options: Vec<String> = if self.make.is_mariadb() {
            [
                "--skip-log-bin",
                "--skip-slave-start",
                "--slave-parallel-mode=optimistic",
                &format!("--slave-parallel-threads={workers}"),
            ]
            .map(str::to_owned)
            .into()
        } else {
            [
                "--skip-log-bin",
                "--skip-replica-start",
                "--replica-preserve-commit-order=ON",
                &format!("--replica-parallel-workers={workers}"),
            ]
            .map(str::to_owned)
            .into()
        };
        let server = MySqlServer::open(&self.scratch, &format!("{name}.server"), self.make, data, &options);
        if self.make.is_mariadb() {
            server.sql(&format!("set global gtid_slave_pos = '{}'", self.position));
        } else {
            assert_eq!(server.gtid_position(), self.position, "nothing takes a GTID on a copy");
        }
        let place = (self.log()[0].file_name().unwrap().to_str().unwrap().to_owned(), 4);
        Replica { server, by, place, runtime: Runtime::new().unwrap(), serving: None }
    }
}

struct Replica {
    server: MySqlServer,
    by: By,
    /// Where it begins.
    place: (String, u64),
    runtime: Runtime,
    serving: Option<Server>,
}

impl Replica {
    /// Replicates the first `transactions` of the log.
    fn follow(&mut self, log: Vec<PathBuf>, transactions: usize) {
        self.stop();
        let serving = self.serve(log, transactions);
        self.connect(serving.address().port(), PASSWORD);
        self.serving = Some(serving);
    }

    fn serve(&self, log: Vec<PathBuf>, transactions: usize) -> Server {
        let make = self.server.make();
        let settings = Settings {
            flavor: flavor_of(make),
            version: self.server.sql("select version()"),
            server_id: 4_000_000_000,
            server_uuid: "5a5a5a5a-0000-4000-8000-000000000001".to_owned(),
            user: "pitr".to_owned(),
            password: PASSWORD.to_owned().into(),
        };
        let feed = Arc::new(Files { paths: log, transactions });
        let start = Server::start("127.0.0.1:0".parse().unwrap(), settings, feed, Arc::new(SystemClock));
        self.runtime.block_on(start).unwrap()
    }

    fn connect(&self, port: u16, password: &str) {
        let password = password.replace('\'', "''");
        let (file, position) = &self.place;
        let mariadb = self.server.make().is_mariadb();
        let whence = match (self.by, mariadb) {
            (By::Gtid, true) => "master_use_gtid=slave_pos".to_owned(),
            (By::Gtid, false) => "source_auto_position=1".to_owned(),
            (By::Place, true) => format!("master_use_gtid=no, master_log_file='{file}', master_log_pos={position}"),
            (By::Place, false) => {
                format!("source_auto_position=0, source_log_file='{file}', source_log_pos={position}")
            }
        };
        self.server.sql(&if mariadb {
            format!(
                "change master to master_host='127.0.0.1', master_port={port}, master_user='pitr', \
                 master_password='{password}', {whence}, master_ssl=0, \
                 master_connect_retry=1, master_heartbeat_period=0.2; start slave"
            )
        } else {
            format!(
                "change replication source to source_host='127.0.0.1', source_port={port}, source_user='pitr', \
                 source_password='{password}', {whence}, source_ssl=0, \
                 source_connect_retry=1, source_heartbeat_period=0.2; start replica"
            )
        });
    }

    fn stop(&mut self) {
        self.server.sql(if self.server.make().is_mariadb() { "stop slave" } else { "stop replica" });
        self.serving = None;
        let show = if self.server.make().is_mariadb() { "show slave status" } else { "show replica status" };
        // Relay_Source_Log_File and Exec_Source_Log_Pos.
        if let Some(row) = self.server.rows(show).pop()
            && !row[9].is_empty()
        {
            self.place = (row[9].clone(), row[21].parse().unwrap());
        }
    }

    fn position(&self) -> String {
        self.server.sql(self.position_query())
    }

    fn position_query(&self) -> &'static str {
        if self.server.make().is_mariadb() {
            "select @@gtid_slave_pos"
        } else {
            "select replace(@@gtid_executed, '\\n', '')"
        }
    }

    /// Waits until the replica is at `position`.
    #[track_caller]
    fn reaches(&self, position: &str) {
        condition(format!("{position}, not {} {}", self.position(), self.complaints()), PATIENCE, || {
            let complaints = self.complaints();
            assert!(complaints.is_empty(), "{complaints}");
            (sorted(&self.position()) == sorted(position)).then_some(())
        });
    }

    /// What the replica says is wrong.
    fn complaints(&self) -> String {
        if self.server.make().is_mariadb() {
            let row = self.server.rows("show slave status").pop().unwrap_or_default();
            // Last_IO_Error and Last_SQL_Error.
            [35, 37].map(|column| row.get(column).cloned().unwrap_or_default()).join(" ").trim().to_owned()
        } else {
            self.server.sql(
                "select last_error_message from performance_schema.replication_connection_status where last_error_number <> 0 \
                 union all select last_error_message from performance_schema.replication_applier_status_by_worker where last_error_number <> 0",
            )
        }
    }

    fn heartbeats(&self) -> u64 {
        self.server.sql(if self.server.make().is_mariadb() {
            "select variable_value from information_schema.global_status where variable_name = 'slave_received_heartbeats'"
        } else {
            "select count_received_heartbeats from performance_schema.replication_connection_status"
        }).parse().unwrap()
    }
}

fn flavor_of(make: Make) -> Flavor {
    if make.is_mariadb() { Flavor::MariaDb } else { Flavor::MySql }
}

fn sorted(position: &str) -> Vec<&str> {
    let mut gtids: Vec<&str> = position.split(',').collect();
    gtids.sort_unstable();
    gtids
}

/// Everything that makes events of another kind or size.
fn varied_load(source: &MySqlServer, domains: u32) {
    let mariadb = source.make().is_mariadb();
    source.sql("create table test.u (id int primary key auto_increment, v varchar(50), key (v)) engine=innodb");
    for batch in 0..4 {
        let mut text = String::from("use test;\n");
        for row in 0..100 {
            if mariadb {
                text += &format!("set gtid_domain_id = {};\n", row % domains);
            }
            text += "insert into marker () values ();\n";
            text += &format!(
                "begin; insert into u (v) values ('{batch}'), ('{row}'); update u set v = concat(id, '+') where id % 7 = {}; commit;\n",
                row % 7
            );
        }
        source.sql(&text);
        source.sql("set session binlog_format = statement; insert into test.u (v) values ('as a statement')");
        match batch {
            0 => drop(source.sql("flush binary logs")),
            // The rest of the log is without checksums, and then with them again.
            1 => drop(source.sql("set global binlog_checksum = none")),
            2 => drop(source.sql("set global binlog_checksum = crc32")),
            _ => {}
        }
        // 40 MiB in a single event: three packets.
        if batch == 1 {
            source.sql("insert into test.t values (1, repeat('x', 40 << 20))");
        }
        source.sql("alter table test.u add column c int default 3; alter table test.u drop column c");
    }
    // An event that with the byte before it fills two packets to the last byte, and one that is
    // one byte longer.
    for (id, size) in [(2, 2 * 0xff_ffff_usize), (3, 2 * 0xff_ffff + 1)] {
        let probe = event_overhead(source);
        source.sql(&format!("insert into test.t values ({id}, repeat('y', {}))", size - 1 - probe));
    }
    source.sql("xa start 'x'; insert into test.u (v) values ('xa'); xa end 'x'; xa prepare 'x'; xa commit 'x'");
    source.sql("create table test.m (id int) engine=myisam; insert into test.m values (1), (2), (3)");
    source.sql("create table test.made as select id from test.u; drop table test.made");
}

/// How many bytes a row event of `test.t` has besides the value.
fn event_overhead(source: &MySqlServer) -> usize {
    source.sql("insert into test.t values (9, repeat('z', 1000000)); delete from test.t where id = 9");
    let log = source.log_end();
    let bytes = source.binlog_bytes(&log.name);
    let mut at = 4;
    let mut size = 0;
    while at < bytes.len() {
        let length = u32::from_le_bytes(bytes[at + 9..at + 13].try_into().unwrap()) as usize;
        // WRITE_ROWS_EVENT of either server.
        if matches!(bytes[at + 4], 23 | 30) && length > 1_000_000 {
            size = length;
        }
        at += length;
    }
    size - 1_000_000
}

fn ends_as_its_source(make: Make, by: By) {
    let pair = Pair::new(make);
    // Domains that depend on each other, in what is applied in the log's order.
    varied_load(&pair.source, if by == By::Place { 2 } else { 1 });
    let position = pair.source.gtid_position();
    pair.source.sql("flush binary logs");
    let mut replica = pair.replica("replica", 8, by);
    replica.follow(pair.log(), usize::MAX);
    replica.reaches(&position);
    assert_eq!(replica.server.checksums(), pair.source.checksums());
    assert_eq!(replica.server.definitions(), pair.source.definitions());
    // It hears that we are there, and finds nothing wrong with where we say it is.
    let heard = replica.heartbeats();
    condition("heartbeats", PATIENCE, || (replica.heartbeats() > heard + 2).then_some(()));
    assert_eq!(replica.complaints(), "");
}

fn ends_exactly_at_the_cut(make: Make, by: By) {
    const TRANSACTIONS: usize = 300;
    let pair = Pair::new(make);
    let mut text = String::from("use test;\n");
    for number in 0..TRANSACTIONS {
        if make.is_mariadb() {
            text += &format!("set gtid_domain_id = {};\n", number % 2);
        }
        if number == TRANSACTIONS / 2 {
            text += "flush binary logs;\n";
        }
        text += "insert into marker () values ();\n";
    }
    pair.source.sql(&text);
    let transactions: Vec<_> =
        pair.source.binlogs().iter().skip(pair.files).flat_map(|log| pair.source.transactions_in(&log.name)).collect();
    assert_eq!(transactions.len(), TRANSACTIONS);
    let mut replica = pair.replica("replica", 8, by);
    for cut in [0, 1, 2, 100, 149, 150, 151, 299, 300] {
        eprintln!("cut at {cut}");
        replica.follow(pair.log(), cut);
        let ids: std::collections::BTreeSet<u64> = (1..=cut as u64).collect();
        condition(format!("{cut} rows; {}", replica.complaints()), PATIENCE, || {
            (marker_ids(&replica.server).len() >= cut).then_some(())
        });
        // Nothing more comes, however often it hears of us.
        let heard = replica.heartbeats();
        condition("heartbeats", PATIENCE, || (replica.heartbeats() >= heard + 3).then_some(()));
        assert_eq!(marker_ids(&replica.server), ids);
        assert_eq!(replica.complaints(), "");
    }
    replica.reaches(&pair.source.gtid_position());
}

fn is_told_what_is_wrong(make: Make, by: By) {
    let pair = Pair::new(make);
    let mut replica = pair.replica("replica", 2, by);
    let told = |replica: &Replica, part: &str| {
        condition(format!("{part:?} in {:?}", replica.complaints()), PATIENCE, || {
            replica.complaints().contains(part).then_some(())
        });
    };
    replica.follow(Vec::new(), 0);
    let port = replica.serving.as_ref().unwrap().address().port();
    replica.server.sql(if make.is_mariadb() { "stop slave" } else { "stop replica" });
    replica.connect(port, "wrong");
    told(&replica, "Access denied for user 'pitr'");
    // A log that cannot be read ends replication with the reason.
    replica.follow(vec![pair.scratch.path().join("not_there.000001")], 5);
    told(&replica, "not_there.000001");
}

macro_rules! on_each_make {
    ($($name:ident: $promise:ident($make:ident, $by:ident);)*) => {$(
        #[test]
        fn $name() {
            $promise(Make::$make, By::$by);
        }
    )*};
}

on_each_make! {
    mariadb_10_11_ends_as_its_source_by_gtid: ends_as_its_source(MariaDb1011, Gtid);
    mariadb_10_11_ends_as_its_source_by_place: ends_as_its_source(MariaDb1011, Place);
    mariadb_11_8_ends_as_its_source_by_gtid: ends_as_its_source(MariaDb118, Gtid);
    mariadb_11_8_ends_as_its_source_by_place: ends_as_its_source(MariaDb118, Place);
    mysql_9_7_ends_as_its_source_by_gtid: ends_as_its_source(MySql97, Gtid);
    mysql_9_7_ends_as_its_source_by_place: ends_as_its_source(MySql97, Place);
    mariadb_10_11_ends_exactly_at_the_cut_by_gtid: ends_exactly_at_the_cut(MariaDb1011, Gtid);
    mariadb_10_11_ends_exactly_at_the_cut_by_place: ends_exactly_at_the_cut(MariaDb1011, Place);
    mariadb_11_8_ends_exactly_at_the_cut_by_gtid: ends_exactly_at_the_cut(MariaDb118, Gtid);
    mariadb_11_8_ends_exactly_at_the_cut_by_place: ends_exactly_at_the_cut(MariaDb118, Place);
    mysql_9_7_ends_exactly_at_the_cut_by_gtid: ends_exactly_at_the_cut(MySql97, Gtid);
    mysql_9_7_ends_exactly_at_the_cut_by_place: ends_exactly_at_the_cut(MySql97, Place);
    mariadb_10_11_is_told_what_is_wrong: is_told_what_is_wrong(MariaDb1011, Gtid);
    mariadb_11_8_is_told_what_is_wrong: is_told_what_is_wrong(MariaDb118, Gtid);
    mysql_9_7_is_told_what_is_wrong: is_told_what_is_wrong(MySql97, Gtid);
}
