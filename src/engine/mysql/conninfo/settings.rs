//! URL, environment and option files into a [`ConnInfo`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use super::option_file::Options;
use super::url::Given;
use super::{ConnInfo, Endpoint, Lookup, SslMode, Tls, invalid};
use crate::engine::os_user::own_name;
use crate::error::{Error, Result};

const DEFAULT_PORT: u16 = 3306;

/// How long one address may take when nobody says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where packages put the socket: Debian, Red Hat, and the makers' own builds.
const SOCKETS: [&str; 4] =
    ["/run/mysqld/mysqld.sock", "/var/run/mysqld/mysqld.sock", "/var/lib/mysql/mysql.sock", "/tmp/mysql.sock"];

/// The three places a setting may come from, in order of precedence.
struct Settings<'a> {
    given: Given,
    options: Options,
    lookup: Lookup<'a>,
}

impl Settings<'_> {
    /// A setting that has no variable.
    fn get(&self, key: &str) -> Option<String> {
        self.given.values.get(key).or_else(|| self.options.get(key)).filter(|v| !v.is_empty()).cloned()
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        self.get(key).map(PathBuf::from)
    }

    fn variable(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|v| !v.is_empty())
    }
}

pub(super) fn build(given: Given, options: Options, lookup: Lookup<'_>) -> Result<ConnInfo> {
    let settings = Settings { given, options, lookup };
    let user = match settings.get("user") {
        Some(user) => user,
        None => os_user(lookup)?,
    };
    Ok(ConnInfo {
        endpoints: endpoints(&settings)?,
        user,
        database: settings.get("database"),
        connect_timeout: timeout(settings.get("connect-timeout"))?,
        tls: Tls {
            mode: ssl_mode(&settings)?,
            ca: settings.path("ssl-ca"),
            cert: settings.path("ssl-cert"),
            key: settings.path("ssl-key"),
        },
        semi_sync: semi_sync(&settings)?,
        password: password(settings),
    })
}

fn password(settings: Settings<'_>) -> Option<SecretString> {
    if settings.given.password.is_some() {
        return settings.given.password;
    }
    if let Some(password) = settings.variable("MYSQL_PWD") {
        tracing::warn!(
            "the password is taken from MYSQL_PWD, which others on this machine may see: put `password=...` under \
             [client] into an option file with mode 0600 and name it with defaults-extra-file=FILE in the source URL"
        );
        return Some(password.into());
    }
    settings.options.password
}

fn endpoints(settings: &Settings<'_>) -> Result<Vec<Endpoint>> {
    let default_port = match settings.variable("MYSQL_TCP_PORT").or_else(|| settings.options.get("port").cloned()) {
        Some(text) => port(&text)?,
        None => DEFAULT_PORT,
    };
    let tcp =
        |host: &str, port: Option<u16>| Endpoint::Tcp { host: host.to_owned(), port: port.unwrap_or(default_port) };
    let hosts = &settings.given.hosts;
    if let Some(socket) = settings.given.values.get("socket") {
        if !hosts.is_empty() {
            return Err(Error::config("the source's URL names both a host and a socket")
                .hint("for the socket leave the host out: mysql://USER@/?socket=/run/mysqld/mysqld.sock"));
        }
        return Ok(vec![Endpoint::Unix(socket.into())]);
    }
    if !hosts.is_empty() {
        return Ok(hosts.iter().map(|(host, port)| tcp(host, *port)).collect());
    }
    let host = settings.variable("MYSQL_HOST").or_else(|| settings.options.get("host").cloned());
    let by_tcp = settings.options.get("protocol").is_some_and(|p| p.eq_ignore_ascii_case("tcp"));
    match host.as_deref() {
        // As for the clients, `localhost` is the socket.
        None | Some("" | "localhost") if !by_tcp => Ok(sockets(settings, tcp("127.0.0.1", None))),
        None | Some("") => Ok(vec![tcp("127.0.0.1", None)]),
        Some(host) => Ok(vec![tcp(host, None)]),
    }
}

/// The server's socket on this machine. Where there is none yet, its usual place is tried at
/// each connect, and then the loopback address.
fn sockets(settings: &Settings<'_>, loopback: Endpoint) -> Vec<Endpoint> {
    if let Some(socket) = settings.variable("MYSQL_UNIX_PORT") {
        return vec![Endpoint::Unix(socket.into())];
    }
    let configured = settings.options.get("socket").map(String::as_str).filter(|s| !s.is_empty());
    match configured.into_iter().chain(SOCKETS).find(|path| Path::new(path).exists()) {
        Some(path) => vec![Endpoint::Unix(path.into())],
        None => vec![Endpoint::Unix(configured.unwrap_or(SOCKETS[0]).into()), loopback],
    }
}

/// Reads a port.
pub(super) fn port(text: &str) -> Result<u16> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| invalid("port", text, "a number from 1 to 65535"))
}

fn semi_sync(settings: &Settings<'_>) -> Result<bool> {
    match settings.given.values.get("semi-sync").map(String::as_str) {
        None | Some("on") => Ok(true),
        Some("off") => Ok(false),
        Some(other) => Err(invalid("semi-sync", other, "on or off")),
    }
}

fn timeout(text: Option<String>) -> Result<Duration> {
    let Some(text) = text else { return Ok(CONNECT_TIMEOUT) };
    let seconds: u32 = text.parse().map_err(|_| invalid("connect-timeout", &text, "a number of seconds"))?;
    // The clients take 0 for "for ever"; an archiver that waits for ever is one that does not
    // archive.
    Ok(if seconds == 0 { CONNECT_TIMEOUT } else { Duration::from_secs(u64::from(seconds)) })
}

/// `ssl-mode`, or what MariaDB says in its place: `skip-ssl` and `ssl-verify-server-cert`.
fn ssl_mode(settings: &Settings<'_>) -> Result<Option<SslMode>> {
    if let Some(text) = settings.get("ssl-mode") {
        let expected = "DISABLED, PREFERRED, REQUIRED, VERIFY_CA or VERIFY_IDENTITY";
        return SslMode::parse(&text).map(Some).ok_or_else(|| invalid("ssl-mode", &text, expected));
    }
    if settings.options.flag("ssl")? == Some(false) {
        return Ok(Some(SslMode::Disabled));
    }
    Ok(settings.options.flag("ssl-verify-server-cert")?.map(|verify| match verify {
        true => SslMode::VerifyIdentity,
        // Still TLS: to do without needs a word of its own.
        false => SslMode::Required,
    }))
}

/// The operating system's user, as the clients' default: by the process's own id, since
/// `USER` keeps the old name under `runuser` and is unset under systemd.
fn os_user(lookup: Lookup<'_>) -> Result<String> {
    let id = rustix::process::geteuid().as_raw().to_string();
    own_name().or_else(|| lookup("USER")).or_else(|| lookup("LOGNAME")).ok_or_else(|| {
        Error::config(format!("no user is given and user id {id} has no name to take for one"))
            .hint("put the user into the source URL: mysql://USER@HOST/")
    })
}
