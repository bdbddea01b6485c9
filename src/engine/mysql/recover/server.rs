//! A private server: nobody else can reach it, and it heeds no setting but ours.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use mysql_async::{Row, Value};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::process::Child;

use super::programs::Programs;
use super::settings::{self, Machine, Whence};
use super::{Base, LOOK_INTERVAL};
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

/// Our account on the private server, for the time of the replay.
const ACCOUNT: &str = "pitr-restore";

/// How far the replay is.
pub(super) struct Replayed {
    /// Every transaction that is applied.
    pub(super) gtids: GtidSet,
    /// The source's file up to which everything is applied.
    pub(super) file: String,
    /// The place in it.
    pub(super) position: u64,
}

/// A running private server. Dropping it kills it.
pub(super) struct PrivateServer {
    machine: Machine,
    child: Child,
    sockets: PathBuf,
    log: PathBuf,
    info: ConnInfo,
    session: Option<Session>,
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
        };
        let mut server = Self { machine: machine.clone(), child, sockets, log, info: info.clone(), session: None };
        server.session = Some(server.connect(&info).await?);
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

    fn session(&mut self) -> Result<&mut Session> {
        self.session.as_mut().ok_or_else(|| Error::failure("the private server is not connected to"))
    }

    async fn one(&mut self, sql: &str) -> Result<String> {
        Ok(self.session()?.query_one::<String>(sql).await?.unwrap_or_default())
    }

    /// The transactions that the restored files hold, as they say themselves.
    pub(super) async fn executed(&mut self) -> Result<GtidSet> {
        match self.machine.flavor {
            Flavor::MySql => GtidSet::parse_mysql(&self.one("SELECT @@GLOBAL.gtid_executed").await?),
            // Tells of replication only: a base of a primary says it in a file of its own.
            Flavor::MariaDb => Ok(GtidSet::empty(Flavor::MariaDb)),
        }
    }

    /// Makes the server a replica of ours that begins behind `executed`, which is at `whence`.
    pub(super) async fn follow(
        &mut self,
        source: &Server,
        account: &Settings,
        executed: &GtidSet,
        whence: &Whence,
    ) -> Result<()> {
        let mut statements = Vec::new();
        if self.machine.flavor == Flavor::MariaDb {
            statements.push(format!("SET GLOBAL gtid_slave_pos = '{executed}'"));
        }
        let password = account.password.expose_secret();
        statements.extend(settings::begin(&self.machine, source.address(), &account.user, password, whence));
        for statement in statements {
            // The error may not repeat a statement, which may hold the password.
            self.session()?
                .execute(&statement)
                .await
                .map_err(|error| Error::failure("the private server does not become a replica").because(error))?;
        }
        Ok(())
    }

    /// How far the replay is.
    ///
    /// # Errors
    /// With the server's own words when replication has stopped.
    pub(super) async fn replayed(&mut self) -> Result<Replayed> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Err(self.gave_up(&format!("ended with {status}")));
        }
        let show = match self.machine.flavor {
            Flavor::MariaDb => "SHOW SLAVE STATUS",
            Flavor::MySql => "SHOW REPLICA STATUS",
        };
        let status = self.session()?.query_one::<Row>(show).await?;
        let value = |names: [&str; 2]| {
            let value = names.iter().find_map(|name| status.as_ref()?.get_opt::<Value, _>(*name)?.ok());
            value.map(|value| text(&value)).unwrap_or_default()
        };
        for (number, text) in [("Last_SQL_Errno", "Last_SQL_Error"), ("Last_IO_Errno", "Last_IO_Error")] {
            if !["", "0"].contains(&value([number; 2]).as_str()) {
                let said = value([text; 2]);
                return Err(Error::new(Kind::Failure, format!("the private server stopped to replay: {said}"))
                    .hint(format!("its whole log is in {}", self.log.display())));
            }
        }
        let file = value(["Relay_Master_Log_File", "Relay_Source_Log_File"]);
        let position = value(["Exec_Master_Log_Pos", "Exec_Source_Log_Pos"]).parse().unwrap_or(0);
        let gtids = match self.machine.flavor {
            Flavor::MariaDb => GtidSet::parse_mariadb(&self.one("SELECT @@GLOBAL.gtid_slave_pos").await?)?,
            Flavor::MySql => GtidSet::parse_mysql(&self.one("SELECT @@GLOBAL.gtid_executed").await?)?,
        };
        Ok(Replayed { gtids, file, position })
    }

    /// Ends replication, takes away our account, and shuts the server down cleanly.
    ///
    /// # Errors
    /// When it does not end, or not well.
    pub(super) async fn finish(mut self) -> Result<()> {
        let statements = settings::end(&self.machine, ACCOUNT);
        let session = self.session()?;
        for statement in statements {
            session.execute(&statement).await?;
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
        self.session()?.execute("SHUTDOWN").await?;
        self.session = None;
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

impl Drop for PrivateServer {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.sockets);
    }
}

/// A value of a status, which may come as text or as a number.
fn text(value: &Value) -> String {
    match value {
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Int(number) => number.to_string(),
        Value::UInt(number) => number.to_string(),
        _ => String::new(),
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
