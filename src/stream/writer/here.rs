//! Writing on the session's own thread: a few bytes for the tail of an idle writer. At the
//! live end each group of commits waits for its acknowledgement, and handing it to another
//! thread and back costs as much as a good disk does.

use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;

use super::Writer;
use crate::model::offset::Offset;
use crate::model::time::Timestamp;

/// Most bytes written before they are made durable.
const BYTES_MAX: usize = 64 << 10;

/// Writes to the tail of a writer that is idle.
pub struct Here {
    /// Gone when its thread has ended, whose error is then to be told.
    writer: Weak<Mutex<Writer>>,
    unsynced: usize,
}

/// What became of a try to write here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// Done.
    Done,
    /// It is the writer thread's work.
    NotHere,
    /// The writer has failed; it keeps the error and ends with it.
    Failed,
}

impl Here {
    /// For a writer whose own thread keeps it alive.
    pub(super) fn new(writer: &Arc<Mutex<Writer>>) -> Self {
        Self { writer: Arc::downgrade(writer), unsynced: 0 }
    }

    /// Whether bytes were taken that [`Here::sync`] has to make durable.
    #[must_use]
    pub fn is_unsynced(&self) -> bool {
        self.unsynced > 0
    }

    /// Appends to the tail, without making it durable.
    pub fn write(&mut self, start: Offset, bytes: &Bytes, log_end: Offset, time: Timestamp) -> Tried {
        if self.unsynced + bytes.len() > BYTES_MAX {
            return Tried::NotHere;
        }
        let Some(writer) = self.writer.upgrade() else { return Tried::NotHere };
        let Ok(mut writer) = writer.try_lock() else { return Tried::NotHere };
        if start != writer.offset || !writer.has_room_in_tail(bytes.len() as u64) {
            return Tried::NotHere;
        }
        match writer.data(start, bytes.clone(), log_end, time) {
            Ok(()) => {
                self.unsynced += bytes.len();
                Tried::Done
            }
            Err(error) => {
                writer.shared.fail(error);
                Tried::Failed
            }
        }
    }

    /// Makes durable what was appended, and says so.
    pub fn sync(&mut self) -> Tried {
        self.unsynced = 0;
        let Some(writer) = self.writer.upgrade() else { return Tried::NotHere };
        let Ok(mut writer) = writer.try_lock() else { return Tried::NotHere };
        if let Err(error) = writer.flush_tail() {
            writer.shared.fail(error);
            return Tried::Failed;
        }
        if writer.setup.spool.is_none() && !writer.setup.epoch.is_surely_last() {
            return Tried::NotHere;
        }
        writer.tell_tail();
        Tried::Done
    }
}
