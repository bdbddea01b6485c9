//! A directory of a test's own.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::programs::{as_server_user, give_to_server_user, must, server_user};

/// A temporary directory on disk, removed when dropped. It belongs to the server's
/// user and everybody may pass through it, so that servers, the binary and the test
/// can all work in it.
///
/// Drop it last: declare it before the servers that live in it.
pub struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    /// A new one. The path is short because a Unix socket's path must be.
    pub fn new() -> Self {
        // TMPDIR may be a RAM disk; /var/tmp is not, and a 1 GiB relation must fit.
        let root = std::env::var_os("PITR_TEST_DIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let dir = tempfile::Builder::new().prefix("pitr-").rand_bytes(5).tempdir_in(root).expect("a scratch directory");
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        give_to_server_user(dir.path());
        Self { dir }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A name in it; nothing is created.
    pub fn join(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An empty directory in it that belongs to the server's user, mode 0700.
    pub fn server_dir(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        std::fs::create_dir(&path).unwrap_or_else(|e| panic!("mkdir {}: {e}", path.display()));
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("chmod");
        give_to_server_user(&path);
        path
    }

    /// `program` itself when the server's user can run it, else a copy in here: a
    /// checkout below `/root` is closed to `postgres`. The copy keeps the file's
    /// whole directory when `with_installation` says how many levels up it begins.
    pub fn runnable_by_server(&self, program: &Path, levels_up: usize) -> PathBuf {
        let allowed = server_user().is_none()
            || as_server_user(Command::new("test").arg("-x").arg(program)).status().is_ok_and(|s| s.success());
        if allowed {
            return program.to_path_buf();
        }
        let top = program.ancestors().nth(levels_up).expect("a parent directory");
        let inside = program.strip_prefix(top).expect("below its parent");
        let copy = self.join(&format!("copy-of-{}", top.file_name().expect("a name").to_string_lossy()));
        if !copy.exists() {
            must(Command::new("cp").arg("-a").arg(top).arg(&copy));
        }
        if levels_up == 0 { copy } else { copy.join(inside) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What a failed test left is often all there is to see of a rare fault.
        if std::thread::panicking() && std::env::var_os("PITR_TEST_KEEP").is_some() {
            self.dir.disable_cleanup(true);
            eprintln!("kept: {}", self.path().display());
        }
    }
}
