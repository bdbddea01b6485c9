//! Log files of 100 bytes, put together from segments and tails in memory.

use std::sync::Arc;

use super::*;
use crate::catalog::layout::Layout;
use crate::model::cluster::Identity;
use crate::model::summary::Summary;
use crate::model::time::Timestamp;
use crate::model::timeline::{Ancestor, History};
use crate::segment::codec::Compression;
use crate::segment::trailer::Trailer;
use crate::store::memory::MemoryStore;

const T2: TimelineId = TimelineId(2);
const FILE: u64 = 100;

/// The byte of the log at an offset: none is zero.
fn byte(at: u64) -> u8 {
    (at % 250) as u8 + 1
}

fn log(start: u64, end: u64) -> Vec<u8> {
    (start..end).map(byte).collect()
}

fn range(start: u64, end: u64) -> OffsetRange {
    OffsetRange::new(Offset(start), Offset(end))
}

fn archive() -> Archive {
    let identity = Identity::some(FILE);
    Archive {
        store: Arc::new(MemoryStore::new()),
        layout: Layout::new("main".parse().unwrap()),
        identity,
        sealed: None,
    }
}

async fn segment(archive: &Archive, start: u64, end: u64) {
    let summary = Summary { range: range(start, end), ..Summary::empty(Offset(start), Offset(end)) };
    archive.create_segment(T2, &log(start, end), &summary, 1, Compression::Lz4).await.unwrap();
}

/// A tail with log up to `end` and, where there is room, a trailer behind it.
async fn tail(archive: &Archive, start: u64, end: u64, size: usize, trailer: bool) {
    let mut bytes = log(start, end);
    if trailer {
        bytes.extend(Trailer { boundary: Offset(end), confirmed: Timestamp(1) }.encode(Offset(start)));
    }
    assert!(bytes.len() <= size);
    bytes.resize(size, 0);
    let name = archive.layout.name(&ObjectName::Tail { timeline: T2, start: Offset(start), epoch: 1 });
    archive.store.create(&name, vec![bytes.into()]).await.unwrap();
}

fn engine() -> Box<dyn Engine> {
    crate::engine::by_name("postgres").unwrap()
}

async fn files(archive: &Archive) -> TimelineFiles {
    TimelineFiles::list(archive, engine().as_ref(), T2).await.unwrap()
}

/// The file of `range`, which must be held whole or in part.
async fn written(files: &TimelineFiles, range: OffsetRange, until: u64) -> Result<Vec<u8>> {
    let (Holding::Whole(parts) | Holding::Beginning(parts)) = files.holding(range) else {
        panic!("{:?}", files.holding(range));
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let result = files.write(range, Offset(until), &parts, &path).await;
    let written = matches!(result, Ok(true));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), usize::from(written));
    result.map(|_| std::fs::read(path).unwrap_or_default())
}

/// What was damaged once may have been archived again, under another epoch.
#[tokio::test]
async fn damaged_log_is_read_from_another_segment_that_holds_it() {
    let archive = archive();
    let stored = |start, end, epoch| {
        let codec = crate::catalog::Codec::Lz4;
        archive.layout.name(&ObjectName::Segment { timeline: T2, range: range(start, end), epoch, codec })
    };
    for (start, end, epoch) in [(0, 100, 1), (100, 200, 1), (100, 200, 3), (150, 200, 2)] {
        let summary = Summary { range: range(start, end), ..Summary::empty(Offset(start), Offset(end)) };
        archive.create_segment(T2, &log(start, end), &summary, epoch, Compression::Lz4).await.unwrap();
    }
    let damage = |name: String| async {
        archive.store.delete(&name).await.unwrap();
        archive.store.create(&name, vec!["not a segment".into()]).await.unwrap();
        name
    };
    let newest = damage(stored(100, 200, 3)).await;
    assert_eq!(written(&files(&archive).await, range(100, 200), 200).await.unwrap(), log(100, 200));
    damage(stored(100, 200, 1)).await;
    let error = written(&files(&archive).await, range(100, 200), 200).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corruption);
    assert!(error.message().contains(&newest), "{error}");
}

fn is_whole(holding: &Holding) -> bool {
    matches!(holding, Holding::Whole(_))
}

/// It says up to when the log is complete, or was made a moment ago.
#[tokio::test]
async fn a_tail_without_log_is_no_file() {
    for trailer in [true, false] {
        let archive = archive();
        segment(&archive, 0, 100).await;
        tail(&archive, 100, 100, 100, trailer).await;
        assert_eq!(written(&files(&archive).await, range(100, 200), 200).await.unwrap(), Vec::<u8>::new());
    }
}

/// At the moment at which a writer goes on to the next file, the one before is a tail that
/// is not sealed yet.
#[tokio::test]
async fn a_full_tail_before_another_piece_is_whole() {
    let archive = archive();
    segment(&archive, 0, 100).await;
    tail(&archive, 100, 200, 100, false).await;
    assert!(matches!(files(&archive).await.holding(range(100, 200)), Holding::Beginning(_)), "it may be growing");
    tail(&archive, 200, 230, 100, true).await;
    let files = files(&archive).await;
    assert!(is_whole(&files.holding(range(100, 200))));
    assert_eq!(written(&files, range(100, 200), 200).await.unwrap(), log(100, 200));
    let open = [log(200, 230), vec![0; 70]].concat();
    assert_eq!(written(&files, range(200, 300), 300).await.unwrap(), open);
}

#[tokio::test]
async fn a_full_tail_may_be_a_part_of_a_file() {
    let archive = archive();
    tail(&archive, 100, 150, 50, false).await;
    segment(&archive, 150, 200).await;
    segment(&archive, 200, 260).await;
    let files = files(&archive).await;
    assert!(is_whole(&files.holding(range(100, 200))));
    assert_eq!(written(&files, range(100, 200), 200).await.unwrap(), log(100, 200));
}

/// Nothing says that a tail with room left is followed by what lies behind it.
#[tokio::test]
async fn a_tail_that_is_not_full_is_followed_by_nothing() {
    let archive = archive();
    tail(&archive, 100, 130, 100, true).await;
    segment(&archive, 300, 400).await;
    assert_eq!(files(&archive).await.holding(range(100, 200)), Holding::Hole(Offset(200)));
    segment(&archive, 200, 300).await;
    let error = written(&files(&archive).await, range(100, 200), 200).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotRecoverable);
    assert!(error.message().contains("tail-0000000000000064-00000001"), "{error}");
}

/// Its file was made for more than became of it.
#[tokio::test]
async fn a_tail_ends_where_log_goes_on_though_its_file_is_longer() {
    let archive = archive();
    tail(&archive, 100, 150, 100, false).await;
    tail(&archive, 150, 170, 100, false).await;
    segment(&archive, 170, 280).await;
    let files = files(&archive).await;
    assert!(is_whole(&files.holding(range(100, 200))));
    assert_eq!(written(&files, range(100, 200), 200).await.unwrap(), log(100, 200));
}

#[tokio::test]
async fn a_tail_with_a_recorded_gap_in_it_is_not_full() {
    let archive = archive();
    tail(&archive, 100, 180, 100, false).await;
    segment(&archive, 200, 300).await;
    assert!(is_whole(&files(&archive).await.holding(range(100, 200))), "by the names alone");
    let gap = ObjectName::Gap { timeline: T2, range: range(180, 200), epoch: 1 };
    archive.store.create(&archive.layout.name(&gap), vec!["{}".into()]).await.unwrap();
    assert_eq!(files(&archive).await.holding(range(100, 200)), Holding::Hole(Offset(200)));
}

#[tokio::test]
async fn what_lies_behind_the_end_asked_for_is_zeros() {
    let archive = archive();
    segment(&archive, 0, 60).await;
    tail(&archive, 60, 100, 40, false).await;
    tail(&archive, 100, 150, 100, true).await;
    let files = files(&archive).await;
    for until in [1, 59, 60, 61, 99] {
        let expected = [log(0, until), vec![0; 100 - until as usize]].concat();
        assert_eq!(written(&files, range(0, 100), until).await.unwrap(), expected, "{until}");
    }
    assert_eq!(written(&files, range(0, 100), u64::MAX).await.unwrap(), log(0, 100));
}

#[tokio::test]
async fn log_before_what_is_held_is_a_hole_where_the_history_says_that_it_exists() {
    let archive = archive();
    segment(&archive, 300, 400).await;
    assert_eq!(files(&archive).await.holding(range(100, 200)), Holding::Nothing, "nothing is known of its beginning");
    let ancestors = vec![Ancestor { timeline: TimelineId(1), switch: Offset(150) }];
    archive.keep_history(&History { timeline: T2, ancestors, native: String::new() }).await.unwrap();
    let files = files(&archive).await;
    assert_eq!(files.holding(range(0, 100)), Holding::Nothing, "it begins later");
    assert_eq!(files.holding(range(100, 200)), Holding::Hole(Offset(100)));
    assert_eq!(files.holding(range(200, 300)), Holding::Hole(Offset(200)));
    assert_eq!(files.holding(range(400, 500)), Holding::Nothing, "there is none behind it");
}

#[tokio::test]
async fn an_archive_may_hold_no_log() {
    let archive = archive();
    let ancestors = vec![Ancestor { timeline: TimelineId(1), switch: Offset(150) }];
    archive.keep_history(&History { timeline: T2, ancestors, native: String::new() }).await.unwrap();
    assert!(!holds_log(&archive).await.unwrap());
    tail(&archive, 0, 10, 100, true).await;
    assert!(holds_log(&archive).await.unwrap());
}

#[tokio::test]
async fn a_sealed_tail_never_hides_its_segment() {
    let archive = archive();
    tail(&archive, 100, 150, FILE as usize, true).await;
    segment(&archive, 100, 200).await;
    let files = files(&archive).await;
    assert!(is_whole(&files.holding(range(100, 200))));
    assert_eq!(written(&files, range(100, 200), 200).await.unwrap(), log(100, 200));
}

/// A writer died when it had begun to take over from another that had died.
#[test]
fn of_two_tails_of_one_start_only_the_one_that_counts_is_read() {
    let tail = |start, end, epoch| by_name(range(start, end), epoch, Holder::Tail);
    let mut all = vec![by_name(range(0, 100), 1, Holder::Segment(crate::catalog::Codec::Lz4)), tail(100, 200, 1)];
    assert!(!has_twins(&all));
    all.extend([tail(100, 200, 2), tail(200, 300, 2)]);
    assert!(has_twins(&all));
    for (counts, left) in [(Some(1), 3), (Some(2), 3), (None, 4)] {
        let mut all = all.clone();
        drop_twins(&mut all, &counts.map(|epoch| tail(100, 130, epoch)).into_iter().collect::<Vec<_>>());
        let epochs: Vec<u32> = all.iter().filter(|s| s.range.start == Offset(100)).map(|s| s.epoch).collect();
        assert!(all.len() == left && counts.is_none_or(|epoch| epochs == [epoch]), "{all:?}");
    }
}

#[tokio::test]
async fn a_tail_goes_on_behind_a_closed_segment_that_holds_less() {
    let archive = archive();
    tail(&archive, 100, 168, FILE as usize, true).await;
    segment(&archive, 120, 150).await;
    let bytes = written(&files(&archive).await, range(100, 200), 200).await.unwrap();
    assert_eq!(bytes, [log(100, 168), vec![0; 32]].concat());
}

#[tokio::test]
async fn a_few_names_are_enough_for_a_file_that_is_there() {
    let archive = archive();
    for at in (0x1000..0x2000).step_by(100) {
        if at != 0x1000 + 500 {
            segment(&archive, at, at + 100).await;
        }
    }
    let all = files(&archive).await;
    for start in (0x1000 - 200..0x2200).step_by(100) {
        let wanted = range(start, start + 100);
        let near = TimelineFiles::around(&archive, engine().as_ref(), T2, wanted).await.unwrap();
        assert_eq!(near.holding(wanted), all.holding(wanted), "{start:X}");
        let few = matches!(all.holding(wanted), Holding::Whole(_)) && start / 0x100 == (start + 99) / 0x100;
        assert!(!few || near.segments.len() <= 3, "{start:X}: {}", near.segments.len());
    }
}
