//! A logical base made into a data directory: a fresh one, into which its statements go.
//!
//! The directory is made by the server's own programs, with what the source's files were like
//! where statements depend on it. Files of rows are loaded several at once, and each must give as
//! many rows as it says. The accounts that a fresh directory has go at the end, when the
//! source's take their place.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use mysql_async::prelude::Queryable as _;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::Base;
use super::programs::Programs;
use super::server::PrivateServer;
use crate::engine::RecoveryJob;
use crate::engine::mysql::base::logical::script::{self, Statements};
use crate::engine::mysql::base::tool::place;
use crate::engine::mysql::conninfo::ConnInfo;
use crate::engine::mysql::flavor::Flavor;
use crate::engine::mysql::sql::Session;
use crate::engine::os_user::OsUser;
use crate::error::{Error, Result};

/// The first MySQL that can do without a redo log.
const REDO_LOG_SWITCH: (u32, u32, u32) = (8, 0, 21);

/// How many files of rows are loaded at once, at most.
const LOADERS: usize = 8;

/// Makes the base in the job's directory a data directory.
///
/// # Errors
/// [`crate::Kind::Corruption`] for a base that is not whole; with the server's own words when
/// it refuses a statement.
pub(super) async fn load(job: &RecoveryJob, programs: &Programs, user: &OsUser) -> Result<Base> {
    let flavor = super::super::flavor(&job.identity);
    let dump = job.scratch.join("logical");
    let laid_out = job.dir.join(script::DIR);
    fs::rename(&laid_out, &dump).map_err(|e| Error::io("move", &laid_out, e))?;
    let position = dump.join(script::POSITION);
    let text = fs::read(&position).map_err(|e| Error::io("read", &position, e))?;
    let place = place(&text, flavor, "").ok_or_else(|| {
        Error::corruption(format!("{} does not say where in the binlog the base ends", position.display()))
    })?;
    let settings = super::base::settings(&dump.join(script::SETTINGS))?;
    programs.make_directory(user, flavor, &job.dir, &job.scratch, &settings).await?;

    let base = Base { place: None, settings };
    let machine = super::machine(job, programs);
    let server = PrivateServer::start(job, programs, user, &base, &machine).await?;
    let mut session = Session::connect(server.info()).await?;
    let has_switch = flavor == Flavor::MySql && machine.version >= REDO_LOG_SWITCH;
    if has_switch {
        session.execute("ALTER INSTANCE DISABLE INNODB REDO_LOG").await?;
    }
    run(&mut session, &dump.join(script::STRUCTURE)).await?;
    rows(server.info(), &dump.join(script::ROWS)).await?;
    run(&mut session, &dump.join(script::PROGRAMS)).await?;
    if flavor == Flavor::MySql {
        session.execute(&format!("SET GLOBAL gtid_purged='{}'", place.gtids)).await?;
    }
    if has_switch {
        session.execute("ALTER INSTANCE ENABLE INNODB REDO_LOG").await?;
    }
    // The server heeds them from its next start on, which is after our account is through.
    run(&mut session, &dump.join(script::ACCOUNTS)).await?;
    tell_missing_libraries(&mut session).await?;
    session.close().await;
    server.shut_down().await?;
    fs::remove_dir_all(&dump).map_err(|e| Error::io("remove", &dump, e))?;
    Ok(Base { place: Some(place), settings: base.settings })
}

/// Loads every file of rows in `dir`, the largest first.
async fn rows(info: &ConnInfo, dir: &Path) -> Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))? {
        let entry = entry.map_err(|e| Error::io("list", dir, e))?;
        let metadata = entry.metadata().map_err(|e| Error::io("look at", dir, e))?;
        files.push((metadata.len(), entry.path()));
    }
    files.sort_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.cmp(other)));
    let loaders = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, LOADERS).min(files.len());
    let queue: VecDeque<PathBuf> = files.into_iter().map(|(_, path)| path).collect();
    let queue = std::sync::Arc::new(Mutex::new(queue));
    let mut running = JoinSet::new();
    for _ in 0..loaders {
        let (queue, runtime) = (queue.clone(), Handle::current());
        let mut session = Session::connect(info).await?;
        running.spawn_blocking(move || {
            runtime.block_on(async {
                let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                while let Some(path) = next() {
                    let (inserted, says) = run(&mut session, &path).await?;
                    if says != Some(inserted) {
                        let says = says.map_or_else(|| "does not say how many".to_owned(), |rows| rows.to_string());
                        return Err(Error::corruption(format!(
                            "{} gave {inserted} rows, and says: {says}",
                            path.display()
                        )));
                    }
                    // Room for what comes of the others.
                    fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
                }
                session.close().await;
                Ok(())
            })
        });
    }
    while let Some(done) = running.join_next().await {
        let done = done.map_err(|e| Error::failure("a thread that loads rows died").because(e)).flatten();
        if done.is_err() {
            queue.lock().unwrap_or_else(PoisonError::into_inner).clear();
            return done;
        }
    }
    Ok(())
}

/// Runs a file's statements. Gives how many rows they inserted, and how many the file says.
async fn run(session: &mut Session, path: &Path) -> Result<(u64, Option<u64>)> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let mut statements = Statements::new(BufReader::with_capacity(1 << 20, file));
    let mut inserted = 0;
    while let Some(statement) = statements.next().map_err(|e| Error::io("read", path, e))? {
        let is_view = statement.starts_with(script::VIEW);
        let is_insert = statement.starts_with(b"INSERT ");
        match session.conn().query_drop(statement).await {
            Ok(()) if is_insert => inserted += session.conn().affected_rows(),
            Ok(()) => {}
            // As it was at the source: what it shows is not there.
            Err(error) if is_view && matches!(error, mysql_async::Error::Server(_)) => {
                tracing::warn!(%error, "a view that does not work is left with its columns only");
            }
            Err(error) => {
                let file = path.file_name().unwrap_or_default().display();
                return Err(session.error(error).context(format!("the base's {file}")));
            }
        }
    }
    Ok((inserted, statements.rows()))
}

/// The source's plugins and functions come from libraries, which no base holds.
async fn tell_missing_libraries(session: &mut Session) -> Result<()> {
    let dir: Option<String> = session.query_one("SELECT @@GLOBAL.plugin_dir").await?;
    let dir = PathBuf::from(dir.unwrap_or_default());
    let list = "SELECT name, dl FROM mysql.plugin UNION SELECT name, dl FROM mysql.func";
    for (name, library) in session.query_all::<(String, String)>(list).await? {
        if !dir.join(&library).exists() && !dir.join(format!("{library}.so")).exists() {
            tracing::warn!(name, library, "the source's plugin or function is not in this server's {}", dir.display());
        }
    }
    Ok(())
}
