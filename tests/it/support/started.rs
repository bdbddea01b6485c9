//! Servers on restored directories: one that `pitr restore --start` left running, and an
//! ordinary one on what `--no-recover` laid out.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use super::programs::{client, must};
use super::{PATIENCE, Scratch, Server, condition};

/// A server that pitr started, known by its `postmaster.pid`: process id, data
/// directory, start time, port, socket directory, listen address, one per line.
pub struct RunningServer {
    pid: Pid,
    url: String,
}

impl RunningServer {
    pub fn of(data: &Path) -> Self {
        let text = std::fs::read_to_string(data.join("postmaster.pid")).expect("a running server");
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let host = if lines[4].is_empty() { lines[5] } else { lines[4] };
        Self {
            pid: Pid::from_raw(lines[0].parse().expect("a process id")).expect("a process id"),
            url: format!("postgres://postgres@/postgres?host={host}&port={}", lines[3]),
        }
    }

    #[track_caller]
    pub fn sql(&self, statement: &str) -> String {
        must(client("psql").args(["-X", "-A", "-t", "-c", statement, "-d", &self.url]))
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        let _ = kill_process(self.pid, Signal::INT);
        condition("the started server to end", PATIENCE, || (!is_at_work(self.pid)).then_some(()));
    }
}

/// What has ended stays a zombie where process 1 collects none, as in some containers.
fn is_at_work(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    // proc(5): the state follows the name, which stands in parentheses.
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}

/// Starts a server on what `restore --no-recover` laid out, with nothing but the settings
/// found there, and waits until it has recovered.
#[track_caller]
pub fn recover_elsewhere(scratch: &Scratch, name: &str, source: &Server, to: &Path) -> Server {
    let mut restored = Server::at(scratch, name, source.version(), to.to_path_buf());
    restored.launch(&[]);
    condition("the server to end recovery", PATIENCE, || {
        (restored.try_sql("select pg_is_in_recovery()").ok()? == "f").then_some(())
    });
    restored
}
