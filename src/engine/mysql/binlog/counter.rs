//! What a transaction does to tables, counted while its events pass.
//!
//! An event comes whole, or, if it is too large to be kept, as a beginning, more, and an end:
//! rows are counted in bounded memory however large they are. Nothing that cannot be read is an
//! error: the log is whole, whatever is in it. What could not be counted is said to be.

use super::event::kind;
use super::inflate::Inflater;
use super::payload::{Events, Head, Part};
use super::rows::Held;
use super::tally::Tally;
use crate::model::changes::Changes;

/// Counts what transactions do.
pub struct Counter {
    tally: Tally,
    payload: Option<Payload>,
    /// Kept from one payload to the next: to make one anew costs more than to inflate a little.
    inflater: Inflater,
}

/// A compressed transaction that is being read.
struct Payload {
    is_zstd: bool,
    events: Events,
}

impl Default for Counter {
    fn default() -> Self {
        Self::new()
    }
}

impl Counter {
    /// Nothing counted yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { tally: Tally::new(), payload: None, inflater: Inflater::new() }
    }

    /// Whether events of this kind, if they are large, are to be told of in parts.
    #[must_use]
    pub const fn wants_parts(event: u8) -> bool {
        event == kind::TRANSACTION_PAYLOAD || Held::of(event).is_some()
    }

    /// What the transactions did that have ended, since this was last asked.
    pub fn take(&mut self) -> Changes {
        self.tally.take()
    }

    /// The transaction ends, or breaks off: then it counts for nothing.
    pub fn end_transaction(&mut self, whole: bool) {
        self.payload = None;
        self.tally.end_transaction(whole);
    }

    /// Takes a whole event: its kind and its content, without header and checksum. Of statements
    /// and table maps the beginning will do.
    pub fn whole(&mut self, event: u8, content: &[u8]) {
        if event == kind::TRANSACTION_PAYLOAD {
            self.begin(event, content);
            self.end();
        } else {
            self.tally.whole(event, content);
        }
    }

    /// Takes the beginning of an event that [`Counter::wants_parts`].
    pub fn begin(&mut self, event: u8, content: &[u8]) {
        if event != kind::TRANSACTION_PAYLOAD {
            return self.tally.begin(event, content);
        }
        let head = Head::parse(content);
        match head.filter(|head| !head.is_zstd || self.inflater.begin_zstd(head.inflated_bytes).is_some()) {
            Some(Head { is_zstd, payload, .. }) => {
                self.payload = Some(Payload { is_zstd, events: Events::default() });
                self.more(payload);
            }
            None => self.tally.tell_more(),
        }
    }

    /// Takes the next bytes of its content.
    pub fn more(&mut self, bytes: &[u8]) {
        let Self { tally, payload, inflater } = self;
        let Some(Payload { is_zstd, events }) = payload else { return tally.more(bytes) };
        let mut each = |raw: &[u8]| {
            events.feed(raw, &mut |part| match part {
                Part::Whole(event, content) => tally.whole(event, content),
                Part::Begin(event, content) => tally.begin(event, content),
                Part::More(bytes) => tally.more(bytes),
                Part::End => tally.end(),
            });
        };
        if *is_zstd { inflater.feed(bytes, &mut each) } else { each(bytes) }
    }

    /// The event that came in parts ends.
    pub fn end(&mut self) {
        match self.payload.take() {
            None => self.tally.end(),
            Some(Payload { is_zstd, events }) => {
                if is_zstd && !self.inflater.is_sound() || !events.is_whole() {
                    self.tally.tell_more();
                }
            }
        }
    }
}
