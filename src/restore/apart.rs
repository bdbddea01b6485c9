//! A restore never goes where the archive is.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Refuses a directory inside the store, whose files are not ours to mix with, and one around
/// it, which `--delta` would clear of everything that is no file of the base.
pub(super) fn check(to: &Path, store: Option<&Path>) -> Result<()> {
    let Some(store) = store else { return Ok(()) };
    let (dir, root) = (real(to), real(store));
    let how = if dir.starts_with(&root) {
        "lies in"
    } else if root.starts_with(&dir) {
        "holds"
    } else {
        return Ok(());
    };
    Err(Error::config(format!("{} {how} the store {}", to.display(), store.display()))
        .hint("give --to, and each NEW of --tablespace-map, a directory apart from the store"))
}

/// Without symbolic links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for there in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (there.canonicalize(), path.strip_prefix(there)) {
            return real.join(rest);
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_in_the_store_nor_around_it() {
        let scratch = tempfile::tempdir().unwrap();
        let store = scratch.path().join("a/store");
        std::fs::create_dir_all(&store).unwrap();
        let link = scratch.path().join("link");
        std::os::unix::fs::symlink(&store, &link).unwrap();
        let refused = |to: &Path| {
            let error = check(to, Some(&store)).unwrap_err();
            assert_eq!(error.kind(), crate::Kind::Config);
            error.message().to_owned()
        };
        for inside in [store.clone(), store.join("new"), store.join("main/log/x"), link.join("new")] {
            assert!(refused(&inside).contains("lies in"), "{}", inside.display());
        }
        assert!(refused(&scratch.path().join("a")).contains("holds"));
        for apart in ["a/store2", "a/new", "new/deep"] {
            check(&scratch.path().join(apart), Some(&store)).unwrap();
        }
        check(&store, None).unwrap();
    }
}
