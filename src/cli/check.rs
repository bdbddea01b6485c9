//! `pitr check`: is everything as it must be; one line each, with the cure.

use std::process::ExitCode;

use serde::Serialize;

use super::Opened;
use super::archive::source_options;
use super::output;
use super::settings::{Settings, SlotArgs};
use crate::catalog::archive::Archive;
use crate::catalog::damage::Damaged;
use crate::catalog::layout::Layout;
use crate::engine::{self, Finding, Level};
use crate::error::{Error, Kind, Result};
use crate::plan::{self, Refusal};
use crate::store::probe::{probe, recorded};

/// Options of `pitr check`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Exit codes and one line as monitoring plugins give them
    #[arg(long)]
    nagios: bool,
    #[command(flatten)]
    slot: SlotArgs,
}

#[derive(Serialize)]
struct Document {
    ok: bool,
    findings: Vec<Shown>,
}

#[derive(Serialize)]
struct Shown {
    subject: String,
    level: &'static str,
    message: String,
    cure: Option<String>,
}

/// Looks at everything and prints what it found. The worst finding decides the exit code.
pub(super) async fn run(settings: &Settings, args: &Args) -> Result<ExitCode> {
    let mut findings = vec![configuration(settings)];
    let mut worst_kind = Kind::Config;
    let archive = match look_at_store(settings, &mut findings).await {
        Ok(archive) => archive,
        Err(error) => {
            worst_kind = error.kind();
            findings.push(critical("store", &error));
            None
        }
    };
    if let Some(archive) = &archive
        && let Err(error) = look_at_archive(archive, &mut findings).await
    {
        worst_kind = error.kind();
        findings.push(critical("restorable", &error));
    }
    let slot = settings.slot(&args.slot);
    if let Err(error) = look_at_source(settings, slot, archive.as_ref(), &mut findings).await {
        worst_kind = error.kind();
        // A server that cannot be reached was found out before: once is enough.
        if !findings.iter().any(|finding| finding.subject == "connection" && finding.level == Level::Critical) {
            findings.push(critical("source", &error));
        }
    }
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    if settings.json {
        output::print_json(&Document { ok: worst != Level::Critical, findings: findings.iter().map(shown).collect() })?;
    } else if args.nagios {
        output::print(&nagios(&findings, worst))?;
    } else {
        output::print(&findings.iter().map(line).collect::<String>())?;
    }
    Ok(match worst {
        _ if args.nagios => ExitCode::from(worst as u8),
        Level::Ok | Level::Warning => ExitCode::SUCCESS,
        Level::Critical => ExitCode::from(worst_kind.exit_code()),
    })
}

fn ok(subject: &str, message: String) -> Finding {
    Finding { subject: subject.into(), level: Level::Ok, message, cure: None }
}

fn critical(subject: &str, error: &Error) -> Finding {
    Finding {
        subject: subject.into(),
        level: Level::Critical,
        message: error.to_string(),
        cure: error.advice().map(str::to_owned),
    }
}

fn configuration(settings: &Settings) -> Finding {
    let from = settings.file.as_ref().map_or_else(|| "flags and environment".into(), |file| file.display().to_string());
    ok("configuration", format!("cluster {} from {from}", settings.cluster))
}

/// What the store guarantees. Gives the archive in it, if there is one.
async fn look_at_store(settings: &Settings, findings: &mut Vec<Finding>) -> Result<Option<Archive>> {
    for store in settings.stores()? {
        let layout = Layout::new(settings.cluster.clone());
        let before = recorded(store.as_ref(), &layout.probes()).await?;
        let found = probe(store.as_ref(), &layout.probes()).await?;
        if let Some((when, before)) = before.filter(|(_, before)| before.fences() && !found.fences()) {
            findings.push(Finding {
                subject: "store".into(),
                level: Level::Critical,
                message: format!("{} kept two archivers apart at {when}, and does not any more", before.store),
                cure: Some(
                    "was the service exchanged, or its version? see to it that one archiver only writes there".into(),
                ),
            });
        }
        let short = found.shortcomings();
        if short.is_empty() {
            let all = std::iter::once("creates once, reads back what was written".to_owned()).chain(found.remarks());
            findings.push(ok("store", format!("{}: {}", store.location(), all.collect::<Vec<_>>().join(", "))));
        } else {
            findings.push(Finding {
                subject: "store".into(),
                level: if found.fences() || found.remote { Level::Warning } else { Level::Critical },
                message: format!("{}: {}", store.location(), short.join("; ")),
                cure: Some(found.cure().into()),
            });
        }
    }
    match Archive::open(settings.store()?, &settings.cluster, &settings.keys()?).await {
        Ok(archive) => {
            findings.push(ok("archive", format!("of {} system {}", archive.identity.engine, archive.identity.system)));
            Ok(Some(archive))
        }
        Err(error) if error.kind() == Kind::NoArchive => {
            findings.push(Finding {
                subject: "archive".into(),
                level: Level::Warning,
                message: error.to_string(),
                cure: Some("`pitr init`, or the first `pitr archive`, makes it".into()),
            });
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What can be restored. The error says what cannot.
async fn look_at_archive(archive: &Archive, findings: &mut Vec<Finding>) -> Result<()> {
    let catalog = Opened::of(archive.clone())?.catalog().await?;
    let damaged: Vec<&Damaged> = catalog.damaged().collect();
    if let Some(first) = damaged.first() {
        let others = if damaged.len() > 1 { format!(", and {} more", damaged.len() - 1) } else { String::new() };
        return Err(Error::corruption(format!("{}{others}", first.problem)).hint(first.advice.clone()));
    }
    let Some(timeline) = catalog.newest_timeline() else {
        findings.push(Finding {
            subject: "restorable".into(),
            level: Level::Warning,
            message: "nothing is archived yet".into(),
            cure: Some("start `pitr archive`".into()),
        });
        return Ok(());
    };
    if catalog.lacks_base() {
        return Err(Error::new(
            Kind::NotRecoverable,
            "no base backup leads to the present: the latest log restores from none",
        )
        .hint("take one with `pitr backup`; `pitr archive` takes the first by itself"));
    }
    let windows = plan::windows(&catalog, timeline).map_err(Refusal::into_error)?;
    findings.push(match windows.last() {
        Some(window) => ok("restorable", format!("{} to {}", window.from, window.to)),
        None => Finding {
            subject: "restorable".into(),
            level: Level::Warning,
            message: "no moment yet: the log that the base backup needs is not archived, or no later one is known to be complete"
                .into(),
            cure: Some("does `pitr archive` run? see `pitr status`".into()),
        },
    });
    Ok(())
}

async fn look_at_source(
    settings: &Settings,
    slot: String,
    archive: Option<&Archive>,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let url = settings.source()?;
    let engine = engine::by_url(url)?;
    findings.extend(engine.inspect(url, &source_options(Some(slot))).await?);
    let server = engine.connect(url, &source_options(None)).await?.identify().await?;
    if let Some(archive) = archive {
        archive.check_identity(&server.identity)?;
        findings.push(ok("identity", "the archive is of this database".into()));
    }
    Ok(())
}

const fn word(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::Warning => "warning",
        Level::Critical => "critical",
    }
}

fn shown(finding: &Finding) -> Shown {
    Shown {
        subject: finding.subject.clone(),
        level: word(finding.level),
        message: finding.message.clone(),
        cure: finding.cure.clone(),
    }
}

fn line(finding: &Finding) -> String {
    let cure = finding.cure.as_ref().map_or_else(String::new, |cure| format!("\n{:26}cure: {cure}", ""));
    format!("{:9} {:15} {}{cure}\n", word(finding.level), finding.subject, finding.message)
}

fn nagios(findings: &[Finding], worst: Level) -> String {
    let bad: Vec<String> =
        findings.iter().filter(|f| f.level == worst).map(|f| format!("{}: {}", f.subject, f.message)).collect();
    let said = if worst == Level::Ok { format!("{} checks passed", findings.len()) } else { bad.join("; ") };
    format!("PITR {} - {}\n", word(worst).to_uppercase(), said.replace(['\n', '|'], " "))
}
