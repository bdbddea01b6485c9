//! The command line: parse, call, print. What was typed lives here, what it means in
//! [`settings::Settings`]; a verb is a file with one call and one print.

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::catalog::Catalog;
use crate::catalog::archive::Archive;
use crate::catalog::damage::Damaged;
use crate::engine::{self, Engine};
use crate::error::{Error, Kind, Result};
use crate::model::offset::Offset;
use crate::model::timeline::TimelineId;
use crate::restore::position::place_at;
use crate::store::Store;

pub mod output;
pub mod settings;
pub mod time;

mod archive;
mod backup;
mod check;
mod copy;
mod demo;
mod export;
mod init;
mod key;
mod list;
mod meta;
mod plan;
mod restore;
mod serve;
mod status;
mod verify;
mod wal_fetch;
mod wal_push;
mod written;

use settings::{Global, Settings};

/// Streams a database's log into a checksummed archive, and gives the database back as it
/// stood at an exact moment.
#[derive(Debug, Parser)]
#[command(name = "pitr", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the whole thing on a throwaway server: archive, drop a table, restore it
    Demo(demo::Args),
    /// Make an archive: check the store and record which database it is for
    Init(init::Args),
    /// Look at configuration, connection, privileges, slot and store; one line each, with the cure
    Check(check::Args),
    /// Stream the log into the archive (the sidecar)
    #[command(visible_alias = "receive-wal")]
    Archive(archive::Args),
    /// Take a base backup now
    Backup(backup::Args),
    /// List base backups, recoverable windows and gaps
    #[command(visible_aliases = ["info", "backup-list"])]
    List(list::Args),
    /// How archive and source stand now
    Status(status::Args),
    /// Say exactly what a restore would do, and do nothing
    Plan(plan::Args),
    /// Give the database back as it stood at a moment
    Restore(restore::Args),
    /// Serve the archive as a replication source (MySQL and MariaDB)
    Serve(serve::Args),
    /// Fetch one WAL file or history, for restore_command: `pitr wal-fetch %f "%p"`
    #[command(visible_alias = "archive-get")]
    WalFetch(wal_fetch::Args),
    /// Store one WAL file or history, for archive_command: `pitr wal-push "%p"`
    #[command(visible_alias = "archive-push")]
    WalPush(wal_push::Args),
    /// Write the archived log as the server's own files, byte for byte
    Export(export::Args),
    /// Prove that the archive is whole
    Verify(verify::Args),
    /// Copy to one store what it lacks of another's archive: a mirror, or what fell behind
    Copy(copy::Args),
    /// Make, check and rotate the keys of encrypted archives
    Key(key::Args),
    /// Print the statements that give a role what archiving needs
    Grants(meta::GrantsArgs),
    /// Print a shell completion script
    Completions(meta::CompletionsArgs),
    /// Print the manual page
    Man,
}

/// Parses the arguments, does what they say, prints one error if there is one.
#[must_use]
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let fetching = arguments.iter().skip(1).any(|a| a == "wal-fetch" || a == "archive-get");
    guarded(fetching, || obey(arguments, fetching))
}

/// Ends a panic with an exit code of ours: Rust's own, 101, is one that PostgreSQL takes
/// for the end of the log.
fn guarded(fetching: bool, work: impl FnOnce() -> ExitCode) -> ExitCode {
    // What the work held is gone with it; the panic was printed where it happened.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| ExitCode::from(fetch_code(Kind::Failure, fetching)))
}

fn obey(arguments: Vec<OsString>, fetching: bool) -> ExitCode {
    let cli = match command().try_get_matches_from(arguments).and_then(|m| Cli::from_arg_matches(&m)) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let asked_for = !error.use_stderr();
            return ExitCode::from(if asked_for { 0 } else { fetch_code(Kind::Usage, fetching) });
        }
    };
    output::start_logging(&cli.global);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Error::failure("cannot start").because(error), fetching),
    };
    let result = runtime.block_on(run(cli));
    // A blocking read of a dead disk must not hold up the exit.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => fail(&error, fetching),
    }
}

fn fail(error: &Error, fetching: bool) -> ExitCode {
    output::print_error(error);
    ExitCode::from(fetch_code(error.kind(), fetching))
}

/// PostgreSQL takes 1 to 125 from a `restore_command` for "there is no such file", which
/// ends recovery: `wal-fetch` says 1 only when that is proven.
fn fetch_code(kind: Kind, fetching: bool) -> u8 {
    if fetching && kind != Kind::Absent { 126 } else { kind.exit_code() }
}

async fn run(cli: Cli) -> Result<ExitCode> {
    let settings = Settings::resolve(&cli.global)?;
    match cli.verb {
        Verb::Demo(args) => demo::run(&settings, &args).await,
        Verb::Init(args) => init::run(&settings, &args).await,
        Verb::Check(args) => check::run(&settings, &args).await,
        Verb::Archive(args) => archive::run(&settings, &args).await,
        Verb::Backup(args) => backup::run(&settings, &args).await,
        Verb::List(args) => list::run(&settings, &args).await,
        Verb::Status(args) => status::run(&settings, &args).await,
        Verb::Plan(args) => plan::run(&settings, &args).await,
        Verb::Restore(args) => restore::run(&settings, &args).await,
        Verb::Serve(args) => serve::run(&settings, &args).await,
        Verb::WalFetch(args) => wal_fetch::run(&settings, &args).await,
        Verb::WalPush(args) => wal_push::run(&settings, &args).await,
        Verb::Export(args) => export::run(&settings, &args).await,
        Verb::Verify(args) => verify::run(&settings, &args).await,
        Verb::Copy(args) => copy::run(&settings, &args).await,
        Verb::Key(args) => key::run(&settings, &args).await,
        Verb::Grants(args) => meta::grants(&settings, &args),
        Verb::Completions(args) => meta::completions(&args),
        Verb::Man => meta::man(),
    }
}

fn command() -> clap::Command {
    // The one verb that can do without a target.
    Cli::command().mut_subcommand("serve", |serve| serve.mut_group("PointArgs", |group| group.required(false)))
}

/// An opened archive with the engine of its database.
struct Opened {
    archive: Archive,
    engine: Arc<dyn Engine>,
}

impl Opened {
    /// To read from.
    async fn open(settings: &Settings) -> Result<Self> {
        Self::at(settings.store()?, settings).await
    }

    async fn at(store: Arc<dyn Store>, settings: &Settings) -> Result<Self> {
        if let Some(root) = store.local_root()
            && !root.exists()
        {
            return Err(Error::new(
                Kind::NoArchive,
                format!("there is no archive: directory {} is not there", root.display()),
            )
            .hint("is --store mistyped, or its disk not mounted? `pitr init` makes a new archive"));
        }
        Self::of(Archive::open(store, &settings.cluster, &settings.keys()?).await?)
    }

    fn of(archive: Archive) -> Result<Self> {
        let engine: Arc<dyn Engine> = Arc::from(engine::by_name(&archive.identity.engine)?);
        Ok(Self { archive, engine })
    }

    /// What the archive holds; damaged objects are told on standard error.
    async fn catalog(&self) -> Result<Catalog> {
        let catalog = self.archive.catalog(self.engine.as_ref()).await?;
        catalog.damaged().for_each(Damaged::warn);
        Ok(catalog)
    }

    /// Where an offset lies, as people look it up on the server.
    async fn place(&self, catalog: &Catalog, timeline: TimelineId, offset: Offset) -> String {
        place_at(&self.archive, self.engine.as_ref(), catalog, [timeline], offset).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_never_the_end_of_the_log() {
        assert_eq!(guarded(true, || panic!("a fault of ours")), ExitCode::from(126));
        assert_eq!(guarded(false, || panic!("a fault of ours")), ExitCode::from(Kind::Failure.exit_code()));
        for fetching in [true, false] {
            assert_eq!(guarded(fetching, || ExitCode::from(1)), ExitCode::from(1), "an absence stays one");
        }
    }
}
