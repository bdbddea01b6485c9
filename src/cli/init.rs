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
use crate::store::Store;
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
    /// What was found of each of several stores.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    probes: Vec<ProbeReport>,
}

/// Probes the stores and records which database the archive is of.
pub(super) async fn run(settings: &Settings, _: &Args) -> Result<ExitCode> {
    let stores = settings.make_stores()?;
    let url = settings.source()?;
    let engine = engine::by_url(url)?;
    let server = engine.connect(url, &source_options(None)).await?.identify().await?;
    let layout = Layout::new(settings.cluster.clone());
    let mut probes = Vec::new();
    for store in &stores {
        probes.push(try_out(store.as_ref(), &layout).await?);
    }
    let keys = settings.keys()?;
    for store in stores {
        Archive::open_or_create(store, &settings.cluster, &server.identity, &keys).await?;
    }
    let archive = Archive::open(settings.store()?, &settings.cluster, &keys).await?;
    let Some(first) = probes.first().cloned() else { return Ok(ExitCode::SUCCESS) };
    if settings.json {
        output::print_json(&Document {
            store: archive.store.location(),
            cluster: settings.cluster.as_str(),
            identity: &archive.identity,
            probe: &first,
            probes: if probes.len() > 1 { probes } else { Vec::new() },
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

/// What a store guarantees. One that cannot keep two archivers apart is told of, or refused where that need not be.
async fn try_out(store: &dyn Store, layout: &Layout) -> Result<ProbeReport> {
    let found = probe(store, &layout.probes()).await?;
    if !found.fences() {
        let why = found.shortcomings().join("; ");
        let what = format!("{} cannot keep two archivers apart: {why}", store.location());
        if !found.remote {
            return Err(Error::config(what).hint(found.cure()));
        }
        // Many services are so, and one archiver alone needs no keeping apart.
        tracing::warn!(hint = found.cure(), "{what}");
    }
    Ok(found)
}
