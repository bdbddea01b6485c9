//! Which names objects may have: such as are the same on a disk, in S3 and in a URL.

use crate::error::{Error, Result};

/// S3 allows 1024 bytes for a key, prefix included.
const NAME_BYTES_MAX: usize = 900;

/// Refuses a name that is not made of `/`-separated parts of letters, digits, `.`, `-`
/// and `_`. No part begins with a dot: so no name leaves the store, and none is that
/// of an unfinished object.
pub(super) fn check(name: &str) -> Result<()> {
    if name.len() <= NAME_BYTES_MAX && name.split('/').all(is_part) {
        Ok(())
    } else {
        Err(Error::usage(format!("object name {name:?} is not usable"))
            .hint("names are parts of letters, digits, `.`, `-` and `_` between slashes; no part begins with a dot"))
    }
}

/// Whether `text` can stand between two slashes of a name.
pub(super) fn is_part(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// Splits a list's prefix into its folder (empty, or with a slash at its end) and
/// refuses one that leaves the store.
pub(super) fn folder(prefix: &str) -> Result<&str> {
    let folder = prefix.rfind('/').map_or("", |at| &prefix[..=at]);
    if let Some(name) = folder.strip_suffix('/') {
        check(name)?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_the_store() {
        for good in ["a", "main/log/00000001/0000000000000000-0000000000000001-00000001.lz4", "a-b_c.d/e"] {
            check(good).unwrap();
        }
        let long = "a".repeat(901);
        for bad in ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.b", "a b", "a\\b", "a\0b", "é", &long] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_prefix_is_a_folder_and_a_beginning() {
        assert_eq!(folder("").unwrap(), "");
        assert_eq!(folder("a").unwrap(), "");
        assert_eq!(folder("a/").unwrap(), "a/");
        assert_eq!(folder("a/b/c-").unwrap(), "a/b/");
        assert!(folder("../").is_err());
        assert!(folder("/").is_err());
        assert!(folder("a/../b").is_err());
    }
}
