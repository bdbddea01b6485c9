//! A walsender as a [`Source`]: identify, slot, stream, acknowledge, follow timelines.
//!
//! Relies on `START_REPLICATION ... PHYSICAL` as the manual's "Streaming Replication
//! Protocol" describes it, and on four habits of `walsender.c`:
//! - a slot does not check where one starts: older log works while its files exist, and
//!   a start past the archive's end silently skips. The caller starts where its archive
//!   ends; [`Source::prepare_slot`] only says what the slot keeps.
//! - a timeline that ends is told by `CopyDone`, answered by ours, and a row with the
//!   next timeline and where it begins. A start exactly at that end gives the row at
//!   once, without any stream. The row counts, never "timeline plus one".
//! - most refusals come *after* `CopyBoth`: log already removed and a start ahead of the
//!   server come out of [`Source::next`], an unknown timeline and a slot in use out of
//!   [`Source::stream`]. The kinds are the same in both.
//! - an end of stream without the row is a shutdown: connect again, ask again.

use std::time::Duration;

use async_trait::async_trait;

use super::connect::{Connection, Mode, connect as open, in_recovery};
use super::conninfo::{ConnInfo, process_environment};
use super::files::parse_history;
use super::wal::name::{format_lsn, parse_lsn};
use super::wire::replication::{FromServer, status_update};
use super::wire::{Backend, Report, startup};
use crate::engine::{BaseOptions, BaseStream, Kept, Source, SourceOptions, StreamEvent};
use crate::error::{Error, Kind, Result};
use crate::model::cluster::{Identity, ServerState};
use crate::model::offset::Offset;
use crate::model::position::{Position, Resume};
use crate::model::time::{Clock, SystemClock};
use crate::model::timeline::{History, TimelineId};

mod refusal;
mod slot;
#[cfg(test)]
mod tests;

/// Oldest major version that is supported.
pub const VERSION_MIN: u32 = 13;

/// Newest major version that is tested.
pub const VERSION_MAX: u32 = 18;

/// Connects for replication.
///
/// # Errors
/// [`Kind::DatabaseUnreachable`] when the server cannot be reached or refuses us,
/// [`Kind::Config`] when the settings are wrong or the server is too old.
pub async fn connect(url: &str, options: &SourceOptions) -> Result<Box<dyn Source>> {
    Ok(Box::new(Walsender::connect(url, options).await?))
}

/// Resolves the connection string and adds what the options say where it is silent.
pub(super) fn conninfo(url: &str, options: &SourceOptions) -> Result<ConnInfo> {
    let mut info = ConnInfo::resolve(url, &process_environment)?;
    if info.application_name.is_none() && !options.application_name.is_empty() {
        info.application_name = Some(options.application_name.clone());
    }
    info.connect_timeout = info.connect_timeout.or(options.connect_timeout);
    Ok(info)
}

/// What the connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waiting for a command.
    Idle,
    /// Streaming this timeline.
    Streaming,
    /// The server ended the copy and we have not answered yet.
    Ending,
    /// We have answered; the row with the next timeline may come.
    Ended,
    /// The next timeline is known, the end of the command is not read yet.
    Switched { next: TimelineId, at: Offset },
    /// Of no more use.
    Broken,
}

/// A replication connection to PostgreSQL.
struct Walsender {
    connection: Connection,
    info: ConnInfo,
    slot: Option<String>,
    identified: Option<ServerState>,
    state: State,
}

impl Walsender {
    async fn connect(url: &str, options: &SourceOptions) -> Result<Self> {
        let info = conninfo(url, options)?;
        if let Some(slot) = &options.slot {
            slot::validate(slot)?;
        }
        let connection = open(&info, Mode::Replication).await?;
        let major = connection.server_version_num() / 10_000;
        if major < VERSION_MIN {
            return Err(Error::config(format!(
                "{}: server version {major} is older than {VERSION_MIN}, the oldest that pitr supports",
                connection.place()
            )));
        }
        Ok(Self { connection, info, slot: options.slot.clone(), identified: None, state: State::Idle })
    }

    fn place(&self) -> String {
        self.connection.place().to_owned()
    }

    /// Refuses a command while the connection streams: a bug, or a stop that failed.
    fn idle(&self) -> Result<()> {
        if self.state == State::Idle {
            return Ok(());
        }
        Err(Error::failure(format!("{}: the replication connection is not ready for a command", self.place())))
    }

    async fn identify_system(&mut self) -> Result<ServerState> {
        self.idle()?;
        let place = self.place();
        let strange = || {
            Error::new(Kind::DatabaseUnreachable, format!("{place}: IDENTIFY_SYSTEM gave an answer pitr cannot read"))
        };
        let sets = self.connection.query("IDENTIFY_SYSTEM").await?;
        let row = sets.into_iter().flat_map(|s| s.rows).next().ok_or_else(strange)?;
        let [Some(system), Some(timeline), Some(end), ..] = row.as_slice() else { return Err(strange()) };
        let timeline = TimelineId(timeline.parse().map_err(|_| strange())?);
        let log_end = parse_lsn(end).ok_or_else(strange)?;
        let size = self.connection.show("wal_segment_size").await?.ok_or_else(strange)?;
        let log_file_bytes = segment_bytes(&size).ok_or_else(|| {
            Error::config(format!("{place}: wal_segment_size {size:?} is not a power of two from 1 MB to 1 GB"))
        })?;
        let standby = in_recovery(&self.info, &mut self.connection).await?;
        let state = ServerState {
            identity: Identity {
                format_version: 1,
                engine: "postgres".to_owned(),
                system: system.clone(),
                log_file_bytes,
                server_version: self.connection.server_version_num() / 10_000,
                encryption: None,
            },
            version: self.connection.parameter("server_version").unwrap_or_default().to_owned(),
            timeline,
            log_end,
            standby,
        };
        self.identified = Some(state.clone());
        Ok(state)
    }

    async fn server(&mut self) -> Result<ServerState> {
        match &self.identified {
            Some(state) => Ok(state.clone()),
            None => self.identify_system().await,
        }
    }

    /// Maps what the server said, now that we know what we asked.
    fn refused(&mut self, report: &Report) -> Error {
        if report.is_fatal() {
            self.state = State::Broken;
        }
        refusal::explain(report, self.connection.place(), self.slot.as_deref())
    }

    /// After an error the server goes on with `ReadyForQuery`, unless it was fatal.
    async fn failed(&mut self, report: &Report) -> Error {
        let error = self.refused(report);
        if self.state == State::Broken {
            return error;
        }
        self.state = State::Broken;
        while let Ok(message) = self.connection.answer().await {
            if message == Backend::ReadyForQuery {
                self.state = State::Idle;
                break;
            }
        }
        error
    }

    /// One message of the ending of a stream: the row, the end of the command, the end
    /// of the answer. Gives an event when it is complete.
    fn ending(&mut self, message: Backend) -> Result<Option<StreamEvent>> {
        match message {
            // Sent before the server saw our CopyDone: the stream is over for us.
            Backend::CopyData(_) | Backend::CopyDone | Backend::RowDescription(_) => Ok(None),
            Backend::DataRow(row) => {
                let text =
                    |index: usize| row.get(index).and_then(Option::as_ref).and_then(|v| std::str::from_utf8(v).ok());
                let next = text(0).and_then(|t| t.parse().ok()).map(TimelineId);
                let at = text(1).and_then(parse_lsn);
                let (Some(next), Some(at)) = (next, at) else {
                    return Err(self.connection.unexpected(&Backend::DataRow(row), "where the next timeline was due"));
                };
                self.state = State::Switched { next, at };
                Ok(None)
            }
            Backend::CommandComplete(_) => Ok(None),
            Backend::ReadyForQuery => {
                let event = match self.state {
                    State::Switched { next, at } => StreamEvent::TimelineEnd { next, at },
                    _ => StreamEvent::Ended,
                };
                self.state = State::Idle;
                Ok(Some(event))
            }
            other => Err(self.connection.unexpected(&other, "at the end of a stream")),
        }
    }
}

#[async_trait]
impl Source for Walsender {
    async fn identify(&mut self) -> Result<ServerState> {
        self.identify_system().await
    }

    async fn prepare_slot(&mut self) -> Result<Option<Resume>> {
        self.idle()?;
        let server = self.identify_system().await?;
        let kept = match &self.slot {
            Some(slot) => slot::prepare(&self.info, &mut self.connection, slot, &server).await?,
            // Without a slot nothing is promised; the present end is what is surely there.
            None => Some((server.timeline, server.log_end)),
        };
        let Some((timeline, lsn)) = kept else { return Ok(None) };
        let offset = lsn.floor_to(server.identity.log_file_bytes);
        Ok(Some(Resume { timeline, offset, position: Position(format_lsn(offset)) }))
    }

    async fn keep_log(mut self: Box<Self>) -> Result<Kept> {
        self.idle()?;
        slot::keep(&mut self.connection, self.slot.as_deref().unwrap_or("pitr")).await?;
        Ok(Kept::by(self.connection))
    }

    async fn stream(&mut self, from: &Resume) -> Result<()> {
        self.idle()?;
        // Versions 13 and 14 refuse START_REPLICATION before IDENTIFY_SYSTEM.
        self.server().await?;
        let slot = self.slot.as_ref().map(|s| format!("SLOT \"{s}\" ")).unwrap_or_default();
        let command =
            format!("START_REPLICATION {slot}PHYSICAL {} TIMELINE {}", format_lsn(from.offset), from.timeline.0);
        let mut patience = SLOT_RELEASE_TRIES;
        loop {
            self.connection.send_query(&command).await?;
            match self.connection.answer().await? {
                Backend::CopyBoth => {
                    self.state = State::Streaming;
                    return Ok(());
                }
                // The timeline ends exactly where we start: the row comes without a stream.
                Backend::RowDescription(_) => {
                    self.state = State::Ended;
                    return Ok(());
                }
                // A walsender sends its last error before it lets go of the slot, and one
                // whose client was killed needs a moment to notice: our own last session
                // may still hold it.
                Backend::Error(report) if report.sqlstate == SLOT_IN_USE && patience > 0 => {
                    let error = self.failed(&report).await;
                    self.idle().map_err(|_| error)?;
                    patience -= 1;
                    tokio::time::sleep(SLOT_RELEASE_PAUSE).await;
                }
                Backend::Error(report) => return Err(self.failed(&report).await),
                other => return Err(self.connection.unexpected(&other, "in answer to START_REPLICATION")),
            }
        }
    }

    async fn next(&mut self) -> Result<StreamEvent> {
        loop {
            match self.state {
                State::Streaming | State::Ended | State::Switched { .. } => {}
                // The state changes before the answer is out, and a send that was
                // cancelled goes on with the next receive: never sent twice.
                State::Ending => {
                    self.state = State::Ended;
                    self.connection.send(&startup::COPY_DONE).await?;
                }
                State::Idle | State::Broken => {
                    return Err(Error::failure(format!("{}: nothing is being streamed", self.place())));
                }
            }
            let message = match self.connection.recv().await {
                Ok(message) => message,
                // The server says goodbye with CommandComplete and closes (WalSndDone).
                Err(_) if self.state == State::Ended => {
                    self.state = State::Broken;
                    return Ok(StreamEvent::Ended);
                }
                Err(error) => {
                    self.state = State::Broken;
                    return Err(error);
                }
            };
            if let Backend::Error(report) = &message {
                let error = self.refused(report);
                // Nothing is left to be read that could matter: the caller connects again.
                self.state = State::Broken;
                return Err(error);
            }
            if self.state != State::Streaming {
                match self.ending(message)? {
                    Some(event) => return Ok(event),
                    None => continue,
                }
            }
            match message {
                Backend::CopyData(payload) => {
                    let message = FromServer::parse(payload).map_err(|e| e.context(self.connection.place()))?;
                    return Ok(match message {
                        FromServer::XLogData { start, log_end, time, bytes } => {
                            StreamEvent::Data { start, bytes, log_end, time }
                        }
                        FromServer::Keepalive { log_end, time, reply_requested } => {
                            StreamEvent::Keepalive { log_end, time, reply_requested, idle: false }
                        }
                    });
                }
                Backend::CopyDone => self.state = State::Ending,
                // A shutdown ends the command without ending the copy.
                Backend::CommandComplete(_) => self.state = State::Ended,
                other => return Err(self.connection.unexpected(&other, "in a stream")),
            }
        }
    }

    /// A late acknowledgement, after the stream has ended, is passed over in silence.
    async fn ack(&mut self, received: Offset, durable: Offset, request_reply: bool) -> Result<()> {
        if self.state != State::Streaming {
            return Ok(());
        }
        let message = status_update(received, durable, SystemClock.now(), request_reply);
        self.connection.send(&message).await
    }

    async fn stop(&mut self) -> Result<()> {
        let unsaid = match self.state {
            State::Idle => return Ok(()),
            State::Broken => return Err(Error::failure(format!("{}: the stream is already broken", self.place()))),
            State::Streaming | State::Ending => true,
            State::Ended | State::Switched { .. } => false,
        };
        self.state = State::Ended;
        // A server busy with a large backlog notices our CopyDone only between two
        // messages; one that does not notice, or not even take it, must not hold us.
        let drain = async {
            if unsaid {
                self.connection.send(&startup::COPY_DONE).await?;
            }
            loop {
                match self.connection.recv().await? {
                    Backend::ReadyForQuery => return Ok(()),
                    Backend::Error(report) => {
                        return Err(refusal::explain(&report, self.connection.place(), self.slot.as_deref()));
                    }
                    _ => {}
                }
            }
        };
        let result = match tokio::time::timeout(STOP_TIMEOUT, drain).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(
                Kind::DatabaseUnreachable,
                format!("{}: the server did not end the stream within {} s", self.place(), STOP_TIMEOUT.as_secs()),
            )),
        };
        self.state = if result.is_ok() { State::Idle } else { State::Broken };
        result
    }

    async fn history(&mut self, timeline: TimelineId) -> Result<Option<History>> {
        self.idle()?;
        if timeline.0 <= 1 {
            return Ok(None);
        }
        match self.connection.try_query(&format!("TIMELINE_HISTORY {}", timeline.0)).await? {
            Ok(sets) => {
                let row = sets.into_iter().flat_map(|s| s.rows).next();
                let native = row.and_then(|row| row.into_iter().nth(1)).flatten().ok_or_else(|| {
                    Error::new(Kind::DatabaseUnreachable, format!("{}: TIMELINE_HISTORY gave no file", self.place()))
                })?;
                parse_history(timeline, &native).map(Some).map_err(|e| e.context(self.connection.place()))
            }
            Err(report) => Err(refusal::history(&report, self.connection.place(), timeline)),
        }
    }

    async fn base_backup(self: Box<Self>, options: &BaseOptions) -> Result<Box<dyn BaseStream>> {
        self.idle()?;
        super::base::start(self.connection, options).await
    }
}

/// `object_in_use`.
const SLOT_IN_USE: &str = "55006";

/// How often, and how far apart, a slot in use is asked for again: three seconds in all.
const SLOT_RELEASE_TRIES: u32 = 30;
const SLOT_RELEASE_PAUSE: Duration = Duration::from_millis(100);

/// How long [`Source::stop`] waits for the server to agree.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// `SHOW wal_segment_size`: `16MB`, `1GB`.
fn segment_bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let unit: u64 = match unit {
        "B" | "" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    let bytes = number.parse::<u64>().ok()?.checked_mul(unit)?;
    (bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes)).then_some(bytes)
}
