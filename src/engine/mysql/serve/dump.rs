//! The log as a replica gets it: every event in a packet of its own, after a byte 0.
//!
//! Bytes of the log come in pieces of any size and are cut into packets as they come. An event
//! is never held whole, so that one of a gigabyte takes no more memory than one of a hundred
//! bytes; small ones go out many at a time.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::artificial::{self, EVENT_HEADER};
use super::packets::{self, PACKET_MAX, put_header, put_packet};
use super::session::{FATAL_READING_LOG, write};
use super::{Executed, Item, LogFeed};
use crate::error::{Error, Kind, Result};

/// How much is gathered before it is written.
const WRITE: usize = 256 << 10;

/// Where an event's size is in its header.
const SIZE: std::ops::Range<usize> = 9..13;

/// Where an event's type is.
const TYPE: usize = 4;

/// How a replica wants the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    /// Who sends the artificial events.
    pub(super) server_id: u32,
    /// How long to be silent at most.
    pub(super) heartbeat: Duration,
    /// Whether it wants to read which statement made the rows (MariaDB).
    pub(super) annotations: bool,
    /// Whether it understands heartbeats of the second kind.
    pub(super) heartbeat_v2: bool,
    /// Whether it knows of checksums at all.
    pub(super) knows_checksums: bool,
    /// Whether it expects one before the first format description.
    pub(super) checksum: bool,
}

/// Sends the log to a replica until it leaves.
///
/// # Errors
/// From the log, after the replica has been told.
pub(super) async fn run(socket: &mut TcpStream, feed: &dyn LogFeed, executed: &Executed, form: Form) -> Result<()> {
    let mut framer = Framer::new(form);
    match send(socket, feed, executed, &mut framer, form.heartbeat).await {
        // A replica that sees its connection closed comes back.
        Err(error) if error.kind() != Kind::StoreUnreachable && !framer.is_inside_event() => {
            let mut out = Vec::new();
            let message = error.to_string();
            put_packet(&mut out, &mut framer.sequence, &packets::refusal(FATAL_READING_LOG, "HY000", &message));
            // It may be gone, and that be the error.
            let _ = write(socket, &out).await;
            Err(error)
        }
        other => other,
    }
}

async fn send(
    socket: &mut TcpStream,
    feed: &dyn LogFeed,
    executed: &Executed,
    framer: &mut Framer,
    heartbeat: Duration,
) -> Result<()> {
    let mut log = feed.open(executed).await?;
    let mut out = Vec::with_capacity(WRITE + WRITE / 4);
    let mut ended = false;
    loop {
        let item = {
            let mut next = pin!(async { if ended { std::future::pending().await } else { log.next().await } });
            match poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await {
                Poll::Ready(item) => item?,
                Poll::Pending => {
                    write(socket, &out).await?;
                    out.clear();
                    let mut deadline = Instant::now() + heartbeat;
                    loop {
                        let mut said = [0; 64];
                        tokio::select! {
                            item = &mut next => break item?,
                            // A replica says nothing more, except that it leaves.
                            count = socket.read(&mut said) => {
                                if matches!(count, Ok(0) | Err(_)) || said.get(4) == Some(&1) {
                                    return Ok(());
                                }
                            }
                            () = tokio::time::sleep_until(deadline) => {
                                framer.heartbeat(&mut out);
                                write(socket, &out).await?;
                                out.clear();
                                deadline = Instant::now() + heartbeat;
                            }
                        }
                    }
                }
            }
        };
        match item {
            Some(Item::File { name, format_description, position }) => {
                framer.file(name, &format_description, position, &mut out)?;
            }
            Some(Item::Log(bytes)) => {
                for piece in bytes.chunks(WRITE) {
                    framer.log(piece, &mut out)?;
                    if out.len() >= WRITE {
                        write(socket, &out).await?;
                        out.clear();
                    }
                }
            }
            Some(Item::LeftOut(bytes)) => framer.left_out(bytes),
            None if framer.is_inside_event() => {
                return Err(Error::corruption(format!(
                    "the log ends inside an event, at {} of {}",
                    framer.position, framer.file
                )));
            }
            None => ended = true,
        }
    }
}

/// Cuts log bytes into packets, and counts as the replica does.
#[derive(Debug)]
pub(super) struct Framer {
    form: Form,
    /// The number of the next packet.
    pub(super) sequence: u8,
    /// Whether events carry a CRC.
    checksum: bool,
    /// Where the replica takes itself to be.
    file: String,
    position: u64,
    /// The format description of that file, for one who goes on within it.
    reopening: Vec<u8>,
    /// The last event named another file, which has not begun yet.
    rotated: bool,
    /// The start of an event whose size is not known yet.
    head: Vec<u8>,
    /// What is missing of the event that has begun.
    event_left: usize,
    /// The event that has begun is not sent.
    leaves_out: bool,
    /// What is missing of its packet.
    packet_left: usize,
    /// The packet is as long as one can be, and goes on in another, if need be an empty one.
    packet_goes_on: bool,
}

impl Framer {
    /// One that begins with packet 1, as after a command.
    pub(super) fn new(form: Form) -> Self {
        Self {
            form,
            sequence: 1,
            checksum: form.checksum,
            file: String::new(),
            position: 0,
            reopening: Vec::new(),
            rotated: false,
            head: Vec::new(),
            event_left: 0,
            leaves_out: false,
            packet_left: 0,
            packet_goes_on: false,
        }
    }

    /// Whether an event has begun and not ended.
    pub(super) fn is_inside_event(&self) -> bool {
        self.event_left > 0 || !self.head.is_empty()
    }

    /// Begins a file, or goes on in it at `position`.
    ///
    /// # Errors
    /// [`Kind::Corruption`] for what is no format description, [`Kind::Config`] when the replica
    /// could not read the file's events.
    pub(super) fn file(
        &mut self,
        name: String,
        format_description: &[u8],
        position: u64,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        if self.is_inside_event() {
            let (end, file) = (self.position, &self.file);
            return Err(Error::corruption(format!("{name} begins inside an event, at {end} of {file}")));
        }
        let (opening, checksum) =
            artificial::format_description(format_description, position).map_err(|e| e.context(&name))?;
        if checksum && !self.form.knows_checksums {
            return Err(Error::config(format!(
                "the events in {name} carry checksums, of which the replica knows nothing"
            ))
            .hint("replicate with a server of MySQL 5.6, MariaDB 5.3 or later"));
        }
        (self.file, self.position) = (name, position);
        self.enter(&opening, out);
        if artificial::is_counted(&opening) {
            self.position += opening.len() as u64;
        }
        self.checksum = checksum;
        self.reopening = artificial::format_description(format_description, u64::MAX)?.0;
        Ok(())
    }

    /// Tells where the next event is and how to read it. MariaDB before 11 takes every event
    /// between a rotation and a format description for one of a server of 2003 (MDEV-29981).
    fn enter(&mut self, opening: &[u8], out: &mut Vec<u8>) {
        let rotate = artificial::rotate(self.form.server_id, &self.file, self.position, self.checksum);
        self.event(&rotate, out);
        self.event(opening, out);
        self.rotated = false;
    }

    /// Takes the next bytes of the log.
    ///
    /// # Errors
    /// [`Kind::Corruption`] for an event that is smaller than its header.
    pub(super) fn log(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
        while !bytes.is_empty() {
            if self.event_left > 0 {
                bytes = self.go_on(bytes, out);
                continue;
            }
            let begun = self.head.len();
            if begun == 0 && bytes.len() >= SIZE.end {
                // As nearly always.
                let size = self.begin(bytes, out)?;
                self.event_left = size;
                continue;
            }
            let (head, rest) = bytes.split_at(bytes.len().min(SIZE.end - begun));
            self.head.extend_from_slice(head);
            bytes = rest;
            if self.head.len() == SIZE.end {
                let head = std::mem::take(&mut self.head);
                self.event_left = self.begin(&head, out)?;
                self.go_on(&head, out);
            }
        }
        Ok(())
    }

    /// Counts bytes of the file that the replica does not get.
    pub(super) fn left_out(&mut self, bytes: u64) {
        self.position += bytes;
    }

    /// Begins the event whose header begins `bytes`; gives its size.
    fn begin(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize> {
        let size = match bytes.get(SIZE) {
            Some(&[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]) as usize,
            _ => 0,
        };
        if size < EVENT_HEADER {
            return Err(Error::corruption(format!(
                "the event at {} of {} says it has {size} bytes, and a header has {EVENT_HEADER}",
                self.position, self.file
            )));
        }
        let kind = bytes.get(TYPE).copied();
        self.rotated = kind == Some(artificial::ROTATE);
        // MariaDB bears holes in what it gets: it reads where it is from the events.
        self.leaves_out = kind == Some(artificial::ANNOTATE_ROWS) && !self.form.annotations;
        self.position += size as u64;
        if self.leaves_out {
            return Ok(size);
        }
        self.begin_packet(1 + size, out);
        out.push(0);
        self.packet_left -= 1;
        Ok(size)
    }

    /// Begins a packet of what is left to send.
    fn begin_packet(&mut self, left: usize, out: &mut Vec<u8>) {
        self.packet_left = left.min(PACKET_MAX);
        self.packet_goes_on = left >= PACKET_MAX;
        put_header(out, self.packet_left, self.sequence);
        self.sequence = self.sequence.wrapping_add(1);
    }

    /// Sends what `bytes` have of the event that has begun; gives what is behind it.
    fn go_on<'a>(&mut self, mut bytes: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        if self.leaves_out {
            let (left_out, rest) = bytes.split_at(bytes.len().min(self.event_left));
            self.event_left -= left_out.len();
            return rest;
        }
        while self.event_left > 0 && !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(self.packet_left));
            out.extend_from_slice(now);
            bytes = rest;
            self.event_left -= now.len();
            self.packet_left -= now.len();
            if self.packet_left == 0 && self.packet_goes_on {
                self.begin_packet(self.event_left, out);
            }
        }
        bytes
    }

    /// Sends an event of ours.
    fn event(&mut self, event: &[u8], out: &mut Vec<u8>) {
        put_header(out, event.len() + 1, self.sequence);
        self.sequence = self.sequence.wrapping_add(1);
        out.push(0);
        out.extend_from_slice(event);
    }

    /// Says that we are alive. A replica refuses one that names another place than it counts,
    /// so there is none before the first file, and after a rotation it is first led back.
    pub(super) fn heartbeat(&mut self, out: &mut Vec<u8>) {
        if self.file.is_empty() || self.is_inside_event() {
            return;
        }
        if self.rotated {
            let opening = std::mem::take(&mut self.reopening);
            self.enter(&opening, out);
            self.reopening = opening;
        }
        let make = if self.form.heartbeat_v2 { artificial::heartbeat_v2 } else { artificial::heartbeat };
        let event = make(self.form.server_id, &self.file, self.position, self.checksum);
        self.event(&event, out);
    }
}
