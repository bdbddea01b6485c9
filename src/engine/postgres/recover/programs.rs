//! Where PostgreSQL's programs are, and as whom they run.

use std::collections::HashMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::engine::RecoveryJob;
use crate::error::{Error, Result};

/// A directory with PostgreSQL's server programs of the right major version.
#[derive(Clone, Debug)]
pub struct Programs {
    dir: PathBuf,
}

impl Programs {
    /// Finds the programs for a job: in its `bin_dir`, else in the usual places.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] when there are none, or only of another version.
    pub fn find(job: &RecoveryJob) -> Result<Self> {
        Self::find_version(job.bin_dir.as_deref(), Some(job.identity.server_version))
    }

    /// Finds the programs of `major`, or of any version.
    ///
    /// # Errors
    /// As [`Programs::find`].
    pub fn find_version(bin_dir: Option<&Path>, major: Option<u32>) -> Result<Self> {
        if let Some(dir) = bin_dir {
            let found = version_of(dir)?;
            return match major {
                Some(major) if major != found => Err(Error::config(format!(
                    "the programs in {} are of PostgreSQL {found}, but the archive is of PostgreSQL {major}",
                    dir.display()
                ))
                .hint("WAL replays only on its own major version: give --bin-dir another directory")),
                _ => Ok(Self { dir: dir.to_owned() }),
            };
        }
        let mut looked_in = candidates(major);
        if let Some(path) = std::env::var_os("PATH") {
            looked_in.extend(std::env::split_paths(&path));
        }
        for dir in &looked_in {
            if dir.join("postgres").is_file()
                && let Ok(found) = version_of(dir)
                && major.is_none_or(|major| major == found)
            {
                return Ok(Self { dir: dir.clone() });
            }
        }
        let version = major.map_or_else(String::new, |major| format!(" {major}"));
        Err(Error::config(format!("the server programs of PostgreSQL{version} were not found")).hint(format!(
            "install them (Debian: apt-get install postgresql{}), or say where they are with --bin-dir",
            version.replace(' ', "-")
        )))
    }

    /// The path of one program.
    #[must_use]
    pub fn path(&self, program: &str) -> PathBuf {
        self.dir.join(program)
    }

    /// The directory the programs are in.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What `pg_controldata` says of a data directory; nothing where it is not installed
    /// (some packages have only the server), which generous settings make up for.
    ///
    /// # Errors
    /// When it cannot read it.
    pub fn control_data(&self, dir: &Path) -> Result<HashMap<String, String>> {
        if !self.path("pg_controldata").exists() {
            return Ok(HashMap::new());
        }
        let output = Command::new(self.path("pg_controldata"))
            .arg("-D")
            .arg(dir)
            .env("LC_ALL", "C")
            .output()
            .map_err(|e| Error::io("run", &self.path("pg_controldata"), e))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::failure(format!("pg_controldata cannot read {}: {text}", dir.display())));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
            .collect())
    }
}

/// The usual places, best first. Without a version, the newest installed one is taken.
fn candidates(major: Option<u32>) -> Vec<PathBuf> {
    let majors: Vec<u32> = major.map_or_else(|| (13..=30).rev().collect(), |major| vec![major]);
    let mut dirs = Vec::new();
    for major in majors {
        dirs.push(PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")));
        dirs.push(PathBuf::from(format!("/usr/pgsql-{major}/bin")));
        dirs.push(PathBuf::from(format!("/opt/homebrew/opt/postgresql@{major}/bin")));
    }
    dirs.push(PathBuf::from("/usr/local/pgsql/bin"));
    dirs
}

fn version_of(dir: &Path) -> Result<u32> {
    let program = dir.join("postgres");
    let output = Command::new(&program).arg("--version").output().map_err(|e| {
        Error::config(format!("cannot run {}", program.display()))
            .because(e)
            .hint("is --bin-dir the directory that holds `postgres`?")
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace()
        .find_map(|word| word.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()))
        .ok_or_else(|| Error::config(format!("{} gives no version: {:?}", program.display(), text.trim())))
}

/// Name, number and group of every user of the system.
fn users() -> Result<Vec<(String, u32, u32)>> {
    let path = Path::new("/etc/passwd");
    let passwd = fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let user = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some((name, uid, gid))
    };
    Ok(passwd.lines().filter_map(user).collect())
}

/// The user servers run as: ourselves, or another when we are root, since PostgreSQL
/// refuses to run as root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OsUser {
    name: Option<String>,
    ids: Option<(u32, u32)>,
}

impl OsUser {
    /// The user for a job.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] when we are root and there is no such user.
    pub fn resolve(job: &RecoveryJob) -> Result<Self> {
        Self::named(job.os_user.as_deref())
    }

    /// The user `name` (default `postgres`) when we are root, else ourselves.
    ///
    /// # Errors
    /// As [`OsUser::resolve`].
    pub fn named(name: Option<&str>) -> Result<Self> {
        let own = rustix::process::geteuid();
        if !own.is_root() {
            let name = users()?.into_iter().find(|user| user.1 == own.as_raw()).map(|user| user.0);
            return Ok(Self { name, ids: None });
        }
        let name = name.unwrap_or("postgres");
        let ids = users()?.into_iter().find(|user| user.0 == name).map(|(_, uid, gid)| (uid, gid));
        match ids {
            Some((0, _)) | None => Err(Error::config(format!(
                "PostgreSQL does not run as root, and there is no other user {name:?} to run it as"
            ))
            .hint("name one with --os-user, or start pitr as the user that will own the database")),
            ids => Ok(Self { name: Some(name.to_owned()), ids }),
        }
    }

    /// Its name, where the system tells it.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Refuses a directory that this user, when it is another than ours, could not enter.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] that names the directory on the way which stops it.
    pub fn check_enters(&self, dir: &Path, advice: &str) -> Result<()> {
        // What is not there yet will be made by us.
        let there: Vec<&Path> = dir.ancestors().filter(|dir| dir.exists()).collect();
        match there.first() {
            Some(deepest) if !self.enters(deepest)? => {}
            _ => return Ok(()),
        }
        for on_the_way in there.into_iter().rev() {
            if !self.enters(on_the_way)? {
                let user = self.name().unwrap_or_default();
                return Err(Error::config(format!(
                    "user {user:?} cannot enter {}, and a server run by it needs {}",
                    on_the_way.display(),
                    dir.display()
                ))
                .hint(format!("{advice}, or name another user with --os-user")));
            }
        }
        Ok(())
    }

    /// Asks the system itself: groups, access control lists and namespaces have a say in it.
    fn enters(&self, dir: &Path) -> Result<bool> {
        if self.ids.is_none() {
            return Ok(true);
        }
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "cd -- \"$1\"", "sh"]).arg(dir).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.apply(&mut command);
        let status = command.status().map_err(|e| Error::io("run", Path::new("/bin/sh"), e))?;
        Ok(status.success())
    }

    /// Makes a command run as this user.
    pub fn apply(&self, command: &mut Command) {
        if let Some((uid, gid)) = self.ids {
            command.uid(uid).gid(gid);
        }
    }

    /// Gives a directory tree to this user, not following links.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn own(&self, path: &Path) -> Result<()> {
        let Some((uid, gid)) = self.ids else { return Ok(()) };
        std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(|e| Error::io("change the owner of", path, e))?;
        let kind = fs::symlink_metadata(path).map_err(|e| Error::io("look at", path, e))?;
        // Tablespaces hang behind links and belong to the server as well.
        let is_tablespace = kind.is_symlink() && path.parent().is_some_and(|parent| parent.ends_with("pg_tblspc"));
        if kind.is_dir() || is_tablespace {
            let dir = if is_tablespace {
                fs::canonicalize(path).map_err(|e| Error::io("follow", path, e))?
            } else {
                path.to_owned()
            };
            if is_tablespace {
                std::os::unix::fs::lchown(&dir, Some(uid), Some(gid))
                    .map_err(|e| Error::io("change the owner of", &dir, e))?;
            }
            for entry in fs::read_dir(&dir).map_err(|e| Error::io("read", &dir, e))? {
                self.own(&entry.map_err(|e| Error::io("read", &dir, e))?.path())?;
            }
        }
        Ok(())
    }
}
