//! Keys and values into a [`ConnInfo`]: environment, defaults, and what each value
//! may be.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{ConnInfo, Endpoint, Given, Host, Lookup, RootCert, SessionAttrs, SslMode, Tls, files, in_home, invalid};
use crate::engine::os_user::own_name;
use crate::engine::postgres::wire::auth::{Binding, RequireAuth};
use crate::error::{Error, Result};

const DEFAULT_PORT: u16 = 5432;

/// Where packages put the socket: Debian and Red Hat, then PostgreSQL itself.
const SOCKET_DIRS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// libpq's parameters that change nothing here: performance, or things that the way
/// pitr uses the connection already settles.
const WITHOUT_EFFECT: [&str; 13] = [
    "client_encoding",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "replication",
    "sslcompression",
    "sslsni",
    "gssencmode",
    "krbsrvname",
    "gsslib",
    "gssdelegation",
];

/// Takes keys out of the string, then out of the environment.
struct Settings<'a> {
    given: Given,
    lookup: Lookup<'a>,
}

impl Settings<'_> {
    fn take(&mut self, key: &str, variable: &str) -> Option<String> {
        self.given.remove(key).or_else(|| (self.lookup)(variable)).filter(|v| !v.is_empty())
    }

    fn path(&mut self, key: &str, variable: &str) -> Option<PathBuf> {
        self.take(key, variable).map(PathBuf::from)
    }
}

pub(super) fn build(given: Given, home: Option<PathBuf>, lookup: Lookup<'_>) -> Result<ConnInfo> {
    let mut settings = Settings { given, lookup };
    let endpoints = endpoints(&mut settings)?;
    let user = match settings.take("user", "PGUSER") {
        Some(user) => user,
        None => os_user(lookup)?,
    };
    let password = settings.take("password", "PGPASSWORD").map(Into::into);
    let passfile = settings
        .path("passfile", "PGPASSFILE")
        .or_else(|| home.as_ref().map(|h| h.join(".pgpass")))
        .map(|path| files::passfile(&path))
        .unwrap_or_default();
    let application_name = settings.take("application_name", "PGAPPNAME");
    let fallback = settings.given.remove("fallback_application_name");
    let info = ConnInfo {
        endpoints,
        user,
        password,
        passfile,
        database: settings.take("dbname", "PGDATABASE"),
        application_name: application_name.or(fallback),
        connect_timeout: timeout(&mut settings)?,
        tls: tls(&mut settings, home.as_deref())?,
        channel_binding: match settings.take("channel_binding", "PGCHANNELBINDING").as_deref() {
            None | Some("prefer") => Binding::Prefer,
            Some("disable") => Binding::Disable,
            Some("require") => Binding::Require,
            Some(other) => return Err(invalid("channel_binding", other, "disable, prefer or require")),
        },
        require_auth: RequireAuth::parse(&settings.take("require_auth", "PGREQUIREAUTH").unwrap_or_default())?,
        session_attrs: session_attrs(&mut settings)?,
        options: settings.take("options", "PGOPTIONS"),
        home,
    };
    for key in WITHOUT_EFFECT {
        settings.given.remove(key);
    }
    match settings.given.keys().next() {
        None => Ok(info),
        Some(key) => Err(Error::config(format!("connection parameter {key:?} is not known to pitr"))
            .hint("is it spelled as in the PostgreSQL manual, \"Parameter Key Words\"?")),
    }
}

fn endpoints(settings: &mut Settings<'_>) -> Result<Vec<Endpoint>> {
    let list = |text: Option<String>| -> Vec<String> {
        text.map(|t| t.split(',').map(|p| p.trim().to_owned()).collect()).unwrap_or_default()
    };
    let hosts = list(settings.take("host", "PGHOST"));
    let addresses = list(settings.take("hostaddr", "PGHOSTADDR"));
    let ports = list(settings.take("port", "PGPORT"));
    if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
        return Err(Error::config(format!("{} hosts but {} values of hostaddr", hosts.len(), addresses.len())));
    }
    let count = hosts.len().max(addresses.len()).max(1);
    if ports.len() > 1 && ports.len() != count {
        return Err(Error::config(format!("{count} hosts but {} ports", ports.len()))
            .hint("give one port for all hosts, or one for each"));
    }
    let mut endpoints = Vec::new();
    for index in 0..count {
        let port = match ports.get(index).or_else(|| ports.first()).map_or("", String::as_str) {
            "" => DEFAULT_PORT,
            text => match text.parse() {
                Ok(port) if port > 0 => port,
                _ => return Err(invalid("port", text, "a number from 1 to 65535")),
            },
        };
        let host = hosts.get(index).map_or("", String::as_str);
        let address = addresses.get(index).map_or("", String::as_str);
        let host = match (host, address) {
            ("", "") => {
                let dirs = SOCKET_DIRS.into_iter().filter(|d| Path::new(d).join(format!(".s.PGSQL.{port}")).exists());
                let mut found: Vec<_> = dirs.map(|d| Endpoint { host: Host::Unix(d.into()), port }).collect();
                if found.is_empty() {
                    found.push(Endpoint { host: Host::Unix(SOCKET_DIRS[0].into()), port });
                }
                endpoints.append(&mut found);
                continue;
            }
            (dir, _) if dir.starts_with('/') => Host::Unix(dir.into()),
            (name, "") => {
                if name.contains(|c: char| c.is_whitespace() || c == '@') {
                    return Err(invalid("host", name, "a host name, an address or a directory"));
                }
                Host::Tcp { name: name.to_owned(), address: None }
            }
            (name, text) => {
                let address: IpAddr = text.parse().map_err(|_| invalid("hostaddr", text, "an IP address"))?;
                let name = if name.is_empty() { text } else { name };
                Host::Tcp { name: name.to_owned(), address: Some(address) }
            }
        };
        endpoints.push(Endpoint { host, port });
    }
    Ok(endpoints)
}

fn timeout(settings: &mut Settings<'_>) -> Result<Option<Duration>> {
    let Some(text) = settings.take("connect_timeout", "PGCONNECT_TIMEOUT") else { return Ok(None) };
    let seconds: i64 = text.trim().parse().map_err(|_| invalid("connect_timeout", &text, "a number of seconds"))?;
    // libpq takes 0 for "for ever"; an archiver that waits for ever is one that does
    // not archive, so there it is pitr's default.
    Ok(u64::try_from(seconds).ok().filter(|s| *s > 0).map(Duration::from_secs))
}

fn tls(settings: &mut Settings<'_>, home: Option<&Path>) -> Result<Tls> {
    let mode = match settings.take("sslmode", "PGSSLMODE").as_deref() {
        None => None,
        Some("disable") => Some(SslMode::Disable),
        Some("allow") => Some(SslMode::Allow),
        Some("prefer") => Some(SslMode::Prefer),
        Some("require") => Some(SslMode::Require),
        Some("verify-ca") => Some(SslMode::VerifyCa),
        Some("verify-full") => Some(SslMode::VerifyFull),
        Some(other) => {
            return Err(invalid("sslmode", other, "disable, allow, prefer, require, verify-ca or verify-full"));
        }
    };
    let root = match settings.take("sslrootcert", "PGSSLROOTCERT") {
        None => RootCert::Default,
        Some(text) if text == "system" => RootCert::System,
        Some(text) => RootCert::File(text.into()),
    };
    if let (RootCert::System, Some(mode)) = (&root, mode)
        && mode < SslMode::VerifyFull
    {
        return Err(Error::config("sslrootcert=system needs sslmode=verify-full")
            .hint("public authorities sign certificates for anybody, so that only the host name tells servers apart"));
    }
    Ok(Tls {
        mode,
        root,
        cert: settings.path("sslcert", "PGSSLCERT").or_else(|| in_home(home, "postgresql.crt")),
        key: settings.path("sslkey", "PGSSLKEY").or_else(|| in_home(home, "postgresql.key")),
    })
}

fn session_attrs(settings: &mut Settings<'_>) -> Result<SessionAttrs> {
    Ok(match settings.take("target_session_attrs", "PGTARGETSESSIONATTRS").as_deref() {
        None | Some("any") => SessionAttrs::Any,
        Some("read-write") => SessionAttrs::ReadWrite,
        Some("read-only") => SessionAttrs::ReadOnly,
        Some("primary") => SessionAttrs::Primary,
        Some("standby") => SessionAttrs::Standby,
        Some("prefer-standby") => SessionAttrs::PreferStandby,
        Some(other) => {
            let expected = "any, read-write, read-only, primary, standby or prefer-standby";
            return Err(invalid("target_session_attrs", other, expected));
        }
    })
}

/// The operating system's user, as libpq's default role: by the process's own id,
/// since `USER` keeps the old name under `runuser` and is unset under systemd.
fn os_user(lookup: Lookup<'_>) -> Result<String> {
    let id = rustix::process::geteuid().as_raw().to_string();
    own_name().or_else(|| lookup("USER")).or_else(|| lookup("LOGNAME")).ok_or_else(|| {
        Error::config(format!("no role is given and user id {id} has no name to take for one"))
            .hint("put the role into the source URL: postgres://ROLE@HOST/")
    })
}
