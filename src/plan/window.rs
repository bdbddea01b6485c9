//! Recoverable windows: the times `pitr list` shows, from the same chain code that
//! restore uses.
//!
//! Promise: for every time in a [`Window`] a plan exists, as long as the source's
//! clock does not go back while a base backup runs (which only reading the log tells).

use serde::Serialize;

use crate::catalog::Catalog;
use crate::model::offset::OffsetRange;
use crate::model::time::Timestamp;
use crate::model::timeline::TimelineId;

use super::chain::{self, Missing, Reach};
use super::path::Path;
use super::refusal::Refusal;

/// Times that can be restored without a break.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Window {
    /// The timeline on which a restore to these times ends.
    pub timeline: TimelineId,
    /// The first time: the end of a base backup.
    pub from: Timestamp,
    /// The last time: everything up to it is known to be in the archive.
    pub to: Timestamp,
    /// The same in offsets: from where the first base backup is consistent to the end
    /// of the last whole record.
    pub range: OffsetRange,
    /// The base backup with which the window begins.
    pub base: String,
    /// Why the window ends where it does; `None` at the end of the archive's log.
    pub missing: Option<Missing>,
}

/// The windows of restores that end on `timeline`, in order of the log.
///
/// # Errors
/// A [`Refusal`] when the archive does not know the timeline.
pub fn windows(catalog: &Catalog, timeline: TimelineId) -> Result<Vec<Window>, Refusal> {
    let path = Path::to(catalog, Some(timeline))?;
    Ok(of(&path, &chain::reaches(catalog, &path)))
}

pub(super) fn of(path: &Path, reaches: &[Reach<'_>]) -> Vec<Window> {
    let mut windows: Vec<Window> = Vec::new();
    for reach in reaches.iter().filter(|reach| reach.usable()) {
        let Some(to) = reach.known.filter(|known| *known >= reach.base.ended) else { continue };
        // In one stretch of log, times that touch are one window. What a later base backup
        // knows there, the one before it knows too, so that `to` is never later.
        if let Some(last) = windows.last_mut()
            && last.range.end == reach.boundary
            && last.from <= to
        {
            last.from = last.from.min(reach.base.ended);
            continue;
        }
        windows.push(Window {
            timeline: path.leaf(),
            from: reach.base.ended,
            to,
            range: OffsetRange::new(reach.base.end, reach.boundary),
            base: reach.base.id.clone(),
            missing: reach.missing.clone(),
        });
    }
    windows
}
