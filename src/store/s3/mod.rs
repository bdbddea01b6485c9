//! A store in a bucket of an S3-compatible service.
//!
//! An object is one `PUT` (or one multipart upload) on condition that there is none of its name
//! (`If-None-Match: *`). Who is told 412 looks at what is there: it may be what an earlier attempt of
//! his own put there, whose answer was lost.
//!
//! Many services accept that condition and ignore it. So the first create of each process
//! looks first and then creates once more: a service that says yes twice keeps no condition, which
//! is told, and from then on each create looks first. That does not keep two archivers apart that
//! come at the same time; `pitr init` finds out and says so.
//!
//! The SDK tries each request up to five times. Then the error is the caller's, who may try for ever:
//! `pitr archive` does. No operation but [`Store::delete`] needs the right to delete.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use secrecy::SecretString;
use tokio::sync::{Mutex, OnceCell};

use self::place::Place;
use super::{Created, Guards, ObjectInfo, Part, Store, name};
use crate::error::Result;
use crate::model::time::Clock;

mod client;
mod create;
mod guards;
mod place;
mod read;
mod refusal;

/// Slowest transfer that is waited for: each attempt may take [`ATTEMPT_SECONDS`], and a second
/// more for so many bytes.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;
/// How long an attempt may take that moves nothing.
const ATTEMPT_SECONDS: u64 = 30;

/// Objects in a bucket. Clones share the connections.
#[derive(Clone)]
pub struct S3Store(Arc<Inner>);

/// A key of the service.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Its name.
    pub id: String,
    /// What is to be known to nobody.
    pub secret: SecretString,
}

struct Inner {
    place: Place,
    /// Instead of those that the environment has.
    keys: Option<Keys>,
    clock: Arc<dyn Clock>,
    /// Made at the first use: credentials may have to be asked for.
    client: OnceCell<Client>,
    /// Whether the service keeps the condition of a create; none before that was tried.
    conditional: Mutex<Option<bool>>,
}

impl S3Store {
    /// The store at `s3://` and `rest`, with the credentials that this process's environment has, as every
    /// AWS tool finds them. Nothing is touched.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] naming what is wrong with it.
    pub fn open(rest: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        Self::of(rest, clock, None)
    }

    /// As [`S3Store::open`], with a key of the caller's.
    ///
    /// # Errors
    /// As [`S3Store::open`].
    pub fn with_keys(rest: &str, clock: Arc<dyn Clock>, keys: Keys) -> Result<Self> {
        Self::of(rest, clock, Some(keys))
    }

    fn of(rest: &str, clock: Arc<dyn Clock>, keys: Option<Keys>) -> Result<Self> {
        let mut place = Place::parse(rest)?;
        if place.endpoint.is_none() {
            place.endpoint = client::endpoint_of_environment()?;
        }
        Ok(Self(Arc::new(Inner { place, keys, clock, client: OnceCell::new(), conditional: Mutex::new(None) })))
    }
}

impl Inner {
    async fn client(&self) -> Result<&Client> {
        self.client.get_or_try_init(|| client::connect(&self.place, self.keys.as_ref())).await
    }

    /// How long an attempt to move so many bytes may take.
    fn attempt_timeout(bytes: u64) -> Duration {
        Duration::from_secs(ATTEMPT_SECONDS + bytes / BYTES_PER_SECOND_MIN)
    }
}

#[async_trait]
impl Store for S3Store {
    async fn create(&self, name: &str, body: Vec<Bytes>) -> Result<Created> {
        name::check(name)?;
        self.0.create(name, body).await
    }

    async fn create_behind(&self, name: &str, body: Vec<Bytes>, turn: BoxFuture<'_, Result<()>>) -> Result<Created> {
        name::check(name)?;
        self.0.create_behind(name, body, turn).await
    }

    async fn get(&self, name: &str, part: Part) -> Result<Option<Bytes>> {
        name::check(name)?;
        self.0.get(name, part).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        shallow: bool,
        each: &mut (dyn FnMut(ObjectInfo) + Send),
    ) -> Result<()> {
        name::folder(prefix)?;
        self.0.list(prefix, after, shallow, each, &mut |_| {}).await
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        name::folder(prefix)?;
        let mut folders = Vec::new();
        self.0.list(prefix, None, true, &mut |_| {}, &mut |folder| folders.push(folder)).await?;
        Ok(folders)
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        name::check(name)?;
        let bytes = self.0.head(name).await?;
        Ok(bytes.map(|bytes| ObjectInfo { name: name.to_owned(), bytes }))
    }

    async fn delete(&self, name: &str) -> Result<()> {
        name::check(name)?;
        self.0.delete(name).await
    }

    async fn guards(&self) -> Guards {
        self.0.guards().await
    }

    async fn overwrites(&self) -> bool {
        *self.0.conditional.lock().await == Some(false)
    }

    fn location(&self) -> String {
        self.0.place.location()
    }
}
