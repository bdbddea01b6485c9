//! Where the server is and who we are there: a URL, and beside it the environment variables
//! and option files that MySQL's and MariaDB's own clients read.
//!
//! Order of precedence: the URL, the environment, option files, defaults. One default
//! differs from the clients', on purpose: a TCP host gets `ssl-mode=VERIFY_IDENTITY` (theirs:
//! `PREFERRED`), since an archiver's password is worth the whole database; loopback
//! addresses get `PREFERRED`. `~/.mylogin.cnf` is not read.
//!
//! Passwords are [`SecretString`] from the moment they are read: neither `Debug` nor
//! [`ConnInfo::redacted`] shows them.
//! Source: MySQL manual, "Connecting to the Server Using URI-Like Strings", "Using Option
//! Files", "Environment Variables"; MariaDB documentation, "Configuring MariaDB Connector/C
//! with Option Files".

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use crate::error::{Error, Result};

mod option_file;
mod settings;
#[cfg(test)]
mod tests;
mod url;

/// Looks up an environment variable.
pub type Lookup<'a> = &'a (dyn Fn(&str) -> Option<String> + Sync);

/// The process's environment, for [`ConnInfo::resolve`].
#[must_use]
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// One place to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// By TCP.
    Tcp {
        /// Name or address, as given; what a certificate must carry.
        host: String,
        /// The port.
        port: u16,
    },
    /// By this Unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// Whether nobody outside this machine can stand in between.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { host, .. } => host
                .parse::<IpAddr>()
                .map_or_else(|_| host.eq_ignore_ascii_case("localhost"), |address| address.is_loopback()),
        }
    }
}

/// `host:port`, or the socket's path.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// `ssl-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// Never TLS.
    Disabled,
    /// TLS when the server can; anybody in between can prevent it.
    Preferred,
    /// TLS with whoever answers.
    Required,
    /// TLS with a certificate of a known authority.
    VerifyCa,
    /// TLS with a certificate of a known authority for this host name.
    VerifyIdentity,
}

impl SslMode {
    const NAMES: [(&'static str, Self); 5] = [
        ("DISABLED", Self::Disabled),
        ("PREFERRED", Self::Preferred),
        ("REQUIRED", Self::Required),
        ("VERIFY_CA", Self::VerifyCa),
        ("VERIFY_IDENTITY", Self::VerifyIdentity),
    ];

    /// Reads a name as MySQL writes it, in any case, with `-` or `_`.
    fn parse(text: &str) -> Option<Self> {
        let text = text.replace('-', "_");
        Self::NAMES.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(&text)).map(|(_, mode)| mode)
    }
}

/// The name as MySQL writes it.
impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.into_iter().find(|(_, mode)| mode == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

/// TLS settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// `ssl-mode` where it was given.
    pub mode: Option<SslMode>,
    /// The file of authorities to believe (`ssl-ca`); else the system's store.
    pub ca: Option<PathBuf>,
    /// Our certificate (`ssl-cert`).
    pub cert: Option<PathBuf>,
    /// Its key (`ssl-key`).
    pub key: Option<PathBuf>,
}

/// Everything needed to connect.
#[derive(Clone, Debug)]
pub struct ConnInfo {
    /// Places to try, in this order.
    pub endpoints: Vec<Endpoint>,
    /// The account's user name.
    pub user: String,
    /// The password, if the account has one.
    pub password: Option<SecretString>,
    /// The database for ordinary connections.
    pub database: Option<String>,
    /// How long one address may take, TLS and authentication included.
    pub connect_timeout: Duration,
    /// TLS settings.
    pub tls: Tls,
    /// Whether an archiver acknowledges what is durable where commits may wait for that
    /// (`semi-sync`, a parameter of pitr's own). It does unless told not to.
    pub semi_sync: bool,
}

impl ConnInfo {
    /// Resolves `mysql://[USER[:PASSWORD]@][HOST[:PORT],...][/DATABASE][?KEY=VALUE&...]`, or
    /// the same with `mariadb://`. `lookup` gives environment variables.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] for a URL, variable or file that cannot be understood. It never
    /// repeats the URL, which may hold a password.
    pub fn resolve(text: &str, lookup: Lookup<'_>) -> Result<Self> {
        Self::resolve_with(text, lookup, &option_file::GLOBAL_FILES.map(Path::new))
    }

    /// As [`ConnInfo::resolve`], with other files than `/etc`'s.
    fn resolve_with(text: &str, lookup: Lookup<'_>, global_files: &[&Path]) -> Result<Self> {
        let mut given = url::parse(text)?;
        let options = option_file::read(&mut given, lookup, global_files)?;
        settings::build(given, options, lookup)
    }

    /// The TLS mode for `endpoint`: what was given, else `VERIFY_IDENTITY`, but `PREFERRED`
    /// on loopback. Unix sockets never use TLS.
    #[must_use]
    pub fn ssl_mode(&self, endpoint: &Endpoint) -> SslMode {
        match endpoint {
            Endpoint::Unix(_) => SslMode::Disabled,
            Endpoint::Tcp { .. } => self.tls.mode.unwrap_or(match endpoint.is_local() {
                true => SslMode::Preferred,
                false => SslMode::VerifyIdentity,
            }),
        }
    }

    /// The connection as a URL without any secret, for logs and errors.
    #[must_use]
    pub fn redacted(&self) -> String {
        let places: Vec<_> = self.endpoints.iter().map(ToString::to_string).collect();
        format!("mysql://{}@{}/{}", self.user, places.join(","), self.database.as_deref().unwrap_or_default())
    }
}

fn invalid(key: &str, value: &str, expected: &str) -> Error {
    Error::config(format!("connection parameter {key}={value:?} is not {expected}"))
}
