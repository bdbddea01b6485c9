//! Clients that write while something else happens.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use super::programs::{client, must};
use super::{PATIENCE, Scratch, Server, condition};

/// A `pgbench` in the background. Stopped when dropped.
pub struct Load {
    child: Option<Child>,
    name: String,
}

/// Fills `pgbench`'s tables at the given scale (100,000 accounts, about 15 MB each).
pub fn pgbench_tables(server: &Server, scale: u32) {
    must(client("pgbench").args(["-i", "-q", "-n", "-s", &scale.to_string(), &server.socket_url("postgres")]));
}

/// The table whose rows say when and in which transaction they were written.
pub fn marker_table(server: &Server) {
    server.sql(
        "create table marker (id bigserial primary key, xid xid8 not null default pg_current_xact_id(),
                              at timestamptz not null default clock_timestamp())",
    );
}

/// One marker row in a transaction of its own; gives its xid.
pub fn mark(server: &Server) -> u32 {
    let xid: u64 = server.sql("insert into marker default values returning xid").parse().expect("an xid");
    u32::try_from(xid & 0xFFFF_FFFF).expect("32 bits")
}

impl Load {
    /// `pgbench`'s own mix on its own tables, from `clients` connections, in the
    /// database `postgres`, as fast as it goes.
    pub fn pgbench(server: &Server, clients: u32) -> Self {
        Self::start(server, clients, &[])
    }

    /// The same at `rate` transactions per second.
    pub fn pgbench_at(server: &Server, clients: u32, rate: u32) -> Self {
        Self::start(server, clients, &["-R", &rate.to_string()])
    }

    /// A marker row every `every_ms` milliseconds, each in its own transaction, from
    /// `clients` connections.
    pub fn markers(scratch: &Scratch, server: &Server, clients: u32, every_ms: u32) -> Self {
        let script = script_file(scratch, every_ms);
        Self::start(server, clients, &["-f", &script.to_string_lossy()])
    }

    /// A script of `pgbench`'s, again and again, from `clients` connections.
    pub fn script(scratch: &Scratch, server: &Server, clients: u32, script: &str) -> Self {
        let path = scratch.join("load.sql");
        std::fs::write(&path, script).expect("a script");
        Self::start(server, clients, &["-f", &path.to_string_lossy()])
    }

    fn start(server: &Server, clients: u32, more: &[&str]) -> Self {
        // Each load under its own name, so that one can end while another goes on.
        static LOADS: AtomicU64 = AtomicU64::new(0);
        let name = format!("load-{}", LOADS.fetch_add(1, Ordering::Relaxed));
        let child = client("pgbench")
            .env("PGAPPNAME", &name)
            .args(["-n", "-c", &clients.to_string(), "-j", "1", "-T", "3600"])
            .args(more)
            .arg(server.socket_url("postgres"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starting pgbench");
        Self { child: Some(child), name }
    }

    /// Ends the load and waits until none of its transactions is left.
    pub fn stop(mut self, server: &Server) {
        self.kill();
        condition("pgbench's sessions to end", PATIENCE, || {
            let ask = format!("select count(*) from pg_stat_activity where application_name = '{}'", self.name);
            (server.sql(&ask) == "0").then_some(())
        });
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
            let _ = child.wait();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until `count` marker rows are there.
pub fn wait_for_markers(server: &Server, count: u64) {
    condition(format!("{count} marker rows"), PATIENCE, || {
        let have: u64 = server.sql("select count(*) from marker").parse().expect("a count");
        (have >= count).then_some(())
    });
}

/// Waits until the server has written `bytes` more of WAL.
pub fn wait_for_wal(server: &Server, bytes: u64) {
    let end = server.flush_lsn() + bytes;
    condition(format!("{bytes} more bytes of WAL"), PATIENCE, || (server.flush_lsn() >= end).then_some(()));
}

fn script_file(scratch: &Scratch, every_ms: u32) -> PathBuf {
    let path = scratch.join(&format!("marker-{every_ms}.sql"));
    std::fs::write(&path, format!("insert into marker default values;\n\\sleep {every_ms} ms\n")).expect("a script");
    path
}
