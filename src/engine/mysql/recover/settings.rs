//! How the private server that replays is set up: options for its command line, statements for
//! its start and its end. Pure: what it is told in, text out.
//!
//! Nothing it writes has to survive a crash, for a replay that broke off begins anew; nobody
//! but us reaches it; and it writes nothing of its own, since a GTID taken before the log's
//! transactions are in would have them skipped without a word.
//!
//! Measured with 100,000 transactions of `sysbench oltp_write_only` (214 MB MariaDB 10.11,
//! MySQL 9.7 alike) on two processors that others used as well, against the log as text piped
//! into the client, into a server that spared the same fsyncs:
//!
//! | | pipe | one applier | in parallel |
//! |---|---|---|---|
//! | MariaDB 10.11 | 55 s | 7 to 9 s | 10 to 13 s (2 to 16 threads, optimistic or conservative) |
//! | MySQL 9.7 | 133 s | 24 s | 16 to 18 s (32 workers, any order); 20 to 25 s (2 to 32, in order) |
//!
//! Later, with nobody else on the same machine, the whole replay of `pitr restore` (server started,
//! base prepared, server shut down) against the pipe into a server as it is installed, and into one
//! that spares fsyncs: MariaDB 9.9 s of 43.6 and 27.1 s (102,000 transactions), MySQL 27.2 s of 124 s
//! without fsyncs (122,000). So the pipe depends on the machine more than the replay does, and what
//! counts is the second of these measurements.
//!
//! Since then MariaDB's one applier gets small transactions folded into larger ones
//! ([`fold`](crate::engine::mysql::binlog::fold)) and writes no place of its receiver down: 375,000
//! transactions (804 MB) in 22 to 27 s where it took 31 to 36, both in turn, and the pipe 168 s.
//!
//! MariaDB's parallel appliers hand every event from thread to thread, which on two processors
//! costs more than it brings. MySQL's coordinator turns in a loop while no worker is free, so
//! that many workers are cheaper than few.

use std::net::SocketAddr;
use std::path::Path;

use crate::engine::mysql::flavor::Flavor;

const MIB: u64 = 1 << 20;

/// From how many processors on MariaDB applies in parallel.
const PARALLEL_FROM: usize = 4;

/// How many workers MySQL gets.
const MYSQL_WORKERS: usize = 32;

/// What the settings depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Which server it is.
    pub flavor: Flavor,
    /// Its version: major, minor, patch.
    pub version: (u32, u32, u32),
    /// The machine's memory, in bytes.
    pub memory_bytes: u64,
    /// Bytes of the base's files.
    pub data_bytes: u64,
    /// How many processors there are.
    pub processors: usize,
    /// Whether the log's transactions have GTIDs (always so with MariaDB).
    pub gtids: bool,
    /// A `server_id` that is not in the log.
    pub server_id: u32,
}

/// Options for the command line, behind `--no-defaults` and what says where its data is.
/// `relay` is a directory for what it keeps of the log before it is applied.
#[must_use]
pub fn options(machine: &Machine, relay: &Path) -> Vec<String> {
    let relay = relay.display();
    let mut options: Vec<String> = [
        // Nobody reaches it, it reaches us: a replica connects from within.
        "--skip-networking",
        "--skip-name-resolve",
        // It writes nothing of its own, and what it applies goes into no log.
        "--event-scheduler=OFF",
        "--read-only=ON",
        "--skip-log-bin",
        // A crash means to begin anew.
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-doublewrite=OFF",
        "--sync-relay-log=0",
        "--sync-relay-log-info=0",
        // The log is there once more, with us.
        "--relay-log-recovery=OFF",
        "--max-relay-log-size=256M",
        "--relay-log-space-limit=2G",
        // Neither reads nor leaves a list of pages of this hour.
        "--innodb-buffer-pool-load-at-startup=OFF",
        "--innodb-buffer-pool-dump-at-shutdown=OFF",
    ]
    .map(String::from)
    .into();
    options.push(format!("--server-id={}", machine.server_id));
    options.push(format!("--innodb-buffer-pool-size={}M", buffer_pool_mib(machine)));
    options.push(format!("--relay-log={relay}/relay"));
    options.push(format!("--relay-log-index={relay}/relay.index"));
    match machine.flavor {
        Flavor::MariaDb => {
            options.push("--skip-slave-start".to_owned());
            options.push(format!("--relay-log-info-file={relay}/relay.info"));
            options.push(format!("--master-info-file={relay}/master.info"));
            options.push("--sync-master-info=0".to_owned());
            options.push("--slave-max-allowed-packet=1G".to_owned());
            // Pages are written in large portions instead of at every turn of a small log.
            options.push("--innodb-log-file-size=512M".to_owned());
            // The text of statements beside their rows is for people; it is a quarter of the events.
            options.push("--replicate-annotate-row-events=OFF".to_owned());
            // The receiver has looked at every checksum a moment ago.
            options.push("--slave-sql-verify-checksum=OFF".to_owned());
            // A place in a file of its own after every event is for a replica that goes on after a crash.
            options.push("--rpl-semi-sync-slave-delay-master=ON".to_owned());
            let threads = if folds(machine) { 0 } else { machine.processors.min(32) };
            options.push(format!("--slave-parallel-threads={threads}"));
            options.push("--slave-parallel-mode=optimistic".to_owned());
        }
        Flavor::MySql => {
            // Names since 8.0.26.
            let replica = if machine.version >= (8, 0, 26) { "replica" } else { "slave" };
            options.push(format!("--skip-{replica}-start"));
            options.push("--mysqlx=OFF".to_owned());
            // A fifth of the time, to watch a server that nobody watches.
            options.push("--performance-schema=OFF".to_owned());
            options.push(format!("--{replica}-max-allowed-packet=1G"));
            options.push(format!("--{replica}-sql-verify-checksum=OFF"));
            // Since then it is the only sensible default, and later the only type.
            if machine.version < (8, 0, 27) {
                options.push(format!("--{replica}-parallel-type=LOGICAL_CLOCK"));
            }
            options.push(format!("--{replica}-parallel-workers={MYSQL_WORKERS}"));
            // Nobody looks before all is in, so that nobody sees the order.
            options.push(format!("--{replica}-preserve-commit-order=OFF"));
            let mode = if machine.gtids { "ON" } else { "OFF" };
            options.push(format!("--gtid-mode={mode}"));
            options.push(format!("--enforce-gtid-consistency={mode}"));
        }
    }
    options
}

/// Whether transactions are applied several as one: by MariaDB where it has one applier. (MySQL
/// keeps every GTID, and not the last one alone.)
#[must_use]
pub fn folds(machine: &Machine) -> bool {
    machine.flavor == Flavor::MariaDb && machine.processors < PARALLEL_FROM
}

/// Room for the whole database and what the log may add to it, but at most half of the
/// machine's memory: the files are in the system's cache as well.
fn buffer_pool_mib(machine: &Machine) -> u64 {
    let wanted = machine.data_bytes / MIB / 4 * 5 + 256;
    wanted.min(machine.memory_bytes / 2 / MIB).max(128)
}

/// The account by which we steer the server, as the text of its `--init-file`: the restored
/// accounts are the source's, whose passwords we do not know, and a server that looks at none
/// (`--skip-grant-tables`) refuses the log's own statements about accounts. [`leave`] drops it.
#[must_use]
pub fn account(user: &str, password: &str) -> String {
    let (user, password) = (quoted(user), quoted(password));
    format!(
        "DROP USER IF EXISTS {user}@'localhost';\n\
         CREATE USER {user}@'localhost' IDENTIFIED BY {password};\n\
         GRANT ALL PRIVILEGES ON *.* TO {user}@'localhost' WITH GRANT OPTION;\n"
    )
}

/// Where the replay begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whence {
    /// Behind the GTIDs that the server has (MySQL).
    Executed,
    /// At a place in the log's files, with transactions in the log's order. MariaDB applies the
    /// domains of a GTID position apart from each other, which a source whose domains depend on
    /// each other does not survive; by place it keeps the order over all domains.
    Place {
        /// The file.
        file: String,
        /// A place in it, in bytes.
        position: u64,
    },
}

/// Statements before the replay for a server that starts over if it stops before it is done.
#[must_use]
pub fn hurry(machine: &Machine) -> Vec<String> {
    let can = machine.flavor == Flavor::MySql && machine.version >= (8, 0, 21);
    can.then(|| "ALTER INSTANCE DISABLE INNODB REDO_LOG".to_owned()).into_iter().collect()
}

/// Statements that undo [`hurry`] and take away our account `user`.
#[must_use]
pub fn leave(machine: &Machine, user: &str) -> Vec<String> {
    let mut statements = Vec::new();
    if machine.flavor == Flavor::MySql && machine.version >= (8, 0, 21) {
        statements.push("ALTER INSTANCE ENABLE INNODB REDO_LOG".to_owned());
    }
    statements.push(format!("DROP USER {}@'localhost'", quoted(user)));
    statements
}

/// Statements that begin the replay from our source at `source`.
#[must_use]
pub fn begin(
    flavor: Flavor,
    version: (u32, u32, u32),
    source: SocketAddr,
    user: &str,
    password: &str,
    whence: &Whence,
) -> Vec<String> {
    let (host, port) = (source.ip(), source.port());
    let (user, password) = (quoted(user), quoted(password));
    match flavor {
        Flavor::MariaDb => {
            let whence = match whence {
                Whence::Executed => "MASTER_USE_GTID=slave_pos".to_owned(),
                Whence::Place { file, position } => {
                    format!("MASTER_USE_GTID=no, MASTER_LOG_FILE={}, MASTER_LOG_POS={position}", quoted(file))
                }
            };
            vec![
                format!(
                    "CHANGE MASTER TO MASTER_HOST='{host}', MASTER_PORT={port}, MASTER_USER={user}, \
                     MASTER_PASSWORD={password}, MASTER_SSL=0, MASTER_CONNECT_RETRY=1, MASTER_HEARTBEAT_PERIOD=1, \
                     {whence}"
                ),
                "START SLAVE".to_owned(),
            ]
        }
        Flavor::MySql => {
            let new = version >= (8, 0, 23);
            let role = if new { "SOURCE" } else { "MASTER" };
            let whence = match whence {
                Whence::Executed => format!("{role}_AUTO_POSITION=1"),
                Whence::Place { file, position } => {
                    format!("{role}_AUTO_POSITION=0, {role}_LOG_FILE={}, {role}_LOG_POS={position}", quoted(file))
                }
            };
            let change = if new { "CHANGE REPLICATION SOURCE" } else { "CHANGE MASTER" };
            let change = format!(
                "{change} TO {role}_HOST='{host}', {role}_PORT={port}, {role}_USER={user}, {role}_PASSWORD={password}, \
                 {role}_SSL=0, {role}_CONNECT_RETRY=1, {role}_HEARTBEAT_PERIOD=1, {whence}"
            );
            vec![change, if version >= (8, 0, 22) { "START REPLICA" } else { "START SLAVE" }.to_owned()]
        }
    }
}

/// Statements that end the replay and leave no trace of it but the data. What the server has
/// executed is data: `gtid_executed` and `gtid_slave_pos` stay.
#[must_use]
pub fn end(flavor: Flavor, version: (u32, u32, u32)) -> Vec<String> {
    let old = flavor == Flavor::MariaDb || version < (8, 0, 22);
    let role = if old { "SLAVE" } else { "REPLICA" };
    vec![format!("STOP {role}"), format!("RESET {role} ALL")]
}

/// A value in single quotes.
pub(in crate::engine::mysql) fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(flavor: Flavor, version: (u32, u32, u32)) -> Machine {
        let (memory_bytes, data_bytes) = (16 << 30, 1 << 30);
        Machine { flavor, version, memory_bytes, data_bytes, processors: 2, gtids: true, server_id: 4_000_000_000 }
    }

    #[test]
    fn names_are_those_of_the_version() {
        let source = "127.0.0.1:3333".parse().unwrap();
        let text = |version| {
            let machine = machine(Flavor::MySql, version);
            [
                options(&machine, Path::new("/r")),
                begin(machine.flavor, version, source, "u", "p", &Whence::Executed),
                end(machine.flavor, version),
                hurry(&machine),
                leave(&machine, "x"),
            ]
            .concat()
            .join("\n")
        };
        let old = text((8, 0, 20));
        assert!(old.contains("--skip-slave-start") && old.contains("CHANGE MASTER TO MASTER_HOST"), "{old}");
        assert!(!old.to_lowercase().contains("replica") && !old.contains("REDO_LOG"), "{old}");
        let new = text((9, 7, 4));
        assert!(new.contains("--skip-replica-start") && new.contains("CHANGE REPLICATION SOURCE TO SOURCE_HOST"));
        assert!(!new.to_lowercase().contains("slave") && !new.contains("MASTER"), "{new}");
    }

    #[test]
    fn the_redo_log_that_was_off_is_on_at_the_end() {
        let machine = machine(Flavor::MySql, (8, 4, 0));
        assert_eq!(hurry(&machine), ["ALTER INSTANCE DISABLE INNODB REDO_LOG"]);
        assert!(leave(&machine, "x").contains(&"ALTER INSTANCE ENABLE INNODB REDO_LOG".to_owned()));
    }

    #[test]
    fn the_buffer_pool_leaves_room() {
        let mut machine = machine(Flavor::MariaDb, (10, 11, 0));
        assert_eq!(buffer_pool_mib(&machine), 1536);
        machine.data_bytes = 1 << 40;
        assert_eq!(buffer_pool_mib(&machine), 8192);
        machine.memory_bytes = 1;
        assert_eq!(buffer_pool_mib(&machine), 128);
    }

    #[test]
    fn a_password_is_safe_in_a_statement() {
        assert_eq!(quoted(r"it's \ "), r"'it''s \\ '");
    }

    #[test]
    fn mariadb_applies_in_parallel_where_there_are_processors() {
        let mut machine = machine(Flavor::MariaDb, (10, 11, 0));
        assert!(options(&machine, Path::new("/r")).contains(&"--slave-parallel-threads=0".to_owned()));
        machine.processors = 8;
        assert!(options(&machine, Path::new("/r")).contains(&"--slave-parallel-threads=8".to_owned()));
    }
}
