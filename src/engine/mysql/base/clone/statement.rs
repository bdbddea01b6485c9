//! The CLONE statement: it may run for hours, and must not go on when nobody waits for it.

use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::directory::CloneDir;
use super::{code, lacks, preflight};
use crate::engine::mysql::connect::packet::Unframer;
use crate::engine::mysql::connect::{Connection, ServerError};
use crate::engine::mysql::conninfo::ConnInfo;
use crate::error::{Error, Kind, Result};

const COM_QUERY: u8 = 0x03;

/// Longest answer: an error's message.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// How often a server is told to stop, until it has.
const KILLS: (u32, Duration) = (120, Duration::from_millis(500));

/// Lets the server clone itself into `dir`.
///
/// Dropped before its end, or when the connection is lost, the statement is killed, and the
/// directory is removed when it has ended.
///
/// # Errors
/// [`Kind::Busy`] when the server is being cloned already, [`Kind::Config`] for what it lacks;
/// [`Kind::DatabaseUnreachable`] when the connection is lost.
pub(super) async fn run(mut connection: Connection, info: &ConnInfo, dir: CloneDir, account: &str) -> Result<CloneDir> {
    let data = dir.data();
    let place = connection.place().to_owned();
    let mut running = Running { info: info.clone(), dir: Some(dir) };
    connection.command(&[&[COM_QUERY], sql(&data).as_bytes()].concat()).await?;
    let answer = match answer(connection, &place).await {
        Ok(answer) => answer,
        Err(error) => {
            if let Some(dir) = running.dir.take() {
                stop(&running.info, dir).await;
            }
            return Err(error);
        }
    };
    let dir = running.dir.take().ok_or_else(|| Error::failure("a clone has no directory"))?;
    let error = match answer {
        None if data.is_dir() => return Ok(dir),
        None => Error::config(format!("the server has made its clone, and not in our {}", data.display()))
            .hint("is the server in a container, or does its service have a /tmp of its own (PrivateTmp)?"),
        Some(error) => explain(error.into_error(&place), account),
    };
    // A clone that failed half way stays where it is.
    let _ = spawn_blocking(move || drop(dir)).await;
    Err(error)
}

fn sql(data: &Path) -> String {
    format!("CLONE LOCAL DATA DIRECTORY = '{}'", data.display())
}

/// The answer to a statement without rows, however long it takes: the server's error, if any.
async fn answer(connection: Connection, place: &str) -> Result<Option<ServerError>> {
    let lost = || {
        Error::new(Kind::DatabaseUnreachable, format!("{place}: the connection was lost while the server was cloned"))
    };
    // The writer is kept: both are one connection.
    let (mut reader, _writer) = connection.into_parts();
    let mut unframer = Unframer::new(1);
    let (mut buffer, mut payload) = (Vec::new(), Vec::new());
    loop {
        buffer.clear();
        if reader.read_buf(&mut buffer).await.map_err(|e| lost().because(e))? == 0 {
            return Err(lost().hint("has the server stopped? its log says why"));
        }
        let mut input = buffer.as_slice();
        while let Some(piece) = unframer.next(&mut input)? {
            payload.extend_from_slice(piece.bytes);
            if piece.last {
                return match payload.first() {
                    Some(0x00) => Ok(None),
                    _ => ServerError::parse(&payload).map(Some).ok_or_else(|| {
                        Error::new(Kind::DatabaseUnreachable, format!("{place}: the answer to CLONE cannot be read"))
                    }),
                };
            }
        }
        if payload.len() > ANSWER_BYTES_MAX {
            return Err(Error::new(
                Kind::DatabaseUnreachable,
                format!("{place}: the answer to CLONE has more than {ANSWER_BYTES_MAX} bytes"),
            ));
        }
    }
}

/// A CLONE that may still run.
struct Running {
    info: ConnInfo,
    /// None once it has ended.
    dir: Option<CloneDir>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(dir) = self.dir.take() else { return };
        // Without a runtime the directory goes at once, and CLONE ends at its next file.
        if let Ok(runtime) = Handle::try_current() {
            let info = self.info.clone();
            runtime.spawn(async move { stop(&info, dir).await });
        }
    }
}

/// Stops the CLONE into `dir`, if it runs, and then removes what it wrote.
async fn stop(info: &ConnInfo, dir: CloneDir) {
    if let Err(error) = kill(info, &dir.data()).await {
        tracing::warn!(%error, "a CLONE could not be stopped; if the server runs, KILL its session there");
    }
    let _ = spawn_blocking(move || drop(dir)).await;
}

/// Kills the CLONE into `data`, and waits until it is gone. It is known by that path alone: the
/// server may have begun to count its sessions anew, or another of the hosts may answer.
async fn kill(info: &ConnInfo, data: &Path) -> Result<()> {
    /// `ER_NO_SUCH_THREAD`
    const GONE: u16 = 1094;
    let sql = sql(data).replace('\'', "''");
    let find = format!("SELECT ID FROM information_schema.PROCESSLIST WHERE INFO = '{sql}'");
    let mut connection = Connection::connect(info).await?;
    let (times, pause) = KILLS;
    for _ in 0..times {
        let sessions = connection.query_all(&find).await?;
        if sessions.is_empty() {
            break;
        }
        for id in sessions.into_iter().flatten().flatten() {
            match connection.execute(&format!("KILL {id}")).await {
                Err(error) if code(&error) != Some(GONE) => return Err(error),
                _ => {}
            }
        }
        tokio::time::sleep(pause).await;
    }
    connection.quit().await;
    Ok(())
}

/// What to do about an error of CLONE. Numbers: MySQL "Server Error Message Reference".
fn explain(error: Error, account: &str) -> Error {
    match code(&error) {
        Some(1227) => lacks(error, "BACKUP_ADMIN ON *.*", account),
        // ER_CLONE_TOO_MANY_CONCURRENT_CLONES
        Some(3634) => error
            .with_kind(Kind::Busy)
            .hint("the server is being cloned already, and can only be once at a time: wait for that to end"),
        // ER_FILE_EXISTS_ERROR
        Some(1086) => preflight::outside_of_data_dir("a tablespace").because(error),
        // ER_CANT_CREATE_DB, ER_CANT_CREATE_FILE, ER_CANT_OPEN_FILE, ER_ERROR_ON_WRITE, ER_DISK_FULL
        Some(1006 | 1004 | 1016 | 1026 | 1021) => error.with_kind(Kind::Config).hint(
            "the server cannot write its clone there: is the disk full, or does AppArmor, SELinux or the service's \
             ReadWritePaths= keep it out?",
        ),
        // ER_QUERY_INTERRUPTED
        Some(1317) => error.hint("somebody killed the CLONE: take the backup again"),
        _ => error.hint("the server's error log says more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: u16) -> Error {
        let payload = [&[0xff][..], &code.to_le_bytes(), b"#HY000no"].concat();
        explain(ServerError::parse(&payload).unwrap().into_error("db:3306"), "'pitr'@'localhost'")
    }

    #[test]
    fn each_refusal_of_clone_says_what_to_do() {
        let grant = said(1227);
        assert_eq!(
            (grant.kind(), grant.advice()),
            (Kind::Config, Some("as an administrator: GRANT BACKUP_ADMIN ON *.* TO 'pitr'@'localhost';"))
        );
        assert_eq!(said(3634).kind(), Kind::Busy);
        for code in [1086, 1006, 1021] {
            assert_eq!(said(code).kind(), Kind::Config, "{code}");
        }
        assert!(said(9999).advice().is_some());
    }
}
