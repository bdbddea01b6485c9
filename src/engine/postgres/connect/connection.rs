//! A session: messages in, messages out, simple queries.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Target;
use super::receive::Receive;
use crate::engine::postgres::wire::frame::Phase;
use crate::engine::postgres::wire::{Backend, Report, startup};
use crate::engine::stream::Stream;
use crate::error::{Error, Kind, Result};

/// Notices kept for [`Connection::take_notices`]; older ones go first. A base backup
/// warns once per damaged block and five times per file.
const NOTICES_MAX: usize = 1000;

/// How long an answer may take for which the server need not work: after that it counts as
/// lost, like one that falls silent in the stream.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Rows of one statement, every value as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResultSet {
    /// Column names.
    pub columns: Vec<String>,
    /// Rows; `None` is null. Bytes that are not UTF-8 are replaced.
    pub rows: Vec<Vec<Option<String>>>,
}

/// An open session with a server.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    receive: Receive,
    /// Bytes accepted by [`Connection::send`] that the socket has not taken yet: what
    /// makes a cancelled send harmless.
    unsent: BytesMut,
    phase: Phase,
    place: String,
    /// The server process that serves us; 0 until it has said so.
    process: i32,
    /// Where the socket leads: one of several hosts, one of several addresses.
    target: Target,
    parameters: BTreeMap<String, String>,
    notices: VecDeque<Report>,
}

impl Connection {
    pub(super) fn new(stream: Stream, target: Target) -> Self {
        Self {
            stream,
            receive: Receive::default(),
            unsent: BytesMut::new(),
            phase: Phase::Startup,
            place: target.endpoint.to_string(),
            process: 0,
            target,
            parameters: BTreeMap::new(),
            notices: VecDeque::new(),
        }
    }

    pub(super) fn authenticated(&mut self) {
        self.phase = Phase::Ready;
    }

    pub(super) fn is_authenticated(&self) -> bool {
        self.phase == Phase::Ready
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Host and port, for messages.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    pub(super) fn set_process(&mut self, process: i32) {
        self.process = process;
    }

    /// The server process that serves this session, as `pg_stat_replication.pid` and
    /// `pg_stat_activity.pid` show it.
    #[must_use]
    pub fn process(&self) -> i32 {
        self.process
    }

    /// A setting the server reported, e.g. `server_version`.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The server's version as a number, e.g. 150013 for 15.13; 0 when it reported
    /// none.
    #[must_use]
    pub fn server_version_num(&self) -> u32 {
        self.parameter("server_version").map_or(0, version_num)
    }

    /// Notices received since the last call, oldest first.
    pub fn take_notices(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.notices).into()
    }

    /// Sends whole protocol messages. Cancel safe: what was not yet written goes out
    /// with the next send or receive.
    ///
    /// # Errors
    /// [`Kind::DatabaseUnreachable`] when the connection is lost.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.unsent.extend_from_slice(bytes);
        self.flush().await
    }

    async fn flush(&mut self) -> Result<()> {
        while self.unsent.has_remaining() {
            match self.stream.write_buf(&mut self.unsent).await {
                Ok(0) => return Err(self.lost(None)),
                Ok(_) => {}
                Err(error) => return Err(self.lost(Some(error))),
            }
        }
        self.stream.flush().await.map_err(|error| self.lost(Some(error)))
    }

    fn lost(&self, error: Option<std::io::Error>) -> Error {
        let error = match error {
            Some(error) => {
                Error::new(Kind::DatabaseUnreachable, format!("{}: the connection was lost", self.place)).because(error)
            }
            None => Error::new(Kind::DatabaseUnreachable, format!("{}: the server closed the connection", self.place)),
        };
        error.hint("has the server stopped? its log says why")
    }

    /// The next message, but for notices and settings, which are kept aside. Cancel
    /// safe.
    ///
    /// # Errors
    /// [`Kind::DatabaseUnreachable`] when the connection is lost or what comes is not
    /// the protocol. An error *of the server* is a message: [`Backend::Error`].
    pub async fn recv(&mut self) -> Result<Backend> {
        loop {
            while let Some((tag, body)) = self.receive.message(self.phase).map_err(|e| e.context(&self.place))? {
                match Backend::parse(tag, body).map_err(|e| e.context(&self.place))? {
                    Backend::Notice(report) => self.note(report),
                    Backend::ParameterStatus { name, value } => {
                        self.parameters.insert(name, value);
                    }
                    Backend::Notification => {}
                    message => return Ok(message),
                }
            }
            if self.unsent.has_remaining() {
                self.flush().await?;
            }
            let room = self.receive.room(self.phase)?;
            match self.stream.read_buf(room).await {
                Ok(0) => return Err(self.lost(None)),
                Ok(_) => {}
                Err(error) => return Err(self.lost(Some(error))),
            }
        }
    }

    /// As [`Connection::recv`], where the server has nothing to wait for.
    ///
    /// # Errors
    /// Also when it has said nothing for [`ANSWER_MAX`].
    pub async fn answer(&mut self) -> Result<Backend> {
        let answer = tokio::time::timeout(ANSWER_MAX, self.recv()).await;
        answer.unwrap_or_else(|_| {
            let text = format!("{}: the server has not answered for {} seconds", self.place, ANSWER_MAX.as_secs());
            Err(Error::new(Kind::DatabaseUnreachable, text).hint("does it stand still? look at its disk and its log"))
        })
    }

    fn note(&mut self, report: Report) {
        if report.severity == "WARNING" {
            tracing::warn!(host = %self.place, "server: {report}");
        } else {
            tracing::info!(host = %self.place, "server: {report}");
        }
        if self.notices.len() == NOTICES_MAX {
            self.notices.pop_front();
        }
        self.notices.push_back(report);
    }

    /// Sends a simple query or replication command; the answer comes from
    /// [`Connection::recv`].
    ///
    /// # Errors
    /// As [`Connection::send`].
    pub async fn send_query(&mut self, sql: &str) -> Result<()> {
        let message = startup::query(sql)?;
        self.send(&message).await
    }

    /// Runs a simple query or replication command and collects its rows. Not cancel
    /// safe: a dropped query leaves its answer in the stream.
    ///
    /// # Errors
    /// The server's error, as [`Report::to_error`] maps it.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<ResultSet>> {
        self.try_query(sql).await?.map_err(|report| report.to_error(&self.place))
    }

    /// As [`Connection::query`], with the server's error for the caller to judge.
    ///
    /// # Errors
    /// [`Kind::DatabaseUnreachable`] when the connection is lost.
    pub async fn try_query(&mut self, sql: &str) -> Result<Result<Vec<ResultSet>, Report>> {
        self.send_query(sql).await?;
        let mut sets: Vec<ResultSet> = Vec::new();
        let mut failed = None;
        loop {
            match self.answer().await? {
                Backend::RowDescription(columns) => sets.push(ResultSet { columns, rows: Vec::new() }),
                Backend::DataRow(row) => {
                    let text = |value: bytes::Bytes| String::from_utf8_lossy(&value).into_owned();
                    if let Some(set) = sets.last_mut() {
                        set.rows.push(row.into_iter().map(|value| value.map(text)).collect());
                    }
                }
                Backend::CommandComplete(_) | Backend::EmptyQuery => {}
                Backend::Error(report) if report.is_fatal() => return Ok(Err(report)),
                Backend::Error(report) => failed = Some(report),
                Backend::ReadyForQuery => return Ok(failed.map_or(Ok(sets), Err)),
                other => return Err(self.unexpected(&other, "in the answer to a query")),
            }
        }
    }

    /// The only value of the only row of a query; `None` for null or no row.
    ///
    /// # Errors
    /// As [`Connection::query`].
    pub async fn value(&mut self, sql: &str) -> Result<Option<String>> {
        let mut sets = self.query(sql).await?;
        let row = sets.pop().and_then(|mut set| set.rows.pop());
        Ok(row.and_then(|mut row| row.pop()).flatten())
    }

    /// A setting's value; works on replication connections too.
    ///
    /// # Errors
    /// As [`Connection::query`].
    pub async fn show(&mut self, setting: &str) -> Result<Option<String>> {
        self.value(&format!("SHOW {setting}")).await
    }

    /// The error for a message that has no place here.
    #[must_use]
    pub fn unexpected(&self, message: &Backend, when: &str) -> Error {
        // The variant's name only: a payload is no use in a message.
        let text = format!("{message:?}");
        let name = text.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        Error::new(Kind::DatabaseUnreachable, format!("{}: the server sent {name} {when}", self.place))
            .hint("is there a pooler between pitr and the server? replication needs a direct connection")
    }

    /// Says goodbye and closes. Errors no longer matter.
    pub async fn close(mut self) {
        let _ = self.send(&startup::TERMINATE).await;
        let _ = self.stream.shutdown().await;
    }
}

/// `15.13 (Debian 15.13-0+deb12u1)` is 150013; `19devel` is 190000.
fn version_num(text: &str) -> u32 {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let major = numbers.next().unwrap_or(0);
    let is_release = text.as_bytes().get(major.to_string().len()) == Some(&b'.');
    let minor = if is_release { numbers.next().unwrap_or(0) } else { 0 };
    major.saturating_mul(10_000).saturating_add(minor.min(9_999))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_become_numbers() {
        assert_eq!(version_num("15.13 (Debian 15.13-0+deb12u1)"), 150_013);
        assert_eq!(version_num("19devel"), 190_000);
        assert_eq!(version_num("18beta2"), 180_000);
        assert_eq!(version_num(""), 0);
    }
}
