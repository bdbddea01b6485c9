//! A small engine stands in for a database: a record is its length in one byte, a time
//! in the next, and filling up to its length; a zero where a record should begin ends
//! the log.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::catalog::Codec;
use crate::catalog::index::{Index, Indexed};
use crate::catalog::load::load;
use crate::model::mark::{Mark, MarkKind, TransactionId};
use crate::model::summary::RestorePoint;
use crate::model::time::Timestamp;
use crate::model::timeline::Ancestor;
use crate::segment::codec::Compression;
use crate::segment::format::Header;
use crate::segment::trailer::Trailer;
use crate::segment::write::SegmentWriter;
use crate::store::memory::MemoryStore;

struct Toy {
    boundary: u64,
    pending: Vec<u8>,
}

impl Scanner for Toy {
    fn feed(&mut self, bytes: &[u8], marks: &mut Vec<Mark>) -> Result<()> {
        self.pending.extend_from_slice(bytes);
        while let Some(&len) = self.pending.first() {
            if len < 2 {
                return Err(Error::corruption("no record"));
            }
            if self.pending.len() < usize::from(len) {
                break;
            }
            let record: Vec<u8> = self.pending.drain(..usize::from(len)).collect();
            let (start, end) = (Offset(self.boundary), Offset(self.boundary + u64::from(len)));
            let id = TransactionId::Number(self.boundary);
            let kind = MarkKind::Transaction { id, time: Timestamp(record[1].into()), committed: true };
            marks.push(Mark { start, end, kind });
            self.boundary = end.0;
        }
        Ok(())
    }

    fn boundary(&self) -> Offset {
        Offset(self.boundary)
    }

    fn offset(&self) -> Offset {
        Offset(self.boundary + self.pending.len() as u64)
    }
}

fn toy(_: &Identity, _: TimelineId, start: ScanStart) -> Result<Box<dyn Scanner>> {
    let (ScanStart::Boundary(at) | ScanStart::LogFile(at)) = start;
    Ok(Box::new(Toy { boundary: at.0, pending: Vec::new() }))
}

/// Records of these lengths and times.
fn log(records: &[(u8, u8)]) -> Vec<u8> {
    records.iter().flat_map(|&(len, time)| [vec![len, time], vec![b'x'; usize::from(len) - 2]].concat()).collect()
}

const T1: TimelineId = TimelineId(1);

fn index_of(level: u8, range: OffsetRange) -> ObjectName {
    ObjectName::Index { timeline: T1, index: Indexed { level, range, epoch: 1 } }
}

fn narrow(range: OffsetRange) -> ObjectName {
    index_of(0, range)
}

/// The ranges of the indexes that are read.
fn indexed(log: &TimelineLog) -> Vec<(u64, u64)> {
    log.indexes.iter().map(|index| (index.range.start.0, index.range.end.0)).collect()
}

struct Archive<S>(S);

impl<S: Store> Archive<S> {
    async fn new(store: S) -> Self {
        let identity = serde_json::json!({
            "format_version": 1, "engine": "toy", "system": "7", "log_file_bytes": 64, "server_version": 1,
        });
        let this = Self(store);
        this.put(&ObjectName::Cluster, identity.to_string()).await;
        this
    }

    async fn put(&self, object: &ObjectName, bytes: impl Into<Bytes>) -> String {
        let name = layout().name(object);
        self.0.create(&name, vec![bytes.into()]).await.unwrap();
        name
    }

    /// A closed segment of `raw`, whose last whole record ends at `boundary`.
    async fn segment(&self, start: u64, raw: &[u8], boundary: u64, epoch: u32) -> String {
        let header = Header {
            cluster: "main".parse().unwrap(),
            engine: "toy".into(),
            timeline: T1,
            start: Offset(start),
            epoch,
        };
        let mut writer = SegmentWriter::new(header, Compression::Lz4);
        writer.write(raw);
        let mut summary = Summary::empty(Offset(start), Offset(boundary));
        summary.range.end = writer.offset();
        summary.confirmed = Some(Timestamp(1000 + start as i64));
        summary.restore_points =
            vec![RestorePoint { name: format!("at {start}"), time: Timestamp(1), end: summary.range.end }];
        let range = summary.range;
        let finished = writer.finish(&summary).unwrap();
        let object = ObjectName::Segment { timeline: T1, range, epoch, codec: Codec::Lz4 };
        self.put(&object, finished.body.concat()).await
    }

    async fn tail(&self, start: u64, epoch: u32, raw: Vec<u8>) -> String {
        self.put(&ObjectName::Tail { timeline: T1, start: Offset(start), epoch }, raw).await
    }

    async fn load(&self) -> Result<Catalog> {
        load(&self.0, &"main".parse().unwrap(), &toy, &BTreeMap::new()).await
    }

    async fn log(&self) -> TimelineLog {
        self.load().await.unwrap().timelines.remove(&T1).unwrap()
    }
}

fn layout() -> Layout {
    Layout::new("main".parse().unwrap())
}

fn ranges(log: &TimelineLog) -> Vec<(u64, u64, u32)> {
    log.segments.iter().map(|s| (s.range.start.0, s.range.end.0, s.epoch)).collect()
}

#[tokio::test]
async fn nothing_there_is_no_archive() {
    let error = load(&MemoryStore::new(), &"main".parse().unwrap(), &toy, &BTreeMap::new()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NoArchive);
}

#[tokio::test]
async fn refuses_a_newer_format_before_its_fields() {
    let archive = Archive(MemoryStore::new());
    archive.put(&ObjectName::Cluster, r#"{"format_version":2,"news":[]}"#).await;
    let error = archive.load().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert_eq!(error.message(), "main/cluster.json is of format version 2; this version of pitr reads version 1");
}

#[tokio::test]
async fn reads_footers_gaps_and_histories() {
    let archive = Archive::new(MemoryStore::new()).await;
    archive.segment(64, &log(&[(10, 1), (10, 2)]), 84, 1).await;
    archive.segment(90, &log(&[(10, 3)]), 100, 2).await;
    let gap = Gap {
        range: OffsetRange::new(Offset(84), Offset(90)),
        cause: "slot lost".into(),
        found: Timestamp(5),
        confirmed: None,
        position: None,
    };
    let name = ObjectName::Gap { timeline: T1, range: gap.range, epoch: 2 };
    archive.put(&name, serde_json::to_vec(&gap).unwrap()).await;
    let history = History {
        timeline: TimelineId(3),
        ancestors: vec![Ancestor { timeline: T1, switch: Offset(100) }],
        native: "1\t0/64\n".into(),
    };
    archive.put(&ObjectName::History(TimelineId(3)), serde_json::to_vec(&history).unwrap()).await;

    let catalog = archive.load().await.unwrap();
    let log = &catalog.timelines[&T1];
    assert_eq!(ranges(log), [(64, 84, 1), (90, 100, 2)]);
    assert_eq!(log.gaps, [gap]);
    assert_eq!(log.confirmed, Some(Timestamp(1090)), "that of the last segment");
    assert_eq!(log.restore_points.len(), 2);
    assert_eq!(catalog.timelines[&TimelineId(3)].history, Some(history));
}

#[tokio::test]
async fn what_is_superseded_is_not_even_read() {
    let store = Arc::new(MemoryStore::new());
    let archive = Archive::new(Shared(store.clone())).await;
    let small = archive.segment(64, &log(&[(10, 1)]), 74, 1).await;
    archive.segment(64, &log(&[(10, 1), (10, 2)]), 84, 1).await;
    store.tamper(&small, Some(Bytes::from_static(b"rubbish")));
    assert_eq!(ranges(&archive.log().await), [(64, 84, 1)]);
}

#[tokio::test]
async fn a_damaged_segment_is_set_aside_by_name_and_streaming_goes_on_behind_it() {
    let store = Arc::new(MemoryStore::new());
    let archive = Archive::new(Shared(store.clone())).await;
    archive.segment(64, &log(&[(10, 1)]), 74, 1).await;
    let name = archive.segment(74, &log(&[(10, 2)]), 84, 1).await;
    archive.segment(84, &log(&[(10, 3)]), 94, 1).await;
    store.tamper(&name, Some(Bytes::from_static(b"rubbish")));
    let log = archive.log().await;
    assert_eq!(ranges(&log), [(64, 74, 1), (84, 94, 1)]);
    let [damaged] = log.damaged.as_slice() else { panic!("{:?}", log.damaged) };
    assert_eq!(damaged.object, name);
    assert!(damaged.problem.contains(&name), "{damaged:?}");
    assert_eq!(log.unbroken(), Some((2, Offset(94))), "the log was whole once");
}

#[tokio::test]
async fn streaming_goes_on_at_the_start_of_a_damaged_last_segment() {
    let store = Arc::new(MemoryStore::new());
    let archive = Archive::new(Shared(store.clone())).await;
    archive.segment(64, &log(&[(10, 1)]), 74, 1).await;
    let names =
        [archive.segment(74, &log(&[(10, 2)]), 84, 1).await, archive.segment(84, &log(&[(10, 3)]), 94, 1).await];
    for name in &names {
        store.tamper(name, Some(Bytes::from_static(b"rubbish")));
    }
    let damaged = archive.log().await;
    assert_eq!(damaged.unbroken(), Some((1, Offset(74))));
    assert_eq!(damaged.damaged_end(), Some(Offset(94)), "up to there the server was told");
    // Streamed again by a later writer, nothing of it is lost any more.
    archive.segment(74, &log(&[(10, 2), (10, 3)]), 94, 2).await;
    let healed = archive.log().await;
    assert_eq!((ranges(&healed), healed.lost().count()), (vec![(64, 74, 1), (74, 94, 2)], 0));
    assert_eq!(healed.damaged, [], "what is superseded is not even read");
}

#[tokio::test]
async fn what_a_damaged_segment_superseded_counts_again() {
    let store = Arc::new(MemoryStore::new());
    let archive = Archive::new(Shared(store.clone())).await;
    archive.segment(64, &log(&[(10, 1)]), 74, 1).await;
    archive.segment(74, &log(&[(10, 2)]), 84, 1).await;
    let wide = archive.segment(64, &log(&[(10, 1), (10, 2)]), 84, 1).await;
    assert_eq!(ranges(&archive.log().await), [(64, 84, 1)]);
    store.tamper(&wide, Some(Bytes::from_static(b"rubbish")));
    let log = archive.log().await;
    assert_eq!((ranges(&log), log.lost().count()), (vec![(64, 74, 1), (74, 84, 1)], 0));
}

#[tokio::test]
async fn a_segment_that_proved_damaged_when_it_was_read_is_set_aside_too() {
    let archive = Archive::new(MemoryStore::new()).await;
    archive.segment(64, &log(&[(10, 1)]), 74, 1).await;
    let name = archive.segment(74, &log(&[(10, 2)]), 84, 1).await;
    let known = Known::from([(name.clone(), Err("a flipped bit".to_owned()))]);
    let mut catalog = load(&archive.0, &"main".parse().unwrap(), &toy, &known).await.unwrap();
    let log = catalog.timelines.remove(&T1).unwrap();
    assert_eq!(ranges(&log), [(64, 74, 1)]);
    assert_eq!(log.damaged[0].object, name);
}

/// The record that crosses into a tail cannot be read then; what follows it can.
#[tokio::test]
async fn a_tail_behind_a_damaged_segment_counts() {
    let store = Arc::new(MemoryStore::new());
    let archive = Archive::new(Shared(store.clone())).await;
    archive.segment(64, &log(&[(10, 1)]), 74, 1).await;
    let name = archive.segment(74, &log(&[(10, 2)]), 84, 1).await;
    archive.tail(84, 1, log(&[(10, 3)])).await;
    store.tamper(&name, Some(Bytes::from_static(b"rubbish")));
    let log = archive.log().await;
    assert_eq!(ranges(&log), [(64, 74, 1), (84, 94, 1)]);
    assert_eq!(log.unbroken(), Some((2, Offset(94))));
}

#[tokio::test]
async fn a_damaged_gap_history_and_index_are_set_aside() {
    let archive = Archive::new(MemoryStore::new()).await;
    archive.segment(64, &log(&[(10, 1)]), 74, 1).await;
    let range = OffsetRange::new(Offset(74), Offset(84));
    let mut names = vec![
        archive.put(&ObjectName::Gap { timeline: T1, range, epoch: 1 }, "damaged").await,
        archive.put(&ObjectName::History(T1), "damaged").await,
        archive.put(&narrow(range), "damaged").await,
    ];
    let log = archive.log().await;
    assert_eq!(ranges(&log), [(64, 74, 1)]);
    assert_eq!((log.gaps[0].range, log.history), (range, None));
    let mut found: Vec<String> = log.damaged.iter().map(|damaged| damaged.object.clone()).collect();
    found.sort();
    names.sort();
    assert_eq!(found, names);
}

#[tokio::test]
async fn an_index_stands_for_its_segments_and_only_the_rest_is_read() {
    let store = Arc::new(MemoryStore::new());
    let archive = Archive::new(Shared(store.clone())).await;
    let mut names = Vec::new();
    for n in 1..=4_u64 {
        names.push(archive.segment(n * 10, &log(&[(10, n as u8)]), n * 10 + 10, 1).await);
    }
    let whole = archive.log().await;
    let put = async |level, start, end| {
        let range = OffsetRange::new(Offset(start), Offset(end));
        let index = Index::of(&whole, T1, range, 1);
        archive.put(&index_of(level, range), index.encode(&"main".parse().unwrap()).unwrap()).await
    };
    let narrow = put(0, 10, 30).await;
    store.tamper(&names[0], Some(Bytes::from_static(b"rubbish")));
    let loaded = archive.log().await;
    assert_eq!(indexed(&loaded), [(10, 30)]);
    assert_eq!(TimelineLog { indexes: Vec::new(), ..loaded }, whole);

    // The wider one wins: the narrow one is not read.
    let second = put(0, 30, 40).await;
    let wide = put(1, 10, 40).await;
    store.tamper(&narrow, Some(Bytes::from_static(b"rubbish")));
    let loaded = archive.log().await;
    assert_eq!(indexed(&loaded), [(10, 40)]);
    assert_eq!(TimelineLog { indexes: Vec::new(), ..loaded }, whole);

    // Narrow ones stand for a damaged one, as far as they are sound.
    put(0, 40, 50).await;
    let wider = put(1, 40, 50).await;
    store.tamper(&wider, Some(Bytes::from_static(b"rubbish")));
    let loaded = archive.log().await;
    assert_eq!(indexed(&loaded), [(10, 40), (40, 50)]);
    assert_eq!(loaded.damaged.iter().map(|damaged| &damaged.object).collect::<Vec<_>>(), [&wider]);
    assert_eq!(TimelineLog { indexes: Vec::new(), damaged: Vec::new(), ..loaded }, whole);
    store.tamper(&wide, Some(Bytes::from_static(b"rubbish")));
    let loaded = archive.log().await;
    assert_eq!(indexed(&loaded), []);
    let mut found: Vec<&String> = loaded.damaged.iter().map(|damaged| &damaged.object).collect();
    found.sort();
    assert_eq!(found, [&names[0], &narrow, &wide], "nothing is known of what {second} follows");
}

#[tokio::test]
async fn a_padded_or_torn_tail_ends_after_its_last_whole_record() {
    for after in [vec![], vec![0; 100], vec![30, 9, b'x'], [vec![30, 9], vec![0; 10]].concat()] {
        let archive = Archive::new(MemoryStore::new()).await;
        archive.segment(64, &log(&[(10, 1)]), 74, 1).await;
        archive.tail(74, 2, [log(&[(10, 5), (7, 4)]), after.clone()].concat()).await;
        let log = archive.log().await;
        assert_eq!(ranges(&log), [(64, 74, 1), (74, 91, 2)], "{after:?}");
        let tail = log.segments[1];
        assert_eq!(tail.holder, Holder::Tail);
        assert_eq!((tail.boundary, tail.transactions), (Offset(91), 2));
        assert_eq!(tail.times, Some((Timestamp(4), Timestamp(5))));
    }
}

#[tokio::test]
async fn a_tail_cut_at_any_length_ends_after_its_last_whole_record() {
    let raw = log(&[(10, 5), (7, 4), (2, 1), (30, 2)]);
    for len in 0..=raw.len() {
        for zeros in [0, 40] {
            let archive = Archive::new(MemoryStore::new()).await;
            archive.segment(64, &log(&[(10, 1)]), 74, 1).await;
            archive.tail(74, 1, [&raw[..len], &vec![0; zeros]].concat()).await;
            let whole = [0, 10, 17, 19, 49].into_iter().rev().find(|end| *end <= len as u64).unwrap();
            // What the zeros make of half a record is for its checksum to tell, which this engine has not.
            let is_half = whole != len as u64;
            if zeros == 0 || !is_half {
                assert_eq!(archive.log().await.unbroken().unwrap().1, Offset(74 + whole), "{len} and {zeros}");
            }
        }
    }
}

#[tokio::test]
async fn a_record_that_began_segments_before_the_tail_is_read_whole() {
    let archive = Archive::new(MemoryStore::new()).await;
    let all = log(&[(10, 1), (40, 7), (5, 3)]);
    // The record of 40 bytes begins at 74 and ends in the tail.
    archive.segment(64, &all[..16], 74, 1).await;
    archive.segment(80, &all[16..30], 74, 1).await;
    archive.tail(94, 1, all[30..].to_vec()).await;
    let log = archive.log().await;
    assert_eq!(ranges(&log), [(64, 80, 1), (80, 94, 1), (94, 119, 1)]);
    assert_eq!(log.segments[2].times, Some((Timestamp(3), Timestamp(7))));
    assert_eq!(log.segments[2].transactions, 2, "the one before the tail is not its own");
}

#[tokio::test]
async fn a_tail_without_a_whole_record_holds_nothing() {
    let archive = Archive::new(MemoryStore::new()).await;
    archive.segment(64, &log(&[(10, 1)]), 74, 1).await;
    archive.tail(74, 2, vec![30, 9, b'x']).await;
    assert_eq!(ranges(&archive.log().await), [(64, 74, 1)]);
}

#[tokio::test]
async fn a_tail_that_became_a_segment_no_longer_counts() {
    let archive = Archive::new(MemoryStore::new()).await;
    let raw = log(&[(10, 1), (10, 2)]);
    archive.segment(64, &raw, 84, 1).await;
    archive.tail(64, 1, [raw, vec![0; 50]].concat()).await;
    assert_eq!(ranges(&archive.log().await), [(64, 84, 1)]);
}

/// A later segment may be there when a crash comes, and the tail before it not yet one.
#[tokio::test]
async fn a_tail_between_segments_counts() {
    let archive = Archive::new(MemoryStore::new()).await;
    archive.segment(64, &log(&[(10, 1)]), 74, 1).await;
    archive.tail(74, 1, [log(&[(10, 5), (7, 4)]), vec![0; 50]].concat()).await;
    archive.segment(91, &log(&[(10, 6)]), 101, 1).await;
    let log = archive.log().await;
    assert_eq!(ranges(&log), [(64, 74, 1), (74, 91, 1), (91, 101, 1)]);
    assert_eq!(log.segments[1].holder, Holder::Tail);
    assert_eq!(log.unbroken(), Some((3, Offset(101))));
}

#[tokio::test]
async fn a_full_tail_in_a_longer_file_ends_where_the_next_one_begins() {
    let archive = Archive::new(MemoryStore::new()).await;
    let all = log(&[(10, 1), (40, 7), (5, 3)]);
    // The record of 40 bytes crosses from one tail into the next, and zeros lie between.
    archive.tail(64, 1, [&all[..30], &[0; 20]].concat()).await;
    archive.tail(94, 1, all[30..].to_vec()).await;
    let log = archive.log().await;
    assert_eq!(ranges(&log), [(64, 94, 1), (94, 119, 1)]);
    assert_eq!(log.segments[1].times, Some((Timestamp(3), Timestamp(7))));
}

/// As a spool may be after a crash: the first segment was on its way, and those behind it were closed.
#[tokio::test]
async fn a_full_tail_ends_where_a_closed_segment_of_its_writer_begins() {
    let all = log(&[(10, 1), (40, 7), (5, 3)]);
    for (epoch, behind) in [(1, vec![]), (1, vec![0; 20]), (2, vec![])] {
        let archive = Archive::new(MemoryStore::new()).await;
        // The record of 40 bytes crosses from the tail into the segment.
        archive.tail(64, 1, [&all[..30], &behind].concat()).await;
        archive.segment(94, &all[30..], 119, epoch).await;
        archive.tail(119, epoch, log(&[(10, 4)])).await;
        let log = archive.log().await;
        let end = if epoch == 1 { 94 } else { 74 };
        assert_eq!(ranges(&log), [(64, end, 1), (94, 119, epoch), (119, 129, epoch)], "{behind:?}");
        assert_eq!(log.unbroken().unwrap().1, Offset(if epoch == 1 { 129 } else { 74 }));
    }
}

#[tokio::test]
async fn a_tail_that_holds_more_than_a_closed_segment_hides_it() {
    let archive = Archive::new(MemoryStore::new()).await;
    let raw = log(&[(10, 1), (10, 2), (10, 3)]);
    archive.segment(64, &raw[..10], 74, 0).await;
    archive.tail(64, 1, [&raw[..], &[0; 50]].concat()).await;
    assert_eq!(ranges(&archive.log().await), [(64, 94, 1)]);
    archive.segment(84, &[&raw[20..], &log(&[(10, 4)])[..]].concat(), 104, 0).await;
    let log = archive.log().await;
    assert_eq!(ranges(&log), [(64, 84, 1), (84, 104, 0)]);
    assert_eq!((log.segments[0].boundary, log.segments[0].transactions), (Offset(84), 2));
}

/// What a log switch leaves unused is not read, so the tail's own trailer may lie in it.
#[tokio::test]
async fn log_never_reaches_behind_the_trailer() {
    let archive = Archive::new(MemoryStore::new()).await;
    let trailer = Trailer { boundary: Offset(84), confirmed: Timestamp(7) }.encode(Offset(64));
    // A record that swallows the trailer, as the scanner swallows the rest of a file.
    let raw = [&log(&[(10, 1), (10, 2)])[..], &[50, 9], &[b'x'; 8], &trailer, &[b'x'; 8]].concat();
    archive.tail(64, 1, raw).await;
    let log = archive.log().await;
    assert_eq!(ranges(&log), [(64, 134, 1)], "no trailer at the end: all of it is log");
    let archive = Archive::new(MemoryStore::new()).await;
    let raw = [&self::log(&[(10, 1), (10, 2)])[..], &[42, 9], &[b'x'; 8], &trailer, &[0; 8]].concat();
    archive.tail(64, 1, raw).await;
    assert_eq!(ranges(&archive.log().await), [(64, 84, 1)]);
}

#[tokio::test]
async fn a_damaged_index_and_base_are_set_aside() {
    let archive = Archive::new(MemoryStore::new()).await;
    archive.segment(64, &log(&[(10, 1)]), 74, 1).await;
    let range = OffsetRange::new(Offset(64), Offset(74));
    archive.put(&narrow(range), "damaged").await;
    archive.put(&ObjectName::BaseManifest("20261120T000000Z-aaaa".into()), "damaged").await;
    let catalog = archive.load().await.unwrap();
    assert_eq!(ranges(&catalog.timelines[&T1]), [(64, 74, 1)]);
    assert!(catalog.bases.is_empty());
    assert_eq!(catalog.damaged_bases[0].base(), Some("20261120T000000Z-aaaa"));
    assert_eq!(catalog.damaged().count(), 2);
}

/// Between listing and reading, what is `gone` becomes a segment.
struct Sealing {
    inner: MemoryStore,
    gone: String,
    sealed: (String, Bytes),
}

#[async_trait::async_trait]
impl Store for Sealing {
    async fn create(&self, name: &str, body: Vec<Bytes>) -> Result<crate::store::Created> {
        self.inner.create(name, body).await
    }

    async fn get(&self, name: &str, part: Part) -> Result<Option<Bytes>> {
        if name == self.gone {
            self.inner.create(&self.sealed.0, vec![self.sealed.1.clone()]).await?;
            self.inner.delete(name).await?;
        }
        self.inner.get(name, part).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        shallow: bool,
        each: &mut (dyn FnMut(ObjectInfo) + Send),
    ) -> Result<()> {
        self.inner.list(prefix, after, shallow, each).await
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        self.inner.head(name).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name).await
    }

    fn location(&self) -> String {
        self.inner.location()
    }
}

#[tokio::test]
async fn a_tail_that_becomes_a_segment_while_it_is_read_is_still_there() {
    let raw = log(&[(10, 1), (10, 2)]);
    let other = Archive::new(MemoryStore::new()).await;
    let name = other.segment(64, &raw, 84, 1).await;
    let body = other.0.get(&name, Part::All).await.unwrap().unwrap();
    let gone = layout().name(&ObjectName::Tail { timeline: T1, start: Offset(64), epoch: 1 });
    let archive = Archive::new(Sealing { inner: MemoryStore::new(), gone, sealed: (name, body) }).await;
    archive.tail(64, 1, [raw, vec![0; 50]].concat()).await;
    let log = archive.log().await;
    assert_eq!(ranges(&log), [(64, 84, 1)]);
    assert_eq!(log.segments[0].holder, Holder::Segment(Codec::Lz4));
}

#[tokio::test]
async fn a_segment_that_gives_way_to_a_longer_one_while_it_is_read_is_still_there() {
    let (first, second) = (log(&[(10, 1)]), log(&[(10, 2)]));
    let other = Archive::new(MemoryStore::new()).await;
    let gone = other.segment(64, &first, 74, 1).await;
    let name = other.segment(64, &[&first[..], &second].concat(), 84, 1).await;
    let body = other.0.get(&name, Part::All).await.unwrap().unwrap();
    let archive = Archive::new(Sealing { inner: MemoryStore::new(), gone, sealed: (name, body) }).await;
    archive.segment(64, &first, 74, 1).await;
    archive.segment(74, &second, 84, 1).await;
    assert_eq!(ranges(&archive.log().await), [(64, 84, 1)]);
}

#[tokio::test]
async fn of_two_tails_of_one_start_the_longer_counts_then_the_later_writers() {
    let (short, long) = (log(&[(10, 1)]), log(&[(10, 1), (10, 2)]));
    for (first, second, expected) in [(&long, &short, 1), (&short, &long, 2), (&long, &long, 2)] {
        let archive = Archive::new(MemoryStore::new()).await;
        archive.tail(64, 1, first.clone()).await;
        archive.tail(64, 2, second.clone()).await;
        assert_eq!(ranges(&archive.log().await), [(64, 84, expected)]);
    }
}

#[tokio::test]
async fn the_tails_trailer_is_what_is_confirmed_where_its_log_is_there() {
    let confirmed = Timestamp(1_790_000_000_123_456);
    let tail = |raw: &[u8], boundary: u64| {
        let trailer = Trailer { boundary: Offset(boundary), confirmed };
        [raw, &trailer.encode(Offset(74)), &[0; 100]].concat()
    };
    let (whole, torn) = (log(&[(10, 5), (10, 6)]), &log(&[(10, 5), (200, 6)])[..15]);
    // The last one lost what was written with its trailer: the footer before it counts.
    let footers = Some(Timestamp(1064));
    for (raw, boundary, ends, expected) in
        [(&whole[..], 94, 94, Some(confirmed)), (torn, 84, 84, Some(confirmed)), (torn, 94, 84, footers)]
    {
        let archive = Archive::new(MemoryStore::new()).await;
        archive.segment(64, &log(&[(10, 1)]), 74, 1).await;
        archive.tail(74, 2, tail(raw, boundary)).await;
        let log = archive.log().await;
        assert_eq!(log.confirmed, expected, "a trailer at {boundary}");
        assert_eq!(ranges(&log), [(64, 74, 1), (74, ends, 2)]);
    }
}

/// A memory store that a test can also reach.
struct Shared(Arc<MemoryStore>);

#[async_trait::async_trait]
impl Store for Shared {
    async fn create(&self, name: &str, body: Vec<Bytes>) -> Result<crate::store::Created> {
        self.0.create(name, body).await
    }

    async fn get(&self, name: &str, part: Part) -> Result<Option<Bytes>> {
        self.0.get(name, part).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        shallow: bool,
        each: &mut (dyn FnMut(ObjectInfo) + Send),
    ) -> Result<()> {
        self.0.list(prefix, after, shallow, each).await
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        self.0.head(name).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.0.delete(name).await
    }

    fn location(&self) -> String {
        self.0.location()
    }
}

/// The sidecar loads catalogs from tasks that move between threads.
#[tokio::test]
async fn loading_may_move_between_threads() {
    let archive = Archive::new(MemoryStore::new()).await;
    archive.segment(64, &log(&[(10, 1)]), 74, 1).await;
    let catalog = tokio::spawn(async move { archive.load().await }).await.unwrap().unwrap();
    assert_eq!(catalog.timelines.len(), 1);
}

#[tokio::test]
async fn an_object_under_anothers_name_is_damaged() {
    let archive = Archive::new(MemoryStore::new()).await;
    archive.segment(64, &log(&[(10, 1)]), 74, 1).await;
    let range = |start, end| OffsetRange::new(Offset(start), Offset(end));
    let gap =
        Gap { range: range(74, 80), cause: "recycled".into(), found: Timestamp(1), confirmed: None, position: None };
    let named = ObjectName::Gap { timeline: T1, range: range(74, 84), epoch: 1 };
    let mut names = vec![archive.put(&named, serde_json::to_vec(&gap).unwrap()).await];
    let id = |letters: &str| format!("20261120T000000Z-{letters}");
    let manifest = |letters: &str, system: &str| {
        let hash = crate::base::chunk::ChunkHash::of(b"");
        let manifest = Manifest {
            format_version: 1,
            id: id(letters),
            cluster: "main".parse().unwrap(),
            engine: "toy".into(),
            system: system.into(),
            server_version: 1,
            label: String::new(),
            timeline: T1,
            start: Offset(64),
            end: Offset(74),
            began: Timestamp(1),
            ended: Timestamp(2),
            bytes: 0,
            stored_bytes: 0,
            file_count: 0,
            tablespaces: Vec::new(),
            table: crate::base::manifest::Object { hash, bytes: 0 },
            packs: Vec::new(),
            files: Vec::new(),
        };
        manifest.encode().unwrap()
    };
    archive.put(&ObjectName::BaseManifest(id("aaaa")), manifest("aaaa", "7")).await;
    names.push(archive.put(&ObjectName::BaseManifest(id("bbbb")), manifest("aaaa", "7")).await);
    names.push(archive.put(&ObjectName::BaseManifest(id("cccc")), manifest("cccc", "8")).await);
    let catalog = archive.load().await.unwrap();
    assert_eq!(catalog.bases.iter().map(|base| base.id.clone()).collect::<Vec<_>>(), [id("aaaa")]);
    assert_eq!(catalog.damaged().map(|damaged| damaged.object.clone()).collect::<Vec<_>>(), names);
    assert_eq!(catalog.timelines[&T1].gaps[0].range, range(74, 84), "as the name says");
}

#[test]
fn a_history_leads_from_older_timelines_to_its_own() {
    let decoded = |timeline: u32, ancestors: &[(u32, u64)]| {
        let ancestors =
            ancestors.iter().map(|&(t, at)| Ancestor { timeline: TimelineId(t), switch: Offset(at) }).collect();
        let history = History { timeline: TimelineId(timeline), ancestors, native: String::new() };
        decode_history("x", TimelineId(3), &serde_json::to_vec(&history).unwrap()).map_err(|error| error.kind())
    };
    for sound in [&[(1, 64), (2, 64)][..], &[(2, 64)], &[]] {
        assert!(decoded(3, sound).is_ok());
    }
    assert_eq!(decoded(4, &[(1, 64)]), Err(Kind::Corruption));
    for unsound in [&[(2, 64), (1, 70)][..], &[(1, 70), (2, 64)], &[(1, 64), (1, 70)], &[(3, 64)], &[(4, 64)]] {
        assert_eq!(decoded(3, unsound), Err(Kind::Corruption), "{unsound:?}");
    }
}

#[tokio::test]
async fn what_lies_behind_a_missing_or_damaged_index_is_read_from_footers() {
    for damaged in [None, Some(b"rubbish")] {
        let archive = Archive::new(MemoryStore::new()).await;
        for n in 1..=6_u64 {
            archive.segment(n * 10, &log(&[(10, n as u8)]), n * 10 + 10, 1).await;
        }
        let whole = archive.log().await;
        for start in [10, 30, 50] {
            let range = OffsetRange::new(Offset(start), Offset(start + 20));
            let index = Index::of(&whole, T1, range, 1).encode(&"main".parse().unwrap()).unwrap();
            let object = narrow(range);
            match damaged {
                None if start == 30 => {}
                Some(rubbish) if start == 30 => drop(archive.put(&object, &rubbish[..]).await),
                _ => drop(archive.put(&object, index).await),
            }
        }
        let loaded = archive.log().await;
        assert_eq!(indexed(&loaded), [(10, 30)]);
        assert_eq!(ranges(&loaded), ranges(&whole));
    }
}

#[tokio::test]
async fn a_footer_may_be_longer_than_most() {
    let archive = Archive::new(MemoryStore::new()).await;
    let raw = log(&[(10, 1)]);
    let header =
        Header { cluster: "main".parse().unwrap(), engine: "toy".into(), timeline: T1, start: Offset(64), epoch: 1 };
    let mut writer = SegmentWriter::new(header, Compression::Lz4);
    writer.write(&raw);
    let mut summary = Summary::empty(Offset(64), Offset(74));
    summary.range.end = Offset(74);
    let point = |n: i64| RestorePoint { name: format!("before migration {n}"), time: Timestamp(n), end: Offset(74) };
    summary.restore_points = (0..FOOTER_BYTES.cast_signed() / 10).map(point).collect();
    let finished = writer.finish(&summary).unwrap();
    let object = ObjectName::Segment { timeline: T1, range: summary.range, epoch: 1, codec: Codec::Lz4 };
    archive.put(&object, finished.body.concat()).await;
    assert_eq!(archive.log().await.restore_points, summary.restore_points);
}

#[tokio::test]
async fn a_store_that_cannot_be_read_is_not_damaged() {
    let store = Arc::new(MemoryStore::new());
    let archive = Archive::new(Shared(store.clone())).await;
    let name = archive.segment(64, &log(&[(10, 1)]), 74, 1).await;
    store.fail_when(move |_, of| {
        (of == name).then(|| crate::store::memory::Fault::Before(Error::new(Kind::StoreUnreachable, "gone")))
    });
    assert_eq!(archive.load().await.unwrap_err().kind(), Kind::StoreUnreachable);
}

#[tokio::test]
async fn a_tail_that_overlaps_a_segment_in_part_is_refused() {
    let archive = Archive::new(MemoryStore::new()).await;
    archive.segment(64, &log(&[(10, 1)]), 74, 1).await;
    archive.tail(69, 2, log(&[(10, 2), (10, 3)])).await;
    let error = archive.load().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corruption);
    assert!(error.message().contains("overlap"), "{error}");
}

/// The segment's footer is sound; that its log is not shows when the record that crosses
/// into the tail is read.
#[tokio::test]
async fn a_tail_behind_a_segment_whose_log_proves_damaged_counts() {
    let store = Arc::new(MemoryStore::new());
    let archive = Archive::new(Shared(store.clone())).await;
    // The end of the crossing record is read as one of its own.
    let raw = [&log(&[(56, 1), (8, 2)])[..], &[4, 7, b'x', b'x'], &log(&[(10, 3)])].concat();
    let raw = {
        let mut raw = raw;
        raw[56] = 12;
        raw
    };
    let name = archive.segment(64, &raw[..64], 120, 1).await;
    archive.tail(128, 1, raw[64..].to_vec()).await;
    assert_eq!(ranges(&archive.log().await), [(64, 128, 1), (128, 142, 1)]);
    let mut bytes = store.get(&name, Part::All).await.unwrap().unwrap().to_vec();
    let at = bytes.windows(4).position(|four| four == [12, 2, b'x', b'x']).expect("so short a log is not compressed");
    bytes[at + 2] = b'y';
    store.tamper(&name, Some(bytes.into()));
    let log = archive.log().await;
    assert_eq!((ranges(&log), log.damaged[0].object.as_str()), (vec![(128, 142, 1)], name.as_str()));
}

#[tokio::test]
async fn what_a_fenced_writer_made_is_left_out_though_the_others_are_damaged() {
    let store = Arc::new(MemoryStore::new());
    let archive = Archive::new(Shared(store.clone())).await;
    archive.segment(64, &log(&[(10, 1), (10, 2)]), 84, 1).await;
    let name = archive.segment(64, &log(&[(10, 1)]), 74, 2).await;
    archive.segment(74, &log(&[(10, 2), (10, 3)]), 94, 2).await;
    store.tamper(&name, Some(Bytes::from_static(b"rubbish")));
    assert_eq!(ranges(&archive.log().await).last(), Some(&(74, 94, 2)));
}
