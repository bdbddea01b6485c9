//! `pitr backup`: a base backup now.

use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;

use super::archive::source_options;
use super::output::{self, Progress, size};
use super::settings::{Settings, SlotArgs};
use super::written::{AckStoresArgs, Writes, Written, written};
use crate::catalog::BaseInfo;
use crate::catalog::archive::Archive;
use crate::engine::{self, Axis, BaseOptions, Engine};
use crate::error::{Error, Kind, Result};
use crate::model::time::SystemClock;
use crate::plan;
use crate::stream::base::Task;
use crate::stream::session::Report;
use crate::stream::{self, Archiver};

/// How often the archive is looked at for the log the backup needs.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How long a running archiver is given before we look whether there is one.
const PATIENCE: Duration = Duration::from_secs(3);

/// Options of `pitr backup`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Label the server keeps with the backup
    #[arg(long, default_value = "pitr")]
    label: String,
    /// Spread the checkpoint over its usual time instead of taking it at once
    #[arg(long)]
    spread_checkpoint: bool,
    /// How the files are got; `auto` takes the best there is for the server
    #[arg(long, value_enum, default_value_t)]
    method: Method,
    /// How long to wait for the archive to hold the log the backup needs, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
    #[command(flatten)]
    slot: SlotArgs,
    #[command(flatten)]
    ack_stores: AckStoresArgs,
}

/// How the files of a base are got.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Method {
    #[default]
    Auto,
    Clone,
    MariadbBackup,
    Xtrabackup,
    Logical,
}

impl From<Method> for engine::Method {
    fn from(method: Method) -> Self {
        match method {
            Method::Auto => Self::Auto,
            Method::Clone => Self::Clone,
            Method::MariadbBackup => Self::MariadbBackup,
            Method::Xtrabackup => Self::Xtrabackup,
            Method::Logical => Self::Logical,
        }
    }
}

#[derive(Serialize)]
struct Document {
    base: String,
    timeline: u32,
    start: String,
    end: String,
    bytes: u64,
    stored_bytes: u64,
    seconds: f64,
    restorable: bool,
}

/// Takes a base backup and waits until it can be restored.
///
/// Where no archiver's slot keeps the log that the base needs, a temporary one does until we
/// are through: a slot that stayed behind would keep log on the server for ever.
pub(super) async fn run(settings: &Settings, args: &Args) -> Result<ExitCode> {
    let url = settings.source()?;
    let engine = engine::by_url(url)?;
    let options = source_options(None);
    let with_slot = source_options(Some(settings.slot(&args.slot)));
    let mut keeper = engine.connect(url, &with_slot).await?;
    let server = keeper.identify().await?;
    let Written { store, mirrors } = written(settings, &args.ack_stores, engine.as_ref(), Writes::Bases)?;
    if let Some(mirrors) = &mirrors {
        mirrors.meet().await?;
    }
    let keys = settings.keys()?;
    if keys.archiver.is_some() && keys.restore.is_none() && engine.axis() == Axis::Archive {
        return Err(Error::new(
            Kind::WrongKey,
            "a base backup looks for its place in the log, which an archiver key does not read",
        )
        .hint("name the restore key, too, with --restore-key FILE; or have `pitr archive` take the base"));
    }
    let archive = Archive::open_or_create(store, &settings.cluster, &server.identity, &keys).await?;
    let mut together = match &mirrors {
        Some(mirrors) => Some(mirrors.begin().await?),
        None => None,
    };
    let archived = engine.has_archiver(url, &with_slot).await;
    let kept = match archived {
        Ok(true) => None,
        _ => keeper.keep_log().await.map(Some).unwrap_or_else(|error| {
            // An archive that `archive_command` fills does without.
            tracing::warn!(%error, hint = error.advice(), "no slot keeps the log of this base backup until it is archived");
            None
        }),
    };
    let begun = Instant::now();
    let progress = Progress::bytes("base backup");
    let task = Task {
        archive: &archive,
        engine: engine.as_ref(),
        url,
        options: &options,
        clock: &SystemClock,
        progress: &|done, total| progress.set(done, total),
    };
    let options =
        BaseOptions { label: args.label.clone(), fast_checkpoint: !args.spread_checkpoint, method: args.method.into() };
    let base = if engine.axis() == Axis::Archive && args.wait > 0 && matches!(archived, Ok(false)) {
        beside_the_log(settings, args, url, task.run(&options)).await?
    } else {
        task.run(&options).await?
    };
    progress.finish();
    if let Some(together) = &mut together {
        together.finish().await.iter().for_each(|store| {
            tracing::warn!(
                base = base.id,
                store,
                "a store lacks this base; `pitr archive`, or `pitr copy`, brings it there"
            );
        });
    }
    let took = begun.elapsed();
    let mut restorable = wait_for_log(settings, &base, PATIENCE.min(Duration::from_secs(args.wait))).await?;
    let mut streamed = false;
    if !restorable && args.wait > 0 {
        let wait = Duration::from_secs(args.wait);
        streamed = !engine.has_archiver(url, &with_slot).await.unwrap_or_else(|error| {
            // To stream beside an archiver would put an end to it.
            tracing::warn!(%error, "whether an archiver is at work cannot be seen; waiting for one");
            true
        });
        if streamed {
            stream_log(settings, args, url, &base, wait).await?;
        }
        restorable = wait_for_log(settings, &base, if streamed { Duration::ZERO } else { wait }).await?;
    }
    drop(kept);
    if settings.json {
        output::print_json(&Document {
            base: base.id.clone(),
            timeline: base.timeline.0,
            start: engine.position(base.start).to_string(),
            end: engine.position(base.end).to_string(),
            bytes: base.bytes,
            stored_bytes: base.stored_bytes,
            seconds: took.as_secs_f64(),
            restorable,
        })?;
    } else {
        output::print(&format!(
            "base {} is stored: {} in files, {} added to the store, {:.1} s\n",
            base.id,
            size(base.bytes),
            size(base.stored_bytes),
            took.as_secs_f64()
        ))?;
    }
    if restorable {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Error::new(
        Kind::Partial,
        format!(
            "base {} cannot be restored yet: the archive lacks the log from {} to {}",
            base.id,
            engine.position(base.start),
            engine.position(base.end)
        ),
    )
    .hint(if streamed {
        "was the server away, or has it removed that log? run `pitr archive`, whose slot keeps it, and take another"
    } else {
        "is `pitr archive` running? the base counts as soon as that log is archived"
    }))
}

/// An archiver without a slot, for that would stay behind.
fn archiver(settings: &Settings, args: &Args, url: &str, base: Option<&BaseInfo>) -> Result<Archiver> {
    let engine: Arc<dyn Engine> = Arc::from(engine::by_url(url)?);
    let Written { store, mirrors } = written(settings, &args.ack_stores, engine.as_ref(), Writes::Log)?;
    Ok(Archiver {
        store,
        mirrors,
        cluster: settings.cluster.clone(),
        keys: settings.keys()?,
        engine: Arc::clone(&engine),
        url: url.to_owned(),
        options: source_options(None),
        settings: stream::Settings {
            compression: settings.stream.compression_for(engine.as_ref()),
            segment_bytes: settings.stream.segment_bytes,
            flush_interval: settings.stream.flush_interval,
            spool: None,
            standby: None,
            from: base.map(|base| (base.timeline, base.start)),
            until: base.map(|base| base.end),
            exit_when_caught_up: false,
            backup: false,
        },
        clock: Arc::new(SystemClock),
    })
}

/// Where the archive counts, a base is there only with the log up to its end: where nobody
/// archives, that is streamed while it is taken.
async fn beside_the_log(
    settings: &Settings,
    args: &Args,
    url: &str,
    base: impl Future<Output = Result<BaseInfo>>,
) -> Result<BaseInfo> {
    let archiver = archiver(settings, args, url, None)?;
    let (stop, stopped) = watch::channel(false);
    let (report, _) = watch::channel(Report::default());
    let mut streaming = pin!(archiver.run(stopped, &report));
    let base = tokio::select! {
        base = base => base?,
        ended = &mut streaming => {
            ended?;
            return Err(Error::failure("streaming the log of the base backup ended by itself"));
        }
    };
    stop.send_replace(true);
    streaming.await?;
    Ok(base)
}

/// Where nobody archives, the log a base needs is fetched here. Ends when for the time of `wait`
/// nothing comes.
async fn stream_log(settings: &Settings, args: &Args, url: &str, base: &BaseInfo, wait: Duration) -> Result<()> {
    let archiver = archiver(settings, args, url, Some(base))?;
    let (stop, stopped) = watch::channel(false);
    let (report, reported) = watch::channel(Report::default());
    let mut run = pin!(archiver.run(stopped, &report));
    loop {
        let before = reported.borrow().received;
        match tokio::time::timeout(wait, &mut run).await {
            Ok(done) => return done,
            Err(_) if reported.borrow().received > before => {}
            Err(_) => {
                stop.send_replace(true);
                return run.await;
            }
        }
    }
}

/// Waits until the archive holds the log that makes a base consistent.
async fn wait_for_log(settings: &Settings, base: &BaseInfo, most: Duration) -> Result<bool> {
    let begun = Instant::now();
    loop {
        let opened = super::Opened::open(settings).await?;
        let catalog = opened.archive.catalog(opened.engine.as_ref()).await?;
        if plan::restorable(&catalog, &base.id) {
            return Ok(true);
        }
        if begun.elapsed() >= most {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
