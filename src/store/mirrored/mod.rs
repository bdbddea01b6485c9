//! Several stores written as one: what is created goes to each, and counts once enough of them have it.
//!
//! Promises:
//!
//! - What [`Store::create`] has told as created is durable in `acks` members.
//! - In no member, at no time, is there an object without those before it: an object is begun in a member only once that
//!   has all whose creators had an answer when it came ([`table`]).
//! - A member that fails, or is slow for long, is passed over once enough others have what waits for it: it is *behind*, gets
//!   nothing and is not read, until a back-fill ([`crate::copy::mirrors`]) has brought what it lacks and it joins again. So what waits
//!   in memory is bounded. Where the others are too few, it is tried for ever, and the creators are told.
//! - Other bytes under a name in any member are [`Kind::Fenced`], as in a single store.
//!
//! Members *meet* first: a writer's claim is made in each, one after the other in the order in which they are named, so that of
//! two writers that come together one loses in the first. `claims` is how many have to have the claim. Two writers that both
//! acknowledge, each to some of the stores, are impossible where `claims` + `acks` > members: the later one's claim is in one
//! at least of any `acks` members, and an earlier writer asks as many after each create. The same sum has a new writer find
//! whatever an earlier one acknowledged.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::several::Several;
use super::{Created, ObjectInfo, Part, Store, name};
use crate::error::{Error, Kind, Result};
use crate::model::time::Timestamp;

mod create;
#[cfg(test)]
pub(crate) mod moody;
mod read;
mod table;
#[cfg(test)]
mod tests;

use read::Reader;
pub use table::Standing;
use table::{Said, Table, WAITING_BYTES_MAX};

/// Stores that are written as one.
pub struct Mirrored {
    shared: Arc<Shared>,
    /// The members, for whoever reads from one of them: a member that is behind has nothing to tell.
    readers: Vec<Arc<dyn Store>>,
    /// All of them, for whoever only reads.
    apart: Several,
}

struct Shared {
    stores: Vec<Arc<dyn Store>>,
    acks: usize,
    claims: usize,
    state: Mutex<State>,
    /// Changes with the state.
    changed: watch::Sender<()>,
}

struct State {
    phase: Phase,
    table: Table,
    /// Why nothing may be written any more.
    fenced: Option<Said>,
}

/// How far a writer is with its members.
#[derive(Clone, PartialEq, Eq)]
enum Phase {
    /// Nothing is written.
    Apart,
    /// These members are told of a new writer.
    Meeting(Vec<usize>),
    Begun,
}

impl Mirrored {
    /// These stores, of which `acks` have to have what is to count as created, and `claims` the claim of a new writer.
    #[must_use]
    pub fn new(stores: Vec<Arc<dyn Store>>, acks: usize, claims: usize) -> Arc<Self> {
        Self::with_limit(stores, acks, claims, WAITING_BYTES_MAX)
    }

    /// As [`Mirrored::new`], with so many bytes that may wait for a member.
    #[must_use]
    pub fn with_limit(stores: Vec<Arc<dyn Store>>, acks: usize, claims: usize, limit: u64) -> Arc<Self> {
        let table = Table::new(stores.len(), acks, limit);
        let state = State { phase: Phase::Apart, table, fenced: None };
        let apart = Several::new(stores.clone());
        let shared =
            Arc::new(Shared { stores, acks, claims, state: Mutex::new(state), changed: watch::Sender::new(()) });
        let readers = (0..shared.stores.len())
            .map(|member| Arc::new(Reader { shared: Arc::clone(&shared), member }) as Arc<dyn Store>)
            .collect();
        Arc::new(Self { shared, readers, apart })
    }

    /// The stores, in the order in which they are named.
    #[must_use]
    pub fn members(&self) -> &[Arc<dyn Store>] {
        &self.shared.stores
    }

    /// How many members have to have the claim of a new writer.
    #[must_use]
    pub fn claims(&self) -> usize {
        self.shared.claims
    }

    /// How a member stands.
    #[must_use]
    pub fn standing(&self, member: usize) -> Standing {
        self.shared.state().table.standing(member)
    }

    /// From now on these members are told of a new writer: what is created is so in all of them, one after the other.
    pub fn meet(&self, members: Vec<usize>) {
        self.shared.change(|state| state.phase = Phase::Meeting(members));
    }

    /// The members that know of the writer.
    #[must_use]
    pub fn met(&self) -> Vec<usize> {
        match &self.shared.state().phase {
            Phase::Meeting(members) => members.clone(),
            Phase::Apart | Phase::Begun => Vec::new(),
        }
    }

    /// From now on creates go to the members that are up to date: at first to these.
    pub fn begin(&self, current: &[usize]) {
        self.shared.change(|state| {
            state.phase = Phase::Begun;
            current.iter().for_each(|member| state.table.set(*member, Standing::Current));
        });
    }

    /// Waits until as many members are up to date as have to have what is created.
    pub async fn enough(&self) {
        self.shared.until(|state| state.table.count_current() >= self.shared.acks).await;
    }

    /// Waits until a member is behind.
    pub async fn behind(&self, member: usize) {
        self.shared.until(|state| state.table.standing(member) == Standing::Behind).await;
    }

    /// Whether nothing waits for any member.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let state = self.shared.state();
        !(0..self.shared.stores.len()).any(|member| state.table.is_waited_for(member))
    }

    /// Tells whenever something may have changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.shared.changed.subscribe()
    }

    /// The number of the next create, once all before it have had their answer: whoever lists now sees those.
    pub async fn mark(&self) -> u64 {
        let mark = self.shared.state().table.next();
        self.shared.until(|state| state.table.have_all_left(mark)).await;
        mark
    }

    /// Has what is created from now on wait for a member that is behind.
    pub fn hold(&self, member: usize) {
        self.shared.change(|state| state.table.set(member, Standing::Joining));
    }

    /// A member has everything that was created before `mark`. It is up to date if all the rest waits for it, or there is none.
    #[must_use]
    pub fn join(&self, member: usize, mark: u64) -> bool {
        self.shared.change(|state| {
            let is_whole = state.table.standing(member) == Standing::Joining || state.table.next() == mark;
            if is_whole {
                state.table.set(member, Standing::Current);
            }
            is_whole
        })
    }

    /// A member gets nothing more until it has joined again.
    pub fn drop_out(&self, member: usize) {
        self.shared.change(|state| state.table.set(member, Standing::Behind));
    }

    /// Nothing may be written any more: another archiver has come.
    pub fn fence(&self, error: &Error) {
        self.shared.change(|state| {
            state.fenced.get_or_insert_with(|| Said::from(error));
        });
    }

    fn phase(&self) -> Phase {
        self.shared.state().phase.clone()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, passes over who has to be, and has everybody look.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let changed = change(&mut state);
        while let Some((member, why)) = state.table.to_pass_over(Instant::now()) {
            state.table.set(member, Standing::Behind);
            tracing::warn!(
                store = self.place(member),
                why,
                hint = "is it reachable, and has it room? it is brought up by itself once it answers",
                "a store has fallen behind and is passed over"
            );
        }
        drop(state);
        self.changed.send_replace(());
        changed
    }

    async fn until(&self, is: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        while !is(&self.state()) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    fn place(&self, member: usize) -> String {
        self.stores.get(member).map(|store| store.location()).unwrap_or_default()
    }
}

impl State {
    fn check_fenced(&self) -> Result<()> {
        self.fenced.as_ref().map_or(Ok(()), |said| Err(said.error()))
    }
}

#[async_trait]
impl Store for Mirrored {
    async fn create(&self, name: &str, body: Vec<Bytes>) -> Result<Created> {
        name::check(name)?;
        self.shared.state().check_fenced()?;
        match self.phase() {
            Phase::Apart => self.apart.create(name, body).await,
            Phase::Meeting(members) => self.create_in_turn(&members, name, &body).await,
            Phase::Begun => create::create(&self.shared, name, body).await,
        }
    }

    async fn get(&self, name: &str, part: Part) -> Result<Option<Bytes>> {
        if self.phase() == Phase::Apart {
            return self.apart.get(name, part).await;
        }
        self.find(|member| self.readers.get(member).map(|store| store.get(name, part))).await
    }

    /// A union: what one of several writers alone has seen must not be overlooked.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        shallow: bool,
        each: &mut (dyn FnMut(ObjectInfo) + Send),
    ) -> Result<()> {
        if self.phase() == Phase::Apart {
            return self.apart.list(prefix, after, shallow, each).await;
        }
        let mut seen = HashSet::new();
        let lists = self.gather(|member| {
            let store = self.readers.get(member)?;
            Some(async move {
                let mut found = Vec::new();
                store.list(prefix, after, shallow, &mut |info| found.push(info)).await.map(|()| found)
            })
        });
        for info in lists.await?.into_iter().flatten() {
            if seen.insert(info.name.clone()) {
                each(info);
            }
        }
        Ok(())
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        if self.phase() == Phase::Apart {
            return self.apart.folders(prefix).await;
        }
        let folders = self.gather(|member| self.readers.get(member).map(|store| store.folders(prefix))).await?;
        Ok(folders.into_iter().flatten().collect::<BTreeSet<_>>().into_iter().collect())
    }

    /// Only what every current member has, and alike: whoever asks does so to leave out a create, or to build on it.
    async fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        if self.phase() == Phase::Apart {
            return self.apart.head(name).await;
        }
        let candidates = self.candidates()?;
        let heads = candidates.iter().filter_map(|(member, _)| Some(self.readers.get(*member)?.head(name)));
        let mut common: Option<ObjectInfo> = None;
        for (at, head) in futures_util::future::join_all(heads).await.into_iter().enumerate() {
            match head {
                Ok(Some(info)) if at == 0 || common.as_ref() == Some(&info) => common = Some(info),
                // It may lack it, and to create it once more is never wrong.
                Err(error) if error.kind() == Kind::StoreUnreachable && candidates.len() > 1 => return Ok(None),
                other => return other.map(|_| None),
            }
        }
        Ok(common)
    }

    /// From all current members. What stays in one is not wrong, only too much.
    async fn delete(&self, name: &str) -> Result<()> {
        name::check(name)?;
        if self.phase() == Phase::Apart {
            return self.apart.delete(name).await;
        }
        // Else it would come to be in one of them after that.
        self.shared.until(|state| !state.table.is_being_created(name)).await;
        let (mut any, mut failed) = (false, None);
        for (member, _) in self.candidates()? {
            let Some(store) = self.members().get(member) else { continue };
            match store.delete(name).await {
                Ok(()) => any = true,
                Err(error) => {
                    tracing::debug!(%error, "{name} stays in store {}", store.location());
                    failed.get_or_insert(error);
                }
            }
        }
        if any { Ok(()) } else { failed.map_or(Ok(()), Err) }
    }

    /// In as many members as have to have what counts, together with all that was created before.
    async fn settle(&self, names: &[String]) -> Result<()> {
        let candidates = self.candidates()?;
        let (mut settled, mut away) = (0, None);
        for (member, is_lagging) in candidates {
            let Some(store) = self.members().get(member).filter(|_| !is_lagging) else { continue };
            match settle_held(store.as_ref(), names).await {
                Ok(()) => settled += 1,
                Err(error) if error.kind() == Kind::StoreUnreachable => drop(away.get_or_insert(error)),
                Err(error) => return Err(error),
            }
        }
        if settled >= self.shared.acks { Ok(()) } else { Err(away.unwrap_or_else(|| self.too_few(settled))) }
    }

    async fn sweep(&self, now: Timestamp) -> Result<u64> {
        let mut swept = 0;
        for store in self.members() {
            match store.sweep(now).await {
                Ok(files) => swept += files,
                Err(error) => tracing::debug!(%error, "store {} is not swept", store.location()),
            }
        }
        Ok(swept)
    }

    async fn overwrites(&self) -> bool {
        let all = futures_util::future::join_all(self.members().iter().map(|store| store.overwrites()));
        all.await.into_iter().any(|overwrites| overwrites)
    }

    fn several(&self) -> &[Arc<dyn Store>] {
        &self.readers
    }

    fn all_answered(&self) -> Result<()> {
        self.apart.all_answered()
    }

    fn location(&self) -> String {
        self.apart.location()
    }
}

/// Settles those that a member holds: what a wider segment hides need not be there.
async fn settle_held(store: &dyn Store, names: &[String]) -> Result<()> {
    let mut held = Vec::new();
    for name in names {
        if store.head(name).await?.is_some() {
            held.push(name.clone());
        }
    }
    store.settle(&held).await
}
