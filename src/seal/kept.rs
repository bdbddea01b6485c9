//! The newest data keys, in a file beside a spool.
//!
//! A line for each: its number, and the key in base64; the first line says of which archive. The keys of two are enough:
//! what an archiver must read to go on was written last.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::key::Secret;
use super::object::Key;
use crate::error::{Error, Result};

const FILE: &str = ".data-keys";

const KEPT: usize = 2;

pub(super) struct KeptKeys {
    folder: PathBuf,
    archive: String,
    keys: Mutex<Vec<(u32, Secret)>>,
}

impl KeptKeys {
    /// Opens the file in `folder`. One of another archive counts as none.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] when it is damaged; [`crate::Kind::StoreUnreachable`] when it cannot be read.
    pub(super) fn open(folder: &Path, archive: &str) -> Result<Self> {
        let path = folder.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::store_io("read", &path, error)),
        };
        let mut lines = text.lines();
        let ours = lines.next() == Some(archive);
        let keys = lines.filter(|_| ours).map(|line| {
            parse(line).ok_or_else(|| {
                Error::config(format!("{} is damaged", path.display())).hint(
                    "remove it, and give --restore-key FILE once: with it an archiver reads what it goes on behind",
                )
            })
        });
        let keys = keys.collect::<Result<_>>()?;
        Ok(Self { folder: folder.to_owned(), archive: archive.to_owned(), keys: Mutex::new(keys) })
    }

    /// Those that are kept.
    pub(super) fn all(&self) -> Vec<(u32, Secret)> {
        self.lock().clone()
    }

    /// Keeps one more, durably.
    ///
    /// # Errors
    /// [`crate::Kind::StoreUnreachable`] when the disk refuses.
    pub(super) fn add(&self, number: u32, key: &Secret) -> Result<()> {
        let mut keys = self.lock();
        keys.push((number, key.clone()));
        let old = keys.len().saturating_sub(KEPT);
        keys.drain(..old);
        let lines: String =
            keys.iter().map(|(number, key)| format!("{number} {}\n", STANDARD.encode(key.expose()))).collect();
        let (path, new) = (self.folder.join(FILE), self.folder.join(".data-keys.new"));
        let failed = |e| Error::store_io("write", &path, e);
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(failed)?;
        file.write_all(format!("{}\n{lines}", self.archive).as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&new, &path))
            .and_then(|()| File::open(&self.folder)?.sync_all())
            .map_err(failed)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(u32, Secret)>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse(line: &str) -> Option<(u32, Secret)> {
    let (number, key) = line.split_once(' ')?;
    let key = Key::try_from(STANDARD.decode(key).ok()?).ok()?;
    Some((number.parse().ok()?, Secret::new(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_two_are_there_again_and_for_their_archive_only() {
        let dir = tempfile::tempdir().unwrap();
        let kept = KeptKeys::open(dir.path(), "one").unwrap();
        assert!(kept.all().is_empty());
        for number in 1..=3 {
            kept.add(number, &Secret::new([number as u8; 32])).unwrap();
        }
        let again = KeptKeys::open(dir.path(), "one").unwrap().all();
        assert_eq!(again.iter().map(|(n, key)| (*n, *key.expose())).collect::<Vec<_>>(), [(2, [2; 32]), (3, [3; 32])]);
        assert!(KeptKeys::open(dir.path(), "other").unwrap().all().is_empty());
        fs::write(dir.path().join(FILE), "one\n3 notakey\n").unwrap();
        assert!(KeptKeys::open(dir.path(), "one").is_err());
    }
}
