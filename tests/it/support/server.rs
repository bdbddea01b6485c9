//! A PostgreSQL server of a test's own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::programs::{Version, as_server_user, client, must};
use super::{PATIENCE, Scratch, condition, template};

/// A running server. Stopped when dropped, its log printed if the test failed.
pub struct Server {
    version: Version,
    bin_dir: PathBuf,
    data: PathBuf,
    sockets: PathBuf,
    log: PathBuf,
    port: u16,
    postmaster: Option<Child>,
}

/// How to make a [`Server`].
pub struct Builder<'a> {
    scratch: &'a Scratch,
    name: String,
    version: Version,
    wal_segment_mib: u32,
    data_checksums: bool,
    settings: BTreeMap<String, String>,
    hba: Vec<String>,
}

impl Builder<'_> {
    pub fn version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// Size of WAL files in MiB, a power of two from 1 to 1024.
    pub fn wal_segment_mib(mut self, mib: u32) -> Self {
        self.wal_segment_mib = mib;
        self
    }

    /// One line of `postgresql.conf`; the value is quoted here.
    pub fn setting(mut self, key: &str, value: impl ToString) -> Self {
        self.settings.insert(key.into(), value.to_string());
        self
    }

    /// A line of `pg_hba.conf` before the ones that trust everybody.
    pub fn hba(mut self, line: &str) -> Self {
        self.hba.push(line.into());
        self
    }

    /// Without page checksums; with them is the default here.
    pub fn without_data_checksums(mut self) -> Self {
        self.data_checksums = false;
        self
    }

    /// A data directory, configuration, start.
    pub fn start(self) -> Server {
        let data = self.scratch.join(&self.name);
        // Copies have one system identifier, and the servers of a test have to be told apart.
        if std::fs::File::create_new(self.scratch.join("has-a-copy")).is_ok() {
            template::copy(&self.template(), &data);
        } else {
            self.initdb(self.scratch, &self.name);
        }

        let hba_path = data.join("pg_hba.conf");
        let trusting = std::fs::read_to_string(&hba_path).expect("reading pg_hba.conf");
        std::fs::write(&hba_path, format!("{}\n{trusting}", self.hba.join("\n"))).expect("writing pg_hba.conf");

        let mut settings: BTreeMap<String, String> = DEFAULTS.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        settings.extend(self.settings);
        append_settings(&data, &settings);
        let mut server = Server::at(self.scratch, &self.name, self.version, data);
        server.start();
        server
    }

    /// An empty data directory of this kind.
    fn template(&self) -> PathBuf {
        type Kind = (PathBuf, u32, bool);
        static TEMPLATES: Mutex<BTreeMap<Kind, PathBuf>> = Mutex::new(BTreeMap::new());
        let program = self.version.bin_dir().join("postgres");
        let mut templates = TEMPLATES.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = (program, self.wal_segment_mib, self.data_checksums);
        let make = |(program, segment_mib, checksums): &Kind| {
            let version = must(Command::new(program).arg("--version"));
            let version = version.split(' ').nth(2).expect("postgres (PostgreSQL) VERSION");
            let checksums = if *checksums { "" } else { "-without-checksums" };
            template::kept(&format!("postgres-{version}-{segment_mib}{checksums}"), |scratch| {
                self.initdb(scratch, "new")
            })
        };
        templates.entry(kind).or_insert_with_key(make).clone()
    }

    fn initdb(&self, scratch: &Scratch, name: &str) -> PathBuf {
        let data = scratch.server_dir(name);
        let mut initdb = Command::new(bin_dir_for(scratch, self.version).join("initdb"));
        // The name, because an ordinary user's tests run their servers themselves.
        initdb
            .args(["--username=postgres", "--auth=trust", "--no-sync", "--locale=C", "--encoding=UTF8"])
            .args([&format!("--wal-segsize={}", self.wal_segment_mib), "--pgdata"])
            .arg(&data);
        if self.data_checksums {
            initdb.arg("--data-checksums");
        }
        must(as_server_user(&mut initdb));
        data
    }
}

/// Small, quick and talkative. `wal_keep_size` keeps every WAL file, so that it can
/// be compared at the end; `fsync` is off because no test cuts the power under the
/// *server*.
const DEFAULTS: &[(&str, &str)] = &[
    ("fsync", "off"),
    ("shared_buffers", "32MB"),
    ("wal_level", "replica"),
    ("max_wal_senders", "10"),
    ("max_replication_slots", "10"),
    ("max_prepared_transactions", "10"),
    ("track_commit_timestamp", "on"),
    ("wal_keep_size", "8GB"),
    ("max_wal_size", "1GB"),
    ("hot_standby", "on"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("log_line_prefix", "%m [%p] %b "),
    ("log_replication_commands", "on"),
    ("logging_collector", "off"),
    ("autovacuum_naptime", "5s"),
];

impl Server {
    /// A server called `name` in `scratch`.
    pub fn builder<'a>(scratch: &'a Scratch, name: &str) -> Builder<'a> {
        Builder {
            scratch,
            name: name.into(),
            version: Version::System,
            wal_segment_mib: 16,
            data_checksums: true,
            settings: BTreeMap::new(),
            hba: Vec::new(),
        }
    }

    /// A server with all defaults.
    pub fn new(scratch: &Scratch, name: &str) -> Self {
        Self::builder(scratch, name).start()
    }

    /// A server on an existing data directory (a restored one), not started yet.
    pub fn at(scratch: &Scratch, name: &str, version: Version, data: PathBuf) -> Self {
        let sockets = scratch.server_dir(&format!("{name}.sock"));
        Self {
            version,
            bin_dir: bin_dir_for(scratch, version),
            data,
            sockets,
            log: scratch.join(&format!("{name}.log")),
            port: 0,
            postmaster: None,
        }
    }

    /// Starts on an existing data directory and waits until it answers.
    pub fn open(scratch: &Scratch, name: &str, version: Version, data: PathBuf) -> Self {
        let mut server = Self::at(scratch, name, version, data);
        server.start();
        server
    }

    /// A streaming standby of this server.
    pub fn standby(&self, scratch: &Scratch, name: &str) -> Self {
        let data = scratch.server_dir(name);
        must(
            as_server_user(&mut client("pg_basebackup"))
                .args(["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync", "--pgdata"])
                .arg(&data)
                .args(["--dbname", &self.url()]),
        );
        Self::open(scratch, name, self.version, data)
    }

    /// Starts the server and waits until it takes connections. The port is chosen
    /// anew each first time; a port lost to another process is chosen again.
    #[track_caller]
    pub fn start(&mut self) {
        self.launch(&[]);
        condition(format!("server in {} to answer", self.data.display()), PATIENCE, || self.ready_or_relaunch());
    }

    /// Starts the server with more settings, without waiting.
    pub fn launch(&mut self, settings: &[(&str, &str)]) {
        if self.port == 0 {
            self.port = free_port();
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).expect("server log");
        let mut command = Command::new(self.bin_dir.join("postgres"));
        command.arg("-D").arg(&self.data);
        for (key, value) in [
            ("port", self.port.to_string().as_str()),
            ("unix_socket_directories", &self.sockets.to_string_lossy()),
            ("listen_addresses", "127.0.0.1"),
        ]
        .iter()
        .chain(settings)
        {
            command.arg("-c").arg(format!("{key}={value}"));
        }
        command.env("LC_ALL", "C").env_remove("PGDATA");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("log")).stderr(log);
        self.postmaster = Some(as_server_user(&mut command).spawn().expect("starting postgres"));
    }

    fn ready_or_relaunch(&mut self) -> Option<()> {
        if self.try_sql("select 1").is_ok() {
            return Some(());
        }
        if let Some(status) = self.postmaster.as_mut().and_then(|p| p.try_wait().expect("waiting for postgres")) {
            let log = self.log_text();
            let tail = log.lines().rev().take(5).collect::<Vec<_>>().join("\n");
            // After kill -9 the old backends hold the shared memory for a moment
            // longer; and a free port may have been taken since it was looked up.
            if tail.contains("could not bind") || tail.contains("could not create any TCP/IP sockets") {
                self.port = free_port();
            } else if !tail.contains("pre-existing shared memory block") && !tail.contains("lock file") {
                panic!("postgres ended with {status}:\n{log}");
            }
            self.launch(&[]);
        }
        None
    }

    /// Clean shutdown (`fast`): waits for it.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal_and_wait(Signal::INT);
    }

    /// `kill -9` of the postmaster; its children follow on their own.
    pub fn crash(&mut self) {
        self.signal_and_wait(Signal::KILL);
    }

    /// Shutdown without a checkpoint.
    pub fn stop_immediate(&mut self) {
        self.signal_and_wait(Signal::QUIT);
    }

    /// Stops all of the server's processes as they stand, until the value is dropped.
    pub fn freeze(&self) -> Frozen {
        let postmaster = Pid::from_child(self.postmaster.as_ref().expect("a running server"));
        // It first: then no more children come.
        let mut frozen = Frozen::process(postmaster);
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // The name of the program, in brackets, may hold anything; state and parent follow.
            let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
            if let Some(pid) = pid
                && parent == Some(postmaster.as_raw_nonzero().get())
            {
                frozen.add(pid);
            }
        }
        frozen
    }

    #[track_caller]
    fn signal_and_wait(&mut self, signal: Signal) {
        if let Some(mut child) = self.postmaster.take() {
            let _ = kill_process(Pid::from_child(&child), signal);
            condition(format!("postgres to end after {signal:?}"), PATIENCE, || child.try_wait().expect("wait"));
        }
    }

    /// Promotes a standby and waits until it takes writes.
    pub fn promote(&self) {
        assert_eq!(self.sql("select pg_promote(true, 60)"), "t", "pg_promote");
    }

    /// Runs statements, each on its own, and gives the rows, columns joined by `|`.
    #[track_caller]
    pub fn sql(&self, statements: &str) -> String {
        self.sql_in("postgres", statements)
    }

    /// As [`Server::sql`] in another database.
    #[track_caller]
    pub fn sql_in(&self, database: &str, statements: &str) -> String {
        match self.run_psql(database, statements) {
            Ok(rows) => rows,
            Err(message) => panic!("psql: {message}\nwhile running: {statements}"),
        }
    }

    /// As [`Server::sql`], with the server's complaint as the error.
    pub fn try_sql(&self, statements: &str) -> Result<String, String> {
        self.run_psql("postgres", statements)
    }

    fn run_psql(&self, database: &str, statements: &str) -> Result<String, String> {
        let mut child = client("psql")
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-", "-d", &self.socket_url(database)])
            .env("PGCONNECT_TIMEOUT", "30")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starting psql");
        // psql that cannot connect closes its input early; its exit code tells.
        let _ = child.stdin.take().expect("psql's input").write_all(statements.as_bytes());
        let output = child.wait_with_output().expect("running psql");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
        }
    }

    /// `postgres://` over TCP.
    pub fn url(&self) -> String {
        self.url_as("postgres")
    }

    /// The same for another role (`user` or `user:password`).
    pub fn url_as(&self, user: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/postgres", self.port)
    }

    /// `postgres://` over the Unix socket.
    pub fn socket_url(&self, database: &str) -> String {
        format!("postgres://postgres@/{database}?host={}&port={}", self.sockets.display(), self.port)
    }

    /// The Unix socket itself.
    pub fn socket(&self) -> PathBuf {
        self.sockets.join(format!(".s.PGSQL.{}", self.port))
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn wal_dir(&self) -> PathBuf {
        self.data.join("pg_wal")
    }

    /// All the server has logged.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn wal_segment_bytes(&self) -> u64 {
        self.sql("select setting from pg_settings where name = 'wal_segment_size'").parse().expect("bytes")
    }

    /// End of the WAL that is durable on the server, as an offset.
    pub fn flush_lsn(&self) -> u64 {
        parse_lsn(&self.sql("select pg_current_wal_flush_lsn()"))
    }

    /// The timeline the server writes to.
    pub fn timeline(&self) -> u32 {
        let text = self.sql("select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)");
        u32::from_str_radix(&text, 16).expect("a timeline")
    }

    /// Ends the WAL file being written, so that what came before is in whole files.
    /// Gives the offset at which the next one begins.
    pub fn switch_wal(&self) -> u64 {
        // Without a record in the new file a second switch would do nothing.
        self.sql("select pg_switch_wal(); select txid_current(); checkpoint;");
        let size = self.wal_segment_bytes();
        self.flush_lsn() / size * size
    }

    /// The server's clock with microseconds, e.g. `2026-11-20 22:01:02.123456+00`.
    pub fn now(&self) -> String {
        self.sql("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00'")
    }

    /// A checksum of every ordinary table's rows in every database, and of the large
    /// objects, by `database.schema.table`.
    pub fn checksums(&self) -> BTreeMap<String, String> {
        let databases = self.sql("select datname from pg_database where datallowconn and not datistemplate order by 1");
        let mut sums = BTreeMap::new();
        for database in databases.lines() {
            let tables = self.sql_in(
                database,
                "select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
                 where c.relkind in ('r', 'm') and c.relpersistence = 'p'
                   and n.nspname not in ('pg_catalog', 'information_schema') order by 1",
            );
            let mut statements = String::new();
            for table in tables.lines() {
                let _ = writeln!(
                    statements,
                    "select '{database}.{table}', concat_ws(':', count(*), sum(hashtextextended(t::text, 0)),
                       sum(hashtextextended(t::text, 1))) from {table} t;"
                );
            }
            let _ = writeln!(
                statements,
                "select '{database} large objects', count(*) || ':' ||
                   md5(coalesce(string_agg(md5(data), '' order by loid, pageno), '')) from pg_largeobject;"
            );
            for line in self.sql_in(database, &statements).lines() {
                let (name, sum) = line.split_once('|').expect("two columns");
                sums.insert(name.to_owned(), sum.to_owned());
            }
        }
        sums
    }
}

/// Processes that stand still.
pub struct Frozen(Vec<Pid>);

impl Frozen {
    /// One process.
    pub fn process(pid: Pid) -> Self {
        let mut frozen = Self(Vec::new());
        frozen.add(pid);
        frozen
    }

    fn add(&mut self, pid: Pid) {
        // One that has ended meanwhile needs no stopping.
        if kill_process(pid, Signal::STOP).is_ok() {
            self.0.push(pid);
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill_process(*pid, Signal::CONT);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.postmaster.take() {
            let pid = Pid::from_child(&child);
            let _ = kill_process(pid, Signal::QUIT);
            let began = std::time::Instant::now();
            while matches!(child.try_wait(), Ok(None)) {
                if began.elapsed() > Duration::from_secs(20) {
                    let _ = child.kill();
                    let _ = child.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        if std::thread::panicking() {
            let log = self.log_text();
            let skip = log.lines().count().saturating_sub(60);
            let tail = log.lines().skip(skip).collect::<Vec<_>>().join("\n");
            eprintln!("--- end of the log of the server in {} ---\n{tail}", self.data.display());
        }
    }
}

/// Reads `16/B374D848` as an offset.
pub fn parse_lsn(text: &str) -> u64 {
    let (high, low) = text.trim().split_once('/').unwrap_or_else(|| panic!("not an LSN: {text:?}"));
    let part = |t| u64::from_str_radix(t, 16).unwrap_or_else(|_| panic!("not an LSN: {text:?}"));
    part(high) << 32 | part(low)
}

/// Writes an offset as `16/B374D848`.
pub fn format_lsn(offset: u64) -> String {
    format!("{:X}/{:X}", offset >> 32, offset & 0xFFFF_FFFF)
}

fn append_settings(data: &Path, settings: &BTreeMap<String, String>) {
    let mut file =
        std::fs::OpenOptions::new().append(true).open(data.join("postgresql.conf")).expect("postgresql.conf");
    for (key, value) in settings {
        writeln!(file, "{key} = '{}'", value.replace('\'', "''")).expect("writing postgresql.conf");
    }
}

fn bin_dir_for(scratch: &Scratch, version: Version) -> PathBuf {
    let postgres = scratch.runnable_by_server(&version.bin_dir().join("postgres"), 2);
    postgres.parent().expect("a directory").to_path_buf()
}

/// One that nobody listens on now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("its address").port()
}
