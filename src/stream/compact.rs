//! One segment per log file instead of many small ones.
//!
//! Small segments come from a remote store's `flush_interval` and from restarts in the
//! middle of a log file. When the file is through, segments as large as they may be are
//! made from them. The small ones stay until they expire: a wider segment hides those
//! it covers, so that a reader who listed the small ones still finds them.

use crate::catalog::archive::Archive;
use crate::catalog::layout::ObjectName;
use crate::catalog::{Holder, SegmentInfo};
use crate::error::{Error, Result};
use crate::model::summary::Summary;
use crate::model::timeline::TimelineId;
use crate::segment::codec::Compression;
use crate::segment::cutter::Limits;
use crate::segment::read::decode_to_vec;
use crate::segment::write::SegmentWriter;
use crate::store::Part;

/// Replaces `parts`, consecutive segments of one log file, by as few as `limits` allow.
/// Gives the segments it made.
///
/// # Errors
/// [`crate::Kind::Corruption`] when a part is missing or is not what was written.
pub async fn compact(
    archive: &Archive,
    timeline: TimelineId,
    parts: &[SegmentInfo],
    limits: &Limits,
    epoch: u32,
    compression: Compression,
) -> Result<Vec<SegmentInfo>> {
    let mut made = Vec::new();
    let mut rest = parts;
    while let Some(first) = rest.first() {
        let end = limits.end_of(first.range.start);
        let count = rest.iter().take_while(|part| part.range.end <= end).count().max(1);
        let (group, after) = rest.split_at(count);
        rest = after;
        if group.len() > 1 {
            made.push(join(archive, timeline, group, epoch, compression).await?);
        }
    }
    Ok(made)
}

async fn join(
    archive: &Archive,
    timeline: TimelineId,
    group: &[SegmentInfo],
    epoch: u32,
    compression: Compression,
) -> Result<SegmentInfo> {
    let Some(first) = group.first() else { return Err(Error::failure("nothing to compact")) };
    let mut writer = SegmentWriter::new(archive.header(timeline, first.range.start, epoch), compression);
    let mut joined: Option<Summary> = None;
    for part in group {
        let name = archive.object_of(timeline, part);
        let object = archive
            .store
            .get(&name, Part::All)
            .await?
            .ok_or_else(|| Error::corruption(format!("{name} is missing from {}", archive.store.location())))?;
        let (footer, raw) = decode_to_vec(&name, &archive.expected(timeline, part.range, part.epoch), &object)?;
        writer.write(&raw);
        joined = Some(match joined {
            None => footer.summary,
            Some(before) => before.followed_by(footer.summary)?,
        });
    }
    let Some(summary) = joined else { return Err(Error::failure("nothing to compact")) };
    let finished = writer.finish(&summary)?;
    let holder = Holder::Segment(finished.codec);
    let object = ObjectName::Segment { timeline, range: summary.range, epoch, codec: finished.codec };
    archive.store.create(&archive.layout.name(&object), finished.body).await?;
    Ok(SegmentInfo::of(&summary, epoch, holder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::writer::tests::{Place, T1, log, range};

    #[tokio::test]
    async fn segments_are_joined_up_to_the_largest_size_and_a_lone_one_is_left() {
        let place = Place::new();
        let mut parts = Vec::new();
        for (start, end) in [(0, 20), (20, 30), (30, 50), (50, 100), (100, 130), (130, 140)] {
            let summary =
                Summary { range: range(start, end), ..Summary::empty(range(start, end).start, range(start, end).end) };
            place.archive.create_segment(T1, &log(start, end), &summary, 1, Compression::Lz4).await.unwrap();
            parts.push(SegmentInfo::of(&summary, 1, Holder::Segment(Compression::Lz4.codec())));
        }
        let limits = Limits { log_file_bytes: 100, segment_bytes: 50, flush_interval_micros: None };
        let made = compact(&place.archive, T1, &parts, &limits, 2, Compression::Lz4).await.unwrap();
        assert_eq!(made.iter().map(|made| made.range).collect::<Vec<_>>(), [range(0, 50), range(100, 140)]);
        assert_eq!(place.segments().len(), 8, "the small ones stay");
        for made in made {
            assert_eq!(place.archive.raw(T1, &made).await.unwrap(), log(made.range.start.0, made.range.end.0));
        }
    }
}
