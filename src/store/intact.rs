//! Reads an object from the first store that has it intact.
//!
//! A store knows nothing of what its objects hold. So whoever does reads them through here, around getting
//! *and* decoding: where that says [`Kind::Corruption`] the next store is asked, with a warning.

use bytes::Bytes;

use super::several::copies;
use super::{Part, Store};
use crate::error::{Error, Kind, Result};

/// Gives what `read` makes of object `name` in the first of the stores of `store` that has it intact; `None` when
/// none has it. `read` gives `None` for a store that lacks it.
///
/// # Errors
/// The damage, when no store has it intact; [`Kind::StoreUnreachable`] when none has it and one did not answer.
pub async fn any<'a, T, F>(
    store: &'a dyn Store,
    name: &str,
    mut read: impl FnMut(&'a dyn Store) -> F,
) -> Result<Option<T>>
where
    F: Future<Output = Result<Option<T>>>,
{
    let copies = copies(store);
    let (mut damaged, mut away): (Option<Error>, Option<Error>) = (None, None);
    for copy in &copies {
        match read(*copy).await {
            Ok(None) => {}
            Ok(found) => {
                if let Some(error) = damaged {
                    tracing::warn!(%error, "{name} is damaged, and read from {} instead", copy.location());
                }
                return Ok(found);
            }
            Err(error) if error.kind() == Kind::Corruption => {
                let place = copies.len() > 1;
                damaged.get_or_insert(if place {
                    error.context(format_args!("in {}", copy.location()))
                } else {
                    error
                });
            }
            Err(error) if error.kind() == Kind::StoreUnreachable => drop(away.get_or_insert(error)),
            Err(error) => return Err(error),
        }
    }
    damaged.or(away).map_or(Ok(None), Err)
}

/// Gets an object, or a part of it, and gives what `open` makes of its bytes, as [`any`] does.
///
/// # Errors
/// As [`any`].
pub async fn read<T, F>(
    store: &dyn Store,
    name: &str,
    part: Part,
    open: impl Fn(Bytes) -> F + Send + Sync,
) -> Result<Option<T>>
where
    T: Send,
    F: Future<Output = Result<T>> + Send,
{
    let open = &open;
    any(store, name, |copy| async move {
        match copy.get(name, part).await? {
            Some(bytes) => open(bytes).await.map(Some),
            None => Ok(None),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::Arc;

    use super::*;
    use crate::store::memory::{Fault, MemoryStore};
    use crate::store::several::Several;

    /// What is sound begins with `+`.
    fn open(bytes: Bytes) -> std::future::Ready<Result<Bytes>> {
        ready(if bytes.starts_with(b"+") { Ok(bytes) } else { Err(Error::corruption("x is damaged")) })
    }

    async fn read_from(contents: &[Option<&'static str>], away: bool) -> Result<Option<Bytes>> {
        let mut stores: Vec<Arc<dyn Store>> = Vec::new();
        for bytes in contents {
            let store = MemoryStore::new();
            store.tamper("x", bytes.map(Bytes::from));
            stores.push(Arc::new(store));
        }
        if away {
            let store = MemoryStore::new();
            store.fail_when(|_, _| Some(Fault::Before(Error::new(Kind::StoreUnreachable, "away"))));
            stores.insert(0, Arc::new(store));
        }
        match stores.as_slice() {
            [only] => read(only.as_ref(), "x", Part::All, open).await,
            _ => read(&Several::new(stores), "x", Part::All, open).await,
        }
    }

    #[tokio::test]
    async fn the_first_intact_one_counts() {
        let intact = Some(Bytes::from("+2"));
        for (contents, away) in [
            (&[Some("-"), Some("+2")][..], false),
            (&[None, Some("+2"), Some("+3")], false),
            (&[Some("-"), None, Some("+2")], true),
            (&[Some("+2")], false),
        ] {
            assert_eq!(read_from(contents, away).await.unwrap(), intact, "{contents:?}");
        }
        assert_eq!(read_from(&[None, None], false).await.unwrap(), None);
    }

    #[tokio::test]
    async fn damage_everywhere_is_told_with_its_place_and_silence_is_no_proof() {
        let error = read_from(&[None, Some("-")], false).await.unwrap_err();
        assert_eq!((error.kind(), error.message()), (Kind::Corruption, "in memory: x is damaged"));
        assert_eq!(read_from(&[Some("-")], false).await.unwrap_err().message(), "x is damaged");
        assert_eq!(read_from(&[None], true).await.unwrap_err().kind(), Kind::StoreUnreachable);
    }
}
