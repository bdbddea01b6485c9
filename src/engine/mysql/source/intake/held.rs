//! What the archive holds of the file that a source begins with, and how the source proves that
//! its log is the same.

use super::super::super::binlog::event::{CHECKSUM_BYTES, HEADER_BYTES, Header, begins_group};
use super::super::super::binlog::gtid_event::GtidEvent;
use super::super::super::place::{After, Place};
use super::refusal::another_log;
use crate::error::Result;

/// The archive's log up to `place`.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) place: Place,
    /// The last transaction before, whose first event is to be compared.
    to_prove: Option<After>,
    /// Where in its file that transaction goes on, while not all of it has come: it may have
    /// lost its end.
    passed: Option<u64>,
}

/// An event of a file, as it comes.
pub(super) struct Met<'e> {
    pub(super) header: &'e Header,
    pub(super) event: &'e [u8],
    /// Where in its file it begins, modulo 4 GiB.
    pub(super) starts: u32,
    /// Whether a format description stands right before it that speaks of checksums.
    pub(super) checksums: bool,
}

/// What an event is to the archive.
pub(super) enum Judged {
    /// It is there already.
    Held,
    /// The first one that is not there, or not whole.
    First {
        /// Whether it is where the archive's log ends.
        reached: bool,
    },
    /// Of another file: the first one ended where the archive's log does.
    InAnotherFile,
}

impl Held {
    /// Up to there, with nothing to prove.
    pub(super) const fn new(place: Place) -> Self {
        Self { place, to_prove: None, passed: None }
    }

    /// The dump begins with this transaction, the archive's last.
    pub(super) const fn expect(&mut self, after: After) {
        self.to_prove = Some(after);
    }

    /// Whether something has still to come that the archive holds, all or in part.
    pub(super) const fn owes(&self) -> bool {
        self.to_prove.is_some() || self.passed.is_some() || self.place.holding > 0
    }

    /// Judges an event of the file of this name. What the archive holds ends where a transaction
    /// ends, or within the next one.
    pub(super) fn judge(&mut self, file: &str, met: &Met<'_>) -> Result<Judged> {
        if *self.place.file != *file {
            if self.owes() {
                return Err(another_log(&self.place, "goes on in another file than the archive"));
            }
            return Ok(Judged::InAnotherFile);
        }
        if let Some(after) = self.to_prove
            && after.position as u32 == met.starts
        {
            let crc = met.event.last_chunk::<CHECKSUM_BYTES>().map(|crc| u32::from_le_bytes(*crc));
            if crc != Some(after.crc) {
                return Err(another_log(&self.place, "has another transaction there than the archive holds"));
            }
            self.to_prove = None;
            return self.pass(after.position, met.header);
        }
        if let Some(at) = self.passed {
            return self.pass(at, met.header);
        }
        let reached = self.place.position as u32 == met.starts;
        if !reached && !self.lacks(met)? {
            return Ok(Judged::Held);
        }
        if self.to_prove.is_some() {
            return Err(another_log(&self.place, "lacks the transaction that the archive holds last"));
        }
        if self.place.holding > 0 && (!reached || self.place.holding == u64::MAX) {
            return Err(another_log(&self.place, "does not go on with the transaction that the archive holds in part"));
        }
        Ok(Judged::First { reached })
    }

    /// Takes note of an event of the last transaction, which begins at `at`.
    fn pass(&mut self, at: u64, header: &Header) -> Result<Judged> {
        let end = at + u64::from(header.length);
        self.passed = (end < self.place.position).then_some(end);
        if end > self.place.position {
            return Err(another_log(&self.place, "has another transaction there than the archive holds"));
        }
        Ok(Judged::Held)
    }

    /// Whether a transaction begins that is none of those before the archive's end.
    fn lacks(&self, met: &Met<'_>) -> Result<bool> {
        if !begins_group(met.header.kind) {
            return Ok(false);
        }
        let end = if met.checksums { CHECKSUM_BYTES } else { 0 };
        let body = met.event.get(HEADER_BYTES..met.event.len() - end).unwrap_or_default();
        let begun = GtidEvent::decode(met.header.kind, met.header.server_id, body)?;
        Ok(begun.and_then(|begun| begun.gtid).is_none_or(|gtid| !self.place.gtids.contains(&gtid)))
    }
}
