//! A MySQL or MariaDB server of a test's own.
//!
//! What [`super::server`] is for PostgreSQL: real, in a scratch directory, on a free port
//! and a private Unix socket, with a row-format binlog that is never purged; stopped when
//! dropped. Statements run through the server's own client program.

mod account;
mod load;
pub mod log;
mod make;
mod template;

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use super::programs::as_server_user;
use super::server::{Frozen, free_port};
use super::{PATIENCE, Scratch, condition};

pub use account::{ADMIN, Account, NOBODY, PITR, REPLICA, STREAM};
pub use load::{Load, mark, marker_ids, marker_table, wait_for_log, wait_for_markers};
pub use make::Make;

/// A running server. Stopped when dropped, its log printed if the test failed.
pub struct MySqlServer {
    make: Make,
    program: PathBuf,
    data: PathBuf,
    run: PathBuf,
    options: Vec<String>,
    server_id: u32,
    port: u16,
    process: Option<Child>,
}

/// Small, and quick: `fsync` is spared where that only counts when the power is cut, and
/// no test cuts it under the *server*. What `kill -9` may not lose still reaches the kernel, and a page that it tears is mended
/// from the doublewrite buffer.
const DEFAULTS: &[&str] = &[
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--default-time-zone=+00:00",
    "--log-bin=binlog",
    "--binlog-format=ROW",
    "--sync-binlog=0",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-buffer-pool-size=64M",
    "--innodb-flush-method=nosync",
    "--max-allowed-packet=1G",
    "--local-infile=ON",
    "--secure-file-priv=",
];

const MARIADB_DEFAULTS: &[&str] = &["--innodb-log-file-size=64M", "--log-slave-updates=ON"];

const MYSQL_DEFAULTS: &[&str] = &[
    "--innodb-redo-log-capacity=128M",
    "--gtid-mode=ON",
    "--enforce-gtid-consistency=ON",
    "--mysqlx=OFF",
    "--binlog-expire-logs-seconds=0",
];

impl MySqlServer {
    /// A new server called `name` in `scratch`; `options` follow the defaults on its
    /// command line, so that they win.
    pub fn start<S: AsRef<str>>(scratch: &Scratch, name: &str, make: Make, options: &[S]) -> Self {
        let data = template::copy(make, scratch, name);
        Self::open(scratch, name, make, data, options)
    }

    /// The same with another server program.
    pub fn start_with<S: AsRef<str>>(
        scratch: &Scratch,
        name: &str,
        make: Make,
        program: PathBuf,
        options: &[S],
    ) -> Self {
        let data = template::copy(make, scratch, name);
        let mut server = Self::at(scratch, name, make, data, options);
        server.program = program;
        server.run();
        server
    }

    /// A server on an existing data directory (a restored one), not started yet.
    pub fn at<S: AsRef<str>>(scratch: &Scratch, name: &str, make: Make, data: PathBuf, options: &[S]) -> Self {
        // Never the same twice in a test: a server is deaf to events of its own id.
        static SERVER_ID: AtomicU32 = AtomicU32::new(101);
        Self {
            make,
            program: make::runnable_server(make, scratch),
            data,
            run: scratch.server_dir(&format!("{name}.run")),
            options: options.iter().map(|option| option.as_ref().to_owned()).collect(),
            server_id: SERVER_ID.fetch_add(1, Ordering::Relaxed),
            port: 0,
            process: None,
        }
    }

    /// Starts on an existing data directory and waits until it answers.
    pub fn open<S: AsRef<str>>(scratch: &Scratch, name: &str, make: Make, data: PathBuf, options: &[S]) -> Self {
        let mut server = Self::at(scratch, name, make, data, options);
        server.run();
        server
    }

    /// Starts a server that was stopped, on its port of before, and waits until it answers.
    #[track_caller]
    pub fn run(&mut self) {
        self.launch();
        condition(format!("server in {} to answer", self.data.display()), PATIENCE, || self.ready_or_relaunch());
    }

    /// Starts the server without waiting.
    pub fn launch(&mut self) {
        if self.port == 0 {
            self.port = free_port();
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path()).expect("server log");
        let mut command = Command::new(&self.program);
        command
            .arg("--no-defaults")
            .arg(format!("--datadir={}", self.data.display()))
            .arg(format!("--socket={}", self.socket().display()))
            .arg(format!("--pid-file={}", self.run.join("pid").display()))
            // A MariaDB server that starts removes what others keep in a directory they share.
            .arg(format!("--tmpdir={}", self.run.display()))
            .args([format!("--port={}", self.port), format!("--server-id={}", self.server_id)])
            .args(DEFAULTS)
            .args(if self.make.is_mariadb() { MARIADB_DEFAULTS } else { MYSQL_DEFAULTS })
            .args(&self.options)
            .env("LC_ALL", "C");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("log")).stderr(log);
        self.process = Some(as_server_user(&mut command).spawn().expect("starting the server"));
    }

    fn ready_or_relaunch(&mut self) -> Option<()> {
        // Whoever listens there is worth asking; a client program takes a while to find out.
        if UnixStream::connect(self.socket()).is_ok() && self.try_sql("do 1").is_ok() {
            return Some(());
        }
        if let Some(status) = self.process.as_mut().and_then(|p| p.try_wait().expect("waiting for the server")) {
            let log = self.log_text();
            let begin = log.lines().count().saturating_sub(30);
            // A free port may have been taken since it was looked up.
            let taken = log.lines().skip(begin).any(|line| line.contains("Address already in use"));
            assert!(taken, "the server ended with {status}:\n{log}");
            self.port = free_port();
            self.launch();
        }
        None
    }

    /// Clean shutdown: waits for it.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal_and_wait(Signal::TERM);
    }

    /// `kill -9`.
    #[track_caller]
    pub fn kill(&mut self) {
        self.signal_and_wait(Signal::KILL);
    }

    /// Clean shutdown and start.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop();
        self.run();
    }

    /// The same with other options than before.
    #[track_caller]
    pub fn restart_with<S: AsRef<str>>(&mut self, options: &[S]) {
        self.options = options.iter().map(|option| option.as_ref().to_owned()).collect();
        self.restart();
    }

    /// Stops the server as it stands, until the value is dropped.
    pub fn freeze(&self) -> Frozen {
        Frozen::process(Pid::from_child(self.process.as_ref().expect("a running server")))
    }

    #[track_caller]
    fn signal_and_wait(&mut self, signal: Signal) {
        if let Some(mut child) = self.process.take() {
            let _ = kill_process(Pid::from_child(&child), signal);
            condition(format!("the server to end after {signal:?}"), PATIENCE, || child.try_wait().expect("wait"));
        }
    }

    /// Runs statements as `root`, without a default database, and gives the rows: columns
    /// joined by tabs, `NULL` for null; tab, newline and backslash are escaped.
    #[track_caller]
    pub fn sql(&self, statements: &str) -> String {
        self.try_sql(statements).unwrap_or_else(|message| panic!("{message}\nwhile running: {statements}"))
    }

    /// As [`MySqlServer::sql`], with the server's complaint as the error.
    pub fn try_sql(&self, statements: &str) -> Result<String, String> {
        Self::run_client(&mut self.client(), statements)
    }

    /// The same as another account, over TCP.
    pub fn sql_as(&self, account: Account, statements: &str) -> Result<String, String> {
        let mut client = self.client();
        client.args(["--protocol=tcp", "--host=127.0.0.1", &format!("--port={}", self.port)]);
        Self::run_client(client.arg(format!("--user={}", account.user)).env("MYSQL_PWD", account.password), statements)
    }

    fn run_client(client: &mut Command, statements: &str) -> Result<String, String> {
        let mut child = client
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starting the client");
        // A client that cannot connect closes its input early; its exit code tells. What it
        // prints may fill a pipe before it has read everything.
        let mut input = child.stdin.take().expect("the client's input");
        let text = statements.to_owned();
        let feeder = std::thread::spawn(move || drop(input.write_all(text.as_bytes())));
        let output = child.wait_with_output().expect("running the client");
        feeder.join().expect("feeding the client");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
        }
    }

    /// As [`MySqlServer::sql`], as rows of columns.
    #[track_caller]
    pub fn rows(&self, statements: &str) -> Vec<Vec<String>> {
        let text = self.sql(statements);
        text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
    }

    /// The client program, connected as `root` over the Unix socket, without headings.
    pub fn client(&self) -> Command {
        let mut command = Command::new(self.make.client());
        command.args(["--no-defaults", "--user=root", "--batch", "--skip-column-names", "--unbuffered"]);
        command.args(["--default-character-set=utf8mb4", "--max-allowed-packet=1G", "--local-infile=1"]);
        command.arg(format!("--socket={}", self.socket().display()));
        command.env_remove("MYSQL_PWD").env_remove("MYSQL_HOST");
        command
    }

    /// What pitr takes as `--source`, for [`PITR`], over TCP.
    pub fn url(&self) -> String {
        self.url_as(PITR)
    }

    /// The same for another account.
    pub fn url_as(&self, account: Account) -> String {
        let Account { user, password } = account;
        format!("{}://{user}:{password}@127.0.0.1:{}/", self.make.scheme(), self.port)
    }

    /// The same for [`PITR`] over the Unix socket.
    pub fn socket_url(&self) -> String {
        let Account { user, password } = PITR;
        format!("{}://{user}:{password}@/?socket={}", self.make.scheme(), self.socket().display())
    }

    /// The Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.run.join("socket")
    }

    pub fn make(&self) -> Make {
        self.make
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn server_id(&self) -> u32 {
        self.server_id
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    fn log_path(&self) -> PathBuf {
        self.run.with_extension("log")
    }

    /// What the server wrote to its error log.
    pub fn log_text(&self) -> String {
        std::fs::read(self.log_path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

impl Drop for MySqlServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.process.take() {
            // What is on its disk goes away; a clean end would only take time. A test that
            // wants one stops the server.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log_text();
            let skip = log.lines().count().saturating_sub(60);
            let tail = log.lines().skip(skip).collect::<Vec<_>>().join("\n");
            eprintln!("--- end of the log of the server in {} ---\n{tail}", self.data.display());
        }
    }
}
