//! `pitr list`: what can be restored.

use std::process::ExitCode;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;

use super::Opened;
use super::output::{self, size};
use super::settings::Settings;
use crate::catalog::damage::Damaged;
use crate::engine::Axis;
use crate::error::Result;
use crate::model::time::Timestamp;
use crate::plan::{self, Missing, Window};

/// Options of `pitr list`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

#[derive(Serialize)]
struct Document {
    cluster: String,
    store: String,
    bases: Vec<Base>,
    windows: Vec<ShownWindow>,
    gaps: Vec<ShownGap>,
    restore_points: Vec<ShownPoint>,
    damaged: Vec<Damaged>,
}

#[derive(Serialize)]
struct Base {
    id: String,
    timeline: u32,
    ended: Timestamp,
    /// Where log must be read to know, which takes too long for each of many bases, nothing.
    start: Option<String>,
    end: Option<String>,
    bytes: u64,
    stored_bytes: u64,
    restorable: bool,
}

#[derive(Serialize)]
struct ShownWindow {
    timeline: u32,
    from: Timestamp,
    to: Timestamp,
    base: String,
    end: String,
    broken_by: Option<String>,
}

#[derive(Serialize)]
struct ShownGap {
    timeline: u32,
    start: String,
    end: String,
    cause: String,
    found: Timestamp,
}

#[derive(Serialize)]
struct ShownPoint {
    name: String,
    time: Timestamp,
    timeline: u32,
    position: String,
}

/// Prints bases, recoverable windows, gaps and restore points.
pub(super) async fn run(settings: &Settings, _: &Args) -> Result<ExitCode> {
    let opened = Opened::open(settings).await?;
    let document = gather(&opened).await?;
    if settings.json {
        output::print_json(&document)?;
    } else {
        output::print(&text(&document))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn gather(opened: &Opened) -> Result<Document> {
    let catalog = opened.catalog().await?;
    let engine = opened.engine.as_ref();
    let position = |offset| engine.position(offset).to_string();
    let told = engine.axis() == Axis::Server;
    let bases = catalog.bases.iter().map(|base| Base {
        id: base.id.clone(),
        timeline: base.timeline.0,
        ended: base.ended,
        start: told.then(|| position(base.start)),
        end: told.then(|| position(base.end)),
        bytes: base.bytes,
        stored_bytes: base.stored_bytes,
        restorable: plan::restorable(&catalog, &base.id),
    });
    let mut windows = Vec::new();
    let mut gaps = Vec::new();
    let mut restore_points = Vec::new();
    for (&timeline, log) in &catalog.timelines {
        // A timeline without log, or one that nothing leads to, has no windows.
        let found: Vec<Window> = plan::windows(&catalog, timeline).unwrap_or_default();
        let at = |offset| opened.place(&catalog, timeline, offset);
        for window in found {
            let broken_by = match window.missing {
                Some(Missing { range, damaged, .. }) => {
                    let damaged = if damaged.is_empty() { "missing" } else { "damaged" };
                    Some(format!("the log from {} to {} is {damaged}", at(range.start).await, at(range.end).await))
                }
                None => None,
            };
            windows.push(ShownWindow {
                timeline: window.timeline.0,
                from: window.from,
                to: window.to,
                base: window.base,
                end: at(window.range.end).await,
                broken_by,
            });
        }
        for gap in &log.gaps {
            gaps.push(ShownGap {
                timeline: timeline.0,
                start: at(gap.range.start).await,
                end: at(gap.range.end).await,
                cause: gap.cause.clone(),
                found: gap.found,
            });
        }
        restore_points.extend(log.restore_points.iter().map(|point| ShownPoint {
            name: point.name.clone(),
            time: point.time,
            timeline: timeline.0,
            position: position(point.end),
        }));
    }
    Ok(Document {
        cluster: opened.archive.layout.cluster().to_string(),
        store: opened.archive.store.location(),
        bases: bases.collect(),
        windows,
        gaps,
        restore_points,
        damaged: catalog.damaged().cloned().collect(),
    })
}

fn text(document: &Document) -> String {
    let mut text = format!("cluster {} in {}\n\nbase backups\n", document.cluster, document.store);
    let told = document.bases.iter().any(|base| base.end.is_some());
    text.push_str(&table(
        &["base", "timeline", "ended", if told { "consistent at" } else { "" }, "size", "stored", ""],
        document.bases.iter().map(|base| {
            vec![
                base.id.clone(),
                base.timeline.to_string(),
                base.ended.to_string(),
                base.end.clone().unwrap_or_default(),
                size(base.bytes),
                size(base.stored_bytes),
                if base.restorable { String::new() } else { "not restorable: its log is not archived".into() },
            ]
        }),
    ));
    text.push_str("\nrecoverable windows\n");
    text.push_str(&table(
        &["timeline", "from", "to", "position", "ends with"],
        document.windows.iter().map(|window| {
            let ends = window.broken_by.clone().unwrap_or_else(|| "the archive".into());
            vec![window.timeline.to_string(), window.from.to_string(), window.to.to_string(), window.end.clone(), ends]
        }),
    ));
    if let (true, Some(base)) = (document.windows.is_empty(), document.bases.iter().rfind(|base| base.restorable)) {
        text.push_str(&format!(
            "  the log is not yet known to be complete past a base's end; `pitr restore --target latest` gives {} or later\n",
            base.end.clone().unwrap_or_else(|| base.ended.to_string())
        ));
    }
    if !document.gaps.is_empty() {
        text.push_str("\ngaps\n");
        text.push_str(&table(
            &["timeline", "from", "to", "found", "cause"],
            document.gaps.iter().map(|gap| {
                vec![
                    gap.timeline.to_string(),
                    gap.start.clone(),
                    gap.end.clone(),
                    gap.found.to_string(),
                    gap.cause.clone(),
                ]
            }),
        ));
    }
    if !document.restore_points.is_empty() {
        text.push_str("\nrestore points\n");
        text.push_str(&table(
            &["name", "time", "timeline", "position"],
            document.restore_points.iter().map(|point| {
                vec![point.name.clone(), point.time.to_string(), point.timeline.to_string(), point.position.clone()]
            }),
        ));
    }
    if !document.damaged.is_empty() {
        text.push_str("\ndamaged\n");
        for damaged in &document.damaged {
            text.push_str(&format!("  {}: {}\n    {}\n", damaged.object, damaged.problem, damaged.advice));
        }
    }
    text
}

fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    if table.row_count() == 0 {
        return "  none\n".into();
    }
    table.lines().flat_map(|line| ["  ".to_owned(), line.trim_end().to_owned(), "\n".to_owned()]).collect()
}
