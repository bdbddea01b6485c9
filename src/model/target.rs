//! What the operator asks for: a moment, and how to treat what lies exactly there.

use super::time::Timestamp;
use super::timeline::TimelineId;

/// The point asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Point {
    /// Everything the archive holds.
    Latest,
    /// The database as it stood at this time.
    Time(Timestamp),
    /// A named restore point.
    Name(String),
    /// A point in the engine's own terms, read by its locator (`lsn`, `xid`, `gtid`,
    /// `position`).
    Native {
        /// Which option it came from, e.g. `lsn`.
        term: &'static str,
        /// Its value, as typed.
        value: String,
    },
}

/// A point, and which history and side of it are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The point asked for.
    pub point: Point,
    /// Whether a transaction exactly at the point is in (the default) or out.
    pub inclusive: bool,
    /// The timeline to end on; `None` is the newest one in the archive.
    pub timeline: Option<TimelineId>,
}
