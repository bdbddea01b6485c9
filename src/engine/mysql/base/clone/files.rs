//! A directory as a base backup: directories, then files, each of which is removed when it was
//! read, so that the room that a clone takes shrinks.
//!
//! A thread reads, one file after the other; a few pieces wait for whoever asks. The directory
//! goes when everything was read, before [`BaseEvent::End`], or when nobody asks any more.

use std::fs::{self, File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::OFlags;
use tokio::sync::mpsc;

use super::directory::CloneDir;
use crate::engine::{BaseEvent, BaseStream, EntryMeta};
use crate::error::{Error, Result};

/// Bytes of a file read at a time.
const READ_BYTES: u64 = 1 << 20;

/// Events that wait.
const WAITING: usize = 4;

/// What a server that is started on the base needs to be told, by the name that the file has
/// with `mariadb-backup` and `xtrabackup`.
const OPTIONS_FILE: &str = "backup-my.cnf";

/// Permissions of that file.
const OPTIONS_MODE: u32 = 0o640;

/// Begins to read the clone in `dir`. `options` become a file of the base, `end` its last event.
///
/// # Errors
/// What the disk says; [`crate::Kind::Failure`] for what is neither file nor directory.
pub(super) fn read(dir: CloneDir, options: String, end: BaseEvent) -> Result<Box<dyn BaseStream>> {
    let tree = Tree::of(&dir.data())?;
    let (events, receiver) = mpsc::channel(WAITING);
    tokio::task::spawn_blocking(move || {
        let reader = Reader { events: &events, next: 0 };
        if let Err(Stop::Failed(error)) = reader.run(dir, &tree, options, end) {
            let _ = events.blocking_send(Err(error));
        }
    });
    Ok(Box::new(Files { events: receiver }))
}

struct Files {
    events: mpsc::Receiver<Result<BaseEvent>>,
}

#[async_trait]
impl BaseStream for Files {
    async fn next(&mut self) -> Result<Option<BaseEvent>> {
        self.events.recv().await.transpose()
    }
}

/// What is in a directory: each path relative to it, in order.
#[derive(Default)]
struct Tree {
    dirs: Vec<EntryMeta>,
    /// With their sizes in bytes.
    files: Vec<(EntryMeta, u64)>,
}

impl Tree {
    fn of(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        tree.add(root, "")?;
        tree.dirs.sort_by(|a, b| a.path.cmp(&b.path));
        tree.files.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path));
        Ok(tree)
    }

    /// Adds what is in `dir`, whose own path from the root is `prefix`.
    fn add(&mut self, dir: &Path, prefix: &str) -> Result<()> {
        for entry in fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))? {
            let entry = entry.map_err(|e| Error::io("list", dir, e))?;
            let path = entry.path();
            let metadata = entry.metadata().map_err(|e| Error::io("look at", &path, e))?;
            let name = entry.file_name();
            let name =
                name.to_str().ok_or_else(|| Error::failure(format!("{} is not named in UTF-8", path.display())))?;
            let meta = meta(format!("{prefix}{name}"), &metadata);
            if metadata.is_dir() {
                let prefix = format!("{}/", meta.path);
                self.dirs.push(meta);
                self.add(&path, &prefix)?;
            } else if metadata.is_file() {
                self.files.push((meta, metadata.len()));
            } else {
                return Err(Error::failure(format!("{} is neither a file nor a directory", path.display())));
            }
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes).sum()
    }
}

fn meta(path: String, metadata: &Metadata) -> EntryMeta {
    EntryMeta { path, mode: metadata.mode() & 0o7777, mtime: metadata.mtime() }
}

/// Why reading stops before the end.
enum Stop {
    /// Nobody takes what is read.
    Gone,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

struct Reader<'a> {
    events: &'a mpsc::Sender<Result<BaseEvent>>,
    /// The number of the next file.
    next: u32,
}

impl Reader<'_> {
    fn run(mut self, dir: CloneDir, tree: &Tree, options: String, end: BaseEvent) -> Result<(), Stop> {
        let estimated_bytes = Some(tree.bytes() + options.len() as u64);
        self.send(BaseEvent::Start { start: None, estimated_bytes, tablespaces: Vec::new() })?;
        for meta in &tree.dirs {
            self.send(BaseEvent::Directory(meta.clone()))?;
        }
        let mtime = tree.files.iter().map(|(meta, _)| meta.mtime).max().unwrap_or(0);
        for (meta, bytes) in &tree.files {
            let path = dir.data().join(&meta.path);
            self.file(&path, meta, *bytes)?;
            // What cannot be removed here goes, or is complained about, with the directory.
            let _ = fs::remove_file(&path);
        }
        let meta = EntryMeta { path: OPTIONS_FILE.into(), mode: OPTIONS_MODE, mtime };
        let file = self.begin(meta, options.len() as u64)?;
        self.send(BaseEvent::Data { file, bytes: options.into() })?;
        self.send(BaseEvent::FileEnd { file })?;
        drop(dir);
        self.send(end)
    }

    fn file(&mut self, path: &Path, meta: &EntryMeta, size: u64) -> Result<(), Stop> {
        // The server's user could have put a link there to what only root may read.
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let opened = File::options().read(true).custom_flags(flags).open(path);
        let mut input = opened.map_err(|e| Error::io("open", path, e))?;
        let file = self.begin(meta.clone(), size)?;
        let mut left = size;
        while left > 0 {
            let mut bytes = vec![0; usize::try_from(left.min(READ_BYTES)).unwrap_or_default()];
            input.read_exact(&mut bytes).map_err(|e| Error::io("read", path, e))?;
            left -= bytes.len() as u64;
            self.send(BaseEvent::Data { file, bytes: Bytes::from(bytes) })?;
        }
        self.send(BaseEvent::FileEnd { file })
    }

    fn begin(&mut self, meta: EntryMeta, size: u64) -> Result<u32, Stop> {
        let file = self.next;
        self.next = self.next.wrapping_add(1);
        self.send(BaseEvent::File { file, meta, size: Some(size) })?;
        Ok(file)
    }

    fn send(&self, event: BaseEvent) -> Result<(), Stop> {
        self.events.blocking_send(Ok(event)).map_err(|_| Stop::Gone)
    }
}
