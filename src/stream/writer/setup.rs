//! What a writer is given, is told, and tells.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;

use crate::catalog::SegmentInfo;
use crate::catalog::archive::Archive;
use crate::catalog::fence::Epoch;
use crate::engine::{Engine, Scanner};
use crate::model::offset::Offset;
use crate::model::summary::Summary;
use crate::model::time::{Clock, Timestamp};
use crate::model::timeline::TimelineId;
use crate::segment::codec::Compression;
use crate::segment::cutter::Limits;
use crate::stream::spool::Spool;

/// What the writer is told.
#[derive(Debug)]
pub enum Input {
    /// Log bytes that begin at `start`.
    Data {
        /// Offset of the first byte.
        start: Offset,
        /// The bytes.
        bytes: Bytes,
        /// The end of the server's log when it sent them.
        log_end: Offset,
        /// The server's clock when it sent them.
        time: Timestamp,
    },
    /// The server had sent its log up to `log_end` at `time`, all of it or not.
    Confirmed {
        /// The end of what it had sent.
        log_end: Offset,
        /// The server's clock.
        time: Timestamp,
        /// Whether that was all its log.
        idle: bool,
    },
    /// Time passed: close what is overdue.
    Tick,
    /// Close everything: no more comes.
    Finish {
        /// Seal the tail too, because this timeline ends here.
        seal: bool,
    },
}

/// How far the writer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// One past the last byte taken in.
    pub received: Offset,
    /// May be acknowledged: durable, and whole records only.
    pub durable: Offset,
    /// Time of the newest transaction that is durable.
    pub newest: Option<Timestamp>,
}

/// Everything a writer needs to begin.
pub struct Setup {
    /// Where to write.
    pub archive: Archive,
    /// Whose log it is.
    pub engine: Arc<dyn Engine>,
    /// The writer's epoch.
    pub epoch: Epoch,
    /// The timeline.
    pub timeline: TimelineId,
    /// Where segments end.
    pub limits: Limits,
    /// How they are compressed.
    pub compression: Compression,
    /// Scanner that stands at `start`.
    pub scanner: Box<dyn Scanner>,
    /// The first byte to come.
    pub start: Offset,
    /// The end of the server's log when the session began.
    pub log_end: Offset,
    /// The server may have been told already that everything before this is durable: where a
    /// damaged segment is streamed again, and before the slot's start. It is told nothing until
    /// there is more, for a position told to it must never go back: a slot goes back with it,
    /// and is dropped by a server that has removed the log there.
    pub acknowledged: Offset,
    /// Whether the server's clock tells up to when the log is complete: that of a primary
    /// does. A standby may lack log for hours and not know it.
    pub confirms: bool,
    /// Bytes that precede `start` without a gap and become part of the first segment. With the
    /// marks that end in them.
    pub carried: Option<Carried>,
    /// Turns true once a segment is about to be created.
    pub creates: Arc<AtomicBool>,
    /// Segments of the log file that `start` lies in, to be superseded by one.
    pub file_segments: Vec<SegmentInfo>,
    /// How many segments no index holds yet.
    pub unindexed: usize,
    /// Where tails go, if there are any.
    pub tails: Option<Tails>,
    /// Where segments wait for a remote store, if they may.
    pub spool: Option<Arc<Spool>>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

/// Where tails are, and what for.
#[derive(Clone, Debug)]
pub struct Tails {
    /// The directory that is there.
    pub root: PathBuf,
    /// That of the tails, below it.
    pub folder: PathBuf,
    /// Whether what is in a tail may be acknowledged.
    pub count: bool,
}

/// The valid bytes of a tail that another writer left, or those of a segment that have come once more.
pub struct Carried {
    /// First offset.
    pub start: Offset,
    /// The bytes.
    pub bytes: Bytes,
    /// What they hold, and up to when that is complete.
    pub summary: Summary,
    /// The tail they came from, removed once they are safe under our own hand.
    pub tail: Option<String>,
}
