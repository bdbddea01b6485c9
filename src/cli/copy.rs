//! `pitr copy`: a mirror of an archive in another store, or what a store lacks that fell behind.

use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;

use super::Opened;
use super::output::{self, Progress, size};
use super::settings::Settings;
use crate::catalog::archive::Archive;
use crate::copy::{Problem, Report, copy};
use crate::error::{Error, Result};
use crate::model::time::Timestamp;
use crate::store::{Store, url};

/// Options of `pitr copy`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The store to copy from, as for --store
    from: String,
    /// The store to copy to; a directory must be there
    to: String,
}

#[derive(Serialize)]
struct Document {
    from: String,
    to: String,
    copied_objects: u64,
    copied_bytes: u64,
    reaches: Option<Reach>,
    problems: Vec<Problem>,
}

/// How far the log goes without a hole, on the newest timeline.
#[derive(Serialize)]
struct Reach {
    timeline: u32,
    position: String,
    /// Up to this moment nothing is missing.
    complete_to: Option<Timestamp>,
}

/// Copies and says what was copied. What was left out is exit 13.
pub(super) async fn run(settings: &Settings, args: &Args) -> Result<ExitCode> {
    let (from, to) = (existing(&args.from)?, existing(&args.to)?);
    if from.location() == to.location() {
        return Err(Error::usage(format!("{} cannot be copied to itself", from.location())));
    }
    let keys = settings.keys()?;
    let source = Opened::of(Archive::open(from, &settings.cluster, &keys).await?)?;
    let compression = settings.stream.compression_for(source.engine.as_ref());
    let progress = Progress::bytes("copy");
    let report = copy(&source.archive, Arc::clone(&to), source.engine.as_ref(), compression, &|done, of| {
        progress.set(done, Some(of))
    })
    .await;
    progress.finish();
    let Report { objects, bytes, problems, .. } = report?;
    let target = Opened::of(Archive::open(to, &settings.cluster, &keys).await?)?;
    let document = Document {
        from: source.archive.store.location(),
        to: target.archive.store.location(),
        copied_objects: objects,
        copied_bytes: bytes,
        reaches: reach(&target).await?,
        problems,
    };
    if settings.json {
        output::print_json(&document)?;
    } else {
        output::print(&text(&document))?;
    }
    match document.problems.as_slice() {
        [] => Ok(ExitCode::SUCCESS),
        [first, ..] => Err(Error::corruption(format!(
            "{} objects were not copied, the first: {}: {}",
            document.problems.len(),
            first.object,
            first.problem
        ))
        .hint("`pitr verify --repair` with both stores puts back what one of them has intact")),
    }
}

/// A store whose directory is there: what is to be copied regularly must not go to the disk beneath one that is
/// not mounted.
fn existing(text: &str) -> Result<Arc<dyn Store>> {
    let store = url::open(text)?;
    match store.local_root() {
        Some(root) if !root.is_dir() => Err(Error::config(format!("store directory {} is not there", root.display()))
            .hint("is its disk mounted? make the directory, if the store is to be a new one")),
        _ => Ok(store),
    }
}

async fn reach(opened: &Opened) -> Result<Option<Reach>> {
    let catalog = opened.catalog().await?;
    let Some(timeline) = catalog.newest_timeline() else { return Ok(None) };
    let Some(log) = catalog.timelines.get(&timeline) else { return Ok(None) };
    let Some((_, end)) = log.unbroken() else { return Ok(None) };
    let position = opened.place(&catalog, timeline, end).await;
    let complete = log.segments.last().is_some_and(|last| last.range.end == end);
    Ok(Some(Reach { timeline: timeline.0, position, complete_to: log.confirmed.filter(|_| complete) }))
}

fn text(document: &Document) -> String {
    let Document { from, to, copied_objects, copied_bytes, reaches, problems } = document;
    let mut text = format!("copied   {copied_objects} objects, {}, from {from} to {to}\n", size(*copied_bytes));
    match reaches {
        Some(Reach { timeline, position, complete_to }) => {
            text.push_str(&format!("reaches  {position} on timeline {timeline}"));
            if let Some(moment) = complete_to {
                text.push_str(&format!(", complete to {moment}"));
            }
            text.push('\n');
        }
        None => text.push_str("reaches  nothing: no log is there\n"),
    }
    for Problem { object, problem } in problems {
        text.push_str(&format!("problem  {object}: {problem}\n"));
    }
    text
}
