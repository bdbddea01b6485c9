//! Proves that a base can be read: its manifest, its chunk table, its packs.

use std::collections::BTreeSet;

use super::load::Base;
use crate::catalog::archive::Archive;
use crate::catalog::layout::ObjectName;
use crate::catalog::sound;
use crate::error::{Error, Kind, Result};

/// What was looked at, of one base or of several.
#[derive(Debug, Default)]
pub struct Checked {
    /// Packs that were looked at, each once.
    packs: BTreeSet<[u8; 32]>,
    /// Bytes of packs that were read.
    pub bytes_read: u64,
    /// Each damaged or missing pack, by name.
    pub problems: Vec<Error>,
}

impl Checked {
    /// How many packs were looked at.
    #[must_use]
    pub fn packs(&self) -> u64 {
        self.packs.len() as u64
    }
}

/// Checks base `id` and those of its packs that were not looked at yet; `read_data` reads
/// every pack and compares it with its name, which is the hash of its bytes.
///
/// # Errors
/// [`crate::Kind::Corruption`] naming manifest or chunk table when one of them is missing or
/// not what was written; packs are told in `checked`.
pub async fn verify(archive: &Archive, id: &str, read_data: bool, checked: &mut Checked) -> Result<()> {
    let base = Base::load(archive.store.as_ref(), &archive.layout, id).await?;
    for pack in &base.manifest.packs {
        if !checked.packs.insert(pack.hash.0) {
            continue;
        }
        let name = archive.layout.name(&ObjectName::Pack(pack.hash.0));
        let mut wrong =
            |what: String| checked.problems.push(Error::corruption(format!("{name} {what}, and base {id} needs it")));
        let bytes = if read_data {
            match sound::read(archive, &ObjectName::Pack(pack.hash.0)).await {
                Err(error) if error.kind() == Kind::Corruption => {
                    checked.bytes_read += pack.bytes;
                    checked.problems.push(Error::corruption(format!("{error}, and base {id} needs it")));
                    continue;
                }
                bytes => {
                    let bytes = bytes?.map(|bytes| archive.plain_bytes(&bytes));
                    checked.bytes_read += bytes.unwrap_or(0);
                    bytes
                }
            }
        } else {
            archive.store.head(&name).await?.map(|info| info.bytes)
        };
        match bytes {
            Some(bytes) if bytes == pack.bytes => {}
            Some(bytes) => wrong(format!("has {bytes} bytes instead of {}", pack.bytes)),
            None => wrong(format!("is missing from {}", archive.store.location())),
        }
    }
    Ok(())
}
