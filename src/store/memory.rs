//! A store in memory, whose operations can be made to fail on demand: for tests.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Created, ObjectInfo, Part, Store, name};
use crate::error::{Error, Kind, Result};

/// What is done to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`Store::create`].
    Create,
    /// [`Store::get`].
    Get,
    /// [`Store::list`]; its name is the prefix.
    List,
    /// [`Store::head`].
    Head,
    /// [`Store::delete`].
    Delete,
}

/// How an operation fails.
#[derive(Debug)]
pub enum Fault {
    /// Nothing is done.
    Before(Error),
    /// It is done, but the answer is lost.
    After(Error),
}

type Hook = Box<dyn Fn(Operation, &str) -> Option<Fault> + Send + Sync>;

/// Objects in memory.
#[derive(Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<String, Bytes>>,
    hook: Mutex<Option<Hook>>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks `hook` before every operation whether it fails, until another hook is set.
    pub fn fail_when(&self, hook: impl Fn(Operation, &str) -> Option<Fault> + Send + Sync + 'static) {
        *lock(&self.hook) = Some(Box::new(hook));
    }

    /// No operation fails any more.
    pub fn heal(&self) {
        *lock(&self.hook) = None;
    }

    /// Puts other bytes under a name, as rot or a hand in the store would; `None`
    /// takes the object away.
    pub fn tamper(&self, name: &str, bytes: Option<Bytes>) {
        match bytes {
            Some(bytes) => lock(&self.objects).insert(name.to_owned(), bytes),
            None => lock(&self.objects).remove(name),
        };
    }

    /// All names, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        lock(&self.objects).keys().cloned().collect()
    }

    fn run<T>(
        &self,
        operation: Operation,
        name: &str,
        work: impl FnOnce(&mut BTreeMap<String, Bytes>) -> T,
    ) -> Result<T> {
        let fault = lock(&self.hook).as_ref().and_then(|hook| hook(operation, name));
        match fault {
            Some(Fault::Before(error)) => Err(error),
            Some(Fault::After(error)) => {
                work(&mut lock(&self.objects));
                Err(error)
            }
            None => Ok(work(&mut lock(&self.objects))),
        }
    }
}

/// A test that panicked elsewhere does not make the objects less true.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("objects", &lock(&self.objects).len()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn create(&self, name: &str, body: Vec<Bytes>) -> Result<Created> {
        name::check(name)?;
        let body = Bytes::from(body.concat());
        self.run(Operation::Create, name, |objects| match objects.get(name) {
            None => {
                objects.insert(name.to_owned(), body);
                Ok(Created::New)
            }
            Some(there) if *there == body => Ok(Created::Same),
            Some(_) => Err(Error::new(
                Kind::Fenced,
                format!("object {name} in store {} holds other bytes than those to be written", self.location()),
            )),
        })?
    }

    async fn get(&self, name: &str, part: Part) -> Result<Option<Bytes>> {
        name::check(name)?;
        self.run(Operation::Get, name, |objects| {
            objects.get(name).map(|bytes| {
                let size = bytes.len();
                let clamp = |n: u64| usize::try_from(n).unwrap_or(size).min(size);
                match part {
                    Part::All => bytes.clone(),
                    Part::Range { start, len } => bytes.slice(clamp(start)..clamp(start.saturating_add(len))),
                    Part::Last(len) => bytes.slice(size - clamp(len)..),
                }
            })
        })
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        shallow: bool,
        each: &mut (dyn FnMut(ObjectInfo) + Send),
    ) -> Result<()> {
        let folder = name::folder(prefix)?.len();
        let found: Vec<_> = self.run(Operation::List, prefix, |objects| {
            let wanted = |name: &str| {
                name.starts_with(prefix)
                    && after.is_none_or(|after| name > after)
                    && !(shallow && name[folder..].contains('/'))
            };
            let objects = objects.iter().filter(|(name, _)| wanted(name));
            objects.map(|(name, bytes)| ObjectInfo { name: name.clone(), bytes: bytes.len() as u64 }).collect()
        })?;
        found.into_iter().for_each(each);
        Ok(())
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        name::check(name)?;
        self.run(Operation::Head, name, |objects| {
            objects.get(name).map(|bytes| ObjectInfo { name: name.to_owned(), bytes: bytes.len() as u64 })
        })
    }

    async fn delete(&self, name: &str) -> Result<()> {
        name::check(name)?;
        self.run(Operation::Delete, name, |objects| {
            objects.remove(name);
        })
    }

    fn location(&self) -> String {
        "memory".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;

    #[tokio::test]
    async fn it_keeps_what_a_store_promises() {
        conformance::all(&MemoryStore::new(), "suite/").await.unwrap();
    }

    #[tokio::test]
    async fn a_lost_answer_leaves_the_object_and_a_fault_before_does_not() {
        let store = MemoryStore::new();
        store.fail_when(|operation, name| {
            let error = Error::new(Kind::StoreUnreachable, "gone");
            match (operation, name) {
                (Operation::Create, "before") => Some(Fault::Before(error)),
                (Operation::Create, "after") => Some(Fault::After(error)),
                _ => None,
            }
        });
        for name in ["before", "after"] {
            assert_eq!(store.create(name, vec![]).await.unwrap_err().message(), "gone");
        }
        assert_eq!(store.names(), ["after"]);
        store.heal();
        assert_eq!(store.create("after", vec![]).await.unwrap(), Created::Same);
        store.tamper("after", Some(Bytes::from_static(b"rot")));
        assert_eq!(store.create("after", vec![]).await.unwrap_err().kind(), Kind::Fenced);
    }
}
