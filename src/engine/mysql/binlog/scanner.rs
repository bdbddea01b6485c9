//! Binlog bytes to marks: every event's checksum verified, every transaction told.
//!
//! What lies on the axis of a MySQL timeline:
//!
//! ```text
//! log   := unit*
//! unit  := FILE note, format description          a file begins, or goes on
//!        | [TIME note] transaction [CHECKSUM note]
//!        | any other event [CHECKSUM note]        previous GTIDs, rotate, stop, ...
//! ```
//! All but the notes (see [`super::note`]) are the server's bytes as its file holds them,
//! without the file's magic. A CHECKSUM note ends each unit whose events carry no checksum.
//! A scanner may begin at any unit: whether events carry checksums it sees at the first one.
//!
//! A transaction that the server never finished (it died) is followed by the next file; it is
//! kept, for it is in the server's file, and is no transaction.

use std::fmt::Write as _;

use super::counter::Counter;
use super::event::{self, CHECKSUM_BYTES, HEADER_BYTES, Header, begins_group, kind};
use super::group::Shape;
use super::gtid_event::GtidEvent;
use super::note::{FILE_START, FileNote, Note};
use crate::engine::mysql::flavor::Flavor;
use crate::engine::mysql::gtid::{Gtid, GtidSet, MariaDbSet, MySqlSet};
use crate::engine::mysql::place::{After, Place};
use crate::engine::{Detail, Scanner};
use crate::error::{Error, Result};
use crate::model::changes::Changes;
use crate::model::mark::{Mark, MarkKind, TransactionId};
use crate::model::offset::Offset;
use crate::model::position::Position;
use crate::model::time::Timestamp;

/// How much of an event is kept for a look at its body.
const KEPT_BYTES: usize = 64 << 10;

/// The same for events that list GTIDs, which are read whole.
const LIST_BYTES_MAX: usize = 64 << 20;

/// Reads a binlog as pitr archives it.
pub struct BinlogScanner {
    flavor: Flavor,
    detail: Detail,
    /// What transactions do, if that is asked for.
    counter: Option<Box<Counter>>,
    /// Of the next byte to come.
    offset: Offset,
    /// Where the last whole unit ended.
    boundary: Offset,
    /// An event of which not all has come.
    pending: Option<Pending>,
    /// The first bytes of a header that has not come whole.
    head: Vec<u8>,
    /// Whether events carry checksums; not known before the first one.
    checksums: Option<bool>,
    /// Of the bytes of the unit so far, where events carry none.
    unit_crc: crc32fast::Hasher,
    /// What was read of the unit that is not whole.
    unit: Unit,
    /// Where GTIDs are put into words.
    text: String,
    /// Where the boundary is, if it is known.
    place: Option<Place>,
    /// Bytes of the server's file since the boundary.
    since: u64,
    /// Whether `place` knows the transactions before it.
    knows_gtids: bool,
}

/// What has been read since the boundary.
#[derive(Default)]
struct Unit {
    /// A file begins with this unit.
    file: Option<FileNote>,
    /// When the transaction was received.
    received: Option<Timestamp>,
    transaction: Option<Open>,
    /// The unit is whole but for its checksum, with the mark it will be.
    unsealed: Option<MarkKind>,
}

/// A transaction that has begun.
struct Open {
    start: Offset,
    /// Where it began in its file, as the distance from the boundary, and its first event's checksum.
    since: u64,
    crc: u32,
    gtid: Option<Gtid>,
    committed: Option<Timestamp>,
    shape: Shape,
}

/// An event that came in part.
struct Pending {
    header: Header,
    /// Its first bytes, with the header.
    kept: Vec<u8>,
    keep: usize,
    /// Bytes that have come.
    seen: usize,
    /// Of all bytes but the last four.
    crc: crc32fast::Hasher,
    last: [u8; CHECKSUM_BYTES],
    /// Too large to be kept: the counter is told of it as it comes.
    in_parts: bool,
}

/// A whole event.
struct Event<'a> {
    header: Header,
    start: Offset,
    /// Its bytes, or the first of them.
    bytes: &'a [u8],
    crc: u32,
    last: [u8; CHECKSUM_BYTES],
    /// The counter has been told of all of it.
    in_parts: bool,
}

impl Event<'_> {
    /// What is at hand of the body without its checksum.
    fn at_hand(&self, checksums: bool) -> &[u8] {
        let end = self.header.length as usize - if checksums { CHECKSUM_BYTES } else { 0 };
        self.bytes.get(HEADER_BYTES..end.min(self.bytes.len())).unwrap_or_default()
    }

    fn is_sound(&self) -> bool {
        u32::from_le_bytes(self.last) == self.crc
    }

    fn body(&self) -> &[u8] {
        self.bytes.get(HEADER_BYTES..).unwrap_or_default()
    }

    /// The body without its checksum, if all of it is at hand.
    fn content(&self, checksums: bool) -> Option<&[u8]> {
        let body = (self.bytes.len() == self.header.length as usize).then(|| self.body())?;
        body.get(..body.len().checked_sub(if checksums { CHECKSUM_BYTES } else { 0 })?)
    }
}

impl BinlogScanner {
    /// A scanner that stands at `start`, where a unit begins.
    #[must_use]
    pub fn new(flavor: Flavor, start: Offset, detail: Detail) -> Self {
        Self {
            flavor,
            detail,
            counter: (detail == Detail::Changes).then(|| Box::new(Counter::new())),
            offset: start,
            boundary: start,
            pending: None,
            head: Vec::new(),
            checksums: None,
            unit_crc: crc32fast::Hasher::new(),
            unit: Unit::default(),
            text: String::new(),
            place: None,
            since: 0,
            knows_gtids: false,
        }
    }

    /// Where the last whole unit ended, in the server's words, if that is known.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        // At its head a file tells by itself what lies before it.
        let place = self.place.as_ref().filter(|place| self.knows_gtids || place.position == FILE_START)?;
        let holding = match &self.pending {
            _ if !self.head.is_empty() => u64::MAX,
            Some(pending) if pending.header.kind == kind::IGNORABLE => u64::MAX,
            Some(pending) => self.since + pending.seen as u64,
            None => self.since,
        };
        Some(Place { holding, ..place.clone() })
    }

    fn broken(&self, at: Offset, what: &str) -> Error {
        let place = match &self.place {
            Some(place) => format!("{}:{}", place.file, place.position + self.since),
            None => format!("offset {}", at.0),
        };
        Error::corruption(format!("the log at {place} {what}"))
    }

    /// Takes an event that has come whole.
    fn event(&mut self, event: &Event<'_>, marks: &mut Vec<Mark>) -> Result<()> {
        let Event { header, start, .. } = event;
        if Note::is_one(header, event.body()) {
            return self.note(event, marks);
        }
        if self.unit.unsealed.is_some() {
            return Err(self.broken(*start, "lacks the checksum of a transaction"));
        }
        let sound = event.is_sound();
        if header.kind == kind::FORMAT_DESCRIPTION {
            if !sound {
                return Err(self.broken(*start, "holds a format description that fails its checksum"));
            }
            return self.format_description(event, marks);
        }
        if self.unit.file.is_some() {
            return Err(self.broken(*start, "names a file, and has no format description behind that"));
        }
        let checksums = *self.checksums.get_or_insert(sound);
        if checksums && !sound {
            let what =
                format!("holds an event of type {} and {} bytes that fails its checksum", header.kind, header.length);
            return Err(self.broken(*start, &what));
        }
        let since = self.since;
        self.since += u64::from(header.length);
        let crc = if checksums { u32::from_le_bytes(event.last) } else { 0 };
        if let Some(counter) = &mut self.counter
            && self.unit.transaction.is_some()
        {
            if event.in_parts {
                counter.end();
            } else {
                counter.whole(header.kind, event.at_hand(checksums));
            }
        }
        let ended = match &mut self.unit.transaction {
            None if begins_group(header.kind) => {
                let content = event.content(checksums).unwrap_or_default();
                let begun = GtidEvent::decode(header.kind, header.server_id, content)
                    .map_err(|error| self.broken(*start, &format!("cannot be read: {error}")))?
                    .ok_or_else(|| self.broken(*start, "begins no transaction"))?;
                self.unit.transaction = Some(Open {
                    start: *start,
                    since,
                    crc,
                    committed: begun.immediate_commit,
                    shape: Shape::of(self.flavor, begun.flags.standalone()),
                    gtid: begun.gtid,
                });
                None
            }
            Some(_) if begins_group(header.kind) => {
                return Err(self.broken(*start, "begins a transaction before the one before has ended"));
            }
            Some(open) => open.shape.ends_with(header, event.body(), checksums).then(|| {
                let seconds = Timestamp(i64::from(header.timestamp) * 1_000_000);
                let time = open.committed.or(self.unit.received).unwrap_or(seconds);
                let id = match &open.gtid {
                    Some(gtid) => {
                        self.text.clear();
                        // Writing to a string does not fail.
                        let _ = write!(self.text, "{gtid}");
                        TransactionId::Text(self.text.as_str().into())
                    }
                    None => TransactionId::Text("anonymous".into()),
                };
                MarkKind::Transaction { id, time, committed: true }
            }),
            None if is_alone(header.kind) => {
                self.other(event, checksums)?;
                Some(MarkKind::Record)
            }
            None => {
                return Err(
                    self.broken(*start, &format!("holds an event of type {} outside of a transaction", header.kind))
                );
            }
        };
        if !checksums {
            let covered = u64::from(header.length) - CHECKSUM_BYTES as u64;
            let mut whole = crc32fast::Hasher::new_with_initial_len(event.crc, covered);
            whole.update(&event.last);
            self.unit_crc.combine(&whole);
        }
        match ended {
            Some(mark) if checksums => self.end_unit(mark, marks),
            Some(mark) => self.unit.unsealed = Some(mark),
            None => {}
        }
        Ok(())
    }

    fn note(&mut self, event: &Event<'_>, marks: &mut Vec<Mark>) -> Result<()> {
        let note = match Note::parse(event.bytes) {
            Ok(note) => note,
            Err(error) => return Err(self.broken(event.start, "holds a damaged note of pitr's").because(error)),
        };
        let between = self.unit.transaction.is_none() && self.unit.unsealed.is_none();
        match note {
            // What came before and was not whole never will be.
            Note::File(file) => {
                if !between {
                    self.abandon();
                }
                self.unit.file = Some(file);
            }
            Note::Time(received) if between => self.unit.received = received,
            Note::Time(_) => return Err(self.broken(event.start, "holds a note of the time within a transaction")),
            Note::Checksum(crc) => {
                let Some(mark) = self.unit.unsealed.take() else {
                    return Err(self.broken(event.start, "holds a checksum of nothing"));
                };
                if std::mem::take(&mut self.unit_crc).finalize() != crc {
                    return Err(self.broken(event.start, "holds a transaction that fails its checksum"));
                }
                self.end_unit(mark, marks);
            }
        }
        Ok(())
    }

    /// The server died within a transaction: its bytes stay, and count as the file's.
    fn abandon(&mut self) {
        if let Some(place) = &mut self.place {
            place.position += self.since;
        }
        self.since = 0;
        self.unit = Unit::default();
        if let Some(counter) = &mut self.counter {
            counter.end_transaction(false);
        }
        self.unit_crc = crc32fast::Hasher::new();
    }

    fn format_description(&mut self, event: &Event<'_>, marks: &mut Vec<Mark>) -> Result<()> {
        let checksums = event::checksums(event.bytes).map_err(|error| self.broken(event.start, &error.to_string()))?;
        let Some(file) = self.unit.file.take() else {
            return Err(self.broken(event.start, "holds a format description of a file that no note names"));
        };
        self.checksums = Some(checksums);
        let length = if file.position == FILE_START { u64::from(event.header.length) } else { 0 };
        let gtids = self.place.as_ref().map_or_else(|| GtidSet::empty(self.flavor), |place| place.gtids.clone());
        let position = file.position + length;
        let goes_on = self
            .place
            .take()
            .filter(|place| place.server == file.server && place.file == file.name && place.position == position);
        let after = goes_on.and_then(|place| place.after);
        self.place = Some(Place { gtids, server: file.server, file: file.name, position, after, holding: 0 });
        self.since = 0;
        self.end_unit(MarkKind::Record, marks);
        Ok(())
    }

    /// Takes what an event between transactions tells.
    fn other(&mut self, event: &Event<'_>, checksums: bool) -> Result<()> {
        if self.knows_gtids {
            return Ok(());
        }
        let read = match (event.header.kind, event.content(checksums)) {
            (kind::PREVIOUS_GTIDS, Some(content)) => MySqlSet::decode(content).map(GtidSet::MySql),
            (kind::GTID_LIST, Some(content)) => MariaDbSet::decode_list(content).map(GtidSet::MariaDb),
            (kind::PREVIOUS_GTIDS | kind::GTID_LIST, None) => {
                return Err(self.broken(event.start, "holds a list of GTIDs that is too long"));
            }
            _ => return Ok(()),
        };
        let gtids = read.map_err(|error| self.broken(event.start, &error.to_string()))?;
        if let Some(place) = &mut self.place {
            place.gtids = gtids;
            self.knows_gtids = true;
        }
        Ok(())
    }

    fn end_unit(&mut self, kind: MarkKind, marks: &mut Vec<Mark>) {
        if let Some(counter) = &mut self.counter {
            counter.end_transaction(true);
        }
        let unit = std::mem::take(&mut self.unit);
        let start = unit.transaction.as_ref().map_or(self.boundary, |open| open.start);
        if let Some(place) = &mut self.place {
            if let Some(open) = &unit.transaction {
                let position = place.position + open.since;
                place.after = (open.crc != 0).then_some(After { position, crc: open.crc });
                if let Some(gtid) = &open.gtid {
                    // A set of the other flavour can only be a server that changed its kind.
                    let _ = place.gtids.add(gtid);
                }
            }
            place.position += self.since;
        }
        self.since = 0;
        self.boundary = self.offset;
        if kind != MarkKind::Record || self.detail == Detail::Records {
            marks.push(Mark { start, end: self.boundary, kind });
        }
    }

    /// Takes the whole event at the front of `bytes`; 0 when none lies there whole.
    fn take_whole(&mut self, bytes: &[u8], marks: &mut Vec<Mark>) -> Result<usize> {
        let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(0) };
        let header = self.header(head, self.offset)?;
        let length = header.length as usize;
        let Some((covered, last)) = bytes.get(..length).and_then(|event| event.split_last_chunk()) else {
            return Ok(0);
        };
        let event = Event {
            header,
            start: self.offset,
            bytes: bytes.get(..length).unwrap_or_default(),
            crc: crc32fast::hash(covered),
            last: *last,
            in_parts: false,
        };
        self.offset = Offset(self.offset.0 + length as u64);
        self.event(&event, marks)?;
        Ok(length)
    }

    /// Takes bytes of an event that does not lie whole in one piece; gives how many.
    fn gather(&mut self, bytes: &[u8], marks: &mut Vec<Mark>) -> Result<usize> {
        let Some(pending) = &mut self.pending else {
            let wanted = HEADER_BYTES - self.head.len();
            let (taken, _) = bytes.split_at(wanted.min(bytes.len()));
            self.head.extend_from_slice(taken);
            self.offset = Offset(self.offset.0 + taken.len() as u64);
            if self.head.len() == HEADER_BYTES {
                let head = std::mem::take(&mut self.head);
                let header = self.header(&head, Offset(self.offset.0 - HEADER_BYTES as u64))?;
                self.pending = Some(Pending::new(header, &head));
            }
            return Ok(taken.len());
        };
        let length = pending.header.length as usize;
        let (taken, _) = bytes.split_at((length - pending.seen).min(bytes.len()));
        pending.take(taken);
        if let Some(counter) = &mut self.counter {
            pending.tell(taken, self.checksums.unwrap_or(true), counter);
        }
        self.offset = Offset(self.offset.0 + taken.len() as u64);
        if pending.seen == length
            && let Some(Pending { header, kept, crc, last, in_parts, .. }) = self.pending.take()
        {
            let start = Offset(self.offset.0 - length as u64);
            self.event(&Event { header, start, bytes: &kept, crc: crc.finalize(), last, in_parts }, marks)?;
        }
        Ok(taken.len())
    }

    fn header(&self, bytes: &[u8], start: Offset) -> Result<Header> {
        let header = Header::parse(bytes).map_err(|error| self.broken(start, &format!("is no event: {error}")))?;
        if (header.length as usize) < HEADER_BYTES + CHECKSUM_BYTES {
            return Err(self.broken(start, &format!("is no event: one of {} bytes has no body", header.length)));
        }
        Ok(header)
    }
}

impl Pending {
    fn new(header: Header, head: &[u8]) -> Self {
        let keep = match header.kind {
            kind::PREVIOUS_GTIDS | kind::GTID_LIST => LIST_BYTES_MAX,
            _ => KEPT_BYTES,
        };
        let (kept, crc, last) = (Vec::new(), crc32fast::Hasher::new(), [0; CHECKSUM_BYTES]);
        let mut pending = Self { header, kept, keep, seen: 0, crc, last, in_parts: false };
        pending.take(head);
        pending
    }

    fn take(&mut self, bytes: &[u8]) {
        let covered = (self.header.length as usize).saturating_sub(CHECKSUM_BYTES + self.seen).min(bytes.len());
        let (covered, last) = bytes.split_at(covered);
        self.crc.update(covered);
        let at = CHECKSUM_BYTES - (self.header.length as usize - self.seen - covered.len()).min(CHECKSUM_BYTES);
        if let Some(place) = self.last.get_mut(at..at + last.len()) {
            place.copy_from_slice(last);
        }
        let room = self.keep.saturating_sub(self.kept.len()).min(bytes.len());
        self.kept.extend_from_slice(&bytes[..room]);
        self.seen += bytes.len();
    }

    /// Tells the counter of the bytes that were taken last, if the event is too large to be kept.
    fn tell(&mut self, taken: &[u8], checksums: bool, counter: &mut Counter) {
        let length = self.header.length as usize;
        if length <= self.keep || self.seen < self.keep || !Counter::wants_parts(self.header.kind) {
            return;
        }
        let end = length - if checksums { CHECKSUM_BYTES } else { 0 };
        if !std::mem::replace(&mut self.in_parts, true) {
            let content = self.kept.get(HEADER_BYTES..end.min(self.kept.len()));
            counter.begin(self.header.kind, content.unwrap_or_default());
        }
        let before = self.seen - taken.len();
        let range = self.keep.max(before).min(end)..self.seen.min(end);
        counter
            .more(taken.get(range.start.saturating_sub(before)..range.end.saturating_sub(before)).unwrap_or_default());
    }
}

impl Scanner for BinlogScanner {
    fn feed(&mut self, bytes: &[u8], marks: &mut Vec<Mark>) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let between = self.pending.is_none() && self.head.is_empty();
            let taken = if between { self.take_whole(rest, marks)? } else { 0 };
            let taken = if taken == 0 { self.gather(rest, marks)? } else { taken };
            rest = rest.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    fn boundary(&self) -> Offset {
        self.boundary
    }

    fn offset(&self) -> Offset {
        self.offset
    }

    fn position(&self) -> Option<Position> {
        self.place().map(|place| place.to_position())
    }

    fn take_changes(&mut self) -> Changes {
        self.counter.as_mut().map(|counter| counter.take()).unwrap_or_default()
    }

    fn set_position(&mut self, position: &Position) -> Result<()> {
        let place = Place::parse(position, self.flavor)?;
        self.knows_gtids = place.position != FILE_START || !place.gtids.is_empty();
        self.place = Some(Place { holding: 0, ..place });
        Ok(())
    }
}

/// Events that stand alone, outside of transactions.
pub(super) const fn is_alone(of: u8) -> bool {
    matches!(
        of,
        kind::STOP
            | kind::ROTATE
            | kind::INCIDENT
            | kind::IGNORABLE
            | kind::PREVIOUS_GTIDS
            | kind::GTID_LIST
            | kind::BINLOG_CHECKPOINT
            | kind::START_ENCRYPTION
    )
}
