//! The log on its way to the private server: written as whole WAL files ahead of replay.
//!
//! The server asks for each file through its `restore_command`, a few lines of shell that
//! move the file into place (a rename: the bytes are written once). A file that is
//! planned but not there yet makes the command wait; one that is not planned is absent;
//! and once the feeder has failed every request fails with 255, which PostgreSQL takes
//! for an error and not for the end of the log.
//!
//! No more is staged than replay soon needs, except when the server waits for a file
//! further on: before all others it asks for the one that holds the record of the base's
//! checkpoint, which a long checkpoint wrote far behind the place where replay begins.
//!
//! A file the server is through with is taken back and written over, name and all:
//! otherwise the log of a long replay would fill memory and disk for nothing. What is
//! read twice must stay:
//! - what a transaction prepared in it still needs (`XlogReadTwoPhaseData`, `twophase.c`),
//!   so a log that prepares one is kept from there on;
//! - the last record before the cut (`FinishWalRecovery`, `xlogrecovery.c`), which may fill
//!   many files, so one is kept until a later record has come whole;
//! - the record of the base's checkpoint, so files count as read in the order of the log
//!   only.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::files::PostgresLogFiles;
use super::super::wal::name::format_lsn;
use super::super::wal::{NewTablespace, WalScanner};
use crate::engine::os_user::OsUser;
use crate::engine::{Detail, LogFile, LogFiles, LogPiece, LogReader, RecoveryJob, ReplayProgress, ScanStart, Scanner};
use crate::error::{Error, Result};
use crate::model::offset::Offset;
use crate::model::timeline::TimelineId;
use crate::shell::restore_command_word;

/// Raw bytes staged ahead of replay.
const AHEAD_BYTES_MAX: u64 = 128 << 20;

/// Files the server took last, which it may still read: the present one, that in which
/// the record at its beginning starts, one to spare, and the two in which the record of
/// the base's checkpoint may lie, since those were taken before their turn.
const STILL_READ: usize = 5;

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
    [ -e "histories/$1" ] || exit 1
    cp "histories/$1" "$OLDPWD/$2" && exit 0
    exit 255
    ;;
esac
while :; do
    [ -e failed ] && exit 255
    # Nobody feeds us any more: the restore was killed.
    [ -d "/proc/$feeder" ] || exit 255
    # Looked at first, for the mark goes away after the file has come. Asked for again, a
    # file is absent: the server then reads the copy it has.
    if [ -e "planned/$1" ]; then planned=1; else planned=; fi
    if [ -e "files/$1" ]; then
        [ -e wanted ] && rm -f wanted
        mv "files/$1" "$OLDPWD/$2" && exit 0
        exit 255
    fi
    [ "$planned" ] || exit 1
    [ -e wanted ] || printf %s "$1" >wanted
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
        for dir in [&dir, &dir.join("files"), &dir.join("histories"), &dir.join("planned")] {
            fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
        }
        let stage = Self { dir, file_bytes: job.identity.log_file_bytes };
        stage.write("fetch", SCRIPT.as_bytes())?;
        stage.write("feeder", std::process::id().to_string().as_bytes())?;
        let files = PostgresLogFiles::new(&job.identity);
        for history in &job.histories {
            stage.write(&format!("histories/{}", files.history_name(history.timeline)), history.native.as_bytes())?;
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

    /// The mark of a file that the server will ask for and that is not staged yet.
    fn planned(&self, name: &str) -> PathBuf {
        self.dir.join("planned").join(name)
    }

    /// Whether the server waits for a file that is not staged yet.
    fn is_waited_for(&self) -> bool {
        let wanted = fs::read_to_string(self.dir.join("wanted")).unwrap_or_default();
        !wanted.is_empty() && !self.staged(&wanted).exists()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.dir.join(name);
        fs::write(&path, bytes).map_err(|e| Error::io("write", &path, e))
    }

    /// The `restore_command`.
    #[must_use]
    pub(super) fn command(&self) -> String {
        // Most files are there when they are asked for, and each process costs replay a
        // millisecond: the script is for the others.
        let dir = restore_command_word(&self.dir.display().to_string());
        format!("mv {dir}/files/'%f' '%p' 2>/dev/null || /bin/sh {dir}/fetch '%f' '%p'")
    }

    /// Writes the log into whole files, at most [`AHEAD_BYTES_MAX`] ahead of replay.
    ///
    /// # Errors
    /// From the reader (a damaged or missing object), or from the disk; [`crate::Kind::Config`]
    /// for a tablespace that has no directory to go to. The server then gets no more log.
    pub(super) async fn feed(
        &self,
        job: &RecoveryJob,
        user: &OsUser,
        mut log: Box<dyn LogReader>,
        progress: ReplayProgress<'_>,
    ) -> Result<()> {
        let mut feeder = Feeder::new(self, job, user, progress);
        let result = feeder.feed(log.as_mut()).await;
        if let Err(error) = result {
            self.write("failed", b"")?;
            return Err(error);
        }
        self.unmark()
    }

    /// Takes away the marks of files that have not come and will not: all the log is fed,
    /// so whoever waits for one would wait for ever. Where replay ended is judged later.
    fn unmark(&self) -> Result<()> {
        let dir = self.dir.join("planned");
        for entry in fs::read_dir(&dir).map_err(|e| Error::io("read", &dir, e))? {
            let path = entry.map_err(|e| Error::io("read", &dir, e))?.path();
            tracing::debug!("{} was planned, but the log ended before it", path.display());
            fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
        Ok(())
    }
}

/// Writes staged files.
struct Feeder<'a> {
    stage: &'a Stage,
    job: &'a RecoveryJob,
    user: &'a OsUser,
    progress: ReplayProgress<'a>,
    files: PostgresLogFiles,
    /// Whole files, in the order of the log, from the first that the server has not
    /// taken yet.
    staged: VecDeque<Staged>,
    /// Those before it, which are in the server's hands.
    taken: VecDeque<Staged>,
    /// Looks for what replay does beside changing data.
    scanner: WalScanner,
    timeline: TimelineId,
    /// Whether the log so far prepared a transaction.
    prepared: bool,
    /// Directories made for tablespaces.
    made: Vec<PathBuf>,
}

/// A whole file in the staging directory.
struct Staged {
    name: String,
    start: Offset,
}

impl<'a> Feeder<'a> {
    fn new(stage: &'a Stage, job: &'a RecoveryJob, user: &'a OsUser, progress: ReplayProgress<'a>) -> Self {
        Self {
            stage,
            job,
            user,
            progress,
            files: PostgresLogFiles::new(&job.identity),
            staged: VecDeque::new(),
            taken: VecDeque::new(),
            scanner: Self::scanner(job, TimelineId(0), Offset::ZERO),
            timeline: TimelineId(0),
            prepared: false,
            made: Vec::new(),
        }
    }

    fn scanner(job: &RecoveryJob, timeline: TimelineId, start: Offset) -> WalScanner {
        WalScanner::new(&job.identity, timeline, ScanStart::LogFile(start), Detail::Marks).with_tablespaces()
    }

    async fn feed(&mut self, log: &mut dyn LogReader) -> Result<()> {
        let mut open: Option<OpenFile> = None;
        while let Some(piece) = log.next().await? {
            self.look_into(&piece)?;
            let same = open.as_ref().is_some_and(|file| file.takes(&piece));
            if !same {
                if let Some(file) = open.take() {
                    self.deliver(file)?;
                }
                self.wait_for_room().await;
                open = Some(self.open(&piece)?);
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

    /// Reads a piece before the server sees it: stops the recycling of files from the
    /// first prepared transaction on, and makes sure of the directories of tablespaces.
    fn look_into(&mut self, piece: &LogPiece) -> Result<()> {
        if self.timeline != piece.timeline || self.scanner.offset() != piece.start {
            self.timeline = piece.timeline;
            self.scanner = Self::scanner(self.job, piece.timeline, piece.start);
        }
        self.scanner.feed(&piece.bytes, &mut Vec::new())?;
        self.prepared |= self.scanner.has_prepared();
        self.scanner.take_tablespaces().into_iter().try_for_each(|tablespace| self.make_tablespace(&tablespace))
    }

    /// A server that replays the making of a tablespace uses the directory it had on the
    /// source, whatever is in it now (`tblspc_redo`, `src/backend/commands/tablespace.c`):
    /// the files of a living server, perhaps. So that directory must be empty.
    fn make_tablespace(&mut self, tablespace: &NewTablespace) -> Result<()> {
        let at = format_lsn(tablespace.at);
        let Some(directory) = &tablespace.directory else {
            return Err(Error::corruption(format!("WAL at {at} makes a tablespace in a way that is not known")));
        };
        // An empty name is one inside the data directory (`allow_in_place_tablespaces`).
        let known = self.job.outside.iter().chain(&self.made).any(|known| known == directory);
        if directory.as_os_str().is_empty() || known {
            return Ok(());
        }
        fs::create_dir_all(directory).map_err(|e| Error::io("create tablespace directory", directory, e))?;
        let mut entries = fs::read_dir(directory).map_err(|e| Error::io("read", directory, e))?;
        if entries.next().is_some() {
            return Err(Error::config(format!(
                "the log makes a tablespace in {} (at {at}), which is not empty",
                directory.display()
            ))
            .hint(
                "is it the tablespace of a living server? restore on another machine, or to a moment before it \
                 was made, or to one after the next base, whose tablespaces can be mapped; empty the directory if it \
                 is only what an earlier restore left",
            ));
        }
        self.user.own(directory)?;
        self.made.push(directory.clone());
        Ok(())
    }

    /// Takes back the oldest file, if the server is through with it.
    fn take_back(&mut self) -> Option<PathBuf> {
        if self.prepared {
            return None;
        }
        let last_record = self.scanner.last_record()?;
        let file = self.taken.front().filter(|_| self.taken.len() > STILL_READ)?;
        if last_record.since(file.start) < self.stage.file_bytes {
            return None;
        }
        let file = self.taken.pop_front()?;
        Some(self.job.dir.join("pg_wal").join(file.name))
    }

    fn open(&mut self, piece: &LogPiece) -> Result<OpenFile> {
        let spent = self.take_back();
        OpenFile::create(&self.stage.dir, &self.files, self.stage.file_bytes, piece, spent)
    }

    fn deliver(&mut self, file: OpenFile) -> Result<()> {
        let OpenFile { file, path, name, start, written, .. } = file;
        // What the log does not fill is zeros, as in a file of the server's own.
        file.set_len(written)
            .and_then(|()| file.set_len(self.stage.file_bytes))
            .map_err(|e| Error::io("extend", &path, e))?;
        drop(file);
        self.user.own(&path)?;
        // The last file of a timeline that the server leaves within it is never asked for.
        let planned = self.stage.planned(&name);
        let asked_for = planned.exists();
        fs::rename(&path, self.stage.staged(&name)).map_err(|e| Error::io("rename", &path, e))?;
        if asked_for {
            // Not before: the server takes a file that is neither here nor planned for absent.
            fs::remove_file(&planned).map_err(|e| Error::io("remove", &planned, e))?;
            self.staged.push_back(Staged { name, start });
        }
        Ok(())
    }

    async fn wait_for_room(&mut self) {
        let most = usize::try_from((AHEAD_BYTES_MAX / self.stage.file_bytes).max(2)).unwrap_or(usize::MAX);
        loop {
            while let Some(file) = self.staged.pop_front_if(|file| !self.stage.staged(&file.name).exists()) {
                (self.progress)(file.start);
                self.taken.push_back(file);
            }
            if self.staged.len() < most || self.stage.is_waited_for() {
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
    /// Begins the file in which `piece` lies, over the file `spent` if there is one.
    fn create(
        dir: &Path,
        files: &PostgresLogFiles,
        file_bytes: u64,
        piece: &LogPiece,
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::cluster::Identity;
    use crate::model::timeline::{Ancestor, History};

    /// What the server gets when it asks for a file.
    fn asked(stage: &Stage, name: &str, to: &Path) -> Option<i32> {
        let mut command = std::process::Command::new("/bin/sh");
        command.arg(stage.dir.join("fetch")).args([name, "taken"]).current_dir(to).status().unwrap().code()
    }

    /// A replay from `start` to `cut`, with files of 1 MiB, along the timelines that
    /// were left where `ancestors` say.
    pub(in crate::engine::postgres::recover) fn job(
        scratch: &Path,
        timeline: u32,
        ancestors: &[(u32, u64)],
        start: u64,
        cut: u64,
    ) -> RecoveryJob {
        let identity = Identity::some(1 << 20);
        let ancestors: Vec<Ancestor> = ancestors
            .iter()
            .map(|&(timeline, switch)| Ancestor { timeline: TimelineId(timeline), switch: Offset(switch) })
            .collect();
        let history = History { timeline: TimelineId(timeline), ancestors, native: "1\t0/500064\tx\n".into() };
        RecoveryJob {
            exclude: Vec::new(),
            dir: scratch.join("data"),
            scratch: scratch.join("run"),
            identity,
            timeline: TimelineId(timeline),
            histories: Some(history).into_iter().filter(|history| !history.ancestors.is_empty()).collect(),
            data_bytes: 0,
            outside: Vec::new(),
            start: Offset(start),
            cut: Offset(cut),
            bin_dir: None,
            os_user: None,
        }
    }

    /// The files a server is made to wait for.
    fn planned(ancestors: &[(u32, u64)], start: u64, cut: u64) -> Vec<String> {
        let scratch = tempfile::tempdir().unwrap();
        let timeline = ancestors.last().map_or(1, |(parent, _)| parent + 1);
        let stage = Stage::create(&job(scratch.path(), timeline, ancestors, start, cut)).unwrap();
        let names = fs::read_dir(stage.dir.join("planned")).unwrap();
        let mut names: Vec<String> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    const FILE: u64 = 1 << 20;

    #[test]
    fn the_files_from_where_replay_begins_to_the_cut_are_planned() {
        let files = ["000000010000000000000005", "000000010000000000000006"];
        assert_eq!(planned(&[], 5 * FILE + 40, 6 * FILE + 1), files);
        assert_eq!(planned(&[], 5 * FILE, 7 * FILE), files, "a cut at a file's end needs no byte of the next");
        assert_eq!(planned(&[], 5 * FILE, 6 * FILE), files[..1]);
    }

    /// A child's first file holds its parent's part, too; the server asks for it by the
    /// child's name.
    #[test]
    fn a_file_in_which_a_timeline_begins_is_planned_by_its_name() {
        let (first, last) = ("000000010000000000000004", "000000020000000000000005");
        assert_eq!(planned(&[(1, 5 * FILE + 100)], 4 * FILE, 6 * FILE), [first, last]);
        assert_eq!(planned(&[(1, 5 * FILE)], 4 * FILE, 6 * FILE), [first, last], "a switch at a file's end");
        assert_eq!(planned(&[(1, 5 * FILE + 1), (2, 5 * FILE + 9)], 5 * FILE, 6 * FILE), ["000000030000000000000005"]);
    }

    #[test]
    fn a_history_is_given_as_often_as_it_is_asked_for_and_another_one_is_absent() {
        let scratch = tempfile::tempdir().unwrap();
        let stage = Stage::create(&job(scratch.path(), 2, &[(1, 5 * FILE + 100)], 4 * FILE, 6 * FILE)).unwrap();
        for _ in 0..2 {
            assert_eq!(asked(&stage, "00000002.history", scratch.path()), Some(0));
            assert_eq!(fs::read(scratch.path().join("taken")).unwrap(), b"1\t0/500064\tx\n");
        }
        assert_eq!(asked(&stage, "00000003.history", scratch.path()), Some(1));
    }

    /// And with a code that no server takes for the end of the log.
    #[test]
    fn once_the_feeder_has_failed_every_request_fails() {
        let scratch = tempfile::tempdir().unwrap();
        let stage = Stage::create(&job(scratch.path(), 1, &[], 5 * FILE, 7 * FILE)).unwrap();
        fs::write(stage.staged("000000010000000000000005"), b"log").unwrap();
        stage.write("failed", b"").unwrap();
        for name in ["000000010000000000000005", "000000010000000000000006", "000000010000000000000009"] {
            assert_eq!(asked(&stage, name, scratch.path()), Some(255), "{name}");
        }
    }

    #[test]
    fn nothing_is_waited_for_once_all_log_is_fed() {
        let scratch = tempfile::tempdir().unwrap();
        let job = job(scratch.path(), 1, &[], 5 << 20, (6 << 20) + 100);
        let stage = Stage::create(&job).unwrap();
        let (came, missing) = ("000000010000000000000005", "000000010000000000000006");
        assert!(stage.planned(came).exists() && stage.planned(missing).exists());
        fs::write(stage.staged(came), b"log").unwrap();
        stage.unmark().unwrap();
        assert_eq!(asked(&stage, came, scratch.path()), Some(0));
        assert_eq!(fs::read(scratch.path().join("taken")).unwrap(), b"log");
        assert_eq!(asked(&stage, missing, scratch.path()), Some(1), "and not after ever so long");
    }

    /// Gives these pieces, and then fails or ends.
    struct Pieces(VecDeque<LogPiece>, Option<Error>);

    #[async_trait::async_trait]
    impl LogReader for Pieces {
        async fn next(&mut self) -> Result<Option<LogPiece>> {
            match self.0.pop_front() {
                Some(piece) => Ok(Some(piece)),
                None => self.1.take().map_or(Ok(None), Err),
            }
        }
    }

    /// A server must never take the log that is missing for the end of the log.
    #[tokio::test]
    async fn a_reader_that_fails_fails_every_request_and_one_that_ends_makes_none_wait() {
        let scratch = tempfile::tempdir().unwrap();
        let job = job(scratch.path(), 1, &[], 5 * FILE, 6 * FILE);
        let (stage, user) = (Stage::create(&job).unwrap(), super::super::os_user(&job).unwrap());
        let fed = async |error| stage.feed(&job, &user, Box::new(Pieces(VecDeque::new(), error)), &|_| ()).await;
        let failed = fed(Some(Error::corruption("damaged"))).await;
        assert_eq!(failed.unwrap_err().kind(), crate::Kind::Corruption);
        assert_eq!(asked(&stage, "000000010000000000000005", scratch.path()), Some(255));
        fs::remove_file(stage.dir.join("failed")).unwrap();
        fed(None).await.unwrap();
        assert_eq!(asked(&stage, "000000010000000000000005", scratch.path()), Some(1));
    }

    /// Behind the cut there is nothing, whatever the file held that is written over.
    #[test]
    fn a_file_that_is_used_again_keeps_nothing_of_what_it_held() {
        let scratch = tempfile::tempdir().unwrap();
        let job = job(scratch.path(), 1, &[], 5 * FILE, 5 * FILE + 3);
        let (stage, user) = (Stage::create(&job).unwrap(), super::super::os_user(&job).unwrap());
        let mut feeder = Feeder::new(&stage, &job, &user, &|_| ());
        let spent = scratch.path().join("spent");
        fs::write(&spent, vec![7; FILE as usize]).unwrap();
        let piece = LogPiece { timeline: TimelineId(1), start: Offset(5 * FILE), bytes: "log".into() };
        let mut file = OpenFile::create(&stage.dir, &feeder.files, FILE, &piece, Some(spent.clone())).unwrap();
        assert!(!spent.exists());
        file.write(&piece).unwrap();
        feeder.deliver(file).unwrap();
        let staged = fs::read(stage.staged("000000010000000000000005")).unwrap();
        assert!(staged.len() as u64 == FILE && staged.starts_with(b"log") && staged[3..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_log_file_without_its_beginning_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let job = job(scratch.path(), 1, &[], 5 * FILE, 6 * FILE);
        let files = PostgresLogFiles::new(&job.identity);
        let piece = LogPiece { timeline: TimelineId(1), start: Offset(5 * FILE + 9), bytes: "log".into() };
        let error = OpenFile::create(scratch.path(), &files, FILE, &piece, None).err().unwrap();
        assert_eq!(error.kind(), crate::Kind::Corruption);
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_goes_on_only_with_what_follows_on_its_timeline() {
        let scratch = tempfile::tempdir().unwrap();
        let job = job(scratch.path(), 1, &[], 5 * FILE, 6 * FILE);
        let files = PostgresLogFiles::new(&job.identity);
        let piece =
            |timeline, start| LogPiece { timeline: TimelineId(timeline), start: Offset(start), bytes: "log".into() };
        let mut file = OpenFile::create(scratch.path(), &files, FILE, &piece(1, 5 * FILE), None).unwrap();
        file.write(&piece(1, 5 * FILE)).unwrap();
        assert!(file.takes(&piece(1, 5 * FILE + 3)));
        for (timeline, start) in [(2, 5 * FILE + 3), (1, 5 * FILE + 4), (1, 5 * FILE)] {
            assert!(!file.takes(&piece(timeline, start)));
        }
    }
}
