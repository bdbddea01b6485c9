//! What a server says of its log and of its rows: rulers that share nothing with pitr.

use std::collections::BTreeMap;
use std::process::Command;

use crate::support::programs::must;
use crate::support::{PATIENCE, condition};

use super::{Account, MySqlServer, REPLICA};

/// A binlog file as `SHOW BINARY LOGS` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binlog {
    pub name: String,
    pub size: u64,
}

/// A transaction as the server's own binlog reader shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// `uuid:n`, `uuid:tag:n` or `domain-server-n`.
    pub gtid: String,
    /// The file it lies in, and where its GTID event begins.
    pub file: String,
    pub start: u64,
    /// Where its last event ends. Others may lie between it and the next transaction: MariaDB
    /// notes a checkpoint whenever it is done with one.
    pub end: u64,
    /// Commit time in microseconds since 1970 for MySQL; whole seconds, of the GTID event,
    /// for MariaDB.
    pub time_micros: u64,
}

impl MySqlServer {
    /// MySQL's `gtid_executed`, MariaDB's `gtid_binlog_pos`.
    pub fn gtid_position(&self) -> String {
        let variable = if self.make().is_mariadb() { "gtid_binlog_pos" } else { "gtid_executed" };
        self.sql(&format!("select replace(@@global.{variable}, '\\n', '')"))
    }

    /// The binlog files, oldest first.
    pub fn binlogs(&self) -> Vec<Binlog> {
        let rows = self.rows("show binary logs");
        rows.iter().map(|row| Binlog { name: row[0].clone(), size: row[1].parse().expect("a size") }).collect()
    }

    /// A binlog file as it lies on disk.
    pub fn binlog_bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.data().join(name)).unwrap_or_else(|e| panic!("server's {name}: {e}"))
    }

    /// The file the server writes now, and where it ends.
    pub fn log_end(&self) -> Binlog {
        self.binlogs().pop().expect("a binlog file")
    }

    /// Waits until the log stands still, after all who write have ended. In the background,
    /// MariaDB says in each new file when no older one is needed for crash recovery any more
    /// (a `Binlog_checkpoint` event that names the file itself), some time after everything
    /// else.
    pub fn wait_for_quiet_log(&self) {
        if !self.make().is_mariadb() {
            return;
        }
        condition("the checkpoint of the newest binlog file", PATIENCE, || {
            let file = self.log_end().name;
            let events = self.rows(&format!("show binlog events in '{file}'"));
            // Log_name, Pos, Event_type, Server_id, End_log_pos, Info.
            let names_itself = |row: &Vec<String>| row[2] == "Binlog_checkpoint" && row[5] == file;
            events.iter().any(names_itself).then_some(())
        });
    }

    /// All of the log's bytes, over all files.
    pub fn log_bytes(&self) -> u64 {
        self.binlogs().iter().map(|log| log.size).sum()
    }

    /// Begins a new binlog file and gives the name of the one that is now complete.
    pub fn flush_logs(&self) -> String {
        let closed = self.log_end().name;
        self.sql("flush binary logs");
        closed
    }

    /// Removes the binlog files before the newest one. The server keeps, and does not say so,
    /// those that it may need for crash recovery, or that a dump reads which it has not noticed
    /// to be gone.
    pub fn purge_old_logs(&self) {
        let newest = self.log_end().name;
        condition("the log to be purged", PATIENCE, || {
            self.sql(&format!("PURGE BINARY LOGS TO '{newest}'"));
            (self.binlogs().len() == 1).then_some(())
        });
    }

    /// The server's clock in microseconds since 1970.
    pub fn now_micros(&self) -> u64 {
        self.sql("select cast(unix_timestamp(now(6)) * 1000000 as unsigned)").parse().expect("a time")
    }

    /// The value of a status variable, e.g. `Rpl_semi_sync_master_clients`.
    pub fn status(&self, name: &str) -> String {
        let row = self.sql(&format!("show global status like '{name}'"));
        row.split_once('\t').unwrap_or_else(|| panic!("no status variable {name}")).1.to_owned()
    }

    /// How many semi-synchronous replicas the server counts.
    pub fn semi_sync_clients(&self) -> u32 {
        let role = self.make().source_role();
        self.status(&format!("Rpl_semi_sync_{role}_clients")).parse().expect("a count")
    }

    /// Whether commits wait for an acknowledgement just now.
    pub fn semi_sync_is_on(&self) -> bool {
        let role = self.make().source_role();
        self.status(&format!("Rpl_semi_sync_{role}_status")) == "ON"
    }

    /// A checksum of every ordinary table's rows in every database but the server's own, by
    /// `database.table`, with the number of rows. The order of rows does not matter; values
    /// of MySQL and of MariaDB differ.
    pub fn checksums(&self) -> BTreeMap<String, String> {
        self.checksums_where("t.table_schema not in ('mysql', 'information_schema', 'performance_schema', 'sys')")
    }

    /// The same of one database.
    pub fn checksums_in(&self, database: &str) -> BTreeMap<String, String> {
        self.checksums_where(&format!("t.table_schema = '{database}'"))
    }

    fn checksums_where(&self, condition: &str) -> BTreeMap<String, String> {
        let tables = self.rows(&format!(
            "select t.table_schema, t.table_name from information_schema.tables t
             where t.table_type = 'BASE TABLE' and {condition} order by 1, 2"
        ));
        let mut statements = String::new();
        for table in &tables {
            let name = format!("`{}`.`{}`", table[0].replace('`', "``"), table[1].replace('`', "``"));
            statements += &format!("select count(*) from {name}; checksum table {name} extended;\n");
        }
        let lines = self.rows(&statements);
        let pairs = lines.chunks_exact(2);
        pairs.map(|pair| (pair[1][0].clone(), format!("{}:{}", pair[0][0], pair[1][1]))).collect()
    }

    /// Every definition (tables, views, routines, triggers, events) of all databases but the
    /// server's own, as the dump program writes them, without counters.
    pub fn definitions(&self) -> String {
        let databases = self.rows(
            "select schema_name from information_schema.schemata
             where schema_name not in ('mysql', 'information_schema', 'performance_schema', 'sys') order by 1",
        );
        let mut dump = Command::new(self.make().dump());
        dump.args(["--no-defaults", "--user=root", &format!("--socket={}", self.socket().display())]);
        dump.args(["--no-data", "--routines", "--triggers", "--events", "--compact", "--skip-opt", "--databases"]);
        if !self.make().is_mariadb() {
            dump.args(["--set-gtid-purged=OFF", "--column-statistics=0"]);
        }
        let text = must(dump.args(databases.iter().map(|row| &row[0])));
        let kept = text.lines().map(|line| match line.split_once(" AUTO_INCREMENT=") {
            Some((before, after)) => format!("{before}{}", after.trim_start_matches(|c: char| c.is_ascii_digit())),
            None => line.to_owned(),
        });
        kept.collect::<Vec<_>>().join("\n")
    }

    /// Every transaction in the log, in its order, as the server's own reader shows them.
    pub fn transactions(&self) -> Vec<Transaction> {
        self.binlogs().iter().flat_map(|log| self.transactions_in(&log.name)).collect()
    }

    /// Those of one file.
    pub fn transactions_in(&self, name: &str) -> Vec<Transaction> {
        let text = self.binlog_text(name, &[]);
        let (mut found, mut start, mut time_micros) = (Vec::new(), 0, 0);
        for line in text.lines() {
            let gtid = if let Some(position) = line.strip_prefix("# at ") {
                start = position.parse().expect("a position");
                None
            } else if let Some(rest) = line.strip_prefix("# immediate_commit_timestamp=") {
                time_micros = rest.split(' ').next().and_then(|word| word.parse().ok()).expect("a commit time");
                None
            } else if let Some(rest) = line.strip_prefix("SET @@SESSION.GTID_NEXT= '") {
                rest.split('\'').next().filter(|gtid| *gtid != "AUTOMATIC")
            } else if let Some((_, rest)) = line.split_once(" \tGTID ").filter(|_| line.starts_with('#')) {
                time_micros = header_seconds(line) * 1_000_000;
                rest.split(' ').next()
            } else {
                None
            };
            if let Some(gtid) = gtid {
                found.push(Transaction {
                    gtid: gtid.to_owned(),
                    file: name.to_owned(),
                    start,
                    end: start,
                    time_micros,
                });
            }
            let of_transaction = [" \tXid = ", " \tQuery\t"].iter().any(|event| line.contains(event));
            if let Some(last) = found.last_mut().filter(|_| line.starts_with('#') && of_transaction) {
                let (_, rest) = line.split_once(" end_log_pos ").expect("an event's end");
                let digits = rest.split(' ').next().expect("a word");
                last.end = digits.parse().expect("a position");
            }
        }
        found
    }

    /// A binlog file as the server's own reader shows it, times in UTC.
    pub fn binlog_text(&self, name: &str, options: &[&str]) -> String {
        let mut reader = Command::new(self.make().binlog_reader());
        reader.env("TZ", "UTC").args(["--no-defaults", "--base64-output=decode-rows"]).args(options);
        if self.make().is_mariadb() {
            reader.arg("--skip-gtid-strict-mode");
        }
        must(reader.arg(self.data().join(name)))
    }

    /// Makes this server a replica of `source`, from its own GTID position on.
    pub fn follow(&self, source: &Self) {
        let Account { user, password } = REPLICA;
        let port = source.port();
        if self.make().is_mariadb() {
            self.sql(&format!(
                "set global gtid_slave_pos = '{}';
                 change master to master_host = '127.0.0.1', master_port = {port}, master_user = '{user}',
                   master_password = '{password}', master_ssl = 0, master_use_gtid = slave_pos;
                 start slave",
                self.gtid_position()
            ));
        } else {
            self.sql(&format!(
                "change replication source to source_host = '127.0.0.1', source_port = {port}, source_user = '{user}',
                   source_password = '{password}', get_source_public_key = 1, source_auto_position = 1;
                 start replica"
            ));
        }
    }

    /// Waits until this replica has applied all that `source` has written.
    pub fn wait_for(&self, source: &Self) {
        let position = source.gtid_position();
        let ask = if self.make().is_mariadb() {
            format!("select master_gtid_wait('{position}', 1)")
        } else {
            format!("select wait_for_executed_gtid_set('{position}', 1)")
        };
        condition(format!("the replica to reach {position}"), PATIENCE, || (self.sql(&ask) == "0").then_some(()));
    }

    /// Ends replication, for good.
    pub fn promote(&self) {
        self.sql(if self.make().is_mariadb() {
            "stop slave; reset slave all"
        } else {
            "stop replica; reset replica all"
        });
    }
}

/// The seconds since 1970 in `#261121 20:06:36 server id ...`, or `#261121  9:06:36 ...`.
fn header_seconds(line: &str) -> u64 {
    let mut words = line.trim_start_matches('#').split_whitespace();
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("no time in {line:?}"));
    let date = words.next().expect("a date");
    let time: Vec<u64> = words.next().expect("a time").split(':').map(number).collect();
    let two = |at: usize| number(&date[at..at + 2]);
    // Days since 1970 in the calendar that begins in March.
    let (year, month, day) = (2000 + two(0), two(2), two(4));
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    days * 86_400 + time[0] * 3600 + time[1] * 60 + time[2]
}
