//! The conveyor: source to cutter to segment to store to acknowledgement.
//!
//! [`Archiver::run`] keeps one cluster's log flowing: it connects, finds out where the
//! archive ends, streams, follows timelines, records gaps, takes the first base backup,
//! and begins again after whatever went wrong. [`session`] is one stream on one timeline,
//! [`writer`] the stage that makes bytes durable.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::catalog::archive::Archive;
use crate::catalog::fence::{self, Epoch};
use crate::catalog::index::{self, Index};
use crate::catalog::layout::ObjectName;
use crate::catalog::{Catalog, Gap, TimelineLog};
use crate::engine::{BaseOptions, Detail, Engine, ScanStart, Source, SourceOptions};
use crate::error::{Error, Kind, Result};
use crate::model::cluster::{ClusterName, ServerState};
use crate::model::offset::{Offset, OffsetRange};
use crate::model::position::Resume;
use crate::model::time::Clock;
use crate::model::timeline::TimelineId;
use crate::segment::codec::Compression;
use crate::segment::cutter::Limits;
use crate::store::Store;

pub mod ack;
pub mod backup;
pub mod base;
pub mod compact;
pub mod resume;
pub mod session;
pub mod tail;
pub mod whence;
pub mod writer;

use resume::Ready;
use session::{End, Goal, Report, Until};
use whence::{Whence, whence};

/// First and longest wait between two attempts to reach the server.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// How long a slot may stay in use by a connection that has just died.
const SLOT_BUSY_MAX: Duration = Duration::from_secs(15);

/// How the log is archived.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Compression of segments.
    pub compression: Compression,
    /// Largest raw size of a segment in bytes.
    pub segment_bytes: u64,
    /// Longest time a byte waits for its segment to close, on stores without a tail.
    pub flush_interval: Duration,
    /// Stop once this offset is durable.
    pub until: Option<Offset>,
    /// Stop once everything the server had at the start is durable.
    pub exit_when_caught_up: bool,
    /// Take a base backup when there is none, and after a gap.
    pub backup: bool,
}

/// Keeps one cluster's log flowing into its archive.
pub struct Archiver {
    /// Where the archive is.
    pub store: Arc<dyn Store>,
    /// Its name there.
    pub cluster: ClusterName,
    /// Which kind of database.
    pub engine: Arc<dyn Engine>,
    /// Where the database is.
    pub url: String,
    /// How to connect.
    pub options: SourceOptions,
    /// How to archive.
    pub settings: Settings,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

/// Rolls footers up into indexes, as many as are due.
///
/// # Errors
/// From the store.
pub async fn roll_up(archive: &Archive, engine: &dyn Engine, timeline: TimelineId, epoch: u32) -> Result<()> {
    let mut catalog = archive.catalog_to_stream(engine).await?;
    let Some(log) = catalog.timelines.get_mut(&timeline) else { return Ok(()) };
    while let Some(range) = index::due(log) {
        let rolled = Index::of(log, timeline, range, epoch);
        let body = Bytes::from(rolled.encode(archive.layout.cluster())?);
        let name = archive.layout.name(&ObjectName::Index { timeline, range, epoch });
        match archive.store.create(&name, vec![body]).await {
            // One of ours, damaged: an index only makes planning faster.
            Err(error) if error.kind() == Kind::Fenced => {
                tracing::error!(%error, "an index is damaged, and streaming goes on; see `pitr verify`");
                return Ok(());
            }
            created => created?,
        };
        log.indexes.retain(|narrow| !range.covers(*narrow));
        log.indexes.push(range);
    }
    Ok(())
}

/// What one pass over a connection came to.
enum Pass {
    Done,
    Again,
}

/// How many closed segments of a log no index holds yet.
fn unindexed(log: &TimelineLog) -> usize {
    let indexed = log.indexes.last().map_or(Offset::ZERO, |range| range.end);
    log.segments.len() - log.segments.partition_point(|segment| segment.range.start < indexed)
}

/// What outlives a connection.
struct Run<'a> {
    archiver: &'a Archiver,
    archive: Archive,
    epoch: Epoch,
    until: Until,
    goal: watch::Sender<Goal>,
    report: &'a watch::Sender<Report>,
    base: Option<JoinHandle<Result<()>>>,
    base_wanted: bool,
    /// Where the server's log ended when we came: what catching up means.
    log_end: Offset,
}

impl Archiver {
    /// Streams until `stop` turns true or the settings say so. Returns with everything
    /// that was received durable and acknowledged.
    ///
    /// # Errors
    /// At the first attempt, anything. Later only what no new attempt can cure:
    /// [`Kind::Fenced`], another database at the source, a history that parted from the
    /// archive's, log that twice failed its checksum.
    pub async fn run(&self, stop: watch::Receiver<bool>, report: &watch::Sender<Report>) -> Result<()> {
        let mut source = self.engine.connect(&self.url, &self.options).await?;
        let server = source.identify().await?;
        let archive = Archive::open_or_create(Arc::clone(&self.store), &self.cluster, &server.identity).await?;
        let epoch = fence::claim(archive.store.as_ref(), &archive.layout, self.clock.as_ref(), "pitr archive").await?;
        let (store, now) = (Arc::clone(&archive.store), self.clock.now());
        tokio::spawn(async move {
            match store.sweep(now).await {
                Ok(0) => {}
                Ok(files) => tracing::info!(files, "removed what interrupted writers had left"),
                Err(error) => tracing::warn!(%error, "what interrupted writers left is still there"),
            }
        });
        let (goal, goal_receiver) = watch::channel(Goal::Wait);
        let until = Until { stop, goal: goal_receiver };
        let mut run = Run {
            archiver: self,
            archive,
            epoch,
            until,
            goal,
            report,
            base: None,
            base_wanted: false,
            log_end: server.log_end,
        };
        let result = run.keep_streaming(source, server).await;
        if let Some(base) = run.base.take() {
            base.abort();
        }
        result
    }
}

impl Run<'_> {
    async fn keep_streaming(&mut self, source: Box<dyn Source>, server: ServerState) -> Result<()> {
        let catalog = self.catalog().await?;
        self.want_base(&catalog);
        let mut connected = Some((source, server));
        let mut wait = BACKOFF.0;
        let mut bad_log: Option<String> = None;
        let mut busy_since = None;
        loop {
            let before = self.report.borrow().received;
            let result = self.pass(connected.take()).await;
            if self.report.borrow().received > before {
                // It was a good connection until now: what ended it is a new trouble.
                wait = BACKOFF.0;
                busy_since = None;
            }
            let error = match result {
                Ok(Pass::Done) => return self.finish_base().await,
                Ok(Pass::Again) => {
                    wait = BACKOFF.0;
                    busy_since = None;
                    continue;
                }
                Err(error) => error,
            };
            if *self.until.stop.borrow() {
                return Ok(());
            }
            match error.kind() {
                Kind::Fenced | Kind::NotRecoverable | Kind::Usage => return Err(error),
                Kind::Config => return Err(error),
                Kind::Busy => {
                    // A slot stays in use for a moment after its archiver died.
                    let since = *busy_since.get_or_insert_with(tokio::time::Instant::now);
                    if since.elapsed() > SLOT_BUSY_MAX {
                        return Err(error);
                    }
                }
                Kind::Corruption => {
                    // Read it once more: the wire may be to blame. Then it is the log.
                    let text = error.to_string();
                    if bad_log.as_ref() == Some(&text) {
                        return Err(error);
                    }
                    bad_log = Some(text);
                }
                _ => {}
            }
            let jitter = rand::rng().random_range(0.5..1.0);
            let pause = wait.mul_f64(jitter);
            tracing::warn!(error = %error, hint = error.advice(), "streaming stopped; trying again in {:.1} s", pause.as_secs_f64());
            wait = (wait * 2).min(BACKOFF.1);
            let mut stop = self.until.stop.clone();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            }
        }
    }

    /// Decides whether the archive lacks a base; catching up then means having one too.
    fn want_base(&mut self, catalog: &Catalog) {
        self.base_wanted = self.archiver.settings.backup && catalog.lacks_base();
        self.set_goal();
    }

    fn set_goal(&self) {
        let settings = &self.archiver.settings;
        let goal = match settings.until {
            Some(until) => Goal::Offset(until),
            None if !settings.exit_when_caught_up => Goal::Never,
            None if self.base_wanted => Goal::Wait,
            None => Goal::Offset(self.log_end),
        };
        self.goal.send_replace(goal);
    }

    async fn catalog(&self) -> Result<Catalog> {
        self.archive.catalog_to_stream(self.archiver.engine.as_ref()).await
    }

    /// Streams one timeline over one connection.
    async fn pass(&mut self, connected: Option<(Box<dyn Source>, ServerState)>) -> Result<Pass> {
        let engine = Arc::clone(&self.archiver.engine);
        let (mut source, server) = match connected {
            Some(connected) => connected,
            None => {
                let mut source = engine.connect(&self.archiver.url, &self.archiver.options).await?;
                let server = source.identify().await?;
                (source, server)
            }
        };
        self.archive.check_identity(&server.identity)?;
        let slot_start = source.prepare_slot().await?;
        let history = source.history(server.timeline).await?;
        if let Some(history) = &history {
            self.archive.keep_history(history).await?;
            for ancestor in &history.ancestors {
                // A server made from a copy may lack those; the newest one names them all.
                match source.history(ancestor.timeline).await {
                    Ok(Some(history)) => self.archive.keep_history(&history).await?,
                    Ok(None) => {}
                    Err(error) => tracing::debug!(%error, "the server has no older history"),
                }
            }
        }
        let catalog = self.catalog().await?;
        let (timeline, ready) = match whence(&catalog, &server, history.as_ref())? {
            Whence::Empty => {
                let at = slot_start.clone().unwrap_or_else(|| self.present(&server));
                (at.timeline, self.fresh(at.timeline, at.offset))
            }
            Whence::Start(timeline, offset) => (timeline, self.fresh(timeline, offset)),
            Whence::EndOf(timeline) => {
                let compression = self.archiver.settings.compression;
                let ready =
                    resume::at_end(&self.archive, engine.as_ref(), &catalog, timeline, &self.epoch, compression)
                        .await?;
                (timeline, ready)
            }
        };
        let start = ready.start;
        source.stream(&self.resume(timeline, start)).await?;
        tracing::info!(timeline = timeline.0, from = %engine.position(start), "streaming");
        if self.base_wanted && self.base.as_ref().is_none_or(JoinHandle::is_finished) {
            self.begin_base();
        }
        let log_end = if timeline == server.timeline { server.log_end } else { start };
        let confirms = !server.standby && timeline == server.timeline;
        let setup = self.setup(&catalog, timeline, ready, log_end, confirms);
        let end = match session::run(source.as_mut(), setup, self.until.clone(), self.report).await {
            // The server tells only once the stream has begun that it lacks the log.
            Err(error) if error.kind() == Kind::Absent => {
                let at = slot_start.unwrap_or_else(|| self.present(&server)).offset;
                if at <= start {
                    return Err(error.with_kind(Kind::DatabaseUnreachable));
                }
                self.record_gap(timeline, start, at, &error).await?;
                return Ok(Pass::Again);
            }
            other => other?,
        };
        match end {
            End::Stopped => {
                source.stop().await?;
                Ok(Pass::Done)
            }
            End::TimelineEnd { next, at } => {
                tracing::info!(from = timeline.0, to = next.0, at = %engine.position(at), "following to the next timeline");
                Ok(Pass::Again)
            }
            End::ServerEnded => Err(Error::new(Kind::DatabaseUnreachable, "the server ended the stream")),
        }
    }

    fn resume(&self, timeline: TimelineId, offset: Offset) -> Resume {
        Resume { timeline, offset, position: self.archiver.engine.position(offset) }
    }

    /// Where the server stands now, at the start of its log file.
    fn present(&self, server: &ServerState) -> Resume {
        self.resume(server.timeline, server.log_end.floor_to(self.archive.identity.log_file_bytes))
    }

    fn fresh(&self, timeline: TimelineId, start: Offset) -> Ready {
        let scanner =
            self.archiver.engine.scanner(&self.archive.identity, timeline, ScanStart::LogFile(start), Detail::Marks);
        Ready { scanner, start, carried: None, file_segments: Vec::new() }
    }

    fn setup(
        &self,
        catalog: &Catalog,
        timeline: TimelineId,
        ready: Ready,
        log_end: Offset,
        confirms: bool,
    ) -> writer::Setup {
        let settings = &self.archiver.settings;
        let tail_folder = self.archive.store.local_root().map(|root| root.join(self.archive.layout.timeline(timeline)));
        let flush_interval_micros =
            tail_folder.is_none().then(|| i64::try_from(settings.flush_interval.as_micros()).unwrap_or(i64::MAX));
        let log_file_bytes = self.archive.identity.log_file_bytes;
        writer::Setup {
            archive: self.archive.clone(),
            engine: Arc::clone(&self.archiver.engine),
            epoch: self.epoch.clone(),
            timeline,
            limits: Limits { log_file_bytes, segment_bytes: settings.segment_bytes, flush_interval_micros },
            compression: settings.compression,
            scanner: ready.scanner,
            start: ready.start,
            log_end,
            confirms,
            carried: ready.carried,
            file_segments: ready.file_segments,
            unindexed: catalog.timelines.get(&timeline).map_or(0, unindexed),
            tail_folder,
            clock: Arc::clone(&self.archiver.clock),
        }
    }

    /// The server's log begins at `there` only: what the archive lacks before that is
    /// lost. `asked` is where streaming was to begin, if the archive holds no log yet.
    async fn record_gap(&mut self, timeline: TimelineId, asked: Offset, there: Offset, cause: &Error) -> Result<()> {
        let engine = Arc::clone(&self.archiver.engine);
        let catalog = self.catalog().await?;
        let log = catalog.timelines.get(&timeline);
        let (mut start, mut next) = (asked, None);
        if let Some((log, (count, end))) = log.and_then(|log| Some((log, log.unbroken()?))) {
            // The session may have stored some, and there may be log behind the hole.
            start = end.max(asked);
            next = log.segments.get(count).map(|segment| segment.range.start);
            self.close_tail(&catalog, timeline).await?;
        }
        let range = OffsetRange::new(start, next.map_or(there, |next| next.min(there)));
        if range.start >= range.end {
            return Ok(());
        }
        tracing::error!(
            timeline = timeline.0,
            from = %engine.position(range.start),
            to = %engine.position(range.end),
            cause = %cause,
            "the server no longer has log that the archive lacks: a gap is recorded and a new base backup begins"
        );
        let confirmed = log.and_then(|log| log.confirmed);
        let gap = Gap { range, cause: cause.to_string(), found: self.archiver.clock.now(), confirmed };
        let object = ObjectName::Gap { timeline, range, epoch: self.epoch.number() };
        let body = serde_json::to_vec_pretty(&gap).map_err(|e| Error::failure("cannot write a gap").because(e))?;
        self.archive.store.create(&self.archive.layout.name(&object), vec![Bytes::from(body)]).await?;
        self.want_base(&self.catalog().await?);
        Ok(())
    }

    /// Seals the tail at the end of the log: log is to come behind a gap.
    async fn close_tail(&self, catalog: &Catalog, timeline: TimelineId) -> Result<()> {
        let (engine, compression) = (self.archiver.engine.as_ref(), self.archiver.settings.compression);
        let ready = resume::at_end(&self.archive, engine, catalog, timeline, &self.epoch, compression).await?;
        if let Some(tail) = ready.carried {
            let epoch = self.epoch.number();
            self.archive.create_segment(timeline, &tail.bytes, &tail.summary, epoch, compression).await?;
            self.archive.store.delete(&tail.object).await?;
        }
        Ok(())
    }

    /// Takes a base backup beside the stream, and another when a gap has come behind it.
    fn begin_base(&mut self) {
        let archive = self.archive.clone();
        let engine = Arc::clone(&self.archiver.engine);
        let clock = Arc::clone(&self.archiver.clock);
        let url = self.archiver.url.clone();
        let options = SourceOptions { slot: None, ..self.archiver.options.clone() };
        let (goal, caught_up) = (self.goal.clone(), self.archiver.settings.exit_when_caught_up);
        let log_end = self.log_end;
        self.base_wanted = false;
        self.base = Some(tokio::spawn(async move {
            let task = base::Task {
                archive: &archive,
                engine: engine.as_ref(),
                url: &url,
                options: &options,
                clock: clock.as_ref(),
                progress: &|_, _| {},
            };
            let mut wait = BACKOFF.0;
            let base = loop {
                let taken = task.run(&BaseOptions { label: "pitr".into(), fast_checkpoint: true }).await;
                let lacking = match &taken {
                    Ok(_) => archive.catalog_to_stream(engine.as_ref()).await.map(|catalog| catalog.lacks_base()),
                    Err(_) => Ok(true),
                };
                match taken.and_then(|base| Ok((base, lacking?))) {
                    Ok((base, false)) => break base,
                    Ok((base, true)) => {
                        tracing::warn!(base = base.id, "a gap came behind this base backup; taking another")
                    }
                    Err(error) if caught_up || error.kind() == Kind::Fenced => {
                        goal.send_replace(Goal::Offset(Offset::ZERO));
                        return Err(error);
                    }
                    Err(error) => {
                        tracing::error!(error = %error, hint = error.advice(), "the base backup failed; trying again");
                        tokio::time::sleep(wait).await;
                        wait = (wait * 2).min(BACKOFF.1);
                    }
                }
            };
            tracing::info!(base = base.id, bytes = base.bytes, stored = base.stored_bytes, "base backup is stored");
            goal.send_if_modified(|goal| {
                let waiting = *goal == Goal::Wait;
                if waiting {
                    *goal = Goal::Offset(base.end.max(log_end));
                }
                waiting
            });
            Ok(())
        }));
    }

    /// Waits for a base backup that the caller asked to see finished.
    async fn finish_base(&mut self) -> Result<()> {
        if !self.archiver.settings.exit_when_caught_up {
            return Ok(());
        }
        match self.base.take() {
            Some(base) if !*self.until.stop.borrow() => {
                base.await.map_err(|e| Error::failure("the base backup stopped").because(e))?
            }
            _ => Ok(()),
        }
    }
}
