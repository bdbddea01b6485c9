//! Segments for tests.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::codec::Compression;
use super::format::Header;
use super::read::Expected;
use super::write::SegmentWriter;
use crate::model::mark::{Mark, MarkKind, TransactionId};
use crate::model::offset::Offset;
use crate::model::position::Position;
use crate::model::summary::Summary;
use crate::model::time::Timestamp;
use crate::model::timeline::TimelineId;

pub(super) const NAME: &str = "main/log/00000003/some-segment";

pub(super) fn header(start: u64) -> Header {
    Header {
        cluster: "main".parse().unwrap(),
        engine: "postgres".into(),
        timeline: TimelineId(3),
        start: Offset(start),
        epoch: 7,
    }
}

/// Bytes that compress about as WAL does: runs, near-repeats, zeros and noise.
pub(super) fn log(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut log = Vec::with_capacity(len + 256);
    while log.len() < len {
        match rng.random_range(0..4) {
            0 => log.extend_from_slice(format!("UPDATE {:08} balance {}", log.len(), rng.random::<u16>()).as_bytes()),
            1 => log.resize(log.len() + rng.random_range(1..200), 0),
            2 => log.extend((0..rng.random_range(1..100)).map(|_| rng.random::<u8>())),
            _ if !log.is_empty() => {
                let from = rng.random_range(0..log.len());
                log.extend_from_within(from..log.len().min(from + 60));
            }
            _ => {}
        }
    }
    log.truncate(len);
    log
}

/// A summary of `start..end` with every field in use.
pub(super) fn summary(start: u64, end: u64) -> Summary {
    let mut summary = Summary::empty(Offset(start), Offset(start));
    summary.range.end = Offset(end);
    summary.boundary = Offset(end);
    let at = |kind| Mark { start: Offset(start), end: Offset(end), kind };
    let transaction = |id, time, committed| MarkKind::Transaction { id, time: Timestamp(time), committed };
    summary.add(at(transaction(TransactionId::Number(741), 1_763_675_317_123_456, true)));
    summary.add(at(transaction(TransactionId::Number(740), 1_763_675_317_123_455, false)));
    let name = "before the migration".into();
    summary.add(at(MarkKind::RestorePoint { name, time: Timestamp(1_763_675_317_200_000) }));
    summary.confirmed = Some(Timestamp(1_763_675_318_000_000));
    summary.position = Position("0/3000148".into());
    summary
}

pub(super) fn segment(start: u64, raw: &[u8], compression: Compression) -> (Bytes, Expected) {
    let header = header(start);
    let mut writer = SegmentWriter::new(header.clone(), compression);
    writer.write(raw);
    let summary = summary(start, writer.offset().0);
    let finished = writer.finish(&summary).unwrap();
    let expected =
        Expected { cluster: header.cluster, timeline: header.timeline, range: summary.range, epoch: header.epoch };
    assert_eq!(finished.stored_bytes, finished.body.iter().map(|piece| piece.len() as u64).sum::<u64>());
    (Bytes::from(finished.body.concat()), expected)
}
