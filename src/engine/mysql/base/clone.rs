//! A base backup of MySQL by `CLONE LOCAL DATA DIRECTORY`.
//!
//! The server copies its own files, while it is written to, into a directory beside its data;
//! from there they go into the base. Nothing of what it keeps elsewhere is among them: no
//! binlogs, and no `auto.cnf` with its UUID.
//!
//! ```text
//! gtid_executed      CLONE      gtid_executed        start <= clone <= end
//!    = start                       = end
//! ```
//!
//! Where exactly between the two the clone ends is written in its redo log, and only a server
//! that was started on it can tell: its `gtid_executed` is exact then. For at its end CLONE
//! lets transactions commit in the order of the binlog only, and waits for those that overtook
//! (`init_redo_copy` in `storage/innobase/clone/clone0copy.cc`). So the clone ends between two
//! transactions of the binlog, and the set of its GTIDs, which is in it, ends there, too. A
//! restore begins its replay at `start`, passes over what the started clone has, and cannot
//! stop before `end`.
//!
//! Source: MySQL manual, "The Clone Plugin"; `log_status` in "Performance Schema Miscellaneous
//! Tables".

use super::Origin;
use crate::engine::mysql::connect::{Connection, ServerError};
use crate::engine::mysql::flavor::Flavor;
use crate::engine::mysql::gtid::GtidSet;
use crate::engine::mysql::place::Place;
use crate::engine::mysql::source::facts::Facts;
use crate::engine::{BaseEnd, BaseEvent, BaseStream};
use crate::error::{Error, Kind, Result};
use crate::model::time::{Clock as _, SystemClock};

use directory::CloneDir;

mod directory;
mod files;
mod preflight;
mod statement;
#[cfg(test)]
mod tests;

/// The first version that has CLONE.
const OLDEST: (u32, u32, u32) = (8, 0, 17);

/// Clones the server, and begins to read the clone.
///
/// # Errors
/// [`Kind::Config`] where the server cannot be cloned or lacks a privilege, where we cannot read
/// what it writes, and where there is no room; [`Kind::Busy`] when it is being cloned already.
pub(super) async fn begin(origin: Origin) -> Result<Box<dyn BaseStream>> {
    check_server(&origin.facts)?;
    let mut connection = connect(&origin).await?;
    let account = preflight::account(&mut connection).await?;
    let server = preflight::ask(&mut connection, &account).await?;
    let (data_dir, uuid, bytes) = (origin.data_dir.clone(), origin.facts.server.clone(), server.bytes);
    let dir = blocking(move || {
        let owner = preflight::check_data_dir(&data_dir, &uuid)?;
        CloneDir::make(&directory::parents(&data_dir), owner, bytes)
    })
    .await?;

    let start = place(&mut connection, &origin.facts, &account).await?;
    let dir = statement::run(connection, &origin.info, dir, &account).await?;
    let mut connection = connect(&origin).await?;
    let end = place(&mut connection, &origin.facts, &account).await?;
    connection.quit().await;

    let time = SystemClock.now().saturating_add(origin.facts.clock_ahead_micros);
    let end = BaseEnd::Between { start: start.to_position(), end: end.to_position() };
    let end = BaseEvent::End { end, time: Some(time) };
    blocking(move || files::read(dir, server.options, end)).await
}

fn check_server(facts: &Facts) -> Result<()> {
    if facts.version_number < OLDEST {
        return Err(Error::config(format!("MySQL {} has no CLONE: the first that has is 8.0.17", facts.version))
            .hint("upgrade the server, or back it up with --method xtrabackup"));
    }
    if !facts.has_gtids {
        return Err(Error::config(
            "the server's gtid_mode is not ON, and only GTIDs tell which transactions are in a clone",
        )
        .hint("switch it on (MySQL manual, \"Enabling GTID Transactions Online\"), or use --method xtrabackup"));
    }
    Ok(())
}

/// Connects to the server that is backed up, and not to another of the hosts that are named.
async fn connect(origin: &Origin) -> Result<Connection> {
    let mut connection = Connection::connect(&origin.info).await?;
    let uuid =
        connection.query_row("SELECT @@GLOBAL.server_uuid").await?.into_iter().next().flatten().unwrap_or_default();
    if uuid == origin.facts.server {
        return Ok(connection);
    }
    Err(Error::new(
        Kind::DatabaseUnreachable,
        format!("{} is server {uuid}, and {} is backed up", connection.place(), origin.facts.server),
    )
    .hint("has it failed over? name the server beside which pitr stands, and no other"))
}

/// Where the server's log ends: file, position and GTIDs of one moment.
async fn place(connection: &mut Connection, facts: &Facts, account: &str) -> Result<Place> {
    let sql = "SELECT LOCAL->>'$.binary_log_file', LOCAL->>'$.binary_log_position', LOCAL->>'$.gtid_executed' \
               FROM performance_schema.log_status";
    let row = connection.query_row(sql).await.map_err(|error| match code(&error) {
        Some(1142 | 1143) => lacks(error, "SELECT ON performance_schema.log_status", account),
        _ => lacks(error, "BACKUP_ADMIN ON *.*", account),
    })?;
    let mut values = row.into_iter().flatten();
    let (Some(file), Some(position), Some(gtids)) = (values.next(), values.next(), values.next()) else {
        return Err(Error::config("the server does not say where its binlog ends").hint("does it write one (log_bin)?"));
    };
    let position = position.parse().map_err(|_| {
        Error::failure(format!("the server says that its binlog ends at {position:?}, which is no number"))
    })?;
    let gtids = GtidSet::parse(Flavor::MySql, &gtids)?;
    Ok(Place { gtids, server: facts.server.clone(), file, position, after: None, holding: 0 })
}

/// The number of the server's error.
pub(super) fn code(error: &Error) -> Option<u16> {
    ServerError::find(error).map(|said| said.code)
}

/// With the statement that gives what `account` lacks, where that is why the server refused.
fn lacks(error: Error, privilege: &str, account: &str) -> Error {
    match code(&error) {
        Some(1044 | 1142 | 1143 | 1227) => {
            error.with_kind(Kind::Config).hint(format!("as an administrator: GRANT {privilege} TO {account};"))
        }
        _ => error,
    }
}

/// Runs what asks the file system, which may take its time.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::failure("the thread that prepares the base backup died").because(e))?
}
