//! The segment being filled, and what of it goes to the store before it is through.
//!
//! A segment of a log file takes as long as the server needs to fill it. Where a tail holds it that does no harm. Stores
//! without tails get it in small segments meanwhile, each made from the same bytes as the whole one, so that nothing has to be read back.
//! The whole one takes the place of the last small one, and so costs no request of its own.

use bytes::Bytes;

use super::compressing::Compressing;
use crate::error::Result;
use crate::model::changes::Changes;
use crate::model::mark::Mark;
use crate::model::offset::{Offset, OffsetRange};
use crate::model::summary::Summary;
use crate::model::time::Timestamp;
use crate::stream::tail::Tail;

/// A segment as large as it may become.
pub(super) struct Open {
    /// Its bytes on a disk, where tails are kept.
    pub(super) tail: Option<Box<Tail>>,
    pub(super) segment: Compressing,
    pub(super) summary: Summary,
    pub(super) opened: Timestamp,
    /// Whether small segments of it are made.
    pub(super) in_parts: bool,
    /// What has come since the last small segment.
    pub(super) small: Option<Small>,
    /// The first small segment, if one was made.
    pub(super) sent: Option<OffsetRange>,
}

/// A small segment being filled.
pub(super) struct Small {
    pub(super) segment: Compressing,
    pub(super) summary: Summary,
    pub(super) opened: Timestamp,
}

impl Open {
    /// Its first byte.
    pub(super) fn start(&self) -> Offset {
        self.summary.range.start
    }

    /// Takes the next bytes, the marks that end in them, and where the last whole record ends then.
    pub(super) fn append(&mut self, piece: Bytes, marks: &mut Vec<Mark>, boundary: Offset) -> Result<()> {
        if let Some(small) = &mut self.small {
            marks.iter().for_each(|mark| small.summary.add(mark.clone()));
            reach(&mut small.summary, piece.len(), boundary);
            small.segment.feed(piece.clone());
        }
        marks.drain(..).for_each(|mark| self.summary.add(mark));
        reach(&mut self.summary, piece.len(), boundary);
        if let Some(tail) = &mut self.tail {
            tail.append(&piece)?;
        }
        self.segment.feed(piece);
        Ok(())
    }

    /// Takes note of what the log that has come did to tables.
    pub(super) fn add_changes(&mut self, changes: &Changes) {
        self.summary.changes.merge(changes);
        if let Some(small) = &mut self.small {
            small.summary.changes.merge(changes);
        }
    }
}

fn reach(summary: &mut Summary, bytes: usize, boundary: Offset) {
    summary.range.end = Offset(summary.range.end.0 + bytes as u64);
    summary.boundary = boundary;
}
