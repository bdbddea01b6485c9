//! The directory that a clone lies in while it is read: ours around the server's.
//!
//! ```text
//! PARENT/.pitr-clone-0123456789abcdef    ours, locked for as long as we live; the server's to write
//! PARENT/.pitr-clone-0123456789abcdef/data    made and filled by the server
//! ```
//! PARENT is where the data directory lies, so that the clone is on the same file system, or
//! else where temporary files go. The lock is flock(2) on the directory itself: it goes with
//! its process, whatever becomes of that, and so tells what a dead one left.

use std::fs::{self, DirBuilder, File, Metadata, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};

const PREFIX: &str = ".pitr-clone-";

/// A hundredth of a clone's size, and this: what it may grow by until it is made.
const RESERVE_BYTES: u64 = 64 << 20;

/// A directory of ours, removed with its value.
#[derive(Debug)]
pub(super) struct CloneDir {
    path: PathBuf,
    /// Open, and locked where the file system can.
    _lock: File,
}

/// Where a clone of `data_dir` may be put, best first.
pub(super) fn parents(data_dir: &Path) -> Vec<PathBuf> {
    let data_dir = fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let beside = data_dir.parent().map(Path::to_owned);
    beside.into_iter().chain([std::env::temp_dir()]).collect()
}

impl CloneDir {
    /// Makes one with room for `bytes` in the first of `parents` where that is possible, for the
    /// server of the data directory `owner`. What dead processes left there is removed before.
    ///
    /// # Errors
    /// [`Kind::Config`] when it is possible in none, with the reason of each.
    pub(super) fn make(parents: &[PathBuf], owner: Metadata, bytes: u64) -> Result<Self> {
        let mut reasons = Vec::new();
        for parent in parents {
            sweep(parent);
            match Self::make_in(parent, &owner, bytes) {
                Ok(dir) => return Ok(dir),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(Error::config(format!("there is no place for a clone of the server's data: {}", reasons.join("; ")))
            .hint("make room beside the data directory and run pitr as root, or set TMPDIR to a directory that the server's user can get to"))
    }

    fn make_in(parent: &Path, owner: &Metadata, bytes: u64) -> Result<Self> {
        let space = rustix::fs::statvfs(parent).map_err(|e| Error::io("look at", parent, e.into()))?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        let needed = bytes.saturating_add(bytes / 100).saturating_add(RESERVE_BYTES);
        if free < needed {
            return Err(Error::config(format!("{} has {free} bytes free, and {needed} are needed", parent.display())));
        }
        let path = parent.join(format!("{PREFIX}{:016x}", rand::random::<u64>()));
        // The path goes into a statement between quotes.
        if path.to_str().is_none_or(|path| path.contains(|c: char| c.is_control() || matches!(c, '\'' | '\\'))) {
            return Err(Error::config(format!("{} has characters that a statement cannot name", path.display())));
        }
        DirBuilder::new().mode(0o700).create(&path).map_err(|e| Error::io("create", &path, e))?;
        let lock = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        let held = match lock.try_lock() {
            // Not in NFS; there, nothing is swept either.
            Ok(()) | Err(TryLockError::Error(_)) => path.is_dir(),
            Err(TryLockError::WouldBlock) => false,
        };
        let dir = Self { path, _lock: lock };
        if !held {
            return Err(Error::new(Kind::Busy, format!("another pitr removes {} as nobody's", dir.path.display())));
        }
        if rustix::process::geteuid().is_root() {
            chown(&dir.path, Some(owner.uid()), Some(owner.gid())).map_err(|e| Error::io("give away", &dir.path, e))?;
        }
        Ok(dir)
    }

    /// Where the server is to put the clone.
    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }
}

impl Drop for CloneDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "what is left of a clone cannot be removed; the next backup tries again");
        }
    }
}

/// Removes what processes left in `parent` that have ended.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
        if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        if let Ok(dir) = File::open(&path)
            && dir.try_lock().is_ok()
        {
            tracing::info!(path = %path.display(), "removing a clone that a backup left behind when it was killed");
            drop(CloneDir { path, _lock: dir });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left_in(parent: &Path) -> Vec<PathBuf> {
        fs::read_dir(parent).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn a_clone_is_removed_with_its_value_and_never_while_it_is_in_use() {
        let parent = tempfile::tempdir().unwrap();
        let owner = || fs::metadata(parent.path()).unwrap();
        let parents = [parent.path().to_owned()];
        let dir = CloneDir::make(&parents, owner(), 1).unwrap();
        fs::create_dir(dir.data()).unwrap();
        fs::write(dir.data().join("ibdata1"), "x").unwrap();
        let other = CloneDir::make(&parents, owner(), 1).unwrap();
        assert!(dir.data().join("ibdata1").is_file(), "the second must not sweep the first");
        drop(dir);
        drop(other);
        assert!(left_in(parent.path()).is_empty());
    }

    #[test]
    fn what_a_killed_run_left_is_removed_by_the_next_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let left = parent.path().join(".pitr-clone-00000000deadbeef");
        fs::create_dir_all(left.join("data/#innodb_redo")).unwrap();
        fs::write(left.join("data/ibdata1"), "x").unwrap();
        let theirs = [parent.path().join("mysql"), parent.path().join(".pitr-clone-file")];
        fs::create_dir(&theirs[0]).unwrap();
        fs::write(&theirs[1], "x").unwrap();
        let owner = fs::metadata(parent.path()).unwrap();
        let dir = CloneDir::make(&[parent.path().to_owned()], owner, 1).unwrap();
        assert!(!left.exists());
        drop(dir);
        let mut found = left_in(parent.path());
        found.sort();
        assert_eq!(found, [theirs[1].clone(), theirs[0].clone()]);
    }

    #[test]
    fn takes_the_next_place_where_the_first_will_not_do_and_says_why_none_will() {
        let parent = tempfile::tempdir().unwrap();
        let owner = || fs::metadata(parent.path()).unwrap();
        let quoted = parent.path().join("it's");
        fs::create_dir(&quoted).unwrap();
        let dir =
            CloneDir::make(&[parent.path().join("absent"), quoted.clone(), parent.path().into()], owner(), 1).unwrap();
        assert_eq!(dir.path.parent(), Some(parent.path()));
        let error = CloneDir::make(&[quoted, parent.path().into()], owner(), u64::MAX / 2).unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.message().contains("bytes free") && error.message().contains("needed"), "{error}");
    }
}
