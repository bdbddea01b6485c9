//! What a restore that was killed left running on its directory.
//!
//! Programs that we start end with us, but not when we are killed the hard way. What still works
//! on our directory then is told by its command line, which names the directory from its first
//! moment on; a server's own pid file comes only once it is ready.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{Error, Result};

/// How long it may take to end.
const STOP_MAX: Duration = Duration::from_secs(30);

/// Options by which servers and the tools that prepare a base are told their directory.
const OPTIONS: [&[u8]; 2] = [b"--datadir=", b"--target-dir="];

/// Ends every program that works on `dir`, the hard way: nothing of what it does is kept.
///
/// # Errors
/// [`crate::Kind::Config`] naming the process that does not end.
pub(super) fn stop(dir: &Path) -> Result<()> {
    let begun = Instant::now();
    while let Some(pid) = find(dir)? {
        if begun.elapsed() > STOP_MAX {
            return Err(Error::config(format!("process {} runs on {}", pid.as_raw_nonzero(), dir.display()))
                .hint("an interrupted restore left it; stop it, or give --to another directory"));
        }
        tracing::info!("stopping what an interrupted restore left running (process {})", pid.as_raw_nonzero());
        let _ = kill_process(pid, Signal::KILL);
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A process that works on `dir`. One that has ended, and that nobody collected, has no command
/// line any more.
fn find(dir: &Path) -> Result<Option<Pid>> {
    let dir = fs::canonicalize(dir).map_err(|e| Error::io("find", dir, e))?;
    let processes = fs::read_dir("/proc").map_err(|e| Error::io("read", Path::new("/proc"), e))?;
    let mut ids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(ids.find(|id| works_on(*id, &dir)).and_then(Pid::from_raw))
}

fn works_on(id: i32, dir: &Path) -> bool {
    let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let mut named = line.split(|byte| *byte == 0).filter_map(|word| {
        let path = OPTIONS.iter().find_map(|option| word.strip_prefix(*option))?;
        fs::canonicalize(std::ffi::OsStr::from_bytes(path)).ok()
    });
    named.any(|path| path == dir)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// Any process with this option on its command line.
    fn process(option: &str, dir: &Path) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", "read line", "sh"]).arg(format!("{option}={}", dir.display()));
        command.stdin(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn only_what_works_on_the_directory_is_stopped() {
        let scratch = tempfile::tempdir().unwrap();
        let (ours, other) = (scratch.path().join("data.partial"), scratch.path().join("data"));
        let link = scratch.path().join("link");
        fs::create_dir(&ours).unwrap();
        fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(&ours, &link).unwrap();
        let mut strangers = [process("--datadir", &other), process("--some", &ours)];
        let mut orphans = [process("--datadir", &ours), process("--target-dir", &link)];
        stop(&ours).unwrap();
        for orphan in &mut orphans {
            assert!(!orphan.wait().unwrap().success());
        }
        for stranger in &mut strangers {
            assert!(stranger.try_wait().unwrap().is_none(), "it was ended");
            stranger.kill().unwrap();
            stranger.wait().unwrap();
        }
    }
}
