//! From a target to a plan: reads for the planner the few segments it asks for.

use super::position::{self, Found, place_at};
use crate::catalog::Catalog;
use crate::catalog::archive::Archive;
use crate::engine::{Engine, Locator, ScanStart};
use crate::error::{Error, Kind, Result};
use crate::model::mark::Mark;
use crate::model::offset::{Offset, OffsetRange};
use crate::model::target::{Point, Target};
use crate::model::time::Timestamp;
use crate::plan::{Plan, Planner, Read, Refusal, Step};

/// Makes the plan for `target` without the transactions of `exclude`, which must lie between base
/// and target: the newest base that holds none of them is taken.
///
/// # Errors
/// [`Kind::NotRecoverable`] with the nearest times that would do;
/// [`Kind::Corruption`] when a segment the planner needs is damaged.
pub async fn resolve(
    archive: &Archive,
    engine: &dyn Engine,
    catalog: &Catalog,
    target: &Target,
    exclude: &[String],
    now: Timestamp,
) -> Result<Plan> {
    let plan = plan_for(archive, engine, catalog, target, now).await?;
    if exclude.is_empty() {
        return Ok(plan);
    }
    let mut narrowed = catalog.clone();
    narrowed.bases.retain(|base| plan.base.end <= base.end);
    let mut held = Vec::new();
    for gtid in exclude {
        let point = Point::Native { term: "gtid", value: gtid.clone() };
        let before = Target { point, inclusive: false, timeline: target.timeline };
        // Mostly it lies behind that base, where no older log need be read or be sound.
        let found = match plan_for(archive, engine, &narrowed, &before, now).await {
            Err(_) => plan_for(archive, engine, catalog, &before, now).await,
            found => found,
        };
        let cut = found.map_err(|e| e.context(format!("{gtid} cannot be left out")))?.cut;
        if cut >= plan.cut {
            return Err(Error::new(
                Kind::NotRecoverable,
                format!("{gtid}, which is to be left out, lies behind the target"),
            )
            .hint("it is not in the restored database anyway: leave --exclude-gtid out, or name a later target"));
        }
        if cut < plan.base.end {
            held.push((cut, gtid));
        }
    }
    let Some((first, gtid)) = held.into_iter().min() else { return Ok(plan) };
    narrowed.bases = catalog.bases.iter().filter(|base| base.end <= first).cloned().collect();
    let without = plan_for(archive, engine, &narrowed, target, now).await;
    let mut without = without.map_err(|e| e.context(format!("from a base without {gtid}, which is to be left out")))?;
    without.notes.push(format!("base {} is newer, but holds {gtid}, which is to be left out", plan.base.id));
    Ok(without)
}

async fn plan_for(
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
    let words = async |said: &str| in_engine_words(said, archive, engine, catalog).await;
    match search(archive, engine, catalog, &target, locator.as_deref(), now).await? {
        Ok(mut plan) => {
            for note in &mut plan.notes {
                *note = words(note).await;
            }
            Ok(plan)
        }
        Err(mut refusal) => {
            refusal.message = words(&refusal.message).await;
            if let Some(hint) = &mut refusal.hint {
                *hint = words(hint).await;
            }
            Err(refusal.into_error())
        }
    }
}

/// Gives the planner what it asks for, until it has a plan or none.
async fn search(
    archive: &Archive,
    engine: &dyn Engine,
    catalog: &Catalog,
    target: &Target,
    locator: Option<&dyn Locator>,
    now: Timestamp,
) -> Result<Result<Plan, Refusal>> {
    let begun = Planner::new(catalog, target, locator, now).and_then(|planner| Ok((planner.narrow()?, planner)));
    let (mut narrowed, planner) = match begun {
        Ok(begun) => begun,
        Err(refusal) => return Ok(Err(refusal)),
    };
    loop {
        let marks = match &narrowed.read {
            Some(read) => marks(archive, engine, read).await?,
            None => Vec::new(),
        };
        match planner.settle(narrowed, &marks) {
            Ok(Step::Read(next)) => narrowed = next,
            Ok(Step::Done(plan)) => return Ok(Ok(plan)),
            Err(refusal) => return Ok(Err(refusal)),
        }
    }
}

/// The planner speaks of offsets, people of places.
async fn in_engine_words(said: &str, archive: &Archive, engine: &dyn Engine, catalog: &Catalog) -> String {
    let mut text = String::new();
    let mut rest = said;
    while let Some(at) = rest.find(|c: char| c.is_ascii_hexdigit()) {
        let (before, from) = rest.split_at(at);
        let digits = from.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(from.len());
        let (word, after) = from.split_at(digits);
        text.push_str(before);
        match word.parse::<Offset>() {
            Ok(offset) => {
                let newest_first = catalog.timelines.keys().rev().copied();
                text.push_str(&place_at(archive, engine, catalog, newest_first, offset).await);
            }
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
