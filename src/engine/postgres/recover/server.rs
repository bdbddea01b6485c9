//! A private server: nobody else can reach it, and it heeds no setting but ours.

use std::collections::HashMap;
use std::fs::{self, File};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::process::Child;

use super::programs::Programs;
use super::stage::Stage;
use crate::engine::os_user::{OsUser, socket_directory};
use crate::engine::postgres::connect::{Mode, connect};
use crate::engine::postgres::conninfo::ConnInfo;
use crate::engine::{RecoveryJob, Running};
use crate::error::{Error, Kind, Result};
use crate::shell;

/// How often the server's state is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// How long a server may take to shut down.
const STOP_MAX: Duration = Duration::from_secs(600);

/// The line of `postmaster.pid` that holds the state (`LOCK_FILE_LINE_PM_STATUS`,
/// `src/include/utils/pidfile.h`).
const STATUS_LINE: usize = 8;

/// Settings of the server that replays, as `name=value`. Given on the command line, which
/// nothing in the restored directory can override.
pub(super) fn replay_settings(job: &RecoveryJob, control: &HashMap<String, String>, stage: &Stage) -> Vec<String> {
    // Recovery needs at least what the source had.
    let at_least = |key: &str, least: u64| -> u64 {
        control.get(key).and_then(|value| value.parse().ok()).unwrap_or(least).max(least)
    };
    let wal_level = control.get("wal_level setting").map_or("replica", String::as_str);
    let mut settings: Vec<String> = [
        "fsync=off",
        "synchronous_commit=off",
        "hot_standby=off",
        "autovacuum=off",
        "archive_mode=off",
        "bgwriter_lru_maxpages=0",
        "checkpoint_timeout=1d",
        "max_wal_size=16GB",
        "wal_recycle=off",
        "wal_init_zero=off",
        // In the data directory: `/dev/shm` may be closed to the user, as in some containers.
        "dynamic_shared_memory_type=mmap",
        // Turning it off would throw away the commit times kept so far.
        "track_commit_timestamp=on",
        "recovery_target=",
        "recovery_target_time=",
        "recovery_target_lsn=",
        "recovery_target_xid=",
        "recovery_target_name=",
        "recovery_min_apply_delay=0",
        "recovery_end_command=",
        "archive_cleanup_command=",
        "primary_conninfo=",
        "primary_slot_name=",
        "synchronous_standby_names=",
        "wal_consistency_checking=",
    ]
    .map(String::from)
    .into();
    settings.push(format!("recovery_target_timeline={}", job.timeline.0));
    settings.push(format!("restore_command={}", stage.command()));
    settings.push(format!("wal_level={wal_level}"));
    settings.push(format!("shared_buffers={}MB", shared_buffers_mib(job.data_bytes)));
    settings.push(format!("max_connections={}", at_least("max_connections setting", 20)));
    settings.push(format!("max_worker_processes={}", at_least("max_worker_processes setting", 8)));
    settings.push(format!("max_wal_senders={}", at_least("max_wal_senders setting", 0)));
    settings.push(format!("max_prepared_transactions={}", at_least("max_prepared_xacts setting", 1024)));
    settings.push(format!("max_locks_per_transaction={}", at_least("max_locks_per_xact setting", 64)));
    // The files were written a moment ago: while they are in memory, a call to have each
    // block read ahead is for nothing.
    if job.identity.server_version >= 15 && job.data_bytes <= memory_bytes() / 2 {
        settings.push("recovery_prefetch=off".into());
    }
    settings.extend(private_settings());
    settings
}

/// Settings that keep a server to itself.
fn private_settings() -> Vec<String> {
    [
        "listen_addresses=",
        "port=5432",
        "unix_socket_permissions=0700",
        "ssl=off",
        "shared_preload_libraries=",
        "session_preload_libraries=",
        "local_preload_libraries=",
        "logging_collector=off",
        "log_destination=stderr",
        "restart_after_crash=off",
        // The source's machine may have them, this one not.
        "huge_pages=try",
        "max_logical_replication_workers=0",
        "jit=off",
    ]
    .map(String::from)
    .into()
}

/// Room for the whole database and what the log may add to it, so that replay evicts
/// nothing, but at most a quarter of the machine's memory. More than that would cost, for
/// every buffer has a descriptor to be set up.
fn shared_buffers_mib(data_bytes: u64) -> u64 {
    const MIB: u64 = 1 << 20;
    let wanted = data_bytes / MIB / 8 * 9 + 128;
    wanted.min(memory_bytes() / 4 / MIB).clamp(64, 8192)
}

/// The machine's memory.
fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    #[expect(clippy::useless_conversion, reason = "the width differs between platforms")]
    u64::from(info.totalram).saturating_mul(u64::from(info.mem_unit))
}

/// A running private server. Dropping it kills it.
pub(super) struct PrivateServer {
    child: Child,
    socket: PathBuf,
    dir: PathBuf,
    log: PathBuf,
}

impl PrivateServer {
    /// Starts a server on the job's directory.
    ///
    /// # Errors
    /// When it cannot be started at all.
    pub(super) fn start(job: &RecoveryJob, programs: &Programs, user: &OsUser, settings: &[String]) -> Result<Self> {
        let log = job.scratch.join("server.log");
        let mut command = Command::new(programs.path("postgres"));
        command.arg("-D").arg(&job.dir);
        let socket = socket_directory(user)?;
        for (name, value) in private_files(job, &socket, user)? {
            command.arg("-c").arg(format!("{name}={}", value.display()));
        }
        for setting in settings {
            command.arg("-c").arg(setting);
        }
        let out = File::create(&log).map_err(|e| Error::io("create", &log, e))?;
        let err = out.try_clone().map_err(|e| Error::io("open", &log, e))?;
        command.stdin(Stdio::null()).stdout(out).stderr(err).env("LC_MESSAGES", "C").current_dir(&job.scratch);
        clear_environment(&mut command);
        user.apply(&mut command);
        let child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| Error::io("start", &programs.path("postgres"), e))?;
        Ok(Self { child, socket, dir: job.dir.clone(), log })
    }

    /// Waits until the server is through with recovery and accepts connections, while
    /// `feed` gives it the log. A server that is ready asks for no more log: it may have
    /// ended early, with `feed` waiting in vain to be taken from, and whether it ended at
    /// the cut is for the caller to see.
    ///
    /// # Errors
    /// From `feed`, or with the server's own words when it gave up.
    pub(super) async fn replayed(mut self, feed: impl Future<Output = Result<()>>) -> Result<Self> {
        let mut feed = std::pin::pin!(feed);
        let mut fed = false;
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        loop {
            tokio::select! {
                result = &mut feed, if !fed => {
                    result?;
                    fed = true;
                }
                status = self.child.wait() => {
                    let status = status.map_err(|e| Error::failure("cannot wait for the private server").because(e))?;
                    return Err(self.gave_up(&format!("ended with {status}")));
                }
                _ = look.tick() => {
                    if self.child.id().is_some_and(|pid| is_ready(&self.dir, pid)) {
                        return Ok(self);
                    }
                }
            }
        }
    }

    /// Shuts the server down cleanly.
    ///
    /// # Errors
    /// When it does not end, or not well.
    pub(super) async fn stop(mut self) -> Result<()> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, rustix::process::Signal::INT)
                .map_err(|e| Error::failure("cannot stop the private server").because(std::io::Error::from(e)))?;
        }
        match tokio::time::timeout(STOP_MAX, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.gave_up(&format!("did not shut down cleanly: {status}"))),
            Ok(Err(error)) => Err(Error::failure("cannot wait for the private server").because(error)),
            Err(_) => Err(self.gave_up(&format!("did not shut down within {} s", STOP_MAX.as_secs()))),
        }
    }

    fn gave_up(&self, what: &str) -> Error {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let telling: Vec<&str> = text
            .lines()
            .filter(|line| ["FATAL", "PANIC", "ERROR", "HINT", "DETAIL"].iter().any(|word| line.contains(word)))
            .collect();
        let from = telling.len().saturating_sub(6);
        let said = telling.get(from..).unwrap_or_default().join("\n    ");
        let said = if said.is_empty() { text.lines().last().unwrap_or_default().to_owned() } else { said };
        Error::new(Kind::Failure, format!("the private server {what}:\n    {said}"))
            .hint(format!("its whole log is in {}", self.log.display()))
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.socket);
    }
}

/// Files that stand in for the restored ones: settings from nobody, access for the
/// server's own user only.
fn private_files(job: &RecoveryJob, socket: &Path, user: &OsUser) -> Result<Vec<(&'static str, PathBuf)>> {
    let scratch = &job.scratch;
    let conf = scratch.join("postgresql.conf");
    let hba = scratch.join("pg_hba.conf");
    let ident = scratch.join("pg_ident.conf");
    // A server refuses to start with less than two WAL files here, which the defaults
    // (80 MB and 1 GB) are from files of 64 MiB on.
    let two_files = (job.identity.log_file_bytes >> 20).saturating_mul(2);
    let settings = format!("min_wal_size = {}MB\nmax_wal_size = {}MB\n", two_files.max(80), two_files.max(1024));
    for (path, text) in [(&conf, settings.as_str()), (&hba, "local all all trust\n"), (&ident, "")] {
        fs::write(path, text).map_err(|e| Error::io("write", path, e))?;
        user.own(path)?;
    }
    let socket = socket.to_owned();
    Ok(vec![("config_file", conf), ("hba_file", hba), ("ident_file", ident), ("unix_socket_directories", socket)])
}

/// Takes away what would steer the server or its clients elsewhere.
fn clear_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("PG") || name.starts_with("PITR_")) {
            command.env_remove(name);
        }
    }
}

/// Whether the server `pid`, and no other, says in `postmaster.pid` that it accepts
/// connections.
fn is_ready(dir: &Path, pid: u32) -> bool {
    let text = fs::read_to_string(dir.join("postmaster.pid")).unwrap_or_default();
    let line = |number: usize| text.lines().nth(number - 1).map(str::trim);
    line(1) == Some(pid.to_string().as_str()) && line(STATUS_LINE) == Some("ready")
}

/// Starts the recovered directory for somebody to look at, reachable through a private
/// socket only, and leaves it running. Gives the command that connects.
///
/// # Errors
/// With the server's own words when it does not start.
pub(super) async fn start_and_leave(
    job: &RecoveryJob,
    programs: &Programs,
    user: &OsUser,
    dir: &Path,
) -> Result<Running> {
    let scratch = &job.scratch;
    fs::create_dir_all(scratch).map_err(|e| Error::io("create", scratch, e))?;
    user.own(scratch)?;
    let log = scratch.join("server.log");
    let mut options = String::new();
    let socket = socket_directory(user)?;
    for (name, path) in private_files(job, &socket, user)? {
        if name == "config_file" && dir.join("postgresql.conf").exists() {
            continue;
        }
        options.push_str(&format!(" -c {name}='{}'", path.display()));
    }
    for setting in private_settings().into_iter().chain([String::from("archive_mode=off")]) {
        options.push_str(&format!(" -c {}", setting.replace('=', "='") + "'"));
    }
    let mut command = Command::new(programs.path("pg_ctl"));
    command.arg("-D").arg(dir).arg("-l").arg(&log).arg("-o").arg(options).args(["-w", "start"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir(scratch);
    clear_environment(&mut command);
    user.apply(&mut command);
    let status = tokio::process::Command::from(command)
        .status()
        .await
        .map_err(|e| Error::io("start", &programs.path("pg_ctl"), e))?;
    if !status.success() {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let said = text.lines().rev().take(5).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n    ");
        return Err(Error::failure(format!("the recovered server does not start:\n    {said}"))
            .hint(format!("its whole log is in {}", log.display())));
    }
    let role = superuser(&socket, user).await;
    let socket = socket.display().to_string();
    let mut url = format!("postgres:///postgres?host={}&port=5432", percent_encoded(&socket));
    let mut command = format!("psql -h {} -p 5432 -d postgres", shell::word(&socket));
    if let Some(role) = role {
        url.push_str(&format!("&user={}", percent_encoded(&role)));
        command.push_str(&format!(" -U {}", shell::word(&role)));
    }
    Ok(Running { url, command })
}

/// A role that may do everything, as the server itself says. It lets in whoever exists, so
/// that any name that is likely will do to ask.
async fn superuser(socket: &Path, user: &OsUser) -> Option<String> {
    let socket = percent_encoded(&socket.display().to_string());
    for name in user.name().into_iter().chain(["postgres", "pitr"]) {
        let url = format!("postgres:///postgres?host={socket}&port=5432&user={}", percent_encoded(name));
        let Ok(info) = ConnInfo::resolve(&url, &|_| None) else { continue };
        let Ok(mut sql) = connect(&info, Mode::Sql).await else { continue };
        let query = "SELECT rolname FROM pg_catalog.pg_roles WHERE rolsuper AND rolcanlogin ORDER BY oid LIMIT 1";
        let sets = sql.query(query).await;
        sql.close().await;
        let found = sets.ok().into_iter().flatten().flat_map(|set| set.rows).flatten().flatten().next();
        return Some(found.unwrap_or_else(|| name.to_owned()));
    }
    None
}

fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.~/".contains(&byte);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_roles_name_is_safe_in_a_url() {
        assert_eq!(percent_encoded("dba_1"), "dba_1");
        assert_eq!(percent_encoded("o'neil &é"), "o%27neil%20%26%C3%A9");
    }
}
