//! A way to a store in memory that can be made to fail, to hang and to lose answers: for tests.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::error::{Error, Kind, Result};
use crate::store::memory::MemoryStore;
use crate::store::{Created, ObjectInfo, Part, Store};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Works,
    /// It is not done.
    Fails,
    /// It is done, and nobody is told.
    LosesAnswers,
    /// Nothing comes of it before the mood changes.
    Hangs,
}

type Hook = Box<dyn Fn(&str) + Send + Sync>;

/// A way to a store that others may have other ways to.
pub(crate) struct Moody {
    pub(crate) store: Arc<MemoryStore>,
    mood: watch::Sender<Mood>,
    /// Is told of an object just before it is made.
    pub(crate) sees: Option<Hook>,
}

impl Moody {
    pub(crate) fn new(store: Arc<MemoryStore>) -> Self {
        Self { store, mood: watch::Sender::new(Mood::Works), sees: None }
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    async fn ask<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut mood = self.mood.subscribe();
        let away = || Error::new(Kind::StoreUnreachable, "away");
        let now = *mood.wait_for(|mood| *mood != Mood::Hangs).await.map_err(|_| away())?;
        match now {
            Mood::Fails => Err(away()),
            Mood::LosesAnswers => work.await.and(Err(away())),
            Mood::Works | Mood::Hangs => work.await,
        }
    }
}

#[async_trait]
impl Store for Moody {
    async fn create(&self, name: &str, body: Vec<Bytes>) -> Result<Created> {
        self.ask(async {
            self.sees.iter().for_each(|sees| sees(name));
            self.store.create(name, body).await
        })
        .await
    }

    async fn get(&self, name: &str, part: Part) -> Result<Option<Bytes>> {
        self.ask(self.store.get(name, part)).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        shallow: bool,
        each: &mut (dyn FnMut(ObjectInfo) + Send),
    ) -> Result<()> {
        self.ask(self.store.list(prefix, after, shallow, each)).await
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        self.ask(self.store.head(name)).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.ask(self.store.delete(name)).await
    }

    fn location(&self) -> String {
        "moody".to_owned()
    }
}
