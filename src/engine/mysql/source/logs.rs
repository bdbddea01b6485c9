//! Which binlog files a server has.
//!
//! To say so it takes the lock under which the log is written. Where the last semi-synchronous
//! replica has gone and commits wait for another, one of them holds that lock: only an
//! acknowledgement frees it, or the server's patience (`rpl_semi_sync_*_timeout`), which those
//! who must lose nothing set to days. So a dump may have to begin before this is known. Sources:
//! MariaDB `sql/log.cc` (`trx_group_commit_leader`), `sql/sql_repl.cc` (`show_binlogs`); MySQL
//! `sql/binlog.cc` (`ordered_commit`), `sql/rpl_source.cc` (`show_binlogs`).

use std::pin::Pin;

use super::super::binlog::note::FILE_START;
use super::super::connect::{Connection, ServerError};
use super::super::flavor::Flavor;
use super::super::gtid::GtidSet;
use super::super::place::Place;
use super::facts::Facts;
use super::intake::FilePlace;
use crate::error::{Kind, Result};
use crate::model::time::Timestamp;

/// What stands before the log in an encrypted file (MySQL `sql/rpl_log_encryption.h`,
/// `Rpl_encryption_header::HEADER_SIZE`). No position counts it, a file's size does.
const ENCRYPTION_HEAD_BYTES: u64 = 512;

/// `ER_SPECIFIC_ACCESS_DENIED_ERROR`.
const ACCESS_DENIED: u16 = 1227;

/// The files, oldest first, with their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logs(Vec<(String, u64)>);

impl Logs {
    /// Asks for them, for as long as the connection waits.
    ///
    /// # Errors
    /// As the connection gives them; [`Kind::Config`] naming the privilege that lacks.
    pub async fn ask(connection: &mut Connection) -> Result<Self> {
        let grant = match connection.flavor() {
            Flavor::MySql => "REPLICATION CLIENT",
            Flavor::MariaDb => "BINLOG MONITOR",
        };
        let rows = connection.query_all("SHOW BINARY LOGS").await.map_err(|error| match ServerError::find(&error) {
            Some(said) if said.code == ACCESS_DENIED => error
                .with_kind(Kind::Config)
                .hint(format!("GRANT {grant} ON *.* to pitr's user; `pitr grants` prints all it needs")),
            Some(_) => error,
            None => error.hint(
                "do its commits wait for a semi-synchronous replica that is not there? let one come, or switch \
                     rpl_semi_sync_*_enabled off for a moment",
            ),
        })?;
        // The third column is MySQL's: whether the file is encrypted.
        let log = |row: Vec<Option<String>>| {
            let mut values = row.into_iter().flatten();
            let (name, bytes) = (values.next()?, values.next()?.parse::<u64>().ok()?);
            let head = if values.next().as_deref() == Some("Yes") { ENCRYPTION_HEAD_BYTES } else { 0 };
            Some((name, bytes.saturating_sub(head)))
        };
        Ok(Self(rows.into_iter().filter_map(log).collect()))
    }

    /// Files of these names and bytes.
    #[cfg(test)]
    pub fn of(files: &[(&str, u64)]) -> Self {
        Self(files.iter().map(|&(name, bytes)| (name.to_owned(), bytes)).collect())
    }

    /// How many there are, and their bytes.
    #[must_use]
    pub fn size(&self) -> (usize, u64) {
        (self.0.len(), self.0.iter().map(|(_, bytes)| bytes).sum())
    }

    /// How long a file is, if it is there.
    #[must_use]
    pub fn bytes(&self, file: &str) -> Option<u64> {
        self.0.iter().find(|(name, _)| name == file).map(|(_, bytes)| *bytes)
    }

    /// The file behind this one, if there is any.
    #[must_use]
    pub fn after(&self, file: &str) -> Option<&str> {
        let mut from = self.0.iter().skip_while(|(name, _)| name != file).skip(1);
        from.next().map(|(name, _)| name.as_str())
    }

    /// Where the oldest log begins that the server still has.
    #[must_use]
    pub fn oldest(&self, facts: &Facts) -> Option<Place> {
        let (file, _) = self.0.first()?;
        Some(Place {
            gtids: GtidSet::empty(facts.flavor),
            server: facts.server.clone(),
            file: file.clone(),
            position: FILE_START,
            after: None,
            holding: 0,
        })
    }

    /// Where the log ends now.
    #[must_use]
    pub fn end(&self) -> Option<FilePlace> {
        self.0.last().cloned().map(|(file, position)| FilePlace { file, position })
    }

    /// How many bytes of log there are behind `place` of this server; 0 where its file is not
    /// there.
    #[must_use]
    pub fn behind(&self, place: &Place) -> u64 {
        let from = self.0.iter().skip_while(|(name, _)| *name != place.file);
        from.map(|(_, bytes)| bytes).sum::<u64>().saturating_sub(place.position)
    }
}

/// The files of a source, once it names them, with the connection it was asked on.
type Answer = Pin<Box<dyn Future<Output = Result<(Connection, Logs)>> + Send>>;

/// A source that has still to name its files.
pub(super) struct Asked {
    pub(super) answer: Answer,
    /// Which one it is.
    pub(super) server: String,
    /// Its clock before that.
    pub(super) since: Timestamp,
}

impl Asked {
    /// Asks over this connection, and waits without end.
    pub(super) fn new(mut connection: Connection, facts: &Facts) -> Self {
        let answer = async move {
            connection.wait_without_end(true);
            let logs = Logs::ask(&mut connection).await?;
            connection.wait_without_end(false);
            Ok((connection, logs))
        };
        Self { answer: Box::pin(answer), server: facts.server.clone(), since: facts.asked }
    }
}
