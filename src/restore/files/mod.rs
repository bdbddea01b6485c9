//! Lays a base out as a data directory.
//!
//! Promises: every chunk's BLAKE3 is checked before its bytes are written, and a pack
//! that is missing, cut off or changed is refused by name; new files are made with
//! `O_EXCL`, no symbolic link is followed; `global/pg_control` is written last, so
//! that no server starts on half a directory. With `delta` an existing directory
//! becomes the base: `pg_control` goes first, what the base does not have is removed,
//! and only blocks that differ are written.
//!
//! Nothing is durable until [`sync_tree`]. Packs are read in few, large, parallel
//! reads (see [`work`]).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::try_join_all;

use self::place::{Done, Scratch};
use self::tree::Tree;
use self::work::{Piece, Read, Unit};
use crate::base::load::Base;
use crate::base::manifest::{FileKind, Manifest};
use crate::base::table::ChunkRecord;
use crate::catalog::layout::{Layout, ObjectName};
use crate::error::{Error, Result};
use crate::store::{Part, Store, intact};

mod place;
#[cfg(test)]
mod tests;
mod tree;
mod work;

pub use tree::is_vacant;

/// The file without which no server starts.
const LAST: &str = "global/pg_control";

/// Pieces whose files are compared as one step (`delta`).
const COMPARE_AT_ONCE: usize = 32;

/// How to lay a base out.
#[derive(Clone, Debug)]
pub struct LayOut {
    /// How many reads and writes go on at once.
    pub jobs: usize,
    /// Rewrite only what differs in a directory that exists.
    pub delta: bool,
    /// Where tablespaces go: the directory on the source, the directory here.
    pub tablespace_map: Vec<(PathBuf, PathBuf)>,
    /// User and group everything is given to; `None` leaves it to us.
    pub owner: Option<(u32, u32)>,
}

/// What was laid out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaidOut {
    /// Bytes written.
    pub bytes_written: u64,
    /// Bytes that stood there already.
    pub bytes_kept: u64,
    /// Regular files.
    pub files: u64,
    /// Directories outside the data directory, for [`sync_tree`].
    pub tablespaces: Vec<PathBuf>,
}

/// What all workers need.
struct Job {
    base: Base,
    layout: Layout,
    tree: Tree,
    delta: bool,
}

impl Job {
    fn chunk(&self, piece: &Piece) -> Result<&ChunkRecord> {
        let missing = || Error::corruption(format!("base {} has no chunk {}", self.base.manifest.id, piece.chunk));
        self.base.table.chunks.get(piece.chunk as usize).ok_or_else(missing)
    }

    fn pack_name(&self, pack: u32) -> String {
        let object = self.base.manifest.packs.get(pack as usize);
        object.map_or_else(|| format!("number {pack}"), |o| self.layout.name(&ObjectName::Pack(o.hash.0)))
    }

    fn file_name(&self, piece: &Piece) -> &str {
        self.base.manifest.files.get(piece.file as usize).map_or("", |f| &f.path)
    }

    fn path(&self, piece: &Piece) -> PathBuf {
        self.tree.path(self.file_name(piece))
    }

    /// The pieces of all regular files that `wanted` says.
    fn pieces(&self, wanted: impl Fn(&str) -> bool) -> Vec<Piece> {
        let files = (0..).zip(&self.base.manifest.files).filter(|(_, file)| wanted(&file.path));
        let pieces = files.flat_map(|(index, file)| {
            let offsets = (0u64..).map(|n| n * crate::base::chunk::CHUNK_BYTES as u64);
            file.chunks().zip(offsets).map(move |(chunk, offset)| Piece { chunk: chunk as u32, file: index, offset })
        });
        pieces.collect()
    }
}

/// Refuses what [`lay_out`] would refuse, before anything is touched.
///
/// # Errors
/// As [`lay_out`], for directories and tablespace maps.
pub fn check(manifest: &Manifest, dir: &Path, options: &LayOut) -> Result<()> {
    Tree::new(manifest, dir, &options.tablespace_map)?.check(options)
}

/// Lays `base` out in `dir`, which must be empty or missing unless `options.delta`.
/// `progress` is told how many of the base's bytes are in place.
///
/// # Errors
/// [`crate::Kind::Corruption`] naming the object; [`crate::Kind::Config`] for a
/// directory that is not empty, with `delta` for a tablespace's to which `dir` has no link
/// yet; [`crate::Kind::Usage`] for a wrong tablespace map.
pub async fn lay_out(
    store: Arc<dyn Store>,
    layout: &Layout,
    base: Base,
    dir: &Path,
    options: &LayOut,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<LaidOut> {
    let dir = std::path::absolute(dir).map_err(|e| Error::io("find", dir, e))?;
    let tree = Tree::new(&base.manifest, &dir, &options.tablespace_map)?;
    let job = Arc::new(Job { base, layout: layout.clone(), tree, delta: options.delta });
    let standing = {
        let (job, options) = (job.clone(), options.clone());
        blocking(move || {
            let standing = job.tree.prepare(&job.base.manifest, &options, LAST)?;
            trim(&job, &standing)?;
            Ok(standing)
        })
        .await?
    };
    let mut all = Run { store, job: job.clone(), jobs: options.jobs.max(1), progress, done: Done::default().into() };
    let mut pieces = job.pieces(|path| path != LAST);
    if options.delta {
        pieces = all.compare(pieces, &standing).await?;
    }
    all.write(pieces).await?;
    {
        let (job, options, dir) = (job.clone(), options.clone(), dir.clone());
        blocking(move || {
            if let Some(last) = job.base.manifest.files.iter().find(|f| f.path == LAST) {
                if options.delta {
                    // Here the directory is not renamed into place at the end, so the
                    // rest must be durable before this file says that it is whole.
                    sync_tree(&dir, &job.tree.outside())?;
                }
                tree::make_file(&job.tree.path(&last.path))?;
            }
            Ok(())
        })
        .await?;
    }
    all.write(job.pieces(|path| path == LAST)).await?;
    let done = *all.done.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
    let options = options.clone();
    let outside = job.tree.outside();
    let files = job.base.manifest.files.iter().filter(|f| matches!(f.kind, FileKind::File { .. })).count() as u64;
    blocking(move || job.tree.finish(&job.base.manifest, &options)).await?;
    Ok(LaidOut { bytes_written: done.written, bytes_kept: done.kept, files, tablespaces: outside })
}

/// Gives files that stood there the size they are to have.
fn trim(job: &Job, standing: &std::collections::HashMap<u32, u64>) -> Result<()> {
    for (&index, &had) in standing {
        let Some(file) = job.base.manifest.files.get(index as usize) else { continue };
        if let FileKind::File { size, .. } = file.kind
            && size != had
        {
            let path = job.tree.path(&file.path);
            tree::open_file(&path)?.set_len(size).map_err(|e| Error::io("cut to size", &path, e))?;
        }
    }
    Ok(())
}

/// Runs work that blocks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::failure("a thread that lays out files died").because(e))?
}

/// One laying out.
struct Run<'a> {
    store: Arc<dyn Store>,
    job: Arc<Job>,
    jobs: usize,
    progress: &'a (dyn Fn(u64) + Send + Sync),
    done: std::sync::Mutex<Done>,
}

impl Run<'_> {
    fn add(&self, more: Done) {
        let mut done = self.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        done.written += more.written;
        done.kept += more.kept;
        (self.progress)(done.written + done.kept);
    }

    /// The pieces that do not stand in their files already.
    async fn compare(&self, pieces: Vec<Piece>, standing: &std::collections::HashMap<u32, u64>) -> Result<Vec<Piece>> {
        let (old, mut missing): (Vec<Piece>, Vec<Piece>) =
            pieces.into_iter().partition(|piece| standing.contains_key(&piece.file));
        let groups: Vec<Arc<[Piece]>> = old.chunks(COMPARE_AT_ONCE).map(Arc::from).collect();
        let next = AtomicUsize::new(0);
        let worker = || async {
            let mut differ = Vec::new();
            while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                let (job, group) = (self.job.clone(), group.clone());
                let (kept, more) = blocking(move || differing(&job, &group)).await?;
                self.add(Done { written: 0, kept });
                differ.extend(more);
            }
            Ok::<_, Error>(differ)
        };
        for differ in try_join_all((0..self.jobs).map(|_| worker())).await? {
            missing.extend(differ);
        }
        Ok(missing)
    }

    /// Writes these pieces.
    async fn write(&self, pieces: Vec<Piece>) -> Result<()> {
        let units: Vec<Arc<Unit>> = work::units(&self.job.base, pieces).into_iter().map(Arc::new).collect();
        let shares = Shares::new(units.len(), self.jobs);
        let (units, shares) = (&units, &shares);
        let worker = |own: usize| async move {
            let mut scratch = Scratch::default();
            while let Some(unit) = shares.next(own).and_then(|index| units.get(index)) {
                let whole = self.read(unit, unit.whole).await?;
                let mut deltas = Vec::with_capacity(unit.deltas.len());
                for read in &unit.deltas {
                    deltas.push(self.read(unit, *read).await?);
                }
                let (job, unit) = (self.job.clone(), unit.clone());
                let (done, kept) = blocking(move || {
                    let done = place::write_unit(&job, &unit, &whole, &deltas, &mut scratch)?;
                    Ok((done, scratch))
                })
                .await?;
                scratch = kept;
                self.add(done);
            }
            Ok::<_, Error>(())
        };
        try_join_all((0..self.jobs).map(worker)).await?;
        Ok(())
    }

    /// A part of a pack. Where several stores have it, it is looked at before one of them is believed.
    async fn read(&self, unit: &Arc<Unit>, read: Read) -> Result<Bytes> {
        let name = self.job.pack_name(read.pack);
        let part = Part::Range { start: u64::from(read.start), len: u64::from(read.end - read.start) };
        let bytes = if self.store.several().is_empty() {
            self.store.get(&name, part).await?
        } else {
            let checked = |bytes: Bytes| {
                let (job, unit) = (self.job.clone(), unit.clone());
                blocking(move || place::check(&job, &unit, read, &bytes).map(|()| bytes))
            };
            intact::read(self.store.as_ref(), &name, part, checked).await?
        };
        bytes.ok_or_else(|| {
            Error::corruption(format!(
                "pack {name}, which base {} needs, is missing from {}",
                self.job.base.manifest.id,
                self.store.location()
            ))
            .hint("`pitr list` shows other bases; an older one may not need it")
        })
    }
}

/// Units divided among workers: each has a run of its own, so that two of them
/// seldom write to one file, where they would wait for the kernel's lock on it; who
/// is through with his helps the next.
struct Shares(Vec<(AtomicUsize, usize)>);

impl Shares {
    fn new(units: usize, jobs: usize) -> Self {
        let start = |job: usize| units * job / jobs;
        Self((0..jobs).map(|job| (AtomicUsize::new(start(job)), start(job + 1))).collect())
    }

    /// The next unit for the worker whose share is `own`.
    fn next(&self, own: usize) -> Option<usize> {
        let (before, from) = self.0.split_at_checked(own)?;
        from.iter().chain(before).find_map(|(next, end)| {
            // A share that is through may be counted on by many: far from overflow.
            Some(next.fetch_add(1, Ordering::Relaxed)).filter(|index| index < end)
        })
    }
}

/// Bytes of those pieces that stand in their files, and the others.
fn differing(job: &Job, pieces: &[Piece]) -> Result<(u64, Vec<Piece>)> {
    let (mut kept, mut differ, mut buffer) = (0, Vec::new(), Vec::new());
    let mut open: Option<(u32, fs::File)> = None;
    for piece in pieces {
        let record = job.chunk(piece)?;
        let path = job.path(piece);
        let file = match &mut open {
            Some((index, file)) if *index == piece.file => file,
            _ => &mut open.insert((piece.file, tree::open_file(&path)?)).1,
        };
        if place::stands(file, &path, piece, record, &mut buffer)? {
            kept += u64::from(record.raw_len);
        } else {
            differ.push(*piece);
        }
    }
    Ok((kept, differ))
}

/// Makes everything below `dir` and `others` durable: one `syncfs` for each file
/// system they lie on (Linux 5.8 and newer report write errors there).
///
/// # Errors
/// [`crate::Kind::Failure`] when the disk has not taken everything.
pub fn sync_tree(dir: &Path, others: &[PathBuf]) -> Result<()> {
    let mut devices = Vec::new();
    for dir in std::iter::once(dir).chain(others.iter().map(PathBuf::as_path)) {
        let file = fs::File::open(dir).map_err(|e| Error::io("open", dir, e))?;
        let device = file.metadata().map_err(|e| Error::io("look at", dir, e))?.dev();
        if !devices.contains(&device) {
            rustix::fs::syncfs(&file).map_err(|e| Error::io("make durable the file system of", dir, e.into()))?;
            devices.push(device);
        }
    }
    Ok(())
}

/// The process id of a server that runs on `dir`, by its `postmaster.pid`; `None`
/// when there is none or it is a leftover.
///
/// # Errors
/// [`crate::Kind::Failure`] when the file is there but cannot be read.
pub fn live_server(dir: &Path) -> Result<Option<u32>> {
    let path = dir.join("postmaster.pid");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", &path, e)),
    };
    let pid = text.lines().next().and_then(|line| line.trim().parse::<i32>().ok()).filter(|&pid| pid > 0);
    let pid = pid.and_then(rustix::process::Pid::from_raw).ok_or_else(|| {
        Error::failure(format!("{} does not begin with a process id", path.display()))
            .hint("is a server just starting there? remove the file if none is")
    })?;
    match rustix::process::test_kill_process(pid) {
        Err(rustix::io::Errno::SRCH) => Ok(None),
        // EPERM is a living process of somebody else.
        _ => Ok(u32::try_from(pid.as_raw_nonzero().get()).ok()),
    }
}
