//! A store in a directory.
//!
//! An object is a file. It is written beside its place under a hidden name, fsynced,
//! given its name without ever replacing another file, and then the directory is
//! fsynced, as are the directories above it that this process has not fsynced yet. What a crash
//! leaves at each step:
//!
//! | after | is left |
//! |---|---|
//! | writing, fsync of the file | a hidden file, never listed, removed by [`Store::sweep`] |
//! | the name is given | the whole object, or nothing: whoever creates it again is told `Same` once it is durable |
//! | fsync of the directory | the object |
//!
//! A name under which bytes can be read therefore always has all of them.
//!
//! The directory itself is never made by writing to it: a store whose disk is not
//! mounted must not go on quietly on the disk beneath. [`LocalStore::make`] makes it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Created, ObjectInfo, Part, Store, name};
use crate::error::{Error, Kind, Result};
use crate::model::time::Timestamp;

pub(crate) mod place;
mod walk;

/// Objects in a directory. Clones share what they know.
#[derive(Clone, Debug)]
pub struct LocalStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Directories whose names are known to survive a power cut.
    durable: Mutex<HashSet<PathBuf>>,
    /// Files that an fsync has failed for: one that succeeds later says nothing of them.
    doubtful: Mutex<HashSet<PathBuf>>,
}

/// How many listed objects are handed over at a time.
const BATCH: usize = 1024;

impl LocalStore {
    /// The store in the directory `root`. Nothing is touched: a directory that is not
    /// there is reported by the first use.
    ///
    /// # Errors
    /// [`Kind::Config`] when `root` is relative and there is no working directory.
    pub fn open(root: &Path) -> Result<Self> {
        let root = std::path::absolute(root).map_err(|e| {
            Error::config(format!("store directory {} has no absolute path", root.display())).because(e)
        })?;
        Ok(Self(Arc::new(Inner { root, durable: Mutex::default(), doubtful: Mutex::default() })))
    }

    /// The store in the directory `root`, which is made, durably, if it is not there.
    ///
    /// # Errors
    /// As [`LocalStore::open`]; [`Kind::StoreUnreachable`] when it cannot be made.
    pub fn make(root: &Path) -> Result<Self> {
        let store = Self::open(root)?;
        let root = &store.0.root;
        // What is there above it was made durable by whoever made it.
        let there = root.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
        place::make_dirs(root, there).map_err(|e| Error::store_io("make", root, e))?;
        Ok(store)
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> Result<T> + Send + 'static) -> Result<T> {
        let inner = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(done) => done,
            Err(e) => Err(Error::failure("work on the store was stopped").because(e)),
        }
    }
}

#[async_trait]
impl Store for LocalStore {
    async fn create(&self, name: &str, body: Vec<Bytes>) -> Result<Created> {
        name::check(name)?;
        let name = name.to_owned();
        self.blocking(move |inner| inner.create(&name, &body)).await
    }

    async fn get(&self, name: &str, part: Part) -> Result<Option<Bytes>> {
        name::check(name)?;
        let name = name.to_owned();
        self.blocking(move |inner| {
            let path = inner.root.join(name);
            inner.absent_is_none("read", &path, read(&path, part))
        })
        .await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        shallow: bool,
        each: &mut (dyn FnMut(ObjectInfo) + Send),
    ) -> Result<()> {
        name::folder(prefix)?;
        let wanted = walk::Wanted { prefix: prefix.to_owned(), after: after.map(str::to_owned), shallow };
        let (sender, mut receiver) = mpsc::channel::<Vec<ObjectInfo>>(4);
        let this = self.clone();
        let walker = tokio::spawn(async move {
            this.blocking(move |inner| {
                let mut batch = Vec::with_capacity(BATCH);
                let walked = walk::walk(&inner.root, &wanted, &mut |info| {
                    batch.push(info);
                    // Nobody listens any more when the list was given up: stop there.
                    batch.len() < BATCH
                        || sender.blocking_send(std::mem::replace(&mut batch, Vec::with_capacity(BATCH))).is_ok()
                });
                match walked {
                    Ok(()) => {
                        // As above: a list given up needs no last batch.
                        drop(sender.blocking_send(batch));
                        Ok(())
                    }
                    Err((path, e)) => inner.absent_is_none("list", &path, Err(e)).map(|_: Option<()>| ()),
                }
            })
            .await
        });
        while let Some(batch) = receiver.recv().await {
            batch.into_iter().for_each(&mut *each);
        }
        walker.await.map_err(|e| Error::failure("listing the store was stopped").because(e))?
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let prefix = name::folder(prefix)?.to_owned();
        self.blocking(move |inner| {
            let path = inner.root.join(&prefix);
            let folders = walk::folders(&path, &prefix);
            Ok(inner.absent_is_none("list", &path, folders)?.unwrap_or_default())
        })
        .await
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        name::check(name)?;
        let name = name.to_owned();
        self.blocking(move |inner| {
            let path = inner.root.join(&name);
            let bytes = fs::metadata(&path).map(|data| data.is_file().then_some(data.len()));
            let bytes = inner.absent_is_none("look at", &path, bytes)?.flatten();
            Ok(bytes.map(|bytes| ObjectInfo { name, bytes }))
        })
        .await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        name::check(name)?;
        let name = name.to_owned();
        self.blocking(move |inner| {
            let path = inner.root.join(name);
            inner.absent_is_none("delete", &path, fs::remove_file(&path)).map(|_| ())
        })
        .await
    }

    async fn settle(&self, names: &[String]) -> Result<()> {
        for name in names {
            name::check(name)?;
        }
        let names = names.to_vec();
        self.blocking(move |inner| names.iter().try_for_each(|name| inner.make_sure(&inner.root.join(name)))).await
    }

    async fn sweep(&self, now: Timestamp) -> Result<u64> {
        self.blocking(move |inner| {
            let swept = place::sweep(&inner.root, now);
            swept.map_err(|e| inner.explain("clean up", &inner.root, e))
        })
        .await
    }

    fn local_root(&self) -> Option<&Path> {
        Some(&self.0.root)
    }

    fn location(&self) -> String {
        self.0.root.display().to_string()
    }
}

impl Inner {
    fn create(&self, name: &str, body: &[Bytes]) -> Result<Created> {
        let path = self.root.join(name);
        let dir = path.parent().unwrap_or(&self.root);
        // What is there already needs no writing: the case of a chunk stored before and
        // of a create tried again.
        if let Some(same) = self.compare(&path, body)? {
            return self.settle(name, &path, body, same);
        }
        self.make_durable(dir)?;
        let temp = place::write_beside(&path, body).map_err(|e| self.explain("write", &path, e))?;
        match temp.give_name(&path).map_err(|e| self.explain("name", &path, e))? {
            place::Named::New => match place::sync_dir(dir) {
                Ok(()) => Ok(Created::New),
                Err(e) => {
                    // A second fsync would not tell of it: the name must not be found.
                    let _ = fs::remove_file(&path);
                    Err(self.explain("make durable", dir, e))
                }
            },
            place::Named::Taken => {
                let same = self.compare(&path, body)?.unwrap_or(false);
                self.settle(name, &path, body, same)
            }
        }
    }

    /// Whether the object at `path` has just these bytes; `None` when there is none.
    fn compare(&self, path: &Path, body: &[Bytes]) -> Result<Option<bool>> {
        self.absent_is_none("compare", path, place::same(path, body))
    }

    /// The end of a create that found its name taken.
    fn settle(&self, name: &str, path: &Path, body: &[Bytes], same: bool) -> Result<Created> {
        if !same {
            return Err(Error::new(
                Kind::Fenced,
                format!("object {name} in store {} holds other bytes than those to be written", self.root.display()),
            )
            .hint("did two archivers write to this cluster, or was the store copied back in time? `pitr status` shows the writers"));
        }
        if let Err(error) = self.make_sure(path) {
            tracing::warn!(%error, object = name, "it is written once more");
            place::renew(path, body).map_err(|e| self.explain("write again", path, e))?;
            self.doubtful().remove(path);
        }
        Ok(Created::Same)
    }

    fn doubtful(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.doubtful.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a file durable that may have been copied here, or whose creator may not have
    /// come to the fsync. Where that has failed once, it fails until the object is created again.
    fn make_sure(&self, path: &Path) -> Result<()> {
        let dir = path.parent().unwrap_or(&self.root);
        self.make_durable(dir)?;
        if self.doubtful().contains(path) {
            return Err(self.explain("make durable", path, io::Error::other("an earlier fsync failed")));
        }
        let synced = File::open(path).and_then(|file| file.sync_all()).and_then(|()| place::sync_dir(dir));
        synced.map_err(|e| {
            self.doubtful().insert(path.to_owned());
            self.explain("make durable", path, e)
        })
    }

    /// Makes `dir` and fsyncs the names of it and all above it within the store, once.
    fn make_durable(&self, dir: &Path) -> Result<()> {
        let known = |set: &Mutex<HashSet<PathBuf>>| set.lock().unwrap_or_else(PoisonError::into_inner).contains(dir);
        if known(&self.durable) && dir.is_dir() {
            return Ok(());
        }
        if !self.root.is_dir() {
            return Err(self.explain("write to", &self.root, io::ErrorKind::NotFound.into()));
        }
        place::make_dirs(dir, &self.root).map_err(|e| self.explain("make", dir, e))?;
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).insert(dir.to_owned());
        Ok(())
    }

    /// Turns "not there" into `None`, but only where the store itself is there: else an
    /// unmounted disk would prove every object absent.
    fn absent_is_none<T>(&self, doing: &str, path: &Path, result: io::Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(e)
                if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) && self.root.is_dir() =>
            {
                Ok(None)
            }
            Err(e) => Err(self.explain(doing, path, e)),
        }
    }

    fn explain(&self, doing: &str, path: &Path, error: io::Error) -> Error {
        if error.kind() == io::ErrorKind::NotFound && !self.root.is_dir() {
            return Error::new(Kind::StoreUnreachable, format!("store directory {} is not there", self.root.display()))
                .hint("is its disk mounted? `pitr init` makes a new store");
        }
        Error::store_io(doing, path, error)
    }
}

/// Makes `folder` and what is missing between it and `root`, the store's directory, so
/// that their names survive a power cut: for files that are not objects, like tails.
///
/// # Errors
/// [`Kind::StoreUnreachable`] when `root` is not there or the folder cannot be made.
pub fn make_folder(root: &Path, folder: &Path) -> Result<()> {
    LocalStore::open(root)?.0.make_durable(folder)
}

/// Reads a part of a file. Something that is no file is not there, and neither is what lost its
/// name meanwhile: the file of a tail that was sealed is written to again, as another tail. Where another file has the
/// name now, that is read.
fn read(path: &Path, part: Part) -> io::Result<Bytes> {
    loop {
        let mut file = File::open(path)?;
        let data = file.metadata()?;
        if !data.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let size = data.len();
        let (start, len) = match part {
            Part::All => (0, size),
            Part::Range { start, len } => (start.min(size), len.min(size.saturating_sub(start))),
            Part::Last(len) => (size.saturating_sub(len), len.min(size)),
        };
        if start > 0 {
            file.seek(SeekFrom::Start(start))?;
        }
        let mut bytes = Vec::with_capacity(usize::try_from(len).map_err(io::Error::other)?);
        (&file).take(len).read_to_end(&mut bytes)?;
        if is_named(&data, path)? {
            return Ok(bytes.into());
        }
    }
}

/// Whether `path` is the name of this very file.
fn is_named(file: &fs::Metadata, path: &Path) -> io::Result<bool> {
    let named = fs::metadata(path)?;
    Ok((named.dev(), named.ino()) == (file.dev(), file.ino()))
}

#[cfg(test)]
mod tests;
