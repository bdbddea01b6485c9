//! Footers of many closed segments into few indexes, for whoever plans.

use bytes::Bytes;

use crate::catalog::archive::Archive;
use crate::catalog::index::{self, Index};
use crate::catalog::layout::ObjectName;
use crate::engine::Engine;
use crate::error::{Kind, Result};
use crate::model::offset::Offset;
use crate::model::timeline::TimelineId;
use crate::store::ObjectInfo;

/// The offset up to which indexes tell what there is.
///
/// # Errors
/// When the store cannot be read.
pub async fn indexed(archive: &Archive, timeline: TimelineId) -> Result<Offset> {
    let mut end = Offset::ZERO;
    let mut see = |object: ObjectInfo| {
        if let Some(ObjectName::Index { range, .. }) = archive.layout.parse(&object.name) {
            end = end.max(range.end);
        }
    };
    archive.store.list(&archive.layout.index(timeline), None, true, &mut see).await?;
    Ok(end)
}

/// Rolls footers up into indexes, as many as are due.
///
/// # Errors
/// From the store.
pub async fn roll_up(archive: &Archive, engine: &dyn Engine, timeline: TimelineId, epoch: u32) -> Result<()> {
    let mut catalog = archive.catalog(engine).await?;
    let Some(log) = catalog.timelines.get_mut(&timeline) else { return Ok(()) };
    while let Some(range) = index::due(log) {
        let rolled = Index::of(log, timeline, range, epoch);
        let body = Bytes::from(rolled.encode(archive.layout.cluster())?);
        let name = archive.layout.name(&ObjectName::Index { timeline, range, epoch });
        match archive.store.create(&name, vec![body]).await {
            // One of ours, damaged: an index only makes planning faster.
            Err(error) if error.kind() == Kind::Fenced => {
                tracing::error!(%error, "an index is damaged, and streaming goes on; see `pitr verify`");
                return Ok(());
            }
            created => created?,
        };
        log.indexes.retain(|narrow| !range.covers(*narrow));
        log.indexes.push(range);
    }
    Ok(())
}
