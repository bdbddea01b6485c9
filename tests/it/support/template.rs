//! Data directories to begin with: making one takes seconds and copying it hardly any, so that one of each
//! kind is kept beside the build.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Scratch;
use super::programs::must;

/// The one of that name; `make` makes it where there is none yet.
pub fn kept(name: &str, make: impl FnOnce(&Scratch) -> PathBuf) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let kept = dir.join(name);
    if !kept.exists() {
        let scratch = Scratch::new();
        let beside = dir.join(format!("{name}.new-{}", std::process::id()));
        copy(&make(&scratch), &beside);
        // One that another process was quicker to make is as good.
        if std::fs::rename(&beside, &kept).is_err() {
            assert!(kept.exists(), "moving a template to {}", kept.display());
            must(Command::new("rm").arg("-rf").arg(&beside));
        }
    }
    kept
}

/// Copies one, with its owner and rights.
pub fn copy(template: &Path, to: &Path) {
    must(Command::new("cp").args(["-a", "--reflink=auto", "--sparse=always"]).arg(template).arg(to));
}
