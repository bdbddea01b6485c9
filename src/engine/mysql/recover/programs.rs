//! Where the server's programs are.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::engine::RecoveryJob;
use crate::engine::mysql::flavor::Flavor;
use crate::error::{Error, Result};

/// Where packages put them.
const USUAL: [&str; 6] =
    ["/usr/sbin", "/usr/bin", "/usr/libexec", "/usr/local/mysql/bin", "/usr/local/mariadb/bin", "/usr/local/bin"];

/// The names of the server program, newest first.
fn servers(flavor: Flavor) -> &'static [&'static str] {
    match flavor {
        Flavor::MySql => &["mysqld"],
        Flavor::MariaDb => &["mariadbd", "mysqld"],
    }
}

/// The programs of a server of the right kind and version.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    server: PathBuf,
    dir: PathBuf,
    version: String,
}

impl Programs {
    /// Finds the programs for a job: in its `bin_dir`, else in the usual places.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] when there are none, or only of a version that cannot read the base.
    pub(super) fn find(job: &RecoveryJob) -> Result<Self> {
        let flavor = super::super::flavor(&job.identity);
        let wanted = job.identity.server_version;
        let mut places: Vec<PathBuf> = Vec::new();
        match &job.bin_dir {
            Some(dir) => places.push(dir.clone()),
            None => {
                let path = std::env::var_os("PATH").unwrap_or_default();
                places.extend(std::env::split_paths(&path));
                places.extend(USUAL.map(PathBuf::from));
            }
        }
        let mut others = Vec::new();
        for dir in places {
            for name in servers(flavor) {
                let server = dir.join(name);
                if !server.is_file() {
                    continue;
                }
                let Some((of, version)) = version_of(&server) else { continue };
                if of == flavor && number(&version) == Some(wanted) {
                    return Ok(Self { server, dir, version });
                }
                others.push(format!("{} is {of} {version}", server.display()));
            }
        }
        let wanted = format!("{flavor} {}.{}", wanted / 100, wanted % 100);
        let error = Error::config(format!("the server program of {wanted}, of which the base is, was not found"));
        Err(if others.is_empty() {
            error.hint(format!("install the server of {wanted}, or say with --bin-dir where its programs are"))
        } else {
            error.hint(format!("there is only: {}; say with --bin-dir where {wanted} is", others.join("; ")))
        })
    }

    /// The server program.
    pub(super) fn server(&self) -> &Path {
        &self.server
    }

    /// The directory it is in.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its version, as it says.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Major, minor and patch of its version.
    pub(super) fn version_number(&self) -> (u32, u32, u32) {
        let mut parts = self.version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
        let mut next = || parts.next().unwrap_or(0);
        (next(), next(), next())
    }

    /// The first of these programs that is there: beside the server, or where programs are.
    pub(super) fn path(&self, names: &[&str]) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let places = [self.dir.clone()].into_iter().chain(USUAL.map(PathBuf::from)).chain(std::env::split_paths(&path));
        places.flat_map(|dir| names.iter().map(move |name| dir.join(name))).find(|program| program.is_file())
    }
}

/// What `--version` says: `mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for ...`.
fn version_of(server: &Path) -> Option<(Flavor, String)> {
    let output = Command::new(server).args(["--no-defaults", "--version"]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().skip_while(|word| *word != "Ver").nth(1)?.to_owned();
    Some((Flavor::of_version(&version), version))
}

/// Major and minor of a version as [`crate::model::cluster::Identity::server_version`] has them.
fn number(version: &str) -> Option<u32> {
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    Some(parts.next()?.ok()? * 100 + parts.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_told_by_its_first_two_numbers() {
        assert_eq!(number("10.11.19-MariaDB-0+deb12u1"), Some(1011));
        assert_eq!(number("9.7.4"), Some(907));
        assert_eq!(number("trunk"), None);
    }
}
