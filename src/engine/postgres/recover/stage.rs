//! The log on its way to the private server: written as whole WAL files ahead of replay.
//!
//! The server asks for each file through its `restore_command`, a few lines of shell that
//! move the file into place (a rename: the bytes are written once). A file that is
//! planned but not there yet makes the command wait; one that is not planned is absent;
//! and once the feeder has failed every request fails with 255, which PostgreSQL takes
//! for an error and not for the end of the log.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::files::PostgresLogFiles;
use super::programs::OsUser;
use crate::engine::{LogFile, LogFiles, LogPiece, LogReader, RecoveryJob, ReplayProgress};
use crate::error::{Error, Result};
use crate::model::offset::Offset;
use crate::model::timeline::TimelineId;

/// Raw bytes staged ahead of replay.
const AHEAD_BYTES_MAX: u64 = 1 << 30;

/// How often the feeder looks whether the server has taken a file.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// `$1` is the file's name, `$2` where to put it.
const SCRIPT: &str = r#"#!/bin/sh
# The restore_command of a private server: see pitr's documentation of restore.
cd "$(dirname "$0")" || exit 255
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
    [ -d "/proc/$(cat feeder)" ] || exit 255
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
        let files = PostgresLogFiles::new(&job.identity);
        let result = self.feed_files(&files, user, log.as_mut(), progress).await;
        if result.is_err() {
            self.write("failed", b"")?;
        }
        result
    }

    async fn feed_files(
        &self,
        files: &PostgresLogFiles,
        user: &OsUser,
        log: &mut dyn LogReader,
        progress: ReplayProgress<'_>,
    ) -> Result<()> {
        let mut staged: Vec<(PathBuf, Offset)> = Vec::new();
        let mut open: Option<OpenFile> = None;
        while let Some(piece) = log.next().await? {
            let same = open.as_ref().is_some_and(|file| file.takes(&piece));
            if !same {
                if let Some(file) = open.take() {
                    staged.push(self.deliver(file, user)?);
                }
                self.wait_for_room(&mut staged, progress).await;
                open = Some(OpenFile::create(&self.dir, files, self.file_bytes, &piece)?);
            }
            if let Some(file) = &mut open {
                file.write(&piece)?;
                if file.written == self.file_bytes
                    && let Some(file) = open.take()
                {
                    staged.push(self.deliver(file, user)?);
                }
            }
        }
        if let Some(file) = open.take() {
            staged.push(self.deliver(file, user)?);
        }
        Ok(())
    }

    fn deliver(&self, file: OpenFile, user: &OsUser) -> Result<(PathBuf, Offset)> {
        let OpenFile { file, path, name, start, .. } = file;
        // What the log does not fill is zeros, as in a file of the server's own.
        file.set_len(self.file_bytes).map_err(|e| Error::io("extend", &path, e))?;
        drop(file);
        user.own(&path)?;
        let place = self.dir.join("files").join(name);
        fs::rename(&path, &place).map_err(|e| Error::io("rename", &path, e))?;
        Ok((place, start))
    }

    async fn wait_for_room(&self, staged: &mut Vec<(PathBuf, Offset)>, progress: ReplayProgress<'_>) {
        let most = usize::try_from((AHEAD_BYTES_MAX / self.file_bytes).max(2)).unwrap_or(usize::MAX);
        loop {
            // A file of a timeline that the server leaves within it is never asked for, so
            // the taken ones are not always at the front.
            staged.retain(|(path, start)| {
                let waiting = path.exists();
                if !waiting {
                    progress(*start);
                }
                waiting
            });
            if staged.len() < most {
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
    written: u64,
}

impl OpenFile {
    fn create(dir: &Path, files: &PostgresLogFiles, file_bytes: u64, piece: &LogPiece) -> Result<Self> {
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
        let file = File::create(&path).map_err(|e| Error::io("create", &path, e))?;
        Ok(Self { file, path, name, timeline: piece.timeline, start, written: 0 })
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
