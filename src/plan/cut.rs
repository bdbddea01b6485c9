//! Where replay stops among the marks of a segment, and who stands on either side.
//!
//! The rule for times is PostgreSQL's own (`xlogrecovery.c`, `recoveryStopsBefore`):
//! replay stops before the first commit *or rollback*, in log order, whose time is
//! later than the target (exclusive: not earlier). Transactions that end after it are
//! out even when their time is earlier.

use crate::engine::Locator;
use crate::model::mark::{Mark, MarkKind, Transaction};
use crate::model::offset::{Offset, OffsetRange};
use crate::model::time::Timestamp;

/// Whether a transaction that ended at `time` is out.
pub(super) fn is_late(time: Timestamp, target: Timestamp, inclusive: bool) -> bool {
    if inclusive { time > target } else { time >= target }
}

/// The marks that lie on the path, whole, and not before the base backup.
pub(super) fn within(marks: &[Mark], range: OffsetRange) -> impl DoubleEndedIterator<Item = &Mark> {
    marks.iter().filter(move |mark| range.start <= mark.start && mark.end <= range.end)
}

/// The cut for a time: the start of the first late transaction.
pub(super) fn for_time<'a>(
    mut marks: impl Iterator<Item = &'a Mark>,
    target: Timestamp,
    inclusive: bool,
) -> Option<Offset> {
    marks.find(|mark| ended(mark).is_some_and(|time| is_late(time, target, inclusive))).map(|mark| mark.start)
}

/// The latest end of a transaction.
pub(super) fn latest<'a>(marks: impl Iterator<Item = &'a Mark>) -> Option<Timestamp> {
    marks.filter_map(ended).max()
}

/// The cut for a target in the engine's terms.
pub(super) fn for_locator<'a>(
    mut marks: impl Iterator<Item = &'a Mark>,
    locator: &dyn Locator,
    inclusive: bool,
) -> Option<Offset> {
    marks.find(|mark| locator.is(mark)).map(|mark| if inclusive { mark.end } else { mark.start })
}

/// The last transaction that is in.
pub(super) fn last_in<'a>(marks: impl DoubleEndedIterator<Item = &'a Mark>, cut: Offset) -> Option<Transaction> {
    marks.rev().filter(|mark| mark.end <= cut).find_map(Mark::transaction)
}

/// The first transaction that is out.
pub(super) fn first_out<'a>(marks: impl Iterator<Item = &'a Mark>, cut: Offset) -> Option<Transaction> {
    marks.filter(|mark| mark.start >= cut).find_map(Mark::transaction)
}

fn ended(mark: &Mark) -> Option<Timestamp> {
    match mark.kind {
        MarkKind::Transaction { time, .. } => Some(time),
        _ => None,
    }
}
