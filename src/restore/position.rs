//! A place in the server's own files (`--target-position FILE:POSITION`), found in the archive.
//!
//! Only the ends of segments say where they lie in the server's files, so they are read from
//! the newest backwards until one lies around the place. Files of several servers follow each
//! other after a failover, perhaps under the same names: the newest one that has the place is
//! meant, unless it is named with its server.

use std::cmp::Ordering;

use crate::catalog::archive::Archive;
use crate::catalog::positions::{begin, end_of, scan, start_of, told};
use crate::catalog::{Catalog, SegmentInfo, TimelineLog};
use crate::engine::{Axis, Engine, Locator};
use crate::error::{Error, Kind, Result};
use crate::model::mark::Mark;
use crate::model::offset::Offset;
use crate::model::position::Position;
use crate::model::target::Target;
use crate::model::timeline::TimelineId;
use crate::plan::Path;

/// What lies at or before a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// All that the archive holds.
    Everything,
    /// Every transaction that begins before this offset.
    Before(Offset),
}

/// A target as the first transaction that begins at an offset or behind it.
pub struct FirstFrom(pub Offset);

impl Locator for FirstFrom {
    fn may_hold(&self, segment: &SegmentInfo) -> bool {
        segment.range.end > self.0
    }

    fn is(&self, mark: &Mark) -> bool {
        mark.start >= self.0
    }
}

/// Looks for `place` on the way to the target's timeline. A transaction that ends exactly there
/// is in if the target is inclusive.
///
/// # Errors
/// [`Kind::Usage`] for text that is no place, [`Kind::NotRecoverable`] when the archive does not
/// hold it.
pub async fn find(
    archive: &Archive,
    engine: &dyn Engine,
    catalog: &Catalog,
    target: &Target,
    place: &str,
) -> Result<Found> {
    let path = Path::to(catalog, target.timeline).map_err(Error::from)?;
    let newest = catalog.timelines.get(&path.leaf()).and_then(|log| log.segments.last()).map(|s| s.range.end);
    for leg in path.legs().iter().rev() {
        let Some(log) = catalog.timelines.get(&leg.timeline) else { continue };
        let within = |segment: &&SegmentInfo| leg.range.intersection(segment.range).is_some();
        let mut search = Search { archive, engine, timeline: leg.timeline, log, place };
        for segment in log.segments.iter().rev().filter(within) {
            if let Some(found) = search.segment(segment, target.inclusive).await? {
                let all = found.is_none() && Some(segment.range.end) == newest;
                return Ok(match found {
                    _ if all => Found::Everything,
                    Some(offset) => Found::Before(offset),
                    None => Found::Before(segment.range.end),
                });
            }
        }
    }
    Err(Error::new(Kind::NotRecoverable, format!("the archive does not hold the server's log at {place}"))
        .hint("`pitr list` shows what it holds; are the file's name and the timeline right?"))
}

/// Looks at the segments of one timeline.
struct Search<'a> {
    archive: &'a Archive,
    engine: &'a dyn Engine,
    timeline: TimelineId,
    log: &'a TimelineLog,
    place: &'a str,
}

impl Search<'_> {
    /// Whether the place lies in a segment, and there the start of the first transaction behind
    /// it, if one begins there.
    async fn segment(&mut self, segment: &SegmentInfo, inclusive: bool) -> Result<Option<Option<Offset>>> {
        let (archive, engine, timeline, log) = (self.archive, self.engine, self.timeline, self.log);
        let Some(end) = end_of(archive, engine, timeline, log, segment).await? else { return Ok(None) };
        match engine.compare(&end, self.place)? {
            // Another server's file, or nothing that tells: the place may lie before.
            None => return Ok(None),
            Some(Ordering::Less) => {
                return Err(Error::new(
                    Kind::NotRecoverable,
                    format!("the archive's log does not reach {}: there it goes only up to {end}", self.place),
                )
                .hint("a later place is not archived yet, or lies in a gap: `pitr list` shows both"));
            }
            Some(Ordering::Equal | Ordering::Greater) => {}
        }
        let start = start_of(archive, timeline, log, segment).await?;
        let from = start.as_ref().map(|start| engine.compare(start, self.place)).transpose()?.flatten();
        let is_first = !log.segments.iter().any(|before| before.range.end == segment.range.start);
        match from {
            Some(Ordering::Greater) if is_first => Err(Error::new(
                Kind::NotRecoverable,
                format!("the archive's log begins behind {}: there is a gap before it, or nothing", self.place),
            )
            .hint("`pitr list` shows gaps")),
            Some(Ordering::Greater) => Ok(None),
            Some(Ordering::Equal) if !inclusive && !is_first => Ok(None),
            _ => self.within(segment, start.as_ref(), inclusive).await.map(Some),
        }
    }

    /// The start of the first transaction behind the place.
    async fn within(&self, segment: &SegmentInfo, start: Option<&Position>, inclusive: bool) -> Result<Option<Offset>> {
        let (archive, engine, timeline, log) = (self.archive, self.engine, self.timeline, self.log);
        let mut marks = Vec::new();
        scan(archive, engine, timeline, log, segment, start, &mut marks).await?;
        // Once more, mark by mark, for a scanner tells only where it is.
        let (mut scanner, pieces) = begin(archive, engine, timeline, log, segment, start).await?;
        let bytes = pieces.concat();
        let first = scanner.offset();
        let mut fed = 0;
        for mark in &marks {
            let end = usize::try_from(mark.end.since(first)).unwrap_or(usize::MAX).min(bytes.len());
            scanner.feed(bytes.get(fed..end).unwrap_or_default(), &mut Vec::new())?;
            fed = end;
            let order = scanner.position().map(|at| engine.compare(&at, self.place)).transpose()?.flatten();
            let is_in = match order {
                Some(Ordering::Less) | None => true,
                Some(Ordering::Equal) => inclusive,
                Some(Ordering::Greater) => false,
            };
            if !is_in {
                return Ok(Some(mark.start));
            }
        }
        Ok(None)
    }
}

/// Where an offset lies, as people look it up on the server: on the first of the timelines that
/// knows.
pub async fn place_at(
    archive: &Archive,
    engine: &dyn Engine,
    catalog: &Catalog,
    timelines: impl IntoIterator<Item = TimelineId>,
    offset: Offset,
) -> String {
    if engine.axis() == Axis::Archive {
        for timeline in timelines {
            // Of damaged log nothing more than the offset can be said.
            if let Ok(Some(position)) = position_at(archive, engine, catalog, timeline, offset).await {
                return engine.place(&position);
            }
        }
    }
    engine.position(offset).to_string()
}

/// Where an offset lies in the engine's words, if that is known.
///
/// # Errors
/// From the store; [`Kind::Corruption`] for bytes that are no log.
pub async fn position_at(
    archive: &Archive,
    engine: &dyn Engine,
    catalog: &Catalog,
    timeline: TimelineId,
    offset: Offset,
) -> Result<Option<Position>> {
    let Some(log) = catalog.timelines.get(&timeline) else { return Ok(None) };
    let holds = |segment: &&SegmentInfo| segment.range.start < offset && offset <= segment.range.end;
    let Some(segment) = log.segments.iter().find(holds) else { return Ok(told(log, offset)) };
    let start = start_of(archive, timeline, log, segment).await?;
    let (mut scanner, pieces) = begin(archive, engine, timeline, log, segment, start.as_ref()).await?;
    for piece in pieces {
        let wanted = usize::try_from(offset.since(scanner.offset())).unwrap_or(usize::MAX).min(piece.len());
        scanner.feed(piece.get(..wanted).unwrap_or_default(), &mut Vec::new())?;
    }
    Ok(scanner.position())
}
