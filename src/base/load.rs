//! Reads what the store says of a base: its manifest and its chunk table.

use std::future::ready;

use crate::catalog::layout::{Layout, ObjectName};
use crate::error::{Error, Result};
use crate::store::{Part, Store, intact};

use super::chunk::ChunkHash;
use super::manifest::Manifest;
use super::table::Table;

/// A base: what it consists of and where that lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Files, links, log range.
    pub manifest: Manifest,
    /// Its chunks, as the manifest's files count them.
    pub table: Table,
}

impl Base {
    /// Reads base `id`.
    ///
    /// # Errors
    /// [`crate::Kind::Corruption`] when it or its table is missing or not as it was
    /// written; the store's.
    pub async fn load(store: &dyn Store, layout: &Layout, id: &str) -> Result<Self> {
        let name = layout.name(&ObjectName::BaseManifest(id.to_owned()));
        let manifest = read(store, &name, |bytes| {
            let manifest = Manifest::decode(&name, bytes)?;
            if manifest.id == id && manifest.cluster == *layout.cluster() {
                return Ok(manifest);
            }
            Err(Error::corruption(format!(
                "{name} holds base {} of cluster {}: it was put under a foreign name",
                manifest.id, manifest.cluster
            )))
        })
        .await?;
        let name = layout.name(&ObjectName::BaseChunks(id.to_owned()));
        let table = read(store, &name, |bytes| {
            if bytes.len() as u64 != manifest.table.bytes || ChunkHash::of(bytes) != manifest.table.hash {
                return Err(Error::corruption(format!("chunk table {name} is not the one that its manifest names")));
            }
            Table::decode(&name, bytes, manifest.packs.len())
        })
        .await?;
        let base = Self { manifest, table };
        base.check()?;
        Ok(base)
    }

    /// Whether table and manifest speak of the same chunks.
    fn check(&self) -> Result<()> {
        use super::chunk::CHUNK_BYTES;
        use super::manifest::FileKind;

        let mut named = 0;
        for file in &self.manifest.files {
            let FileKind::File { size, .. } = file.kind else { continue };
            let chunks = self.table.chunks.get(file.chunks()).unwrap_or_default();
            named += chunks.len();
            let whole = chunks.iter().rev().skip(1).all(|c| c.raw_len as usize == CHUNK_BYTES);
            if !whole || chunks.iter().map(|c| u64::from(c.raw_len)).sum::<u64>() != size {
                return Err(Error::corruption(format!(
                    "the chunk table of base {} does not give {} its {size} bytes",
                    self.manifest.id, file.path
                )));
            }
        }
        if named == self.table.chunks.len() {
            return Ok(());
        }
        Err(Error::corruption(format!("the chunk table of base {} has chunks of no file", self.manifest.id)))
    }
}

async fn read<T: Send>(store: &dyn Store, name: &str, decode: impl Fn(&[u8]) -> Result<T> + Send + Sync) -> Result<T> {
    let read = intact::read(store, name, Part::All, |bytes| ready(decode(&bytes))).await?;
    read.ok_or_else(|| {
        Error::corruption(format!("{name} is missing from {}", store.location()))
            .hint("was it removed by hand? `pitr list` shows the bases that are whole")
    })
}
