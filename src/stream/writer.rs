//! From log bytes to durable segments: the stage between the source and the store.
//!
//! One thread verifies every record, cuts, appends to the tail, and says what has become
//! durable; others compress and store beside it. Order of writes, and what a crash between them leaves:
//!
//! 1. A byte is fed to the scanner before it is written anywhere; a record that fails its
//!    checksum is never written and never acknowledged.
//! 2. Catching up, a whole segment is compressed in memory and created; its bytes count
//!    as durable when `create` returns. A crash before that leaves nothing, and no
//!    segment is created before the one in front of it.
//! 3. At the live end, bytes go to the tail; they are durable when the tail is synced. A
//!    crash leaves the tail, which the next writer continues.
//! 4. A full tail is sealed: its segment is created first, the tail loses its name after. A
//!    crash between leaves both, with the same bytes; the segment counts.
//!    To remote stores, small segments go as they become overdue, and one for the whole
//!    log file (see [`open`]) instead of the last of them.
//! 5. Nothing is reported durable unless the writer's epoch is still the highest, but for what lies in a spool of our own
//!    (see [`super::spool`]) when that is to count: the store, which would tell, may be away.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::ack::AckTracker;
use super::roll_up::RollUp;
use super::tail::{Spare, Tail, make_spare, remove_spares};
use crate::catalog::index;
use crate::catalog::layout::ObjectName;
use crate::catalog::{Holder, SegmentInfo};
use crate::engine::Axis;
use crate::error::{Error, Result};
use crate::model::mark::Mark;
use crate::model::offset::{Offset, OffsetRange};
use crate::model::position::Position;
use crate::model::summary::Summary;
use crate::model::time::Timestamp;
use crate::segment::codec::Compression;
use crate::segment::trailer::Trailer;
use crate::segment::write::SegmentWriter;
use crate::store::local::make_folder;

mod compressing;
#[cfg(test)]
mod day;
mod here;
mod open;
mod setup;
#[cfg(test)]
pub(super) mod tests;
mod thread;
mod upload;

use compressing::Compressing;
pub use here::{Here, Tried};
use open::{Open, Small};
pub use setup::{Carried, Input, Progress, Setup, Tails};
pub use thread::run;
use upload::{Held, Housekeeping, Made, Patience, Turn, Upload};

/// Segments on their way to the store at once: compressed beside each other, and created
/// one after the other, so that a crash never leaves a later one without an earlier.
const UPLOADS_MAX: usize = 3;

/// What the uploads share with the writer.
struct Shared {
    tracker: Mutex<AckTracker>,
    progress: watch::Sender<Progress>,
    failure: Mutex<Option<Error>>,
    /// Only what lies behind this is told.
    acknowledged: Offset,
    /// The file of a sealed tail, for the next spare.
    retired: Mutex<Option<Spare>>,
    /// With the store, when it does not answer.
    patience: Patience,
}

impl Shared {
    fn new(setup: &Setup, closing: watch::Receiver<bool>) -> (Arc<Self>, watch::Receiver<Progress>) {
        let boundary = setup.scanner.boundary().min(setup.start);
        let start = setup.carried.as_ref().map_or(setup.start, |carried| carried.start);
        // What a tail holds is told only once it is durable under our own hand; until then
        // nothing is, for a position told to the server must never go back.
        let durable = boundary.min(start);
        let untold = setup.carried.is_some() || durable < setup.acknowledged;
        let durable = if untold { Offset::ZERO } else { durable };
        let (progress, receiver) = watch::channel(Progress { received: setup.start, durable, newest: None });
        let tracker = Mutex::new(AckTracker::new(start, boundary.min(start)));
        let acknowledged = setup.acknowledged;
        let (failure, retired) = (Mutex::new(None), Mutex::new(None));
        let patience = Patience::new(closing, setup.archive.store.directory().is_some());
        (Arc::new(Self { tracker, progress, failure, acknowledged, retired, patience }), receiver)
    }

    fn durable(&self, range: OffsetRange, boundary: Offset, newest: Option<Timestamp>) {
        let durable = self.tracker.lock().unwrap_or_else(PoisonError::into_inner).durable(range, boundary);
        self.progress.send_if_modified(|progress| {
            let changed = durable > progress.durable && durable >= self.acknowledged;
            if changed {
                progress.durable = durable;
                progress.newest = progress.newest.max(newest);
            }
            changed
        });
    }

    /// Keeps one file; another one it had is removed.
    fn retire(&self, tail: Spare) {
        let _ = self.retired.lock().unwrap_or_else(PoisonError::into_inner).replace(tail);
    }

    fn take_retired(&self) -> Option<Spare> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn fail(&self, error: Error) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
    }

    fn take_failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The writing stage. Runs on a thread of its own; see [`run`].
struct Writer {
    setup: Setup,
    runtime: Handle,
    shared: Arc<Shared>,
    marks: Vec<Mark>,
    open: Option<Open>,
    uploads: VecDeque<JoinHandle<()>>,
    /// Comes once the newest upload's segment is durable.
    newest_upload: Turn,
    /// Segments that may be in memory on their way to the store.
    memory: Arc<Semaphore>,
    /// Segments that were sent since the footers were rolled up.
    made: Vec<(SegmentInfo, Summary)>,
    roll_up: Arc<tokio::sync::Mutex<RollUp>>,
    spare: Option<JoinHandle<Result<Spare>>>,
    spares_made: u64,
    offset: Offset,
    /// The server's log is known to reach to here.
    log_end: Offset,
    confirmed: Option<Timestamp>,
}

impl Writer {
    fn new(setup: Setup, shared: Arc<Shared>) -> Self {
        Self {
            runtime: Handle::current(),
            shared,
            marks: Vec::new(),
            open: None,
            uploads: VecDeque::new(),
            newest_upload: Turn::first(),
            memory: Arc::new(Semaphore::new(UPLOADS_MAX)),
            made: Vec::new(),
            roll_up: Arc::default(),
            spare: None,
            spares_made: 0,
            offset: setup.start,
            log_end: setup.log_end,
            confirmed: None,
            setup,
        }
    }

    /// Whether the open segment is a tail that does not end here, and that `bytes` more do not fill.
    fn has_room_in_tail(&self, bytes: u64) -> bool {
        let limits = &self.setup.limits;
        self.open.as_ref().is_some_and(|open| {
            open.tail.is_some()
                && bytes < limits.end_of(open.start()).since(self.offset)
                && !(open.summary.boundary == self.offset && limits.is_nearly_full(open.start(), self.offset))
        })
    }

    fn take(&mut self, input: Input) -> Result<()> {
        match input {
            Input::Data { start, bytes, log_end, time } => self.data(start, bytes, log_end, time),
            Input::Confirmed { log_end, time, idle } => {
                if idle {
                    // What was expected of it has come, or never will.
                    self.log_end = log_end;
                    if self.are_uploads_done() {
                        self.close_part()?;
                    }
                }
                self.confirm(log_end, time)
            }
            Input::Tick => self.tick(),
            Input::Finish { .. } => Ok(()),
        }
    }

    /// Clears away what killed writers left, and takes over what they wrote.
    fn begin(&mut self) -> Result<()> {
        if let Some(tails) = &self.setup.tails {
            self.check_epoch()?;
            remove_spares(&tails.folder);
        }
        self.adopt_carried()
    }

    /// Takes over what an older writer left in its tail: into a tail of our own, so that
    /// nobody else can still be writing to it.
    fn adopt_carried(&mut self) -> Result<()> {
        let Some(carried) = self.setup.carried.take() else { return Ok(()) };
        let own_name = self.tail_name(carried.start);
        let mut tail = match (&self.setup.tails, &carried.tail) {
            (None, _) => None,
            // A tail of this very writer, from before the connection was lost.
            (Some(tails), Some(object)) if *object == own_name => {
                Some(Tail::reopen(tails.folder.join(file_name(object)), carried.start, &carried.bytes)?)
            }
            (Some(_), _) => {
                let mut tail = self.new_tail(carried.start)?;
                tail.append(&carried.bytes)?;
                tail.sync()?;
                Some(tail)
            }
        };
        if let (Some(tail), Some(confirmed)) = (&mut tail, carried.summary.confirmed) {
            tail.confirm(Trailer { boundary: self.setup.scanner.boundary(), confirmed })?;
        }
        self.confirmed = carried.summary.confirmed;
        self.check_epoch()?;
        let opened = self.setup.clock.now();
        let in_parts = self.setup.limits.flush_interval_micros.is_some();
        // Nobody knows which of it are in the store.
        let small = in_parts.then(|| {
            let mut segment = self.compressing(carried.start, false);
            segment.feed(carried.bytes.clone());
            Small { segment, summary: carried.summary.clone(), opened }
        });
        let mut segment = self.compressing(carried.start, true);
        segment.feed(carried.bytes);
        self.open = Some(Open {
            tail: tail.map(Box::new),
            segment,
            summary: carried.summary,
            opened,
            in_parts,
            small,
            wider: Vec::new(),
            sent: None,
        });
        self.tell_tail();
        let Some(object) = carried.tail.filter(|object| *object != own_name) else { return Ok(()) };
        self.runtime.block_on(async {
            match &self.setup.spool {
                Some(spool) => spool.remove(&object).await,
                None => self.setup.archive.store.delete(&object).await,
            }
        })
    }

    fn tail_name(&self, start: Offset) -> String {
        let object = ObjectName::Tail { timeline: self.setup.timeline, start, epoch: self.setup.epoch.number() };
        self.setup.archive.layout.name(&object)
    }

    fn data(&mut self, start: Offset, bytes: Bytes, log_end: Offset, time: Timestamp) -> Result<()> {
        if start != self.offset {
            return Err(Error::failure(format!(
                "the server sent log from {} where {} was due",
                self.setup.engine.position(start),
                self.setup.engine.position(self.offset)
            )));
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.open.is_none() {
                self.open_segment(log_end)?;
            }
            let at = (self.offset, self.offset);
            let (first, boundary) = self.open.as_ref().map_or(at, |open| (open.start(), open.summary.boundary));
            let whole = boundary == self.offset && self.setup.limits.is_nearly_full(first, self.offset);
            if whole || self.offset >= self.setup.limits.end_of(first) {
                // Or a tail from when segments might be longer.
                self.close(true)?;
                continue;
            }
            let room = self.setup.limits.end_of(first).since(self.offset);
            let piece = rest.split_to(usize::try_from(room).unwrap_or(usize::MAX).min(rest.len()));
            self.append(piece)?;
            if self.offset == self.setup.limits.end_of(first) {
                self.close(true)?;
            }
        }
        self.confirm(log_end, time)?;
        // Nobody need wake for this; what is durable comes with the sync.
        self.shared.progress.send_if_modified(|progress| {
            progress.received = self.offset;
            false
        });
        Ok(())
    }

    fn append(&mut self, piece: Bytes) -> Result<()> {
        self.setup.scanner.feed(&piece, &mut self.marks)?;
        let Some(mut open) = self.open.take() else { return Ok(()) };
        if open.in_parts && open.small.is_none() {
            let small = self.compressing(self.offset, false);
            open.begin_parts(small, self.setup.clock.now(), || Box::new(self.segment_writer(self.offset)));
        }
        self.offset = Offset(self.offset.0 + piece.len() as u64);
        let appended = open.append(piece, &mut self.marks, self.setup.scanner.boundary());
        self.open = Some(open);
        appended
    }

    /// Notes that everything up to `time` is here, if all the log is that the server is
    /// known to have. A keepalive alone does not tell: its `log_end` is what was sent, not
    /// what there is to send.
    fn confirm(&mut self, log_end: Offset, time: Timestamp) -> Result<()> {
        self.log_end = self.log_end.max(log_end);
        if !self.setup.confirms || self.log_end > self.offset || self.confirmed >= Some(time) {
            return Ok(());
        }
        self.confirmed = Some(time);
        if self.open.is_none() && self.setup.tails.is_some() {
            // The last segment is full, and a server may be idle for days.
            self.open_segment(log_end)?;
        }
        match &mut self.open {
            Some(Open { tail: Some(tail), summary, .. }) => {
                tail.confirm(Trailer { boundary: summary.boundary, confirmed: time })
            }
            _ => Ok(()),
        }
    }

    /// Opens the next segment: in a tail, in parts, or both at the live end. A segment whose last byte the server already has is better
    /// made whole.
    fn open_segment(&mut self, log_end: Offset) -> Result<()> {
        let summary = Summary::empty(self.offset, self.setup.scanner.boundary());
        let whole = log_end >= self.setup.limits.end_of(self.offset);
        let in_tail = self.setup.tails.is_some() && !whole;
        let in_parts = self.setup.limits.flush_interval_micros.is_some() && !whole;
        let segment = self.compressing(self.offset, in_tail);
        let tail = if in_tail { Some(Box::new(self.new_tail(self.offset)?)) } else { None };
        self.open = Some(Open {
            tail,
            segment,
            summary,
            opened: self.setup.clock.now(),
            in_parts,
            small: None,
            wider: Vec::new(),
            sent: None,
        });
        Ok(())
    }

    /// Begins to compress the segment at `start`. What goes to a tail as well is acknowledged
    /// without waiting for it, and has its bounds in the tail. LZ4 alone takes hardly longer than
    /// handing over does.
    fn compressing(&self, start: Offset, in_tail: bool) -> Compressing {
        let Setup { compression, limits, .. } = &self.setup;
        let writer = self.segment_writer(start);
        match compression {
            Compression::Lz4 if !in_tail => Compressing::Here(Box::new(writer)),
            _ => Compressing::beside(&self.runtime, writer, in_tail.then(|| limits.end_of(start).since(start))),
        }
    }

    fn segment_writer(&self, start: Offset) -> SegmentWriter {
        let Setup { archive, timeline, epoch, compression, .. } = &self.setup;
        SegmentWriter::new(archive.header(*timeline, start, epoch.number()), *compression)
    }

    fn new_tail(&mut self, start: Offset) -> Result<Tail> {
        let Some(Tails { root, folder, .. }) = self.setup.tails.clone() else {
            return Err(Error::failure("this store keeps no tail"));
        };
        let size = self.setup.limits.largest();
        if self.spares_made == 0 {
            make_folder(&root, &folder)?;
        }
        let path = folder.join(file_name(&self.tail_name(start)));
        if path.exists() {
            // Ours, for it bears our epoch: the connection was lost before a record was whole.
            return Tail::reopen(path, start, &[]);
        }
        let spare = match self.spare.take() {
            Some(task) => {
                self.runtime.block_on(task).map_err(|e| Error::failure("the tail maker stopped").because(e))??
            }
            None => make_spare(&folder, size, None)?,
        };
        self.spares_made += 1;
        let tail = Tail::create(path, spare, start)?;
        let old = self.shared.take_retired();
        self.spare = Some(self.runtime.spawn_blocking(move || make_spare(&folder, size, old)));
        Ok(tail)
    }

    /// Nothing may be called durable once another writer has come.
    fn check_epoch(&self) -> Result<()> {
        let epoch = &self.setup.epoch;
        if self.setup.spool.is_some() || epoch.is_surely_last() {
            return Ok(());
        }
        self.runtime.block_on(epoch.check(self.setup.archive.store.as_ref()))
    }

    /// Makes the tail's bytes durable and says so.
    fn sync_tail(&mut self) -> Result<()> {
        self.flush_tail()?;
        if let Some(Open { tail: Some(_), summary, .. }) = &self.open
            && summary.boundary > self.shared.progress.borrow().durable
        {
            self.check_epoch()?;
            self.tell_tail();
        }
        Ok(())
    }

    fn flush_tail(&mut self) -> Result<()> {
        match &mut self.open {
            Some(Open { tail: Some(tail), .. }) => tail.sync(),
            _ => Ok(()),
        }
    }

    /// Says that all of the tail is durable, if that is what tails are for.
    fn tell_tail(&self) {
        if let Some(Open { tail: Some(_), summary, .. }) = &self.open
            && self.setup.tails.as_ref().is_some_and(|tails| tails.count)
        {
            self.shared.durable(summary.range, summary.boundary, summary.times.map(|t| t.1));
        }
    }

    /// Closes what is overdue. A store that is behind gets more at once instead of more segments.
    fn tick(&mut self) -> Result<()> {
        let Some(open) = &self.open else { return Ok(()) };
        let (range, opened) = match (&open.small, &open.tail) {
            (Some(small), _) => (small.summary.range, small.opened),
            (None, None) if !open.in_parts && !open.summary.range.is_empty() => (open.summary.range, open.opened),
            _ => return Ok(()),
        };
        let end = self.setup.limits.end_of(open.start());
        if self.setup.limits.overdue(range, end, opened, self.setup.clock.now()) && self.are_uploads_done() {
            return self.close_part();
        }
        Ok(())
    }

    fn are_uploads_done(&mut self) -> bool {
        while self.uploads.front().is_some_and(JoinHandle::is_finished) {
            self.uploads.pop_front();
        }
        self.uploads.is_empty()
    }

    /// Closes what is only in memory.
    fn close_part(&mut self) -> Result<()> {
        match &self.open {
            Some(Open { small: Some(_), .. }) => self.close_small(),
            Some(Open { tail: None, in_parts: false, .. }) => self.close(false),
            _ => Ok(()),
        }
    }

    fn finish(&mut self, seal: bool) -> Result<()> {
        self.sync_tail()?;
        if seal {
            self.close(false)?;
        }
        self.close_part()?;
        self.wait_for_uploads(0)?;
        match self.open.take() {
            // All of it is in the store.
            Some(Open { tail: Some(tail), .. }) if self.setup.spool.is_some() => tail.remove(),
            _ => Ok(()),
        }
    }

    /// Closes the open segment and sends it on its way. `full` is whether it ended
    /// where it had to.
    fn close(&mut self, full: bool) -> Result<()> {
        self.sync_tail()?;
        let Some(mut open) = self.open.take() else { return Ok(()) };
        if open.summary.range.is_empty() {
            return open.tail.map_or(Ok(()), |tail| tail.remove());
        }
        if open.sent == Some(open.summary.range) {
            // By one small segment, which has the very name that this would have.
            self.wait_for_uploads(0)?;
            return open.tail.map_or(Ok(()), |tail| tail.remove());
        }
        open.add_changes(&self.setup.scanner.take_changes());
        let summary = self.closed(open.summary);
        let segment = open.segment.close(summary.clone());
        self.upload(Made { segment, tail: open.tail.map(|tail| tail.into_path()), whole: true }, summary, full)
    }

    /// Closes the small segment and sends it on its way. What the store has, the tail has too.
    fn close_small(&mut self) -> Result<()> {
        self.sync_tail()?;
        let changes = self.setup.scanner.take_changes();
        let Some(open) = &mut self.open else { return Ok(()) };
        open.add_changes(&changes);
        let Some((segment, summary)) = open.take_part(&self.setup.limits) else { return Ok(()) };
        if summary.range.start == open.start() {
            open.sent = Some(summary.range);
        }
        let summary = self.closed(summary);
        let segment = segment.close(summary.clone());
        self.upload(Made { segment, tail: None, whole: false }, summary, false)
    }

    /// What a segment that ends here says of itself.
    fn closed(&self, summary: Summary) -> Summary {
        Summary { position: self.position(summary.range.end), confirmed: self.confirmed, ..summary }
    }

    /// Where the open segment ends, in the engine's words.
    fn position(&self, end: Offset) -> Position {
        self.setup.scanner.position().unwrap_or_else(|| self.setup.engine.position(end))
    }

    fn upload(&mut self, made: Made, summary: Summary, full: bool) -> Result<()> {
        // No more is written behind one that failed.
        self.shared.take_failure().map_or(Ok(()), Err)?;
        let Setup { archive, engine, timeline, epoch, limits, compression, spool, tails, .. } = &self.setup;
        let codec = compression.codec();
        let info = SegmentInfo::of(&summary, epoch.number(), Holder::Segment(codec));
        let name = archive.object_of(*timeline, &info);
        let file_end = full && limits.is_file_end(summary.range.end);
        let upload = Upload {
            archive: archive.clone(),
            name,
            epoch: epoch.clone(),
            shares_log: engine.axis() == Axis::Server,
            range: summary.range,
            boundary: summary.boundary,
            newest: summary.times.map(|t| t.1),
            shared: Arc::clone(&self.shared),
            spool: spool.clone(),
            spool_counts: tails.as_ref().is_some_and(|tails| tails.count),
        };
        self.setup.file_segments.retain(|small| !summary.range.covers(small.range));
        self.setup.file_segments.push(info);
        self.made.retain(|(small, _)| !summary.range.covers(small.range));
        self.made.push((info, summary));
        // Those that a wider one is to hide count for nothing.
        self.setup.unindexed += usize::from(full);
        self.setup.creates.store(true, Ordering::Relaxed);
        let (runtime, memory) = (self.runtime.clone(), Arc::clone(&self.memory));
        let held = match memory.try_acquire_owned() {
            Ok(permit) => Held::Memory { made, permit },
            // The store is behind.
            Err(_) if upload.spool.is_some() && made.whole => runtime.block_on(upload.spilled(made))?,
            Err(_) => {
                self.wait_for_uploads(UPLOADS_MAX - 1)?;
                let permit = runtime.block_on(Arc::clone(&self.memory).acquire_owned());
                let permit = permit.map_err(|e| Error::failure("uploads are over").because(e))?;
                Held::Memory { made, permit }
            }
        };
        self.go_on(|turn| upload.create(held, turn));
        if file_end { self.keep_house() } else { Ok(()) }
    }

    /// Goes on with `work` behind the newest upload, beside this thread.
    fn go_on<F>(&mut self, work: impl FnOnce(Turn) -> F)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let (done, newest) = Turn::new();
        let work = work(std::mem::replace(&mut self.newest_upload, newest));
        let shared = Arc::clone(&self.shared);
        self.uploads.push_back(self.runtime.spawn(async move {
            match work.await {
                // Nobody waits for the last one.
                Ok(()) => drop(done.send_replace(true)),
                Err(error) => shared.fail(error),
            }
        }));
    }

    /// After the end of a log file.
    fn keep_house(&mut self) -> Result<()> {
        let mut parts = std::mem::take(&mut self.setup.file_segments);
        // A log file may be several whole segments (`segment_size` smaller than the
        // file); only when one ended early is there something to replace.
        if parts.iter().all(|part| self.setup.limits.end_of(part.range.start) == part.range.end) {
            parts.clear();
        }
        let rolls_up = self.setup.unindexed >= index::NARROW;
        if parts.is_empty() && !rolls_up {
            return Ok(());
        }
        let mut made = Vec::new();
        if rolls_up {
            self.setup.unindexed = 0;
            made.append(&mut self.made);
        }
        let Setup { archive, timeline, epoch, limits, compression, .. } = &self.setup;
        let house = Housekeeping {
            archive: archive.clone(),
            timeline: *timeline,
            epoch: epoch.clone(),
            limits: *limits,
            compression: *compression,
            parts,
            rolls_up,
            roll_up: Arc::clone(&self.roll_up),
            made,
            shared: Arc::clone(&self.shared),
        };
        self.go_on(|turn| house.keep(turn));
        Ok(())
    }

    fn wait_for_uploads(&mut self, most: usize) -> Result<()> {
        self.are_uploads_done();
        while self.uploads.len() > most {
            if let Some(task) = self.uploads.pop_front() {
                self.runtime.block_on(task).map_err(|e| Error::failure("an upload stopped").because(e))?;
            }
        }
        self.shared.take_failure().map_or(Ok(()), Err)
    }
}

/// The last part of an object's name.
fn file_name(object: &str) -> &str {
    object.rsplit('/').next().unwrap_or(object)
}
