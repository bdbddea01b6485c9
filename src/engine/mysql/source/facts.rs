//! What a server says of itself, and where its dump has to begin.

use super::super::binlog::note::FILE_START;
use super::super::connect::Connection;
use super::super::flavor::Flavor;
use super::super::gtid::GtidSet;
use super::super::place::Place;
use super::dump::Start;
use crate::error::{Error, Kind, Result};
use crate::model::time::{Clock as _, SystemClock, Timestamp};

/// What stands before the log in an encrypted file (MySQL `sql/rpl_log_encryption.h`,
/// `Rpl_encryption_header::HEADER_SIZE`). No position counts it, a file's size does.
const ENCRYPTION_HEAD_BYTES: u64 = 512;

/// The answers of a server.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Its kind.
    pub flavor: Flavor,
    /// Its version, in its own words.
    pub version: String,
    /// Major, minor and patch.
    pub version_number: (u32, u32, u32),
    /// Which server it is: MySQL's `server_uuid`; MariaDB's `server_uid`, or `id-` and its
    /// `server_id` where it is too old to have one.
    pub server: String,
    /// Whether it writes a binlog.
    pub log_bin: bool,
    /// Whether its transactions have GTIDs.
    pub has_gtids: bool,
    /// Every transaction it ever had in its binlog, purged or not.
    pub executed: GtidSet,
    /// Its binlog files, oldest first, with their bytes.
    pub logs: Vec<(String, u64)>,
    /// Whether it is itself a replica, as far as we may know.
    pub is_replica: bool,
    /// Whether it can wait for semi-synchronous replicas.
    pub semi_sync: bool,
    /// By how much its clock is ahead of ours.
    pub clock_ahead_micros: i64,
    /// Its clock before it was asked the first of this.
    pub asked: Timestamp,
}

impl Facts {
    /// Asks it.
    ///
    /// # Errors
    /// As the connection gives them; [`Kind::Config`] naming the privilege that lacks.
    pub async fn ask(connection: &mut Connection) -> Result<Self> {
        let flavor = connection.flavor();
        let (version, version_number) = (connection.version().to_owned(), connection.version_number());
        let before = SystemClock.now();
        let clock = one(connection, "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS UNSIGNED)").await?;
        let halfway = before.saturating_add(SystemClock.now().micros_since(before) / 2);
        let clock_ahead_micros = clock.parse::<i64>().map_or(0, |theirs| theirs - halfway.0);
        let log_bin = one(connection, "SELECT @@GLOBAL.log_bin").await? == "1";
        let (server, executed, has_gtids) = match flavor {
            Flavor::MySql => (
                one(connection, "SELECT @@GLOBAL.server_uuid").await?,
                GtidSet::parse_mysql(&one(connection, "SELECT @@GLOBAL.gtid_executed").await?)?,
                one(connection, "SELECT @@GLOBAL.gtid_mode").await? == "ON",
            ),
            Flavor::MariaDb => {
                let server = match one(connection, "SELECT @@GLOBAL.server_uid").await {
                    Ok(uid) => uid,
                    Err(_) => format!("id-{}", one(connection, "SELECT @@GLOBAL.server_id").await?),
                };
                let state = one(connection, "SELECT @@GLOBAL.gtid_binlog_state").await?;
                (server, GtidSet::parse_mariadb(&state)?, true)
            }
        };
        // Whatever its value: it may be switched on while we are there.
        let knows = "SHOW GLOBAL VARIABLES WHERE Variable_name IN \
                     ('rpl_semi_sync_master_enabled', 'rpl_semi_sync_source_enabled')";
        let semi_sync = !rows(connection, knows).await?.is_empty();
        let status = match flavor {
            Flavor::MySql if version_number >= (8, 0, 22) => "SHOW REPLICA STATUS",
            Flavor::MySql => "SHOW SLAVE STATUS",
            Flavor::MariaDb => "SHOW ALL SLAVES STATUS",
        };
        // Takes a privilege that nothing else needs.
        let is_replica = rows(connection, status).await.is_ok_and(|rows| !rows.is_empty());
        let logs = if log_bin { logs(connection).await? } else { Vec::new() };
        Ok(Self {
            flavor,
            version,
            version_number,
            server,
            log_bin,
            has_gtids,
            executed,
            logs,
            is_replica,
            semi_sync,
            clock_ahead_micros,
            asked: before.saturating_add(clock_ahead_micros),
        })
    }

    /// Refuses a server that cannot be archived.
    ///
    /// # Errors
    /// [`Kind::Config`] with what to change.
    pub fn check(&self) -> Result<()> {
        let oldest = match self.flavor {
            Flavor::MySql => (8, 0, 0),
            Flavor::MariaDb => (10, 6, 0),
        };
        if self.version_number < oldest {
            return Err(Error::config(format!(
                "the source is {} {}, and the oldest that pitr archives is {}.{}",
                self.flavor, self.version, oldest.0, oldest.1
            )));
        }
        if !self.log_bin {
            return Err(Error::config("the source writes no binary log")
                .hint("put log_bin and a server_id that no other server has into its configuration, and restart it"));
        }
        Ok(())
    }

    /// Where the oldest log begins that it still has.
    #[must_use]
    pub fn oldest(&self) -> Option<Place> {
        let (file, _) = self.logs.first()?;
        Some(Place {
            gtids: GtidSet::empty(self.flavor),
            server: self.server.clone(),
            file: file.clone(),
            position: FILE_START,
            after: None,
            holding: 0,
        })
    }

    /// Where its log ends now.
    #[must_use]
    pub fn end(&self) -> Option<(String, u64)> {
        self.logs.last().cloned()
    }

    /// How many bytes of log it has behind `place`; 0 where that cannot be told.
    #[must_use]
    pub fn backlog(&self, place: &Place) -> u64 {
        let Some(at) = self.at(place) else { return 0 };
        let all: u64 = self.logs.iter().skip(at).map(|(_, bytes)| bytes).sum();
        all.saturating_sub(place.position)
    }

    /// Which of its files holds `place`.
    fn at(&self, place: &Place) -> Option<usize> {
        self.logs.iter().position(|(name, _)| *name == place.file).filter(|_| place.server == self.server)
    }

    /// Where a dump has to begin, so that the log goes on at `place`.
    ///
    /// # Errors
    /// [`Kind::Absent`] when it no longer has that log, [`Kind::NotRecoverable`] when it never
    /// had, or no longer has, transactions that lie before it, [`Kind::Config`] when it is of
    /// another database.
    pub fn start(&self, place: &Place) -> Result<Start> {
        let same_server = place.server == self.server;
        if self.has_gtids && !self.covers(place) {
            let lacks = format!(
                "the source lacks transactions that the archive holds: it has {}, the archive {}",
                self.executed, place.gtids
            );
            return Err(if !same_server && self.is_replica && self.is_related(place) {
                // It may have them in a moment. One that never will is promoted some day.
                Error::new(Kind::DatabaseUnreachable, lacks)
                    .hint("it is a replica: pitr waits until it has caught up, or is one no longer")
            } else if same_server || self.is_related(place) {
                Error::new(Kind::NotRecoverable, lacks)
            } else {
                Error::config(lacks)
                    .hint("is this another database? archive it under a cluster name of its own with --cluster")
            });
        }
        if let Some((_, bytes)) = self.at(place).and_then(|at| self.logs.get(at)) {
            if *bytes < place.position {
                return Err(Error::new(
                    Kind::NotRecoverable,
                    format!("the source's {} has {bytes} bytes, and the archive holds more of it: {place}", place.file),
                ));
            }
            let from = place.after.map_or(place.position, |after| after.position);
            if let Ok(position) = u32::try_from(from) {
                return Ok(Start::File { name: place.file.clone(), position });
            }
        }
        if !self.has_gtids {
            return Err(Error::new(
                Kind::Absent,
                format!("the source no longer has {}, where the archive's log ends", place.file),
            )
            .hint("with gtid_mode=ON another server could be asked"));
        }
        if place.holding > 0 {
            let (kind, text) = if same_server {
                (Kind::Absent, "the source no longer has the rest of the transaction that the archive holds in part")
            } else {
                (
                    Kind::NotRecoverable,
                    "another source writes the transaction that the archive holds in part in other bytes",
                )
            };
            return Err(Error::new(kind, format!("{text}: {place}")));
        }
        Ok(Start::Gtids(place.gtids.clone()))
    }

    /// Whether it has, or had, every transaction before `place`. In MariaDB the same number may
    /// be another transaction's, of another server.
    fn covers(&self, place: &Place) -> bool {
        match (&self.executed, &place.gtids) {
            (GtidSet::MariaDb(has), GtidSet::MariaDb(wants)) if place.server != self.server => {
                wants.position().all(|gtid| has.has_from_its_server(&gtid))
            }
            (has, wants) => has.covers(wants),
        }
    }

    /// Whether any of the transactions before `place` come from where its own do.
    fn is_related(&self, place: &Place) -> bool {
        match (&self.executed, &place.gtids) {
            (GtidSet::MySql(has), GtidSet::MySql(wants)) => has.shares_origin(wants),
            (GtidSet::MariaDb(has), GtidSet::MariaDb(wants)) => wants.position().any(|gtid| has.knows_server(&gtid)),
            _ => false,
        }
    }
}

async fn rows(connection: &mut Connection, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
    connection.query_all(sql).await
}

async fn one(connection: &mut Connection, sql: &str) -> Result<String> {
    let row = connection.query_row(sql).await?;
    Ok(row.into_iter().next().flatten().unwrap_or_default())
}

async fn logs(connection: &mut Connection) -> Result<Vec<(String, u64)>> {
    let grant = match connection.flavor() {
        Flavor::MySql => "REPLICATION CLIENT",
        Flavor::MariaDb => "BINLOG MONITOR",
    };
    let rows = rows(connection, "SHOW BINARY LOGS").await.map_err(|error| {
        if super::super::connect::ServerError::find(&error).is_some_and(|said| said.code == 1227) {
            error
                .with_kind(Kind::Config)
                .hint(format!("GRANT {grant} ON *.* to pitr's user; `pitr grants` prints all it needs"))
        } else {
            error
        }
    })?;
    // The third column is MySQL's: whether the file is encrypted.
    let log = |row: Vec<Option<String>>| {
        let mut values = row.into_iter().flatten();
        let (name, bytes) = (values.next()?, values.next()?.parse::<u64>().ok()?);
        let head = if values.next().as_deref() == Some("Yes") { ENCRYPTION_HEAD_BYTES } else { 0 };
        Some((name, bytes.saturating_sub(head)))
    };
    Ok(rows.into_iter().filter_map(log).collect())
}
