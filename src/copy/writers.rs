//! Log of two archivers that did not know of each other must not meet in one store: offsets that the
//! archive counts mean different bytes to them, and segments that overlap in part are a contradiction.
//!
//! Their epochs tell. Those of the target must be the first ones of the source, with the same bytes, which
//! hold a nonce. Otherwise, or when an archiver claims the next one in the target meanwhile, a copy ends as a fenced
//! writer does. In turn an archiver at work in the target is fenced when the copy brings a
//! later archiver's claim.

use futures_util::{StreamExt, TryStreamExt, stream};

use super::Copy;
use super::plan::Names;
use crate::catalog::archive::Archive;
use crate::catalog::layout::ObjectName;
use crate::catalog::sound;
use crate::error::{Error, Kind, Result};

/// Claims compared at the same time.
const AT_ONCE: usize = 16;

impl Copy<'_> {
    /// Makes the claims that the target lacks, if those it has are the first ones of the source.
    pub(super) async fn epochs(&mut self, epochs: &Names) -> Result<()> {
        let is_epoch = |object: &&ObjectName| matches!(object, ObjectName::Epoch(_));
        if let Some(ahead) = self.there.keys().filter(is_epoch).find(|epoch| !epochs.contains_key(epoch)) {
            return Err(self.fenced(ahead));
        }
        // Owned: a borrowing closure makes the future unfit for `spawn`.
        let (both, missing): (Vec<ObjectName>, Vec<ObjectName>) =
            epochs.keys().cloned().partition(|epoch| self.there.contains_key(epoch));
        if let Some(differing) = differing(&self.from, &self.to, both).await? {
            return Err(self.fenced(&differing));
        }
        for epoch in missing {
            let Some(bytes) = sound::read(&self.from, &epoch).await? else { continue };
            match self.to.store.create(&self.to.layout.name(&epoch), vec![bytes.clone()]).await {
                Err(error) if error.kind() == Kind::Fenced => return Err(self.fenced(&epoch)),
                made => made.map(|_| self.made(&epoch, bytes.len() as u64))?,
            }
        }
        let number = |epoch: &ObjectName| if let ObjectName::Epoch(n) = epoch { Some(*n) } else { None };
        self.last_epoch = epochs.keys().filter_map(number).max().unwrap_or(0);
        Ok(())
    }

    /// Refuses to go on when an archiver has begun to write to the target.
    pub(super) async fn check_alone(&self) -> Result<()> {
        let next = ObjectName::Epoch(self.last_epoch.saturating_add(1));
        match self.to.store.head(&self.to.layout.name(&next)).await? {
            Some(_) => Err(self.fenced(&next)),
            None => Ok(()),
        }
    }

    fn fenced(&self, epoch: &ObjectName) -> Error {
        let (from, to) = (self.from.store.location(), self.to.store.location());
        let epoch = self.to.layout.name(epoch);
        Error::new(Kind::Fenced, format!("{epoch} in {to} was claimed by an archiver that {from} does not know"))
            .hint("a copy follows one archiver: if it is the target's that goes on, copy the other way; else give the copy a store of its own")
    }
}

/// One of these claims that the two archives hold with different bytes, neither of them damaged.
async fn differing(from: &Archive, to: &Archive, epochs: Vec<ObjectName>) -> Result<Option<ObjectName>> {
    let claim = async |archive: &Archive, epoch: &ObjectName| match sound::read(archive, epoch).await {
        Err(error) if error.kind() == Kind::Corruption => Ok(None),
        claim => claim,
    };
    let mut compared = stream::iter(epochs)
        .map(|epoch| async move {
            let (ours, theirs) = tokio::try_join!(claim(from, &epoch), claim(to, &epoch))?;
            let differ = ours.zip(theirs).is_some_and(|(ours, theirs)| ours != theirs);
            Ok::<_, Error>(differ.then_some(epoch))
        })
        .buffered(AT_ONCE);
    while let Some(differs) = compared.try_next().await? {
        if differs.is_some() {
            return Ok(differs);
        }
    }
    Ok(None)
}
