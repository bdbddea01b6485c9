//! A server made to be thrown away, for `pitr demo`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mysql_async::{Row, Value};

use super::conninfo::{ConnInfo, Endpoint};
use super::flavor::Flavor;
use super::recover::programs::Programs;
use super::sql::Session as Sql;
use crate::engine::Engine;
use crate::engine::os_user::{OsUser, socket_directory};
use crate::engine::throwaway::{Dialect, Session, Throwaway};
use crate::error::{Error, Kind, Result};

/// How long it may take to start, or to stop.
const STEP_MAX: Duration = Duration::from_secs(60);

/// How often it is looked at meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// A server in a directory of its own, reachable through a socket.
pub struct MySqlThrowaway {
    programs: Programs,
    flavor: Flavor,
    sockets: PathBuf,
    child: Child,
}

impl MySqlThrowaway {
    /// Makes and starts a server below `root`, an empty directory.
    ///
    /// # Errors
    /// When its programs are missing, or what they said when they failed.
    pub async fn start(root: &Path, flavor: Flavor, bin_dir: Option<&Path>) -> Result<Self> {
        let programs = Programs::any(flavor, bin_dir)?;
        let user = OsUser::named(None, "mysql")?;
        let (data, scratch) = (root.join("data"), root.join("run"));
        for dir in [&data, &scratch] {
            fs::create_dir(dir).map_err(|e| Error::io("create", dir, e))?;
            user.own(dir)?;
        }
        user.own(root)?;
        programs.make_directory(&user, flavor, &data, &scratch, &[]).await?;
        let sockets = socket_directory(&user)?;
        let log = root.join("server.log");
        let out = File::create(&log).map_err(|e| Error::io("create", &log, e))?;
        let err = out.try_clone().map_err(|e| Error::io("open", &log, e))?;
        let mut command = Command::new(programs.server());
        command
            .arg("--no-defaults")
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--socket={}", sockets.join("s").display()))
            .arg(format!("--pid-file={}", sockets.join("pid").display()))
            .arg(format!("--tmpdir={}", scratch.display()))
            .args(["--skip-networking", "--log-bin=binlog", "--server-id=1", "--innodb-buffer-pool-size=64M"]);
        match flavor {
            Flavor::MariaDb => {}
            Flavor::MySql => {
                command.args([
                    "--mysqlx=OFF",
                    "--gtid-mode=ON",
                    "--enforce-gtid-consistency=ON",
                    "--plugin-load-add=mysql_clone.so",
                ]);
            }
        }
        command.stdin(Stdio::null()).stdout(out).stderr(err).current_dir(&scratch);
        user.apply(&mut command);
        let child = command.spawn().map_err(|e| Error::io("start", programs.server(), e))?;
        let mut server = Self { programs, flavor, sockets, child };
        server.wait(&log).await?;
        sql(&server.url()).await?.execute("CREATE DATABASE demo").await?;
        Ok(server)
    }

    async fn wait(&mut self, log: &Path) -> Result<()> {
        let begun = Instant::now();
        while let Err(error) = sql(&self.url()).await {
            if error.kind() != Kind::DatabaseUnreachable {
                return Err(error);
            }
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() || begun.elapsed() > STEP_MAX {
                let text = fs::read_to_string(log).unwrap_or_default();
                let errors: Vec<&str> = text.lines().filter(|line| line.contains("[ERROR]")).collect();
                return Err(Error::failure(format!("the throwaway server does not start: {}", errors.join("\n    "))));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }
}

/// A session as `root`, who has no password here.
async fn sql(url: &str) -> Result<Sql> {
    let mut info = ConnInfo::resolve(url, &|_| None)?;
    info.user = "root".into();
    let mut session = Sql::connect(&info).await?;
    session.execute("SET time_zone = '+00:00'").await?;
    Ok(session)
}

#[async_trait]
impl Throwaway for MySqlThrowaway {
    fn engine(&self) -> Box<dyn Engine> {
        Box::new(super::MySql)
    }

    fn title(&self) -> String {
        let version = self.programs.version().split('-').next().unwrap_or_default();
        format!("{} {version}", self.flavor)
    }

    fn url(&self) -> String {
        let scheme = self.flavor.to_string().to_ascii_lowercase();
        format!("{scheme}://root@/?socket={}", self.sockets.join("s").display())
    }

    fn bin_dir(&self) -> &Path {
        self.programs.dir()
    }

    fn dialect(&self) -> Dialect {
        Dialect {
            serial: "bigint auto_increment",
            moment: "timestamp(6) not null default current_timestamp(6)",
            now: "cast(unix_timestamp(now(6)) * 1000000 as signed)",
            at: "cast(unix_timestamp(at) * 1000000 as signed)",
        }
    }

    async fn session(&self, url: &str) -> Result<Box<dyn Session>> {
        let mut session = sql(url).await?;
        session.execute("USE demo").await?;
        Ok(Box::new(OrdinarySession(session)))
    }

    async fn stop(&self, _dir: &Path, url: &str) -> Result<()> {
        sql(url).await?.execute("SHUTDOWN").await?;
        let info = ConnInfo::resolve(url, &|_| None)?;
        let Some(Endpoint::Unix(socket)) = info.endpoints.first() else { return Ok(()) };
        // It goes when the server has written everything.
        let (pid, begun) = (socket.with_file_name("pid"), Instant::now());
        while pid.exists() {
            if begun.elapsed() > STEP_MAX {
                return Err(Error::failure("the restored server does not stop"));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        socket.parent().map_or(Ok(()), |dir| fs::remove_dir_all(dir).map_err(|e| Error::io("remove", dir, e)))
    }
}

impl Drop for MySqlThrowaway {
    fn drop(&mut self) {
        // Nothing of it is kept.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.sockets);
    }
}

struct OrdinarySession(Sql);

#[async_trait]
impl Session for OrdinarySession {
    async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let rows: Vec<Row> = self.0.query_all(sql).await?;
        let text = |value: Value| match value {
            Value::NULL => None,
            Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            Value::Int(number) => Some(number.to_string()),
            Value::UInt(number) => Some(number.to_string()),
            other => Some(other.as_sql(true)),
        };
        let texts = |row: Row| row.unwrap_raw().into_iter().map(|value| value.and_then(text)).collect();
        Ok(rows.into_iter().map(texts).collect())
    }
}
