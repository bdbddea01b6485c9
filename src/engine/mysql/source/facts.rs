//! What a server says of itself, and where its dump has to begin.

use super::super::connect::Connection;
use super::super::flavor::Flavor;
use super::super::gtid::GtidSet;
use super::super::place::Place;
use super::dump::Start;
use super::logs::Logs;
use crate::error::{Error, Kind, Result};
use crate::model::time::{Clock as _, SystemClock, Timestamp};

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
    /// Whether it is itself a replica, as far as we may know.
    pub is_replica: bool,
    /// Whether its commits may wait for semi-synchronous replicas.
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
        Ok(Self {
            flavor,
            version,
            version_number,
            server,
            log_bin,
            has_gtids,
            executed,
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

    /// Where a dump has to begin, so that the log goes on at `place`. Without `logs` its file is
    /// taken to be there, and the source refuses if it is not.
    ///
    /// # Errors
    /// [`Kind::Absent`] when it no longer has that log, [`Kind::NotRecoverable`] when it never
    /// had, or no longer has, transactions that lie before it, [`Kind::Config`] when it is of
    /// another database.
    pub fn start(&self, place: &Place, logs: Option<&Logs>) -> Result<Start> {
        let same_server = place.server == self.server;
        let by_file = if same_server { Self::start_in_file(place, logs)? } else { None };
        // In the file the transaction before tells, and tells more: it has its GTID in MySQL's
        // `gtid_executed` only once it is committed, which it is not while it waits for us.
        if by_file.is_none() || place.after.is_none() {
            self.check_covers(place)?;
        }
        if let Some(start) = by_file {
            return Ok(start);
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

    /// Where in the file of `place` a dump has to begin; `None` where that is not there, or
    /// cannot be asked for.
    fn start_in_file(place: &Place, logs: Option<&Logs>) -> Result<Option<Start>> {
        let Some(bytes) = logs.map_or(Some(u64::MAX), |logs| logs.bytes(&place.file)) else { return Ok(None) };
        if bytes < place.position {
            return Err(Error::new(
                Kind::NotRecoverable,
                format!("the source's {} has {bytes} bytes, and the archive holds more of it: {place}", place.file),
            ));
        }
        let from = place.after.map_or(place.position, |after| after.position);
        Ok(u32::try_from(from).ok().map(|position| Start::File { name: place.file.clone(), position }))
    }

    /// Refuses a server that never had, or no longer has, a transaction before `place`.
    fn check_covers(&self, place: &Place) -> Result<()> {
        if !self.has_gtids || self.covers(place) {
            return Ok(());
        }
        let same_server = place.server == self.server;
        let lacks = format!(
            "the source lacks transactions that the archive holds: it has {}, the archive {}",
            self.executed, place.gtids
        );
        Err(if !same_server && self.is_replica && self.is_related(place) {
            // It may have them in a moment. One that never will is promoted some day.
            Error::new(Kind::DatabaseUnreachable, lacks)
                .hint("it is a replica: pitr waits until it has caught up, or is one no longer")
        } else if same_server || self.is_related(place) {
            Error::new(Kind::NotRecoverable, lacks)
        } else {
            Error::config(lacks)
                .hint("is this another database? archive it under a cluster name of its own with --cluster")
        })
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

#[cfg(test)]
mod tests {
    use super::super::super::place::After;
    use super::*;

    const SERVER: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    /// Where an archive of this server ends: behind a transaction with the number 7.
    fn place() -> Place {
        Place {
            gtids: GtidSet::parse_mysql(&format!("{SERVER}:1-7")).unwrap(),
            server: SERVER.into(),
            file: "binlog.000002".into(),
            position: 900,
            after: Some(After { position: 700, crc: 1 }),
            holding: 0,
        }
    }

    fn facts(executed: &str) -> Facts {
        Facts {
            flavor: Flavor::MySql,
            version: "9.7.0".into(),
            version_number: (9, 7, 0),
            server: SERVER.into(),
            log_bin: true,
            has_gtids: true,
            executed: GtidSet::parse_mysql(&format!("{SERVER}:{executed}")).unwrap(),
            is_replica: false,
            semi_sync: true,
            clock_ahead_micros: 0,
            asked: Timestamp(0),
        }
    }

    fn logs(file: &str, bytes: u64) -> Logs {
        Logs::of(&[("binlog.000001", 5000), (file, bytes)])
    }

    #[test]
    fn a_commit_that_waits_for_us_is_in_the_file_and_in_no_set() {
        let in_file = Start::File { name: "binlog.000002".into(), position: 700 };
        for logs in [Some(logs("binlog.000002", 900)), None] {
            assert_eq!(facts("1-6").start(&place(), logs.as_ref()).unwrap(), in_file);
        }
        // Nothing in the file will prove that it is the same.
        let unproved = Place { after: None, ..place() };
        let error = facts("1-6").start(&unproved, Some(&logs("binlog.000002", 900))).unwrap_err();
        assert_eq!(error.kind(), Kind::NotRecoverable);
    }

    #[test]
    fn where_a_file_is_gone_the_gtids_count_and_where_it_is_shorter_the_log_is_another() {
        let purged = logs("binlog.000003", 4);
        assert_eq!(facts("1-9").start(&place(), Some(&purged)).unwrap(), Start::Gtids(place().gtids));
        let lost = |executed: &str, logs: &Logs| facts(executed).start(&place(), Some(logs)).unwrap_err().kind();
        assert_eq!(lost("1-6", &purged), Kind::NotRecoverable);
        assert_eq!(lost("1-9", &logs("binlog.000002", 899)), Kind::NotRecoverable);
        let without_gtids = Facts { has_gtids: false, ..facts("1-9") };
        assert_eq!(without_gtids.start(&place(), Some(&purged)).unwrap_err().kind(), Kind::Absent);
    }
}
