//! Whether an object is what was written under its name: every byte of it is checked, by the
//! checksum or the hash it carries, and it must say of itself what its name says.
//!
//! The one way for whoever reads an object for its own sake: `verify`, `copy`, `verify --repair`.

use bytes::Bytes;

use super::archive::Archive;
use super::fence::check_claim;
use super::index::Index;
use super::layout::ObjectName;
use super::load;
use crate::base::chunk::ChunkHash;
use crate::base::table::Table;
use crate::error::{Error, Kind, Result};
use crate::segment::read::decode;
use crate::store::Part;

/// Reads an object as it is stored and checks all of it; `None` when there is none. One that is sealed is proven by hash and
/// signature; what is in it is checked as far as there are keys to read it.
///
/// # Errors
/// [`Kind::Corruption`] naming the object when it is not what was written; the store's.
pub async fn read(archive: &Archive, object: &ObjectName) -> Result<Option<Bytes>> {
    let name = archive.layout.name(object);
    let Some(stored) = archive.store.as_stored(&name).await? else { return Ok(None) };
    let bytes = match archive.plain(&name, &stored).await {
        Err(error) if error.kind() == Kind::WrongKey => return Ok(Some(stored)),
        bytes => bytes?,
    };
    let (copy, is, whole) = (archive.clone(), object.clone(), bytes.clone());
    tokio::task::spawn_blocking(move || check(&copy, &is, &whole))
        .await
        .map_err(|e| Error::failure("a thread that checks objects died").because(e))??;
    if let ObjectName::BaseChunks(id) = object {
        check_table(archive, id, &bytes).await?;
    }
    Ok(Some(stored))
}

/// Checks what was read of an object by itself. Of a tail, which has no end of its own, nothing is
/// said, and of a chunk table only what it says itself.
///
/// # Errors
/// [`Kind::Corruption`] naming the object.
pub fn check(archive: &Archive, object: &ObjectName, bytes: &Bytes) -> Result<()> {
    let name = archive.layout.name(object);
    match object {
        ObjectName::Cluster => load::decode_identity(&name, bytes).map(|_| ()),
        ObjectName::Epoch(_) => check_claim(&name, bytes),
        ObjectName::Segment { timeline, range, epoch, .. } => {
            decode(&name, &archive.expected(*timeline, *range, *epoch), bytes, &mut |_| Ok(())).map(|_| ())
        }
        ObjectName::History(timeline) => load::decode_history(&name, *timeline, bytes).map(|_| ()),
        ObjectName::Gap { range, .. } => load::decode_gap(&name, *range, bytes).map(|_| ()),
        ObjectName::Index { timeline, index } => {
            Index::decode(&name, archive.layout.cluster(), *timeline, *index, bytes).map(|_| ())
        }
        ObjectName::BaseManifest(id) => load::decode_manifest(&name, &archive.identity, id, bytes).map(|_| ()),
        ObjectName::BaseChunks(_) => Table::decode(&name, bytes, usize::MAX).map(|_| ()),
        ObjectName::Pack(hash) if ChunkHash::of(bytes).0 == *hash => Ok(()),
        ObjectName::Pack(_) => Err(Error::corruption(format!("{name} does not hold the bytes it is named for"))),
        ObjectName::Drill(_) => serde_json::from_slice::<serde::de::IgnoredAny>(bytes)
            .map(|_| ())
            .map_err(|e| Error::corruption(format!("{name} is no JSON")).because(e)),
        // The store has checked a key's signature.
        ObjectName::Tail { .. } | ObjectName::Probe(_) | ObjectName::Key { .. } => Ok(()),
    }
}

/// Whether a chunk table is the one that its base's manifest names, if there is a sound one.
async fn check_table(archive: &Archive, id: &str, bytes: &Bytes) -> Result<()> {
    let name = archive.layout.name(&ObjectName::BaseManifest(id.to_owned()));
    let Some(manifest) = archive.store.get(&name, Part::All).await? else { return Ok(()) };
    match load::decode_manifest(&name, &archive.identity, id, &manifest) {
        Ok(manifest) if manifest.table.bytes != bytes.len() as u64 || manifest.table.hash != ChunkHash::of(bytes) => {
            let table = archive.layout.name(&ObjectName::BaseChunks(id.to_owned()));
            Err(Error::corruption(format!("chunk table {table} is not the one that its manifest names")))
        }
        Err(error) if error.kind() != Kind::Corruption => Err(error),
        _ => Ok(()),
    }
}
