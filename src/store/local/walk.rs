//! Walking a directory tree for `list`: names first, and the size, which costs a system
//! call, only of what is wanted.

use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};

use super::super::{ObjectInfo, name};

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
    let folder = name::folder(&wanted.prefix).unwrap_or_default();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let path = root.join(&folder);
        let at = |e: io::Error| (path.clone(), e);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            // A folder below the first may go while we walk.
            Err(e) if e.kind() == io::ErrorKind::NotFound && root.is_dir() => continue,
            Err(e) => return Err(at(e)),
        };
        for entry in entries {
            let entry = entry.map_err(at)?;
            let part = entry.file_name();
            // Hidden and foreign files are no objects.
            let Some(part) = part.to_str().filter(|part| name::is_part(part)) else { continue };
            let name = format!("{folder}{part}");
            match look(&entry, &name, wanted) {
                Ok(Found::Object(bytes)) => {
                    if !each(ObjectInfo { name, bytes }) {
                        return Ok(());
                    }
                }
                Ok(Found::Folder) => folders.push(name + "/"),
                Ok(Found::Nothing) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err((entry.path(), e)),
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

fn look(entry: &DirEntry, name: &str, wanted: &Wanted) -> io::Result<Found> {
    let kind = entry.file_type()?;
    // A symbolic link is what it points to: a folder may have been moved to another disk.
    let (is_dir, linked) = if kind.is_symlink() {
        let data = fs::metadata(entry.path())?;
        (data.is_dir(), Some(data))
    } else {
        (kind.is_dir(), None)
    };
    if is_dir {
        let folder = wanted.folder(&format!("{name}/"));
        return Ok(if folder { Found::Folder } else { Found::Nothing });
    }
    if !wanted.object(name) {
        return Ok(Found::Nothing);
    }
    let data = match linked {
        Some(data) => data,
        None => entry.metadata()?,
    };
    Ok(if data.is_file() { Found::Object(data.len()) } else { Found::Nothing })
}
