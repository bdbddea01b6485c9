//! The open end of the log on a local store: raw bytes, appended and synced in groups.
//!
//! A tail is `log/<timeline>/tail-<start>-<epoch>`, a file of zeros as long as its
//! segment may become, into which log bytes are written from the front. Its valid end
//! is not written anywhere: whole records with their own checksums tell it. The zeros
//! are there because a sync that changes neither size nor allocation of a file costs
//! one disk write, and one that does costs a journal commit too. For the same reason the
//! time up to which the log is complete lies in the file, in a [trailer](crate::segment::trailer)
//! behind the log, and not in the file's times.
//!
//! The bytes are durable, and may be acknowledged, once [`Tail::sync`] returns. A full
//! tail is sealed: its log goes into an ordinary segment, and only when that is durable does
//! the tail go: its file becomes a later tail's. After a crash the next writer reads the
//! valid bytes of the tail it finds and begins a tail of its own epoch with them; the old
//! one is removed last.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::model::offset::{Offset, OffsetRange};
use crate::segment::trailer::{TRAILER_BYTES, Trailer};
use crate::store::local::place::{Named, TEMP_PREFIX, give_name};

mod direct;

use direct::{DirectFile, Group};

/// Bytes gathered before they are written without waiting for a sync.
const GROUP_BYTES_MAX: usize = 256 << 10;

/// The hidden name of a file that is to become a tail begins so, behind [`TEMP_PREFIX`].
const SPARE_PREFIX: &str = "tail-";

/// An open tail.
#[derive(Debug)]
pub struct Tail {
    file: DirectFile,
    path: PathBuf,
    start: Offset,
    /// What is being gathered: one write and one sync for many messages.
    group: Group,
    synced: u64,
    size: u64,
    /// Up to when the log is known to be complete.
    trailer: Option<Trailer>,
    /// Something failed: the kernel may have dropped bytes and would not say so again.
    broken: bool,
}

impl Tail {
    /// Begins a tail at `path` for up to `size` bytes from `start`. `spare` is a zeroed
    /// file made by [`make_spare`], renamed into place.
    ///
    /// # Errors
    /// When the file cannot be made durable under its name.
    pub fn create(path: PathBuf, spare: Spare, start: Offset) -> Result<Self> {
        Self::create_by(give_name, path, spare, start)
    }

    fn create_by(
        give_name: impl FnOnce(&Path, &Path) -> std::io::Result<Named>,
        path: PathBuf,
        spare: Spare,
        start: Offset,
    ) -> Result<Self> {
        let failed = |e| Error::store_io("create tail", &path, e);
        if give_name(&spare.path, &path).map_err(failed)? == Named::Taken {
            return Err(failed(std::io::ErrorKind::AlreadyExists.into()));
        }
        let file = spare.into_file();
        if let Err(error) = sync_parent(&path) {
            // A second fsync would not tell of it: whoever tries again must not find the name.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        let size = file.len().map_err(failed)?;
        Ok(Self::new(file, path, start, size))
    }

    fn new(file: DirectFile, path: PathBuf, start: Offset, size: u64) -> Self {
        let group = Group::new(GROUP_BYTES_MAX);
        Self { file, path, start, group, synced: 0, size, trailer: None, broken: false }
    }

    /// Goes on with a tail of our own epoch whose valid bytes are `bytes`, in a new file that takes its place once they are durable in
    /// there. A sync of the old one may have failed, after which the kernel takes what it could not write for written, and the next
    /// sync would not say so. And what has been acknowledged may be nowhere else: written over in its place, it would be lost
    /// if the power failed meanwhile.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn reopen(path: PathBuf, start: Offset, bytes: &[u8]) -> Result<Self> {
        let failed = |e| Error::store_io("write", &path, e);
        let size = fs::metadata(&path).map_err(failed)?.len();
        let spare = make_spare(path.parent().unwrap_or(Path::new(".")), size, None)?;
        let hidden = spare.path.clone();
        let mut tail = Self::new(spare.into_file(), hidden.clone(), start, size);
        let written = tail.append(bytes).and_then(|()| tail.sync());
        if let Err(error) = written.and_then(|()| fs::rename(&hidden, &path).map_err(failed)) {
            let _ = fs::remove_file(hidden);
            return Err(error);
        }
        tail.path = path;
        // Until then the name may lead to the old file, which has all that was durable.
        sync_parent(&tail.path)?;
        Ok(tail)
    }

    /// First offset of the tail.
    #[must_use]
    pub fn start(&self) -> Offset {
        self.start
    }

    /// The bytes appended so far.
    #[must_use]
    pub fn range(&self) -> OffsetRange {
        OffsetRange::new(self.start, Offset(self.start.0 + self.group.end()))
    }

    /// Takes the next bytes. They are not durable yet.
    ///
    /// # Errors
    /// When the disk refuses them.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.group.take(rest).map_err(|e| Error::store_io("gather", &self.path, e))?;
            if self.group.is_full() {
                self.write()?;
            }
        }
        Ok(())
    }

    /// Writes the group and the trailer behind it, where there is room. Otherwise zeros:
    /// what is left of an older trailer must not stay behind the log. Gives the end of what
    /// was written, behind which nothing has changed.
    fn write(&mut self) -> Result<u64> {
        // A tail that was taken over from when segments might be longer makes its file longer.
        let room = self
            .size
            .checked_sub(self.group.end())
            .map_or(TRAILER_BYTES, |room| usize::try_from(room).unwrap_or(usize::MAX).min(TRAILER_BYTES));
        let trailer = self.trailer.filter(|_| room == TRAILER_BYTES).map(|trailer| trailer.encode(self.start));
        let behind = trailer.unwrap_or_default();
        let written = self.group.write(&mut self.file, behind.get(..room).unwrap_or_default());
        self.done("write", written)
    }

    /// Remembers that something failed; from then on everything does.
    fn done<T>(&mut self, doing: &str, result: std::io::Result<T>) -> Result<T> {
        let result = if self.broken { Err(std::io::Error::other("an earlier write or sync failed")) } else { result };
        self.broken = result.is_err();
        result.map_err(|e| Error::store_io(doing, &self.path, e))
    }

    /// Makes everything appended so far durable. After an error nothing else succeeds:
    /// the kernel may have dropped the bytes, and a second sync would not say so.
    ///
    /// # Errors
    /// When the disk cannot promise it, or the file was removed meanwhile.
    pub fn sync(&mut self) -> Result<()> {
        if !self.group.is_written() {
            self.write()?;
        }
        if self.synced < self.group.end() || self.broken { self.sync_file() } else { Ok(()) }
    }

    fn sync_file(&mut self) -> Result<()> {
        let synced = self.file.file().sync_data().and_then(|()| self.still_named());
        self.done("sync", synced)?;
        self.synced = self.group.end();
        Ok(())
    }

    /// Bytes in a file without a name are lost with the process. Asks for the number of names
    /// and nothing else: a file whose times were asked for gets new ones with the next write
    /// (Linux 6.13 and newer), which would cost each group of commits a change of its inode.
    fn still_named(&self) -> std::io::Result<()> {
        use rustix::fs::{AtFlags, StatxFlags, statx};
        match statx(self.file.file(), "", AtFlags::EMPTY_PATH, StatxFlags::NLINK)?.stx_nlink {
            0 => Err(std::io::Error::new(std::io::ErrorKind::NotFound, "somebody removed the file")),
            _ => Ok(()),
        }
    }

    /// Records up to when the log is complete. It costs no sync, for losing it in a crash
    /// only makes the archive claim less; what is not durable yet takes it along.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn confirm(&mut self, trailer: Trailer) -> Result<()> {
        self.trailer = Some(trailer);
        if self.group.is_written() { self.write().map(drop) } else { Ok(()) }
    }

    /// Removes a tail that holds no log.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).map_err(|e| Error::store_io("remove", &self.path, e))
    }

    /// Closes the file and gives its name.
    #[must_use]
    pub fn into_path(self) -> PathBuf {
        self.path
    }
}

/// A file under a hidden name that is to become a tail; removed when it never does.
#[derive(Debug)]
pub struct Spare {
    file: Option<DirectFile>,
    path: PathBuf,
}

impl Spare {
    fn into_file(mut self) -> DirectFile {
        // `make_spare` is the only maker and always puts a file in.
        self.file.take().unwrap_or_else(|| unreachable!("a spare is used once"))
    }

    /// The file of a sealed tail, to be used again: zeros in blocks that are there cost the
    /// disk less than giving those back and asking for others. A reader that has it open must
    /// look whether it still has the tail's name, see [`crate::store::local`].
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn of_sealed(tail: &Path) -> Result<Self> {
        let path = hidden_name(tail.parent().unwrap_or(Path::new(".")));
        fs::rename(tail, &path).map_err(|e| Error::store_io("rename sealed tail", tail, e))?;
        let failed = |e| Error::store_io("open", &path, e);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        Ok(Self { file: Some(DirectFile::new(file, size)), path })
    }

    /// Whether the file is there, under its name, and as long as that.
    fn is_sound(&self, size: u64) -> bool {
        let long = self.file.as_ref().and_then(|file| file.len().ok()).is_some_and(|len| len == size);
        long && self.path.exists()
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn hidden_name(folder: &Path) -> PathBuf {
    folder.join(format!("{TEMP_PREFIX}{SPARE_PREFIX}{:016x}", rand::random::<u64>()))
}

/// Removes the spares in `folder`, which writers left that were killed: each is as large as a
/// segment. Nobody else may be at work there.
pub fn remove_spares(folder: &Path) {
    let is_spare = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.and_then(|name| name.strip_prefix(TEMP_PREFIX)).is_some_and(|name| name.starts_with(SPARE_PREFIX))
    };
    // Where nothing was written yet, there is no folder.
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if is_spare(&path)
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::warn!(%error, file = %path.display(), "what a killed writer left cannot be removed");
        }
    }
}

/// Writes and syncs `size` zero bytes under a hidden name in `folder`, which must be
/// there durably (see [`crate::store::local::make_folder`]): into the file of `old`, if it is
/// fit for that, else into a new one.
///
/// # Errors
/// When the disk refuses.
pub fn make_spare(folder: &Path, size: u64, old: Option<Spare>) -> Result<Spare> {
    let mut spare = match old.filter(|old| old.is_sound(size)) {
        Some(old) => {
            // After a power cut no tail's name may lead to zeros.
            sync_parent(&old.path)?;
            old
        }
        None => new_file(hidden_name(folder), size)?,
    };
    let filled = match spare.file.as_mut() {
        Some(file) => file.write_zeros(0, size).and_then(|()| file.file().sync_all()),
        None => Ok(()),
    };
    filled.map_err(|e| Error::store_io("fill", &spare.path, e))?;
    Ok(spare)
}

fn new_file(path: PathBuf, size: u64) -> Result<Spare> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o640);
    let file = options.open(&path).map_err(|e| Error::store_io("create", &path, e))?;
    Ok(Spare { file: Some(DirectFile::new(file, size)), path })
}

/// Makes the name of `path` durable.
///
/// # Errors
/// When its folder cannot be synced.
pub fn sync_parent(path: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        File::open(parent)
            .and_then(|folder| folder.sync_all())
            .map_err(|e| Error::store_io("sync folder", parent, e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::local::place::after_rename;

    const SIZE: u64 = 8192;

    fn padded(log: &[u8]) -> Vec<u8> {
        let mut bytes = log.to_vec();
        bytes.resize(SIZE as usize, 0);
        bytes
    }

    #[test]
    fn bytes_lie_from_the_front_and_zeros_behind_them() {
        let dir = tempfile::tempdir().unwrap();
        let spare = make_spare(dir.path(), SIZE, None).unwrap();
        let path = dir.path().join("tail-x");
        let mut tail = Tail::create(path.clone(), spare, Offset(1000)).unwrap();
        tail.append(b"abc").unwrap();
        tail.append(b"def").unwrap();
        tail.sync().unwrap();
        assert_eq!(tail.range(), OffsetRange::new(Offset(1000), Offset(1006)));
        assert_eq!(fs::read(&path).unwrap(), padded(b"abcdef"));
    }

    #[test]
    fn the_trailer_lies_behind_the_log_until_there_is_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tail-x");
        let log: Vec<u8> = (0..SIZE).map(|i| (i % 251) as u8 + 1).collect();
        let mut tail = Tail::create(path.clone(), make_spare(dir.path(), SIZE, None).unwrap(), Offset(0)).unwrap();
        let mut done = 0;
        for end in [1, 4064, 4065, 4096, 4100, 8160, 8161, 8192] {
            tail.append(&log[done..end]).unwrap();
            done = end;
            let confirmed = crate::model::time::Timestamp(end as i64);
            tail.confirm(Trailer { boundary: Offset(0), confirmed }).unwrap();
            tail.sync().unwrap();
            let bytes = fs::read(&path).unwrap();
            assert!(bytes.len() == log.len() && bytes[..done] == log[..done], "{done}");
            let mut finder = crate::segment::trailer::Finder::default();
            finder.feed(&bytes);
            let trailer = finder.trailer(Offset(0)).map(|(trailer, at)| (trailer.confirmed, at));
            assert_eq!(trailer, (done <= 8160).then_some((confirmed, done as u64)));
            if trailer.is_none() {
                assert!(bytes[done..].iter().all(|byte| *byte == 0), "{done}");
            }
        }
    }

    /// What was taken over from when segments might be longer.
    #[test]
    fn log_and_trailer_of_a_tail_may_be_longer_than_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tail-x");
        let log: Vec<u8> = (0..2 * SIZE + 5).map(|i| (i % 251) as u8 + 1).collect();
        let mut tail = Tail::create(path.clone(), make_spare(dir.path(), SIZE, None).unwrap(), Offset(0)).unwrap();
        tail.append(&log).unwrap();
        tail.sync().unwrap();
        tail.confirm(Trailer { boundary: Offset(0), confirmed: crate::model::time::Timestamp(9) }).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert!(bytes[..log.len()] == log);
        let mut finder = crate::segment::trailer::Finder::default();
        finder.feed(&bytes);
        assert_eq!(finder.trailer(Offset(0)).map(|(_, at)| at), Some(log.len() as u64));
    }

    #[test]
    fn never_takes_a_name_that_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tail-x");
        fs::write(&path, b"theirs").unwrap();
        let spare = make_spare(dir.path(), SIZE, None).unwrap();
        assert!(Tail::create(path.clone(), spare, Offset(0)).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"theirs");
    }

    /// As on NFS.
    fn by_link(temp: &Path, path: &Path) -> std::io::Result<Named> {
        after_rename(Err(rustix::io::Errno::INVAL), temp, path)
    }

    #[test]
    fn a_tail_gets_its_name_where_no_rename_spares_other_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tail-x");
        let spare = make_spare(dir.path(), SIZE, None).unwrap();
        let mut tail = Tail::create_by(by_link, path.clone(), spare, Offset(1000)).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the temporary name was left");
        tail.append(b"abc").unwrap();
        tail.sync().unwrap();
        assert_eq!(fs::read(&path).unwrap(), padded(b"abc"));
        // The one name is all it has: without it nothing is promised.
        fs::remove_file(&path).unwrap();
        tail.append(b"def").unwrap();
        assert!(tail.sync().is_err());
    }

    #[test]
    fn nor_is_a_name_taken_there_that_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tail-x");
        fs::write(&path, b"theirs").unwrap();
        let spare = make_spare(dir.path(), SIZE, None).unwrap();
        let error = Tail::create_by(by_link, path.clone(), spare, Offset(0)).unwrap_err();
        assert!(error.message().contains("tail-x"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"theirs");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the temporary file was left");
    }

    #[test]
    fn a_reopened_tail_holds_its_valid_bytes_again_and_zeros_behind_them() {
        let dir = tempfile::tempdir().unwrap();
        let spare = make_spare(dir.path(), SIZE, None).unwrap();
        let path = dir.path().join("tail-x");
        let mut tail = Tail::create(path.clone(), spare, Offset(1000)).unwrap();
        tail.append(b"whole and half").unwrap();
        tail.sync().unwrap();
        drop(tail);
        // What a failed sync may leave on disk, and what lies behind the valid bytes.
        fs::write(&path, [[0; 4096], [7; 4096]].concat()).unwrap();
        let before = File::open(&path).unwrap();
        let mut tail = Tail::reopen(path.clone(), Offset(1000), b"whole").unwrap();
        assert_eq!(tail.range(), OffsetRange::new(Offset(1000), Offset(1005)));
        tail.append(b"!").unwrap();
        tail.sync().unwrap();
        assert_eq!(fs::read(&path).unwrap(), padded(b"whole!"));
        // Not a byte is written over: it may be the only one.
        assert_eq!(std::io::read_to_string(before).unwrap().as_bytes(), [[0; 4096], [7; 4096]].concat());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_tail_that_somebody_removed_promises_nothing_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tail-x");
        let mut tail = Tail::create(path.clone(), make_spare(dir.path(), SIZE, None).unwrap(), Offset(0)).unwrap();
        tail.append(b"abc").unwrap();
        tail.sync().unwrap();
        fs::remove_file(&path).unwrap();
        tail.append(b"def").unwrap();
        assert!(tail.sync().is_err());
        fs::write(&path, b"").unwrap();
        assert!(tail.sync().is_err(), "a second try must not succeed");
        assert!(tail.append(b"g").and_then(|()| tail.sync()).is_err());
    }

    /// The kernel may have dropped what it could not write, and would not say so again.
    #[test]
    fn after_a_write_that_failed_nothing_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tail-x");
        fs::write(&path, padded(b"")).unwrap();
        let file = DirectFile::new(File::open(&path).unwrap(), SIZE);
        let mut tail = Tail::new(file, path.clone(), Offset(0), SIZE);
        tail.append(b"abc").unwrap();
        assert!(tail.sync().is_err(), "the file is open for reading only");
        tail.file = DirectFile::new(OpenOptions::new().write(true).open(&path).unwrap(), SIZE);
        assert!(tail.sync().is_err());
        assert!(tail.append(b"d").and_then(|()| tail.sync()).is_err());
    }

    #[test]
    fn nothing_of_an_older_trailer_stays_behind_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tail-x");
        let mut tail = Tail::create(path.clone(), make_spare(dir.path(), SIZE, None).unwrap(), Offset(0)).unwrap();
        let log = [&[7; SIZE as usize - 44][..], &[8; 20]].concat();
        let (first, second) = log.split_at(log.len() - 20);
        tail.append(first).unwrap();
        tail.confirm(Trailer { boundary: Offset(20), confirmed: crate::model::time::Timestamp(1) }).unwrap();
        tail.sync().unwrap();
        assert_eq!(&fs::read(&path).unwrap()[first.len() + 28..][..4], b"TAIL");
        tail.append(second).unwrap();
        tail.sync().unwrap();
        assert_eq!(fs::read(&path).unwrap(), padded(&log));
    }

    #[test]
    fn the_file_of_a_sealed_tail_is_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tail-x");
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        let mut tail = Tail::create(path.clone(), make_spare(dir.path(), SIZE, None).unwrap(), Offset(0)).unwrap();
        tail.append(&[7; SIZE as usize]).unwrap();
        tail.sync().unwrap();
        drop(tail);
        let first = inode(&path);
        let old = Spare::of_sealed(&path).unwrap();
        assert!(!path.exists());
        let next = dir.path().join("tail-y");
        let mut tail =
            Tail::create(next.clone(), make_spare(dir.path(), SIZE, Some(old)).unwrap(), Offset(SIZE)).unwrap();
        assert_eq!((inode(&next), fs::read(&next).unwrap()), (first, padded(b"")));
        tail.append(b"abc").unwrap();
        tail.sync().unwrap();
        assert_eq!(fs::read(&next).unwrap(), padded(b"abc"));
    }

    #[test]
    fn a_file_that_is_gone_or_too_short_is_not_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let short = make_spare(dir.path(), SIZE - 4096, None).unwrap();
        let gone = make_spare(dir.path(), SIZE, None).unwrap();
        fs::remove_file(&gone.path).unwrap();
        for old in [short, gone] {
            let spare = make_spare(dir.path(), SIZE, Some(old)).unwrap();
            assert_eq!(fs::read(&spare.path).unwrap(), padded(b""));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_killed_writers_left_goes_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            std::mem::forget(make_spare(dir.path(), SIZE, None).unwrap());
        }
        let others = [format!("{TEMP_PREFIX}0123456789abcdef"), "tail-0000000000000000-00000001".into()];
        others.iter().for_each(|name| fs::write(dir.path().join(name), b"x").unwrap());
        remove_spares(dir.path());
        remove_spares(&dir.path().join("nowhere"));
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, others.map(std::ffi::OsString::from));
    }

    #[test]
    fn an_unused_spare_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        drop(make_spare(dir.path(), SIZE, None).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
