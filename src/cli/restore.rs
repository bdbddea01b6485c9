//! `pitr restore`: the database as it stood at a moment.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::output::{self, Progress, seconds, size};
use super::plan::{Document as PlanDocument, Planned, TargetArgs};
use super::settings::Settings;
use crate::engine::LiveJob;
use crate::error::{Error, Result};
use crate::model::offset::Offset;
use crate::model::position::Position;
use crate::restore::archived::ArchivedLog;
use crate::restore::position::position_at;
use crate::restore::{Observer, Outcome, Request, restore};
use crate::shell::restore_command_word;

/// Options of `pitr restore`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    target: TargetArgs,
    /// The directory to make
    #[arg(long, value_name = "DIR", required_unless_present = "to_server")]
    to: Option<PathBuf>,
    /// Instead of making a directory, have this server, which runs already, replay the log from
    /// where it stands (MySQL and MariaDB)
    #[arg(long, value_name = "URL", env = "PITR_TO_SERVER", hide_env_values = true)]
    #[arg(conflicts_with_all = ["to", "start", "no_recover", "bin_dir", "os_user", "delta", "tablespace_map", "jobs"])]
    to_server: Option<String>,
    /// Where that server reaches pitr [default: the address from which pitr reaches it]
    #[arg(long, value_name = "ADDRESS:PORT", requires = "to_server")]
    listen: Option<SocketAddr>,
    /// Leave out the transaction with this GTID and go on after it (may be repeated)
    #[arg(long, value_name = "GTID", conflicts_with = "no_recover")]
    exclude_gtid: Vec<String>,
    /// Leave the recovered server running, on a private socket
    #[arg(long, conflicts_with = "no_recover")]
    start: bool,
    /// Only lay out files and recovery settings, for a server elsewhere
    #[arg(long)]
    no_recover: bool,
    /// Where the server's programs are
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// User to run servers as when started by root [default: postgres or mysql]
    #[arg(long, value_name = "NAME")]
    os_user: Option<String>,
    /// Work at the same time [default: processors]
    #[arg(short, long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Overwrite a directory that is there, rewriting only the blocks that differ
    #[arg(long)]
    delta: bool,
    /// Put a tablespace elsewhere (may be repeated)
    #[arg(long, value_name = "OLD=NEW", value_parser = tablespace)]
    tablespace_map: Vec<(PathBuf, PathBuf)>,
}

fn tablespace(text: &str) -> Result<(PathBuf, PathBuf), String> {
    let (old, new) = text.split_once('=').ok_or("write it as OLD=NEW")?;
    let (old, new) = (PathBuf::from(old), PathBuf::from(new));
    if old.is_absolute() && new.is_absolute() {
        Ok((old, new))
    } else {
        Err("both directories must be absolute".into())
    }
}

#[derive(Serialize)]
struct Document {
    plan: PlanDocument,
    directory: PathBuf,
    bytes_written: u64,
    bytes_kept: u64,
    seconds: std::collections::BTreeMap<&'static str, f64>,
    connect: Option<String>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Replayed {
    plan: PlanDocument,
    seconds: f64,
}

struct Bars {
    files: Progress,
    replay: Progress,
    start: Offset,
    cut: Offset,
}

impl Observer for Bars {
    fn files(&self, done: u64, total: u64) {
        self.files.set(done, Some(total));
    }

    fn replay(&self, at: Offset) {
        self.files.finish();
        self.replay.set(at.since(self.start), Some(self.cut.since(self.start)));
    }
}

/// Plans, prints the plan, and carries it out.
pub(super) async fn run(settings: &Settings, args: &Args) -> Result<ExitCode> {
    // A server that runs goes on from where it stands, whatever the bases hold.
    let exclude = if args.to_server.is_some() { &[] } else { args.exclude_gtid.as_slice() };
    let planned = Planned::make(settings, &args.target, exclude).await?;
    if !settings.json {
        output::print(&planned.text())?;
    }
    let to = match (&args.to, &args.to_server) {
        (Some(to), _) => std::path::absolute(to).map_err(|e| Error::io("find", to, e))?,
        (None, Some(url)) => return replay(settings, args, &planned, url).await,
        (None, None) => return Err(Error::usage("neither --to nor --to-server is given")),
    };
    let processors = || std::thread::available_parallelism().map_or(2, usize::from);
    let jobs = args.jobs.map_or_else(processors, usize::from);
    let source = LogSource::find(settings)?;
    let request = Request {
        jobs,
        delta: args.delta,
        tablespace_map: args.tablespace_map.clone(),
        exclude: args.exclude_gtid.clone(),
        recover: !args.no_recover,
        start: args.start,
        bin_dir: args.bin_dir.clone(),
        os_user: args.os_user.clone(),
        fetch_command: source.command(settings, &planned.cut()),
        to,
    };
    let bars = Arc::new(Bars {
        files: Progress::bytes("base"),
        replay: Progress::bytes("replay"),
        start: planned.plan.base.start,
        cut: planned.plan.cut,
    });
    let observer: Arc<dyn Observer> = bars.clone();
    let opened = &planned.opened;
    let result =
        restore(&opened.archive, opened.engine.as_ref(), &planned.catalog, &planned.plan, &request, observer).await;
    bars.files.finish();
    bars.replay.finish();
    let outcome = result?;
    if settings.json {
        output::print_json(&Document {
            plan: planned.document(),
            directory: request.to.clone(),
            bytes_written: outcome.bytes_written,
            bytes_kept: outcome.bytes_kept,
            seconds: outcome.phases.iter().map(|(name, took)| (*name, took.as_secs_f64())).collect(),
            connect: outcome.running.as_ref().map(|running| running.command.clone()),
            notes: outcome.notes.clone(),
        })?;
    } else {
        output::print(&report(&planned, &request, &outcome, &source))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Has a server that runs replay the log up to the cut.
async fn replay(settings: &Settings, args: &Args, planned: &Planned, url: &str) -> Result<ExitCode> {
    let (archive, engine) = (&planned.opened.archive, &planned.opened.engine);
    let (timeline, cut) = (planned.plan.timeline, planned.plan.cut);
    let end = position_at(archive, engine.as_ref(), &planned.catalog, timeline, cut).await?;
    let end = end.ok_or_else(|| Error::failure("where the log is cut is not known in the server's terms"))?;
    let begun = Instant::now();
    let bar = Progress::bytes("replay");
    let start = planned.plan.base.start;
    let job = LiveJob {
        identity: archive.identity.clone(),
        url: url.to_owned(),
        listen: args.listen,
        start,
        cut,
        end,
        exclude: args.exclude_gtid.clone(),
    };
    let log = ArchivedLog::new(archive.clone(), Arc::clone(engine), timeline, Some(cut));
    let replayed = engine.replay_to(&job, Arc::new(log), &|at| bar.set(at.since(start), Some(cut.since(start)))).await;
    bar.finish();
    replayed?;
    if settings.json {
        output::print_json(&Replayed { plan: planned.document(), seconds: begun.elapsed().as_secs_f64() })?;
    } else {
        let took = seconds(begun.elapsed());
        output::print(&format!(
            "\nreplayed             into the server\n{}took                 {took}\n",
            planned.transactions()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn report(planned: &Planned, request: &Request, outcome: &Outcome, source: &LogSource) -> String {
    let mut text = String::from("\n");
    if request.recover {
        text.push_str(&format!("restored             {}\n", request.to.display()));
        text.push_str(&planned.transactions());
    } else {
        text.push_str(&format!("laid out             {}\n", request.to.display()));
        text.push_str(&format!(
            "next                 start PostgreSQL on it: it recovers by itself; its user must be able to run {} and to read the store {}\n",
            source.program,
            source.stores.join(" and ")
        ));
    }
    text.push_str(&format!("written              {}", size(outcome.bytes_written)));
    if request.delta {
        text.push_str(&format!(", {} kept", size(outcome.bytes_kept)));
    }
    let phases: Vec<String> = outcome.phases.iter().map(|(name, took)| format!("{name} {}", seconds(*took))).collect();
    let total = outcome.phases.iter().map(|(_, took)| *took).sum();
    text.push_str(&format!("\ntook                 {} ({})\n", seconds(total), phases.join(", ")));
    if let Some(running) = &outcome.running {
        text.push_str(&format!("running              {}\n", running.command));
    }
    for note in &outcome.notes {
        text.push_str(&format!("note                 {note}\n"));
    }
    text
}

/// From where, and with what, a server elsewhere gets its log.
struct LogSource {
    program: String,
    stores: Vec<String>,
}

impl LogSource {
    fn find(settings: &Settings) -> Result<Self> {
        let program = std::env::current_exe().map_err(|e| Error::failure("cannot find my own program").because(e))?;
        let absolute = |store: &String| {
            if store.contains("://") {
                return Ok(store.clone());
            }
            let path = std::path::absolute(store).map_err(|e| Error::io("find", Path::new(store), e))?;
            Ok(path.display().to_string())
        };
        let stores = settings.store_urls().iter().map(absolute).collect::<Result<_>>()?;
        Ok(Self { program: program.display().to_string(), stores })
    }

    /// The `restore_command`, which gives the log up to the cut whatever is archived later.
    fn command(&self, settings: &Settings, cut: &Position) -> String {
        let stores: String =
            self.stores.iter().map(|store| format!(" --store {}", restore_command_word(store))).collect();
        format!(
            "{}{stores} --cluster {} wal-fetch --until {} %f \"%p\"",
            restore_command_word(&self.program),
            settings.cluster,
            restore_command_word(&cut.0)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tablespace_map_wants_two_absolute_directories() {
        assert!(tablespace("/a=/b").is_ok());
        assert!(tablespace("/a").is_err());
        assert!(tablespace("a=/b").is_err());
    }
}
