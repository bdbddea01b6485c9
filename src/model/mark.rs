//! What a scanner sees while log bytes pass: the places that matter for time and cut.

use std::fmt;

use super::offset::Offset;
use super::time::Timestamp;

/// One thing worth knowing about the log at `start..end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// First byte of the record or event group. Replay that stops *before* this
    /// mark stops here.
    pub start: Offset,
    /// One past its last byte. Replay that stops *after* this mark stops here.
    pub end: Offset,
    /// What it is.
    pub kind: MarkKind,
}

/// The kinds of [`Mark`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkKind {
    /// A transaction ended.
    Transaction {
        /// Its name in the engine's words.
        id: TransactionId,
        /// When, by the source's clock.
        time: Timestamp,
        /// Whether it committed; `false` for a rollback, which also stops replay.
        committed: bool,
    },
    /// A named restore point.
    RestorePoint {
        /// The name its author gave.
        name: String,
        /// When, by the source's clock.
        time: Timestamp,
    },
    /// Any other record; only reported by a scanner asked for every record.
    Record,
}

impl Mark {
    /// The transaction this mark ends, if it does.
    #[must_use]
    pub fn transaction(&self) -> Option<Transaction> {
        self.clone().into_transaction()
    }

    /// The same, where the mark is of no more use.
    #[must_use]
    pub fn into_transaction(self) -> Option<Transaction> {
        let Self { start, end, kind } = self;
        match kind {
            MarkKind::Transaction { id, time, committed } => Some(Transaction { id, time, committed, start, end }),
            _ => None,
        }
    }
}

/// A transaction's name: a number (PostgreSQL's xid) or a text (a GTID).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TransactionId {
    /// PostgreSQL's xid, without epoch.
    Number(u64),
    /// A GTID.
    Text(Box<str>),
}

impl TransactionId {
    /// The number by which a segment's range of ids is told: the xid, or the last number of a
    /// GTID.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.rsplit(['-', ':']).next()?.parse().ok(),
        }
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => write!(f, "{n}"),
            Self::Text(t) => f.write_str(t),
        }
    }
}

/// A transaction's end, as plans and footers name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Its name.
    pub id: TransactionId,
    /// When it ended, by the source's clock.
    pub time: Timestamp,
    /// Whether it committed.
    pub committed: bool,
    /// First byte of the record that ends it.
    pub start: Offset,
    /// One past that record.
    pub end: Offset,
}
