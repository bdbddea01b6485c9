//! The end of an encrypted archive, which its next archiver cannot read.
//!
//! A segment may end inside a record. Whoever goes on there needs the bytes before it in that record, to check it and to
//! tell what it is; but they are sealed with a key that went with the archiver that wrote them. The server still has
//! them, for it was told only of whole records. So the segment in which the last whole record ends comes
//! once more, and must be the same; it is the beginning of the first new one.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};

use super::Run;
use super::resume::{Ready, Sealed};
use super::writer::Carried;
use crate::catalog::load;
use crate::engine::{Detail, ScanStart, Source, StreamEvent};
use crate::error::{Error, Kind, Result};
use crate::model::cluster::ServerState;
use crate::model::offset::Offset;
use crate::model::timeline::TimelineId;

impl Run<'_> {
    /// Reads from the server what cannot be read in the archive, and makes ready to go on behind it.
    ///
    /// # Errors
    /// [`Kind::Absent`] when the server no longer has it; [`Kind::NotRecoverable`] when it has something else there.
    pub(super) async fn read_again(
        &self,
        source: &mut dyn Source,
        server: &ServerState,
        timeline: TimelineId,
        sealed: &Sealed,
    ) -> Result<Ready> {
        let (archive, engine) = (&self.archive, self.archiver.engine.as_ref());
        let Sealed { segment, boundary, file_segments } = sealed;
        let name = archive.object_of(timeline, segment);
        let expected = archive.expected(timeline, segment.range, segment.epoch);
        let footer = load::footer(archive.store.as_ref(), &name, &expected).await?;
        if server.timeline == timeline && !server.standby && server.log_end < segment.range.end {
            return Err(ends_before(segment.range.end));
        }
        tracing::info!(segment = %name, "the archive ends in an encrypted segment: the server is asked for its log once more");
        let bytes = self.stream_range(source, timeline, segment.range.start, footer.raw_bytes).await?;
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(&bytes);
        if digest.finalize() as u32 != footer.raw_crc {
            return Err(Error::new(
                Kind::NotRecoverable,
                format!("the server's log differs from what the archive holds in {name}"),
            )
            .hint("was another server promoted, or this one restored? archive it under another cluster name"));
        }
        let scanner = engine.scanner(&archive.identity, timeline, ScanStart::Boundary(*boundary), Detail::Changes);
        let start = segment.range.start;
        let len = usize::try_from(boundary.since(start)).unwrap_or(usize::MAX).min(bytes.len());
        let carried = (len > 0).then(|| {
            let mut summary = footer.summary;
            summary.range.end = *boundary;
            summary.boundary = *boundary;
            summary.position = engine.position(*boundary);
            Carried { start, bytes: bytes.slice(..len), summary, tail: None }
        });
        Ok(Ready { scanner, start: *boundary, carried, file_segments: file_segments.clone() })
    }

    /// So many bytes of the server's log.
    async fn stream_range(
        &self,
        source: &mut dyn Source,
        timeline: TimelineId,
        from: Offset,
        len: u64,
    ) -> Result<Bytes> {
        source.stream(&self.resume(timeline, from)).await?;
        let wanted = usize::try_from(len).unwrap_or(usize::MAX);
        let mut got = Vec::new();
        while got.len() < wanted {
            match source.next().await? {
                StreamEvent::Data { bytes, .. } => got.extend_from_slice(&bytes),
                StreamEvent::Keepalive { .. } | StreamEvent::CaughtUp { .. } => {}
                StreamEvent::TimelineEnd { .. } | StreamEvent::Ended => {
                    return Err(ends_before(Offset(from.0 + len)));
                }
            }
        }
        source.stop().await?;
        got.truncate(wanted);
        Ok(got.into())
    }
}

fn ends_before(end: Offset) -> Error {
    Error::new(Kind::NotRecoverable, format!("the server's log ends before {end}, where the archive's does"))
        .hint("has a standby been promoted that lacked the end? `pitr list` shows what the archive holds")
}
