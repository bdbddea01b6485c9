//! A server made to be thrown away, for `pitr demo`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::connect::{Connection, Mode, connect};
use super::conninfo::ConnInfo;
use super::recover::Programs;
use crate::engine::os_user::OsUser;
use crate::error::{Error, Result};

/// A server in a directory of its own, reachable through a socket in it.
pub struct Throwaway {
    programs: Programs,
    user: OsUser,
    root: PathBuf,
}

impl Throwaway {
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

    /// Major version and the like, as the programs print it.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The server as a source.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@/postgres?host={}&port=5432", self.root.display())
    }

    /// Stops the server in `dir`, this one or one restored from it.
    ///
    /// # Errors
    /// What `pg_ctl` said.
    pub fn stop(&self, dir: &Path) -> Result<()> {
        let mut stop = Command::new(self.programs.path("pg_ctl"));
        self.run(stop.arg("-D").arg(dir).args(["-m", "fast", "-w", "stop"]))
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
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

impl Drop for Throwaway {
    fn drop(&mut self) {
        let _ = self.stop(&self.data());
    }
}

/// An ordinary session with a server, for plain SQL.
///
/// # Errors
/// As [`connect`].
pub async fn session(url: &str) -> Result<Connection> {
    connect(&ConnInfo::resolve(url, &|_| None)?, Mode::Sql).await
}
