//! From what a source sends to what the archive keeps: artificial events left out, what the
//! archive holds already passed over, notes put in. No socket and no I/O.
//!
//! A dump begins with an artificial ROTATE that names the file, and a format description.
//! Before every further file comes an artificial ROTATE again, also behind a real one. What the
//! archive is to hold is at the head of [`super::super::binlog::scanner`]. Source: MariaDB
//! `sql/sql_repl.cc` (`mysql_binlog_send`), MySQL `sql/rpl_binlog_sender.cc`.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::super::binlog::event::{
    CHECKSUM_BYTES, HEADER_BYTES, Header, begins_group, checksums, is_sound, kind, seal,
};
use super::super::binlog::group::Shape;
use super::super::binlog::gtid_event::GtidEvent;
use super::super::binlog::note::{FILE_START, FileNote, Note};
use super::super::connect::packet::Piece;
use super::super::flavor::Flavor;
use super::super::place::{After, Place};
use super::heartbeat;
use crate::error::{Error, Kind, Result};
use crate::model::offset::Offset;
use crate::model::time::Timestamp;

mod held;
mod refusal;

use held::{Held, Judged, Met};
use refusal::{another_log, refusal};
pub(super) use refusal::{is_cut_short, unproved};

/// Larger events are not put together.
const WHOLE_BYTES_MAX: usize = 64 << 10;

/// A piece of log ends with a transaction once it is so long, and in any case at twice that.
const PIECE_BYTES: usize = 256 << 10;

/// How far apart the notes are that say which file this is, so that the log can be read from
/// any segment.
const NOTE_INTERVAL: u64 = 1 << 20;

/// What comes out, in the order of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Log that begins at `start`.
    Log {
        /// Offset of the first byte.
        start: Offset,
        /// The bytes.
        bytes: Bytes,
    },
    /// The source has nothing more at the moment.
    Heartbeat,
    /// The source is alive, and has more.
    Alive,
    /// The place that was to be reached is behind us, at this offset.
    CaughtUp(Offset),
}

/// A place in a file of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePlace {
    /// The file's name.
    pub file: String,
    /// The place in it, in bytes.
    pub position: u64,
}

impl fmt::Display for FilePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.position)
    }
}

/// What is to be acknowledged once it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgeable {
    /// Where the log before ends.
    pub end: Offset,
    /// The same place, as the source knows it.
    pub file: Arc<str>,
    /// In bytes.
    pub position: u64,
}

/// Takes packets of a dump.
pub struct Intake {
    flavor: Flavor,
    server: String,
    offset: Offset,
    out: BytesMut,
    taken: VecDeque<Taken>,
    /// What is already in the archive of the file the source begins with.
    held: Option<Held>,
    /// Bytes of the next transaction that the archive holds.
    skip: u64,
    /// Where in its file the first event is that the archive does not hold, if that is known:
    /// the source says it of events modulo 4 GiB only.
    resumed: Option<u64>,
    /// The file named last.
    name: Arc<str>,
    /// A format description that waits for the first event behind it.
    head: Option<Head>,
    file: Option<File>,
    packet: Packet,
    goal: Goal,
    /// The source has said that there is no more: what comes now has just happened.
    live: bool,
    /// When the bytes came that are being taken.
    now: Timestamp,
    /// Semi-synchronous replication: packets carry two bytes more.
    semi_sync: bool,
    acknowledgeable: VecDeque<Acknowledgeable>,
    unit: Unit,
    /// Transactions that have begun.
    transactions: u64,
}

/// A file's beginning that has not been written yet.
struct Head {
    description: Bytes,
    checksums: bool,
    /// Where it ends in the file; 0 for one that the source made up.
    end: u64,
}

/// The file being read.
struct File {
    description: Bytes,
    checksums: bool,
    /// Where the next event begins.
    position: u64,
    /// Where the last note that names the file ends.
    noted: Offset,
    /// The place in it where all is here that was wanted.
    goal: u64,
}

/// Where the source's log ended when the dump began.
enum Goal {
    /// That is not known yet.
    Unknown,
    At(FilePlace),
    /// It is behind us.
    Reached,
}

/// What has come of a packet.
#[derive(Default)]
struct Packet {
    /// Its first bytes, while it is not decided what becomes of it, or all of a small one.
    gathered: Vec<u8>,
    /// How the rest of a large event is dealt with.
    large: Option<Large>,
    /// Whether the source waits for an acknowledgement of it.
    wants_reply: bool,
}

#[derive(Clone, Copy)]
struct Large {
    header: Header,
    /// Bytes still to come, without the packet's own.
    left: usize,
    copied: bool,
}

/// The transaction or lone event in progress, for files without checksums.
#[derive(Default)]
struct Unit {
    shape: Option<Shape>,
    crc: crc32fast::Hasher,
}

impl Intake {
    /// Takes the dump of `server`, whose log is to go on at `offset` and at `place`.
    #[must_use]
    pub fn new(flavor: Flavor, server: &str, offset: Offset, place: Place) -> Self {
        let same_server = place.server == server && place.position > FILE_START;
        Self {
            flavor,
            server: server.to_owned(),
            offset,
            out: BytesMut::new(),
            taken: VecDeque::new(),
            held: same_server.then(|| Held::new(place)),
            skip: 0,
            resumed: None,
            name: "".into(),
            head: None,
            file: None,
            packet: Packet::default(),
            goal: Goal::Unknown,
            live: false,
            now: Timestamp(0),
            semi_sync: false,
            acknowledgeable: VecDeque::new(),
            unit: Unit::default(),
            transactions: 0,
        }
    }

    /// How many transactions have begun that the archive does not hold, or not whole.
    #[must_use]
    pub const fn transactions(&self) -> u64 {
        self.transactions
    }

    /// The dump begins with the last transaction that the archive holds, which proves that it is
    /// of the same log.
    pub fn expect_proof(&mut self, after: After) {
        if let Some(held) = &mut self.held {
            held.expect(after);
        }
    }

    /// Where the source's log ended when it was asked; nowhere, if it has none.
    pub fn expect_end(&mut self, end: Option<FilePlace>) {
        if matches!(self.goal, Goal::Unknown) {
            self.goal = end.map_or(Goal::Reached, Goal::At);
            let goal = self.goal_in(&self.name);
            if let Some(file) = &mut self.file {
                file.goal = goal;
            }
        }
    }

    /// Packets begin with two bytes that say whether an acknowledgement is wanted.
    pub fn expect_semi_sync(&mut self) {
        self.semi_sync = true;
    }

    /// Offset of the next byte.
    #[must_use]
    pub const fn offset(&self) -> Offset {
        self.offset
    }

    /// Whether a file has been named and described, so that the dump has begun well.
    #[must_use]
    pub const fn has_begun(&self) -> bool {
        self.head.is_some() || self.file.is_some()
    }

    /// The file named last.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.name
    }

    /// Whether the source has still to show that its log is the archive's: by the last
    /// transaction that the archive holds, all of it, or by the rest of one that it holds in part.
    #[must_use]
    pub fn owes_proof(&self) -> bool {
        self.skip > 0 || self.held.as_ref().is_some_and(Held::owes)
    }

    /// What comes from now on came at this moment, by the source's clock.
    pub const fn set_now(&mut self, now: Timestamp) {
        self.now = now;
    }

    /// The next thing, if there is one.
    pub fn pop(&mut self) -> Option<Taken> {
        self.taken.pop_front()
    }

    /// Gives out what has been gathered, for nothing more is at hand.
    pub fn flush(&mut self) {
        if !self.out.is_empty() {
            let bytes = self.out.split().freeze();
            let start = Offset(self.offset.0 - bytes.len() as u64);
            self.taken.push_back(Taken::Log { start, bytes });
        }
    }

    /// The last place at or before `durable` that the source wants to hear of.
    pub fn acknowledge(&mut self, durable: Offset) -> Option<Acknowledgeable> {
        let mut last = None;
        while self.acknowledgeable.front().is_some_and(|next| next.end <= durable) {
            last = self.acknowledgeable.pop_front();
        }
        last
    }

    /// Takes the next piece of a packet. Tells whether a packet has ended after which the
    /// source numbers its packets anew.
    ///
    /// # Errors
    /// What the source says; [`Kind::NotRecoverable`] when its log is not the one the archive
    /// holds; [`Kind::Corruption`] for events that are none.
    pub fn take(&mut self, piece: Piece<'_>) -> Result<bool> {
        let front = if self.semi_sync { 3 } else { 1 };
        if piece.first && piece.last && piece.bytes.len() <= WHOLE_BYTES_MAX {
            return self.whole_packet(piece.bytes, front);
        }
        if let Some(large) = self.packet.large {
            return self.more_of_large(large, piece);
        }
        self.packet.gathered.extend_from_slice(piece.bytes);
        if piece.last {
            let gathered = std::mem::take(&mut self.packet.gathered);
            let result = self.whole_packet(&gathered, front);
            self.packet.gathered = gathered;
            self.packet.gathered.clear();
            return result;
        }
        if self.packet.gathered.len() > WHOLE_BYTES_MAX {
            let gathered = std::mem::take(&mut self.packet.gathered);
            self.begin_large(&gathered, front)?;
        }
        Ok(false)
    }

    fn whole_packet(&mut self, packet: &[u8], front: usize) -> Result<bool> {
        let event = self.event_of(packet, front)?;
        let wants_reply = self.packet.wants_reply;
        let header = Header::parse(event)?;
        if header.length as usize != event.len() {
            return Err(Error::corruption(format!(
                "the source sent an event of {} bytes that says it has {}",
                event.len(),
                header.length
            )));
        }
        self.event(header, event)?;
        if wants_reply {
            self.note_reply(header);
        }
        Ok(wants_reply)
    }

    /// Takes what stands before an event in its packet.
    #[inline]
    fn event_of<'p>(&mut self, packet: &'p [u8], front: usize) -> Result<&'p [u8]> {
        match packet.first() {
            Some(0) => {}
            Some(0xff) => return Err(refusal(packet)),
            Some(0xfe) if packet.len() < 9 => {
                return Err(Error::new(Kind::DatabaseUnreachable, "the source ended its log's stream"));
            }
            _ => return Err(Error::new(Kind::DatabaseUnreachable, "the source sent a packet that is no event")),
        }
        let marks = packet.get(1..front).unwrap_or_default();
        self.packet.wants_reply = matches!(marks, [0xef, flag] if flag & 1 != 0);
        if front == 3 && marks.first() != Some(&0xef) {
            return Err(Error::new(
                Kind::DatabaseUnreachable,
                "the source forgot that it replicates semi-synchronously",
            ));
        }
        Ok(packet.get(front..).unwrap_or_default())
    }

    fn note_reply(&mut self, header: Header) {
        let position = self.file.as_ref().map_or(u64::from(header.log_pos), |file| file.position);
        self.acknowledgeable.push_back(Acknowledgeable { end: self.offset, file: Arc::clone(&self.name), position });
    }

    fn begin_large(&mut self, gathered: &[u8], front: usize) -> Result<()> {
        let event = self.event_of(gathered, front)?;
        let header = Header::parse(event)?;
        let left = (header.length as usize).saturating_sub(event.len());
        let copied = !is_for_us(&header) && self.admit(&header, event)?;
        if copied {
            self.copy_event(event);
        }
        self.packet.large = Some(Large { header, left, copied });
        Ok(())
    }

    fn more_of_large(&mut self, large: Large, piece: Piece<'_>) -> Result<bool> {
        let left = large.left.checked_sub(piece.bytes.len()).filter(|left| (*left == 0) == piece.last || !piece.last);
        let Some(left) = left else {
            return Err(Error::corruption(format!(
                "the source sent an event of other than the {} bytes it says it has",
                large.header.length
            )));
        };
        if large.copied {
            self.copy_event(piece.bytes);
        }
        if !piece.last {
            self.packet.large = Some(Large { left, ..large });
            return Ok(false);
        }
        self.packet.large = None;
        let wants_reply = self.packet.wants_reply;
        if large.copied {
            self.end_event(&large.header, &[])?;
        }
        if wants_reply {
            self.note_reply(large.header);
        }
        Ok(wants_reply)
    }

    /// Takes a whole event.
    fn event(&mut self, header: Header, event: &[u8]) -> Result<()> {
        match header.kind {
            kind::ROTATE if header.is_artificial() => self.rotated(event),
            kind::HEARTBEAT | kind::HEARTBEAT_V2 => {
                if let Some(held) = self.held.as_ref().filter(|held| held.owes()) {
                    return Err(another_log(&held.place, "has nothing more where the archive holds more"));
                }
                self.flush();
                if self.passes_over(&header, event) {
                    self.taken.push_back(Taken::Alive);
                    return Ok(());
                }
                self.catch_up();
                self.taken.push_back(Taken::Heartbeat);
                Ok(())
            }
            kind::FORMAT_DESCRIPTION => self.described(&header, event),
            _ if header.is_artificial() => Ok(()),
            _ => {
                if self.admit(&header, event)? {
                    self.copy_event(event);
                    self.end_event(&header, event.get(HEADER_BYTES..).unwrap_or_default())?;
                }
                Ok(())
            }
        }
    }

    /// The source names the file that follows: position u64, name.
    fn rotated(&mut self, event: &[u8]) -> Result<()> {
        let end = if is_sound(event) { event.len() - CHECKSUM_BYTES } else { event.len() };
        let name = event.get(HEADER_BYTES + 8..end).and_then(|name| std::str::from_utf8(name).ok());
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Err(Error::corruption("the source named a binlog file that has no name"));
        };
        if self.name.as_ref() != name {
            self.name = name.into();
        }
        Ok(())
    }

    fn described(&mut self, header: &Header, event: &[u8]) -> Result<()> {
        if self.skip > 0 {
            let text = "the source ends the transaction that the archive holds in part before the archive does";
            return Err(Error::new(Kind::NotRecoverable, text));
        }
        let mut description = BytesMut::from(event);
        // On the wire it is cleared; its checksum is that of the event without it.
        if let Some(flags) = description.get_mut(17..18) {
            flags[0] &= 0xfe;
        }
        let checksums = checksums(&description)?;
        let end = if header.log_pos == 0 { 0 } else { FILE_START + u64::from(header.length) };
        if end == 0 && !is_sound(&description) {
            // Made up for a start within the file, and where events carry no checksum not sealed.
            seal(&mut description);
        }
        self.unit = Unit::default();
        self.file = None;
        self.head = Some(Head { description: description.freeze(), checksums, end });
        Ok(())
    }

    /// Whether an event of a file goes into the archive, after what has to stand before it.
    fn admit(&mut self, header: &Header, event: &[u8]) -> Result<bool> {
        let starts = header.log_pos.wrapping_sub(header.length);
        if !self.is_new(header, event, starts)? {
            return Ok(false);
        }
        match self.head.take() {
            Some(head) => self.begin_file(head, starts),
            None if begins_group(header.kind) => self.go_on(starts),
            None => {}
        }
        let Some(file) = &mut self.file else {
            return Err(Error::corruption("the source sent an event before it described its file"));
        };
        file.position += u64::from(header.length);
        if begins_group(header.kind) {
            self.transactions += 1;
            if self.out.len() >= PIECE_BYTES {
                self.flush();
            }
            if self.live && self.flavor == Flavor::MariaDb && self.skip == 0 {
                let note = Note::Time(Some(self.now)).encode();
                self.copy(&note);
            }
        }
        Ok(true)
    }

    /// Whether the archive does not hold an event.
    fn is_new(&mut self, header: &Header, event: &[u8], starts: u32) -> Result<bool> {
        let Some(held) = &mut self.held else { return Ok(true) };
        let checksums = self.head.as_ref().is_some_and(|head| head.checksums);
        match held.judge(&self.name, &Met { header, event, starts, checksums })? {
            Judged::Held => return Ok(false),
            Judged::InAnotherFile => {}
            Judged::First { reached } => {
                self.skip = held.place.holding;
                self.resumed = reached.then_some(held.place.position);
            }
        }
        self.held = None;
        Ok(true)
    }

    /// Writes where the log of a file begins: at its head, or where the source gives it from.
    fn begin_file(&mut self, head: Head, starts: u32) {
        let whole = head.end != 0 && head.end as u32 == starts;
        let resumed = self.resumed.take().filter(|resumed| *resumed as u32 == starts);
        let position = if whole { FILE_START } else { resumed.unwrap_or(u64::from(starts)) };
        self.flush();
        self.write_note(position, &head.description);
        self.file = Some(File {
            description: head.description,
            checksums: head.checksums,
            position: if whole { head.end } else { position },
            noted: self.offset,
            goal: self.goal_in(&self.name),
        });
    }

    /// Says again which file this is, from time to time and behind a hole.
    fn go_on(&mut self, starts: u32) {
        let Some(file) = &self.file else { return };
        let far = self.offset.since(file.noted) >= NOTE_INTERVAL;
        let hole = file.position as u32 != starts;
        if far || hole {
            let position =
                if hole { file.position + u64::from(starts.wrapping_sub(file.position as u32)) } else { file.position };
            let description = file.description.clone();
            self.write_note(position, &description);
            if let Some(file) = &mut self.file {
                file.noted = self.offset;
                file.position = position;
            }
        }
    }

    fn write_note(&mut self, position: u64, description: &[u8]) {
        let (server, name) = (self.server.clone(), self.name.to_string());
        if self.skip > 0 {
            // In the middle of a transaction.
            return;
        }
        let note = Note::File(FileNote { server, name, position }).encode();
        self.copy(&note);
        self.copy(description);
    }

    fn copy(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        self.offset = Offset(self.offset.0 + bytes.len() as u64);
        if self.out.len() >= 2 * PIECE_BYTES {
            self.flush();
        }
    }

    /// Copies bytes of an event, but for those that the archive holds.
    fn copy_event(&mut self, bytes: &[u8]) {
        let skipped = bytes.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
        self.skip -= skipped as u64;
        self.copy(bytes.get(skipped..).unwrap_or_default());
        if self.file.as_ref().is_some_and(|file| !file.checksums) {
            self.unit.crc.update(bytes);
        }
    }

    /// What follows an event: the checksum of a transaction that has none, and whether all is
    /// here that was wanted.
    fn end_event(&mut self, header: &Header, body: &[u8]) -> Result<()> {
        if self.file.as_ref().is_some_and(|file| !file.checksums) {
            let ended = match &mut self.unit.shape {
                Some(shape) => shape.ends_with(header, body, false),
                None if begins_group(header.kind) => {
                    let begun = GtidEvent::decode(header.kind, header.server_id, body)?;
                    let standalone = begun.is_some_and(|begun| begun.flags.standalone());
                    self.unit.shape = Some(Shape::of(self.flavor, standalone));
                    false
                }
                None => true,
            };
            if ended {
                let crc = std::mem::take(&mut self.unit).crc.finalize();
                let note = Note::Checksum(crc).encode();
                self.copy(&note);
            }
        }
        if self.file.as_ref().is_some_and(|file| file.position >= file.goal) {
            self.catch_up();
        }
        Ok(())
    }

    /// The place in `file` from which on all is here that was there when the dump began.
    fn goal_in(&self, file: &str) -> u64 {
        let Goal::At(goal) = &self.goal else { return u64::MAX };
        // The number at a name's end has six digits until it needs more.
        match (goal.file.len(), &*goal.file).cmp(&(file.len(), file)) {
            Ordering::Less => 0,
            Ordering::Equal => goal.position,
            Ordering::Greater => u64::MAX,
        }
    }

    /// Whether a heartbeat only says that transactions which we have were passed over: MySQL
    /// sends one before it goes on behind them.
    fn passes_over(&self, header: &Header, event: &[u8]) -> bool {
        let place = || heartbeat::place(header, event);
        self.flavor == Flavor::MySql
            && !matches!(self.goal, Goal::Reached)
            && place().is_some_and(|place| place.position < self.goal_in(&place.file))
    }

    fn catch_up(&mut self) {
        self.live = true;
        if !matches!(std::mem::replace(&mut self.goal, Goal::Reached), Goal::Reached) {
            self.flush();
            self.taken.push_back(Taken::CaughtUp(self.offset));
        }
    }
}

/// Events that are about the stream and not of the log.
const fn is_for_us(header: &Header) -> bool {
    header.is_artificial() || matches!(header.kind, kind::HEARTBEAT | kind::HEARTBEAT_V2 | kind::FORMAT_DESCRIPTION)
}

#[cfg(test)]
mod tests;
