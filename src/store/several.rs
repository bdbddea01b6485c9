//! Several stores with the same archives, for reading: what one of them lacks, another may have.
//!
//! Promise: an object is found if any of them has it, and one that does not answer is passed over with a warning
//! as long as another one answers. What is damaged in one, [`intact`](super::intact) reads from the
//! next. That an object is *nowhere* is said only when all have answered; a list holds what those told that did,
//! and [`Store::all_answered`] whether that was all.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use super::{Created, ObjectInfo, Part, Store};
use crate::error::{Error, Kind, Result};

/// How long a store is left alone that did not answer: each request to it may take its time to fail.
const LEFT_ALONE: Duration = Duration::from_secs(60);

/// Stores in the order in which they are asked.
pub struct Several(Vec<Arc<dyn Store>>);

impl Several {
    /// These stores as one.
    #[must_use]
    pub fn new(stores: Vec<Arc<dyn Store>>) -> Self {
        Self(
            stores
                .into_iter()
                .map(|store| Arc::new(Member { store, away: Mutex::default() }) as Arc<dyn Store>)
                .collect(),
        )
    }
}

/// The stores that `store` consists of: itself, unless it is several.
#[must_use]
pub fn copies(store: &dyn Store) -> Vec<&dyn Store> {
    match store.several() {
        [] => vec![store],
        several => several.iter().map(AsRef::as_ref).collect(),
    }
}

/// Nothing is written to several stores as one.
fn only_read<T>() -> Result<T> {
    Err(Error::config("several stores are named, of which only one can be written to").hint("name one with --store"))
}

#[async_trait]
impl Store for Several {
    async fn create(&self, _: &str, _: Vec<Bytes>) -> Result<Created> {
        only_read()
    }

    async fn get(&self, name: &str, part: Part) -> Result<Option<Bytes>> {
        super::intact::any(self, name, |store| store.get(name, part)).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        shallow: bool,
        each: &mut (dyn FnMut(ObjectInfo) + Send),
    ) -> Result<()> {
        let mut seen: HashSet<String> = HashSet::new();
        let mut answers = Answers::default();
        for store in &self.0 {
            let mut once = |info: ObjectInfo| {
                if seen.insert(info.name.clone()) {
                    each(info);
                }
            };
            answers.take(store.list(prefix, after, shallow, &mut once).await)?;
        }
        answers.any()
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let mut folders = BTreeSet::new();
        let mut answers = Answers::default();
        for store in &self.0 {
            folders.extend(answers.take(store.folders(prefix).await)?.unwrap_or_default());
        }
        answers.any()?;
        Ok(folders.into_iter().collect())
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        super::intact::any(self, name, |store| store.head(name)).await
    }

    async fn delete(&self, _: &str) -> Result<()> {
        only_read()
    }

    fn several(&self) -> &[Arc<dyn Store>] {
        &self.0
    }

    fn all_answered(&self) -> Result<()> {
        self.0.iter().try_for_each(|store| store.all_answered())
    }

    fn location(&self) -> String {
        self.0.iter().map(|store| store.location()).collect::<Vec<_>>().join(" and ")
    }
}

/// Who has answered.
#[derive(Default)]
struct Answers {
    any: bool,
    away: Option<Error>,
}

impl Answers {
    fn take<T>(&mut self, answer: Result<T>) -> Result<Option<T>> {
        match answer {
            Ok(answer) => {
                self.any = true;
                Ok(Some(answer))
            }
            Err(error) if error.kind() == Kind::StoreUnreachable => {
                self.away.get_or_insert(error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Fails when nobody has answered.
    fn any(self) -> Result<()> {
        match self.away {
            Some(error) if !self.any => Err(error),
            _ => Ok(()),
        }
    }
}

/// A store that is left alone for a while once it did not answer.
struct Member {
    store: Arc<dyn Store>,
    /// Since when it does not answer, and what it said.
    away: Mutex<Option<(Instant, String)>>,
}

impl Member {
    /// Fails while the store is left alone.
    fn ask(&self) -> Result<()> {
        match &*self.away.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((since, said)) if since.elapsed() < LEFT_ALONE => {
                Err(Error::new(Kind::StoreUnreachable, said.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Takes note of whether the store has answered.
    fn answered<T>(&self, answer: Result<T>) -> Result<T> {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        match &answer {
            Err(error) if error.kind() == Kind::StoreUnreachable => {
                if away.is_none() {
                    tracing::warn!(%error, hint = error.advice(), "store {} does not answer, and is passed over", self.store.location());
                }
                *away = Some((Instant::now(), error.to_string()));
            }
            _ => *away = None,
        }
        answer
    }
}

#[async_trait]
impl Store for Member {
    async fn create(&self, name: &str, body: Vec<Bytes>) -> Result<Created> {
        self.store.create(name, body).await
    }

    async fn get(&self, name: &str, part: Part) -> Result<Option<Bytes>> {
        self.ask()?;
        self.answered(self.store.get(name, part).await)
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        shallow: bool,
        each: &mut (dyn FnMut(ObjectInfo) + Send),
    ) -> Result<()> {
        self.ask()?;
        self.answered(self.store.list(prefix, after, shallow, each).await)
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        self.ask()?;
        self.answered(self.store.folders(prefix).await)
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        self.ask()?;
        self.answered(self.store.head(name).await)
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.store.delete(name).await
    }

    fn local_root(&self) -> Option<&std::path::Path> {
        self.store.local_root()
    }

    fn all_answered(&self) -> Result<()> {
        match &*self.away.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((_, said)) => Err(Error::new(Kind::StoreUnreachable, said.clone())),
            None => Ok(()),
        }
    }

    fn location(&self) -> String {
        self.store.location()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::{Fault, MemoryStore};

    async fn two() -> ([Arc<MemoryStore>; 2], Several) {
        let stores = [Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new())];
        for (store, names) in stores.iter().zip([["a/1", "a/2"], ["a/2", "a/b/3"]]) {
            for name in names {
                store.create(name, vec![Bytes::from(name)]).await.unwrap();
            }
        }
        let several = Several::new(stores.iter().map(|store| Arc::clone(store) as Arc<dyn Store>).collect());
        (stores, several)
    }

    fn fails(store: &MemoryStore) {
        store.fail_when(|_, _| Some(Fault::Before(Error::new(Kind::StoreUnreachable, "away"))));
    }

    async fn listed(store: &dyn Store) -> Result<Vec<String>> {
        let mut names = Vec::new();
        store.list("a/", None, false, &mut |info| names.push(info.name)).await?;
        names.sort();
        Ok(names)
    }

    #[tokio::test]
    async fn what_any_of_them_has_is_there_once() {
        let (_, several) = two().await;
        assert_eq!(listed(&several).await.unwrap(), ["a/1", "a/2", "a/b/3"]);
        assert_eq!(several.folders("a/").await.unwrap(), ["a/b/"]);
        for name in ["a/1", "a/2", "a/b/3"] {
            assert_eq!(several.get(name, Part::All).await.unwrap().unwrap(), name);
            assert_eq!(several.head(name).await.unwrap().unwrap().bytes, name.len() as u64);
        }
        assert_eq!(several.get("a/4", Part::All).await.unwrap(), None);
        several.all_answered().unwrap();
        for error in [several.create("x", vec![]).await.unwrap_err(), several.delete("a/1").await.unwrap_err()] {
            assert_eq!(error.kind(), Kind::Config);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_away_is_passed_over_but_proves_nothing_absent() {
        let (stores, several) = two().await;
        fails(&stores[0]);
        assert_eq!(listed(&several).await.unwrap(), ["a/2", "a/b/3"]);
        assert_eq!(several.get("a/b/3", Part::All).await.unwrap().unwrap(), "a/b/3");
        assert_eq!(several.get("a/4", Part::All).await.unwrap_err().kind(), Kind::StoreUnreachable);
        assert_eq!(several.all_answered().unwrap_err().message(), "away");
        // It is not asked again at once, and later it is.
        stores[0].heal();
        assert_eq!(several.head("a/1").await.unwrap_err().kind(), Kind::StoreUnreachable);
        tokio::time::advance(LEFT_ALONE).await;
        assert_eq!(several.head("a/1").await.unwrap().unwrap().bytes, 3);
        several.all_answered().unwrap();
    }

    #[tokio::test]
    async fn when_none_answers_that_is_an_error() {
        let (stores, several) = two().await;
        stores.iter().for_each(|store| fails(store));
        assert_eq!(listed(&several).await.unwrap_err().kind(), Kind::StoreUnreachable);
        assert_eq!(several.folders("a/").await.unwrap_err().kind(), Kind::StoreUnreachable);
        assert_eq!(several.get("a/1", Part::All).await.unwrap_err().kind(), Kind::StoreUnreachable);
    }
}
