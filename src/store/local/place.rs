//! How a file comes to its name, durably and without ever replacing another: the
//! order of fsync and rename on which every acknowledgement rests.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::model::time::Timestamp;

/// Begins the name of a file that is not an object yet.
pub(crate) const TEMP_PREFIX: &str = ".pitr-new-";
/// An archive holds all the data there is: its group may read it, nobody else.
const FILE_MODE: u32 = 0o640;
const DIR_MODE: u32 = 0o750;
const COMPARE_BYTES: usize = 128 << 10;
const DAY_SECONDS: i64 = 24 * 60 * 60;

/// A fsynced file without its name; removed when dropped.
#[derive(Debug)]
pub(super) struct Temp(Option<PathBuf>);

/// What became of giving a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// The file has it.
    New,
    /// Another file has it.
    Taken,
}

impl Drop for Temp {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // What cannot be removed now is hidden, and swept later.
            let _ = fs::remove_file(path);
        }
    }
}

/// Writes `body` to a hidden file beside `path` and fsyncs it.
pub(super) fn write_beside(path: &Path, body: &[Bytes]) -> io::Result<Temp> {
    let temp = path.with_file_name(format!("{TEMP_PREFIX}{:016x}", rand::random::<u64>()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&temp)?;
    let temp = Temp(Some(temp));
    write_all(&mut file, body)?;
    // After a failed fsync the kernel may have dropped the pages: the file goes, and
    // a later try writes it anew instead of calling fsync again.
    file.sync_all()?;
    Ok(temp)
}

fn write_all(file: &mut File, body: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<_> = body.iter().filter(|piece| !piece.is_empty()).map(|piece| IoSlice::new(piece)).collect();
    let mut slices = &mut slices[..];
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

impl Temp {
    /// Gives the file its name, unless another file has it.
    pub(super) fn give_name(mut self, path: &Path) -> io::Result<Named> {
        let Some(temp) = &self.0 else { return Ok(Named::Taken) };
        let named = give_name(temp, path)?;
        if named == Named::New {
            self.0 = None;
        }
        Ok(named)
    }
}

/// Writes the file at `path` once more, with the same bytes, and puts that in its place: for one of which an fsync has failed.
pub(super) fn renew(path: &Path, body: &[Bytes]) -> io::Result<()> {
    let mut temp = write_beside(path, body)?;
    if let Some(new) = &temp.0 {
        fs::rename(new, path)?;
        temp.0 = None;
    }
    path.parent().map_or(Ok(()), sync_dir)
}

/// Renames a file, unless another one has the name.
///
/// # Errors
/// What the file system says.
pub(crate) fn give_name(temp: &Path, path: &Path) -> io::Result<Named> {
    after_rename(renameat_with(CWD, temp, CWD, path, RenameFlags::NOREPLACE), temp, path)
}

/// What the rename came to or, where the file system has none that spares other files, the
/// same by way of a second name.
pub(crate) fn after_rename(renamed: rustix::io::Result<()>, temp: &Path, path: &Path) -> io::Result<Named> {
    match renamed {
        Ok(()) => Ok(Named::New),
        Err(Errno::EXIST) => Ok(Named::Taken),
        // NFS and some others know no such rename, but hard links.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => link_name(temp, path),
        Err(e) => Err(e.into()),
    }
}

fn link_name(temp: &Path, path: &Path) -> io::Result<Named> {
    match fs::hard_link(temp, path) {
        Ok(()) => {
            // What cannot be removed now is hidden, and swept later.
            let _ = fs::remove_file(temp);
            Ok(Named::New)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(Named::Taken),
        Err(e) => Err(e),
    }
}

/// Makes `dir` and what is missing between it and `root`, and fsyncs the directory that
/// holds each of their names, also of those that were there: whoever made them may not
/// have come to it.
pub(super) fn make_dirs(dir: &Path, root: &Path) -> io::Result<()> {
    let above: Vec<_> = dir.ancestors().take_while(|path| *path != root && path.starts_with(root)).collect();
    for path in above.into_iter().rev() {
        let made = match DirBuilder::new().mode(DIR_MODE).create(path) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => false,
            Err(e) => return Err(e),
        };
        if let Some(parent) = path.parent()
            && let Err(error) = sync_dir(parent)
        {
            if made {
                // A second fsync would not tell of it: the next try is to make it anew.
                let _ = fs::remove_dir(path);
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Fsyncs a directory: the names in it survive a power cut.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Whether the file at `path` has just these bytes.
pub(super) fn same(path: &Path, body: &[Bytes]) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let data = file.metadata()?;
    if !data.is_file() || data.len() != body.iter().map(|piece| piece.len() as u64).sum::<u64>() {
        return Ok(false);
    }
    let mut found = vec![0; COMPARE_BYTES];
    for expected in body.iter().flat_map(|piece| piece.chunks(COMPARE_BYTES)) {
        let found = &mut found[..expected.len()];
        match file.read_exact(found) {
            Ok(()) if found == expected => {}
            Ok(()) => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

/// Removes hidden files under `dir` that were last written more than a day before `now`.
pub(super) fn sweep(dir: &Path, now: Timestamp) -> io::Result<u64> {
    let mut swept = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if kind.is_dir() && super::name::is_part(name) {
            swept += sweep(&entry.path(), now)?;
        } else if kind.is_file() && name.starts_with(TEMP_PREFIX) {
            let age = now.0.div_euclid(1_000_000) - entry.metadata()?.mtime();
            if age > DAY_SECONDS {
                fs::remove_file(entry.path())?;
                swept += 1;
            }
        }
    }
    Ok(swept)
}
