//! The engine's own notion of a place in the log, carried along but never read here.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::offset::Offset;
use super::timeline::TimelineId;

/// A place in the log in the engine's own words: an LSN, a GTID set, `file:position`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub String);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where streaming goes on: the first byte the archive does not hold yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The timeline to go on with.
    pub timeline: TimelineId,
    /// The first byte wanted.
    pub offset: Offset,
    /// The same place in the engine's words.
    pub position: Position,
}
