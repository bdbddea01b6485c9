//! Verbs about pitr itself: `grants`, `completions`, `man`.

use std::process::ExitCode;

use super::settings::Settings;
use super::{command, output};
use crate::engine;
use crate::error::{Error, Result};

/// Options of `pitr grants`.
#[derive(Debug, clap::Args)]
pub(super) struct GrantsArgs {
    /// The role that pitr connects as
    #[arg(default_value = "pitr", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    user: String,
}

/// Options of `pitr completions`.
#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: clap_complete::Shell,
}

/// Prints what a database administrator has to run.
pub(super) fn grants(settings: &Settings, args: &GrantsArgs) -> Result<ExitCode> {
    let engine = engine::by_url(settings.source_if_any().unwrap_or("postgres://"))?;
    output::print(&engine.grants(&args.user))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints a completion script.
pub(super) fn completions(args: &CompletionsArgs) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "pitr", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the manual page, verbs included.
pub(super) fn man() -> Result<ExitCode> {
    let failed = |e| Error::failure("cannot write the manual page").because(e);
    let mut page = Vec::new();
    let whole = command();
    clap_mangen::Man::new(whole.clone()).render(&mut page).map_err(failed)?;
    for verb in whole.get_subcommands() {
        let name = format!("pitr-{}", verb.get_name());
        clap_mangen::Man::new(verb.clone().name(name)).render(&mut page).map_err(failed)?;
    }
    output::print(&String::from_utf8_lossy(&page))?;
    Ok(ExitCode::SUCCESS)
}
