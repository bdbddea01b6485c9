//! From a target to a plan: reads for the planner the few segments it asks for.

use super::position::{self, Found};
use crate::catalog::Catalog;
use crate::catalog::archive::Archive;
use crate::engine::{Engine, Locator, ScanStart};
use crate::error::{Error, Result};
use crate::model::mark::Mark;
use crate::model::offset::{Offset, OffsetRange};
use crate::model::target::{Point, Target};
use crate::model::time::Timestamp;
use crate::plan::{Plan, Planner, Read, Refusal, Step};

/// Makes the plan for `target`.
///
/// # Errors
/// [`crate::Kind::NotRecoverable`] with the nearest times that would do;
/// [`crate::Kind::Corruption`] when a segment the planner needs is damaged.
pub async fn resolve(
    archive: &Archive,
    engine: &dyn Engine,
    catalog: &Catalog,
    target: &Target,
    now: Timestamp,
) -> Result<Plan> {
    let mut target = target.clone();
    let locator: Option<Box<dyn Locator>> = match &target.point {
        Point::Native { term: "position", value } => {
            match position::find(archive, engine, catalog, &target, value).await? {
                Found::Everything => {
                    target.point = Point::Latest;
                    None
                }
                Found::Before(offset) => {
                    target.inclusive = false;
                    Some(Box::new(position::FirstFrom(offset)))
                }
            }
        }
        Point::Native { .. } => Some(engine.locator(&target)?),
        Point::Latest | Point::Time(_) | Point::Name(_) => None,
    };
    let words = |text: String| in_engine_words(&text, engine);
    let refused = |mut refusal: Refusal| {
        refusal.message = words(refusal.message);
        refusal.hint = refusal.hint.map(words);
        refusal.into_error()
    };
    let planner = Planner::new(catalog, &target, locator.as_deref(), now).map_err(refused)?;
    let mut narrowed = planner.narrow().map_err(refused)?;
    loop {
        let marks = match &narrowed.read {
            Some(read) => marks(archive, engine, read).await?,
            None => Vec::new(),
        };
        match planner.settle(narrowed, &marks).map_err(refused)? {
            Step::Done(plan) => return Ok(Plan { notes: plan.notes.into_iter().map(words).collect(), ..plan }),
            Step::Read(next) => narrowed = next,
        }
    }
}

/// The planner speaks of offsets, people of positions.
fn in_engine_words(said: &str, engine: &dyn Engine) -> String {
    let mut text = String::new();
    let mut rest = said;
    while let Some(at) = rest.find(|c: char| c.is_ascii_hexdigit()) {
        let (before, from) = rest.split_at(at);
        let digits = from.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(from.len());
        let (word, after) = from.split_at(digits);
        text.push_str(before);
        match word.parse::<Offset>() {
            Ok(offset) => text.push_str(&engine.position(offset).0),
            Err(_) => text.push_str(word),
        }
        rest = after;
    }
    text.push_str(rest);
    text
}

/// What a scanner sees in the range the planner asks for.
async fn marks(archive: &Archive, engine: &dyn Engine, read: &Read) -> Result<Vec<Mark>> {
    let start = ScanStart::Boundary(read.range.start);
    let mut scanner = engine.scanner(&archive.identity, read.timeline, start, read.detail);
    let mut marks = Vec::new();
    for planned in &read.segments {
        let (timeline, segment) = (planned.timeline, &planned.info);
        let bytes = archive.raw(timeline, segment).await?;
        let wanted = OffsetRange::new(scanner.offset(), read.range.end).within(segment.range.start);
        let piece = bytes.get(wanted.start..wanted.end.min(bytes.len())).ok_or_else(|| {
            Error::failure(format!("segment {} does not reach to {}", segment.range, scanner.offset()))
        })?;
        scanner
            .feed(piece, &mut marks)
            .map_err(|e| e.context(format!("in {}", archive.object_of(timeline, segment))))?;
    }
    Ok(marks)
}
