//! Footers of many closed segments into few indexes, for whoever plans.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::catalog::TimelineLog;
use crate::catalog::archive::Archive;
use crate::catalog::index::{self, Index};
use crate::catalog::layout::ObjectName;
use crate::catalog::load::Known;
use crate::engine::Engine;
use crate::error::{Kind, Result};
use crate::model::offset::{Offset, OffsetRange};
use crate::model::timeline::TimelineId;
use crate::store::{ObjectInfo, Part};

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

/// Rolls footers up into indexes, as many as are due. Those that are `known` are not read.
///
/// # Errors
/// From the store.
pub async fn roll_up(
    archive: &Archive,
    engine: &dyn Engine,
    timeline: TimelineId,
    epoch: u32,
    known: &Known,
) -> Result<()> {
    let mut log = archive.timeline_log(engine, timeline, known).await?;
    while let Some(range) = index::due(&log, archive.identity.log_file_bytes) {
        tell_touched(archive, timeline, range, &mut log).await?;
        let rolled = Index::of(&log, timeline, range, epoch);
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
        log.touched.retain(|start, _| !range.contains(*start));
    }
    Ok(())
}

/// Adds which tables the segments in `range` change, where narrower indexes tell: whoever plans has no
/// use for that, and did not keep it.
async fn tell_touched(
    archive: &Archive,
    timeline: TimelineId,
    range: OffsetRange,
    log: &mut TimelineLog,
) -> Result<()> {
    let mut narrow: BTreeMap<OffsetRange, u32> = BTreeMap::new();
    let mut see = |object: ObjectInfo| {
        if let Some(ObjectName::Index { range: of, epoch, .. }) = archive.layout.parse(&object.name)
            && range.covers(of)
            && log.indexes.contains(&of)
        {
            let newest = narrow.entry(of).or_default();
            *newest = epoch.max(*newest);
        }
    };
    if log.indexes.iter().any(|narrow| range.covers(*narrow)) {
        archive.store.list(&archive.layout.index(timeline), None, true, &mut see).await?;
    }
    for (range, epoch) in narrow {
        let name = archive.layout.name(&ObjectName::Index { timeline, range, epoch });
        let Some(bytes) = archive.store.get(&name, Part::All).await? else { continue };
        let index = Index::decode(&name, archive.layout.cluster(), (timeline, range, epoch), &bytes)?;
        log.touched.extend(index.segments.iter().map(|segment| segment.range.start).zip(index.touched));
    }
    Ok(())
}
