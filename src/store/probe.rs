//! What a store truly guarantees, found by trying: `pitr init` does so before it
//! relies on it, since many stores that speak S3 ignore or race a conditional write.

use bytes::Bytes;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use super::{Created, Denied, Guards, Part, Store};
use crate::error::{Error, Kind, Result};
use crate::model::time::Timestamp;

/// How many writers race for one name.
const RACERS: usize = 16;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Where the store is.
    pub store: String,
    /// It is a service, and no directory.
    pub remote: bool,
    /// How many writers tried to create one name at once, each with bytes of its own.
    pub racers: usize,
    /// How many were told that they did; one is right.
    pub winners: usize,
    /// The name holds the winner's bytes, and a later create does not change them.
    pub keeps_the_first: bool,
    /// Creating the same bytes again is success, as a retry needs.
    pub same_again_is_success: bool,
    /// The store does not know the condition of a create, or ignores it.
    pub overwrites: bool,
    /// What was created is listed at once.
    pub lists_at_once: bool,
    /// Parts of an object can be read.
    pub reads_parts: bool,
    /// Objects may be deleted with these credentials: what expires objects needs that, nothing else does.
    pub may_delete: bool,
    /// What was deleted is gone at once, if it may be deleted.
    pub deletes_at_once: Option<bool>,
    /// What the service says of how it guards objects.
    #[serde(default)]
    pub guards: Guards,
}

impl ProbeReport {
    /// Whether two archivers can be kept from making a forked history here.
    #[must_use]
    pub fn fences(&self) -> bool {
        self.winners == 1 && self.keeps_the_first && !self.overwrites
    }

    /// What is good to know besides, in a few words; empty where nothing is.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let guard = |what: &str, is: &Option<String>| is.as_ref().map(|is| format!("{what} {is}"));
        let delete = (!self.may_delete).then(|| "deleting is not allowed".to_owned());
        let guards = [guard("versions", &self.guards.versioning), guard("object lock", &self.guards.object_lock)];
        guards.into_iter().chain([delete]).flatten().collect()
    }

    /// What to do about what is missing.
    #[must_use]
    pub fn cure(&self) -> &'static str {
        match (self.remote, self.fences()) {
            (true, false) => {
                "see to it that only one archiver ever writes here, or use a service that keeps `If-None-Match: *`"
            }
            (true, true) => "is it a service that speaks S3 as Amazon's does?",
            (false, _) => "use a local file system that keeps POSIX promises",
        }
    }

    /// What is missing, one sentence each; empty when the store does all that is needed.
    #[must_use]
    pub fn shortcomings(&self) -> Vec<String> {
        let mut list = Vec::new();
        let mut unless = |good: bool, what: String| list.extend((!good).then_some(what));
        let Self { racers, winners, .. } = self;
        unless(
            *winners == 1,
            format!("{winners} of {racers} writers were told that they created one and the same name"),
        );
        unless(!self.overwrites, "it replaces objects although it is asked to create new ones only".to_owned());
        unless(self.keeps_the_first, "an object can be replaced by another create".to_owned());
        unless(self.same_again_is_success, "creating the same bytes again is refused".to_owned());
        unless(self.lists_at_once, "a new object is not listed at once".to_owned());
        unless(self.reads_parts, "a part of an object is not what was asked for".to_owned());
        unless(self.deletes_at_once != Some(false), "a deleted object is still there".to_owned());
        list
    }
}

/// Keeps what was found when the archive was made, `when`, in `folder`.
///
/// # Errors
/// The store's.
pub async fn record(store: &dyn Store, folder: &str, when: Timestamp, found: &ProbeReport) -> Result<()> {
    let failed = |e| Error::failure("cannot write what was found of the store").because(e);
    let mut body = serde_json::to_vec_pretty(found).map_err(failed)?;
    body.push(b'\n');
    // In the order of time, and without what names may not have.
    let name = format!("{folder}{:020}.json", when.0.max(0));
    store.create(&name, vec![Bytes::from(body)]).await.map(|_| ())
}

/// What was found when it was recorded last, if it ever was.
///
/// # Errors
/// The store's.
pub async fn recorded(store: &dyn Store, folder: &str) -> Result<Option<(Timestamp, ProbeReport)>> {
    let mut newest: Option<(i64, String)> = None;
    let mut see = |info: super::ObjectInfo| {
        let when = info.name.strip_prefix(folder).and_then(|name| name.strip_suffix(".json")).map(str::parse);
        if let Some(Ok(when)) = when {
            newest = newest.take().max(Some((when, info.name)));
        }
    };
    store.list(folder, None, true, &mut see).await?;
    let Some((when, name)) = newest else { return Ok(None) };
    let body = store.get(&name, Part::All).await?;
    Ok(body.and_then(|body| serde_json::from_slice(&body).ok()).map(|found| (Timestamp(when), found)))
}

/// Tries out `store` with objects in a new folder under `folder`, which ends with a slash; they are removed again,
/// or, where that is not allowed, are there for the next time.
///
/// # Errors
/// Those of the store, other than refusals that are part of the trial.
pub async fn probe(store: &dyn Store, folder: &str) -> Result<ProbeReport> {
    // Whoever archives need not have the right to delete. He makes the same few objects each time.
    let may_delete = match store.delete(&format!("{folder}none")).await {
        Ok(()) => true,
        Err(error) if std::error::Error::source(&error).is_some_and(|source| source.is::<Denied>()) => false,
        Err(error) => return Err(error.context("cannot probe the store")),
    };
    let id = if may_delete { format!("{:016x}", rand::random::<u64>()) } else { "kept".to_owned() };
    let folder = &format!("{folder}{id}/");
    // A store may find out by its first create what it stands on.
    let earlier = format!("{folder}earlier");
    store.create(&earlier, vec![Bytes::from_static(b"earlier")]).await?;
    let name = format!("{folder}race");
    let body = |racer: usize| Bytes::from(format!("writer {racer} of {RACERS}"));
    let mut first = store.get(&name, Part::All).await?;
    // Else an earlier probe was told who won.
    let mut winners = usize::from(first.is_some());
    if first.is_none() {
        let outcomes = join_all((0..RACERS).map(|racer| store.create(&name, vec![body(racer)]))).await;
        for (racer, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Ok(_) => {
                    winners += 1;
                    first = Some(body(racer));
                }
                Err(e) if e.kind() == Kind::Fenced => {}
                Err(e) => return Err(e.context("cannot probe the store")),
            }
        }
    }

    // All sizes differ from the race's, so that nothing but the bytes can tell.
    let intruder = store.create(&name, vec![Bytes::from_static(b"an intruder")]).await;
    let refused = match intruder {
        Ok(_) => false,
        Err(e) if e.kind() == Kind::Fenced => true,
        Err(e) => return Err(e.context("cannot probe the store")),
    };
    let keeps_the_first = refused && first.is_some() && store.get(&name, Part::All).await? == first;
    let same_again_is_success = match first {
        Some(first) => match store.create(&name, vec![first]).await {
            Ok(created) => created == Created::Same,
            Err(e) if e.kind() == Kind::Fenced => false,
            Err(e) => return Err(e),
        },
        None => false,
    };

    let mut listed = false;
    store.list(folder, None, false, &mut |info| listed |= info.name == name).await?;
    let reads_parts = store.get(&name, Part::Range { start: 2, len: 3 }).await?.as_deref() == Some(b"ite")
        && store.get(&name, Part::Last(2)).await?.as_deref() == Some(b"16");
    let mut deletes_at_once = None;
    if may_delete {
        store.delete(&earlier).await?;
        store.delete(&name).await?;
        let gone = store.head(&name).await?.is_none() && store.get(&name, Part::All).await?.is_none();
        deletes_at_once = Some(gone);
    }
    Ok(ProbeReport {
        store: store.location(),
        remote: store.local_root().is_none(),
        racers: RACERS,
        winners,
        keeps_the_first,
        same_again_is_success,
        overwrites: store.overwrites().await,
        lists_at_once: listed,
        reads_parts,
        may_delete,
        deletes_at_once,
        guards: store.guards().await,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use async_trait::async_trait;

    use super::*;
    use crate::store::local::LocalStore;
    use crate::store::memory::{Fault, MemoryStore, Operation};
    use crate::store::{ObjectInfo, Store};

    #[tokio::test(flavor = "multi_thread")]
    async fn good_stores_have_no_shortcomings_and_are_left_clean() {
        let dir = tempfile::tempdir().unwrap();
        let (local, memory) = (LocalStore::open(dir.path()).unwrap(), MemoryStore::new());
        for store in [&local as &dyn Store, &memory] {
            let report = probe(store, "main/probe/").await.unwrap();
            assert!(report.fences());
            assert_eq!(report.shortcomings(), [""; 0]);
            store.list("", None, false, &mut |info| panic!("{} was left", info.name)).await.unwrap();
        }
    }

    /// A store that ignores the condition on a write, as some S3 look-alikes do.
    struct Overwriting(MemoryStore);

    #[async_trait]
    impl Store for Overwriting {
        async fn create(&self, name: &str, body: Vec<Bytes>) -> Result<Created> {
            self.0.tamper(name, None);
            self.0.create(name, body).await
        }
        async fn get(&self, name: &str, part: Part) -> Result<Option<Bytes>> {
            self.0.get(name, part).await
        }
        async fn list(
            &self,
            prefix: &str,
            after: Option<&str>,
            shallow: bool,
            each: &mut (dyn FnMut(ObjectInfo) + Send),
        ) -> Result<()> {
            self.0.list(prefix, after, shallow, each).await
        }
        async fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
            self.0.head(name).await
        }
        async fn delete(&self, name: &str) -> Result<()> {
            self.0.delete(name).await
        }
        fn local_root(&self) -> Option<&Path> {
            None
        }
        fn location(&self) -> String {
            "overwriting".to_owned()
        }
    }

    #[tokio::test]
    async fn a_store_that_overwrites_is_found_out() {
        let report = probe(&Overwriting(MemoryStore::new()), "probe/").await.unwrap();
        assert_eq!(report.winners, RACERS);
        assert!(!report.fences());
        assert_eq!(report.shortcomings().len(), 3, "{:?}", report.shortcomings());
    }

    #[tokio::test]
    async fn who_may_not_delete_leaves_two_objects_however_often_he_looks() {
        let store = MemoryStore::new();
        store.fail_when(|operation, _| {
            let denied = || Fault::Before(Error::new(Kind::StoreUnreachable, "no").because(Denied));
            (operation == Operation::Delete).then(denied)
        });
        for _ in 0..2 {
            let report = probe(&store, "main/probe/").await.unwrap();
            assert!(report.fences() && !report.may_delete, "{report:?}");
            assert_eq!(report.shortcomings(), [""; 0]);
            assert_eq!(store.names(), ["main/probe/kept/earlier", "main/probe/kept/race"]);
        }
        store.fail_when(|operation, _| {
            (operation == Operation::Delete).then(|| Fault::Before(Error::new(Kind::StoreUnreachable, "busy")))
        });
        assert_eq!(probe(&store, "main/probe/").await.unwrap_err().kind(), Kind::StoreUnreachable);
    }

    #[tokio::test]
    async fn what_was_found_last_is_told_again() {
        let store = MemoryStore::new();
        assert_eq!(recorded(&store, "main/probe/").await.unwrap(), None);
        let first = probe(&store, "main/probe/").await.unwrap();
        let later = ProbeReport { winners: 3, ..first.clone() };
        record(&store, "main/probe/", Timestamp(900), &first).await.unwrap();
        record(&store, "main/probe/", Timestamp(1000), &later).await.unwrap();
        assert_eq!(recorded(&store, "main/probe/").await.unwrap(), Some((Timestamp(1000), later)));
    }

    #[tokio::test]
    async fn a_store_that_cannot_be_reached_is_no_report() {
        let store = MemoryStore::new();
        store.fail_when(|operation, _| {
            (operation == Operation::List).then(|| Fault::Before(Error::new(Kind::StoreUnreachable, "no route")))
        });
        assert_eq!(probe(&store, "probe/").await.unwrap_err().kind(), Kind::StoreUnreachable);
    }
}
