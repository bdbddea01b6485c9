//! A session: commands out, answers in, until it becomes a replication stream.

use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::handshake::Greeting;
use super::packet::{HEADER_BYTES, Unframer};
use super::parts::{Reader, Writer};
use super::reply::{self, Reply};
use super::server_error::ServerError;
use super::{lost, packet};
use crate::engine::mysql::flavor::Flavor;
use crate::engine::stream::Stream;
use crate::error::{Error, Kind, Result};

/// How long an answer may take for which the server need not work: after that it counts as
/// lost, like one that falls silent in the stream.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Largest answer taken whole. Ours are a few hundred bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

const COM_QUIT: u8 = 0x01;
const COM_QUERY: u8 = 0x03;
const COM_PING: u8 = 0x0e;

/// An open session with a server, logged in.
///
/// Its methods are not cancel safe: one that is dropped half way leaves its answer in the
/// stream.
#[derive(Debug)]
pub struct Connection {
    wire: Wire,
    flavor: Flavor,
    version: String,
    connection_id: u32,
    is_local: bool,
}

impl Connection {
    pub(super) fn new(wire: Wire, greeting: &Greeting, is_local: bool) -> Self {
        Self {
            wire,
            flavor: Flavor::of_version(&greeting.version),
            version: clean_version(&greeting.version).to_owned(),
            connection_id: greeting.connection_id,
            is_local,
        }
    }

    /// Which family the server belongs to.
    #[must_use]
    pub const fn flavor(&self) -> Flavor {
        self.flavor
    }

    /// The server's version, e.g. `10.11.19-MariaDB-log`, as `SELECT VERSION()` has it.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The numbers at the front of the version; 0 for what is not there.
    #[must_use]
    pub fn version_number(&self) -> (u32, u32, u32) {
        version_number(&self.version)
    }

    /// The server's number for this session, as `SHOW PROCESSLIST` shows it.
    #[must_use]
    pub const fn connection_id(&self) -> u32 {
        self.connection_id
    }

    /// Whether the server is on this machine: a Unix socket or a loopback address.
    #[must_use]
    pub const fn is_local(&self) -> bool {
        self.is_local
    }

    /// Host and port, or the socket, for messages.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.wire.place
    }

    /// Whether answers may take as long as they do from now on.
    pub const fn wait_without_end(&mut self, without_end: bool) {
        self.wire.answer_max = if without_end { Duration::MAX } else { ANSWER_MAX };
    }

    /// Runs a statement that gives no rows.
    ///
    /// # Errors
    /// The server's, with a [`ServerError`] among its causes; [`Kind::Failure`] when it gives
    /// rows; [`Kind::DatabaseUnreachable`] when the connection is lost.
    pub async fn execute(&mut self, sql: &str) -> Result<()> {
        match self.query(sql).await? {
            None => Ok(()),
            Some(_) => Err(Error::failure(format!("{}: a statement gave rows: {sql}", self.place()))),
        }
    }

    /// The only row of a query, every value as text; no values when there is no row.
    ///
    /// # Errors
    /// As [`Connection::query_all`]; [`Kind::Failure`] when there are several rows.
    pub async fn query_row(&mut self, sql: &str) -> Result<Vec<Option<String>>> {
        let mut rows = self.query_all(sql).await?;
        let row = rows.pop().unwrap_or_default();
        if rows.is_empty() {
            return Ok(row);
        }
        Err(Error::failure(format!("{}: a query gave several rows where one was expected: {sql}", self.place())))
    }

    /// All rows of a query, every value as text: 1 MiB at most. Bytes that are not UTF-8 are
    /// replaced.
    ///
    /// # Errors
    /// As [`Connection::execute`]; [`Kind::Failure`] for a statement that gives no rows.
    pub async fn query_all(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let rows = self.query(sql).await?;
        rows.ok_or_else(|| Error::failure(format!("{}: a statement gave no rows: {sql}", self.place())))
    }

    /// Runs a statement and collects what it gives: `None` where that is no rows at all.
    async fn query(&mut self, sql: &str) -> Result<Option<Vec<Vec<Option<String>>>>> {
        let mut command = Vec::with_capacity(1 + sql.len());
        command.push(COM_QUERY);
        command.extend_from_slice(sql.as_bytes());
        self.command(&command).await?;
        let columns = match Reply::parse(&self.wire.answer().await?).map_err(|e| e.context(self.place()))? {
            Reply::Ok => return Ok(None),
            Reply::Error(error) => return Err(error.into_error(self.place())),
            Reply::Rows(columns) => columns,
        };
        // Their definitions, and the end of them: what was asked for is known.
        for _ in 0..columns {
            self.wire.answer().await?;
        }
        if !reply::is_eof(&self.wire.answer().await?) {
            return Err(reply::malformed("columns").context(self.place()));
        }
        let mut rows = Vec::new();
        let mut size = 0;
        loop {
            let payload = self.wire.answer().await?;
            if reply::is_eof(&payload) {
                return Ok(Some(rows));
            }
            // A row never begins with 0xff: that would be a length of nothing.
            if let Some(error) = ServerError::parse(&payload) {
                return Err(error.into_error(self.place()));
            }
            size += payload.len();
            if size > ANSWER_BYTES_MAX {
                return Err(too_long(self.place(), size));
            }
            rows.push(reply::row(&payload, columns).map_err(|e| e.context(self.place()))?);
        }
    }

    /// Sends one command, its packet numbered from 0. The answer, if there is one, is the
    /// caller's to read: from [`Connection::into_parts`].
    ///
    /// # Errors
    /// [`Kind::DatabaseUnreachable`] when the connection is lost.
    pub async fn command(&mut self, payload: &[u8]) -> Result<()> {
        self.wire.unframer.expect(0);
        self.wire.send(payload).await
    }

    /// Enters us in the server's list of replicas: `packet` is the whole command.
    ///
    /// # Errors
    /// The server's, with a [`ServerError`] among its causes.
    pub(in crate::engine::mysql) async fn register(&mut self, packet: &[u8]) -> Result<()> {
        self.command(packet).await?;
        match Reply::parse(&self.wire.answer().await?).map_err(|e| e.context(self.place()))? {
            Reply::Ok => Ok(()),
            Reply::Error(error) => Err(error.into_error(self.place())),
            Reply::Rows(_) => Err(lost(self.place(), None)),
        }
    }

    /// Asks for a sign of life.
    ///
    /// # Errors
    /// [`Kind::DatabaseUnreachable`] when there is none within a minute.
    pub async fn ping(&mut self) -> Result<()> {
        self.command(&[COM_PING]).await?;
        match Reply::parse(&self.wire.answer().await?).map_err(|e| e.context(self.place()))? {
            Reply::Ok => Ok(()),
            Reply::Error(error) => Err(error.into_error(self.place())),
            Reply::Rows(_) => Err(reply::malformed("answer").context(self.place())),
        }
    }

    /// Says goodbye and closes. Errors no longer matter.
    pub async fn quit(mut self) {
        let _ = self.command(&[COM_QUIT]).await;
        let _ = self.wire.stream.shutdown().await;
    }

    /// The bare stream in both directions, after a command that begins one. The first packet
    /// has sequence number 1.
    #[must_use]
    pub fn into_parts(self) -> (Reader, Writer) {
        let Wire { place, stream, received, .. } = self.wire;
        let (read, write) = tokio::io::split(stream);
        (Reader { buffered: received, stream: read }, Writer { place, stream: write, unsent: BytesMut::new() })
    }
}

/// Packets over a stream, one at a time and whole.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) place: String,
    pub(super) stream: Stream,
    received: BytesMut,
    unframer: Unframer,
    /// How long an answer may take.
    answer_max: Duration,
}

impl Wire {
    pub(super) fn new(place: String, stream: Stream) -> Self {
        Self::resume(place, stream, Unframer::new(0))
    }

    /// The same session on another stream; nothing may have arrived on the old one.
    ///
    /// # Errors
    /// [`Kind::DatabaseUnreachable`] when something has: it came in the clear, from anybody
    /// (compare CVE-2021-23222).
    pub(super) fn into_stream(self) -> Result<(Stream, Unframer)> {
        if self.received.is_empty() {
            return Ok((self.stream, self.unframer));
        }
        Err(Error::new(
            Kind::DatabaseUnreachable,
            format!("{}: {} bytes came in the clear before TLS", self.place, self.received.len()),
        )
        .hint("somebody between pitr and the server puts bytes into the connection"))
    }

    /// Takes up a session where [`Wire::into_stream`] left it.
    pub(super) fn resume(place: String, stream: Stream, unframer: Unframer) -> Self {
        Self { place, stream, received: BytesMut::new(), unframer, answer_max: ANSWER_MAX }
    }

    /// Sends a packet with the number that is next.
    pub(super) async fn send(&mut self, payload: &[u8]) -> Result<()> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
        let next = packet::frame(&mut bytes, self.unframer.sequence(), payload);
        self.unframer.expect(next);
        let sent = async {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|e| lost(&self.place, Some(e)))
    }

    /// The next packet, where the server has nothing to wait for.
    ///
    /// # Errors
    /// [`Kind::DatabaseUnreachable`] when the connection is lost, the packet has
    /// [`ANSWER_BYTES_MAX`] or more, or none comes within [`ANSWER_MAX`].
    pub(super) async fn answer(&mut self) -> Result<Vec<u8>> {
        let answer = tokio::time::timeout(self.answer_max, self.receive()).await;
        answer.unwrap_or_else(|_| {
            let text = format!("{}: the server has not answered for {} seconds", self.place, self.answer_max.as_secs());
            Err(Error::new(Kind::DatabaseUnreachable, text).hint("does it stand still? look at its disk and its log"))
        })
    }

    async fn receive(&mut self) -> Result<Vec<u8>> {
        let mut payload = Vec::new();
        loop {
            let mut input = &self.received[..];
            let piece = self.unframer.next(&mut input).map_err(|e| e.context(&self.place))?;
            let (bytes, last) = piece.map_or((&[][..], false), |piece| (piece.bytes, piece.last));
            if payload.len() + bytes.len() > ANSWER_BYTES_MAX {
                return Err(too_long(&self.place, payload.len() + bytes.len()));
            }
            payload.extend_from_slice(bytes);
            let needs_more = piece.is_none();
            let left = input.len();
            self.received.advance(self.received.len() - left);
            if last {
                return Ok(payload);
            }
            if needs_more
                && self.stream.read_buf(&mut self.received).await.map_err(|e| lost(&self.place, Some(e)))? == 0
            {
                return Err(lost(&self.place, None));
            }
        }
    }
}

fn too_long(place: &str, size: usize) -> Error {
    Error::new(
        Kind::DatabaseUnreachable,
        format!("{place}: the server's answer has {size} bytes or more, and {ANSWER_BYTES_MAX} are expected at most"),
    )
    .hint("is it a MySQL or MariaDB server that listens there?")
}

/// The version as `SELECT VERSION()` has it: MariaDB up to 10.11 puts a number before it in the
/// greeting, for replicas that would take its `1` for something older than 5.
pub(super) fn clean_version(version: &str) -> &str {
    match Flavor::of_version(version) {
        Flavor::MariaDb => version.strip_prefix("5.5.5-").unwrap_or(version),
        Flavor::MySql => version,
    }
}

/// `10.11.19-MariaDB` is (10, 11, 19).
pub(in crate::engine::mysql) fn version_number(version: &str) -> (u32, u32, u32) {
    let end = version.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(version.len());
    let mut numbers = version.split_at(end).0.split('.').map(|n| n.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next())
}
