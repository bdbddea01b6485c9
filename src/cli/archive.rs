//! `pitr archive`: the sidecar.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::settings::{Ack, Settings, SlotArgs, Stream, parse_duration, parse_size};
use super::written::{AckStoresArgs, Writes, Written, written};
use crate::engine::{self, Engine, SourceOptions};
use crate::error::{Error, Result};
use crate::model::time::SystemClock;
use crate::stream::session::Report;
use crate::stream::spool::limit_min;
use crate::stream::{self, Archiver, SpoolSettings};

/// The name under which servers list us.
const NAME: &str = "pitr";

/// Options of `pitr archive`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Stop once the log up to this position is durable
    #[arg(long, value_name = "POSITION")]
    until: Option<String>,
    /// Stop once everything the server has is durable, with a base backup that restores
    #[arg(long)]
    exit_when_caught_up: bool,
    #[command(flatten)]
    slot: SlotArgs,
    #[command(flatten)]
    spool: SpoolArgs,
    #[command(flatten)]
    ack_stores: AckStoresArgs,
    /// Wait until another archiver of this archive has been silent for TIME while the server has new log, and take over
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "90s")]
    standby: Option<String>,
    /// Take no base backup
    #[arg(long)]
    no_backup: bool,
}

/// Where log waits for a store that is slow or away.
#[derive(Debug, clap::Args)]
struct SpoolArgs {
    /// Directory in which log waits for a store that is slow or away; it survives this process
    #[arg(long, value_name = "DIR", env = "PITR_SPOOL")]
    spool: Option<PathBuf>,
    /// How much the spool may hold; when it is full the server keeps its log [default: 4GiB]
    #[arg(long, value_name = "SIZE", env = "PITR_SPOOL_SIZE")]
    spool_size: Option<String>,
    /// What has to hold the log before the server is told that it is durable [default: store]
    #[arg(long, value_name = "WHERE", env = "PITR_ACK")]
    ack: Option<Ack>,
}

impl SpoolArgs {
    /// The spool, with what the file says where nothing was typed.
    fn settings(&self, file: &Stream) -> Result<Option<SpoolSettings>> {
        let counts = self.ack.unwrap_or(file.ack) == Ack::Spool;
        let Some(folder) = self.spool.clone().or_else(|| file.spool.clone()) else {
            return if counts {
                Err(Error::config("ack = \"spool\" is asked for, and no spool is named")
                    .hint("name a directory on a disk of this machine with --spool DIR"))
            } else {
                Ok(None)
            };
        };
        let bytes = self.spool_size.as_deref().map_or(Ok(file.spool_bytes), parse_size)?;
        let least = limit_min(file.segment_bytes);
        if bytes < least {
            return Err(Error::config(format!("a spool of {bytes} bytes is too small: it needs {least} and more"))
                .hint("give --spool-size 4GiB, or what the store's longest outage brings"));
        }
        Ok(Some(SpoolSettings { folder, bytes, counts }))
    }
}

/// Streams until told to stop.
pub(super) async fn run(settings: &Settings, args: &Args) -> Result<ExitCode> {
    let url = settings.source()?;
    let engine: Arc<dyn Engine> = Arc::from(engine::by_url(url)?);
    let until = args.until.as_deref().map(|text| engine.parse_position(text)).transpose()?;
    let Written { store, mirrors } = written(settings, &args.ack_stores, engine.as_ref(), Writes::Log)?;
    let archiver = Archiver {
        store,
        mirrors,
        cluster: settings.cluster.clone(),
        keys: settings.keys()?,
        engine: Arc::clone(&engine),
        url: url.to_owned(),
        options: source_options(Some(settings.slot(&args.slot))),
        settings: stream::Settings {
            compression: settings.stream.compression_for(engine.as_ref()),
            segment_bytes: settings.stream.segment_bytes,
            flush_interval: settings.stream.flush_interval,
            spool: args.spool.settings(&settings.stream)?,
            from: None,
            until,
            exit_when_caught_up: args.exit_when_caught_up,
            backup: !args.no_backup,
            standby: args.standby.as_deref().map(parse_duration).transpose()?,
        },
        clock: Arc::new(SystemClock),
    };
    let (stop, stopped) = watch::channel(false);
    let (report, _) = watch::channel(Report::default());
    stop_on_signals(stop)?;
    archiver.run(stopped, &report).await?;
    let report = *report.borrow();
    let durable = archiver.engine.position(report.durable);
    if report.timeline.is_none() {
        tracing::info!("stopped; nothing was streamed");
    } else if report.incomplete {
        tracing::warn!(%durable, "stopped; what came behind this is not in the store yet");
    } else {
        tracing::info!(%durable, "stopped; everything received is durable");
    }
    Ok(ExitCode::SUCCESS)
}

/// How pitr introduces itself to a server.
pub(super) fn source_options(slot: Option<String>) -> SourceOptions {
    SourceOptions { slot, application_name: NAME.to_owned(), ..SourceOptions::default() }
}

/// SIGINT and SIGTERM ask for a flush and a clean end.
pub(super) fn stop_on_signals(stop: watch::Sender<bool>) -> Result<()> {
    let listen = |kind| signal(kind).map_err(|e| Error::failure("cannot listen for signals").because(e));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("asked to stop");
        stop.send_replace(true);
        // Keeps the channel open until the process ends.
        std::future::pending::<()>().await;
    });
    Ok(())
}
