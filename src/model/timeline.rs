//! Timelines: branches of one cluster's history, and how they hang together.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::offset::Offset;
use crate::error::Error;

/// The number of a timeline; 8 hexadecimal digits in names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimelineId(pub u32);

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}", self.0)
    }
}

impl FromStr for TimelineId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.len() != 8 || !text.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)) {
            return Err(Error::failure(format!("timeline {text:?} is not 8 hexadecimal digits")));
        }
        u32::from_str_radix(text, 16)
            .map(Self)
            .map_err(|e| Error::failure(format!("timeline {text:?} cannot be read")).because(e))
    }
}

/// A timeline that another one descends from, up to the offset where it was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// The ancestor.
    pub timeline: TimelineId,
    /// The first offset that no longer belongs to the ancestor.
    pub switch: Offset,
}

/// Where a timeline comes from: what `log/<timeline>/history.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Whose history this is.
    pub timeline: TimelineId,
    /// All ancestors, oldest first; the last one is the parent.
    pub ancestors: Vec<Ancestor>,
    /// The server's own text, byte for byte (PostgreSQL: the `.history` file).
    pub native: String,
}

impl History {
    /// Where this history leaves `timeline`, if that is one of the ancestors.
    #[must_use]
    pub fn switch_from(&self, timeline: TimelineId) -> Option<Offset> {
        self.ancestors.iter().find(|ancestor| ancestor.timeline == timeline).map(|ancestor| ancestor.switch)
    }
}
