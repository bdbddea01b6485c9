//! Fencing: two archivers never make a forked history.
//!
//! Promise: a writer holds a number, its *epoch*, that no other writer ever held or
//! will hold, and finds out when a later writer has come. It stamps the number into
//! every object it makes; readers prefer the highest.
//!
//! Relies on: [`Store::create`] lets exactly one of several creators win, and epochs
//! are never deleted. Numbers are consecutive, since a writer takes the number after
//! one that it has *seen* taken; so one look at the next number tells whether a later
//! writer exists. No lock files, no clocks that have to agree, no right to delete.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::layout::{Layout, ObjectName};
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::error::{Error, Kind, Result};
use crate::model::time::{Clock, Timestamp};
use crate::store::{Part, Store};

/// How long a writer may go on that does not know of a later one; see [`Epoch::check_seldom`].
const SELDOM: Duration = Duration::from_secs(30);

/// A claimed epoch.
#[derive(Clone, Debug)]
pub struct Epoch {
    number: u32,
    /// Name of the object that exists once a later writer has come.
    successor: String,
    /// Where that object comes to be, in stores that are a local directory.
    folder: Option<Arc<OwnedFd>>,
    /// When it was last seen not to be there.
    seen: Arc<Mutex<Option<Instant>>>,
}

/// What an epoch object holds: for people, and for telling our own claim from
/// another's when the answer to a create was lost.
#[derive(Debug, Serialize, Deserialize)]
struct Claim {
    who: String,
    when: Timestamp,
    nonce: String,
}

/// Claims the next epoch of the cluster. `who` says to people which writer this is
/// (host, process).
///
/// # Errors
/// [`Kind::StoreUnreachable`] as the store reports it; [`Kind::Corruption`] once all
/// numbers are taken, which honest writers do not live to see.
pub async fn claim(store: &dyn Store, layout: &Layout, clock: &dyn Clock, who: &str) -> Result<Epoch> {
    let mut highest = 0;
    let mut see = |info: crate::store::ObjectInfo| {
        if let Some(ObjectName::Epoch(n)) = layout.parse(&info.name) {
            highest = highest.max(n);
        }
    };
    store.list(&layout.epochs(), None, true, &mut see).await?;

    let body = claim_body(clock, who)?;
    loop {
        let number = next(layout, highest)?;
        match store.create(&layout.name(&ObjectName::Epoch(number)), vec![body.clone()]).await {
            // `Same` is our own claim too: the nonce makes it so.
            Ok(_) => {
                let folder = store.local_root().map(|root| open_folder(&root.join(layout.epochs()))).transpose()?;
                return Epoch::claimed(layout, number, folder);
            }
            // Another writer was faster: it holds this number, so ours is the next.
            Err(error) if error.kind() == Kind::Fenced => highest = number,
            Err(error) => return Err(error),
        }
    }
}

/// What a new claim is to hold.
///
/// # Errors
/// [`Kind::Failure`], which nobody will see.
pub fn claim_body(clock: &dyn Clock, who: &str) -> Result<Bytes> {
    let claim = Claim { who: who.to_owned(), when: clock.now(), nonce: format!("{:016x}", rand::random::<u64>()) };
    let body = serde_json::to_vec(&claim);
    body.map(Bytes::from).map_err(|e| Error::failure("cannot write the claim of an epoch").because(e))
}

/// Refuses an object that is no claim of an epoch.
///
/// # Errors
/// [`Kind::Corruption`] naming it.
pub fn check_claim(name: &str, bytes: &[u8]) -> Result<()> {
    let claim: Result<Claim, _> = serde_json::from_slice(bytes);
    claim.map(|_| ()).map_err(|e| Error::corruption(format!("{name} is no claim of an epoch")).because(e))
}

/// Refuses several stores of which two were written by archivers that did not know of each other: the last claim that both
/// hold is not the same. Where the archive counts the offsets, log of both together would be neither's.
///
/// # Errors
/// [`Kind::Config`] naming the claim and both stores; what they report, unless one does not answer.
pub async fn check_copies(stores: &[&dyn Store], layout: &Layout) -> Result<()> {
    let mut known: Vec<(&dyn Store, BTreeSet<u32>)> = Vec::new();
    for copy in stores.iter().copied() {
        let mut epochs = BTreeSet::new();
        let mut see = |info: crate::store::ObjectInfo| {
            if let Some(ObjectName::Epoch(n)) = layout.parse(&info.name) {
                epochs.insert(n);
            }
        };
        match copy.list(&layout.epochs(), None, true, &mut see).await {
            Err(error) if error.kind() == Kind::StoreUnreachable => continue,
            listed => listed?,
        }
        for (other, theirs) in &known {
            let Some(last) = epochs.intersection(theirs).max() else { continue };
            let name = layout.name(&ObjectName::Epoch(*last));
            let (ours, theirs) = tokio::try_join!(copy.get(&name, Part::All), other.get(&name, Part::All))?;
            let claims =
                [&ours, &theirs].map(|claim| claim.as_ref().is_some_and(|bytes| check_claim(&name, bytes).is_ok()));
            if claims == [true, true] && ours != theirs {
                return Err(Error::config(format!(
                    "{name} was claimed by one archiver in {} and by another in {}",
                    other.location(),
                    copy.location()
                ))
                .hint("several stores are read as one, and repaired from each other, so they must hold copies of one archive: name one of them"));
            }
        }
        known.push((copy, epochs));
    }
    Ok(())
}

fn next(layout: &Layout, number: u32) -> Result<u32> {
    number.checked_add(1).ok_or_else(|| {
        Error::corruption(format!("{}{number:010} is the last epoch there can be", layout.epochs()))
            .hint("who made this object? archivers count epochs up from 1")
    })
}

fn open_folder(path: &Path) -> Result<Arc<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map(Arc::new).map_err(|e| Error::store_io("open", path, e.into()))
}

impl Epoch {
    /// The number to stamp into objects.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Claims the epoch right behind this one for the same writer, with one create, so that none can come between. Whoever
    /// has no answer tries again with the same `body` (see [`claim_body`]): a claim that was made after all is known by it.
    ///
    /// # Errors
    /// [`Kind::Fenced`], naming the later writer, when one has come; what the store reports.
    pub async fn succeed(&self, store: &dyn Store, layout: &Layout, body: &Bytes) -> Result<Self> {
        match store.create(&self.successor, vec![body.clone()]).await {
            Ok(_) => {}
            Err(error) if error.kind() == Kind::Fenced => {
                self.check(store).await?;
                return Err(error);
            }
            Err(error) => return Err(error),
        }
        Self::claimed(layout, next(layout, self.number)?, self.folder.clone())
    }

    /// One whose claim is in the store.
    fn claimed(layout: &Layout, number: u32, folder: Option<Arc<OwnedFd>>) -> Result<Self> {
        let successor = layout.name(&ObjectName::Epoch(next(layout, number)?));
        Ok(Self { number, successor, folder, seen: Arc::default() })
    }

    /// Whether no later writer has come, when that can be told at once: `false` asks for
    /// [`Epoch::check`]. It stands between the sync of each commit and its
    /// acknowledgement, where more than one short system call would show.
    #[must_use]
    pub fn is_surely_last(&self) -> bool {
        let Some(folder) = &self.folder else { return false };
        let name = self.successor.rsplit('/').next().unwrap_or(&self.successor);
        rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_err_and(|error| error == rustix::io::Errno::NOENT)
    }

    /// Makes sure that no later writer has come, or that none had come [`SELDOM`] ago: where it
    /// does no harm if two write for a while, since the log of both is the same, and each question
    /// costs a request.
    ///
    /// # Errors
    /// As [`Epoch::check`].
    pub async fn check_seldom(&self, store: &dyn Store) -> Result<()> {
        let is_recent = |seen: Instant| seen.elapsed() < SELDOM;
        if self.seen.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(is_recent) {
            return Ok(());
        }
        self.check(store).await
    }

    /// Makes sure that no later writer has come.
    ///
    /// # Errors
    /// [`Kind::Fenced`], naming the later writer, when one has.
    pub async fn check(&self, store: &dyn Store) -> Result<()> {
        let asked = Instant::now();
        // Of several stores one may have it, which `head` does not tell.
        let Some(claim) = store.get(&self.successor, Part::All).await? else {
            *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
            return Ok(());
        };
        let by = match serde_json::from_slice::<Claim>(&claim) {
            Ok(claim) => format!("{} at {}", claim.who, claim.when),
            Err(_) => "another archiver".to_owned(),
        };
        Err(Error::new(
            Kind::Fenced,
            format!("{} was claimed by {by}, while this archiver holds epoch {}", self.successor, self.number),
        )
        .hint("does a second archiver run for this cluster? stop one of them; the newer one goes on"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;
    use crate::store::memory::{Fault, MemoryStore, Operation};
    use crate::store::{Created, ObjectInfo};

    struct At(i64);

    impl Clock for At {
        fn now(&self) -> Timestamp {
            Timestamp(self.0)
        }
    }

    /// Create-only names; a listing may be told to miss the newest object, as one
    /// made a moment later would be.
    #[derive(Default)]
    struct Names {
        objects: Mutex<BTreeMap<String, Bytes>>,
        hide_last: bool,
    }

    #[async_trait]
    impl Store for Names {
        async fn create(&self, name: &str, body: Vec<Bytes>) -> Result<Created> {
            let mut objects = self.objects.lock().unwrap();
            if objects.contains_key(name) {
                return Err(Error::new(Kind::Fenced, name));
            }
            objects.insert(name.to_owned(), body.concat().into());
            Ok(Created::New)
        }

        async fn get(&self, name: &str, _: Part) -> Result<Option<Bytes>> {
            Ok(self.objects.lock().unwrap().get(name).cloned())
        }

        async fn list(
            &self,
            prefix: &str,
            _: Option<&str>,
            _: bool,
            each: &mut (dyn FnMut(ObjectInfo) + Send),
        ) -> Result<()> {
            let names: Vec<_> =
                self.objects.lock().unwrap().keys().filter(|n| n.starts_with(prefix)).cloned().collect();
            let shown = names.len() - usize::from(self.hide_last && !names.is_empty());
            names.into_iter().take(shown).for_each(|name| each(ObjectInfo { name, bytes: 1 }));
            Ok(())
        }

        async fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
            Ok(self.objects.lock().unwrap().get(name).map(|b| ObjectInfo { name: name.into(), bytes: b.len() as u64 }))
        }

        async fn delete(&self, _: &str) -> Result<()> {
            Err(Error::failure("nobody may delete an epoch"))
        }

        fn location(&self) -> String {
            "test".into()
        }
    }

    #[tokio::test]
    async fn a_later_writer_fences_the_earlier_one_and_is_named() {
        let (store, layout) = (Names::default(), Layout::new("main".parse().unwrap()));
        let first = claim(&store, &layout, &At(0), "host-a").await.unwrap();
        first.check(&store).await.unwrap();
        let second = claim(&store, &layout, &At(1_000_000), "host-b").await.unwrap();
        assert_eq!((first.number(), second.number()), (1, 2));
        second.check(&store).await.unwrap();
        let error = first.check(&store).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Fenced);
        assert_eq!(
            error.message(),
            "main/epoch/0000000002 was claimed by host-b at 1970-01-01T00:00:01.000000Z, while this archiver holds epoch 1"
        );
    }

    #[tokio::test]
    async fn a_writer_follows_itself_even_if_the_answer_was_lost() {
        let (store, layout) = (MemoryStore::new(), Layout::new("main".parse().unwrap()));
        let first = claim(&store, &layout, &At(0), "host-a").await.unwrap();
        let body = claim_body(&At(0), "host-a").unwrap();
        store.fail_when(|operation, _| {
            let lost = || Fault::After(Error::new(Kind::StoreUnreachable, "no answer"));
            (operation == Operation::Create).then(lost)
        });
        let lost = first.succeed(&store, &layout, &body).await.unwrap_err();
        assert_eq!(lost.kind(), Kind::StoreUnreachable);
        store.heal();
        let second = first.succeed(&store, &layout, &body).await.unwrap();
        second.check(&store).await.unwrap();
        assert_eq!(second.number(), 2);
        claim(&store, &layout, &At(0), "host-b").await.unwrap();
        let fenced = second.succeed(&store, &layout, &claim_body(&At(0), "host-a").unwrap()).await.unwrap_err();
        assert!(fenced.kind() == Kind::Fenced && fenced.message().contains("host-b"), "{fenced}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_whose_log_is_anybodys_finds_out_a_little_later() {
        let (store, layout) = (Names::default(), Layout::new("main".parse().unwrap()));
        let first = claim(&store, &layout, &At(0), "host-a").await.unwrap();
        first.check_seldom(&store).await.unwrap();
        claim(&store, &layout, &At(0), "host-b").await.unwrap();
        first.check_seldom(&store).await.unwrap();
        assert_eq!(first.check(&store).await.unwrap_err().kind(), Kind::Fenced);
        tokio::time::advance(SELDOM).await;
        assert_eq!(first.check_seldom(&store).await.unwrap_err().kind(), Kind::Fenced);
    }

    #[tokio::test]
    async fn the_loser_of_a_race_takes_the_next_number() {
        let (mut store, layout) = (Names::default(), Layout::new("main".parse().unwrap()));
        claim(&store, &layout, &At(0), "host-a").await.unwrap();
        store.hide_last = true;
        let second = claim(&store, &layout, &At(0), "host-b").await.unwrap();
        let third = claim(&store, &layout, &At(0), "host-c").await.unwrap();
        assert_eq!((second.number(), third.number()), (2, 3));
    }
}
