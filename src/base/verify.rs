//! Proves that a base can be read: its manifest, its chunk table, its packs.

use super::chunk::ChunkHash;
use super::load::Base;
use crate::catalog::archive::Archive;
use crate::catalog::layout::ObjectName;
use crate::error::{Error, Result};
use crate::store::Part;

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Packs that the base names.
    pub packs: u64,
    /// Bytes of packs that were read.
    pub bytes_read: u64,
}

/// Checks base `id`; `read_data` reads every pack and compares it with its name, which is
/// the hash of its bytes.
///
/// # Errors
/// [`crate::Kind::Corruption`] naming the first object that is missing or is not what was
/// written.
pub async fn verify(archive: &Archive, id: &str, read_data: bool) -> Result<Checked> {
    let base = Base::load(archive.store.as_ref(), &archive.layout, id).await?;
    let mut checked = Checked::default();
    for pack in &base.manifest.packs {
        let name = archive.layout.name(&ObjectName::Pack(pack.hash.0));
        let wrong = |what: String| Error::corruption(format!("{name} {what}, and base {id} needs it"));
        let bytes = if read_data {
            let bytes = archive.store.get(&name, Part::All).await?;
            if let Some(bytes) = &bytes
                && ChunkHash::of(bytes) != pack.hash
            {
                return Err(wrong("does not hold the bytes it is named for".into()));
            }
            checked.bytes_read += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
            bytes.map(|bytes| bytes.len() as u64)
        } else {
            archive.store.head(&name).await?.map(|info| info.bytes)
        };
        match bytes {
            Some(bytes) if bytes == pack.bytes => checked.packs += 1,
            Some(bytes) => return Err(wrong(format!("has {bytes} bytes instead of {}", pack.bytes))),
            None => return Err(wrong(format!("is missing from {}", archive.store.location()))),
        }
    }
    Ok(checked)
}
