//! Brings stores that are written as one ([`Mirrored`]) to the same archive, and keeps them there.
//!
//! Order, and why:
//!
//! 1. [`Mirrors::meet`]: each store that answers is asked what it holds; the one that is farthest leads. The others get its
//!    claims: if they have others, two archivers have parted, and nothing is written. So the next claim, made in all of them, is the
//!    highest in each.
//! 2. The writer claims its epoch. From then on nobody else is told that anything is durable.
//! 3. [`Mirrors::begin`]: tails become segments, for with several stores there are none. Whatever another store has the leader
//!    gets: all that any of them holds is in it then, and it is the first that is up to date.
//! 4. Each other store is brought up by [`copy`], and joins, as is one that falls behind later. What is created while the last of it is
//!    copied waits for that store, so that it has a beginning of the archive at each moment.
//!
//! A store that holds a claim unknown to the others fences the writer, whenever it comes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::tail::seal_all;
use super::{Report, copy, copy_claims, names};
use crate::catalog::archive::Archive;
use crate::catalog::layout::{Layout, ObjectName};
use crate::engine::{Engine, by_name};
use crate::error::{Error, Kind, Result};
use crate::model::cluster::ClusterName;
use crate::model::offset::Offset;
use crate::model::timeline::TimelineId;
use crate::seal::key::Keys;
use crate::segment::codec::Compression;
use crate::store::Store;
use crate::store::mirrored::{Mirrored, Standing};

/// First and longest wait before a store that cannot be brought up is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How often a claim is looked at that is foreign: that of an archiver at work may just be on its way to all stores.
const LOOKS: u32 = 3;

/// How long a store may take to say what it holds.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// So few objects are copied while what is created waits for the store.
const FEW: u64 = 32;

/// Several stores, and whose archive is in them.
pub struct Mirrors {
    store: Arc<Mirrored>,
    cluster: ClusterName,
    compression: Compression,
    keys: Keys,
    /// Whether the stores' writer claims an epoch between [`Mirrors::meet`] and [`Mirrors::begin`]. Else there may be another at work, and
    /// its tails are left alone.
    claims: bool,
    /// The one that is farthest.
    leader: Mutex<Option<usize>>,
}

/// How far a store's archive reaches, the farthest last: its last claim, and its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Reach {
    epoch: Option<u32>,
    timeline: Option<TimelineId>,
    end: Offset,
    objects: usize,
}

impl Mirrors {
    /// For an archive in these stores; where the open end of a log becomes a segment, it is compressed as said. `claims` is whether
    /// their writer claims an epoch between [`Mirrors::meet`] and [`Mirrors::begin`].
    #[must_use]
    pub fn new(
        store: Arc<Mirrored>,
        cluster: ClusterName,
        compression: Compression,
        keys: Keys,
        claims: bool,
    ) -> Arc<Self> {
        Arc::new(Self { store, cluster, compression, keys, claims, leader: Mutex::default() })
    }

    /// Asks the stores what they hold, and has each know of all writers that there were.
    ///
    /// # Errors
    /// [`Kind::StoreUnreachable`] when too few answer; [`Kind::Fenced`] when two archivers have parted.
    pub async fn meet(&self) -> Result<()> {
        let asked = self.store.members().iter().map(|store| self.reach(store.as_ref()));
        let (mut met, mut away) = (Vec::new(), None);
        for (member, reach) in join_all(asked).await.into_iter().enumerate() {
            match reach {
                Ok(reach) => met.push((reach, member)),
                Err(error) if error.kind() == Kind::StoreUnreachable => {
                    tracing::warn!(%error, hint = error.advice(), "store {} does not answer", self.place(member));
                    away.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        let needed = self.store.claims();
        if met.len() < needed {
            let (count, all) = (met.len(), self.store.members().len());
            let error = away.unwrap_or_else(|| Error::new(Kind::StoreUnreachable, "a store does not answer"));
            return Err(
                error.context(format_args!("{count} of {all} stores answer, and a new archiver needs {needed}"))
            );
        }
        // Of those that are equally far the first.
        let leader = met.iter().max_by_key(|(reach, member)| (*reach, std::cmp::Reverse(*member)));
        let leader = leader.filter(|(reach, _)| *reach != Reach::default()).map(|(_, member)| *member);
        *self.leader.lock().unwrap_or_else(PoisonError::into_inner) = leader;
        let mut knowing: Vec<usize> = met.into_iter().map(|(_, member)| member).collect();
        if let Some(leader) = leader {
            let archive = self.archive(leader).await?;
            for member in knowing.clone() {
                match self.tell_claims(&archive, member).await {
                    Err(error) if error.kind() == Kind::StoreUnreachable && knowing.len() > needed => {
                        tracing::warn!(%error, hint = error.advice(), "store {} does not answer", self.place(member));
                        knowing.retain(|known| *known != member);
                    }
                    told => told?,
                }
            }
        }
        self.store.meet(knowing);
        Ok(())
    }

    /// Brings the stores together, once this writer's claim is in them, and keeps them so. Comes back when enough of them are up to date.
    ///
    /// # Errors
    /// As [`Mirrors::meet`]; [`Kind::Corruption`] for what is damaged and needed.
    pub async fn begin(self: &Arc<Self>) -> Result<Keeper> {
        let met = self.store.met();
        let leader = *self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(leader) = leader.filter(|leader| met.contains(leader)).or_else(|| met.first().copied()) else {
            return Err(Error::failure("no store was met"));
        };
        let archive = self.archive(leader).await?;
        let engine = by_name(&archive.identity.engine)?;
        let mut pulled = vec![false; self.store.members().len()];
        for member in std::iter::once(leader).chain(met.into_iter().filter(|member| *member != leader)) {
            match self.pull(&archive, member, engine.as_ref()).await {
                Err(error) if error.kind() == Kind::StoreUnreachable && member != leader => {
                    tracing::warn!(%error, hint = error.advice(), "store {} does not answer", self.place(member));
                }
                done => {
                    done?;
                    pulled.iter_mut().skip(member).take(1).for_each(|pulled| *pulled = true);
                }
            }
        }
        self.store.begin(&[leader]);
        let to = self.end_of(leader, engine.as_ref()).await;
        tracing::info!(store = self.place(leader), to, "the archive is complete in this store");
        let (fares, told) = watch::channel(vec![Fares::Behind; self.store.members().len()]);
        fares.send_modify(|fares| fares.iter_mut().skip(leader).take(1).for_each(|it| *it = Fares::Well));
        let fares = Arc::new(fares);
        let tasks = pulled.into_iter().enumerate().map(|(member, pulled)| {
            let keep = Keep { mirrors: Arc::clone(self), member, is_pulled: pulled, fares: Arc::clone(&fares) };
            tokio::spawn(keep.run())
        });
        let keeper = Keeper { mirrors: Arc::clone(self), fares: told, tasks: tasks.collect() };
        self.store.enough().await;
        Ok(keeper)
    }

    /// What a member that did not know of this writer has, and the leader lacks.
    async fn pull(&self, leader: &Archive, member: usize, engine: &dyn Engine) -> Result<()> {
        let own = self.archive(member).await?;
        if self.claims {
            seal_all(&own, engine, self.compression).await?;
        }
        if Arc::ptr_eq(&own.stored(), &leader.stored()) {
            return Ok(());
        }
        let report = copy(&own, leader.stored(), engine, self.compression, &|_, _| {}).await?;
        self.tell(&report, &own.store.location());
        Ok(())
    }

    /// The archive as one of the members holds it.
    async fn archive(&self, member: usize) -> Result<Archive> {
        let store = self.store.members().get(member).ok_or_else(|| Error::failure("there is no such store"))?;
        Archive::open(Arc::clone(store), &self.cluster, &self.keys).await
    }

    /// Has a member know of all writers.
    async fn tell_claims(&self, from: &Archive, member: usize) -> Result<()> {
        let Some(to) = self.store.members().get(member) else { return Ok(()) };
        if Arc::ptr_eq(&from.stored(), to) {
            return Ok(());
        }
        let engine = by_name(&from.identity.engine)?;
        let mut looks = 1;
        loop {
            match copy_claims(from, Arc::clone(to), engine.as_ref(), self.compression).await {
                Err(error) if error.kind() == Kind::Fenced && looks < LOOKS => looks += 1,
                told => return told,
            }
            sleep(PAUSES.0).await;
        }
    }

    /// How far a store's archive reaches, if it says so in time.
    async fn reach(&self, store: &dyn Store) -> Result<Reach> {
        tokio::time::timeout(ANSWER_MAX, self.look(store)).await.unwrap_or_else(|_| {
            let seconds = ANSWER_MAX.as_secs();
            let text = format!("store {} has not answered for {seconds} seconds", store.location());
            Err(Error::new(Kind::StoreUnreachable, text).hint("does its disk or its service hang?"))
        })
    }

    async fn look(&self, store: &dyn Store) -> Result<Reach> {
        let layout = Layout::new(self.cluster.clone());
        let mut reach = Reach::default();
        for object in names(store, &layout, &layout.epochs()).await?.keys() {
            if let ObjectName::Epoch(number) = object {
                reach.epoch = reach.epoch.max(Some(*number));
            }
        }
        for object in names(store, &layout, &layout.log()).await?.keys() {
            let (of, end) = match object {
                ObjectName::Segment { timeline, range, .. } => (timeline, range.end),
                ObjectName::Tail { timeline, start, .. } => (timeline, *start),
                _ => continue,
            };
            if reach.timeline < Some(*of) {
                (reach.timeline, reach.end) = (Some(*of), Offset::ZERO);
            }
            if reach.timeline == Some(*of) {
                reach.end = reach.end.max(end);
            }
            reach.objects += 1;
        }
        Ok(reach)
    }

    /// Where a member's log ends, for people.
    async fn end_of(&self, member: usize, engine: &dyn Engine) -> String {
        let Some(store) = self.store.members().get(member) else { return String::new() };
        match self.reach(store.as_ref()).await {
            Ok(Reach { timeline: Some(timeline), end, .. }) => {
                format!("{} on timeline {timeline}", engine.position(end))
            }
            Ok(_) => "no log yet".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    fn place(&self, member: usize) -> String {
        self.store.members().get(member).map(|store| store.location()).unwrap_or_default()
    }

    fn tell(&self, report: &Report, from: &str) {
        if let Some(first) = report.problems.first() {
            tracing::error!(
                object = first.object,
                problem = first.problem,
                count = report.problems.len(),
                hint = "`pitr verify --repair` with all stores puts back what one of them has intact",
                "objects of {from} could not be brought to another store"
            );
        }
    }
}

fn contradiction(report: &Report) -> Error {
    let why = report.problems.first().map_or_else(String::new, |first| format!("{}: {}", first.object, first.problem));
    Error::corruption(why).hint("was it written to by itself? give it a new directory or prefix, or see `pitr verify`")
}

/// Keeps stores together for as long as it is there.
pub struct Keeper {
    mirrors: Arc<Mirrors>,
    fares: watch::Receiver<Vec<Fares>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Keeper {
    /// Waits until every store has everything, but for those that cannot be brought up; gives their places.
    pub async fn finish(&mut self) -> Vec<String> {
        let store = &self.mirrors.store;
        let mut changes = store.changes();
        loop {
            let fares = self.fares.borrow_and_update().clone();
            let is_done = |(member, fares): (usize, &Fares)| match fares {
                Fares::Behind => false,
                Fares::Well => store.standing(member) == Standing::Current,
                Fares::Badly => store.standing(member) != Standing::Current,
            };
            if store.is_quiet() && fares.iter().enumerate().all(is_done) {
                let badly = fares.iter().enumerate().filter(|(_, fares)| **fares == Fares::Badly);
                return badly.map(|(member, _)| self.mirrors.place(member)).collect();
            }
            tokio::select! {
                _ = changes.changed() => {}
                _ = self.fares.changed() => {}
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// How it goes with bringing a member up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fares {
    /// It has not come to anything yet.
    Behind,
    /// It has been done, and told.
    Well,
    /// It failed, and is tried again.
    Badly,
}

/// Brings one member up whenever it is behind.
struct Keep {
    mirrors: Arc<Mirrors>,
    member: usize,
    /// Whether the others have what it has.
    is_pulled: bool,
    fares: Arc<watch::Sender<Vec<Fares>>>,
}

impl Keep {
    async fn run(mut self) {
        let (mut pause, mut is_told) = (PAUSES.0, false);
        // One that answers from the beginning was not behind.
        let mut is_new = self.is_pulled;
        loop {
            self.mirrors.store.behind(self.member).await;
            let place = self.mirrors.place(self.member);
            match self.bring_up().await {
                Ok(to) => {
                    let what = if is_new { "a store is up to date" } else { "a store has everything again" };
                    tracing::info!(store = place, %to, "{what}");
                    is_new = false;
                    (pause, is_told) = (PAUSES.0, false);
                    self.tell(Fares::Well);
                    continue;
                }
                Err(error) if error.kind() == Kind::Fenced => {
                    tracing::error!(store = place, %error, hint = error.advice(), "another archiver has written to a store");
                    return self.mirrors.store.fence(&error);
                }
                Err(error) if is_told => tracing::debug!(store = place, %error, "a store is still behind"),
                Err(error) => {
                    tracing::warn!(store = place, %error, hint = error.advice(), "a store is behind, and cannot be brought up; trying again until it can");
                    is_told = true;
                }
            }
            self.mirrors.store.drop_out(self.member);
            self.tell(Fares::Badly);
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    fn tell(&self, how: Fares) {
        self.fares.send_modify(|fares| fares.iter_mut().skip(self.member).take(1).for_each(|it| *it = how));
    }

    /// Copies what the member lacks, and has it join; gives where its log ends.
    async fn bring_up(&mut self) -> Result<String> {
        let (mirrors, member) = (Arc::clone(&self.mirrors), self.member);
        let all: Arc<dyn Store> = mirrors.store.clone();
        let all = Archive::open(all, &mirrors.cluster, &mirrors.keys).await?;
        let engine = by_name(&all.identity.engine)?;
        let Some(to) = mirrors.store.members().get(member) else { return Ok(String::new()) };
        mirrors.tell_claims(&all, member).await?;
        if !self.is_pulled {
            mirrors.pull(&all, member, engine.as_ref()).await?;
            self.is_pulled = true;
        }
        loop {
            let mark = mirrors.store.mark().await;
            let report = copy(&all, Arc::clone(to), engine.as_ref(), mirrors.compression, &|_, _| {}).await?;
            if report.contradicts {
                // Log behind what was left out would follow a hole.
                return Err(contradiction(&report));
            }
            if mirrors.store.join(member, mark) {
                mirrors.tell(&report, &all.store.location());
                return Ok(mirrors.end_of(member, engine.as_ref()).await);
            }
            if report.objects <= FEW {
                mirrors.store.hold(member);
            }
        }
    }
}

#[cfg(test)]
mod tests;
