//! `pitr status`: how archive and source stand now.

use std::process::ExitCode;

use serde::Serialize;

use super::Opened;
use super::archive::source_options;
use super::output;
use super::settings::{Settings, SlotArgs};
use crate::catalog::damage::Damaged;
use crate::catalog::positions::end_of_log;
use crate::engine::{Axis, SlotStatus};
use crate::error::{Error, Kind, Result};
use crate::model::time::{Clock, SystemClock, Timestamp};

mod stores;

use stores::StoreStatus;

/// Options of `pitr status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    slot: SlotArgs,
}

#[derive(Serialize)]
struct Document {
    cluster: String,
    store: String,
    /// Each of several by itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stores: Vec<StoreStatus>,
    engine: String,
    system: String,
    timeline: Option<u32>,
    archived_to: Option<String>,
    newest_transaction: Option<Timestamp>,
    confirmed: Option<Timestamp>,
    confirmed_age_seconds: Option<f64>,
    last_base: Option<String>,
    last_base_ended: Option<Timestamp>,
    gaps: usize,
    damaged: Vec<Damaged>,
    source: Option<Source>,
    slot: Option<SlotStatus>,
    slot_error: Option<String>,
    source_error: Option<String>,
}

#[derive(Serialize)]
struct Source {
    version: String,
    timeline: Option<u32>,
    log_end: String,
    standby: bool,
    lag_bytes: u64,
}

/// Prints where archive and source stand. A source that cannot be reached is told, and
/// is no failure: the archive is what `status` is about. Another database's is one, for
/// nothing that could be said of it would be about this archive.
pub(super) async fn run(settings: &Settings, args: &Args) -> Result<ExitCode> {
    let opened = Opened::open(settings).await?;
    let catalog = opened.catalog().await?;
    let engine = opened.engine.as_ref();
    let newest = catalog.newest_timeline().and_then(|timeline| catalog.timelines.get_key_value(&timeline));
    let end = newest.and_then(|(_, log)| log.segments.last());
    let confirmed = newest.and_then(|(_, log)| log.confirmed);
    let base = catalog.bases.last();
    let archived_to = match (newest, end) {
        (Some((&timeline, _)), Some(segment)) => Some(opened.place(&catalog, timeline, segment.boundary).await),
        _ => None,
    };
    let mut document = Document {
        cluster: settings.cluster.to_string(),
        store: opened.archive.store.location(),
        stores: match settings.stores()? {
            several if several.len() > 1 => stores::stores(&opened.archive, engine, several).await,
            _ => Vec::new(),
        },
        engine: opened.archive.identity.engine.clone(),
        system: opened.archive.identity.system.clone(),
        timeline: newest.map(|(timeline, _)| timeline.0),
        archived_to,
        newest_transaction: newest.and_then(|(_, log)| log.segments.iter().filter_map(|s| s.times).map(|t| t.1).max()),
        confirmed,
        confirmed_age_seconds: confirmed.map(|time| micros_to_seconds(SystemClock.now().micros_since(time))),
        last_base: base.map(|base| base.id.clone()),
        last_base_ended: base.map(|base| base.ended),
        gaps: catalog.timelines.values().map(|log| log.gaps.len()).sum(),
        damaged: catalog.damaged().cloned().collect(),
        source: None,
        slot: None,
        slot_error: None,
        source_error: None,
    };
    if let Some(url) = settings.source_if_any() {
        let asked = async {
            let mut source = engine.connect(url, &source_options(None)).await?;
            let server = source.identify().await?;
            let archived = match newest {
                Some((&timeline, log)) if engine.axis() == Axis::Archive => {
                    end_of_log(&opened.archive, engine, timeline, log).await?
                }
                _ => None,
            };
            let log_end = source.log_end(archived.as_ref()).await?;
            Ok::<_, Error>((server, log_end))
        };
        match asked.await {
            Ok((server, log_end)) => {
                opened.archive.check_identity(&server.identity)?;
                let archived = end.map_or(crate::model::offset::Offset::ZERO, |segment| segment.boundary);
                document.source = Some(Source {
                    version: server.version,
                    timeline: if engine.axis() == Axis::Archive { document.timeline } else { Some(server.timeline.0) },
                    lag_bytes: log_end
                        .as_ref()
                        .and_then(|end| end.behind)
                        .unwrap_or_else(|| server.log_end.since(archived)),
                    log_end: log_end.map_or_else(|| engine.position(server.log_end), |end| end.position).to_string(),
                    standby: server.standby,
                });
            }
            Err(error) if error.kind() == Kind::Usage => return Err(error),
            Err(error) => document.source_error = Some(error.to_string()),
        }
        if document.source.is_some() {
            match engine.slot(url, &source_options(Some(settings.slot(&args.slot)))).await {
                Ok(slot) => document.slot = slot,
                Err(error) => document.slot_error = Some(error.to_string()),
            }
        }
    }
    if settings.json {
        output::print_json(&document)?;
    } else {
        output::print(&text(&document))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::cast_precision_loss, reason = "an age for people and dashboards")]
fn micros_to_seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

fn text(document: &Document) -> String {
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "none".into());
    let time = |time: Option<Timestamp>| or_none(time.map(|t| t.to_string()));
    let mut text = format!("cluster           {} in {}\n", document.cluster, document.store);
    text.push_str(&format!("database          {} system {}\n", document.engine, document.system));
    let timeline = document.timeline.map_or_else(String::new, |timeline| format!(" on timeline {timeline}"));
    text.push_str(&format!("archived to       {}{timeline}\n", or_none(document.archived_to.clone())));
    text.push_str(&stores::text(&document.stores));
    text.push_str(&format!("newest            {}\n", time(document.newest_transaction)));
    let age = document.confirmed_age_seconds.map_or_else(String::new, |age| format!(" ({age:.1} s ago)"));
    text.push_str(&format!("complete up to    {}{age}\n", time(document.confirmed)));
    text.push_str(&format!("last base         {}\n", or_none(document.last_base.clone())));
    text.push_str(&format!("gaps              {}\n", document.gaps));
    for damaged in &document.damaged {
        text.push_str(&format!("damaged           {} ({})\n", damaged.object, damaged.advice));
    }
    match (&document.source, &document.source_error) {
        (Some(source), _) => {
            let role = if source.standby { "standby" } else { "primary" };
            let timeline = source.timeline.map_or_else(String::new, |timeline| format!(", timeline {timeline}"));
            text.push_str(&format!(
                "source            {role}, version {}{timeline}, log ends at {}\nlag               {}\n",
                source.version,
                source.log_end,
                output::size(source.lag_bytes)
            ));
        }
        (None, Some(error)) => text.push_str(&format!("source            unreachable: {error}\n")),
        (None, None) => {}
    }
    let slot = document.slot.as_ref().map(|slot| &slot.message).or(document.slot_error.as_ref());
    if let Some(slot) = slot {
        text.push_str(&format!("slot              {slot}\n"));
    }
    text
}
