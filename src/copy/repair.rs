//! Copies of one archive in several stores heal each other.
//!
//! First each object is read in each store: one that is damaged is replaced by an intact one of the same name. Objects
//! are create-only, so the damaged one is deleted, and only once the intact bytes are in hand; a crash in between leaves it
//! missing. Then what is missing is copied, in both directions as far as the writers' epochs allow.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::{AT_ONCE, Problem, Progress, copy, names};
use crate::base::load::Base;
use crate::catalog::archive::Archive;
use crate::catalog::fence::check_copies;
use crate::catalog::layout::ObjectName;
use crate::catalog::sound;
use crate::engine::Engine;
use crate::error::{Error, Kind, Result};
use crate::segment::codec::Compression;
use crate::store::Store;

/// What a repair did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Damaged objects that were replaced, and missing ones that bases need, each with its store.
    pub objects: Vec<String>,
    /// How many more objects were copied that a store lacked.
    pub copied: u64,
    /// What is damaged and could not be replaced.
    pub left: Vec<Problem>,
}

/// Repairs `archives`, which are copies of one archive. Reads all of them.
///
/// # Errors
/// [`Kind::Config`] when two of them were written by archivers that did not know of each other; what the stores report.
pub async fn repair(
    archives: &[Archive],
    engine: &dyn Engine,
    compression: Compression,
    progress: Progress<'_>,
) -> Result<Repaired> {
    let stores: Vec<&dyn Store> = archives.iter().map(|archive| archive.store.as_ref()).collect();
    if let Some(first) = archives.first() {
        check_copies(&stores, &first.layout).await?;
    }
    let mut repair = Repair { archives, progress, read: 0, about: 0, done: Repaired::default() };
    for at in 0..archives.len() {
        repair.replace_damaged(at).await?;
    }
    for at in 0..archives.len() {
        repair.put_back(at).await?;
    }
    repair.copy_missing(engine, compression).await?;
    Ok(repair.done)
}

struct Repair<'a> {
    archives: &'a [Archive],
    progress: Progress<'a>,
    read: u64,
    about: u64,
    done: Repaired,
}

impl Repair<'_> {
    /// Reads all objects of one of the archives, and replaces those that are damaged.
    async fn replace_damaged(&mut self, at: usize) -> Result<()> {
        let Some(archive) = self.archives.get(at) else { return Ok(()) };
        let held = names(archive.store.as_ref(), &archive.layout, &archive.layout.everything()).await?;
        self.about += held.values().sum::<u64>();
        let mut reading = stream::iter(held)
            .map(|(object, bytes)| {
                let archive = archive.clone();
                tokio::spawn(async move {
                    let read = sound::read(&archive, &object).await.map(|_| ());
                    (object, bytes, read)
                })
            })
            .buffered(AT_ONCE);
        let mut damaged = Vec::new();
        while let Some(read) = reading.next().await {
            let (object, bytes, read) = read.map_err(|e| Error::failure("a task that reads died").because(e))?;
            match read {
                Err(error) if error.kind() == Kind::Corruption => damaged.push(object),
                read => read?,
            }
            self.read += bytes;
            (self.progress)(self.read, self.about);
        }
        for object in damaged {
            // Once more, lest what went wrong on the way here be taken for damage.
            match sound::read(archive, &object).await {
                Err(error) if error.kind() == Kind::Corruption => self.replace(at, &object, &error).await?,
                read => drop(read?),
            }
        }
        Ok(())
    }

    async fn replace(&mut self, at: usize, object: &ObjectName, damage: &Error) -> Result<()> {
        let Some(archive) = self.archives.get(at) else { return Ok(()) };
        let (name, place) = (archive.layout.name(object), archive.store.location());
        let Some(bytes) = self.intact(at, object).await? else {
            self.left(name, format!("damaged in {place}, and intact in no other store: {damage}"));
            return Ok(());
        };
        if let Err(error) = archive.store.delete(&name).await {
            self.left(name, format!("damaged in {place}, and cannot be deleted there to be replaced: {error}"));
            return Ok(());
        }
        match archive.store.create(&name, vec![bytes]).await {
            Ok(_) => self.done.objects.push(format!("{name} in {place}")),
            Err(error) => self.left(name, format!("was damaged in {place}, and could not be made anew: {error}")),
        }
        Ok(())
    }

    /// An object as one of the other archives has it intact.
    async fn intact(&self, but: usize, object: &ObjectName) -> Result<Option<Bytes>> {
        for (at, archive) in self.archives.iter().enumerate() {
            if at == but {
                continue;
            }
            match sound::read(archive, object).await {
                Err(error) if error.kind() == Kind::Corruption => {}
                Ok(None) => {}
                read => return read,
            }
        }
        Ok(None)
    }

    /// Puts back the packs and the chunk tables that the manifests of an archive name and its store lacks.
    async fn put_back(&mut self, at: usize) -> Result<()> {
        let Some(archive) = self.archives.get(at) else { return Ok(()) };
        let held = names(archive.store.as_ref(), &archive.layout, &archive.layout.everything()).await?;
        let mut missing = BTreeSet::new();
        for object in held.keys() {
            let ObjectName::BaseManifest(id) = object else { continue };
            missing.insert(ObjectName::BaseChunks(id.clone()));
            match Base::load(archive.store.as_ref(), &archive.layout, id).await {
                Ok(base) => missing.extend(base.manifest.packs.iter().map(|pack| ObjectName::Pack(pack.hash.0))),
                Err(error) if error.kind() == Kind::Corruption => {}
                Err(error) => return Err(error),
            }
        }
        for object in missing.into_iter().filter(|object| !held.contains_key(object)) {
            let (name, place) = (archive.layout.name(&object), archive.store.location());
            match self.intact(at, &object).await? {
                Some(bytes) => {
                    archive.store.create(&name, vec![bytes]).await?;
                    self.done.objects.push(format!("{name} in {place}"));
                }
                None => self.left(name, format!("missing in {place}, and intact in no other store")),
            }
        }
        Ok(())
    }

    /// Copies between all of them. Where one went on that another has not followed yet, it goes the other way
    /// only once that one has followed: so twice.
    async fn copy_missing(&mut self, engine: &dyn Engine, compression: Compression) -> Result<()> {
        for _ in 0..2 {
            for (from, to) in self.archives.iter().flat_map(|from| self.archives.iter().map(move |to| (from, to))) {
                if Arc::ptr_eq(&from.store, &to.store) {
                    continue;
                }
                match copy(from, to.stored(), engine, compression, &|_, _| {}).await {
                    Ok(report) => self.done.copied += report.objects,
                    // What is damaged is told of already.
                    Err(error) if matches!(error.kind(), Kind::Fenced | Kind::Corruption) => {
                        tracing::debug!(%error, "not copied from {} to {}", from.store.location(), to.store.location());
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn left(&mut self, object: String, problem: String) {
        self.done.left.push(Problem { object, problem });
    }
}
