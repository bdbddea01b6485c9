//! The log on its way to the private server: written as whole WAL files ahead of replay.
//!
//! The server asks for each file through its `restore_command`, a few lines of shell that
//! move the file into place (a rename: the bytes are written once). A file that is
//! planned but not there yet makes the command wait; one that is not planned is absent;
//! and once the feeder has failed every request fails with 255, which PostgreSQL takes
//! for an error and not for the end of the log.
//!
//! A file the server is through with is taken back and written over, name and all:
//! otherwise the log of a long replay would fill memory and disk for nothing. Only what
//! a transaction prepared in it still needs must stay (`XlogReadTwoPhaseData`,
//! `twophase.c`), so a log that prepares one is kept from there on.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::files::PostgresLogFiles;
use super::super::wal::WalScanner;
use super::programs::OsUser;
use crate::engine::{Detail, LogFile, LogFiles, LogPiece, LogReader, RecoveryJob, ReplayProgress, ScanStart, Scanner};
use crate::error::{Error, Result};
use crate::model::offset::Offset;
use crate::model::timeline::TimelineId;

/// Raw bytes staged ahead of replay.
const AHEAD_BYTES_MAX: u64 = 128 << 20;

/// Files the server took last, which it keeps whatever lies in them: the present one, the
/// one before, and one to spare. It also keeps those in which the record at the beginning
/// of the present one lies, for it reads the last record again when recovery ends
/// (`FinishWalRecovery`, `xlogrecovery.c`).
const STILL_READ: usize = 3;

/// How often the feeder looks whether the server has taken a file.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// `$1` is the file's name, `$2` where to put it.
const SCRIPT: &str = r#"#!/bin/sh
# The restore_command of a private server: see pitr's documentation of restore.
cd "${0%/*}" || exit 255
read -r feeder < feeder
case $1 in
*.history)
    # Asked for more than once.
    [ -e "files/$1" ] || exit 1
    cp "files/$1" "$OLDPWD/$2" && exit 0
    exit 255
    ;;
esac
while :; do
    [ -e failed ] && exit 255
    # Nobody feeds us any more: the restore was killed.
    [ -d "/proc/$feeder" ] || exit 255
    if [ -e "files/$1" ]; then
        # Asked for again, it is absent: the server then reads the copy it has.
        rm -f "planned/$1"
        mv "files/$1" "$OLDPWD/$2" && exit 0
        exit 255
    fi
    [ -e "planned/$1" ] || exit 1
    sleep 0.01
done
"#;

/// The staging directory.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    dir: PathBuf,
    file_bytes: u64,
}

impl Stage {
    /// Makes the directory, with the histories and the command in it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(super) fn create(job: &RecoveryJob) -> Result<Self> {
        let dir = job.scratch.join("log");
        for dir in [&dir, &dir.join("files"), &dir.join("planned")] {
            fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
        }
        let stage = Self { dir, file_bytes: job.identity.log_file_bytes };
        stage.write("fetch", SCRIPT.as_bytes())?;
        stage.write("feeder", std::process::id().to_string().as_bytes())?;
        let files = PostgresLogFiles::new(&job.identity);
        for history in &job.histories {
            stage.write(&format!("files/{}", files.history_name(history.timeline)), history.native.as_bytes())?;
        }
        // One mark per file of the plan; the timeline is not known per file here, so the
        // mark of a file on another timeline of the path is made when it comes.
        stage.plan_from(&files, job.timeline, job)?;
        Ok(stage)
    }

    /// Marks as planned every file of the last timeline from its first own file to the
    /// cut, so that the server waits for it.
    fn plan_from(&self, files: &PostgresLogFiles, timeline: TimelineId, job: &RecoveryJob) -> Result<()> {
        let mut path: Vec<(TimelineId, Offset)> = vec![(timeline, Offset::ZERO)];
        if let Some(history) = job.histories.iter().find(|history| history.timeline == timeline) {
            let mut begins = Offset::ZERO;
            path.clear();
            for ancestor in &history.ancestors {
                path.push((ancestor.timeline, begins));
                begins = ancestor.switch;
            }
            path.push((timeline, begins));
        }
        let mut at = job.start.floor_to(self.file_bytes);
        while at < job.cut {
            // The newest timeline that has begun by the end of this file carries it.
            let end = Offset(at.0.saturating_add(self.file_bytes));
            let owner = path.iter().rev().find(|(_, begins)| *begins < end || *begins == Offset::ZERO);
            if let Some((owner, _)) = owner {
                self.write(&format!("planned/{}", files.name(*owner, at)), b"")?;
            }
            at = end;
        }
        Ok(())
    }

    /// Where a whole file waits for the server.
    fn staged(&self, name: &str) -> PathBuf {
        self.dir.join("files").join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.dir.join(name);
        fs::write(&path, bytes).map_err(|e| Error::io("write", &path, e))
    }

    /// The `restore_command`.
    #[must_use]
    pub(super) fn command(&self) -> String {
        format!("/bin/sh '{}' '%f' '%p'", self.dir.join("fetch").display().to_string().replace('\'', "'\\''"))
    }

    /// Writes the log into whole files, at most [`AHEAD_BYTES_MAX`] ahead of replay.
    ///
    /// # Errors
    /// From the reader (a damaged or missing object), or from the disk. The server then
    /// gets no more log.
    pub(super) async fn feed(
        &self,
        job: &RecoveryJob,
        user: &OsUser,
        mut log: Box<dyn LogReader>,
        progress: ReplayProgress<'_>,
    ) -> Result<()> {
        let mut feeder = Feeder::new(self, job, user, progress);
        let result = feeder.feed(log.as_mut()).await;
        if result.is_err() {
            self.write("failed", b"")?;
        }
        result
    }
}

/// Writes staged files.
struct Feeder<'a> {
    stage: &'a Stage,
    job: &'a RecoveryJob,
    user: &'a OsUser,
    progress: ReplayProgress<'a>,
    files: PostgresLogFiles,
    /// Whole files that the server has not taken yet, oldest first.
    staged: Vec<Staged>,
    /// Those it has taken and may still need, oldest first.
    taken: VecDeque<Staged>,
    /// Those it is through with, under the names it knows them by.
    spent: Vec<String>,
    /// Looks for prepared transactions; `None` once one was found or the log cannot be
    /// read.
    scanner: Option<(TimelineId, WalScanner)>,
}

/// A whole file that was given to the server.
struct Staged {
    name: String,
    start: Offset,
    /// Where the record begins that lies across the file's beginning, or the file.
    needs: Offset,
}

impl<'a> Feeder<'a> {
    fn new(stage: &'a Stage, job: &'a RecoveryJob, user: &'a OsUser, progress: ReplayProgress<'a>) -> Self {
        Self {
            stage,
            job,
            user,
            progress,
            files: PostgresLogFiles::new(&job.identity),
            staged: Vec::new(),
            taken: VecDeque::new(),
            spent: Vec::new(),
            scanner: Some((TimelineId(0), Self::scanner(job, TimelineId(0), Offset::ZERO))),
        }
    }

    fn scanner(job: &RecoveryJob, timeline: TimelineId, start: Offset) -> WalScanner {
        WalScanner::new(&job.identity, timeline, ScanStart::LogFile(start), Detail::Marks)
    }

    async fn feed(&mut self, log: &mut dyn LogReader) -> Result<()> {
        let mut open: Option<OpenFile> = None;
        while let Some(piece) = log.next().await? {
            let needs = self.look_for_prepared(&piece);
            let same = open.as_ref().is_some_and(|file| file.takes(&piece));
            if !same {
                if let Some(file) = open.take() {
                    self.deliver(file)?;
                }
                self.wait_for_room().await;
                open = Some(self.open(&piece, needs)?);
            }
            if let Some(file) = &mut open {
                file.write(&piece)?;
                if file.written == self.stage.file_bytes
                    && let Some(file) = open.take()
                {
                    self.deliver(file)?;
                }
            }
        }
        open.map_or(Ok(()), |file| self.deliver(file))
    }

    /// Stops the recycling of files from the first prepared transaction on. Gives where
    /// the record begins that lies across the beginning of `piece`.
    fn look_for_prepared(&mut self, piece: &LogPiece) -> Offset {
        let Some((timeline, scanner)) = &mut self.scanner else { return piece.start };
        let needs = scanner.boundary().min(piece.start);
        if *timeline != piece.timeline || scanner.offset() != piece.start {
            *timeline = piece.timeline;
            *scanner = Self::scanner(self.job, piece.timeline, piece.start);
        }
        let read = scanner.feed(&piece.bytes, &mut Vec::new());
        if read.is_err() || scanner.has_prepared() {
            self.scanner = None;
            self.spent.clear();
        }
        needs
    }

    fn open(&mut self, piece: &LogPiece, needs: Offset) -> Result<OpenFile> {
        let spent = self.spent.pop().map(|name| self.job.dir.join("pg_wal").join(name));
        OpenFile::create(&self.stage.dir, &self.files, self.stage.file_bytes, piece, needs, spent)
    }

    fn deliver(&mut self, file: OpenFile) -> Result<()> {
        let OpenFile { file, path, name, start, needs, written, .. } = file;
        // What the log does not fill is zeros, as in a file of the server's own.
        file.set_len(written)
            .and_then(|()| file.set_len(self.stage.file_bytes))
            .map_err(|e| Error::io("extend", &path, e))?;
        drop(file);
        self.user.own(&path)?;
        fs::rename(&path, self.stage.staged(&name)).map_err(|e| Error::io("rename", &path, e))?;
        self.staged.push(Staged { name, start, needs });
        Ok(())
    }

    /// Finds the files among the taken ones that the server is through with.
    fn spend(&mut self) {
        let Some(needs) = self.taken.back().map(|newest| newest.needs) else { return };
        let file_bytes = self.stage.file_bytes;
        while self.taken.len() > STILL_READ
            && let Some(oldest) = self.taken.pop_front_if(|oldest| oldest.start.0.saturating_add(file_bytes) <= needs.0)
        {
            self.spent.extend(self.scanner.is_some().then_some(oldest.name));
        }
    }

    async fn wait_for_room(&mut self) {
        let most = usize::try_from((AHEAD_BYTES_MAX / self.stage.file_bytes).max(2)).unwrap_or(usize::MAX);
        loop {
            // A file of a timeline that the server leaves within it is never asked for, so
            // the taken ones are not always at the front.
            let (stage, progress) = (self.stage, self.progress);
            for file in self.staged.extract_if(.., |file| !stage.staged(&file.name).exists()) {
                progress(file.start);
                self.taken.push_back(file);
            }
            self.spend();
            if self.staged.len() < most {
                return;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// A WAL file being written.
struct OpenFile {
    file: File,
    path: PathBuf,
    name: String,
    timeline: TimelineId,
    start: Offset,
    needs: Offset,
    written: u64,
}

impl OpenFile {
    /// Begins the file in which `piece` lies, over the file `spent` if there is one.
    fn create(
        dir: &Path,
        files: &PostgresLogFiles,
        file_bytes: u64,
        piece: &LogPiece,
        needs: Offset,
        spent: Option<PathBuf>,
    ) -> Result<Self> {
        let name = files.name(piece.timeline, piece.start);
        let start = piece.start.floor_to(file_bytes);
        if start != piece.start {
            return Err(Error::corruption(format!(
                "the archive does not hold the beginning of log file {name}, only from {} on",
                piece.start
            )));
        }
        debug_assert!(matches!(files.parse(&name), Some(LogFile::Log { .. })), "our own names are names");
        let path = dir.join(&name);
        // Not there, or on another disk: a new file does as well.
        let recycled = spent.filter(|spent| fs::rename(spent, &path).is_ok()).is_some();
        let file = if recycled { OpenOptions::new().write(true).open(&path) } else { File::create(&path) };
        let file = file.map_err(|e| Error::io("create", &path, e))?;
        Ok(Self { file, path, name, timeline: piece.timeline, start, needs, written: 0 })
    }

    fn takes(&self, piece: &LogPiece) -> bool {
        piece.timeline == self.timeline && piece.start.0 == self.start.0 + self.written
    }

    fn write(&mut self, piece: &LogPiece) -> Result<()> {
        self.file.write_all(&piece.bytes).map_err(|e| Error::io("write", &self.path, e))?;
        self.written += piece.bytes.len() as u64;
        Ok(())
    }
}
