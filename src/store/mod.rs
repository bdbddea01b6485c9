//! Bytes and names: where an archive lies. Knows no database and no segment.
//!
//! Objects are immutable and create-only. A [`Store`] promises only what S3 and a
//! disk both keep; `conformance` is the suite every implementation passes.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::model::time::Timestamp;

pub mod conformance;
pub mod intact;
pub mod local;
pub mod memory;
pub mod mirrored;
mod name;
pub mod probe;
pub mod s3;
pub mod several;
pub mod url;

/// Why a store refused: whoever asked has not the right.
#[derive(Debug, thiserror::Error)]
#[error("the right to do so is missing")]
pub struct Denied;

/// What became of a [`Store::create`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// The object is new and durable.
    New,
    /// The object was there already, with the same bytes, and is durable.
    Same,
}

/// A part of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    All,
    /// `len` bytes from `start`; shorter when the object ends before.
    Range {
        /// First byte.
        start: u64,
        /// How many.
        len: u64,
    },
    /// The last `len` bytes; all of a shorter object. Of one that is sealed, no more than its footer.
    Last(u64),
}

/// How a service guards objects against being replaced or deleted, each where it tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guards {
    /// Whether it keeps the versions before (`on`, `suspended`, `off`).
    pub versioning: Option<String>,
    /// Whether objects can be locked, and are unless told otherwise (`off`, `on`, `on, COMPLIANCE for 30 days`).
    pub object_lock: Option<String>,
}

/// What is known of an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Create-only objects with names like `main/log/00000001/...`.
///
/// Errors are of kind [`crate::Kind::StoreUnreachable`] when the store cannot be
/// reached or is full, and say the name and the place.
#[async_trait]
pub trait Store: Send + Sync {
    /// Makes an object, durably: when this returns, the bytes survive a power cut.
    /// `body`'s pieces are written one after the other.
    ///
    /// # Errors
    /// [`crate::Kind::Fenced`] when other bytes stand under this name.
    async fn create(&self, name: &str, body: Vec<Bytes>) -> Result<Created>;

    /// As [`Store::create`] of an object that nobody may see before `turn` has come. What can be done
    /// before, is.
    ///
    /// # Errors
    /// As [`Store::create`]; what `turn` comes to, and nothing is created then.
    async fn create_behind(&self, name: &str, body: Vec<Bytes>, turn: BoxFuture<'_, Result<()>>) -> Result<Created> {
        turn.await?;
        self.create(name, body).await
    }

    /// Reads an object or a part of it; `None` when there is none.
    async fn get(&self, name: &str, part: Part) -> Result<Option<Bytes>>;

    /// Calls `each` for every object whose name begins with `prefix` and comes after
    /// `after` (if given), in no particular order. A prefix that ends with `/` is a
    /// folder; all folders below it are walked, unless `shallow` asks for its own
    /// objects only. Anything left by an interrupted `create` is not listed. What is deleted
    /// meanwhile may be listed all the same: whoever reads it finds it gone.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        shallow: bool,
        each: &mut (dyn FnMut(ObjectInfo) + Send),
    ) -> Result<()>;

    /// The folders that lie directly below the folder `prefix`, each with its whole
    /// name and a slash at its end, in no particular order. One whose objects were deleted may be
    /// among them.
    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let mut folders = std::collections::BTreeSet::new();
        let mut see = |info: ObjectInfo| {
            if let Some(len) = info.name.get(prefix.len()..).and_then(|rest| rest.find('/')) {
                folders.extend(info.name.get(..=prefix.len() + len).map(str::to_owned));
            }
        };
        self.list(prefix, None, false, &mut see).await?;
        Ok(folders.into_iter().collect())
    }

    /// Size of an object; `None` when there is none.
    async fn head(&self, name: &str) -> Result<Option<ObjectInfo>>;

    /// Removes an object; removing one that is not there is success.
    async fn delete(&self, name: &str) -> Result<()>;

    /// Makes sure that objects which are there survive a power cut, whoever made them. For
    /// stores whose objects may be seen before they are durable.
    ///
    /// # Errors
    /// [`crate::Kind::StoreUnreachable`] when that cannot be promised.
    async fn settle(&self, names: &[String]) -> Result<()> {
        let _ = names;
        Ok(())
    }

    /// Removes what creates and tails that were interrupted more than a day before `now`
    /// have left; gives how many. What is younger may belong to a writer at work.
    ///
    /// # Errors
    /// [`crate::Kind::StoreUnreachable`] when the store cannot be read.
    async fn sweep(&self, now: Timestamp) -> Result<u64> {
        let _ = now;
        Ok(0)
    }

    /// The directory in which open tails may be kept, for stores on a local disk.
    fn local_root(&self) -> Option<&Path> {
        None
    }

    /// The directory in which its objects lie, if they lie on this machine.
    fn directory(&self) -> Option<&Path> {
        self.local_root()
    }

    /// Reads an object as it lies there, as it is to lie in a copy; `None` when there is none. The same as all of it,
    /// where objects are not sealed.
    ///
    /// # Errors
    /// As [`Store::get`]; [`crate::Kind::Corruption`] for a sealed object that is not as it was written.
    async fn as_stored(&self, name: &str) -> Result<Option<Bytes>> {
        self.get(name, Part::All).await
    }

    /// Whether it was found to replace objects where none should have been created: then it cannot
    /// keep two archivers apart.
    async fn overwrites(&self) -> bool {
        false
    }

    /// The stores it consists of, each with its own copy of the objects; none, if it is one.
    fn several(&self) -> &[Arc<dyn Store>] {
        &[]
    }

    /// What the service says of how it guards objects.
    async fn guards(&self) -> Guards {
        Guards::default()
    }

    /// Whether all of the stores that it consists of have answered when they were asked last. What was not
    /// listed is proven to be nowhere only then.
    ///
    /// # Errors
    /// What the one said that did not.
    fn all_answered(&self) -> Result<()> {
        Ok(())
    }

    /// Where this store is, as a URL without secrets.
    fn location(&self) -> String;
}
