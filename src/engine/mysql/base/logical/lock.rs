//! The moment at which everything is read: how it is fixed, and why it is one moment.
//!
//! ```text
//!               DDL waits                       commits wait
//! MySQL    LOCK INSTANCE FOR BACKUP      FLUSH TABLES WITH READ LOCK
//! MariaDB  BACKUP STAGE BLOCK_DDL        BACKUP STAGE BLOCK_COMMIT
//!               |                               |
//!               definitions are read            snapshots are opened, the position is asked,
//!                                               what no snapshot holds is read
//! ```
//!
//! A binlog's position that is the same before and after the snapshots proves nothing: a
//! transaction is in the binlog, and in `gtid_executed`, before the engine shows it (group
//! commit), and a snapshot between the two lacks it. Both locks wait until every commit that has
//! begun has ended in the engine as well, and let none begin. So what the snapshots see, and what
//! the position says, are the same. It is asked before and after them all the same: a lock that
//! got lost with its connection would show. MariaDB tells each snapshot's own position
//! (`binlog_snapshot_position`), which is compared, too.
//!
//! What is prepared (`XA PREPARE`) is in the binlog, and is not in the snapshots; with any of
//! those there is no such moment.

use std::collections::HashMap;

use super::literal::{identifier, quoted};
use crate::engine::mysql::conninfo::ConnInfo;
use crate::engine::mysql::flavor::Flavor;
use crate::engine::mysql::gtid::GtidSet;
use crate::engine::mysql::place::Place;
use crate::engine::mysql::source::facts::Facts;
use crate::engine::mysql::sql::Session;
use crate::error::{Error, Kind, Result};

use super::super::clone::code;

/// How long a lock may wait, and let others wait behind it, in seconds.
const WAIT_SECONDS: u32 = 10;

/// How often it is tried.
const ATTEMPTS: u32 = 12;

/// `ER_LOCK_WAIT_TIMEOUT`
const TIMED_OUT: u16 = 1205;

/// `ER_LOCK_DEADLOCK`
const DEADLOCK: u16 = 1213;

/// Connects, to the server of `facts` and no other, with what a dump needs: bytes as they are,
/// times in UTC, and no end of patience with us.
pub(super) async fn connect(info: &ConnInfo, facts: &Facts) -> Result<Session> {
    let mut session = Session::connect(info).await?;
    let identity = match facts.flavor {
        Flavor::MySql => "SELECT @@GLOBAL.server_uuid",
        Flavor::MariaDb if facts.server.starts_with("id-") => "SELECT CONCAT('id-', @@GLOBAL.server_id)",
        Flavor::MariaDb => "SELECT @@GLOBAL.server_uid",
    };
    let server: Option<String> = session.query_one(identity).await?;
    if server.as_deref() != Some(&facts.server) {
        let text = format!("another server answers than {}, which is backed up", facts.server);
        return Err(Error::new(Kind::DatabaseUnreachable, text)
            .hint("has it failed over? name the server that is to be backed up, and no other"));
    }
    let mut settings = vec![
        "NAMES binary",
        "SESSION sql_mode=''",
        "SESSION time_zone='+00:00'",
        "SESSION net_write_timeout=31536000",
        "SESSION wait_timeout=31536000",
        "SESSION sql_quote_show_create=1",
        "SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    ];
    match facts.flavor {
        Flavor::MySql => {
            settings.push("SESSION max_execution_time=0");
            if facts.version_number >= (8, 0, 30) {
                settings.push("SESSION show_gipk_in_create_table_and_information_schema=1");
            }
        }
        Flavor::MariaDb => settings.extend([
            "SESSION max_statement_time=0",
            "SESSION idle_transaction_timeout=0",
            // A warning that matters must not be the one too many. (MySQL wants a privilege for it.)
            "SESSION max_error_count=65535",
        ]),
    }
    for setting in settings {
        session.execute(&format!("SET {setting}")).await?;
    }
    Ok(session)
}

/// Lets DDL wait.
///
/// # Errors
/// [`Kind::Busy`] when others that hold it back do not end.
pub(super) async fn block_ddl(session: &mut Session, flavor: Flavor) -> Result<()> {
    match flavor {
        Flavor::MySql => patiently(session, &["LOCK INSTANCE FOR BACKUP"], "").await,
        Flavor::MariaDb => {
            patiently(session, &["BACKUP STAGE START", "BACKUP STAGE BLOCK_DDL"], "BACKUP STAGE END").await
        }
    }
}

/// Lets commits wait.
///
/// # Errors
/// [`Kind::Busy`] when others that hold it back do not end.
pub(super) async fn block_commits(session: &mut Session, flavor: Flavor) -> Result<()> {
    match flavor {
        Flavor::MySql => patiently(session, &["FLUSH TABLES WITH READ LOCK"], "UNLOCK TABLES").await,
        Flavor::MariaDb => patiently(session, &["BACKUP STAGE BLOCK_COMMIT"], "").await,
    }
}

/// Lets everybody go on. MySQL's DDL still waits for the session's end.
pub(super) async fn release(session: &mut Session, flavor: Flavor) -> Result<()> {
    session.execute(if flavor == Flavor::MySql { "UNLOCK TABLES" } else { "BACKUP STAGE END" }).await
}

/// Runs statements that wait for others; where that takes too long, lets the others through and
/// tries again.
async fn patiently(session: &mut Session, statements: &[&str], undo: &str) -> Result<()> {
    session.execute(&format!("SET SESSION lock_wait_timeout={WAIT_SECONDS}")).await?;
    for attempt in 1.. {
        let mut failure = None;
        for statement in statements {
            if let Err(error) = session.execute(statement).await {
                failure = Some(error);
                break;
            }
        }
        let Some(error) = failure else { break };
        if code(&error) != Some(TIMED_OUT) {
            return Err(error);
        }
        if attempt == ATTEMPTS {
            return Err(error.with_kind(Kind::Busy).context("the server gave no lock for the backup").hint(format!(
                "statements that run for longer than {WAIT_SECONDS} s hold it back: SHOW PROCESSLIST shows them"
            )));
        }
        if !undo.is_empty() {
            session.execute(undo).await?;
        }
    }
    Ok(())
}

/// Opens a snapshot in each session while commits wait, and tells where that is.
///
/// # Errors
/// [`Kind::Busy`] while a prepared transaction is open; [`Kind::Failure`] when the sessions
/// do not see the same.
pub(super) async fn open(locked: &mut Session, workers: &mut [Session], facts: &Facts) -> Result<Place> {
    let before = place(locked, facts).await?;
    let prepared: Vec<mysql_async::Row> = locked.query_all("XA RECOVER").await?;
    if !prepared.is_empty() {
        return Err(Error::new(
            Kind::Busy,
            format!("{} prepared XA transactions are open: the log has them, and the tables do not", prepared.len()),
        )
        .hint("XA RECOVER lists them; commit them or roll them back, then take the backup again"));
    }
    for worker in workers {
        worker.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY").await?;
        if facts.flavor == Flavor::MariaDb {
            let status: Vec<(String, String)> = worker.query_all("SHOW STATUS LIKE 'binlog_snapshot_%'").await?;
            let value = |name: &str| {
                let found = status.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.as_str()).unwrap_or_default()
            };
            let (file, position) = (value("Binlog_snapshot_file"), value("Binlog_snapshot_position"));
            if (file, position) != (before.file.as_str(), before.position.to_string().as_str()) {
                return Err(Error::failure(format!("a snapshot is at {file}:{position} and not at {before}")));
            }
        }
    }
    let after = place(locked, facts).await?;
    if after == before {
        return Ok(before);
    }
    Err(Error::failure(format!("the server committed while it was locked: from {before} to {after}"))
        .hint("was the connection that held the lock killed? take the backup again"))
}

/// Where the binlog ends.
async fn place(session: &mut Session, facts: &Facts) -> Result<Place> {
    let show = match facts.flavor {
        Flavor::MySql if facts.version_number >= (8, 2, 0) => "SHOW BINARY LOG STATUS",
        _ => "SHOW MASTER STATUS",
    };
    let row: Option<mysql_async::Row> = session.query_one(show).await?;
    let file: String = super::definitions::value(row.as_ref(), 0, show)?;
    let position: u64 = super::definitions::value(row.as_ref(), 1, show)?;
    let gtids = match facts.flavor {
        Flavor::MySql => super::definitions::value::<String>(row.as_ref(), 4, show)?,
        Flavor::MariaDb => session.query_one("SELECT @@GLOBAL.gtid_binlog_pos").await?.unwrap_or_default(),
    };
    let gtids = GtidSet::parse(facts.flavor, gtids.trim())?;
    Ok(Place { gtids, server: facts.server.clone(), file, position, after: None, holding: 0 })
}

/// Which tables bear which names: the numbers that InnoDB knows them by, by their names in its
/// own spelling. A table that was renamed, rebuilt or emptied by DDL has another, or another name.
/// Only MariaDB has to be asked: MySQL's DDL waits for our end.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    of: HashMap<String, Vec<u64>>,
}

impl Numbers {
    /// All of them.
    pub(super) async fn read(session: &mut Session) -> Result<Self> {
        let list =
            "SELECT NAME, TABLE_ID FROM information_schema.INNODB_SYS_TABLES WHERE NAME LIKE '%/%' ORDER BY 1, 2";
        let mut of: HashMap<String, Vec<u64>> = HashMap::new();
        for (name, number) in session.query_all::<(String, u64)>(list).await? {
            // Partitions are tables of their own.
            let name = name.split_once('#').map_or(name.as_str(), |(table, _)| table);
            of.entry(name.to_owned()).or_default().push(number);
        }
        Ok(Self { of })
    }

    /// Whether a table that `session` holds open is the one that bore its name then.
    pub(super) async fn still(&self, session: &mut Session, schema: &str, table: &str) -> Result<bool> {
        let spelling = |name: &str| format!("CAST(CONVERT(_utf8mb4{} USING filename) AS BINARY)", quoted(name));
        let spelling = format!("SELECT CONCAT({}, '/', {})", spelling(schema), spelling(table));
        let name: String = session.query_one(&spelling).await?.unwrap_or_default();
        // A name has no `#` in that spelling.
        let list = format!(
            "SELECT TABLE_ID FROM information_schema.INNODB_SYS_TABLES WHERE SUBSTRING_INDEX(NAME, '#', 1) = {} \
             ORDER BY NAME, TABLE_ID",
            quoted(&name)
        );
        let now: Vec<u64> = session.query_all(&list).await?;
        Ok(self.of.get(&name) == Some(&now))
    }
}

/// What it means that DDL holds a table which we need, and waits for us.
pub(super) fn in_ddl() -> Error {
    Error::new(Kind::Busy, "DDL was changing tables while the backup was taken")
        .hint("take it again, and let no DDL run on tables meanwhile")
}

/// The same, where the server let us not wait for it.
pub(super) fn held(error: Error) -> Error {
    match code(&error) {
        Some(TIMED_OUT | DEADLOCK) => in_ddl().because(error),
        _ => error,
    }
}

/// What a table that has changed since the snapshots means.
pub(super) fn changed(schema: &str, table: &str) -> Error {
    let name = format!("{}.{}", identifier(schema), identifier(table));
    Error::new(Kind::Busy, format!("{name} was altered, renamed, emptied or dropped while the backup was taken"))
        .hint("take it again, and let no DDL run on tables meanwhile")
}
