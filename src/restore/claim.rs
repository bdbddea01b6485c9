//! One restore at a time into one directory: who comes second while the first is at work must
//! not take it for one that was interrupted, whose server is stopped and whose files go.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Error, Kind, Result};

/// The right to restore into a directory, until it is dropped or its process ends. Dropped before
/// anything was laid out, it leaves nothing behind.
#[derive(Debug)]
pub(super) struct Claim {
    /// Of the scratch directory.
    locked: Option<File>,
    partial: PathBuf,
    scratch: PathBuf,
}

impl Claim {
    /// Takes it, to lay out `partial` beside the directory `scratch`, which is made where it is
    /// missing.
    ///
    /// # Errors
    /// [`Kind::Busy`] when another restore has it.
    pub(super) fn take(partial: &Path, scratch: &Path) -> Result<Self> {
        loop {
            fs::create_dir_all(scratch)
                .map_err(|e| Error::config(format!("cannot create {}", scratch.display())).because(e))?;
            let dir = match File::open(scratch) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                opened => opened.map_err(|e| Error::io("open", scratch, e))?,
            };
            match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    return Err(Error::new(
                        Kind::Busy,
                        format!("another restore is under way: it works in {}", scratch.display()),
                    )
                    .hint("let it end, or give --to another directory"));
                }
                // A file system without locks.
                Err(error) => tracing::warn!(
                    dir = %scratch.display(), %error,
                    "cannot be locked: nothing would stop another restore into the same directory"
                ),
            }
            let own = dir.metadata().map_err(|e| Error::io("look at", scratch, e))?;
            // Whoever had it may have removed the directory at its end.
            if fs::metadata(scratch).is_ok_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino())) {
                return Ok(Self { locked: Some(dir), partial: partial.to_owned(), scratch: scratch.to_owned() });
            }
        }
    }

    /// Gives it back at a restore's end, and removes the scratch directory.
    ///
    /// # Errors
    /// From the file system.
    pub(super) fn end(mut self) -> Result<()> {
        // Whoever waits for it makes a scratch directory of its own.
        let _locked = self.locked.take();
        fs::remove_dir_all(&self.scratch).map_err(|e| Error::io("remove", &self.scratch, e))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.locked.is_some() && !self.partial.exists() {
            // By it the next restore would know `DIR.partial` for ours.
            let _ = fs::remove_dir(&self.scratch);
        }
    }
}
