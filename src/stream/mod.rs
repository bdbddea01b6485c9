//! The conveyor: source to cutter to segment to store to acknowledgement.
//!
//! [`Archiver::run`] keeps one cluster's log flowing: it connects, finds out where the
//! archive ends, streams, follows timelines, records gaps, takes the first base backup,
//! and begins again after whatever went wrong. [`session`] is one stream on one timeline,
//! [`writer`] the stage that makes bytes durable.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::catalog::archive::Archive;
use crate::catalog::fence::{self, Epoch};
use crate::catalog::load::Known;
use crate::catalog::{Catalog, Holder};
use crate::copy::mirrors::{Keeper, Mirrors};
use crate::engine::{Axis, Engine, Source, SourceOptions};
use crate::error::{Error, Kind, Result};
use crate::model::cluster::{ClusterName, ServerState};
use crate::model::offset::Offset;
use crate::model::time::Clock;
use crate::model::timeline::TimelineId;
use crate::seal::key::Keys;
use crate::segment::codec::Compression;
use crate::store::Store;

pub mod ack;
mod again;
pub mod backup;
pub mod base;
pub mod compact;
mod counted;
pub mod find;
mod gap;
mod pass;
pub mod resume;
pub mod roll_up;
pub mod session;
pub mod spool;
pub mod standby;
pub mod tail;
pub mod whence;
pub mod writer;

use pass::Pass;
use session::{Goal, Report, Until};
use spool::{Spool, WithSpool};

/// First and longest wait between two attempts to reach the server.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// How long a slot may stay in use by a connection that has just died.
const SLOT_BUSY_MAX: Duration = Duration::from_secs(15);

/// How long stores that lack something are waited for at the end.
const FAREWELL_MAX: Duration = Duration::from_secs(10);

/// Who claims an archiver's epoch, for people.
const CLAIMED_BY: &str = "pitr archive";

/// How the log is archived.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Compression of segments.
    pub compression: Compression,
    /// Largest raw size of a segment in bytes.
    pub segment_bytes: u64,
    /// Longest time a byte waits for its segment to close, on stores without a tail.
    pub flush_interval: Duration,
    /// Where log waits for a remote store.
    pub spool: Option<SpoolSettings>,
    /// Where an archive without log begins, and goes on when the server lacks what lies before:
    /// where the log begins that is wanted. `None` for where the server keeps log from.
    pub from: Option<(TimelineId, Offset)>,
    /// Stop once this offset is durable.
    pub until: Option<Offset>,
    /// Stop once everything the server had at the start is durable.
    pub exit_when_caught_up: bool,
    /// Take a base backup when there is none, and after a gap.
    pub backup: bool,
    /// Begin only once another archiver has been silent for so long.
    pub standby: Option<Duration>,
}

/// Where log waits for a store that is slow or away.
#[derive(Clone, Debug)]
pub struct SpoolSettings {
    /// The directory.
    pub folder: PathBuf,
    /// How much it may hold.
    pub bytes: u64,
    /// Whether what it holds is acknowledged.
    pub counts: bool,
}

/// Keeps one cluster's log flowing into its archive.
pub struct Archiver {
    /// Where the archive is.
    pub store: Arc<dyn Store>,
    /// What keeps it together, if it is several stores.
    pub mirrors: Option<Arc<Mirrors>>,
    /// Its name there.
    pub cluster: ClusterName,
    /// The keys, if it is encrypted.
    pub keys: Keys,
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

/// Does `work` unless asked to stop: then it is left where it stands. So it is for work that
/// waits for others, and that a crash at any place would do no harm to.
async fn unless_stopped<T>(stop: &watch::Receiver<bool>, work: impl Future<Output = T>) -> Option<T> {
    let mut stop = stop.clone();
    tokio::select! {
        done = work => Some(done),
        _ = stop.wait_for(|stop| *stop) => None,
    }
}

/// Waits until all stores have what one of them has, if they answer; not for long once asked to stop.
async fn finish(mut keeper: Keeper, mut stop: watch::Receiver<bool>) {
    let asked = async {
        // Whoever could ask is gone otherwise.
        let _ = stop.wait_for(|stop| *stop).await;
        tokio::time::sleep(FAREWELL_MAX).await;
    };
    tokio::select! {
        lacking = keeper.finish() => lacking.iter().for_each(|store| {
            tracing::warn!(store, "a store lacks what others have; the next `pitr archive`, or `pitr copy`, brings it there");
        }),
        () = asked => tracing::warn!("not all stores have everything yet; the next `pitr archive` brings it there"),
    }
}

/// What outlives a connection.
struct Run<'a> {
    archiver: &'a Archiver,
    archive: Archive,
    spool: Option<Arc<Spool>>,
    epoch: Epoch,
    until: Until,
    goal: watch::Sender<Goal>,
    report: &'a watch::Sender<Report>,
    base: Option<JoinHandle<Result<()>>>,
    base_wanted: bool,
    /// [`Settings::from`], at the start of its log file, until the server lacks that log too.
    from: Option<(TimelineId, Offset)>,
    /// Where the server's log ended when we came: what catching up means.
    log_end: Offset,
    /// Damaged objects that were told.
    told: BTreeSet<String>,
    /// A create in a remote store may have had no answer, and may yet be done.
    late: bool,
    /// What the next epoch's claim holds, while it is not known to be there.
    claim: Option<Bytes>,
    /// Whether this epoch has created segments.
    creates: Arc<AtomicBool>,
    /// Segments whose footers are sound and whose bytes are not, with what is wrong.
    unreadable: Known,
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
        let spool = self.open_spool().await?;
        if let Some(patience) = self.settings.standby {
            if let Some(spool) = &spool
                && spool.holds_log().await?
            {
                return Err(Error::config(format!(
                    "the spool {} holds log that the store may lack, and nobody brings it there from a standby",
                    spool.root().display()
                ))
                .hint("run `pitr archive` without --standby first: it takes over at once"));
            }
            if !standby::wait(self, patience, &stop).await? {
                return Ok(());
            }
        }
        let Some(connected) = unless_stopped(&stop, self.connect()).await else { return Ok(()) };
        let (source, server) = connected?;
        if let Some(mirrors) = &self.mirrors {
            mirrors.meet().await?;
        }
        let archive =
            Archive::open_or_create(Arc::clone(&self.store), &self.cluster, &server.identity, &self.keys).await?;
        if let (Some(sealed), Some(spool)) = (&archive.sealed, &spool) {
            sealed.ring().keep_in(&spool.root().join(self.cluster.as_str()))?;
        }
        let epoch = fence::claim(archive.store.as_ref(), &archive.layout, self.clock.as_ref(), CLAIMED_BY).await?;
        let keeper = match &self.mirrors {
            Some(mirrors) => match unless_stopped(&stop, mirrors.begin()).await {
                Some(keeper) => Some(keeper?),
                None => return Ok(()),
            },
            None => None,
        };
        if let Some(spool) = &spool {
            spool.own(&epoch)?;
        }
        let (store, now) = (Arc::clone(&archive.store), self.clock.now());
        tokio::spawn(async move {
            match store.sweep(now).await {
                Ok(0) => {}
                Ok(files) => tracing::info!(files, "removed what interrupted writers had left"),
                Err(error) => tracing::warn!(%error, "what interrupted writers left is still there"),
            }
        });
        let file_bytes = archive.identity.log_file_bytes;
        let from = self.settings.from.map(|(timeline, from)| (timeline, from.floor_to(file_bytes)));
        let (goal, goal_receiver) = watch::channel(Goal::Wait);
        let until = Until { stop: stop.clone(), goal: goal_receiver };
        let mut run = Run {
            archiver: self,
            archive,
            spool,
            epoch,
            until,
            goal,
            report,
            base: None,
            base_wanted: false,
            from,
            log_end: server.log_end,
            told: BTreeSet::new(),
            late: false,
            claim: None,
            creates: Arc::default(),
            unreadable: Known::new(),
        };
        let result = run.keep_streaming(source, server).await;
        if let Some(base) = run.base.take() {
            base.abort();
        }
        if let (Some(keeper), Ok(())) = (keeper, &result) {
            finish(keeper, stop).await;
        }
        result
    }

    async fn open_spool(&self) -> Result<Option<Arc<Spool>>> {
        let Some(SpoolSettings { folder, bytes, counts }) = &self.settings.spool else { return Ok(None) };
        if self.store.local_root().is_some() {
            return Err(Error::config(format!("the store {} is on a disk and needs no spool", self.store.location()))
                .hint(
                    "leave out --spool and ack = \"spool\": what is synced to a local store is acknowledged at once",
                ));
        }
        let spool = Spool::open(folder, &self.cluster, *bytes, self.settings.segment_bytes).await?;
        if *counts {
            tracing::warn!(
                spool = %folder.display(),
                "log is acknowledged once it is on the disk of this spool: what the store does not have yet is lost with this disk"
            );
        }
        Ok(Some(Arc::new(spool)))
    }

    /// Connects, and asks the server who it is.
    async fn connect(&self) -> Result<(Box<dyn Source>, ServerState)> {
        let mut source = self.engine.connect(&self.url, &self.options).await?;
        let server = source.identify().await?;
        Ok((source, server))
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
                tracing::warn!(%error, hint = error.advice(), "streaming stopped");
                return Ok(());
            }
            // Whatever error came first: uploads were under way beside it.
            self.late |= self.creates.load(Ordering::Relaxed) && self.archive.store.local_root().is_none();
            match error.kind() {
                Kind::Fenced | Kind::NotRecoverable | Kind::Usage => return Err(error),
                Kind::Config | Kind::WrongKey => return Err(error),
                Kind::Busy => {
                    // A slot stays in use for a moment after its archiver died.
                    let since = *busy_since.get_or_insert_with(tokio::time::Instant::now);
                    // Whoever took over from one that hangs waits until the server gives that up.
                    if since.elapsed() > SLOT_BUSY_MAX && self.archiver.settings.standby.is_none() {
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
            None if self.archiver.engine.axis() == Axis::Archive => Goal::Present,
            None => Goal::Offset(self.log_end),
        };
        self.goal.send_replace(goal);
    }

    /// The archive with what waits in the spool.
    fn with_spool(&self) -> Archive {
        let Archive { store, layout, identity, sealed } = self.archive.clone();
        let store = match &self.spool {
            Some(spool) => Arc::new(WithSpool { store, spool: Arc::clone(spool) }),
            None => store,
        };
        Archive { store, layout, identity, sealed }
    }

    /// Brings what waits in the spool to the store, before anything is streamed behind `start`, where `timeline` goes on.
    async fn empty_spool(&self, catalog: &Catalog, timeline: TimelineId, start: Offset) -> Result<()> {
        let Some(spool) = &self.spool else { return Ok(()) };
        for waiting in spool.timelines().await? {
            let Some(log) = catalog.timelines.get(&waiting) else { continue };
            let is_damaged = !log.damaged.is_empty();
            if waiting == timeline {
                spool.drain(&self.archive, waiting, start, is_damaged).await?;
            } else if let Some((count, end)) = log.unbroken() {
                if log.segments.iter().take(count).any(|segment| segment.holder == Holder::Tail) {
                    // Nothing comes behind it any more.
                    self.close_tail(catalog, waiting).await?;
                }
                spool.drain(&self.archive, waiting, end, is_damaged).await?;
            }
        }
        Ok(())
    }

    /// What the archive and the spool hold; each damaged object is told once.
    async fn catalog(&mut self) -> Result<Catalog> {
        let engine = self.archiver.engine.as_ref();
        let catalog = self.with_spool().catalog_with(engine, &self.unreadable).await?;
        for damaged in catalog.damaged() {
            if self.told.insert(damaged.object.clone()) {
                damaged.warn();
            }
        }
        Ok(catalog)
    }
}
