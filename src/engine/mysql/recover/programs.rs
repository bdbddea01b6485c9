//! Where the server's programs are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::engine::RecoveryJob;
use crate::engine::mysql::connect::version_number;
use crate::engine::mysql::flavor::Flavor;
use crate::engine::os_user::OsUser;
use crate::error::{Error, Result};

/// Where packages put them.
const USUAL: [&str; 6] =
    ["/usr/sbin", "/usr/bin", "/usr/libexec", "/usr/local/mysql/bin", "/usr/local/mariadb/bin", "/usr/local/bin"];

/// Lines of what a program says that are kept for an error message.
const SAID_LINES: usize = 8;

/// The names of the server program, newest first.
fn servers(flavor: Flavor) -> &'static [&'static str] {
    match flavor {
        Flavor::MySql => &["mysqld"],
        Flavor::MariaDb => &["mariadbd", "mysqld"],
    }
}

/// The programs of a server of the right kind and version.
#[derive(Clone, Debug)]
pub(in crate::engine::mysql) struct Programs {
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
        let others = match Self::search(flavor, job.bin_dir.as_deref(), |version| number(version) == Some(wanted)) {
            Ok(found) => return Ok(found),
            Err(others) => others,
        };
        let wanted = format!("{flavor} {}.{}", wanted / 100, wanted % 100);
        let error = Error::config(format!("the server program of {wanted}, of which the base is, was not found"));
        Err(if others.is_empty() {
            error.hint(format!("install the server of {wanted}, or say with --bin-dir where its programs are"))
        } else {
            error.hint(format!("there is only: {}; say with --bin-dir where {wanted} is", others.join("; ")))
        })
    }

    /// Finds the programs of any version: in `bin_dir`, else in the usual places.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] when there are none.
    pub(in crate::engine::mysql) fn any(flavor: Flavor, bin_dir: Option<&Path>) -> Result<Self> {
        Self::search(flavor, bin_dir, |_| true).map_err(|_| {
            Error::config(format!("the server program of {flavor} was not found")).hint(
                "install it (`scripts/install-mysql.sh`, with --all for MySQL), or say with --bin-dir where it is",
            )
        })
    }

    /// The first server program whose version will do, else what there is instead.
    fn search(flavor: Flavor, bin_dir: Option<&Path>, will_do: impl Fn(&str) -> bool) -> Result<Self, Vec<String>> {
        let mut places: Vec<PathBuf> = Vec::new();
        match bin_dir {
            // They are run from other directories than this.
            Some(dir) => places.push(std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned())),
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
                if of == flavor && will_do(&version) {
                    return Ok(Self { server, dir, version });
                }
                others.push(format!("{} is {of} {version}", server.display()));
            }
        }
        Err(others)
    }

    /// Has the programs make an empty data directory.
    ///
    /// # Errors
    /// What they said.
    pub(in crate::engine::mysql) async fn make_directory(
        &self,
        user: &OsUser,
        flavor: Flavor,
        dir: &Path,
        scratch: &Path,
        settings: &[String],
    ) -> Result<()> {
        let program = match flavor {
            Flavor::MySql => self.server().to_path_buf(),
            Flavor::MariaDb => self.path(&["mariadb-install-db", "mysql_install_db"]).ok_or_else(|| {
                Error::config("mariadb-install-db, which makes data directories, was not found")
                    .hint("it comes with the server; say with --bin-dir where it is")
            })?,
        };
        let mut command = Command::new(&program);
        command.args(["--no-defaults", &format!("--datadir={}", dir.display())]);
        command.args(settings.iter().map(|setting| format!("--{setting}")));
        match flavor {
            Flavor::MySql => command.arg("--initialize-insecure"),
            Flavor::MariaDb => command.args(["--auth-root-authentication-method=normal", "--skip-test-db"]),
        };
        // Ours may be closed to its user.
        command.env("TMPDIR", scratch).stdin(Stdio::null()).current_dir(scratch);
        user.apply(&mut command);
        let output = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|e| Error::io("run", &program, e))?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().collect();
        let last = lines.get(lines.len().saturating_sub(SAID_LINES)..).unwrap_or_default().join("\n    ");
        Err(Error::failure(format!("{} could not make a data directory:\n    {last}", program.display())))
    }

    /// The server program.
    pub(in crate::engine::mysql) fn server(&self) -> &Path {
        &self.server
    }

    /// The directory it is in.
    pub(in crate::engine::mysql) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its version, as it says.
    pub(in crate::engine::mysql) fn version(&self) -> &str {
        &self.version
    }

    /// Major, minor and patch of its version.
    pub(super) fn version_number(&self) -> (u32, u32, u32) {
        version_number(&self.version)
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
