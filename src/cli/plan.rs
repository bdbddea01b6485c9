//! `pitr plan`: what a restore would do.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::process::ExitCode;

use serde::Serialize;

use super::output::{self, size};
use super::settings::Settings;
use super::{Opened, time};
use crate::catalog::Catalog;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::model::mark::Transaction;
use crate::model::offset::Offset;
use crate::model::position::Position;
use crate::model::target::{Point, Target};
use crate::model::time::{Clock, SystemClock, Timestamp};
use crate::model::timeline::TimelineId;
use crate::plan::Plan;
use crate::restore::resolve::resolve;

/// The moment to go back to.
#[derive(Debug, clap::Args)]
pub(super) struct TargetArgs {
    #[command(flatten)]
    point: PointArgs,
    /// End on this timeline: `latest`, the newest in the archive; a decimal number; or 8
    /// hexadecimal digits, as timelines are printed (00000010 is 16) [default: latest]
    #[arg(long, value_name = "TIMELINE", value_parser = timeline)]
    target_timeline: Option<Timeline>,
    /// Leave out what lies exactly at the target
    #[arg(long)]
    exclusive: bool,
    /// Time zone for a --target-time without one, e.g. Europe/Berlin
    #[arg(long, value_name = "ZONE")]
    tz: Option<String>,
}

/// A timeline as it may be typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timeline {
    Latest,
    Number(TimelineId),
}

fn timeline(text: &str) -> Result<Timeline, String> {
    if text == "latest" {
        return Ok(Timeline::Latest);
    }
    let as_printed = text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let number = if as_printed {
        u32::from_str_radix(text, 16).ok()
    } else if text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    };
    match number {
        Some(number) if number > 0 => Ok(Timeline::Number(TimelineId(number))),
        _ => Err("give `latest`, a number from 1 on, or 8 hexadecimal digits".into()),
    }
}

/// Exactly one of these.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct PointArgs {
    /// As the database stood at this time, e.g. "2026-11-20 14:05:00+01"
    #[arg(long, value_name = "TIME")]
    target_time: Option<String>,
    /// Up to and including the first record at or behind this LSN
    #[arg(long, value_name = "LSN")]
    target_lsn: Option<String>,
    /// Up to and including this transaction
    #[arg(long, value_name = "XID")]
    target_xid: Option<String>,
    /// Up to and including the transaction with this GTID
    #[arg(long, value_name = "GTID")]
    target_gtid: Option<String>,
    /// Up to this place in the server's own files, as `mysqlbinlog` names it: FILE:POSITION
    #[arg(long, value_name = "FILE:POSITION")]
    target_position: Option<String>,
    /// Up to this restore point
    #[arg(long, value_name = "NAME")]
    target_name: Option<String>,
    /// Everything the archive holds
    #[arg(long, value_name = "WHAT")]
    target: Option<Everything>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Everything {
    /// The end of the archive
    Latest,
}

impl TargetArgs {
    /// Whether there is anything of a target, be it whole or not.
    pub(super) const fn is_given(&self) -> bool {
        let Self { point, target_timeline, exclusive, tz } = self;
        let PointArgs { target_time, target_lsn, target_xid, target_gtid, target_position, target_name, target } =
            point;
        target_time.is_some()
            || target_lsn.is_some()
            || target_xid.is_some()
            || target_gtid.is_some()
            || target_position.is_some()
            || target_name.is_some()
            || target.is_some()
            || target_timeline.is_some()
            || *exclusive
            || tz.is_some()
    }

    /// What was asked for.
    ///
    /// # Errors
    /// [`crate::Kind::Usage`] for a time that cannot be read, or has no zone.
    pub(super) fn target(&self) -> Result<Target> {
        let native = |term, value: &String| Point::Native { term, value: value.clone() };
        let point = if let Some(text) = &self.point.target_time {
            Point::Time(time::parse_target_time(text, self.tz.as_deref())?)
        } else if let Some(lsn) = &self.point.target_lsn {
            native("lsn", lsn)
        } else if let Some(xid) = &self.point.target_xid {
            native("xid", xid)
        } else if let Some(gtid) = &self.point.target_gtid {
            native("gtid", gtid)
        } else if let Some(position) = &self.point.target_position {
            native("position", position)
        } else if let Some(name) = &self.point.target_name {
            Point::Name(name.clone())
        } else if let Some(Everything::Latest) = self.point.target {
            Point::Latest
        } else {
            return Err(Error::usage("no target is given").hint("give --target-time TIME, or --target latest"));
        };
        let timeline = match self.target_timeline {
            Some(Timeline::Number(timeline)) => Some(timeline),
            Some(Timeline::Latest) | None => None,
        };
        Ok(Target { point, inclusive: !self.exclusive, timeline })
    }
}

/// Options of `pitr plan`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    target: TargetArgs,
    /// Without the transaction with this GTID (may be repeated)
    #[arg(long, value_name = "GTID")]
    exclude_gtid: Vec<String>,
}

/// Prints the plan.
pub(super) async fn run(settings: &Settings, args: &Args) -> Result<ExitCode> {
    let planned = Planned::make(settings, &args.target, &args.exclude_gtid).await?;
    if settings.json {
        output::print_json(&planned.document())?;
    } else {
        output::print(&planned.text())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A plan and what it was made from.
pub(super) struct Planned {
    pub opened: Opened,
    pub catalog: Catalog,
    pub target: Target,
    pub plan: Plan,
    places: Places,
}

/// Where the plan's offsets lie on the server.
struct Places {
    start: String,
    base_end: String,
    cut: String,
    last_in: Option<String>,
    first_out: Option<String>,
}

impl Places {
    async fn of(plan: &Plan, opened: &Opened, catalog: &Catalog) -> Self {
        // Most bases begin where they end, and most cuts are where a transaction begins: what was
        // read for one is not read again for the other.
        let mut known: HashMap<_, String> = HashMap::new();
        let mut at = async |timeline: TimelineId, offset: Offset| match known.entry((timeline, offset)) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(new) => new.insert(opened.place(catalog, timeline, offset).await).clone(),
        };
        let start = at(plan.base.timeline, plan.base.start).await;
        let base_end = at(plan.base.timeline, plan.base.end).await;
        let cut = at(plan.timeline, plan.cut).await;
        let mut begin = async |transaction: &Option<Transaction>| match transaction {
            Some(transaction) => Some(at(plan.timeline, transaction.start).await),
            None => None,
        };
        Self { start, base_end, cut, last_in: begin(&plan.last_in).await, first_out: begin(&plan.first_out).await }
    }
}

/// A plan as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    cluster: String,
    target_time: Option<Timestamp>,
    base: BaseDocument,
    timeline: u32,
    start: String,
    cut: String,
    segments: usize,
    log_bytes: u64,
    last_transaction_in: Option<TransactionDocument>,
    first_transaction_out: Option<TransactionDocument>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct BaseDocument {
    id: String,
    timeline: u32,
    ended: Timestamp,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct TransactionDocument {
    id: String,
    time: Timestamp,
    position: String,
    committed: bool,
}

impl Planned {
    /// Reads the archive and plans.
    pub(super) async fn make(settings: &Settings, args: &TargetArgs, exclude: &[String]) -> Result<Self> {
        let target = args.target()?;
        let opened = Opened::open(settings).await?;
        let catalog = opened.catalog().await?;
        let now = SystemClock.now();
        let plan = resolve(&opened.archive, opened.engine.as_ref(), &catalog, &target, exclude, now).await?;
        let places = Places::of(&plan, &opened, &catalog).await;
        Ok(Self { opened, catalog, target, plan, places })
    }

    pub(super) fn engine(&self) -> &dyn Engine {
        self.opened.engine.as_ref()
    }

    /// Where replay stops, in the engine's words.
    pub(super) fn cut(&self) -> Position {
        self.engine().position(self.plan.cut)
    }

    /// The plan as JSON.
    pub(super) fn document(&self) -> Document {
        let plan = &self.plan;
        Document {
            cluster: self.opened.archive.layout.cluster().to_string(),
            target_time: match self.target.point {
                Point::Time(time) => Some(time),
                _ => None,
            },
            base: BaseDocument {
                id: plan.base.id.clone(),
                timeline: plan.base.timeline.0,
                ended: plan.base.ended,
                bytes: plan.base.bytes,
            },
            timeline: plan.timeline.0,
            start: self.places.start.clone(),
            cut: self.places.cut.clone(),
            segments: plan.log.len(),
            log_bytes: plan.log_bytes,
            last_transaction_in: transaction(plan.last_in.as_ref(), self.places.last_in.as_deref()),
            first_transaction_out: transaction(plan.first_out.as_ref(), self.places.first_out.as_deref()),
            notes: plan.notes.clone(),
        }
    }

    /// The plan for people.
    pub(super) fn text(&self) -> String {
        let plan = &self.plan;
        let mut text = String::new();
        if let Point::Time(time) = self.target.point {
            text.push_str(&format!("target               {}\n", time::both_zones(time)));
        }
        text.push_str(&format!(
            "base                 {} ({}, timeline {}, consistent at {})\n",
            plan.base.id,
            size(plan.base.bytes),
            plan.base.timeline.0,
            self.places.base_end
        ));
        text.push_str(&format!(
            "log                  {} to {} on timeline {} ({} in {} segments)\n",
            self.places.start,
            self.places.cut,
            plan.timeline.0,
            size(plan.log_bytes),
            plan.log.len()
        ));
        text.push_str(&self.transactions());
        for note in &plan.notes {
            text.push_str(&format!("note                 {note}\n"));
        }
        text
    }

    /// The last transaction in and the first one out, a line each.
    pub(super) fn transactions(&self) -> String {
        let say = |transaction: Option<&Transaction>, place: Option<&str>, none: &str| match (transaction, place) {
            (Some(t), Some(place)) => {
                let rolled_back = if t.committed { "" } else { " (rolled back)" };
                format!("{} at {}, {place}{rolled_back}", t.id, t.time)
            }
            _ => none.to_owned(),
        };
        format!(
            "last transaction in  {}\nfirst one out        {}\n",
            say(
                self.plan.last_in.as_ref(),
                self.places.last_in.as_deref(),
                "none in the log after the base: the base as it is"
            ),
            say(self.plan.first_out.as_ref(), self.places.first_out.as_deref(), "none: the archive holds no later one")
        )
    }
}

fn transaction(transaction: Option<&Transaction>, place: Option<&str>) -> Option<TransactionDocument> {
    let (t, place) = (transaction?, place?);
    Some(TransactionDocument { id: t.id.to_string(), time: t.time, position: place.to_owned(), committed: t.committed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_is_read_as_it_is_printed() {
        let number = |text: &str| match timeline(text) {
            Ok(Timeline::Number(timeline)) => timeline.0,
            other => panic!("{text}: {other:?}"),
        };
        for timeline in [1, 9, 10, 16, 0xDEAD_BEEF] {
            assert_eq!(number(&TimelineId(timeline).to_string()), timeline);
        }
        assert_eq!((number("10"), number("00000010"), number("0000000a")), (10, 16, 10));
        assert_eq!(timeline("latest"), Ok(Timeline::Latest));
        for bad in ["", "0", "00000000", "-1", "+1", "1F", "4294967296", "newest"] {
            assert!(timeline(bad).is_err(), "{bad:?}");
        }
    }
}
