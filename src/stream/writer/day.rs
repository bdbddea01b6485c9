//! How many requests a day costs in a bucket: the writer's own, over a part of a day of a clock that the test moves.
//!
//! Log files are small here and log comes slower by as much, which leaves every count as it is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::*;
use crate::catalog::archive::Archive;
use crate::catalog::fence;
use crate::catalog::layout::Layout;
use crate::engine::Scanner;
use crate::model::cluster::Identity;
use crate::model::time::Clock;
use crate::model::timeline::TimelineId;
use crate::segment::cutter::Limits;
use crate::store::memory::MemoryStore;

const T1: TimelineId = TimelineId(1);
/// What files and log are made smaller by.
const SMALLER: u64 = 128;
const FILE: u64 = (16 << 20) / SMALLER;
/// Of a day this part is simulated.
const PART: u64 = 12;
const PART_MICROS: i64 = 86_400_000_000 / PART as i64;
/// Log comes so often.
const STEP: Duration = Duration::from_millis(20);

/// Every byte is a record.
struct Bare(u64);

impl Scanner for Bare {
    fn feed(&mut self, bytes: &[u8], _: &mut Vec<Mark>) -> Result<()> {
        self.0 += bytes.len() as u64;
        Ok(())
    }

    fn boundary(&self) -> Offset {
        Offset(self.0)
    }

    fn offset(&self) -> Offset {
        Offset(self.0)
    }
}

#[derive(Default)]
struct Hand(AtomicI64);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

/// What a part of a day cost, and how many objects of it no other hides at its end.
struct Day {
    requests: BTreeMap<String, u64>,
    kept: u64,
}

impl Day {
    fn total(&self) -> u64 {
        PART * self.requests.values().sum::<u64>()
    }
}

/// How many of these are indexes, or segments that no wider one hides.
fn kept(names: &[String], layout: &Layout) -> u64 {
    let objects = || names.iter().filter_map(|name| layout.parse(name));
    let ranges = objects().filter_map(|object| match object {
        ObjectName::Segment { range, .. } => Some(range),
        _ => None,
    });
    let mut ranges: Vec<OffsetRange> = ranges.collect();
    ranges.sort_by_key(|range| (range.start, std::cmp::Reverse(range.end)));
    let mut end = Offset(0);
    let seen = ranges.iter().filter(|range| {
        let is_seen = range.end > end;
        end = end.max(range.end);
        is_seen
    });
    (seen.count() + objects().filter(|object| matches!(object, ObjectName::Index { .. })).count()) as u64
}

/// A day on which so many bytes of log come each second, or none and the server says so now and then.
fn day(bytes_per_second: u64) -> Day {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let memory = Arc::new(MemoryStore::new());
        let identity = Identity { engine: "postgres".into(), ..Identity::some(FILE) };
        let layout = Layout::new("main".parse().unwrap());
        let archive = Archive { store: memory.clone(), layout, identity, sealed: None };
        let clock = Arc::new(Hand::default());
        let epoch = fence::claim(memory.as_ref(), &archive.layout, clock.as_ref(), "test").await.unwrap();
        let counts = Arc::new(Mutex::new(BTreeMap::new()));
        let counting = Arc::clone(&counts);
        memory.fail_when(move |operation, name| {
            let folder = name.split('/').nth(1).unwrap_or_default();
            let is_index = name.contains("/index/");
            let what = format!("{operation:?} {}", if is_index { "index" } else { folder });
            *counting.lock().unwrap().entry(what).or_default() += 1;
            None
        });
        let setup = Setup {
            archive: archive.clone(),
            engine: Arc::from(crate::engine::by_name("postgres").unwrap()),
            epoch,
            timeline: T1,
            limits: Limits { log_file_bytes: FILE, segment_bytes: FILE, flush_interval_micros: Some(1_000_000) },
            compression: Compression::Lz4,
            scanner: Box::new(Bare(0)),
            start: Offset(0),
            log_end: Offset(0),
            acknowledged: Offset::ZERO,
            confirms: true,
            carried: None,
            creates: Arc::default(),
            file_segments: Vec::new(),
            unindexed: 0,
            tails: None,
            spool: None,
            clock: clock.clone(),
        };
        let (_closing, closed) = watch::channel(false);
        let (shared, _progress) = Shared::new(&setup, closed);
        let mut writer = Writer::new(setup, shared);
        let hand = Arc::clone(&clock);
        let work = move || {
            writer.begin().unwrap();
            let mut sent = 0;
            while hand.now().0 < PART_MICROS {
                let now = Timestamp(hand.0.fetch_add(STEP.as_micros() as i64, Ordering::Relaxed));
                writer.runtime.block_on(tokio::time::advance(STEP));
                let due = bytes_per_second * now.0 as u64 / 1_000_000 / SMALLER;
                let input = if due > sent {
                    let bytes = Bytes::from(vec![7; (due - sent) as usize]);
                    let (start, log_end) = (Offset(sent), Offset(due));
                    sent = due;
                    Input::Data { start, bytes, log_end, time: now }
                } else {
                    Input::Confirmed { log_end: Offset(sent), time: now, idle: true }
                };
                writer.take(input).unwrap();
                writer.tick().unwrap();
                // The store answers before more log comes.
                writer.wait_for_uploads(0).unwrap();
            }
            writer.finish(false).unwrap();
        };
        tokio::task::spawn_blocking(work).await.unwrap();
        let requests = std::mem::take(&mut *counts.lock().unwrap());
        Day { requests, kept: kept(&memory.names(), &archive.layout) }
    })
}

#[test]
fn a_day_without_log_costs_nothing() {
    let day = day(0);
    assert_eq!(day.total(), 0, "{:?}", day.requests);
}

#[test]
fn a_day_of_a_megabyte_a_second_costs_about_a_request_for_each_second() {
    let day = day(1_000_000);
    eprintln!("{} requests, of which a part: {:?}; {} kept", day.total(), day.requests, PART * day.kept);
    assert!(day.total() <= 90_000, "{}: {:?}", day.total(), day.requests);
    assert!(PART * day.kept <= 6_000, "{}", day.kept);
}
