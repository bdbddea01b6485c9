//! The one segment that a log file is to become, where small ones go to the store before it is
//! through: made beside them from the same bytes, so that nothing has to be read back. It takes the place of the last small
//! one, and so costs no request of its own.

use bytes::Bytes;

use super::compressing::{Closed, Compressing};
use crate::error::Result;
use crate::model::offset::Offset;
use crate::model::summary::Summary;

/// A block that grows.
pub(super) struct Block {
    start: Offset,
    segment: Compressing,
    /// Of the small segments so far; none before the first is closed.
    summary: Option<Summary>,
}

impl Block {
    /// One that begins at `start`.
    pub(super) fn new(start: Offset, segment: Compressing) -> Self {
        Self { start, segment, summary: None }
    }

    /// Its first byte.
    pub(super) fn start(&self) -> Offset {
        self.start
    }

    /// Takes the next bytes of the log.
    pub(super) fn feed(&mut self, bytes: Bytes) {
        self.segment.feed(bytes);
    }

    /// Takes note that a small segment ends here.
    ///
    /// # Errors
    /// When it does not follow the one before.
    pub(super) fn follow(&mut self, small: &Summary) -> Result<()> {
        let summary = match self.summary.take() {
            Some(before) => before.followed_by(small.clone())?,
            None => small.clone(),
        };
        self.summary = Some(summary);
        Ok(())
    }

    /// Ends it behind the last small segment; nothing if that was the only one.
    pub(super) fn close(self, last: &Summary) -> Option<(Closed, Summary)> {
        let summary = self.summary.filter(|summary| summary.range.start < last.range.start)?;
        Some((self.segment.close(summary.clone()), summary))
    }
}
