//! As whom private servers run.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

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

/// The name of the user this process runs as: by its own id, since `USER` keeps the old name
/// under `runuser` and is unset under systemd. `None` where the system has no name for it.
#[must_use]
pub fn own_name() -> Option<String> {
    let own = rustix::process::geteuid().as_raw();
    users().unwrap_or_default().into_iter().find(|(_, id, _)| *id == own).map(|(name, ..)| name)
}

/// The user servers run as: ourselves, or another when we are root, as whom no server should
/// run and PostgreSQL refuses to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OsUser {
    name: Option<String>,
    ids: Option<(u32, u32)>,
}

impl OsUser {
    /// The user `name` when we are root, by default the one that packages of the server make;
    /// else ourselves.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] when we are root and there is no such user.
    pub fn named(name: Option<&str>, default: &str) -> Result<Self> {
        let own = rustix::process::geteuid();
        if !own.is_root() {
            let name = users()?.into_iter().find(|user| user.1 == own.as_raw()).map(|user| user.0);
            return Ok(Self { name, ids: None });
        }
        let name = name.unwrap_or(default);
        let ids = users()?.into_iter().find(|user| user.0 == name).map(|(_, uid, gid)| (uid, gid));
        match ids {
            Some((0, _)) | None => Err(Error::config(format!(
                "a database server does not run as root, and there is no other user {name:?} to run it as"
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

/// A directory for the socket that only its owner may enter. Not beside the data: a
/// socket's path may be no longer than about 100 bytes.
///
/// # Errors
/// When the system refuses.
pub fn socket_directory(user: &OsUser) -> Result<PathBuf> {
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700);
    for _ in 0..100 {
        let dir = std::env::temp_dir().join(format!("pitr-{:08x}", rand::random::<u32>()));
        match builder.create(&dir) {
            Ok(()) => {
                user.own(&dir)?;
                return Ok(dir);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io("create", &dir, error)),
        }
    }
    Err(Error::failure("no free name for a socket directory was found"))
}
