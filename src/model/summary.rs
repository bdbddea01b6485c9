//! What a segment's footer says of its segment.

use super::mark::{Mark, MarkKind, Transaction, TransactionId};
use super::offset::{Offset, OffsetRange};
use super::position::Position;
use super::time::Timestamp;

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
            confirmed: None,
            position: Position::default(),
        }
    }

    /// Takes note of a mark that ends in this segment.
    pub fn add(&mut self, mark: &Mark) {
        match &mark.kind {
            MarkKind::Transaction { id, time, .. } => {
                self.transactions += 1;
                self.times = Some(match self.times {
                    None => (*time, *time),
                    Some((earliest, latest)) => (earliest.min(*time), latest.max(*time)),
                });
                if let TransactionId::Number(id) = *id {
                    self.ids = Some(match self.ids {
                        None => (id, id),
                        Some((low, high)) => (low.min(id), high.max(id)),
                    });
                }
                self.last = mark.transaction();
            }
            MarkKind::RestorePoint { name, time } => {
                self.restore_points.push(RestorePoint { name: name.clone(), time: *time, end: mark.end });
            }
            MarkKind::Record => {}
        }
    }
}
