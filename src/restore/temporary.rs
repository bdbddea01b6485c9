//! A file on its way to its final name.
//!
//! Several processes may make the same file at the same time: a `restore_command` that
//! is asked again while the one before still runs, or a child that reads ahead. So each
//! writes under a name of its own, `<name>.<process>-<number>.pitr-partial`, which nobody
//! else opens, and a name without that ending stands for a whole file. What a killed
//! process left is known by its number and swept.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Pid, test_kill_process};

use crate::error::{Error, Result};

const ENDING: &str = ".pitr-partial";

/// A new file under a temporary name; removed when it is dropped before it is renamed.
#[derive(Debug)]
pub struct Temporary {
    file: File,
    path: PathBuf,
    renamed: bool,
}

impl Temporary {
    /// Makes an empty file in the directory of `path`.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn beside(path: &Path) -> Result<Self> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        loop {
            let path = name(path, MADE.fetch_add(1, Ordering::Relaxed));
            match File::options().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Self { file, path, renamed: false }),
                // Left by an earlier process of our number.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("create", &path, error)),
            }
        }
    }

    /// The file, to be written.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its final name, in place of what has it now.
    ///
    /// # Errors
    /// When the disk refuses; the file is gone then.
    pub fn rename(mut self, to: &Path) -> Result<()> {
        fs::rename(&self.path, to).map_err(|e| Error::io("rename", &self.path, e))?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn name(path: &Path, number: u64) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{number}{ENDING}", std::process::id()));
    path.with_file_name(name)
}

/// The process that made the temporary file of this name.
fn maker(name: &str) -> Option<Pid> {
    let (_, made) = name.strip_suffix(ENDING)?.rsplit_once('.')?;
    let (process, _) = made.split_once('-')?;
    process.parse().ok().and_then(Pid::from_raw)
}

/// Removes the temporary files in `dir` whose makers have ended. To be called before
/// this process makes any there. What cannot be removed stays: it is only in the way.
pub fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if let Some(maker) = entry.file_name().to_str().and_then(maker)
            && test_kill_process(maker) == Err(rustix::io::Errno::SRCH)
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn two_of_one_name_do_not_meet() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("RECOVERYXLOG");
        let (first, second) = (Temporary::beside(&path).unwrap(), Temporary::beside(&path).unwrap());
        first.file().write_all(b"all of it").unwrap();
        second.file().write_all(b"half").unwrap();
        first.rename(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"all of it");
        drop(second);
        assert_eq!(names(dir.path()), ["RECOVERYXLOG"], "what is given up is removed");
    }

    #[test]
    fn what_the_dead_left_is_swept_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let (dead, alive) = (child.id(), std::process::id());
        let kept = ["0001.1.pitr-partial".to_owned(), format!("0001.{alive}-0.pitr-partial"), format!("0001.{dead}-0")];
        for name in kept.iter().chain([&format!("0001.{dead}-0.pitr-partial")]) {
            fs::write(dir.path().join(name), b"x").unwrap();
        }
        sweep(dir.path());
        let mut expected = kept.to_vec();
        expected.sort();
        assert_eq!(names(dir.path()), expected);
    }

    #[test]
    fn a_name_that_is_taken_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let taken = Temporary::beside(&path).unwrap();
        let number: u64 = {
            let text = taken.path.to_str().unwrap().strip_suffix(ENDING).unwrap();
            text.rsplit_once('-').unwrap().1.parse().unwrap()
        };
        for next in number + 1..number + 50 {
            fs::write(name(&path, next), b"theirs").unwrap();
        }
        let made = Temporary::beside(&path).unwrap();
        assert_eq!(fs::read(&made.path).unwrap(), b"");
    }
}
