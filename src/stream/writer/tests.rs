//! A writer on a real directory, without a server: records are ten bytes long, log files a
//! hundred, and the store in between refuses what it is told to.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};

use super::*;
use crate::catalog::Codec;
use crate::catalog::archive::Archive;
use crate::catalog::fence::{self, Epoch};
use crate::catalog::layout::Layout;
use crate::catalog::load::{Known, past_indexes};
use crate::engine::Scanner;
use crate::error::Kind;
use crate::model::cluster::Identity;
use crate::model::time::Clock;
use crate::model::timeline::TimelineId;
use crate::segment::cutter::{Limits, NO_FILES};
use crate::segment::read::{FooterRead, read_footer};
use crate::store::local::LocalStore;
use crate::store::{Created, ObjectInfo, Part, Store};
use crate::stream::spool::Spool;

pub(in crate::stream) const T1: TimelineId = TimelineId(1);
const RECORD: u64 = 10;
const FILE: u64 = 100;

/// A byte that makes a record unsound; zero is another.
const UNSOUND: u8 = 0xff;

struct Tens {
    boundary: u64,
    offset: u64,
}

impl Scanner for Tens {
    fn feed(&mut self, bytes: &[u8], _: &mut Vec<Mark>) -> Result<()> {
        for byte in bytes {
            if [0, UNSOUND].contains(byte) {
                return Err(Error::corruption("no record"));
            }
            self.offset += 1;
            if self.offset.is_multiple_of(RECORD) {
                self.boundary = self.offset;
            }
        }
        Ok(())
    }

    fn boundary(&self) -> Offset {
        Offset(self.boundary)
    }

    fn offset(&self) -> Offset {
        Offset(self.offset)
    }
}

/// A scanner that has read everything before `offset`.
pub(in crate::stream) fn scanner_at(offset: u64) -> Box<dyn Scanner> {
    Box::new(Tens { boundary: offset / RECORD * RECORD, offset })
}

/// A clock that moves on by a second whenever it is asked.
#[derive(Default)]
struct Seconds(AtomicI64);

impl Clock for Seconds {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.fetch_add(1_000_000, Ordering::Relaxed))
    }
}

/// A directory whose door for segments can be shut for a while, or refuse whoever comes.
pub(in crate::stream) struct Doors {
    store: LocalStore,
    pub(in crate::stream) root: PathBuf,
    /// Whoever creates a segment takes a permit; without any he waits.
    segments: Semaphore,
    /// Creating this many more segments fails.
    pub(in crate::stream) refused: Mutex<u32>,
    /// What was asked to be made sure of.
    pub(in crate::stream) settled: Mutex<Vec<String>>,
}

#[async_trait]
impl Store for Doors {
    async fn create(&self, name: &str, body: Vec<Bytes>) -> Result<Created> {
        if name.ends_with(".lz4") {
            self.segments.acquire().await.unwrap().forget();
            let mut refused = self.refused.lock().unwrap();
            if let Some(less) = refused.checked_sub(1) {
                *refused = less;
                return Err(Error::new(Kind::StoreUnreachable, "told to refuse"));
            }
        }
        self.store.create(name, body).await
    }

    async fn get(&self, name: &str, part: Part) -> Result<Option<Bytes>> {
        self.store.get(name, part).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        shallow: bool,
        each: &mut (dyn FnMut(ObjectInfo) + Send),
    ) -> Result<()> {
        self.store.list(prefix, after, shallow, each).await
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        self.store.head(name).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.store.delete(name).await
    }

    async fn settle(&self, names: &[String]) -> Result<()> {
        self.settled.lock().unwrap().extend_from_slice(names);
        self.store.settle(names).await
    }

    fn local_root(&self) -> Option<&Path> {
        Some(&self.root)
    }

    fn location(&self) -> String {
        "test".into()
    }
}

/// What is known of a segment from its name.
fn info(range: OffsetRange, epoch: u32) -> SegmentInfo {
    let summary = Summary { range, ..Summary::empty(range.start, range.end) };
    SegmentInfo::of(&summary, epoch, Holder::Segment(Codec::Lz4))
}

/// An archive in a directory of its own.
pub(in crate::stream) struct Place {
    pub(in crate::stream) doors: Arc<Doors>,
    pub(in crate::stream) archive: Archive,
    _dir: tempfile::TempDir,
}

impl Place {
    pub(in crate::stream) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open(dir.path()).unwrap();
        let doors = Arc::new(Doors {
            store,
            root: dir.path().to_owned(),
            segments: Semaphore::new(Semaphore::MAX_PERMITS),
            refused: Mutex::default(),
            settled: Mutex::default(),
        });
        let identity = Identity { engine: "toy".into(), ..Identity::some(FILE) };
        let archive =
            Archive { store: doors.clone(), layout: Layout::new("main".parse().unwrap()), identity, sealed: None };
        Self { doors, archive, _dir: dir }
    }

    pub(in crate::stream) async fn claim(&self) -> Epoch {
        fence::claim(self.archive.store.as_ref(), &self.archive.layout, &Seconds::default(), "test").await.unwrap()
    }

    /// For a writer with tails that begins at `start`, where the server's log ends.
    async fn setup(&self, start: u64) -> Setup {
        self.setup_of(self.claim().await, start)
    }

    fn setup_of(&self, epoch: Epoch, start: u64) -> Setup {
        Setup {
            archive: self.archive.clone(),
            engine: Arc::from(crate::engine::by_name("postgres").unwrap()),
            epoch,
            timeline: T1,
            limits: Limits { log_file_bytes: FILE, segment_bytes: FILE / 2, flush_interval_micros: None },
            compression: Compression::Lz4,
            scanner: scanner_at(start),
            start: Offset(start),
            log_end: Offset(start),
            acknowledged: Offset::ZERO,
            confirms: true,
            carried: None,
            creates: Arc::default(),
            file_segments: Vec::new(),
            unindexed: 0,
            tails: Some(Tails { root: self.doors.root.clone(), folder: self.folder(), count: true }),
            spool: None,
            clock: Arc::new(Seconds::default()),
        }
    }

    fn folder(&self) -> PathBuf {
        self.doors.root.join(self.archive.layout.timeline(T1))
    }

    /// The names of all segments and tails.
    pub(in crate::stream) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder()).into_iter().flatten();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        names
    }

    pub(in crate::stream) fn segments(&self) -> Vec<OffsetRange> {
        let names = self.names().into_iter().map(|name| format!("{}{name}", self.archive.layout.timeline(T1)));
        let range = |name: String| match self.archive.layout.parse(&name) {
            Some(ObjectName::Segment { range, .. }) => Some(range),
            _ => None,
        };
        names.filter_map(range).collect()
    }

    /// What a tail's file holds.
    pub(in crate::stream) fn tail(&self, start: u64, epoch: u32) -> Option<Vec<u8>> {
        let name = self.archive.layout.name(&ObjectName::Tail { timeline: T1, start: Offset(start), epoch });
        std::fs::read(self.doors.root.join(name)).ok()
    }

    /// What an older writer left: a tail with `bytes` of log.
    async fn left_by_another(&self, start: u64, bytes: u64) -> Carried {
        let epoch = self.claim().await.number();
        let name = self.archive.layout.name(&ObjectName::Tail { timeline: T1, start: Offset(start), epoch });
        let mut raw = log(start, start + bytes).to_vec();
        let mut summary = Summary::empty(Offset(start), Offset(start));
        summary.range.end = Offset(start + bytes);
        summary.boundary = Offset((start + bytes) / RECORD * RECORD);
        let log = Bytes::from(raw.clone());
        raw.resize(FILE as usize / 2, 0);
        self.archive.store.create(&name, vec![raw.into()]).await.unwrap();
        Carried { start: Offset(start), bytes: log, summary, tail: Some(name) }
    }

    /// The log in the widest segment there, by the writer of the last epoch.
    async fn raw(&self, start: u64, end: u64) -> Bytes {
        let range = range(start, end);
        let found = self.names().into_iter().filter_map(|name| {
            match self.archive.layout.parse(&format!("{}{name}", self.archive.layout.timeline(T1))) {
                Some(ObjectName::Segment { range: of, epoch, .. }) if of == range => Some(epoch),
                _ => None,
            }
        });
        let epoch = found.max().unwrap();
        self.archive.raw(T1, &info(range, epoch)).await.unwrap()
    }

    /// Up to when a segment says that the log is complete.
    async fn confirmed(&self, start: u64, end: u64, epoch: u32) -> Option<Timestamp> {
        let range = range(start, end);
        let object = ObjectName::Segment { timeline: T1, range, epoch, codec: Codec::Lz4 };
        let name = self.archive.layout.name(&object);
        let bytes = self.archive.store.get(&name, Part::All).await.unwrap().unwrap();
        match read_footer(&name, &self.archive.expected(T1, range, epoch), &bytes).unwrap() {
            FooterRead::Done(footer) => footer.summary.confirmed,
            FooterRead::More(_) => panic!("all of it was read"),
        }
    }
}

/// A writer at work.
struct Session {
    queue: mpsc::Sender<Input>,
    progress: watch::Receiver<Progress>,
    here: Here,
    task: JoinHandle<Result<()>>,
}

impl Session {
    fn begin(setup: Setup) -> Self {
        let (queue, inputs) = mpsc::channel(1);
        let (task, here, progress) = run(setup, inputs, watch::channel(false).1);
        Self { queue, progress, here, task }
    }

    /// Sends the log from `start` to `end`, the last that the server has at time `end`.
    async fn send(&self, start: u64, end: u64) {
        self.send_part(start, end, end).await;
    }

    /// Sends a part of what the server has, which reaches to `log_end`.
    async fn send_part(&self, start: u64, end: u64, log_end: u64) {
        let bytes = log(start, end);
        let time = Timestamp(end.cast_signed());
        let data = Input::Data { start: Offset(start), bytes, log_end: Offset(log_end), time };
        // A writer that has failed takes no more; its task says why.
        let _ = self.queue.send(data).await;
    }

    /// Returns when everything sent before has been taken in: the queue holds one message.
    async fn taken(&self) {
        for _ in 0..2 {
            let _ = self.queue.send(Input::Tick).await;
        }
    }

    /// Waits until `offset` is told durable.
    async fn durable(&mut self, offset: u64) {
        let told = self.progress.wait_for(|progress| progress.durable >= Offset(offset));
        let told = tokio::time::timeout(Duration::from_secs(60), told).await.expect("it is told within a minute");
        assert_eq!(told.expect("the writer is at work").durable, Offset(offset));
    }

    /// Has everything up to `end` go to the store.
    async fn flush(&self, end: u64) {
        while self.told() < end {
            // A small segment is closed when none is under way.
            self.queue.send(Input::Tick).await.unwrap();
            tokio::task::yield_now().await;
        }
    }

    /// Writes on this thread, once the writer's own has let go of it.
    fn write_here(&mut self, start: u64, end: u64) {
        while self.here.write(Offset(start), &log(start, end), Offset(end), Timestamp(1)) == Tried::NotHere {
            std::thread::yield_now();
        }
    }

    fn told(&self) -> u64 {
        self.progress.borrow().durable.0
    }

    /// The end of the writer, once the queue is closed.
    async fn end(self) -> (Result<()>, Offset) {
        drop(self.queue);
        let result = self.task.await.unwrap();
        (result, self.progress.borrow().durable)
    }

    async fn finish(self, seal: bool) -> (Result<()>, Offset) {
        let _ = self.queue.send(Input::Finish { seal }).await;
        self.end().await
    }
}

/// Log of which no byte is zero.
pub(in crate::stream) fn log(start: u64, end: u64) -> Bytes {
    (start..end).map(|at| (at % 200) as u8 + 1).collect::<Vec<u8>>().into()
}

pub(in crate::stream) fn range(start: u64, end: u64) -> OffsetRange {
    OffsetRange::new(Offset(start), Offset(end))
}

fn kind(result: Result<()>) -> Kind {
    result.expect_err("it had to fail").kind()
}

/// A damaged segment is streamed again: until more is durable than ever was, nothing is told.
#[test]
fn a_position_told_to_the_server_never_goes_back() {
    let (progress, told) = watch::channel(Progress { received: Offset(100), durable: Offset::ZERO, newest: None });
    let tracker = Mutex::new(AckTracker::new(Offset(100), Offset(100)));
    let patience = Patience::new(watch::channel(false).1, true);
    let (failure, retired) = (Mutex::new(None), Mutex::new(None));
    let shared = Shared { tracker, progress, failure, acknowledged: Offset(200), retired, patience };
    let durable = |start, end| {
        shared.durable(range(start, end), Offset(end), None);
        told.borrow().durable.0
    };
    assert_eq!(durable(100, 150), 0);
    assert_eq!(durable(150, 199), 0);
    assert_eq!(durable(199, 200), 200);
    assert_eq!(durable(200, 250), 250);
}

#[tokio::test]
async fn what_is_told_durable_is_in_the_tail_and_ends_with_a_whole_record() {
    let place = Place::new();
    let mut session = Session::begin(place.setup(0).await);
    session.send(0, 15).await;
    session.durable(10).await;
    assert_eq!(place.tail(0, 1).unwrap()[..15], log(0, 15));
    session.send(15, 29).await;
    session.durable(20).await;
    assert_eq!(place.tail(0, 1).unwrap()[..29], log(0, 29));
    let (result, durable) = session.end().await;
    result.unwrap();
    assert_eq!((durable, place.segments()), (Offset(20), vec![]));
}

/// A file that grows with each group costs each of them a change of its inode.
#[tokio::test]
async fn a_tail_has_its_full_size_from_its_first_byte_on() {
    for (log_file_bytes, size) in [(FILE, 50), (20, 20), (NO_FILES, 50)] {
        let place = Place::new();
        let mut setup = place.setup(0).await;
        setup.limits = Limits { log_file_bytes, ..setup.limits };
        let mut session = Session::begin(setup);
        for (start, end) in [(0, 10), (10, 15)] {
            session.send(start, end).await;
            session.durable(10).await;
            assert_eq!(place.tail(0, 1).unwrap().len(), size);
        }
        session.finish(false).await.0.unwrap();
    }
}

#[tokio::test]
async fn half_a_record_before_the_start_is_not_told_with_the_first_byte() {
    let place = Place::new();
    let session = Session::begin(place.setup(15).await);
    assert_eq!(session.told(), 10);
    session.send(15, 16).await;
    let (result, durable) = session.finish(true).await;
    result.unwrap();
    assert_eq!((durable, place.segments()), (Offset(10), vec![range(15, 16)]));
}

#[tokio::test]
async fn an_unsound_record_is_written_nowhere() {
    let place = Place::new();
    let mut session = Session::begin(place.setup(0).await);
    session.send(0, 10).await;
    session.durable(10).await;
    let bytes = Bytes::from_static(&[UNSOUND; 10]);
    let data = Input::Data { start: Offset(10), bytes, log_end: Offset(20), time: Timestamp(20) };
    session.queue.send(data).await.unwrap();
    let (result, durable) = session.end().await;
    assert_eq!((kind(result), durable), (Kind::Corruption, Offset(10)));
    assert!(!place.tail(0, 1).unwrap().contains(&UNSOUND));
}

#[tokio::test]
async fn log_that_does_not_follow_is_refused() {
    for start in [5, 15] {
        let place = Place::new();
        let mut session = Session::begin(place.setup(0).await);
        session.send(0, 10).await;
        session.durable(10).await;
        session.send(start, 25).await;
        let (result, durable) = session.end().await;
        assert!(result.is_err(), "from {start}");
        assert_eq!(durable, Offset(10));
    }
}

#[tokio::test]
async fn a_full_tail_becomes_a_segment_and_the_next_one_begins_behind_it() {
    let place = Place::new();
    let mut session = Session::begin(place.setup(0).await);
    session.send(0, 10).await;
    session.durable(10).await;
    session.send(10, 60).await;
    session.durable(60).await;
    let (result, durable) = session.finish(true).await;
    result.unwrap();
    assert_eq!((durable, place.segments()), (Offset(60), vec![range(0, 50), range(50, 60)]));
    assert_eq!((place.tail(0, 1), place.tail(50, 1)), (None, None));
    let segments = [(0, 50), (50, 60)];
    for (start, end) in segments {
        let info = Summary { range: range(start, end), ..Summary::empty(Offset(start), Offset(end)) };
        let info = SegmentInfo::of(&info, 1, Holder::Segment(Codec::Lz4));
        assert_eq!(place.archive.raw(T1, &info).await.unwrap(), log(start, end));
    }
}

/// The tail is all there is until the segment is.
#[tokio::test]
async fn a_tail_stays_while_its_segment_cannot_be_created() {
    let place = Place::new();
    let mut session = Session::begin(place.setup(0).await);
    session.send(0, 10).await;
    session.durable(10).await;
    *place.doors.refused.lock().unwrap() = 1;
    session.send(10, 50).await;
    let (result, durable) = session.end().await;
    assert_eq!((kind(result), durable), (Kind::StoreUnreachable, Offset(50)));
    assert_eq!(place.tail(0, 1).unwrap(), log(0, 50));
}

#[tokio::test]
async fn a_segment_is_what_was_verified_whatever_the_disk_makes_of_the_tail() {
    let place = Place::new();
    let mut session = Session::begin(place.setup(0).await);
    session.send(0, 10).await;
    session.durable(10).await;
    let name = place.archive.layout.name(&ObjectName::Tail { timeline: T1, start: Offset(0), epoch: 1 });
    let file = std::fs::OpenOptions::new().write(true).open(place.doors.root.join(name)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"?", 3).unwrap();
    session.send(10, 50).await;
    session.finish(false).await.0.unwrap();
    let info = Summary { range: range(0, 50), ..Summary::empty(Offset(0), Offset(50)) };
    let info = SegmentInfo::of(&info, 1, Holder::Segment(Codec::Lz4));
    assert_eq!(place.archive.raw(T1, &info).await.unwrap(), log(0, 50));
}

#[tokio::test]
async fn what_is_in_memory_is_not_told_before_its_segment_is_there() {
    let place = Place::new();
    *place.doors.refused.lock().unwrap() = 1;
    let session = Session::begin(place.setup(0).await);
    session.send_part(0, 50, 100).await;
    let (result, durable) = session.finish(false).await;
    assert_eq!((kind(result), durable, place.segments()), (Kind::StoreUnreachable, Offset(0), vec![]));
}

#[tokio::test]
async fn no_segment_is_created_behind_one_that_failed() {
    let place = Place::new();
    place.doors.segments.forget_permits(Semaphore::MAX_PERMITS);
    *place.doors.refused.lock().unwrap() = 1;
    let session = Session::begin(place.setup(0).await);
    session.send_part(0, 100, 200).await;
    session.taken().await;
    place.doors.segments.add_permits(2);
    let (result, durable) = session.end().await;
    assert_eq!((kind(result), durable, place.segments()), (Kind::StoreUnreachable, Offset(0), vec![]));
}

/// The next writer of this process has the same epoch, and so the same names.
#[tokio::test]
async fn a_writer_that_failed_ends_with_everything_it_had_under_way() {
    let place = Place::new();
    place.doors.segments.forget_permits(Semaphore::MAX_PERMITS);
    let session = Session::begin(place.setup(0).await);
    session.send_part(0, 50, 100).await;
    session.taken().await;
    session.send(7, 9).await;
    place.doors.segments.add_permits(1);
    let (result, _) = session.end().await;
    assert!(result.is_err());
    assert_eq!(place.segments(), [range(0, 50)]);
}

/// What was taken in is not lost with the connection that brought it.
#[tokio::test]
async fn what_is_in_memory_when_the_connection_is_lost_is_stored() {
    let place = Place::new();
    let session = Session::begin(place.setup(0).await);
    session.send_part(0, 20, 100).await;
    let (result, durable) = session.end().await;
    result.unwrap();
    assert_eq!((durable, place.segments()), (Offset(20), vec![range(0, 20)]));
}

#[tokio::test]
async fn small_segments_become_one_when_their_log_file_is_through() {
    let place = Place::new();
    let mut setup = place.setup(0).await;
    setup.tails = None;
    setup.limits = Limits { segment_bytes: FILE, flush_interval_micros: Some(1), ..setup.limits };
    let session = Session::begin(setup);
    session.send(0, 20).await;
    session.flush(20).await;
    session.send(20, 100).await;
    let (result, durable) = session.finish(false).await;
    result.unwrap();
    assert_eq!((durable, place.segments()), (Offset(100), vec![range(0, 20), range(0, 100)]));
    assert_eq!(place.raw(0, 100).await, log(0, 100));
}

#[tokio::test]
async fn small_segments_of_a_log_without_files_become_one_when_they_are_enough() {
    let place = Place::new();
    let mut setup = place.setup(0).await;
    setup.tails = None;
    setup.limits = Limits { log_file_bytes: NO_FILES, segment_bytes: 50, flush_interval_micros: Some(1) };
    let session = Session::begin(setup);
    for end in (10..=130).step_by(10) {
        session.send(end - 10, end).await;
        session.flush(end).await;
    }
    let (result, durable) = session.finish(false).await;
    result.unwrap();
    let small = |start| range(start, start + 10);
    let block = |start| {
        [range(start, start + 10), range(start, start + 50), small(start + 10), small(start + 20), small(start + 30)]
    };
    let expected = [&block(0)[..], &block(50), &[small(100), small(110), small(120)]].concat();
    assert_eq!((durable, place.segments()), (Offset(130), expected));
    assert_eq!(place.raw(50, 100).await, log(50, 100));
}

#[tokio::test]
async fn of_slow_log_small_segments_are_joined_on_the_way() {
    let place = Place::new();
    let mut setup = place.setup(0).await;
    setup.tails = None;
    setup.limits = Limits { log_file_bytes: NO_FILES, segment_bytes: 1 << 20, flush_interval_micros: Some(1) };
    let session = Session::begin(setup);
    for end in (10..=700).step_by(10) {
        session.send(end - 10, end).await;
        session.flush(end).await;
    }
    let (result, durable) = session.finish(false).await;
    result.unwrap();
    assert_eq!(durable, Offset(700));
    let Archive { store, layout, identity, .. } = &place.archive;
    let seen = past_indexes(store.as_ref(), layout, identity, T1, &Known::new()).await.unwrap().segments;
    let seen: Vec<OffsetRange> = seen.iter().map(|segment| segment.range).collect();
    let small = |start| range(start, start + 10);
    assert_eq!(seen, [small(0), range(10, 650), small(650), small(660), small(670), small(680), small(690)]);
    assert_eq!(place.raw(10, 650).await, log(10, 650));
}

/// Its name would be that of the small one, and its footer another.
#[tokio::test]
async fn a_segment_that_one_small_one_holds_whole_is_not_made_again() {
    let place = Place::new();
    let mut setup = place.setup(0).await;
    setup.tails = None;
    setup.limits = Limits { log_file_bytes: NO_FILES, segment_bytes: 80, flush_interval_micros: Some(1) };
    let session = Session::begin(setup);
    session.send(0, 70).await;
    session.flush(70).await;
    session.queue.send(Input::Confirmed { log_end: Offset(70), time: Timestamp(77), idle: true }).await.unwrap();
    session.send(70, 90).await;
    let (result, durable) = session.finish(false).await;
    result.unwrap();
    assert_eq!((durable, place.segments()), (Offset(90), vec![range(0, 70), range(70, 90)]));
}

#[tokio::test]
async fn a_store_that_does_not_answer_holds_nothing_up_where_there_is_a_spool() {
    let place = Place::new();
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), place.archive.layout.cluster(), 1 << 20, 50).await.unwrap();
    let folder = dir.path().join(place.archive.layout.timeline(T1));
    let mut setup = place.setup(0).await;
    setup.spool = Some(Arc::new(spool));
    setup.tails = Some(Tails { root: dir.path().to_owned(), folder: folder.clone(), count: true });
    setup.limits = Limits { log_file_bytes: NO_FILES, segment_bytes: 50, flush_interval_micros: Some(1) };
    let all = place.doors.segments.forget_permits(usize::MAX);
    let mut session = Session::begin(setup);
    for end in (10..=500).step_by(10) {
        session.send(end - 10, end).await;
        session.queue.send(Input::Confirmed { log_end: Offset(end), time: Timestamp(1), idle: true }).await.unwrap();
        session.durable(end).await;
    }
    assert_eq!(place.segments(), []);
    let waiting = || std::fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.file_name());
    let segments = || waiting().filter(|name| name.to_string_lossy().ends_with(".lz4")).count();
    assert!(segments() >= 5, "{:?}", waiting().collect::<Vec<_>>());

    place.doors.segments.add_permits(all);
    let (result, durable) = session.finish(false).await;
    result.unwrap();
    assert_eq!((durable, segments()), (Offset(500), 0));
    for start in (0..500).step_by(50) {
        assert_eq!(place.raw(start, start + 50).await, log(start, start + 50));
    }
}

/// What came before this writer is read from the store, and only that.
#[tokio::test]
async fn a_log_file_that_an_earlier_writer_began_becomes_one_segment_too() {
    let place = Place::new();
    let limits = Limits { segment_bytes: FILE, flush_interval_micros: Some(1), ..place.setup(0).await.limits };
    let mut file_segments = Vec::new();
    for (start, end) in [(0, 30), (30, 100)] {
        let setup = place.setup(start).await;
        let epoch = setup.epoch.number();
        let session =
            Session::begin(Setup { tails: None, limits, file_segments: std::mem::take(&mut file_segments), ..setup });
        for at in (start..end).step_by(10) {
            session.send(at, at + 10).await;
            session.flush(at + 10).await;
        }
        let (result, durable) = session.finish(false).await;
        result.unwrap();
        assert_eq!(durable, Offset(end));
        file_segments = place.segments().into_iter().map(|range| info(range, epoch)).collect();
    }
    let wide: Vec<_> = place.segments().into_iter().filter(|range| range.len() > 10).collect();
    assert_eq!(wide, [range(0, 100), range(30, 100)]);
    assert_eq!(place.raw(0, 100).await, log(0, 100));
}

#[tokio::test]
async fn nothing_of_a_tail_is_told_once_another_writer_has_come() {
    for end in [20, 50, 60] {
        let place = Place::new();
        let mut session = Session::begin(place.setup(0).await);
        session.send(0, 10).await;
        session.durable(10).await;
        place.claim().await;
        session.send(10, end).await;
        let (result, durable) = session.end().await;
        assert_eq!((kind(result), durable, place.segments()), (Kind::Fenced, Offset(10), vec![]), "to {end}");
    }
}

#[tokio::test]
async fn nothing_of_a_segment_is_told_once_another_writer_has_come() {
    let place = Place::new();
    let setup = place.setup(0).await;
    place.claim().await;
    let session = Session::begin(setup);
    session.send_part(0, 50, 100).await;
    let (result, durable) = session.end().await;
    assert_eq!((kind(result), durable), (Kind::Fenced, Offset(0)));
}

#[tokio::test]
async fn a_write_on_the_sessions_thread_is_told_only_while_no_other_writer_has_come() {
    let place = Place::new();
    let mut session = Session::begin(place.setup(0).await);
    session.send(0, 10).await;
    session.durable(10).await;
    session.write_here(10, 20);
    assert_eq!((session.here.sync(), session.told()), (Tried::Done, 20));
    place.claim().await;
    session.write_here(20, 30);
    assert_eq!((session.here.sync(), session.told()), (Tried::NotHere, 20));
    session.queue.send(Input::Tick).await.unwrap();
    let (result, durable) = session.end().await;
    assert_eq!((kind(result), durable), (Kind::Fenced, Offset(20)));
}

#[tokio::test]
async fn a_tail_removed_under_a_write_on_the_sessions_thread_ends_the_writer() {
    let place = Place::new();
    let mut session = Session::begin(place.setup(0).await);
    session.send(0, 10).await;
    session.durable(10).await;
    std::fs::remove_dir_all(place.folder()).unwrap();
    session.write_here(10, 20);
    assert_eq!((session.here.sync(), session.told()), (Tried::Failed, 10));
    let (result, durable) = session.finish(false).await;
    assert_eq!((kind(result), durable), (Kind::StoreUnreachable, Offset(10)));
}

/// Only the writer's thread closes a tail, for that waits for the store.
#[tokio::test]
async fn what_fills_the_tail_is_not_written_on_the_sessions_thread() {
    let place = Place::new();
    let mut session = Session::begin(place.setup(0).await);
    session.send(0, 10).await;
    session.durable(10).await;
    session.write_here(10, 49);
    assert_eq!(session.here.write(Offset(49), &log(49, 50), Offset(50), Timestamp(1)), Tried::NotHere);
    assert_eq!((session.here.sync(), session.told()), (Tried::Done, 40));
    session.end().await.0.unwrap();
}

#[tokio::test]
async fn what_another_left_in_its_tail_is_told_once_it_is_in_ours() {
    let place = Place::new();
    let carried = place.left_by_another(50, 20).await;
    let setup = Setup { carried: Some(carried), scanner: scanner_at(70), ..place.setup(70).await };
    let (_, before) = Shared::new(&setup, watch::channel(false).1);
    assert_eq!(before.borrow().durable, Offset::ZERO, "the server may have been told of all of it");
    let mut session = Session::begin(setup);
    session.durable(70).await;
    assert_eq!(place.tail(50, 2).unwrap()[..20], log(50, 70));
    let (result, durable) = session.finish(true).await;
    result.unwrap();
    assert_eq!((durable, place.segments()), (Offset(70), vec![range(50, 70)]));
    assert_eq!(place.names().len(), 1, "their tail is gone, and ours");
}

#[tokio::test]
async fn what_another_left_stays_if_it_cannot_be_taken_over() {
    let place = Place::new();
    let carried = place.left_by_another(0, 20).await;
    let in_the_way = place.doors.root.join("file");
    std::fs::write(&in_the_way, b"").unwrap();
    let setup = place.setup(20).await;
    let tails = Some(Tails { root: in_the_way.clone(), folder: in_the_way.join("x"), count: true });
    let setup = Setup { carried: Some(carried), scanner: scanner_at(20), tails, ..setup };
    let (result, durable) = Session::begin(setup).end().await;
    assert_eq!((kind(result), durable), (Kind::StoreUnreachable, Offset::ZERO));
    assert_eq!(place.tail(0, 1).unwrap()[..20], log(0, 20));
}

#[tokio::test]
async fn what_another_left_is_not_told_and_stays_once_a_third_has_come() {
    let place = Place::new();
    let carried = place.left_by_another(0, 20).await;
    let setup = Setup { carried: Some(carried), scanner: scanner_at(20), ..place.setup(20).await };
    place.claim().await;
    let (result, durable) = Session::begin(setup).end().await;
    assert_eq!((kind(result), durable), (Kind::Fenced, Offset::ZERO));
    assert_eq!(place.tail(0, 1).unwrap()[..20], log(0, 20));
}

/// A connection was lost before a record was whole.
#[tokio::test]
async fn a_tail_of_ours_without_a_whole_record_is_begun_again() {
    let place = Place::new();
    let setup = place.setup(0).await;
    let again = place.setup_of(setup.epoch.clone(), 0);
    let session = Session::begin(setup);
    session.send(0, 7).await;
    session.end().await.0.unwrap();
    let mut session = Session::begin(again);
    session.send(0, 10).await;
    session.durable(10).await;
    assert_eq!(place.tail(0, 1).unwrap()[..11], [&log(0, 10)[..], &[0]].concat());
    session.end().await.0.unwrap();
}

/// A tail of which the server was told is gone on with, and sealed with all its bytes.
#[tokio::test]
async fn a_tail_of_ours_is_gone_on_with_after_the_connection_was_lost() {
    let place = Place::new();
    let setup = place.setup(0).await;
    let again = place.setup_of(setup.epoch.clone(), 0);
    let mut session = Session::begin(setup);
    session.send(0, 27).await;
    session.durable(20).await;
    session.end().await.0.unwrap();
    let name = place.archive.layout.name(&ObjectName::Tail { timeline: T1, start: Offset(0), epoch: 1 });
    let summary = Summary { range: range(0, 20), ..Summary::empty(Offset(0), Offset(20)) };
    let carried = Carried { start: Offset(0), bytes: log(0, 20), summary, tail: Some(name) };
    let mut session =
        Session::begin(Setup { carried: Some(carried), scanner: scanner_at(20), start: Offset(20), ..again });
    session.durable(20).await;
    assert_eq!(place.tail(0, 1).unwrap(), [&log(0, 20)[..], &[0; 30]].concat(), "not half a record behind");
    session.send(20, 50).await;
    let (result, durable) = session.finish(false).await;
    result.unwrap();
    assert_eq!((durable, place.segments()), (Offset(50), vec![range(0, 50)]));
}

#[tokio::test]
async fn the_log_is_complete_only_when_all_the_server_has_is_here() {
    let place = Place::new();
    let (end, time) = (Offset(10), Timestamp(77));
    let mut confirmed = Vec::new();
    for (at, log_end, confirms) in [(0, 20, true), (10, 20, true), (20, 30, false)] {
        let setup = place.setup(at).await;
        let epoch = setup.epoch.number();
        let session = Session::begin(Setup { confirms, ..setup });
        session.send_part(at, at + 10, log_end).await;
        // What a keepalive says was sent, not what there is.
        session.queue.send(Input::Confirmed { log_end: end, time, idle: false }).await.unwrap();
        session.finish(true).await.0.unwrap();
        confirmed.push(place.confirmed(at, at + 10, epoch).await);
    }
    assert_eq!(confirmed, [None, Some(time), None]);
}

/// A server may be idle for days right behind a full segment: what it says goes into the next
/// tail, which holds no log and goes with the timeline.
#[tokio::test]
async fn behind_a_full_segment_the_log_is_said_to_be_complete_in_a_tail_without_log() {
    for seal in [false, true] {
        let place = Place::new();
        let mut session = Session::begin(place.setup(0).await);
        session.send_part(0, 50, 60).await;
        session.durable(50).await;
        session.queue.send(Input::Confirmed { log_end: Offset(50), time: Timestamp(77), idle: false }).await.unwrap();
        session.taken().await;
        assert_eq!(place.tail(50, 1), None, "the server has more");
        let (result, durable) = session.finish(false).await;
        assert_eq!((result.unwrap(), durable), ((), Offset(50)));

        let session = Session::begin(place.setup(50).await);
        session.queue.send(Input::Confirmed { log_end: Offset(50), time: Timestamp(77), idle: false }).await.unwrap();
        let (result, _) = session.finish(seal).await;
        result.unwrap();
        assert_eq!(place.segments(), [range(0, 50)]);
        let mut finder = crate::segment::trailer::Finder::default();
        let tail = place.tail(50, 2);
        assert_eq!(tail.is_none(), seal);
        finder.feed(&tail.unwrap_or_default());
        let found = finder.trailer(Offset(50)).map(|(trailer, before)| (trailer.confirmed, before));
        assert_eq!(found, (!seal).then_some((Timestamp(77), 0)));
    }
}
