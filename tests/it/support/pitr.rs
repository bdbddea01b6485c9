//! The binary, as a user runs it.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::programs::{as_server_user, give_to_server_user, server_user, tool};
use super::s3::{self, S3};
use super::server::{format_lsn, parse_lsn};
use super::{PATIENCE, Scratch, Server, condition};

/// Longer than any single command of any test may take.
const LONGEST_COMMAND: Duration = Duration::from_secs(300);

/// The name of the slot that tests archive with.
pub const SLOT: &str = "pitr";

/// `pitr` with a store of its own, below a scratch directory.
pub struct Pitr<'a> {
    scratch: &'a Scratch,
    binary: PathBuf,
    store: PathBuf,
    /// Where the store is, if it is not just a directory.
    store_url: Option<String>,
    source: Option<String>,
    env: Vec<(String, String)>,
    by_server_user: bool,
}

impl<'a> Pitr<'a> {
    /// One whose store is `store` in `scratch`; nothing is created yet.
    pub fn new(scratch: &'a Scratch) -> Self {
        Self::with_store(scratch, "store")
    }

    /// The same with the store under another name.
    pub fn with_store(scratch: &'a Scratch, store: &str) -> Self {
        Self {
            scratch,
            binary: PathBuf::from(env!("CARGO_BIN_EXE_pitr")),
            store: scratch.join(store),
            store_url: None,
            source: None,
            env: Vec::new(),
            by_server_user: false,
        }
    }

    /// The same with its store in a bucket, under a prefix.
    pub fn in_bucket(scratch: &'a Scratch, s3: &S3, prefix: &str) -> Self {
        let mut pitr = Self::with_keys(scratch, s3.url(prefix));
        pitr.store = s3.dir(prefix);
        pitr
    }

    /// One whose store is at a URL that wants the tests' key. Nobody reads it as files.
    pub fn with_keys(scratch: &'a Scratch, url: String) -> Self {
        let mut pitr = Self::new(scratch)
            .env("AWS_ACCESS_KEY_ID", s3::KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", s3::KEY_SECRET)
            .env("AWS_EC2_METADATA_DISABLED", "true");
        pitr.store_url = Some(url);
        pitr
    }

    /// Archives from `server`, over its Unix socket.
    pub fn source(mut self, server: &Server) -> Self {
        self.source = Some(server.socket_url("postgres"));
        self
    }

    /// Archives from any URL.
    pub fn source_url(mut self, url: impl Into<String>) -> Self {
        self.source = Some(url.into());
        self
    }

    /// With another environment variable.
    pub fn env(mut self, key: &str, value: impl Into<String>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Runs as the server's user, as an `archive_command` does; the store belongs to
    /// that user from the beginning.
    pub fn by_server_user(mut self) -> Self {
        self.binary = self.scratch.runnable_by_server(&self.binary, 0);
        if !self.store.exists() {
            std::fs::create_dir(&self.store).expect("store directory");
        }
        give_to_server_user(&self.store);
        self.by_server_user = true;
        self
    }

    /// The store's directory.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// The directory of the cluster `main` in the store.
    pub fn cluster_dir(&self) -> PathBuf {
        self.store.join("main")
    }

    /// The binary: for a `restore_command` and the like.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// A command of `args`, with store and source set by the environment, ready for
    /// more settings.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.binary);
        let store = self.store_url.as_ref().map_or(self.store.as_os_str(), OsStr::new);
        command.args(args).env("PITR_STORE", store).current_dir(self.scratch.path()).stdin(Stdio::null());
        for (key, _) in std::env::vars_os() {
            if key.to_str().is_some_and(|k| k.starts_with("PG")) {
                command.env_remove(key);
            }
        }
        if let Some(source) = &self.source {
            command.env("PITR_SOURCE", source);
        }
        for (key, value) in &self.env {
            command.env(key, value);
        }
        if self.by_server_user {
            as_server_user(&mut command);
        }
        command
    }

    /// Runs `pitr args...` to its end.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Finished {
        finish(self.scratch, self.command(args))
    }

    /// Runs `pitr args...` and fails unless it exits 0.
    #[track_caller]
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Finished {
        self.run(args).success()
    }

    /// Runs `pitr args... --json` and reads its one document.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let finished = self.ok(args.iter().copied().chain(["--json"]));
        serde_json::from_str(&finished.stdout)
            .unwrap_or_else(|e| panic!("{args:?} --json: {e} in:\n{}", finished.stdout))
    }

    /// Archives until nothing is left to stream: the first time with a base backup.
    #[track_caller]
    pub fn catch_up(&self) -> Finished {
        self.ok(["archive", "--slot", SLOT, "--exit-when-caught-up"])
    }

    /// `restore` to `to` with the given target words; fails unless it exits 0.
    #[track_caller]
    pub fn restore(&self, server: &Server, to: &Path, target: &[&str]) -> Finished {
        self.run_restore(server, to, target).success()
    }

    /// `restore`, whatever comes of it.
    #[track_caller]
    pub fn run_restore(&self, server: &Server, to: &Path, words: &[&str]) -> Finished {
        let mut command = self.command(["restore"]);
        command.args(words).arg("--to").arg(to).arg("--bin-dir").arg(server.bin_dir());
        if let Some(user) = server_user().filter(|_| !self.by_server_user) {
            command.args(["--os-user", &user.name]);
        }
        finish(self.scratch, command)
    }

    /// `archive` in the background, with the usual slot.
    pub fn archive(&self) -> Archiver {
        self.archive_with(&[])
    }

    /// `archive` in the background with more words.
    pub fn archive_with(&self, words: &[&str]) -> Archiver {
        let mut command = self.command(["archive", "--slot", SLOT]);
        command.args(words);
        self.start(command, words)
    }

    /// `archive` in the background, as the last words of another command that becomes it.
    pub fn archive_by(&self, words: &[String], more: &[&str]) -> Archiver {
        let mut command = self.command(["archive", "--slot", SLOT]);
        command.args(more);
        self.start(inside(words, &command), more)
    }

    /// `serve` in the background.
    pub fn serve(&self, words: &[&str]) -> Archiver {
        let mut command = self.command(["serve"]);
        command.args(words);
        self.start(command, &["--no-backup"])
    }

    fn start(&self, mut command: Command, words: &[&str]) -> Archiver {
        let output = Capture::new(self.scratch);
        command.stdout(output.out()).stderr(output.err());
        let bases = (!words.contains(&"--no-backup")).then(|| self.cluster_dir().join("base"));
        Archiver { child: Some(command.spawn().expect("starting pitr archive")), output, bases }
    }
}

/// `wanted` as the last words of a command that begins with `words`.
pub fn inside(words: &[String], wanted: &Command) -> Command {
    let mut command = tool(&words[0]);
    command.args(&words[1..]).arg(wanted.get_program()).args(wanted.get_args()).stdin(Stdio::null());
    for (key, value) in wanted.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    command
}

/// What a command did.
#[derive(Debug)]
pub struct Finished {
    /// The command line, for messages.
    pub command: String,
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Itself, if the command exited 0.
    #[track_caller]
    pub fn success(self) -> Self {
        self.exit(0)
    }

    /// Itself, if the command exited with `code`.
    #[track_caller]
    pub fn exit(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "exit code of {self}");
        self
    }

    /// Itself, if every word is somewhere in what it said. Case does not matter.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        let said = self.said().to_lowercase();
        for word in words {
            assert!(said.contains(&word.to_lowercase()), "{word:?} is not in the output of {self}");
        }
        self
    }

    /// Itself, if nothing it said contains `secret`.
    #[track_caller]
    pub fn hides(self, secret: &str) -> Self {
        assert!(!self.said().contains(secret), "{secret:?} was given away by {self}");
        self
    }

    /// Both outputs.
    pub fn said(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, code, stdout, stderr } = self;
        write!(f, "{command} (exit {code:?})\n--- stdout ---\n{stdout}--- stderr ---\n{stderr}")
    }
}

/// Runs any command to its end; a hang becomes a failure that shows its output.
#[track_caller]
pub fn finish(scratch: &Scratch, mut command: Command) -> Finished {
    let output = Capture::new(scratch);
    command.stdout(output.out()).stderr(output.err());
    let line = format!("{command:?}");
    let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot run {line}: {e}"));
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("waiting for a command") {
            break status;
        }
        if began.elapsed() > LONGEST_COMMAND {
            let _ = child.kill();
            let _ = child.wait();
            panic!("still running after {LONGEST_COMMAND:?}: {}", output.finished(line, None));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    output.finished(line, status.code())
}

/// Where a command's output goes: files, so that no full pipe stops it.
struct Capture {
    out: tempfile::NamedTempFile,
    err: tempfile::NamedTempFile,
}

impl Capture {
    fn new(scratch: &Scratch) -> Self {
        let file = || tempfile::NamedTempFile::new_in(scratch.path()).expect("a file for output");
        Self { out: file(), err: file() }
    }

    fn out(&self) -> File {
        self.out.reopen().expect("output file")
    }

    fn err(&self) -> File {
        self.err.reopen().expect("output file")
    }

    fn finished(&self, command: String, code: Option<i32>) -> Finished {
        let read = |f: &tempfile::NamedTempFile| {
            String::from_utf8_lossy(&std::fs::read(f.path()).unwrap_or_default()).into_owned()
        };
        Finished { command, code, stdout: read(&self.out), stderr: read(&self.err) }
    }
}

/// A `pitr archive` in the background. Killed when dropped, its output printed if
/// the test failed.
pub struct Archiver {
    child: Option<Child>,
    output: Capture,
    /// Where its first base backup appears, if it takes one.
    bases: Option<PathBuf>,
}

impl Archiver {
    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("a running archiver"))
    }

    /// Waits until the server's slot shows that everything before `offset` was
    /// acknowledged, and the first base backup is there; fails if the archiver ends
    /// first.
    #[track_caller]
    pub fn wait_until_acknowledged(&mut self, server: &Server, offset: u64) {
        let what = format!("{} to be acknowledged", format_lsn(offset));
        condition(what, PATIENCE, || {
            self.assert_running();
            (acknowledged(server)? >= offset).then_some(())
        });
        let Some(bases) = self.bases.clone() else { return };
        condition("the first base backup", PATIENCE, || {
            self.assert_running();
            let mut found = std::fs::read_dir(&bases).ok()?.flatten();
            found.any(|base| base.path().join("manifest.json").exists()).then_some(())
        });
    }

    /// Waits until all that the server has now is acknowledged; gives that offset.
    #[track_caller]
    pub fn wait_until_caught_up(&mut self, server: &Server) -> u64 {
        let end = server.flush_lsn();
        self.wait_until_acknowledged(server, end);
        end
    }

    /// Waits until it has begun to stream.
    #[track_caller]
    pub fn wait_until_streaming(&self) {
        condition("the archiver to stream", PATIENCE, || self.said().contains("streaming timeline").then_some(()));
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        self.output.finished("pitr archive".into(), None).said()
    }

    #[track_caller]
    pub fn assert_running(&mut self) {
        let ended = self.child.as_mut().and_then(|c| c.try_wait().expect("waiting for pitr"));
        assert!(ended.is_none(), "{}", self.output.finished("pitr archive".into(), ended.and_then(|s| s.code())));
    }

    /// Sends it a signal, if it is still there.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid(), signal);
    }

    /// Whether it ends by itself before so much time has passed.
    pub fn ends_within(&mut self, time: Duration) -> bool {
        let child = self.child.as_mut().expect("a running archiver");
        let began = Instant::now();
        while child.try_wait().expect("waiting for pitr").is_none() {
            if began.elapsed() > time {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// SIGTERM: it has to flush, acknowledge and exit 0.
    #[track_caller]
    pub fn stop(self) -> Finished {
        self.interrupt(Signal::TERM).success()
    }

    /// As [`Archiver::stop`], within a time.
    #[track_caller]
    pub fn stop_within(mut self, deadline: Duration) -> Finished {
        let _ = kill_process(self.pid(), Signal::TERM);
        self.end(deadline).success()
    }

    /// Sends a signal and waits for the end.
    #[track_caller]
    pub fn interrupt(mut self, signal: Signal) -> Finished {
        let _ = kill_process(self.pid(), signal);
        self.end(PATIENCE)
    }

    /// `kill -9`.
    #[track_caller]
    pub fn kill(self) -> Finished {
        self.interrupt(Signal::KILL)
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn wait(mut self) -> Finished {
        self.end(PATIENCE)
    }

    #[track_caller]
    fn end(&mut self, deadline: Duration) -> Finished {
        let child = self.child.as_mut().expect("a running archiver");
        let status = condition("pitr archive to end", deadline, || child.try_wait().expect("waiting for pitr"));
        self.child = None;
        self.output.finished("pitr archive".into(), status.code())
    }
}

impl Drop for Archiver {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.output.finished("pitr archive".into(), None));
        }
    }
}

/// The offset up to which the server believes the archive to be durable.
pub fn acknowledged(server: &Server) -> Option<u64> {
    let text = server
        .try_sql(&format!("select coalesce(restart_lsn, '0/0') from pg_replication_slots where slot_name = '{SLOT}'"))
        .ok()?;
    (!text.is_empty()).then(|| parse_lsn(&text))
}
