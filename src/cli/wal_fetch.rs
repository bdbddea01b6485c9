//! `pitr wal-fetch`: one log file for a `restore_command`.
//!
//! Exit 0: delivered and verified. Exit 1: proven absent. 126: anything else, since
//! PostgreSQL takes 1 to 125 for the end of the log and would open the database there.
//!
//! A server asks for one file at a time and waits for it. So each call also starts a child
//! that puts the next files beside the asked one, in a hidden directory, ready to be
//! renamed into place; the end of the log, or of the recovery, removes that directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use super::Opened;
use super::settings::Settings;
use crate::engine::LogFile;
use crate::error::{Error, Kind, Result};
use crate::model::offset::{Offset, OffsetRange};
use crate::model::timeline::TimelineId;
use crate::restore::file::{Holding, TimelineFiles, absent, history};

/// Files prepared ahead.
const AHEAD: u64 = 8;

/// Where prepared files wait, beside the asked one.
const READY: &str = ".pitr-ready";

/// Options of `pitr wal-fetch`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file's name: %f
    name: String,
    /// Where to put it: %p
    path: PathBuf,
    /// Prepare the files from NAME on in the directory PATH, and deliver none
    #[arg(long, hide = true)]
    ahead: bool,
}

/// Delivers a log file or history.
pub(super) async fn run(settings: &Settings, args: &Args) -> Result<ExitCode> {
    let opened = Opened::open(settings).await?;
    let files = opened.engine.log_files(&opened.archive.identity);
    match files.parse(&args.name) {
        Some(LogFile::Log { timeline, range }) if args.ahead => prepare(&opened, timeline, range, &args.path).await?,
        Some(LogFile::Log { timeline, range }) => {
            deliver(&opened, &args.name, timeline, range, &args.path).await?;
            let next = OffsetRange::new(range.end, Offset(range.end.0 + range.len()));
            start_ahead(settings, &files.name(timeline, next.start), &ready_directory(&args.path))?;
        }
        Some(LogFile::History(timeline)) => {
            let Some(found) = history(&opened.archive, timeline).await? else {
                // A server that ends its recovery looks for a number that no timeline has, and
                // will ask for no more log, though some may be prepared past its target.
                let _ = fs::remove_dir_all(ready_directory(&args.path));
                return Err(Error::new(Kind::Absent, format!("timeline {} has no history in the archive", timeline.0)));
            };
            fs::write(&args.path, found.native).map_err(|e| Error::io("write", &args.path, e))?;
        }
        Some(LogFile::Other) => {
            return Err(Error::new(Kind::Absent, format!("the archive never holds files like {}", args.name)));
        }
        None => {
            return Err(Error::usage(format!("{:?} is not the name of a log file", args.name))
                .hint("use it as restore_command = 'pitr wal-fetch %f \"%p\"'"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn deliver(opened: &Opened, name: &str, timeline: TimelineId, range: OffsetRange, path: &Path) -> Result<()> {
    let ready = ready_directory(path).join(name);
    // Prepared by an earlier call: verified and synced before it got this name.
    if fs::rename(&ready, path).is_ok() {
        return Ok(());
    }
    let files = TimelineFiles::list(&opened.archive, timeline).await?;
    match files.holding(range) {
        Holding::Whole(parts) | Holding::Beginning(parts) => files.write(range, &parts, path).await,
        Holding::Nothing => {
            let _ = fs::remove_dir_all(ready_directory(path));
            Err(absent(name))
        }
        Holding::Hole(at) => Err(hole(opened, name, at)),
    }
}

fn hole(opened: &Opened, name: &str, at: Offset) -> Error {
    Error::new(
        Kind::NotRecoverable,
        format!("the archive has a gap at {} in log file {name}, and log behind it", opened.engine.position(at)),
    )
    .hint("`pitr list` shows the gap and the moments that can be restored")
}

fn ready_directory(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new(".")).join(READY)
}

/// Starts the child that prepares what will be asked next.
fn start_ahead(settings: &Settings, name: &str, ready: &Path) -> Result<()> {
    if ready.join(name).exists() {
        return Ok(());
    }
    fs::create_dir_all(ready).map_err(|e| Error::io("create", ready, e))?;
    let program = std::env::current_exe().map_err(|e| Error::failure("cannot find my own program").because(e))?;
    let mut command = Command::new(program);
    if let Some(store) = settings.store_url() {
        command.args(["--store", store]);
    }
    command.args(["--cluster", settings.cluster.as_str(), "wal-fetch", "--ahead", name]).arg(ready);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Being ahead is a favour; the next call fetches by itself if this does not start.
    if let Err(error) = command.spawn() {
        tracing::debug!(%error, "cannot prepare the next files");
    }
    Ok(())
}

/// Prepares whole files only: a file that is still growing must be read when asked for.
async fn prepare(opened: &Opened, timeline: TimelineId, first: OffsetRange, ready: &Path) -> Result<()> {
    let names = opened.engine.log_files(&opened.archive.identity);
    let files = TimelineFiles::list(&opened.archive, timeline).await?;
    for i in 0..AHEAD {
        let start = Offset(first.start.0 + i * first.len());
        let range = OffsetRange::new(start, Offset(start.0 + first.len()));
        let path = ready.join(names.name(timeline, start));
        if path.exists() {
            continue;
        }
        let Holding::Whole(parts) = files.holding(range) else { break };
        files.write(range, &parts, &path).await?;
    }
    Ok(())
}
