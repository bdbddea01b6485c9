//! Objects that are not what was written. They are set aside by name, and everything that
//! does not need them goes on: the log of a damaged segment counts as missing, a base whose
//! manifest is damaged as not there.

use serde::Serialize;

use super::layout::{Layout, ObjectName};
use super::{Catalog, SegmentInfo, TimelineLog};
use crate::error::{Error, Kind, Result};
use crate::model::offset::{Offset, OffsetRange};

/// A damaged object, and what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damaged {
    /// Its name in the store.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub advice: String,
    /// What its name says it is.
    #[serde(skip)]
    pub is: ObjectName,
}

impl Damaged {
    /// The object `is`, of which reading said `error`. An error that is not about damage
    /// is given back.
    ///
    /// # Errors
    /// `error`, if it tells of no damage.
    pub fn new(layout: &Layout, is: ObjectName, error: Error) -> Result<Self> {
        if error.kind() != Kind::Corruption {
            return Err(error);
        }
        let restore = "put an intact copy of it back from another copy of the store";
        let advice = match &is {
            ObjectName::Segment { .. } | ObjectName::Tail { .. } => {
                format!(
                    "{restore}, or take a new base backup with `pitr backup`: moments behind that need none of this log"
                )
            }
            ObjectName::BaseManifest(_) => {
                format!("{restore}, or take a new base backup with `pitr backup`; other bases are not concerned")
            }
            ObjectName::Index { .. } => super::index::IF_DAMAGED.to_owned(),
            _ => restore.to_owned(),
        };
        Ok(Self { object: layout.name(&is), problem: error.to_string(), advice, is })
    }

    /// The log it should hold, if it is a segment.
    #[must_use]
    pub const fn log(&self) -> Option<OffsetRange> {
        match self.is {
            ObjectName::Segment { range, .. } => Some(range),
            _ => None,
        }
    }

    /// Whether a base's manifest, with the name of the base.
    #[must_use]
    pub fn base(&self) -> Option<&str> {
        match &self.is {
            ObjectName::BaseManifest(id) => Some(id),
            _ => None,
        }
    }

    /// Tells whoever watches standard error.
    pub fn warn(&self) {
        tracing::warn!(problem = %self.problem, advice = %self.advice, "{} is damaged, and set aside", self.object);
    }
}

impl Catalog {
    /// All objects that were set aside.
    pub fn damaged(&self) -> impl Iterator<Item = &Damaged> {
        self.timelines.values().flat_map(|log| &log.damaged).chain(&self.damaged_bases)
    }
}

impl TimelineLog {
    /// The damaged segments whose log no other object holds, in order of their start.
    pub fn lost(&self) -> impl Iterator<Item = (OffsetRange, &Damaged)> {
        let ranges = self.damaged.iter().filter_map(|damaged| Some((damaged.log()?, damaged)));
        ranges.filter(|(range, _)| !self.holds(*range))
    }

    /// Where the log has ever reached, in segments that are damaged now.
    #[must_use]
    pub fn damaged_end(&self) -> Option<Offset> {
        self.damaged.iter().filter_map(Damaged::log).map(|range| range.end).max()
    }

    /// Takes a segment out that proved damaged when it was read.
    pub fn set_aside(&mut self, segment: &SegmentInfo, damaged: Damaged) {
        self.segments.retain(|known| known != segment);
        self.damaged.push(damaged);
        self.sort_damaged();
    }

    /// Puts what was set aside in order.
    pub(super) fn sort_damaged(&mut self) {
        self.damaged.sort_by(|a, b| (a.log(), &a.object).cmp(&(b.log(), &b.object)));
    }
}
