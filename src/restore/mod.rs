//! Does what a plan says, and decides nothing.
//!
//! Order of writes: the base's files into `DIR.partial`, the replayed log on top, one sync
//! of everything, then the rename to `DIR`. A crash before the rename leaves `DIR.partial`
//! and never a `DIR` that looks finished.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::load::Base;
use crate::base::manifest::Manifest;
use crate::catalog::Catalog;
use crate::catalog::archive::Archive;
use crate::engine::{Engine, RecoveryJob, Running};
use crate::error::{Error, Result};
use crate::model::offset::Offset;
use crate::plan::Plan;
use crate::store::several::copies;

mod apart;
pub mod archived;
mod claim;
pub mod file;
pub mod files;
pub mod log;
pub mod position;
pub mod resolve;
pub mod temporary;
#[cfg(test)]
mod tests;

use claim::Claim;
use files::LayOut;
use log::PlannedSource;

/// Segments fetched ahead of replay for each job.
const AHEAD_PER_JOB: usize = 2;

/// How long the server of an interrupted restore may take to end.
const ORPHAN_STOP_MAX: Duration = Duration::from_secs(30);
/// How long a server that begins may take to write its number down.
const PID_FILE_MAX: Duration = Duration::from_secs(1);

/// What to do with a plan.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where the database shall be.
    pub to: PathBuf,
    /// Work at the same time.
    pub jobs: usize,
    /// Reuse what is in `to`, rewriting only what differs.
    pub delta: bool,
    /// Where tablespaces go: old directory, new directory.
    pub tablespace_map: Vec<(PathBuf, PathBuf)>,
    /// Transactions to leave out, in the engine's words.
    pub exclude: Vec<String>,
    /// Replay with a private server; else only lay out files and settings.
    pub recover: bool,
    /// Leave the recovered server running.
    pub start: bool,
    /// Where the server's programs are.
    pub bin_dir: Option<PathBuf>,
    /// User to run servers as when started by root.
    pub os_user: Option<String>,
    /// The `restore_command` for `recover: false`; it gives the log up to the plan's cut.
    pub fetch_command: String,
}

/// What a restore tells while it runs.
pub trait Observer: Send + Sync {
    /// `done` of `total` bytes of the base are in place.
    fn files(&self, done: u64, total: u64);
    /// The log is replayed up to `at`.
    fn replay(&self, at: Offset);
}

/// How a restore went.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Bytes of the base that were written.
    pub bytes_written: u64,
    /// Bytes that were in place already (`delta`).
    pub bytes_kept: u64,
    /// How long each phase took.
    pub phases: Vec<(&'static str, Duration)>,
    /// The server left running, with `start`.
    pub running: Option<Running>,
    /// What whoever starts a server on the result has to know, a sentence each.
    pub notes: Vec<String>,
}

/// Carries out a plan.
///
/// # Errors
/// [`crate::Kind::Corruption`] naming a damaged or missing object; otherwise what the disk
/// or the private server said. Nothing stands under the final name then.
pub async fn restore(
    archive: &Archive,
    engine: &dyn Engine,
    catalog: &Catalog,
    plan: &Plan,
    request: &Request,
    observer: Arc<dyn Observer>,
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let request = &Request { to: destination(&request.to)?, ..request.clone() };
    for dir in request.tablespace_map.iter().map(|(_, new)| new).chain([&request.to]) {
        copies(archive.store.as_ref()).iter().try_for_each(|store| apart::check(dir, store.directory()))?;
    }
    let partial = beside(&request.to, ".partial")?;
    let scratch = beside(&request.to, ".partial.run")?;
    let base = Base::load(archive.store.as_ref(), &archive.layout, &plan.base.id).await?;
    let mut job = RecoveryJob {
        dir: partial.clone(),
        scratch: scratch.clone(),
        identity: archive.identity.clone(),
        timeline: plan.timeline,
        histories: catalog.timelines.values().filter_map(|log| log.history.clone()).collect(),
        data_bytes: base.manifest.bytes,
        outside: Vec::new(),
        start: plan.base.start,
        cut: plan.cut,
        exclude: request.exclude.clone(),
        bin_dir: request.bin_dir.clone(),
        os_user: request.os_user.clone(),
    };
    let recovery = engine.recovery();
    if request.recover {
        recovery.preflight(&job)?;
    }
    let options = LayOut {
        jobs: request.jobs,
        delta: request.delta,
        tablespace_map: request.tablespace_map.clone(),
        owner: None,
    };
    let present = !files::is_vacant(&request.to).map_err(|error| {
        Error::config(format!("cannot use {} as the restored directory", request.to.display())).because(error)
    })?;
    if request.delta && present {
        recovery.check_overwritable(&request.to, &archive.identity)?;
    }
    let stop_orphans = |dir: &Path| recovery.stop_orphans(dir);
    let claim = prepare(request, present, (&partial, &scratch), &base.manifest, &options, &stop_orphans)?;

    let begun = Instant::now();
    let total = base.manifest.bytes;
    let progress = |done: u64| observer.files(done, total);
    let store = Arc::clone(&archive.store);
    let laid = files::lay_out(store, &archive.layout, base, &partial, &options, &progress).await?;
    outcome.bytes_written = laid.bytes_written;
    outcome.bytes_kept = laid.bytes_kept;
    outcome.phases.push(("files", begun.elapsed()));
    job.outside.clone_from(&laid.tablespaces);
    let mut outside = laid.tablespaces;

    if request.recover {
        let begun = Instant::now();
        let log = PlannedSource::new(archive.clone(), catalog, plan, request.jobs * AHEAD_PER_JOB);
        outside = recovery.run(&job, Arc::new(log), &|at| observer.replay(at)).await?;
        outcome.phases.push(("replay", begun.elapsed()));
    } else {
        recovery.lay_out(&job, &request.fetch_command)?;
    }

    let begun = Instant::now();
    let root = partial.clone();
    tokio::task::spawn_blocking(move || files::sync_tree(&root, &outside))
        .await
        .map_err(|e| Error::failure("the sync stopped").because(e))??;
    fs::rename(&partial, &request.to).map_err(|e| Error::io("rename to its final name", &partial, e))?;
    if let Some(parent) = request.to.parent().filter(|p| !p.as_os_str().is_empty())
        && let Err(error) = fs::File::open(parent).and_then(|dir| dir.sync_all())
    {
        // Whole as it is, its name may not survive a power cut: a restore that failed must not look finished.
        let _ = fs::rename(&request.to, &partial);
        return Err(Error::io("sync", parent, error));
    }
    claim.end()?;
    outcome.phases.push(("sync", begun.elapsed()));
    outcome.notes = recovery.notes(&request.to);

    if request.start {
        let begun = Instant::now();
        job.dir.clone_from(&request.to);
        job.scratch = beside(&request.to, ".run")?;
        outcome.running = Some(recovery.start(&job, &request.to).await?);
        outcome.phases.push(("start", begun.elapsed()));
    }
    Ok(outcome)
}

/// The directory that `--to` stands for. A symbolic link stands for what it leads to, since
/// a directory cannot be renamed over a link.
fn destination(to: &Path) -> Result<PathBuf> {
    // Without a slash at its end, which would follow a link.
    let to: PathBuf = to.components().collect();
    let is_link = fs::symlink_metadata(&to).is_ok_and(|meta| meta.is_symlink());
    let to = if is_link {
        fs::canonicalize(&to).map_err(|e| {
            Error::config(format!("{} is a symbolic link, but does not lead to a directory", to.display()))
                .because(e)
                .hint("make the directory it names, or give --to another one")
        })?
    } else {
        to
    };
    if is_mount_point(&to) {
        return Err(Error::config(format!("{} is a mount point", to.display())).hint(format!(
            "a finished restore is renamed to its name, which a mount point cannot be; name a directory inside it, such as --to {}",
            to.join("data").display()
        )));
    }
    Ok(to)
}

/// Whether something is mounted at this directory, a part of the same file system too, as a
/// container's volume is.
fn is_mount_point(dir: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    // Linux 5.8 and newer say so; else another device number does.
    if let Ok(stat) = statx(CWD, dir, AtFlags::empty(), StatxFlags::BASIC_STATS)
        && stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
    {
        return stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    }
    let device = |dir: &Path| fs::metadata(dir).map(|meta| meta.dev()).ok();
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    device(dir).is_some_and(|own| device(parent).is_some_and(|parents| parents != own))
}

/// `DIR` with something behind its name.
fn beside(dir: &Path, ending: &str) -> Result<PathBuf> {
    let name = dir
        .file_name()
        .ok_or_else(|| Error::usage(format!("--to {} does not name a directory to make", dir.display())))?;
    let mut name = name.to_owned();
    name.push(ending);
    Ok(dir.with_file_name(name))
}

/// Makes `DIR.partial` ready to be written to, by us alone, or refuses before anything is touched.
fn prepare(
    request: &Request,
    present: bool,
    (partial, scratch): (&Path, &Path),
    base: &Manifest,
    options: &LayOut,
    stop_orphans: &dyn Fn(&Path) -> Result<()>,
) -> Result<Claim> {
    let to = &request.to;
    if present && !request.delta {
        return Err(Error::config(format!("{} is not empty", to.display()))
            .hint("give --to a directory that does not exist, or --delta to overwrite what is there with the restored database"));
    }
    if present {
        check_not_running(to)?;
        files::check(base, to, options)?;
    }
    if partial.exists() && !scratch.exists() {
        return Err(Error::config(format!("{} exists, and no restore of pitr's left it there", partial.display()))
            .hint("remove it, or give --to another directory"));
    }
    let claim = Claim::take(partial, scratch)?;
    if !present && !files::is_vacant(to)? {
        return Err(Error::config(format!("another restore has just finished {}", to.display()))
            .hint("is it what you want? if not, give --to another directory"));
    }
    if partial.exists() {
        stop_orphans(partial)?;
        stop_orphan(partial)?;
        if present || !request.delta {
            tracing::info!("removing what an interrupted restore left in {}", partial.display());
            fs::remove_dir_all(partial).map_err(|e| Error::io("remove", partial, e))?;
        }
    }
    empty(scratch).map_err(|e| Error::io("empty", scratch, e))?;
    if present {
        fs::rename(to, partial).map_err(|e| Error::io("rename", to, e))?;
    } else if !request.delta {
        check_room(scratch, base.bytes)?;
    }
    Ok(claim)
}

/// Removes what is in a directory.
fn empty(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    Ok(())
}

fn check_not_running(dir: &Path) -> Result<()> {
    match files::live_server(dir)? {
        None => Ok(()),
        Some(pid) => {
            Err(Error::config(format!("a server runs on {}: its postmaster.pid names process {pid}", dir.display()))
                .hint("stop it first, or give --to another directory"))
        }
    }
}

/// A restore that was killed leaves its private server behind, on a directory that is
/// ours: it is stopped the hard way, for nothing of it is kept.
fn stop_orphan(partial: &Path) -> Result<()> {
    let Some(orphan) = orphan(partial)? else { return Ok(()) };
    tracing::info!("stopping the private server (process {}) of an interrupted restore", orphan.as_raw_nonzero());
    // Immediate shutdown (postgres(1)).
    let _ = rustix::process::kill_process(orphan, rustix::process::Signal::QUIT);
    let begun = Instant::now();
    while self::orphan(partial)?.is_some() {
        if begun.elapsed() > ORPHAN_STOP_MAX {
            return check_not_running(partial);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The server that runs on `dir`. Since a reboot the number in its `postmaster.pid` may be
/// anybody's, but a server's working directory is its data directory (`ChangeToDataDir`,
/// `src/backend/utils/init/miscinit.c`).
fn orphan(dir: &Path) -> Result<Option<rustix::process::Pid>> {
    // A server that was killed as it began leaves it empty; one that begins just now fills it.
    let begun = Instant::now();
    while fs::metadata(dir.join("postmaster.pid")).is_ok_and(|meta| meta.len() == 0) {
        if begun.elapsed() > PID_FILE_MAX {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let Some(pid) = files::live_server(dir)? else { return Ok(None) };
    let dir = fs::canonicalize(dir).map_err(|e| Error::io("find", dir, e))?;
    let works_in = fs::read_link(format!("/proc/{pid}/cwd"));
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    Ok(pid.filter(|_| works_in.is_ok_and(|works_in| works_in == dir)))
}

fn check_room(dir: &Path, bytes: u64) -> Result<()> {
    let free = rustix::fs::statvfs(dir).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    match free {
        Ok(free) if free < bytes => Err(Error::config(format!(
            "{} has {free} bytes free, but the base alone needs {bytes}",
            dir.parent().unwrap_or(dir).display()
        ))
        .hint("make room, or give --to a directory on another disk")),
        _ => Ok(()),
    }
}
