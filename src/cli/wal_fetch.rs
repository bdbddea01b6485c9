//! `pitr wal-fetch`: one log file for a `restore_command`.
//!
//! Exit 0: delivered and verified. Exit 1: proven absent. 126: anything else, since
//! PostgreSQL takes 1 to 125 for the end of the log and would open the database there.
//!
//! With `--until` the log ends there, whatever the archive holds: a server that asks for
//! all there is recovers to exactly that place. The archive must hold the log up to there,
//! too, since the server would take an earlier end for the target.
//!
//! A server asks for one file at a time and waits for it. So each call also starts a child
//! that puts the next files beside the asked one, in a hidden directory, ready to be
//! renamed into place; the end of the log, or of the recovery, removes that directory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::Opened;
use super::settings::Settings;
use crate::catalog::SegmentInfo;
use crate::engine::LogFile;
use crate::error::{Error, Kind, Result};
use crate::model::offset::{Offset, OffsetRange};
use crate::model::timeline::TimelineId;
use crate::restore::file::{Holding, TimelineFiles, absent, holds_log};
use crate::restore::temporary::sweep;

/// Files prepared ahead.
const AHEAD: u64 = 8;

/// Files fetched at the same time.
const AT_ONCE: usize = 4;

/// Where prepared files wait, beside the asked one.
const READY: &str = ".pitr-ready";

/// Says, by a lock on it, that somebody prepares files here.
const LOCK: &str = ".lock";

/// Where the log ends for who does not say `--until`.
const NO_END: Offset = Offset(u64::MAX);

/// Options of `pitr wal-fetch`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file's name: %f
    name: String,
    /// Where to put it: %p
    path: PathBuf,
    /// Give the log up to this LSN and nothing behind it, whatever is archived
    #[arg(long, value_name = "LSN")]
    until: Option<String>,
    /// Prepare the files from NAME on in the directory PATH, and deliver none
    #[arg(long, hide = true)]
    ahead: bool,
}

/// Delivers a log file or history.
pub(super) async fn run(settings: &Settings, args: &Args) -> Result<ExitCode> {
    let opened = Opened::open(settings).await?;
    let files = opened.engine.log_files(&opened.archive.identity);
    let until = args.until.as_deref().map(|text| opened.engine.parse_position(text)).transpose()?;
    let until = until.unwrap_or(NO_END);
    match files.parse(&args.name) {
        Some(LogFile::Log { timeline, range }) if args.ahead => {
            prepare(&opened, timeline, range, until, &args.path).await?;
        }
        Some(LogFile::Log { timeline, range }) => {
            deliver(&opened, &args.name, timeline, range, until, &args.path).await?;
            if range.end < until {
                start_ahead(settings, args, &files.name(timeline, range.end))?;
            }
        }
        Some(LogFile::History(timeline)) => {
            let Some(found) = opened.archive.history(timeline).await? else {
                // A server that ends its recovery looks for a number that no timeline has, and
                // will ask for no more log, though some may be prepared past its target.
                let none = Error::new(Kind::Absent, format!("timeline {} has no history in the archive", timeline.0));
                return Err(proven(&opened, none, &ready_directory(&args.path)).await);
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

async fn deliver(
    opened: &Opened,
    name: &str,
    timeline: TimelineId,
    range: OffsetRange,
    until: Offset,
    path: &Path,
) -> Result<()> {
    let ready = ready_directory(path);
    // Prepared by an earlier call: verified and synced before it got this name.
    if range.end <= until && fs::rename(ready.join(name), path).is_ok() {
        return Ok(());
    }
    let wanted = OffsetRange::new(range.start, range.end.min(until));
    if wanted.is_empty() {
        let _ = fs::remove_dir_all(ready);
        return Err(Error::new(Kind::Absent, format!("log file {name} begins at or behind the end asked for")));
    }
    sweep(path.parent().unwrap_or(Path::new(".")));
    let files = TimelineFiles::around(&opened.archive, opened.engine.as_ref(), timeline, wanted).await?;
    let holding = files.holding(wanted);
    if !matches!(holding, Holding::Whole(_)) {
        // A store that does not answer may hold the rest: the log must not seem to end here.
        opened.archive.store.all_answered()?;
    }
    let parts = match holding {
        Holding::Whole(parts) => parts,
        Holding::Beginning(parts) if until == NO_END || reaches(&parts, wanted.end) => parts,
        Holding::Beginning(_) | Holding::Nothing => Vec::new(),
        Holding::Hole(at) => return Err(hole(opened, name, at)),
    };
    if !parts.is_empty() && files.write(range, until, &parts, path).await? {
        return Ok(());
    }
    Err(if until == NO_END { proven(opened, absent(name), &ready).await } else { ends_early(opened, name, until) })
}

/// `absence`, if it is proven: an archive that holds no log at all proves nothing by lacking
/// this file. What was prepared will not be asked for any more then.
async fn proven(opened: &Opened, absence: Error, ready: &Path) -> Error {
    match holds_log(&opened.archive).await {
        Ok(true) => {
            let _ = fs::remove_dir_all(ready);
            absence
        }
        Ok(false) => {
            let (cluster, place) = (opened.archive.layout.cluster(), opened.archive.store.location());
            Error::new(Kind::NotRecoverable, format!("the archive of cluster {cluster} in {place} holds no log"))
                .hint("is the disk of its log directory mounted? `pitr list` shows what the archive holds")
        }
        Err(error) => error,
    }
}

fn reaches(parts: &[SegmentInfo], end: Offset) -> bool {
    parts.last().is_some_and(|last| last.range.end >= end)
}

fn ends_early(opened: &Opened, name: &str, until: Offset) -> Error {
    Error::new(
        Kind::NotRecoverable,
        format!("the archive's log ends in or before log file {name}, and not at {}", opened.engine.position(until)),
    )
    .hint("it held that log when the restore was planned: was some of it removed? `pitr list` shows what is left")
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

/// Starts the child that prepares what will be asked next, from `name` on.
fn start_ahead(settings: &Settings, args: &Args, name: &str) -> Result<()> {
    let ready = ready_directory(&args.path);
    if ready.join(name).exists() {
        return Ok(());
    }
    fs::create_dir_all(&ready).map_err(|e| Error::io("create", &ready, e))?;
    let program = std::env::current_exe().map_err(|e| Error::failure("cannot find my own program").because(e))?;
    let mut command = Command::new(program);
    for store in settings.store_urls() {
        command.args(["--store", store]);
    }
    command.args(["--cluster", settings.cluster.as_str(), "wal-fetch", "--ahead"]);
    if let Some(until) = &args.until {
        command.args(["--until", until]);
    }
    command.arg(name).arg(ready);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Being ahead is a favour; the next call fetches by itself if this does not start.
    if let Err(error) = command.spawn() {
        tracing::debug!(%error, "cannot prepare the next files");
    }
    Ok(())
}

/// Takes the directory of prepared files for this process, until it ends; `None` when
/// another one prepares there.
fn take(ready: &Path) -> Result<Option<File>> {
    let path = ready.join(LOCK);
    let file = File::options().create(true).write(true).truncate(false).open(&path);
    let file = file.map_err(|e| Error::io("open", &path, e))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(Error::io("lock", &path, error.into())),
    }
}

/// Prepares whole files only: a file that is still growing must be read when asked for,
/// and so must the one that holds `until`, which others may ask for without that end.
async fn prepare(opened: &Opened, timeline: TimelineId, first: OffsetRange, until: Offset, ready: &Path) -> Result<()> {
    let Some(_taken) = take(ready)? else { return Ok(()) };
    sweep(ready);
    let names = opened.engine.log_files(&opened.archive.identity);
    let file = |i: u64| {
        let start = Offset(first.start.0 + i * first.len());
        OffsetRange::new(start, Offset(start.0 + first.len()))
    };
    let all = OffsetRange::new(first.start, file(AHEAD - 1).end);
    let files = TimelineFiles::around(&opened.archive, opened.engine.as_ref(), timeline, all).await?;
    let mut wanted = Vec::new();
    for range in (0..AHEAD).map(file).take_while(|range| range.end <= until) {
        let path = ready.join(names.name(timeline, range.start));
        if path.exists() {
            continue;
        }
        let Holding::Whole(parts) = files.holding(range) else { break };
        wanted.push((range, parts, path));
    }
    // A store far away answers several as fast as one.
    let files = &files;
    stream::iter(wanted)
        .map(|(range, parts, path)| async move { files.write(range, range.end, &parts, &path).await.map(drop) })
        .buffered(AT_ONCE)
        .try_collect()
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_prepares_at_a_time() {
        let ready = tempfile::tempdir().unwrap();
        let first = take(ready.path()).unwrap();
        assert!(first.is_some());
        assert!(take(ready.path()).unwrap().is_none());
        drop(first);
        assert!(take(ready.path()).unwrap().is_some(), "the lock ends with its holder");
    }
}
