//! Footers of many closed segments into few indexes, for whoever plans.

use std::collections::HashMap;

use bytes::Bytes;

use crate::catalog::archive::Archive;
use crate::catalog::index::{self, Due, Index, Indexed};
use crate::catalog::layout::ObjectName;
use crate::catalog::load::{Known, past_indexes};
use crate::catalog::{SegmentInfo, TimelineLog};
use crate::error::{Error, Kind, Result};
use crate::model::summary::Summary;
use crate::model::timeline::TimelineId;
use crate::store::Part;

/// Largest index that is kept in memory to be merged. Larger ones are read again, which is seldom.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// Rolls one timeline's footers up, by the hand of one writer. What it has seen it does not ask the store for again.
#[derive(Default)]
pub struct RollUp {
    /// The log past the indexes.
    seen: Option<TimelineLog>,
    /// The indexes it made that are to be merged, as they are in the store.
    bodies: HashMap<Indexed, Bytes>,
}

impl RollUp {
    /// Rolls up what is due, `made` included: segments that have been stored since the last time.
    ///
    /// # Errors
    /// From the store; it may be called again with the same segments.
    pub async fn go_on(
        &mut self,
        archive: &Archive,
        timeline: TimelineId,
        epoch: u32,
        made: &[(SegmentInfo, Summary)],
    ) -> Result<()> {
        let mut log = match self.seen.take() {
            Some(mut log) => {
                made.iter().for_each(|(segment, summary)| add(&mut log, segment, summary));
                log
            }
            None => {
                let name = |segment| archive.object_of(timeline, segment);
                let known: Known = made.iter().map(|(segment, summary)| (name(segment), Ok(summary.clone()))).collect();
                past_indexes(archive.store.as_ref(), &archive.layout, &archive.identity, timeline, &known).await?
            }
        };
        while let Some(due) = index::due(&log, archive.identity.log_file_bytes) {
            if !self.make(archive, timeline, epoch, &mut log, due).await? {
                return Ok(());
            }
        }
        self.seen = Some(log);
        Ok(())
    }

    /// Forgets what it has seen: there are segments of which it was not told.
    pub fn forget(&mut self) {
        self.seen = None;
    }

    /// Makes one index. Whether it could.
    async fn make(
        &mut self,
        archive: &Archive,
        timeline: TimelineId,
        epoch: u32,
        log: &mut TimelineLog,
        due: Due,
    ) -> Result<bool> {
        let (level, index, parts) = match due {
            Due::Narrow(range) => (0, Index::of(log, timeline, range, epoch), Vec::new()),
            Due::Wider(parts) => {
                let index = match self.merged(archive, timeline, epoch, &parts).await {
                    Err(error) if error.kind() == Kind::Corruption => {
                        tracing::error!(%error, hint = error.advice(), "indexes are not merged, and streaming goes on");
                        return Ok(false);
                    }
                    read => read?,
                };
                (parts.first().map_or(0, |part| part.level) + 1, index, parts)
            }
        };
        let indexed = Indexed { level, range: index.range, epoch };
        let body = Bytes::from(index.encode(archive.layout.cluster())?);
        let name = archive.layout.name(&ObjectName::Index { timeline, index: indexed });
        match archive.store.create(&name, vec![body.clone()]).await {
            // One of ours, damaged: an index only makes planning faster.
            Err(error) if error.kind() == Kind::Fenced => {
                tracing::error!(%error, "an index is damaged, and streaming goes on; see `pitr verify`");
                return Ok(false);
            }
            created => created?,
        };
        parts.iter().for_each(|part| drop(self.bodies.remove(part)));
        if body.len() <= KEPT_BYTES_MAX {
            self.bodies.insert(indexed, body);
        }
        let at = log.indexes.iter().position(|one| parts.contains(one)).unwrap_or(log.indexes.len());
        log.indexes.retain(|one| !parts.contains(one));
        log.indexes.insert(at, indexed);
        let end = log.indexes.last().map_or(indexed.range.end, |last| last.range.end);
        log.segments.retain(|segment| segment.range.start >= end);
        log.restore_points.retain(|point| point.end > end);
        log.touched.retain(|start, _| *start >= end);
        Ok(true)
    }

    async fn merged(&self, archive: &Archive, timeline: TimelineId, epoch: u32, parts: &[Indexed]) -> Result<Index> {
        let mut read = Vec::new();
        for part in parts {
            let name = archive.layout.name(&ObjectName::Index { timeline, index: *part });
            let bytes =
                match self.bodies.get(part) {
                    Some(made) => made.clone(),
                    None => archive.store.get(&name, Part::All).await?.ok_or_else(|| {
                        Error::corruption(format!("{name} is missing from {}", archive.store.location()))
                    })?,
                };
            read.push(Index::decode(&name, archive.layout.cluster(), timeline, *part, &bytes)?);
        }
        Index::merged(read, epoch).ok_or_else(|| Error::failure("no indexes to merge"))
    }
}

/// Adds a segment at the end of the log, in the place of those that it hides.
fn add(log: &mut TimelineLog, segment: &SegmentInfo, summary: &Summary) {
    let range = segment.range;
    log.segments.retain(|hidden| !range.covers(hidden.range));
    log.segments.push(*segment);
    log.restore_points.retain(|point| point.end <= range.start || range.end < point.end);
    log.restore_points.extend(summary.restore_points.iter().cloned());
    log.touched.retain(|start, _| !range.contains(*start));
    if !summary.changes.is_empty() {
        log.touched.insert(range.start, summary.changes.touched().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Holder;
    use crate::catalog::index::{MERGE, NARROW};
    use crate::model::offset::{Offset, OffsetRange};
    use crate::segment::codec::Compression;
    use crate::stream::writer::tests::{Place, T1, log};

    const FILE: u64 = 100;

    async fn make(place: &Place, start: u64, end: u64) -> (SegmentInfo, Summary) {
        let summary = Summary {
            range: OffsetRange::new(Offset(start), Offset(end)),
            ..Summary::empty(Offset(start), Offset(end))
        };
        place.archive.create_segment(T1, &log(start, end), &summary, 1, Compression::Lz4).await.unwrap();
        (SegmentInfo::of(&summary, 1, Holder::Segment(Compression::Lz4.codec())), summary)
    }

    async fn indexes(place: &Place) -> Vec<Indexed> {
        let Archive { store, layout, identity, .. } = &place.archive;
        past_indexes(store.as_ref(), layout, identity, T1, &Known::new()).await.unwrap().indexes
    }

    /// Whoever goes on with what it has seen makes the indexes that somebody makes who reads the store each time, small
    /// segments among them, which others hide.
    #[tokio::test]
    async fn what_was_seen_is_rolled_up_as_what_is_read() {
        let (one, other) = (Place::new(), Place::new());
        let mut goes_on = RollUp::default();
        let mut made = Vec::new();
        for file in 0..(NARROW * MERGE + NARROW) as u64 {
            let start = file * FILE;
            for place in [&one, &other] {
                let parts = [make(place, start, start + 50).await, make(place, start, start + FILE).await];
                if std::ptr::eq(place, &one) {
                    made.extend(parts);
                }
            }
            goes_on.go_on(&one.archive, T1, 1, &made).await.unwrap();
            // As after an error, when nobody knows whether it was done.
            if file == 20 {
                goes_on.forget();
            } else {
                made.clear();
            }
            RollUp::default().go_on(&other.archive, T1, 1, &[]).await.unwrap();
        }
        let found = indexes(&one).await;
        assert_eq!(found, indexes(&other).await);
        assert_eq!(found.iter().map(|index| index.level).collect::<Vec<_>>(), [1, 0]);
        let name = one.archive.layout.name(&ObjectName::Index { timeline: T1, index: found[0] });
        let read = async |place: &Place| place.archive.store.get(&name, Part::All).await.unwrap().unwrap();
        assert_eq!(read(&one).await, read(&other).await);
    }
}
