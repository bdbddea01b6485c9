//! A dump that has begun: what the source sends, as the archive's events.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt as _;

use super::super::connect::packet::Unframer;
use super::super::connect::{Connection, Reader, Writer};
use super::super::place::Place;
use super::facts::Facts;
use super::intake::{Intake, Taken, is_cut_short, unproved};
use super::logs::{Asked, Logs};
use crate::engine::StreamEvent;
use crate::error::{Error, Kind, Result};
use crate::model::offset::Offset;
use crate::model::time::{Clock as _, SystemClock, Timestamp};

/// Bytes read from the connection at a time.
const READ_BYTES: usize = 256 << 10;

/// How long a source may be silent while it begins its dump.
const BEGIN_MAX: Duration = Duration::from_secs(60);

/// So much of a transaction is looked at for whether its file ends in it; of one with more the
/// archive gets what there is, and it is looked at again behind that.
const PART_BYTES_MAX: u64 = 32 << 20;

/// By so much what a heartbeat says may be older than its arrival.
const HEARTBEAT_DELAY_MICROS: i64 = 100_000;

/// A dump that has begun.
pub(super) struct Stream {
    reader: Reader,
    writer: Writer,
    unframer: Unframer,
    buffer: BytesMut,
    intake: Intake,
    events: VecDeque<StreamEvent>,
    /// What came behind those.
    failed: Option<Error>,
    /// Where the archive's log ended when the dump began, and where that is in this source.
    from: (Offset, Option<Place>),
    /// Whoever waits to hear which files the source has, while that is not known.
    asked: Option<Asked>,
    /// Where the log ends, as far as that was known when the dump began.
    expected_end: Offset,
    /// By how much the source's clock is ahead of ours.
    clock_ahead_micros: i64,
    /// The source's clock before it was asked where its log ends.
    begun: Timestamp,
}

impl Stream {
    /// What comes over a connection on which a dump was asked for, behind `from`: where the
    /// archive's log ends.
    pub(super) fn new(connection: Connection, intake: Intake, from: (Offset, &Place), facts: &Facts) -> Self {
        let (reader, writer) = connection.into_parts();
        let (offset, place) = from;
        Self {
            reader,
            writer,
            unframer: Unframer::new(1),
            buffer: BytesMut::with_capacity(READ_BYTES),
            intake,
            events: VecDeque::new(),
            failed: None,
            from: (offset, (place.server == facts.server).then(|| place.clone())),
            asked: None,
            expected_end: offset,
            clock_ahead_micros: facts.clock_ahead_micros,
            begun: facts.asked,
        }
    }

    /// Which files the source has will be known when this is answered.
    pub(super) fn with_asked(self, asked: Option<Asked>) -> Self {
        Self { asked, ..self }
    }

    /// Whether it is the archive's log is said here, and not by what comes later.
    ///
    /// # Errors
    /// [`Kind::NotRecoverable`] when it is another one; what the source says.
    pub(super) async fn prove(&mut self, place: &Place) -> Result<()> {
        while !self.intake.has_begun() || self.intake.owes_proof() {
            match self.receive_soon().await {
                Ok(()) => {}
                Err(error) if self.intake.owes_proof() => return Err(unproved(error, place)),
                Err(error) if !self.intake.has_begun() => return Err(error),
                Err(error) => self.failed = Some(error),
            }
        }
        Ok(())
    }

    /// Reads on to where the file of `place`, which its server has left, may end: what a server
    /// was writing when it was killed is no more than a part of one transaction, perhaps with half
    /// an event.
    pub(super) async fn look_for_end(&mut self, place: &Place) {
        while self.failed.is_none()
            && self.intake.file() == place.file
            && self.intake.transactions() <= 1
            && self.intake.offset().since(self.from.0) < PART_BYTES_MAX
        {
            if let Err(error) = self.receive_soon().await {
                self.failed = Some(error);
            }
        }
    }

    /// Whether the source has said that its file ends inside an event.
    pub(super) fn is_cut_short(&self) -> bool {
        self.failed.as_ref().is_some_and(is_cut_short)
    }

    /// The next thing. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<StreamEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            self.receive().await?;
        }
    }

    /// Tells a source that waits for it what is durable.
    pub(super) async fn acknowledge(&mut self, durable: Offset) -> Result<()> {
        let Some(reached) = self.intake.acknowledge(durable) else { return Ok(()) };
        let mut packet = vec![0xef];
        packet.extend_from_slice(&reached.position.to_le_bytes());
        packet.extend_from_slice(reached.file.as_bytes());
        self.writer.write_packet(0, &packet).await
    }

    /// Ends it politely.
    pub(super) async fn close(self) {
        self.writer.close().await;
    }

    /// The source has this log, all of which is wanted.
    pub(super) fn expect(&mut self, logs: &Logs) {
        let (offset, place) = &self.from;
        let behind = place.as_ref().map_or(0, |place| logs.behind(place));
        self.expected_end = Offset(offset.0.saturating_add(behind));
        self.intake.expect_end(logs.end());
    }

    /// Reads what comes soon, as it does where a dump begins.
    async fn receive_soon(&mut self) -> Result<()> {
        tokio::time::timeout(BEGIN_MAX, self.receive()).await.unwrap_or_else(|_| {
            let text = format!("the source has not begun to send its log within {} seconds", BEGIN_MAX.as_secs());
            Err(Error::new(Kind::DatabaseUnreachable, text))
        })
    }

    /// Reads what has come and takes it. Cancel safe: nothing is taken before it was read.
    async fn receive(&mut self) -> Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.buffer.reserve(READ_BYTES);
        let read = match &mut self.asked {
            None => self.reader.read_buf(&mut self.buffer).await,
            Some(asked) => tokio::select! {
                read = self.reader.read_buf(&mut self.buffer) => read,
                answer = &mut asked.answer => {
                    self.asked = None;
                    self.expect(&answer?.1);
                    return Ok(());
                }
            },
        };
        let read =
            read.map_err(|e| Error::new(Kind::DatabaseUnreachable, "the source's connection broke").because(e))?;
        if read == 0 {
            return Err(Error::new(Kind::DatabaseUnreachable, "the source closed the connection"));
        }
        let now = SystemClock.now().saturating_add(self.clock_ahead_micros);
        self.intake.set_now(now);
        let mut input = self.buffer.as_ref();
        let end = loop {
            match self
                .unframer
                .next(&mut input)
                .and_then(|piece| piece.map(|piece| self.intake.take(piece)).transpose())
            {
                Ok(Some(true)) => self.unframer.expect(1),
                Ok(Some(false)) => {}
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.buffer.clear();
        self.intake.flush();
        while let Some(taken) = self.intake.pop() {
            self.events.push_back(self.event(taken, now));
        }
        match end {
            // What came before it counts: it comes again after each new beginning.
            Err(error) if !self.events.is_empty() => {
                self.failed = Some(error);
                Ok(())
            }
            end => end,
        }
    }

    fn event(&self, taken: Taken, now: Timestamp) -> StreamEvent {
        match taken {
            Taken::Log { start, bytes } => {
                // Only a heartbeat tells that there is no more.
                let behind = Offset(start.0 + bytes.len() as u64 + 1);
                StreamEvent::Data { start, bytes, log_end: self.expected_end.max(behind), time: now }
            }
            Taken::Heartbeat => StreamEvent::Keepalive {
                log_end: self.intake.offset(),
                time: now.saturating_add(-HEARTBEAT_DELAY_MICROS),
                reply_requested: false,
                idle: true,
            },
            Taken::Alive => StreamEvent::Keepalive {
                log_end: self.expected_end.max(Offset(self.intake.offset().0 + 1)),
                time: now,
                reply_requested: false,
                idle: false,
            },
            Taken::CaughtUp(log_end) => StreamEvent::CaughtUp { log_end, time: self.begun },
        }
    }
}
