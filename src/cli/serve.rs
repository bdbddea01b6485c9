//! `pitr serve`: the archive as a replication source.

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use secrecy::SecretString;
use tokio::sync::watch;

use super::archive::stop_on_signals;
use super::plan::{Planned, TargetArgs};
use super::settings::Settings;
use super::{Opened, output};
use crate::engine::ServeJob;
use crate::error::{Error, Kind, Result};
use crate::restore::archived::ArchivedLog;

/// Where the password may be, so that it is in no argument.
const PASSWORD: &str = "PITR_SERVE_PASSWORD";

/// Options of `pitr serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:3307")]
    listen: SocketAddr,
    /// The account with which replicas log in
    #[arg(long, value_name = "NAME", default_value = "pitr")]
    user: String,
    /// A file with its password [default: the environment's PITR_SERVE_PASSWORD]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Leave out the transaction with this GTID and go on after it (may be repeated)
    #[arg(long, value_name = "GTID")]
    exclude_gtid: Vec<String>,
    /// Without a target, the archive is followed as it grows.
    #[command(flatten)]
    target: TargetArgs,
}

/// Serves replicas until told to stop.
pub(super) async fn run(settings: &Settings, args: &Args) -> Result<ExitCode> {
    let password = password(args)?;
    let (opened, timeline, cut) = if args.target.is_given() {
        let planned = Planned::make(settings, &args.target, &[]).await?;
        output::print(&planned.transactions())?;
        (planned.opened, planned.plan.timeline, Some(planned.plan.cut))
    } else {
        let opened = Opened::open(settings).await?;
        let newest = opened.catalog().await?.newest_timeline();
        let timeline = newest.ok_or_else(|| {
            Error::new(Kind::NotRecoverable, "the archive holds no log").hint("does `pitr archive` run?")
        })?;
        (opened, timeline, None)
    };
    let log = ArchivedLog::new(opened.archive.clone(), Arc::clone(&opened.engine), timeline, cut);
    let job = ServeJob {
        identity: opened.archive.identity.clone(),
        listen: args.listen,
        user: args.user.clone(),
        password,
        exclude: args.exclude_gtid.clone(),
    };
    let serving = opened.engine.serve(&job, Arc::new(log)).await?;
    output::print(&format!(
        "serving              timeline {timeline} at {}\nto make a replica    {}\n",
        serving.address(),
        serving.statements()
    ))?;
    let (stop, mut stopped) = watch::channel(false);
    stop_on_signals(stop)?;
    let _ = stopped.wait_for(|stop| *stop).await;
    Ok(ExitCode::SUCCESS)
}

fn password(args: &Args) -> Result<SecretString> {
    let text = match &args.password_file {
        Some(path) => {
            let mut text = String::new();
            let read = std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text));
            read.map_err(|e| Error::config(format!("cannot read {}", path.display())).because(e))?;
            text
        }
        None => std::env::var(PASSWORD).unwrap_or_default(),
    };
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err(Error::config(format!("replicas need a password for {:?}, and none is given", args.user))
            .hint(format!("put it into a file and name that with --password-file, or set {PASSWORD}")));
    }
    Ok(text.into())
}
