use proptest::prelude::*;

use super::*;
use crate::catalog::Gap;
use crate::model::changes::{Kinds, TABLES_MAX};

fn cluster() -> ClusterName {
    "main".parse().unwrap()
}

fn key(index: &Index) -> Indexed {
    Indexed { level: 0, range: index.range, epoch: index.epoch }
}

fn decode(index: &Index, bytes: &[u8]) -> Result<Index> {
    Index::decode("main/log/00000001/index/x", &cluster(), index.timeline, key(index), bytes)
}

prop_compose! {
    fn segment()(
        hole in prop_oneof![4 => Just(0_u64), 1 => 1..1_u64 << 40],
        len in 1..1_u64 << 32,
        back in 0..1_u64 << 33,
        epoch: u32,
        transactions: u32,
        times in any::<Option<(i64, i64)>>(),
        ids in any::<Option<(u64, u64)>>(),
        zstd: bool,
    ) -> (u64, u64, SegmentInfo) {
        (hole, len, SegmentInfo {
            range: OffsetRange::new(Offset(0), Offset(0)),
            boundary: Offset(back),
            epoch,
            transactions,
            times: times.map(|(a, b)| (Timestamp(a.min(b)), Timestamp(a.max(b)))),
            ids: ids.map(|(a, b)| (a.min(b), a.max(b))),
            holder: Holder::Segment(if zstd { Codec::Zstd } else { Codec::Lz4 }),
        })
    }
}

prop_compose! {
    fn index()(
        start in 0..1_u64 << 50,
        parts in prop::collection::vec(segment(), 1..20),
        after in 0..100_u64,
        tables in prop::collection::vec(prop::collection::vec((0..5_u8, 0..64_u8), 0..4), 20),
        points in prop::collection::vec(("[a-zäß ]{0,20}", any::<i64>(), any::<u64>()), 0..5),
        epoch: u32,
    ) -> Index {
        let mut at = start;
        let mut segments = Vec::new();
        for (hole, len, mut info) in parts {
            info.range = OffsetRange::new(Offset(at + hole), Offset(at + hole + len));
            at = info.range.end.0;
            info.boundary = Offset(at.saturating_sub(info.boundary.0));
            segments.push(info);
        }
        let range = OffsetRange::new(Offset(start), Offset(at + after));
        let mut restore_points: Vec<_> = points.into_iter()
            .map(|(name, time, end)| RestorePoint { name, time: Timestamp(time), end: Offset(start + 1 + end % range.len()) })
            .collect();
        restore_points.sort_by_key(|p| p.end);
        let touched = |tables: Vec<(u8, u8)>| {
            let table = |(name, kinds)| (format!("shop.t{name}").into(), Kinds::from_bits(kinds).unwrap());
            Arc::new(Touched { more: tables.len() == 1, tables: tables.into_iter().map(table).collect() })
        };
        let touched = if epoch.is_multiple_of(3) { Vec::new() } else { tables.into_iter().take(segments.len()).map(touched).collect() };
        Index { timeline: TimelineId(7), range, epoch, segments, restore_points, touched }
    }
}

proptest! {
    #[test]
    fn reads_back_what_it_wrote(index in index()) {
        let bytes = index.encode(&cluster()).unwrap();
        prop_assert_eq!(decode(&index, &bytes).unwrap(), index);
    }

    #[test]
    fn refuses_any_changed_or_missing_byte(index in index(), bit in 0..8_u32) {
        let bytes = index.encode(&cluster()).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            prop_assert!(decode(&index, &changed).is_err(), "byte {}", at);
            prop_assert!(decode(&index, &bytes[..at]).is_err(), "cut at {}", at);
        }
    }

    /// The checksum is not all that stands between a reader and nonsense: with a
    /// right checksum over wrong bytes nothing panics, and what is taken is sound.
    #[test]
    fn wrong_bytes_under_a_right_checksum_never_panic(
        index in index(), at in any::<prop::sample::Index>(), byte: u8,
    ) {
        let mut bytes = index.encode(&cluster()).unwrap();
        let body = bytes.len() - 4;
        bytes[at.index(body)] = byte;
        let crc = crc_fast::crc32_iscsi(&bytes[..body]).to_le_bytes();
        bytes[body..].copy_from_slice(&crc);
        if let Ok(read) = decode(&index, &bytes) {
            prop_assert_eq!(read.encode(&cluster()).unwrap(), bytes, "one value, one form");
        }
    }
}

/// `count` ordinary segments of 16 MiB from `first` on.
fn ordinary(first: u64, count: u64) -> Vec<SegmentInfo> {
    (first..first + count)
        .map(|n| SegmentInfo {
            range: OffsetRange::new(Offset(n << 24), Offset((n + 1) << 24)),
            boundary: Offset(((n + 1) << 24) - 40),
            epoch: 3,
            transactions: 9000,
            times: Some((
                Timestamp(1_790_000_000_000_000 + (n as i64) * 9_000_000),
                Timestamp(1_790_000_008_900_000 + (n as i64) * 9_000_000),
            )),
            ids: Some((n * 9000, n * 9000 + 9010)),
            holder: Holder::Segment(Codec::Lz4),
        })
        .collect()
}

#[test]
fn an_ordinary_segment_takes_few_bytes() {
    let segments = ordinary(1, 256);
    let range = OffsetRange::new(Offset(1 << 24), Offset(257 << 24));
    let index =
        Index { timeline: TimelineId(1), range, epoch: 1, segments, restore_points: Vec::new(), touched: Vec::new() };
    let bytes = index.encode(&cluster()).unwrap();
    assert!(bytes.len() < 256 * 26, "{} bytes per segment", bytes.len() / 256);
}

/// Most logs change the same tables all the time.
#[test]
fn tables_take_few_bytes() {
    let segments = ordinary(1, 256);
    let range = OffsetRange::new(Offset(1 << 24), Offset(257 << 24));
    let mut index =
        Index { timeline: TimelineId(1), range, epoch: 1, segments, restore_points: Vec::new(), touched: Vec::new() };
    let without = index.encode(&cluster()).unwrap().len();
    let set = |count: usize| {
        let tables = (0..count).map(|n| (format!("shop.orders_{n}").into(), Kinds::from_bits(7).unwrap()));
        Arc::new(Touched { tables: tables.collect(), more: count == TABLES_MAX })
    };
    index.touched = (0..256).map(|n| set(if n % 50 == 0 { TABLES_MAX } else { 10 })).collect();
    let bytes = index.encode(&cluster()).unwrap();
    assert!(bytes.len() < without + 256 * 5, "{} bytes per segment", (bytes.len() - without) / 256);
    assert_eq!(decode(&index, &bytes).unwrap(), index);
    index.touched.pop();
    assert!(index.encode(&cluster()).is_err(), "one segment is not told of");
}

#[test]
fn an_index_takes_over_what_is_known_of_its_segments() {
    let mut log = TimelineLog { segments: ordinary(1, 300), ..TimelineLog::default() };
    let touched = Arc::new(Touched { tables: vec![("shop.orders".into(), Kinds::from_bits(1).unwrap())], more: false });
    log.touched.insert(Offset(7 << 24), Arc::clone(&touched));
    log.touched.insert(Offset(299 << 24), touched);
    let index = Index::of(&log, TimelineId(1), narrow(&log, 1), 1);
    let tables: Vec<usize> = (0..NARROW).filter(|n| !index.touched[*n].tables.is_empty()).collect();
    assert_eq!(tables, [6]);
}

#[test]
fn refuses_an_index_of_something_else() {
    let range = OffsetRange::new(Offset(1 << 24), Offset(2 << 24));
    let index = Index {
        timeline: TimelineId(1),
        range,
        epoch: 1,
        segments: ordinary(1, 1),
        restore_points: Vec::new(),
        touched: Vec::new(),
    };
    let bytes = index.encode(&cluster()).unwrap();
    let other = Index { epoch: 2, ..index.clone() };
    let error = decode(&other, &bytes).unwrap_err();
    assert_eq!(
        error.message(),
        "index main/log/00000001/index/x is that of 0000000001000000-0000000002000000, epoch 1, timeline 00000001, cluster main"
    );
    let foreign = Index::decode("x", &"other".parse().unwrap(), index.timeline, key(&index), &bytes).unwrap_err();
    assert_eq!(foreign.kind(), crate::Kind::Corruption);
}

/// Writes what is due into `log`, which keeps all its segments. How many indexes that were.
fn roll_up(log: &mut TimelineLog, log_file_bytes: u64) -> usize {
    let mut writes = 0;
    while let Some(due) = due(log, log_file_bytes) {
        let (level, range, parts) = match due {
            Due::Narrow(range) => (0, range, Vec::new()),
            Due::Wider(parts) => {
                let read = parts.iter().map(|part| Index::of(log, TimelineId(1), part.range, part.epoch)).collect();
                (parts[0].level + 1, Index::merged(read, 1).unwrap().range, parts)
            }
        };
        let at = log.indexes.iter().position(|one| parts.contains(one)).unwrap_or(log.indexes.len());
        log.indexes.retain(|one| !parts.contains(one));
        log.indexes.insert(at, Indexed { level, range, epoch: 1 });
        writes += 1;
    }
    writes
}

/// The range of a narrow index, which is due.
fn narrow(log: &TimelineLog, log_file_bytes: u64) -> OffsetRange {
    match due(log, log_file_bytes) {
        Some(Due::Narrow(range)) => range,
        due => panic!("{due:?}"),
    }
}

/// Writing whatever is due, as segments come in, ends with few indexes whose ranges
/// follow one another and which together hold every segment once.
#[test]
fn what_is_due_keeps_the_indexes_few_and_whole() {
    let total = (NARROW * MERGE * MERGE * 2 + NARROW * MERGE + NARROW * 3 + 5) as u64;
    let all: Vec<SegmentInfo> = ordinary(1, total).into_iter().filter(|s| s.range.start.0 >> 24 != 70).collect();
    let lost = OffsetRange::new(Offset(70 << 24), Offset(71 << 24));
    let gap = Gap { range: lost, cause: "recycled".into(), found: Timestamp(0), confirmed: None, position: None };
    let mut log = TimelineLog { gaps: vec![gap], ..TimelineLog::default() };
    let mut writes = 0;
    for segment in all {
        log.segments.push(segment);
        writes += roll_up(&mut log, 1);
        assert!(log.indexes.chunk_by(|a, b| a.level == b.level).all(|same| same.len() < MERGE));
        assert!(log.indexes.is_sorted_by_key(|index| std::cmp::Reverse(index.level)));
    }
    let levels: Vec<u8> = log.indexes.iter().map(|index| index.level).collect();
    assert_eq!(levels, [2, 2, 1, 0, 0, 0]);
    assert_eq!(writes, (MERGE * MERGE * 2 + MERGE + 3) + (MERGE * 2 + 1) + 2);
    for pair in log.indexes.windows(2) {
        assert_eq!(pair[0].range.end, pair[1].range.start);
    }
    let indexed: usize =
        log.indexes.iter().map(|index| Index::of(&log, TimelineId(1), index.range, 1).segments.len()).sum();
    assert_eq!(log.segments.len() - indexed, 4);
}

/// The widest ones are not merged: they would be too large to hold.
#[test]
fn the_widest_indexes_stay_as_they_are() {
    let mut log = TimelineLog { segments: ordinary(1, 40), ..TimelineLog::default() };
    for n in 1..=10 {
        let range = OffsetRange::new(Offset(n << 24), Offset((n + 1) << 24));
        log.indexes.push(Indexed { level: LEVEL_MAX, range, epoch: 1 });
    }
    assert_eq!(roll_up(&mut log, 1), 1);
    assert_eq!(log.indexes.len(), 11);
}

proptest! {
    /// Merged, they tell what they told apart.
    #[test]
    fn merged_indexes_tell_what_they_told(whole in index(), at in any::<prop::sample::Index>()) {
        let ends: Vec<Offset> = whole.segments.iter().map(|segment| segment.range.end).collect();
        let middle = ends[at.index(ends.len())];
        prop_assume!(whole.range.start < middle && middle < whole.range.end);
        let log = TimelineLog {
            segments: whole.segments.clone(),
            restore_points: whole.restore_points.clone(),
            touched: whole.segments.iter().map(|s| s.range.start).zip(whole.touched.iter().cloned()).filter(|(_, t)| !t.tables.is_empty()).collect(),
            ..TimelineLog::default()
        };
        let part = |start, end| Index::of(&log, whole.timeline, OffsetRange::new(start, end), 5);
        let merged = Index::merged(vec![part(whole.range.start, middle), part(middle, whole.range.end)], 9);
        prop_assert_eq!(merged, Some(Index { epoch: 9, ..Index::of(&log, whole.timeline, whole.range, 9) }));
    }
}

/// What an index covers is not listed any more, so that log which comes into the hole
/// later would never be seen.
#[test]
fn an_index_ends_at_a_hole_that_nobody_recorded() {
    let segments: Vec<SegmentInfo> =
        ordinary(1, 3 * NARROW as u64).into_iter().filter(|s| s.range.start.0 >> 24 != NARROW as u64 + 5).collect();
    let mut log = TimelineLog { segments, ..TimelineLog::default() };
    let first = narrow(&log, 1);
    assert_eq!(roll_up(&mut log, 1), 1);
    assert_eq!(Index::of(&log, TimelineId(1), first, 1).segments.len(), NARROW);
    assert_eq!(due(&log, 1), None);
}

/// A damaged segment may yet be put back, and then it has to be seen.
#[test]
fn no_index_covers_a_damaged_segment() {
    let mut log = TimelineLog { segments: ordinary(1, 3 * NARROW as u64), ..TimelineLog::default() };
    log.indexes.push(Indexed { level: 0, range: narrow(&log, 1), epoch: 1 });
    let segment = log.segments[NARROW + 5];
    let layout = crate::catalog::layout::Layout::new("main".parse().unwrap());
    let error = Error::corruption("rubbish");
    let damaged = crate::catalog::damage::Damaged::new(&layout, segment.object(TimelineId(1)), error).unwrap();
    assert!(due(&log, 1).is_some());
    log.set_aside(&segment, damaged);
    assert_eq!(due(&log, 1), None);
    log.segments.insert(NARROW + 5, SegmentInfo { epoch: 2, ..segment });
    assert!(due(&log, 1).is_some(), "another one holds its log");
}

#[test]
fn an_index_ends_with_a_log_file() {
    let log = TimelineLog { segments: ordinary(1, NARROW as u64 + 20), ..TimelineLog::default() };
    let file = 1 << 24;
    let (each, fourth) = (narrow(&log, file).end, narrow(&log, 4 * file).end);
    assert_eq!(fourth.0, each.0.next_multiple_of(4 * file));
    assert!(fourth > each);
    assert_eq!(due(&log, 1 << 40), None);
}
