//! Walking a directory tree for `list`: names first, and the size, which costs a system
//! call, only of what is wanted.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, RawDirEntry, open, statat};
use rustix::io::Errno;

use super::super::{ObjectInfo, name};

/// Bytes of a directory read at once.
const READ_BYTES: usize = 256 << 10;

/// What a list asks for.
pub(super) struct Wanted {
    /// Names begin with this.
    pub(super) prefix: String,
    /// Names come after this.
    pub(super) after: Option<String>,
    /// Only what lies in the prefix's own folder.
    pub(super) shallow: bool,
}

impl Wanted {
    fn object(&self, name: &str) -> bool {
        name.starts_with(&self.prefix) && self.after.as_deref().is_none_or(|after| name > after)
    }

    /// Whether `folder` (with a slash at its end) can hold wanted names.
    fn folder(&self, folder: &str) -> bool {
        let before = |after: &str| folder < after && !after.starts_with(folder);
        !self.shallow && folder.starts_with(&self.prefix) && !self.after.as_deref().is_some_and(before)
    }
}

/// Calls `each` for every object wanted, until it returns `false`. An error comes with
/// the path at which it happened.
pub(super) fn walk(
    root: &Path,
    wanted: &Wanted,
    each: &mut dyn FnMut(ObjectInfo) -> bool,
) -> Result<(), (PathBuf, io::Error)> {
    let mut buffer = Vec::with_capacity(READ_BYTES);
    let mut folders = vec![name::folder(&wanted.prefix).unwrap_or_default().to_owned()];
    while let Some(folder) = folders.pop() {
        let path = root.join(&folder);
        let at = |e: Errno| (path.clone(), e.into());
        let directory = match open(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(directory) => directory,
            // A folder below the first may go while we walk.
            Err(Errno::NOENT) if root.is_dir() => continue,
            Err(e) => return Err(at(e)),
        };
        // One name for all: of a million files most are not wanted.
        let mut name = folder.clone();
        let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(at)?;
            // Hidden and foreign files are no objects.
            let Some(part) = entry.file_name().to_str().ok().filter(|part| name::is_part(part)) else { continue };
            name.truncate(folder.len());
            name.push_str(part);
            match look(&directory, &entry, &name, wanted) {
                Ok(Found::Object(bytes)) => {
                    if !each(ObjectInfo { name: name.clone(), bytes }) {
                        return Ok(());
                    }
                }
                Ok(Found::Folder) => folders.push(format!("{name}/")),
                Ok(Found::Nothing) | Err(Errno::NOENT) => {}
                Err(e) => return Err((root.join(&name), e.into())),
            }
        }
    }
    Ok(())
}

/// The folders in the directory `path`, which is that of `prefix`.
pub(super) fn folders(path: &Path, prefix: &str) -> io::Result<Vec<String>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let part = entry.file_name();
        let Some(part) = part.to_str().filter(|part| name::is_part(part)) else { continue };
        // A symbolic link is what it points to, as above.
        if entry.file_type()?.is_dir() || entry.path().is_dir() {
            folders.push(format!("{prefix}{part}/"));
        }
    }
    Ok(folders)
}

enum Found {
    Object(u64),
    Folder,
    Nothing,
}

fn look(directory: &OwnedFd, entry: &RawDirEntry<'_>, name: &str, wanted: &Wanted) -> rustix::io::Result<Found> {
    // A symbolic link is what it points to: a folder may have been moved to another disk.
    let status = || statat(directory, entry.file_name(), AtFlags::empty());
    let (kind, seen) = match entry.file_type() {
        FileType::Symlink | FileType::Unknown => {
            let status = status()?;
            (FileType::from_raw_mode(status.st_mode), Some(status))
        }
        kind => (kind, None),
    };
    match kind {
        FileType::Directory if wanted.folder(&format!("{name}/")) => Ok(Found::Folder),
        FileType::RegularFile if wanted.object(name) => {
            match seen.map_or_else(status, Ok) {
                Ok(status) => Ok(Found::Object(u64::try_from(status.st_size).unwrap_or(0))),
                // Gone since, perhaps into another object, which came too late for this list: whoever
                // reads it will notice, and nobody would if it were left out. A byte, so that it
                // does not pass for empty.
                Err(Errno::NOENT) => Ok(Found::Object(1)),
                Err(error) => Err(error),
            }
        }
        _ => Ok(Found::Nothing),
    }
}
