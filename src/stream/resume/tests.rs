//! What a writer finds that comes after another: segments and tails in a directory, with
//! records of ten bytes and log files of a hundred.

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::engine::{Finding, Locator, LogFiles, Recovery, SlotStatus, Source, SourceOptions};
use crate::model::cluster::Identity;
use crate::model::offset::OffsetRange;
use crate::model::position::Position;
use crate::model::target::Target;
use crate::model::time::Timestamp;
use crate::segment::trailer::Trailer;
use crate::stream::writer::tests::{Place, T1, log, range, scanner_at};

/// Scans, and does nothing else.
struct Toy;

#[async_trait]
impl Engine for Toy {
    fn name(&self) -> &'static str {
        "toy"
    }

    async fn connect(&self, _: &str, _: &SourceOptions) -> Result<Box<dyn Source>> {
        unimplemented!()
    }

    fn scanner(&self, _: &Identity, _: TimelineId, start: ScanStart, _: Detail) -> Box<dyn Scanner> {
        let (ScanStart::Boundary(at) | ScanStart::LogFile(at)) = start;
        scanner_at(at.0)
    }

    fn locator(&self, _: &Target) -> Result<Box<dyn Locator>> {
        unimplemented!()
    }

    fn position(&self, offset: Offset) -> Position {
        Position(offset.to_string())
    }

    fn axis(&self) -> Axis {
        Axis::Server
    }

    fn reaches(&self, _end: &Position, _place: &Position) -> Result<bool> {
        Ok(true)
    }

    fn parse_position(&self, _: &str) -> Result<Offset> {
        unimplemented!()
    }

    fn log_files(&self, _: &Identity) -> Box<dyn LogFiles> {
        unimplemented!()
    }

    async fn inspect(&self, _: &str, _: &SourceOptions) -> Result<Vec<Finding>> {
        unimplemented!()
    }

    async fn slot(&self, _: &str, _: &SourceOptions) -> Result<Option<SlotStatus>> {
        unimplemented!()
    }

    fn grants(&self, _: &str) -> String {
        unimplemented!()
    }

    fn recovery(&self) -> Box<dyn Recovery> {
        unimplemented!()
    }
}

impl Place {
    /// A place that older writers have filled: closed segments, and tails with their epochs.
    async fn left(segments: &[(u64, u64)], tails: &[(u64, u64, u32)]) -> Self {
        let place = Self::new();
        let archive = &place.archive;
        let identity = serde_json::to_vec(&archive.identity).unwrap();
        archive.store.create(&archive.layout.name(&ObjectName::Cluster), vec![identity.into()]).await.unwrap();
        for &(start, end) in segments {
            let boundary = Offset(end / 10 * 10);
            let summary = Summary { range: range(start, end), boundary, ..Summary::empty(Offset(start), boundary) };
            archive.create_segment(T1, &log(start, end), &summary, 1, Compression::Lz4).await.unwrap();
        }
        for &(start, end, epoch) in tails {
            let name = archive.layout.name(&ObjectName::Tail { timeline: T1, start: Offset(start), epoch });
            let mut bytes = log(start, end).to_vec();
            bytes.extend(Trailer { boundary: Offset(end), confirmed: Timestamp(77) }.encode(Offset(start)));
            bytes.truncate(50);
            bytes.resize(50, 0);
            archive.store.create(&name, vec![Bytes::from(bytes)]).await.unwrap();
        }
        place
    }

    async fn catalog(&self) -> Catalog {
        self.archive.catalog(&Toy).await.unwrap()
    }

    /// As a writer that comes third.
    async fn at_end(&self) -> Result<Led> {
        self.claim().await;
        self.claim().await;
        let epoch = self.claim().await;
        at_end(&self.archive, &Toy, &self.catalog().await, T1, &epoch, Compression::Lz4).await
    }

    async fn ready(&self) -> Box<Ready> {
        match self.at_end().await.unwrap() {
            Led::Ready(ready) => ready,
            Led::Damaged(segment, error) => panic!("{segment:?}: {error}"),
            Led::Sealed(_) => panic!("nothing is encrypted"),
        }
    }

    fn has_tail(&self, start: u64, epoch: u32) -> bool {
        self.tail(start, epoch).is_some()
    }
}

fn ranges(segments: &[SegmentInfo]) -> Vec<OffsetRange> {
    segments.iter().map(|segment| segment.range).collect()
}

#[tokio::test]
async fn the_last_tail_is_carried_over_and_stays_until_it_has_been() {
    let place = Place::left(&[(0, 50)], &[(50, 65, 2)]).await;
    let ready = place.ready().await;
    let carried = ready.carried.unwrap();
    assert_eq!((ready.start, ready.scanner.offset(), ready.scanner.boundary()), (Offset(60), Offset(60), Offset(60)));
    assert_eq!(
        (carried.start, &carried.bytes[..], carried.summary.range),
        (Offset(50), &log(50, 60)[..], range(50, 60))
    );
    assert_eq!(ranges(&ready.file_segments), [range(0, 50)]);
    assert!(place.has_tail(50, 2));
}

#[tokio::test]
async fn up_to_when_the_log_is_complete_is_carried_over_too() {
    let place = Place::left(&[(0, 50)], &[(50, 60, 2)]).await;
    assert_eq!(place.ready().await.carried.unwrap().summary.confirmed, Some(Timestamp(77)));
}

#[tokio::test]
async fn a_full_tail_before_the_last_becomes_a_segment_and_goes() {
    let place = Place::left(&[], &[(0, 50, 1), (50, 60, 1)]).await;
    let ready = place.ready().await;
    assert_eq!((ready.start, place.segments()), (Offset(60), vec![range(0, 50)]));
    assert_eq!((place.has_tail(0, 1), place.has_tail(50, 1)), (false, true));
    assert_eq!(ranges(&ready.file_segments), [range(0, 50)]);
}

#[tokio::test]
async fn a_full_tail_stays_if_its_segment_cannot_be_created() {
    let place = Place::left(&[], &[(0, 50, 1), (50, 60, 1)]).await;
    *place.doors.refused.lock().unwrap() = 1;
    assert_eq!(place.at_end().await.err().unwrap().kind(), Kind::StoreUnreachable);
    assert_eq!(place.tail(0, 1).unwrap(), log(0, 50));
}

/// Their writers died before they removed them.
#[tokio::test]
async fn tails_that_segments_or_longer_tails_hold_are_removed() {
    let place = Place::left(&[(0, 50)], &[(0, 50, 1), (50, 60, 1), (50, 80, 2)]).await;
    assert_eq!(place.ready().await.start, Offset(80));
    assert_eq!([place.has_tail(0, 1), place.has_tail(50, 1), place.has_tail(50, 2)], [false, false, true]);
}

/// Its connection was lost while the first could not become a segment.
#[tokio::test]
async fn a_tail_of_its_own_that_began_inside_a_record_goes() {
    let place = Place::left(&[], &[(0, 45, 3), (45, 48, 3)]).await;
    assert_eq!(place.ready().await.start, Offset(40));
    assert_eq!([place.has_tail(0, 3), place.has_tail(45, 3)], [true, false]);
}

#[tokio::test]
async fn tails_of_its_own_and_behind_a_hole_are_left_alone() {
    let place = Place::left(&[(0, 50)], &[(0, 50, 3), (50, 50, 3), (100, 105, 1), (150, 170, 1)]).await;
    assert_eq!(place.ready().await.start, Offset(50));
    let left = [(0, 3), (50, 3), (100, 1), (150, 1)].map(|(start, epoch)| place.has_tail(start, epoch));
    assert_eq!(left, [true; 4]);
}

#[tokio::test]
async fn a_record_that_crosses_the_end_is_gone_on_with() {
    for segments in [&[(0, 50), (50, 75)][..], &[(0, 50), (50, 71), (71, 73), (73, 75)]] {
        let ready = Place::left(segments, &[]).await.ready().await;
        assert_eq!(
            (ready.start, ready.scanner.offset(), ready.scanner.boundary()),
            (Offset(75), Offset(75), Offset(70))
        );
    }
}

/// As whoever is killed leaves it who has filled one tail inside a large record, and begun the next.
#[tokio::test]
async fn a_record_that_began_before_a_full_tail_is_gone_on_with_where_the_tail_began() {
    let place = Place::left(&[(0, 53)], &[(53, 57, 2), (57, 59, 2)]).await;
    let ready = place.ready().await;
    assert_eq!((ready.start, ready.scanner.offset(), ready.scanner.boundary()), (Offset(53), Offset(53), Offset(50)));
    assert!(ready.carried.is_none());
    assert_eq!(place.names().len(), 1, "{:?}", place.names());
}

#[tokio::test]
async fn a_record_that_began_in_a_full_tail_comes_again() {
    let place = Place::left(&[(0, 53)], &[(53, 67, 2), (67, 69, 2)]).await;
    let ready = place.ready().await;
    assert_eq!((ready.start, ready.scanner.offset(), ready.scanner.boundary()), (Offset(60), Offset(60), Offset(60)));
    let carried = ready.carried.unwrap();
    assert_eq!((&carried.bytes[..], carried.summary.range), (&log(53, 60)[..], range(53, 60)));
}

#[tokio::test]
async fn only_segments_of_the_open_log_file_are_to_be_joined() {
    let ready = Place::left(&[(0, 50), (50, 100), (100, 120), (120, 150)], &[]).await.ready().await;
    assert_eq!(ranges(&ready.file_segments), [range(100, 120), range(120, 150)]);
}

#[tokio::test]
async fn the_last_segments_are_made_sure_of_before_the_server_is_told() {
    let segments: Vec<(u64, u64)> = (0..6).map(|n| (n * 50, n * 50 + 50)).collect();
    let place = Place::left(&segments, &[(300, 310, 1)]).await;
    place.ready().await;
    let catalog = place.catalog().await;
    let names = catalog.timelines[&T1].segments[2..6].iter().map(|segment| place.archive.object_of(T1, segment));
    assert_eq!(*place.doors.settled.lock().unwrap(), names.collect::<Vec<_>>());
}

#[tokio::test]
async fn a_damaged_segment_that_had_to_be_read_is_named() {
    let place = Place::left(&[(0, 50), (50, 75)], &[]).await;
    let last = place.catalog().await.timelines[&T1].segments[1];
    let path = place.doors.root.join(place.archive.object_of(T1, &last));
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(9).position(|bytes| bytes == &log(60, 69)[..]).expect("so short a log is not compressed");
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    match place.at_end().await.unwrap() {
        Led::Damaged(segment, error) => assert_eq!((segment, error.kind()), (last, Kind::Corruption)),
        Led::Ready(_) | Led::Sealed(_) => panic!("it was not read"),
    }
}
