//! `pitr init`: makes an archive.

use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;

use super::archive::source_options;
use super::output;
use super::settings::Settings;
use crate::catalog::archive::Archive;
use crate::catalog::layout::Layout;
use crate::engine;
use crate::error::{Error, Result};
use crate::model::cluster::Identity;
use crate::model::time::{Clock as _, SystemClock};
use crate::store::Store;
use crate::store::probe::{ProbeReport, probe, record};

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
    let mut identity = server.identity;
    for (store, found) in stores.into_iter().zip(&probes) {
        let made = Archive::open_or_create(Arc::clone(&store), &settings.cluster, &identity, &keys).await?;
        identity = made.identity;
        record(store.as_ref(), &layout.probes(), SystemClock.now(), found).await?;
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
        let mut text = format!("archive of cluster {} is ready in {}\n", settings.cluster, archive.store.location());
        for found in probes.iter().filter(|found| !found.remarks().is_empty()) {
            text.push_str(&format!("{}: {}\n", found.store, found.remarks().join(", ")));
        }
        text.push_str(&format!(
            "{} {} system {}\nnext: pitr archive\n",
            archive.identity.engine, server.version, archive.identity.system,
        ));
        output::print(&text)?;
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
