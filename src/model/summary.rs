//! What a segment's footer says of its segment.

use super::changes::Changes;
use super::mark::{Mark, MarkKind, Transaction};
use super::offset::{Offset, OffsetRange};
use super::position::Position;
use super::time::Timestamp;
use crate::error::{Error, Result};

/// A restore point inside a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestorePoint {
    /// The name its author gave.
    pub name: String,
    /// When, by the source's clock.
    pub time: Timestamp,
    /// One past the record that marks it.
    pub end: Offset,
}

/// The log of one segment in a few words: enough to plan without reading it.
///
/// A mark belongs to the segment in which it *ends*; it may have begun in the one
/// before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The bytes of the segment.
    pub range: OffsetRange,
    /// Where the last whole record at or before `range.end` ends. A scanner that
    /// starts here reads every record; it may lie before `range.start`.
    pub boundary: Offset,
    /// Transactions that ended here, committed or not.
    pub transactions: u64,
    /// Earliest and latest end of a transaction here. Times are not monotone in log
    /// order.
    pub times: Option<(Timestamp, Timestamp)>,
    /// Smallest and largest numeric transaction id here, if ids are numbers.
    pub ids: Option<(u64, u64)>,
    /// The last transaction here, in log order.
    pub last: Option<Transaction>,
    /// Restore points here, in log order.
    pub restore_points: Vec<RestorePoint>,
    /// What the transactions here did to tables.
    pub changes: Changes,
    /// The log is known to be complete up to this moment of the source's clock:
    /// every transaction that ended by then lies before `range.end`.
    pub confirmed: Option<Timestamp>,
    /// `range.end` in the engine's words.
    pub position: Position,
}

impl Summary {
    /// The summary of an empty segment that begins at `start`, whose last whole
    /// record ended at `boundary`.
    #[must_use]
    pub fn empty(start: Offset, boundary: Offset) -> Self {
        Self {
            range: OffsetRange::new(start, start),
            boundary,
            transactions: 0,
            times: None,
            ids: None,
            last: None,
            restore_points: Vec::new(),
            changes: Changes::default(),
            confirmed: None,
            position: Position::default(),
        }
    }

    /// Takes note of a mark that ends in this segment.
    pub fn add(&mut self, mark: Mark) {
        if let MarkKind::RestorePoint { name, time } = mark.kind {
            self.restore_points.push(RestorePoint { name, time, end: mark.end });
        } else if let Some(transaction) = mark.into_transaction() {
            self.transactions += 1;
            self.times = widest(self.times, Some((transaction.time, transaction.time)));
            if let Some(id) = transaction.id.number() {
                self.ids = widest(self.ids, Some((id, id)));
            }
            self.last = Some(transaction);
        }
    }

    /// The summary of this segment and the one right behind it, as one.
    ///
    /// # Errors
    /// When `next` does not begin where this one ends.
    pub fn followed_by(mut self, next: Self) -> Result<Self> {
        if self.range.end != next.range.start {
            return Err(Error::failure(format!("segment {} does not follow {}", next.range, self.range)));
        }
        self.range.end = next.range.end;
        self.boundary = next.boundary;
        self.transactions += next.transactions;
        self.times = widest(self.times, next.times);
        self.ids = widest(self.ids, next.ids);
        self.last = next.last.or(self.last);
        self.restore_points.extend(next.restore_points);
        self.changes.merge(&next.changes);
        self.confirmed = self.confirmed.max(next.confirmed);
        self.position = next.position;
        Ok(self)
    }
}

fn widest<T: Ord>(a: Option<(T, T)>, b: Option<(T, T)>) -> Option<(T, T)> {
    match (a, b) {
        (Some((low, high)), Some((other_low, other_high))) => Some((low.min(other_low), high.max(other_high))),
        (a, b) => a.or(b),
    }
}
