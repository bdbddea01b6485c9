//! How far each of several stores is.

use std::sync::Arc;

use serde::Serialize;

use crate::catalog::archive::Archive;
use crate::cli::output;
use crate::engine::Engine;
use crate::error::Result;
use crate::model::offset::Offset;
use crate::model::timeline::TimelineId;
use crate::store::Store;

/// One of several stores.
#[derive(Serialize)]
pub(super) struct StoreStatus {
    store: String,
    timeline: Option<u32>,
    archived_to: Option<String>,
    /// How much log another store has behind that; none, if that is of a later timeline.
    behind_bytes: Option<u64>,
    error: Option<String>,
}

/// Asks each of `stores` by itself, at the same time.
pub(super) async fn stores(archive: &Archive, engine: &dyn Engine, stores: Vec<Arc<dyn Store>>) -> Vec<StoreStatus> {
    let ends = futures_util::future::join_all(stores.iter().map(|store| end(archive, engine, store))).await;
    let farthest = ends.iter().flatten().copied().max().flatten();
    let told = stores.iter().zip(ends).map(|(store, end)| {
        let (at, error) = match end {
            Ok(at) => (at, None),
            Err(error) => (None, Some(error.to_string())),
        };
        let behind = farthest.and_then(|(timeline, farthest)| match at {
            Some((own, end)) => (own == timeline).then(|| farthest.since(end)),
            None => None,
        });
        StoreStatus {
            store: store.location(),
            timeline: at.map(|(timeline, _)| timeline.0),
            archived_to: at.map(|(_, end)| engine.position(end).to_string()),
            behind_bytes: behind,
            error,
        }
    });
    told.collect()
}

/// Where a store's unbroken log ends.
async fn end(archive: &Archive, engine: &dyn Engine, store: &Arc<dyn Store>) -> Result<Option<(TimelineId, Offset)>> {
    let own = Archive { store: Arc::clone(store), ..archive.clone() };
    let catalog = own.catalog(engine).await?;
    let newest = catalog.newest_timeline().and_then(|timeline| catalog.timelines.get_key_value(&timeline));
    Ok(newest.and_then(|(timeline, log)| Some((*timeline, log.unbroken()?.1))))
}

pub(super) fn text(stores: &[StoreStatus]) -> String {
    let line = |status: &StoreStatus| {
        let how = match (&status.error, &status.archived_to, status.behind_bytes) {
            (Some(error), _, _) => format!("does not answer: {error}"),
            (None, None, _) => "no log".to_owned(),
            (None, Some(to), Some(0)) => format!("to {to}"),
            (None, Some(to), Some(bytes)) => format!("to {to}, behind by {}", output::size(bytes)),
            (None, Some(to), None) => format!("to {to}, behind by a timeline"),
        };
        format!("store             {}: {how}\n", status.store)
    };
    stores.iter().map(line).collect()
}
