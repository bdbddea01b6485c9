//! The two ends of the pipe: the only place that knows a database.
//!
//! An [`Engine`] is the whole of "a database" for the rest of the program. A third
//! engine is one more folder beside this file and one more line in [`by_name`] and
//! [`by_url`]; store, segment and plan do not change.

use std::cmp::Ordering;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use secrecy::SecretString;
use serde::Serialize;

use crate::catalog::SegmentInfo;
use crate::error::{Error, Kind, Result};
use crate::model::changes::Changes;
use crate::model::cluster::{Identity, ServerState};
use crate::model::mark::Mark;
use crate::model::offset::{Offset, OffsetRange};
use crate::model::position::{Position, Resume};
use crate::model::target::Target;
use crate::model::time::Timestamp;
use crate::model::timeline::{History, TimelineId};

pub mod mysql;
pub mod os_user;
mod percent;
pub mod postgres;
pub mod stream;
pub mod throwaway;
pub mod tls;

/// One kind of database.
#[async_trait]
pub trait Engine: Send + Sync {
    /// The name kept in `cluster.json`, e.g. `postgres`.
    fn name(&self) -> &'static str;

    /// Who counts the offsets of the log.
    fn axis(&self) -> Axis;

    /// Connects for replication. `slot` names the server-side promise to keep the
    /// log, where the engine has one.
    ///
    /// # Errors
    /// [`Kind::DatabaseUnreachable`] when the server cannot be reached or refuses
    /// us, [`Kind::Config`] when the settings are wrong.
    async fn connect(&self, url: &str, options: &SourceOptions) -> Result<Box<dyn Source>>;

    /// A scanner of log bytes that begins at `start` of `timeline`.
    fn scanner(&self, identity: &Identity, timeline: TimelineId, start: ScanStart, detail: Detail) -> Box<dyn Scanner>;

    /// Reads the engine's own target terms.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a value that is not one, or a term the engine lacks.
    fn locator(&self, target: &Target) -> Result<Box<dyn Locator>>;

    /// An offset as people are told of it.
    fn position(&self, offset: Offset) -> Position;

    /// A place as people look it up on the server, where offsets are the archive's own
    /// ([`Axis::Archive`]).
    fn place(&self, position: &Position) -> String {
        position.to_string()
    }

    /// Whether every transaction that lies before `place` lies before `end`, too: positions
    /// in the engine's words, as a [`Scanner`] gives them.
    ///
    /// # Errors
    /// [`Kind::Corruption`] for a position that is none.
    fn reaches(&self, end: &Position, place: &Position) -> Result<bool>;

    /// How a position, as a [`Scanner`] gives it, lies to a place in the server's files as people
    /// write it (`--target-position FILE:POSITION`); `None` where nothing tells, as with another
    /// server's files.
    ///
    /// # Errors
    /// [`Kind::Usage`] for text that is no such place, and for an engine without such places;
    /// [`Kind::Corruption`] for a position that is none.
    fn compare(&self, _position: &Position, _place: &str) -> Result<Option<Ordering>> {
        Err(Error::usage(format!("--target-position is not a term of {}", self.name())))
    }

    /// Reads a position in the engine's words (`pitr archive --until`).
    ///
    /// # Errors
    /// [`Kind::Usage`] for text that is none.
    fn parse_position(&self, text: &str) -> Result<Offset>;

    /// How the raw log lies in the server's own files.
    fn log_files(&self, identity: &Identity) -> Box<dyn LogFiles>;

    /// Asks a live server everything `pitr check` and `pitr status` print.
    ///
    /// # Errors
    /// As [`Engine::connect`].
    async fn inspect(&self, url: &str, options: &SourceOptions) -> Result<Vec<Finding>>;

    /// Asks a live server how the slot of `options` stands; `None` for an engine without
    /// slots, or without a name.
    ///
    /// # Errors
    /// As [`Engine::connect`], and when the role may not see it.
    async fn slot(&self, url: &str, options: &SourceOptions) -> Result<Option<SlotStatus>>;

    /// Whether an archiver streams from a live server now. To stream beside it would put an end
    /// to it.
    ///
    /// # Errors
    /// As [`Engine::slot`].
    async fn has_archiver(&self, url: &str, options: &SourceOptions) -> Result<bool> {
        Ok(self.slot(url, options).await?.is_some_and(|slot| slot.active && slot.state != "unusable"))
    }

    /// The statements that give `user` exactly the privileges archiving needs.
    fn grants(&self, user: &str) -> String;

    /// Makes a restored directory into a database at the cut.
    fn recovery(&self) -> Box<dyn Recovery>;

    /// Serves the log to the engine's own replicas, as the server that wrote it would.
    ///
    /// # Errors
    /// [`Kind::Usage`] for an engine whose replicas get their log otherwise, [`Kind::Config`]
    /// when the address cannot be listened at.
    async fn serve(&self, _job: &ServeJob, _log: Arc<dyn LogSource>) -> Result<Box<dyn Serving>> {
        Err(Error::usage(format!("the replicas of {} are not served", self.name()))
            .hint("PostgreSQL's standbys fetch their log themselves: restore_command = 'pitr ... wal-fetch %f \"%p\"'"))
    }

    /// Has a server that runs already replay the log from where it stands.
    ///
    /// # Errors
    /// [`Kind::Usage`] for an engine that cannot, [`Kind::Config`] for a server to which the
    /// log does not belong or that is not ours to steer; what the server says.
    async fn replay_to(&self, _job: &LiveJob, _log: Arc<dyn LogSource>, _progress: ReplayProgress<'_>) -> Result<()> {
        Err(Error::usage(format!("a server of {} that runs already takes no log", self.name()))
            .hint("restore into a directory with --to, and start a server on it"))
    }
}

/// How the log is served.
#[derive(Clone, Debug)]
pub struct ServeJob {
    /// Which system's log it is.
    pub identity: Identity,
    /// Where to listen.
    pub listen: SocketAddr,
    /// The account with which replicas log in.
    pub user: String,
    /// Its password.
    pub password: SecretString,
    /// Transactions to leave out, in the engine's words.
    pub exclude: Vec<String>,
}

/// Serves replicas until it is dropped.
pub trait Serving: Send {
    /// Where it listens.
    fn address(&self) -> SocketAddr;

    /// What makes a server a replica of it, as statements.
    fn statements(&self) -> String;
}

/// What an engine needs to replay into a server that runs.
#[derive(Clone, Debug)]
pub struct LiveJob {
    /// Which system's log it is.
    pub identity: Identity,
    /// The server.
    pub url: String,
    /// Where the server reaches us; by itself, the address from which we reach it.
    pub listen: Option<SocketAddr>,
    /// The log begins here.
    pub start: Offset,
    /// Replay up to here and no further.
    pub cut: Offset,
    /// The same in the engine's words.
    pub end: Position,
    /// Transactions to leave out, in the engine's words.
    pub exclude: Vec<String>,
}

/// Who counts the offsets of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// The server: an offset is its own position, and it numbers its timelines.
    Server,
    /// The archive: offsets count the bytes it holds, and it begins a new timeline when the
    /// server's log is not the one that it knows. The server's own position rides along.
    Archive,
}

/// How to connect a [`Source`].
#[derive(Clone, Debug, Default)]
pub struct SourceOptions {
    /// Name of the replication slot; `None` streams without one.
    pub slot: Option<String>,
    /// The name under which the server lists us (`application_name`).
    pub application_name: String,
    /// How long to wait for a connection.
    pub connect_timeout: Option<Duration>,
}

/// One line of `pitr check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, e.g. `slot`.
    pub subject: String,
    /// How it stands.
    pub level: Level,
    /// What was found.
    pub message: String,
    /// The cure, when it is not well.
    pub cure: Option<String>,
}

/// How a replication slot stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlotStatus {
    /// Its name.
    pub name: String,
    /// `missing`, `unusable` (of a kind that cannot be archived with), `unused` (keeps no
    /// log yet), or in the server's word how it keeps its promise: `reserved`, `extended`,
    /// `unreserved`, `lost`.
    pub state: String,
    /// Whether somebody streams with it.
    pub active: bool,
    /// From where on the server keeps log for it.
    pub restart: Option<Position>,
    /// How much log that is.
    pub kept_bytes: Option<i64>,
    /// How much more may come before the slot is lost, where there is a limit.
    pub safe_bytes: Option<i64>,
    /// The same in a sentence.
    pub message: String,
}

/// How a [`Finding`] stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// All is well.
    Ok,
    /// It works, but somebody should look.
    Warning,
    /// It does not work.
    Critical,
}

/// A replication connection.
#[async_trait]
pub trait Source: Send {
    /// Asks the server who and where it is.
    async fn identify(&mut self) -> Result<ServerState>;

    /// Makes sure the slot exists and tells the oldest offset that may be asked for with it:
    /// where an empty archive begins. `None` when the server cannot say. With [`Axis::Archive`]
    /// only the position counts.
    async fn prepare_slot(&mut self) -> Result<Option<Resume>>;

    /// Has the server keep its log from now on, for as long as what is returned lives.
    async fn keep_log(self: Box<Self>) -> Result<Kept>;

    /// Begins streaming at `from`.
    ///
    /// # Errors
    /// [`Kind::Absent`] when the server no longer has that log,
    /// [`Kind::NotRecoverable`] when `from` is not in this server's history.
    async fn stream(&mut self, from: &Resume) -> Result<()>;

    /// The next thing from the stream. Cancel safe: dropping the future loses
    /// nothing.
    async fn next(&mut self) -> Result<StreamEvent>;

    /// Tells the server how far the log has been received and made durable.
    /// `request_reply` asks it to answer with its own state at once.
    async fn ack(&mut self, received: Offset, durable: Offset, request_reply: bool) -> Result<()>;

    /// Ends the stream politely, so that the connection can be used again.
    async fn stop(&mut self) -> Result<()>;

    /// Where the server's log ends, where only the archive counts offsets; `None` where
    /// [`ServerState::log_end`] tells. `archived` is where the archive's log ends.
    async fn log_end(&mut self, _archived: Option<&Position>) -> Result<Option<LogEnd>> {
        Ok(None)
    }

    /// The history of a timeline, `None` for one without ancestors.
    async fn history(&mut self, timeline: TimelineId) -> Result<Option<History>>;

    /// Begins a base backup; its entries follow from [`BaseStream::next`].
    async fn base_backup(self: Box<Self>, options: &BaseOptions) -> Result<Box<dyn BaseStream>>;
}

/// Where a server's log ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// In the server's own words.
    pub position: Position,
    /// How many bytes of it are not archived, where that can be told.
    pub behind: Option<u64>,
}

/// The server keeps its log for as long as this lives: a connection over which nothing more
/// is asked, since the first thing the server refused could end the promise.
pub struct Kept {
    _by: Box<dyn Send>,
}

impl Kept {
    /// For as long as `connection` is there.
    pub fn by(connection: impl Send + 'static) -> Self {
        Self { _by: Box::new(connection) }
    }
}

/// What comes out of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// Log bytes that begin at `start`.
    Data {
        /// Offset of the first byte.
        start: Offset,
        /// The bytes.
        bytes: Bytes,
        /// The end of the server's durable log when it sent them.
        log_end: Offset,
        /// The server's clock when it sent them.
        time: Timestamp,
    },
    /// The server is alive.
    Keepalive {
        /// The end of the server's log.
        log_end: Offset,
        /// The server's clock.
        time: Timestamp,
        /// Whether it wants an [`Source::ack`] at once.
        reply_requested: bool,
        /// Whether `log_end` is the end of all its log, and not only of what it has sent.
        idle: bool,
    },
    /// Everything is here that the server had when the stream began, at `time` by its clock.
    CaughtUp {
        /// Where that ends.
        log_end: Offset,
        /// The server's clock when the stream began.
        time: Timestamp,
    },
    /// This timeline ends here; go on with the next one.
    TimelineEnd {
        /// The timeline that follows.
        next: TimelineId,
        /// The first offset that belongs to it.
        at: Offset,
    },
    /// The server ended the stream without saying why (shutdown).
    Ended,
}

/// Where a [`Scanner`] begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanStart {
    /// Exactly at the end of a whole record.
    Boundary(Offset),
    /// At the start of a log file, perhaps inside a record that began before: the
    /// rest of that record is skipped, unchecked.
    LogFile(Offset),
}

/// Which marks a [`Scanner`] reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Transactions and restore points.
    Marks,
    /// The same, and [`Scanner::take_changes`] tells what they did, where the engine can tell.
    Changes,
    /// Every record.
    Records,
}

/// Reads log bytes as they pass: verifies every record and reports marks. Holds no
/// socket and does no I/O.
pub trait Scanner: Send + Sync {
    /// Takes the next bytes, which must follow those fed before, and appends what
    /// they complete to `marks`.
    ///
    /// # Errors
    /// [`Kind::Corruption`] naming the offset of the first record that is not sound.
    /// The scanner is then of no more use; [`Scanner::boundary`] stays true.
    fn feed(&mut self, bytes: &[u8], marks: &mut Vec<Mark>) -> Result<()>;

    /// Where the last whole, verified record ends.
    fn boundary(&self) -> Offset;

    /// The offset of the next byte [`Scanner::feed`] expects.
    fn offset(&self) -> Offset;

    /// The boundary in the engine's words, and how much behind it has been read, where that
    /// is more than the offset tells and where it is known.
    fn position(&self) -> Option<Position> {
        None
    }

    /// What the transactions did to tables that ended since this was last asked, for a scanner of
    /// [`Detail::Changes`].
    fn take_changes(&mut self) -> Changes {
        Changes::default()
    }

    /// Tells the scanner, before it is fed, where it begins in the engine's words.
    ///
    /// # Errors
    /// [`Kind::Corruption`] for a position that is none.
    fn set_position(&mut self, _position: &Position) -> Result<()> {
        Ok(())
    }
}

/// A target in the engine's own terms, as predicates.
pub trait Locator: Send + Sync {
    /// Whether the point may lie in this segment.
    fn may_hold(&self, segment: &SegmentInfo) -> bool;

    /// Whether this mark is the point.
    fn is(&self, mark: &Mark) -> bool;

    /// Which marks the scan must report for [`Locator::is`] to find the point.
    fn detail(&self) -> Detail {
        Detail::Marks
    }
}

/// How the raw log lies in the server's own files.
pub trait LogFiles: Send + Sync {
    /// The file that holds the byte at `offset`.
    fn name(&self, timeline: TimelineId, offset: Offset) -> String;

    /// What a file name means.
    fn parse(&self, name: &str) -> Option<LogFile>;

    /// The identity of the system a log file is of, from its first bytes.
    fn system(&self, bytes: &[u8]) -> Option<String>;

    /// The name of a timeline's history file, where the engine has such a thing.
    fn history_name(&self, timeline: TimelineId) -> String;

    /// Reads the server's own history file (see [`History::native`]).
    ///
    /// # Errors
    /// [`Kind::Corruption`] for text that is none.
    fn parse_history(&self, timeline: TimelineId, native: &str) -> Result<History>;

    /// Writes the server's files into `dir` out of a timeline's log, where only the log itself
    /// tells where in it they lie.
    fn unpack(&self, _dir: &Path) -> Option<Box<dyn Unpack>> {
        None
    }
}

/// Writes the server's files.
pub trait Unpack: Send {
    /// Takes the next bytes of the log.
    ///
    /// # Errors
    /// [`Kind::Corruption`] for bytes that are no log; what the disk says.
    fn feed(&mut self, bytes: &[u8]) -> Result<()>;

    /// Ends the last file, and tells what was written.
    ///
    /// # Errors
    /// What the disk says.
    fn finish(self: Box<Self>) -> Result<Unpacked>;
}

/// What an [`Unpack`] has written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files from their beginning on.
    pub files: u64,
    /// Files of which the log does not hold the beginning.
    pub partial_files: u64,
    /// Bytes of both.
    pub bytes: u64,
}

/// What a file name of the server means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogFile {
    /// A log file: a range of a timeline.
    Log {
        /// Its timeline.
        timeline: TimelineId,
        /// The bytes it holds.
        range: OffsetRange,
    },
    /// A timeline's history.
    History(TimelineId),
    /// A file the archive never holds (`.backup`, `.partial`).
    Other,
}

/// What a base backup asks of the server.
#[derive(Clone, Debug, Default)]
pub struct BaseOptions {
    /// The label the server keeps with it.
    pub label: String,
    /// Start at once with an immediate checkpoint instead of a spread one.
    pub fast_checkpoint: bool,
    /// How the files are got.
    pub method: Method,
}

/// How a base backup gets the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// The best there is for this server, from here.
    #[default]
    Auto,
    /// MySQL's `CLONE LOCAL DATA DIRECTORY`.
    Clone,
    /// MariaDB's `mariadb-backup`.
    MariadbBackup,
    /// Percona's `xtrabackup`.
    Xtrabackup,
    /// Statements only.
    Logical,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Clone => "clone",
            Self::MariadbBackup => "mariadb-backup",
            Self::Xtrabackup => "xtrabackup",
            Self::Logical => "logical",
        })
    }
}

/// A running base backup.
#[async_trait]
pub trait BaseStream: Send {
    /// The next entry; `None` after [`BaseEvent::End`].
    async fn next(&mut self) -> Result<Option<BaseEvent>>;
}

/// What comes out of a base backup, in this order: `Start`, entries, `End`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseEvent {
    /// The backup has begun.
    Start {
        /// The timeline it is on and where replay begins; `None` where only the end tells.
        start: Option<(TimelineId, Offset)>,
        /// Roughly how many bytes will come.
        estimated_bytes: Option<u64>,
        /// Tablespaces outside the data directory: link name (`pg_tblspc/16400`) and
        /// the directory it points to.
        tablespaces: Vec<(String, String)>,
    },
    /// A directory, by path relative to the data directory.
    Directory(EntryMeta),
    /// A symbolic link other than a tablespace's.
    Symlink(EntryMeta, String),
    /// A file begins; its bytes follow as `Data` until `FileEnd`, perhaps with those of other
    /// files between them.
    File {
        /// What its bytes are known by; free again when it has ended.
        file: u32,
        /// Its name and attributes.
        meta: EntryMeta,
        /// How many bytes it has, where that is known before.
        size: Option<u64>,
    },
    /// The next bytes of an open file.
    Data {
        /// Which.
        file: u32,
        /// The bytes.
        bytes: Bytes,
    },
    /// An open file is complete.
    FileEnd {
        /// Which.
        file: u32,
    },
    /// The backup is complete and matches what the server said of it.
    End {
        /// From here on the backup is consistent.
        end: BaseEnd,
        /// The server's clock when the backup ended, if it told.
        time: Option<Timestamp>,
    },
}

/// Where a base backup is consistent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseEnd {
    /// From this offset on.
    Offset(Offset),
    /// Exactly at this position in the engine's words, where its replay begins, too.
    Position(Position),
    /// At a position that only a server started on the base can tell, not before `start` and
    /// not behind `end`. Replay begins at `start` and passes over what the base has already.
    Between {
        /// Every transaction before it is in the base.
        start: Position,
        /// No transaction behind it is.
        end: Position,
    },
}

/// Name and attributes of an entry of a base backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryMeta {
    /// Relative to the data directory, `/` between components; files of a tablespace
    /// are under its link name (`pg_tblspc/16400/...`).
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Modification time, seconds since the Unix epoch.
    pub mtime: i64,
}

/// Yields the planned log in order, verified.
#[async_trait]
pub trait LogReader: Send {
    /// The next piece, `None` at the end.
    async fn next(&mut self) -> Result<Option<LogPiece>>;
}

/// The log to be replayed, to be read as often as need be.
#[async_trait]
pub trait LogSource: Send + Sync {
    /// Begins to read: from its start, or somewhat before the first of what a reader lacks.
    ///
    /// # Errors
    /// [`Kind::NotRecoverable`] when a reader lacks what lies before it; from the store.
    async fn open(&self, has: Has<'_>) -> Result<Box<dyn LogReader>>;
}

/// Whether a reader of the log has everything that lies before a position. Where that is so for
/// one, it is for all positions before it.
pub type Has<'a> = &'a (dyn Fn(&Position) -> bool + Send + Sync);

/// Verified raw log bytes.
#[derive(Clone, Debug)]
pub struct LogPiece {
    /// Their timeline.
    pub timeline: TimelineId,
    /// Offset of the first byte.
    pub start: Offset,
    /// The bytes.
    pub bytes: Bytes,
}

/// What an engine needs to finish a restore.
#[derive(Clone, Debug)]
pub struct RecoveryJob {
    /// The directory in which the base lies.
    pub dir: PathBuf,
    /// A private directory for sockets, settings and staged log, beside `dir`.
    pub scratch: PathBuf,
    /// Which system this is.
    pub identity: Identity,
    /// The timeline that holds the last byte before `cut`, on which replay ends.
    pub timeline: TimelineId,
    /// Histories of every timeline the archive knows.
    pub histories: Vec<History>,
    /// Bytes of the base's files.
    pub data_bytes: u64,
    /// Directories outside of `dir` in which parts of the base lie.
    pub outside: Vec<PathBuf>,
    /// Replay from here.
    pub start: Offset,
    /// Replay up to here and no further.
    pub cut: Offset,
    /// Transactions to leave out on the way, in the engine's words.
    pub exclude: Vec<String>,
    /// Where the server's programs are; `None` looks in the usual places.
    pub bin_dir: Option<PathBuf>,
    /// User to run servers as when started by root.
    pub os_user: Option<String>,
}

/// What recovery reports while it runs.
pub type ReplayProgress<'a> = &'a (dyn Fn(Offset) + Send + Sync);

/// Turns a laid-out base and the log into a database at the cut.
#[async_trait]
pub trait Recovery: Send + Sync {
    /// Finds the server's programs and refuses, before anything is written, what
    /// could not work: wrong version, wrong user.
    ///
    /// # Errors
    /// [`Kind::Config`] with the missing piece named.
    fn preflight(&self, job: &RecoveryJob) -> Result<()>;

    /// Refuses a directory whose contents are not a database of this system, which a
    /// restore over it (`--delta`) would remove.
    ///
    /// # Errors
    /// [`Kind::Config`] when it is anything else.
    fn check_overwritable(&self, dir: &Path, identity: &Identity) -> Result<()>;

    /// Ends what a restore that was killed left running on `dir`, which nothing tells in the
    /// directory itself (a `postmaster.pid` there does).
    ///
    /// # Errors
    /// [`Kind::Config`] naming the process that does not end.
    fn stop_orphans(&self, _dir: &Path) -> Result<()> {
        Ok(())
    }

    /// Replays the log with a private server that nobody else can reach, and leaves a
    /// cleanly shut down, ordinary data directory at exactly the cut. Gives the directories
    /// outside of it that belong to it, which are to be synced with it.
    ///
    /// # Errors
    /// [`Kind::Config`] when the log would write to a directory that holds something
    /// already; otherwise from the log or the server.
    async fn run(
        &self,
        job: &RecoveryJob,
        log: Arc<dyn LogSource>,
        progress: ReplayProgress<'_>,
    ) -> Result<Vec<PathBuf>>;

    /// Writes recovery settings for a server elsewhere (`--no-recover`).
    /// `fetch_command` is the `restore_command` to put in: what it delivers ends at the
    /// cut, so recovery needs no other target.
    ///
    /// # Errors
    /// [`Kind::Failure`] when the settings cannot be written.
    fn lay_out(&self, job: &RecoveryJob, fetch_command: &str) -> Result<()>;

    /// What whoever starts a server on the restored `dir` has to know, a sentence each.
    fn notes(&self, dir: &Path) -> Vec<String>;

    /// Starts the recovered directory privately and leaves it running.
    async fn start(&self, job: &RecoveryJob, dir: &Path) -> Result<Running>;
}

/// How to reach a server that was left running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// As a source URL.
    pub url: String,
    /// A command that connects a person to it.
    pub command: String,
}

/// The engine with this name.
///
/// # Errors
/// [`Kind::Config`] for a name this program does not know.
pub fn by_name(name: &str) -> Result<Box<dyn Engine>> {
    match name {
        "postgres" => Ok(Box::new(postgres::Postgres)),
        "mysql" => Ok(Box::new(mysql::MySql)),
        other => Err(Error::new(Kind::Config, format!("engine {other:?} is not known to this version of pitr"))
            .hint("was the archive made by a newer pitr?")),
    }
}

/// The engine that speaks for this source URL.
///
/// # Errors
/// [`Kind::Config`] for a scheme this program does not know.
pub fn by_url(url: &str) -> Result<Box<dyn Engine>> {
    match url.split_once("://").map(|(scheme, _)| scheme) {
        Some("postgres" | "postgresql") | None => by_name("postgres"),
        Some("mysql" | "mariadb") => by_name("mysql"),
        Some(other) => Err(Error::new(Kind::Config, format!("source scheme {other:?} is not known"))
            .hint("use postgres://USER@HOST:PORT/DATABASE, mysql://USER@HOST:PORT or mariadb://USER@HOST:PORT")),
    }
}
