//! `pitr init`: makes an archive.

use std::process::ExitCode;

use serde::Serialize;

use super::archive::source_options;
use super::output;
use super::settings::Settings;
use crate::catalog::archive::Archive;
use crate::catalog::layout::Layout;
use crate::engine;
use crate::error::{Error, Result};
use crate::model::cluster::Identity;
use crate::store::probe::{ProbeReport, probe};

/// Options of `pitr init`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

#[derive(Serialize)]
struct Document<'a> {
    store: String,
    cluster: &'a str,
    identity: &'a Identity,
    probe: &'a ProbeReport,
}

/// Probes the store and records which database the archive is of.
pub(super) async fn run(settings: &Settings, _: &Args) -> Result<ExitCode> {
    let store = settings.make_store()?;
    let url = settings.source()?;
    let engine = engine::by_url(url)?;
    let server = engine.connect(url, &source_options(None)).await?.identify().await?;
    let layout = Layout::new(settings.cluster.clone());
    let found = probe(store.as_ref(), &layout.probes()).await?;
    if !found.fences() {
        let why = found.shortcomings().join("; ");
        let what = format!("{} cannot keep two archivers apart: {why}", store.location());
        if !found.remote {
            return Err(Error::config(what).hint(found.cure()));
        }
        // Many services are so, and one archiver alone needs no keeping apart.
        tracing::warn!(hint = found.cure(), "{what}");
    }
    let archive = Archive::open_or_create(store, &settings.cluster, &server.identity, &settings.keys()?).await?;
    if settings.json {
        output::print_json(&Document {
            store: archive.store.location(),
            cluster: settings.cluster.as_str(),
            identity: &archive.identity,
            probe: &found,
        })?;
    } else {
        output::print(&format!(
            "archive of cluster {} is ready in {}\n{} {} system {}\nnext: pitr archive\n",
            settings.cluster,
            archive.store.location(),
            archive.identity.engine,
            server.version,
            archive.identity.system,
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
