//! Where the server is and who we are there: libpq's connection strings, environment
//! variables, password file and service file, so that what works with `psql` works
//! here.
//!
//! Order of precedence, as in libpq: the connection string, the service file, `PG*`
//! variables, defaults. One default differs, on purpose: a TCP host gets
//! `sslmode=verify-full` (libpq: `prefer`), since an archiver's password is worth the
//! whole database; loopback addresses get `prefer`.
//!
//! Passwords are [`SecretString`] from the moment they are read: neither `Debug` nor
//! [`ConnInfo::redacted`] shows them.
//! Source: PostgreSQL manual, "Database Connection Control Functions"; `fe-connect.c`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use super::wire::auth::{Binding, RequireAuth};
use crate::error::{Error, Result};

mod files;
mod settings;
#[cfg(test)]
mod tests;
mod text;

use files::PassEntry;

/// Looks up an environment variable.
pub type Lookup<'a> = &'a (dyn Fn(&str) -> Option<String> + Sync);

/// The process's environment, for [`ConnInfo::resolve`].
#[must_use]
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// How a host is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// By TCP. `address` saves the name look-up (`hostaddr`); `name` is what a
    /// certificate must carry.
    Tcp {
        /// Name or address, as given.
        name: String,
        /// The address to use instead of looking `name` up.
        address: Option<IpAddr>,
    },
    /// By the Unix socket in this directory.
    Unix(PathBuf),
}

/// One place to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The host.
    pub host: Host,
    /// The port; for Unix sockets part of the socket's name.
    pub port: u16,
}

impl Endpoint {
    /// Whether nobody outside this machine can stand in between.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match &self.host {
            Host::Unix(_) => true,
            Host::Tcp { name, address } => {
                let address = address.or_else(|| name.parse().ok());
                address.map_or_else(|| name.eq_ignore_ascii_case("localhost"), |a| a.is_loopback())
            }
        }
    }
}

/// `host:port`, or the socket's directory and port.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp { name, .. } if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Host::Tcp { name, .. } => write!(f, "{name}:{}", self.port),
            Host::Unix(dir) => write!(f, "{}:{}", dir.display(), self.port),
        }
    }
}

/// `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS only when the server insists.
    Allow,
    /// TLS when the server can; anybody in between can prevent it.
    Prefer,
    /// TLS with whoever answers.
    Require,
    /// TLS with a certificate of a known authority.
    VerifyCa,
    /// TLS with a certificate of a known authority for this host name.
    VerifyFull,
}

/// `sslrootcert`: whom to believe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RootCert {
    /// `~/.postgresql/root.crt` where it exists, else the system's store.
    #[default]
    Default,
    /// The system's store.
    System,
    /// The certificates in this file.
    File(PathBuf),
}

/// TLS settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// `sslmode` where it was given.
    pub mode: Option<SslMode>,
    /// Whom to believe.
    pub root: RootCert,
    /// Our certificate (`sslcert`).
    pub cert: Option<PathBuf>,
    /// Its key (`sslkey`).
    pub key: Option<PathBuf>,
}

/// `target_session_attrs`: which of several hosts will do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionAttrs {
    /// The first that answers.
    #[default]
    Any,
    /// One that takes writes.
    ReadWrite,
    /// One that takes none.
    ReadOnly,
    /// One that is not in recovery.
    Primary,
    /// One that is in recovery.
    Standby,
    /// A standby if one answers, else any.
    PreferStandby,
}

/// Everything needed to connect.
#[derive(Clone, Debug)]
pub struct ConnInfo {
    /// Places to try, in this order.
    pub endpoints: Vec<Endpoint>,
    /// The role.
    pub user: String,
    /// The database for ordinary connections; `None` is one named as the role.
    pub database: Option<String>,
    /// Password from URL or environment.
    pub password: Option<SecretString>,
    /// The password file's entries.
    passfile: Vec<PassEntry>,
    /// `application_name`, where it was given.
    pub application_name: Option<String>,
    /// How long one host may take, TLS and authentication included.
    pub connect_timeout: Option<Duration>,
    /// TLS settings.
    pub tls: Tls,
    /// `channel_binding`.
    pub channel_binding: Binding,
    /// `require_auth`.
    pub require_auth: RequireAuth,
    /// `target_session_attrs`.
    pub session_attrs: SessionAttrs,
    /// `options`: settings sent with the startup packet.
    pub options: Option<String>,
    /// Home directory, for `~/.postgresql`.
    pub home: Option<PathBuf>,
}

impl ConnInfo {
    /// Resolves a connection string: `postgres://...`, `key=value ...`, or a bare
    /// database name. `lookup` gives environment variables.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] for a string, variable or file that cannot be
    /// understood.
    pub fn resolve(text: &str, lookup: Lookup<'_>) -> Result<Self> {
        let mut given = text::parse(text)?;
        let home = lookup("HOME").filter(|h| !h.is_empty()).map(PathBuf::from);
        let service = given.remove("service").or_else(|| lookup("PGSERVICE")).filter(|s| !s.is_empty());
        if let Some(service) = service {
            let file = given.remove("servicefile");
            for (key, value) in files::service(&service, file.as_deref(), home.as_deref(), lookup)? {
                given.entry(key).or_insert(value);
            }
        }
        settings::build(given, home, lookup)
    }

    /// The password for `endpoint`; `database` is `replication` for replication
    /// connections.
    #[must_use]
    pub fn password_for(&self, endpoint: &Endpoint, database: &str) -> Option<&SecretString> {
        self.password.as_ref().or_else(|| {
            self.passfile.iter().find(|e| e.matches(endpoint, database, &self.user)).map(PassEntry::password)
        })
    }

    /// The database an ordinary connection opens.
    #[must_use]
    pub fn database(&self) -> &str {
        self.database.as_deref().unwrap_or(&self.user)
    }

    /// The TLS mode for `endpoint`: what was given, else `verify-full`, but `prefer`
    /// on loopback. Unix sockets never use TLS.
    #[must_use]
    pub fn ssl_mode(&self, endpoint: &Endpoint) -> SslMode {
        match &endpoint.host {
            Host::Unix(_) => SslMode::Disable,
            Host::Tcp { .. } => self.tls.mode.unwrap_or_else(|| match self.tls.root {
                RootCert::System => SslMode::VerifyFull,
                _ if endpoint.is_local() => SslMode::Prefer,
                _ => SslMode::VerifyFull,
            }),
        }
    }

    /// The connection as a URL without any secret, for logs and errors.
    #[must_use]
    pub fn redacted(&self) -> String {
        let hosts: Vec<_> = self.endpoints.iter().map(ToString::to_string).collect();
        format!("postgres://{}@{}/{}", self.user, hosts.join(","), self.database())
    }
}

/// `~/.postgresql/root.crt`, if it is there.
pub(super) fn root_in_home(home: Option<&Path>) -> Option<PathBuf> {
    in_home(home, "root.crt")
}

/// The file `name` in `~/.postgresql`, if it is there.
fn in_home(home: Option<&Path>, name: &str) -> Option<PathBuf> {
    home.map(|h| h.join(".postgresql").join(name)).filter(|p| p.exists())
}

type Given = BTreeMap<String, String>;

fn invalid(key: &str, value: &str, expected: &str) -> Error {
    Error::config(format!("connection parameter {key}={value:?} is not {expected}"))
}
