//! Directories, links and attributes around the bytes.
//!
//! Nothing here follows a symbolic link: whatever stands in the way of a directory or
//! a file of the base is removed first, and files are made with `O_EXCL` and opened
//! with `O_NOFOLLOW`. Links to tablespaces are made by us and never walked through:
//! a path below one is taken to the directory it stands for.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps};

use super::LayOut;
use crate::base::manifest::{File, FileKind, Manifest};
use crate::error::{Error, Kind, Result};

/// Where the entries of a base go.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    root: PathBuf,
    /// Link and the directory it stands for.
    tablespaces: Vec<(String, PathBuf)>,
    /// Directories the user named for tablespaces.
    named: Vec<PathBuf>,
}

impl Tree {
    /// Works out where tablespaces go.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a mapping of a tablespace the base does not have, or onto
    /// a directory that cannot be one.
    pub(super) fn new(manifest: &Manifest, root: &Path, map: &[(PathBuf, PathBuf)]) -> Result<Self> {
        let known: Vec<&str> = manifest.tablespaces.iter().map(|t| t.target.as_str()).collect();
        if let Some((old, _)) = map.iter().find(|(old, _)| !known.iter().any(|known| Path::new(known) == old)) {
            let have = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Error::usage(format!(
                "base {} has no tablespace at {}: it has {have}",
                manifest.id,
                old.display()
            )));
        }
        let mut tablespaces: Vec<(String, PathBuf)> = Vec::new();
        for tablespace in &manifest.tablespaces {
            let old = Path::new(&tablespace.target);
            let new = map.iter().rev().find(|(from, _)| from == old).map_or(old, |(_, to)| to);
            if !new.is_absolute() || new.components().any(|c| c == std::path::Component::ParentDir) {
                return Err(Error::usage(format!(
                    "tablespace directory {} is not an absolute, plain path",
                    new.display()
                )));
            }
            let inside = |a: &Path, b: &Path| a.starts_with(b) || b.starts_with(a);
            if inside(new, root) || tablespaces.iter().any(|(_, other)| inside(new, other)) {
                return Err(Error::usage(format!(
                    "tablespace {} would go to {}, which lies in or around another directory of this restore",
                    tablespace.link,
                    new.display()
                ))
                .hint(format!("give it a directory of its own: --tablespace-map {}=NEW", tablespace.target)));
            }
            tablespaces.push((tablespace.link.clone(), new.to_owned()));
        }
        let named = map.iter().map(|(_, to)| to.clone()).collect();
        Ok(Self { root: root.to_owned(), tablespaces, named })
    }

    /// Directories outside the data directory.
    pub(super) fn outside(&self) -> Vec<PathBuf> {
        self.tablespaces.iter().map(|(_, dir)| dir.clone()).collect()
    }

    /// Where an entry goes.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        let below = self.tablespaces.iter().find_map(|(link, dir)| {
            let rest = path.strip_prefix(link.as_str())?.strip_prefix('/')?;
            Some(dir.join(rest))
        });
        below.unwrap_or_else(|| self.root.join(path))
    }

    /// Makes all directories, links and empty files. Gives the sizes of files that
    /// stand there already, by their index (with `delta` only).
    ///
    /// # Errors
    /// [`Kind::Config`] for a directory that is in use or not empty.
    pub(super) fn prepare(&self, manifest: &Manifest, options: &LayOut, last: &str) -> Result<HashMap<u32, u64>> {
        self.check(options)?;
        for top in self.tops() {
            make_top(top)?;
        }
        let mut standing = HashMap::new();
        if options.delta {
            // First of all: without it no server starts on what is half done.
            remove(&self.path(last))?;
            standing = self.clear(manifest)?;
        }
        for entry in manifest.files.iter().filter(|f| f.kind == FileKind::Dir) {
            // A base names a directory before what is in it, but for tablespaces.
            if !self.is_in_tablespace(&entry.path) {
                make_dir(&self.path(&entry.path))?;
            }
        }
        for (link, target) in &self.tablespaces {
            make_link(&self.root.join(link), target)?;
        }
        for (index, entry) in (0..).zip(&manifest.files) {
            let path = self.path(&entry.path);
            match &entry.kind {
                FileKind::Dir => make_dir(&path)?,
                FileKind::Symlink { target } => make_link(&path, Path::new(target))?,
                FileKind::File { .. } if entry.path == last || standing.contains_key(&index) => {}
                FileKind::File { .. } => drop(make_file(&path)?),
            }
        }
        Ok(standing)
    }

    fn is_in_tablespace(&self, path: &str) -> bool {
        self.tablespaces.iter().any(|(link, _)| path.starts_with(link.as_str()) && path[link.len()..].starts_with('/'))
    }

    /// The data directory and those of tablespaces.
    fn tops(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.root.as_path()).chain(self.tablespaces.iter().map(|(_, dir)| dir.as_path()))
    }

    /// Refuses directories that hold what is not ours to overwrite. Writes nothing.
    ///
    /// # Errors
    /// [`Kind::Config`] naming the directory.
    pub(super) fn check(&self, options: &LayOut) -> Result<()> {
        if !options.delta && !is_vacant(&self.root)? {
            return Err(Error::config(format!("directory {} is not empty", self.root.display()))
                .hint("name another directory, or rewrite only what differs with --delta"));
        }
        for (link, dir) in &self.tablespaces {
            // With `delta` too: what does not belong to this very directory may be the
            // tablespace of the source, which runs. Nor does a link prove that it belongs:
            // that of a plain copy of the source leads there as well.
            let own = options.delta && leads_to(&self.root.join(link), dir) && self.named.contains(dir);
            if !own && !is_vacant(dir)? {
                let hint =
                    "is it the tablespace of a living server? give another directory with --tablespace-map OLD=NEW";
                let dir = dir.display();
                return Err(Error::config(format!("directory {dir} is not empty")).hint(if options.delta {
                    format!(
                        "{hint}; if it belongs to the copy and to nobody else, say so with --tablespace-map {dir}={dir}"
                    )
                } else {
                    hint.to_owned()
                }));
            }
        }
        Ok(())
    }

    /// Removes what the base does not have, and gives the sizes of what stays.
    fn clear(&self, manifest: &Manifest) -> Result<HashMap<u32, u64>> {
        let wanted: HashMap<PathBuf, (u32, &File)> =
            (0..).zip(&manifest.files).map(|(index, file)| (self.path(&file.path), (index, file))).collect();
        let links: HashSet<PathBuf> = self.tablespaces.iter().map(|(link, _)| self.root.join(link)).collect();
        // Of a tablespace's directory only the base's own part is ours: a server of
        // another version may have its files beside it.
        let mut dirs: Vec<PathBuf> = vec![self.root.clone()];
        for dir in self.outside() {
            dirs.extend(wanted.keys().filter(|path| path.parent() == Some(&dir) && is_dir(path)).cloned());
        }
        let mut standing = HashMap::new();
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).map_err(|e| Error::io("read directory", &dir, e))? {
                let path = entry.map_err(|e| Error::io("read directory", &dir, e))?.path();
                let meta = fs::symlink_metadata(&path).map_err(|e| Error::io("look at", &path, e))?;
                match wanted.get(&path) {
                    Some((_, File { kind: FileKind::Dir, .. })) if meta.is_dir() => dirs.push(path),
                    // A hard link may be somebody else's file too: made anew.
                    Some((index, File { kind: FileKind::File { .. }, .. })) if meta.is_file() && meta.nlink() == 1 => {
                        standing.insert(*index, meta.len());
                    }
                    Some((_, File { kind: FileKind::Symlink { .. }, .. })) if meta.is_symlink() => {}
                    _ if links.contains(&path) && meta.is_symlink() => {}
                    _ => remove(&path)?,
                }
            }
        }
        Ok(standing)
    }

    /// Gives every entry its owner, mode and time: contents first, directories last,
    /// from the inside out.
    ///
    /// # Errors
    /// [`Kind::Failure`] naming the entry.
    pub(super) fn finish(&self, manifest: &Manifest, options: &LayOut) -> Result<()> {
        let (dirs, others): (Vec<&File>, Vec<&File>) = manifest.files.iter().partition(|f| f.kind == FileKind::Dir);
        for entry in others.into_iter().chain(dirs.into_iter().rev()) {
            self.finish_entry(entry, options)?;
        }
        if let Some((uid, gid)) = options.owner {
            for (link, dir) in &self.tablespaces {
                chown(&self.root.join(link), uid, gid)?;
                chown(dir, uid, gid)?;
            }
            chown(&self.root, uid, gid)?;
        }
        // The server wants its directory closed to others; whether its group may
        // read is seen from what is inside (`initdb --allow-group-access`).
        let group = manifest.files.iter().any(|f| f.kind == FileKind::Dir && f.mode & 0o050 == 0o050);
        let mode = if group { 0o750 } else { 0o700 };
        for dir in std::iter::once(&self.root).chain(self.tablespaces.iter().map(|(_, dir)| dir)) {
            fs::set_permissions(dir, fs::Permissions::from_mode(mode))
                .map_err(|e| Error::io("set the mode of", dir, e))?;
        }
        Ok(())
    }

    /// As [`Tree::finish`], for one entry.
    pub(super) fn finish_entry(&self, entry: &File, options: &LayOut) -> Result<()> {
        let path = self.path(&entry.path);
        if let Some((uid, gid)) = options.owner {
            chown(&path, uid, gid)?;
        }
        if !matches!(entry.kind, FileKind::Symlink { .. }) {
            fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode & 0o7777))
                .map_err(|e| Error::io("set the mode of", &path, e))?;
        }
        let time = Timespec { tv_sec: entry.mtime, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| Error::io("set the time of", &path, e.into()))
    }
}

/// Whether there is no such directory, or nothing in it.
pub fn is_vacant(dir: &Path) -> Result<bool> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(Error::io("read directory", dir, e)),
    }
}

/// Whether `link` is a symbolic link to the directory `dir`.
fn leads_to(link: &Path, dir: &Path) -> bool {
    let target = fs::read_link(link);
    target.is_ok_and(|target| target == dir || fs::canonicalize(link).ok() == fs::canonicalize(dir).ok())
}

fn make_top(top: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(top).map_err(|e| Error::io("make directory", top, e))
}

fn is_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

fn chown(path: &Path, uid: u32, gid: u32) -> Result<()> {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(|e| {
        Error::io("set the owner of", path, e).with_kind(Kind::Config).hint("only root may give files to another user")
    })
}

/// Removes a file, a link or a whole directory; none is success.
fn remove(path: &Path) -> Result<()> {
    let removed = if is_dir(path) { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}

fn make_dir(path: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && is_dir(path) => Ok(()),
        made => made.map_err(|e| Error::io("make directory", path, e)),
    }
}

fn make_link(path: &Path, target: &Path) -> Result<()> {
    if fs::read_link(path).is_ok_and(|had| had == target) {
        return Ok(());
    }
    remove(path)?;
    std::os::unix::fs::symlink(target, path).map_err(|e| Error::io("make link", path, e))
}

/// Makes a file that is not there yet.
pub(super) fn make_file(path: &Path) -> Result<fs::File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
    made.map(fs::File::from).map_err(|e| Error::io("make file", path, e.into()))
}

/// Opens a file for reading and writing.
pub(super) fn open_file(path: &Path) -> Result<fs::File> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    opened.map(fs::File::from).map_err(|e| Error::io("open", path, e.into()))
}
