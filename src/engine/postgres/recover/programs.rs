//! Where PostgreSQL's programs are.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

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
