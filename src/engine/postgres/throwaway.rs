//! A server made to be thrown away, for `pitr demo`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use async_trait::async_trait;

use super::connect::{Connection, Mode, connect};
use super::conninfo::ConnInfo;
use super::recover::Programs;
use crate::engine::Engine;
use crate::engine::os_user::OsUser;
use crate::engine::throwaway::{Dialect, Session, Throwaway};
use crate::error::{Error, Result};

/// A server in a directory of its own, reachable through a socket in it.
pub struct PostgresThrowaway {
    programs: Programs,
    user: OsUser,
    root: PathBuf,
}

impl PostgresThrowaway {
    /// Makes and starts a server below `root`, an empty directory with a short path.
    ///
    /// # Errors
    /// When PostgreSQL's programs are missing, or what they said when they failed.
    pub fn start(root: &Path, bin_dir: Option<&Path>) -> Result<Self> {
        let programs = Programs::find_version(bin_dir, None)?;
        let user = OsUser::named(None, "postgres")?;
        user.own(root)?;
        let server = Self { programs, user, root: root.to_owned() };
        let data = server.data();
        let mut initdb = Command::new(server.programs.path("initdb"));
        initdb.args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale", "--no-sync", "-D"]);
        server.run(initdb.arg(&data))?;
        let conf = data.join("postgresql.auto.conf");
        let settings = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nport = 5432\nmax_wal_senders = 4\nlogging_collector = off\n",
            root.display()
        );
        fs::write(&conf, settings).map_err(|e| Error::io("write", &conf, e))?;
        let mut start = Command::new(server.programs.path("pg_ctl"));
        server.run(start.arg("-D").arg(&data).arg("-l").arg(root.join("server.log")).args(["-w", "start"]))?;
        Ok(server)
    }

    /// Stops the server in `dir`, this one or one restored from it.
    fn stop_in(&self, dir: &Path) -> Result<()> {
        let mut stop = Command::new(self.programs.path("pg_ctl"));
        self.run(stop.arg("-D").arg(dir).args(["-m", "fast", "-w", "stop"]))
    }

    /// The data directory.
    fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    fn run(&self, command: &mut Command) -> Result<()> {
        self.user.apply(command);
        let program = PathBuf::from(command.get_program());
        let log = self.root.join("setup.log");
        let out =
            fs::OpenOptions::new().create(true).append(true).open(&log).map_err(|e| Error::io("open", &log, e))?;
        let err = out.try_clone().map_err(|e| Error::io("open", &log, e))?;
        let status = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .current_dir(&self.root)
            .status()
            .map_err(|e| Error::io("run", &program, e))?;
        if status.success() {
            return Ok(());
        }
        let said = fs::read_to_string(&log).unwrap_or_default();
        let from = said.lines().count().saturating_sub(5);
        let said = said.lines().skip(from).collect::<Vec<_>>().join("\n    ");
        Err(Error::failure(format!("{} ended with {status}:\n    {said}", program.display())))
    }
}

impl Drop for PostgresThrowaway {
    fn drop(&mut self) {
        let _ = self.stop_in(&self.data());
    }
}

#[async_trait]
impl Throwaway for PostgresThrowaway {
    fn engine(&self) -> Box<dyn Engine> {
        Box::new(super::Postgres)
    }

    fn title(&self) -> String {
        "PostgreSQL".to_owned()
    }

    fn url(&self) -> String {
        format!("postgres://postgres@/postgres?host={}&port=5432", self.root.display())
    }

    fn bin_dir(&self) -> &Path {
        self.programs.dir()
    }

    fn dialect(&self) -> Dialect {
        Dialect {
            serial: "bigserial",
            moment: "timestamptz not null default clock_timestamp()",
            now: "(extract(epoch from clock_timestamp()) * 1000000)::bigint",
            at: "(extract(epoch from at) * 1000000)::bigint",
        }
    }

    async fn session(&self, url: &str) -> Result<Box<dyn Session>> {
        let connection = connect(&ConnInfo::resolve(url, &|_| None)?, Mode::Sql).await?;
        Ok(Box::new(OrdinarySession(connection)))
    }

    async fn stop(&self, dir: &Path, _url: &str) -> Result<()> {
        self.stop_in(dir)
    }
}

struct OrdinarySession(Connection);

#[async_trait]
impl Session for OrdinarySession {
    async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        Ok(self.0.query(sql).await?.into_iter().flat_map(|result| result.rows).collect())
    }
}
