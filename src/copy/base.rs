//! A base backup into the other store: what it lacks of the base's packs, the chunk table, the manifest.

use futures_util::{StreamExt, stream};

use super::{AT_ONCE, Copy, Read};
use crate::base::load::Base;
use crate::catalog::layout::ObjectName;
use crate::catalog::sound;
use crate::error::{Error, Kind, Result};

impl Copy<'_> {
    /// Base `id`, whose manifest has so many bytes.
    pub(super) async fn base(&mut self, id: &str, bytes: u64) -> Result<()> {
        let (store, layout) = (self.from.store.clone(), self.from.layout.clone());
        let manifest = ObjectName::BaseManifest(id.to_owned());
        let name = layout.name(&manifest);
        match self.there.get(&manifest) {
            Some(there) if *there == bytes => return Ok(()),
            Some(_) => return self.differs(&manifest).await,
            None => {}
        }
        let base = match Base::load(store.as_ref(), &layout, id).await {
            // It has expired.
            Err(_) if store.head(&name).await?.is_none() => return Ok(()),
            Err(error) if error.kind() == Kind::Corruption => {
                self.problem(name, &error);
                return Ok(());
            }
            base => base?,
        };
        let packs: Vec<(ObjectName, u64)> =
            base.manifest.packs.iter().map(|pack| (ObjectName::Pack(pack.hash.0), pack.bytes)).collect();
        let missing = packs.iter().map(|(pack, _)| pack).filter(|pack| !self.there.contains_key(pack)).cloned();
        self.packs(missing.collect()).await?;
        if let Some((lacks, _)) = packs.iter().find(|(pack, bytes)| self.there.get(pack) != Some(bytes)) {
            if store.head(&name).await?.is_some() {
                let (to, lacks) = (self.to.store.location(), layout.name(lacks));
                self.problem(name, format_args!("left out, since {to} does not hold {lacks} as it is to be"));
            }
            return Ok(());
        }
        let chunks = ObjectName::BaseChunks(id.to_owned());
        self.one(&chunks).await?;
        if self.there.contains_key(&chunks) {
            self.one(&manifest).await?;
        }
        Ok(())
    }

    /// Packs in any order, several at once. They are named by what they hold, so none can be another's.
    async fn packs(&mut self, missing: Vec<ObjectName>) -> Result<()> {
        let (from, to) = (self.from.clone(), self.to.clone());
        let mut copying = stream::iter(missing)
            .map(|pack| {
                let (from, to) = (from.clone(), to.clone());
                tokio::spawn(async move {
                    let read = sound::read(&from, &pack).await;
                    let Ok(Some(bytes)) = read else { return (pack, read) };
                    let made = to.store.create(&to.layout.name(&pack), vec![bytes.clone()]).await;
                    (pack, made.map(|_| Some(bytes)))
                })
            })
            .buffer_unordered(AT_ONCE);
        while let Some(copied) = copying.next().await {
            let (pack, copied) = copied.map_err(|e| Error::failure("a task that copies packs died").because(e))?;
            match copied {
                Err(error) if error.kind() == Kind::Fenced => self.differs(&pack).await?,
                copied => {
                    if let Read::Sound(bytes) = self.noted(&pack, copied)? {
                        self.made(&pack, self.from.plain_bytes(&bytes));
                    }
                }
            }
        }
        Ok(())
    }
}
