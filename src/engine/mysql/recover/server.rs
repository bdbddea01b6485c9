//! A private server: nobody else can reach it, and it heeds no setting but ours.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tokio::process::Child;

use super::Base;
use super::programs::Programs;
use super::replica::{LOOK_INTERVAL, Replayed, Replays, Replica};
use super::settings::{self, Machine, Whence};
use crate::engine::mysql::binlog::fold::Tables;
use crate::engine::mysql::conninfo::{ConnInfo, Endpoint, Tls};
use crate::engine::mysql::flavor::Flavor;
use crate::engine::mysql::gtid::GtidSet;
use crate::engine::mysql::serve::{Server, Settings};
use crate::engine::mysql::sql::Session;
use crate::engine::os_user::{OsUser, socket_directory};
use crate::engine::{RecoveryJob, Running};
use crate::error::{Error, Kind, Result};

/// How long a server may take to start, crash recovery included.
const START_MAX: Duration = Duration::from_secs(3600);

/// How long a server may take to shut down.
const STOP_MAX: Duration = Duration::from_secs(3600);

/// How long a server that was killed may take to be seen to have ended.
const END_MAX: Duration = Duration::from_secs(5);

/// Our account on the private server, for the time of the replay.
const ACCOUNT: &str = "pitr-restore";

/// A running private server. Dropping it kills it.
pub(super) struct PrivateServer {
    machine: Machine,
    child: Child,
    sockets: PathBuf,
    log: PathBuf,
    info: ConnInfo,
    replica: Option<Replica>,
    /// Events that were off before the replay because this server, or the source, is a replica.
    off: Vec<String>,
}

impl PrivateServer {
    /// Starts a server on the job's directory, and connects to it.
    ///
    /// # Errors
    /// With the server's own words when it does not start.
    pub(super) async fn start(
        job: &RecoveryJob,
        programs: &Programs,
        user: &OsUser,
        base: &Base,
        machine: &Machine,
    ) -> Result<Self> {
        let log = job.scratch.join("server.log");
        let sockets = socket_directory(user)?;
        // As a server wants it that looks at how good passwords are (`validate_password`).
        let password = SecretString::from(format!("{:032x}-Aa1", rand::random::<u128>()));
        let init = job.scratch.join("account.sql");
        fs::write(&init, settings::account(ACCOUNT, password.expose_secret()))
            .map_err(|e| Error::io("write", &init, e))?;
        user.own(&init)?;
        let mut command = Command::new(programs.server());
        command.args(private(job, &sockets, &job.dir));
        command.args(base.settings.iter().map(|setting| format!("--{setting}")));
        command.args(settings::options(machine, &job.scratch));
        command.arg(format!("--init-file={}", init.display()));
        let out = File::create(&log).map_err(|e| Error::io("create", &log, e))?;
        let err = out.try_clone().map_err(|e| Error::io("open", &log, e))?;
        command.stdin(Stdio::null()).stdout(out).stderr(err).current_dir(&job.scratch);
        user.apply(&mut command);
        let child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| Error::io("start", programs.server(), e))?;
        let info = ConnInfo {
            endpoints: vec![Endpoint::Unix(sockets.join("s"))],
            user: ACCOUNT.into(),
            password: Some(password),
            database: None,
            connect_timeout: Duration::from_secs(10),
            tls: Tls::default(),
            semi_sync: false,
        };
        let (machine, shared) = (machine.clone(), info.clone());
        let mut server = Self { machine, child, sockets, log, info: shared, replica: None, off: Vec::new() };
        let session = server.connect(&info).await?;
        server.replica = Some(Replica::new(session, server.machine.flavor, server.machine.version));
        let _ = fs::remove_file(&init);
        Ok(server)
    }

    async fn connect(&mut self, info: &ConnInfo) -> Result<Session> {
        let begun = tokio::time::Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.gave_up(&format!("ended with {status}")));
            }
            match Session::connect(info).await {
                Ok(session) => return Ok(session),
                Err(error) if begun.elapsed() > START_MAX => {
                    return Err(self.gave_up("cannot be connected to").because(error));
                }
                Err(_) => tokio::time::sleep(LOOK_INTERVAL).await,
            }
        }
    }

    /// The server as a replica.
    pub(super) fn replica(&mut self) -> Result<&mut Replica> {
        self.replica.as_mut().ok_or_else(|| Error::failure("the private server is not connected to"))
    }

    /// An answer; or why the server gave none, if it is because it ended.
    async fn answered<T>(&mut self, answer: Result<T>) -> Result<T> {
        match answer {
            Err(error) if error.kind() == Kind::DatabaseUnreachable => {
                // Its connections end a moment before itself.
                match tokio::time::timeout(END_MAX, self.child.wait()).await {
                    Ok(Ok(status)) => Err(self.gave_up(&format!("ended with {status}"))),
                    _ => Err(error),
                }
            }
            answer => answer,
        }
    }

    async fn execute(&mut self, statement: &str) -> Result<()> {
        let done = self.replica()?.session().execute(statement).await;
        self.answered(done).await
    }

    /// The transactions that the restored files hold, as they say themselves.
    pub(super) async fn executed(&mut self) -> Result<GtidSet> {
        match self.machine.flavor {
            // Tells of replication only: a base of a primary says it in a file of its own.
            Flavor::MariaDb => Ok(GtidSet::empty(Flavor::MariaDb)),
            Flavor::MySql => {
                let executed = self.replica()?.executed().await;
                self.answered(executed).await
            }
        }
    }

    /// What the tables are (MariaDB).
    pub(super) async fn tables(&mut self) -> Result<Tables> {
        let versioned =
            "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_TYPE = 'SYSTEM VERSIONED' LIMIT 1";
        let cascading = "SELECT CONSTRAINT_NAME FROM information_schema.REFERENTIAL_CONSTRAINTS \
                         WHERE UPDATE_RULE NOT IN ('RESTRICT', 'NO ACTION') \
                         OR DELETE_RULE NOT IN ('RESTRICT', 'NO ACTION') LIMIT 1";
        for (ask, tables) in [(versioned, Tables::Versioned), (cascading, Tables::Cascading)] {
            let found = self.replica()?.session().query_one::<String>(ask).await;
            if self.answered(found).await?.is_some() {
                return Ok(tables);
            }
        }
        Ok(Tables::Plain)
    }

    /// Makes the server a replica of ours that begins behind `executed`, which is at `whence`.
    pub(super) async fn follow(
        &mut self,
        source: &Server,
        account: &Settings,
        executed: &GtidSet,
        whence: &Whence,
    ) -> Result<()> {
        self.off = self.events_off().await?;
        let mut before = settings::hurry(&self.machine);
        if self.machine.flavor == Flavor::MariaDb {
            before.push(format!("SET GLOBAL gtid_slave_pos = '{executed}'"));
        }
        for statement in before {
            self.execute(&statement).await?;
        }
        let follows = self.replica()?.follow(source.address(), account, whence).await;
        self.answered(follows).await
    }

    /// The events that are off because they came from another server.
    async fn events_off(&mut self) -> Result<Vec<String>> {
        let ask = "SELECT CONCAT(EVENT_SCHEMA, '.', EVENT_NAME) FROM information_schema.EVENTS \
                   WHERE STATUS NOT IN ('ENABLED', 'DISABLED')";
        let events = self.replica()?.session().query_all(ask).await;
        self.answered(events).await
    }

    /// Ends replication, takes away our account, and shuts the server down cleanly.
    ///
    /// # Errors
    /// When it does not end, or not well.
    pub(super) async fn finish(mut self) -> Result<()> {
        let mut off = self.events_off().await?;
        off.retain(|event| !self.off.contains(event));
        if !off.is_empty() {
            // What a statement said of its event's state, a replica does not keep.
            tracing::warn!(
                events = %off.join(", "),
                "the log makes or changes events, and replay leaves those off: switch on what ran at the source, \
                 with ALTER EVENT ... ENABLE"
            );
        }
        let ended = self.replica()?.end().await;
        self.answered(ended).await?;
        for statement in settings::leave(&self.machine, ACCOUNT) {
            self.execute(&statement).await?;
        }
        self.shut_down().await
    }

    /// How to connect to it.
    pub(super) const fn info(&self) -> &ConnInfo {
        &self.info
    }

    /// Shuts it down cleanly.
    ///
    /// # Errors
    /// When it does not end, or not well.
    pub(super) async fn shut_down(mut self) -> Result<()> {
        self.execute("SHUTDOWN").await?;
        self.replica = None;
        match tokio::time::timeout(STOP_MAX, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.gave_up(&format!("did not shut down cleanly: {status}"))),
            Ok(Err(error)) => Err(Error::failure("cannot wait for the private server").because(error)),
            Err(_) => Err(self.gave_up(&format!("did not shut down within {} s", STOP_MAX.as_secs()))),
        }
    }

    fn gave_up(&self, what: &str) -> Error {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let telling: Vec<&str> = text.lines().filter(|line| line.contains("[ERROR]")).collect();
        let from = telling.len().saturating_sub(6);
        let said = telling.get(from..).unwrap_or_default().join("\n    ");
        let said = if said.is_empty() { text.lines().last().unwrap_or_default().to_owned() } else { said };
        Error::new(Kind::Failure, format!("the private server {what}:\n    {said}"))
            .hint(format!("its whole log is in {}", self.log.display()))
    }
}

impl Replays for PrivateServer {
    async fn replayed(&mut self) -> Result<Replayed> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Err(self.gave_up(&format!("ended with {status}")));
        }
        let hint = format!("its whole log is in {}", self.log.display());
        let replayed = self.replica()?.replayed().await;
        self.answered(replayed).await.map_err(|error| error.hint(hint))
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.sockets);
    }
}

/// What makes a server private, and says where its data is.
fn private(job: &RecoveryJob, sockets: &Path, dir: &Path) -> Vec<String> {
    vec![
        "--no-defaults".to_owned(),
        format!("--datadir={}", dir.display()),
        format!("--socket={}", sockets.join("s").display()),
        format!("--pid-file={}", sockets.join("pid").display()),
        format!("--tmpdir={}", job.scratch.display()),
        "--max-allowed-packet=1G".to_owned(),
    ]
}

/// Starts the recovered directory for somebody to look at, reachable through a private
/// socket only, and leaves it running.
///
/// # Errors
/// With the server's own words when it does not start.
pub(super) async fn start_and_leave(
    job: &RecoveryJob,
    programs: &Programs,
    user: &OsUser,
    dir: &Path,
) -> Result<Running> {
    let flavor = super::super::flavor(&job.identity);
    fs::create_dir_all(&job.scratch).map_err(|e| Error::io("create", &job.scratch, e))?;
    user.own(&job.scratch)?;
    let log = job.scratch.join("server.log");
    let sockets = socket_directory(user)?;
    let mut command = Command::new(programs.server());
    command.args(private(job, &sockets, dir));
    command.args(["--skip-networking", "--skip-log-bin", "--event-scheduler=OFF"]);
    if flavor == Flavor::MySql {
        command.args(["--mysqlx=OFF", "--gtid-mode=ON", "--enforce-gtid-consistency=ON"]);
    }
    let out = File::create(&log).map_err(|e| Error::io("create", &log, e))?;
    let err = out.try_clone().map_err(|e| Error::io("open", &log, e))?;
    command.stdin(Stdio::null()).stdout(out).stderr(err).current_dir("/");
    user.apply(&mut command);
    let mut child =
        tokio::process::Command::from(command).spawn().map_err(|e| Error::io("start", programs.server(), e))?;
    let socket = sockets.join("s");
    let begun = tokio::time::Instant::now();
    while tokio::net::UnixStream::connect(&socket).await.is_err() {
        if let Ok(Some(status)) = child.try_wait() {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let last = text.lines().last().unwrap_or_default();
            return Err(Error::failure(format!("the restored server ended with {status}: {last}"))
                .hint(format!("its whole log is in {}", log.display())));
        }
        if begun.elapsed() > START_MAX {
            return Err(Error::failure("the restored server does not accept connections")
                .hint(format!("its whole log is in {}", log.display())));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    let (scheme, client) = match flavor {
        Flavor::MariaDb => ("mariadb", "mariadb"),
        Flavor::MySql => ("mysql", "mysql"),
    };
    Ok(Running {
        url: format!("{scheme}://?socket={}", socket.display()),
        command: format!("{client} --socket={}", socket.display()),
    })
}
