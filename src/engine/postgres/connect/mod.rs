//! Opens sessions: sockets, TLS, authentication, several hosts.
//!
//! Promises: no password leaves this process in a form the user did not allow (see
//! [`Rules`]); a certificate is checked as `sslmode` says before anything secret is
//! sent; one host can cost at most `connect_timeout`. Replication sessions and plain
//! SQL sessions go through the same code, so that there is one place where this can
//! be wrong.
//!
//! Every error names the host and what to do.

use std::net::SocketAddr;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use super::conninfo::{ConnInfo, Endpoint, Host, SessionAttrs, SslMode};
use super::wire::auth::{Authentication, Authenticator, Rules};
use super::wire::{Backend, startup};
use crate::error::{Error, Kind, Result};

mod binding;
mod connection;
mod receive;
mod tls;

use crate::engine::stream::Stream;
pub use connection::{Connection, ResultSet};

/// How long one address may take when nobody says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What kind of session to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A walsender: replication commands and `SHOW`.
    Replication,
    /// Plain SQL in the database of the connection string.
    Sql,
}

/// Connects to the first host that answers and suits `target_session_attrs`.
///
/// # Errors
/// [`Kind::DatabaseUnreachable`] when none does, with every host's reason;
/// [`Kind::Config`] for certificates and keys that cannot be read.
pub async fn connect(info: &ConnInfo, mode: Mode) -> Result<Connection> {
    let mut failures = Vec::new();
    let wanted: &[SessionAttrs] = match info.session_attrs {
        SessionAttrs::PreferStandby => &[SessionAttrs::Standby, SessionAttrs::Any],
        SessionAttrs::Any => &[SessionAttrs::Any],
        SessionAttrs::ReadWrite => &[SessionAttrs::ReadWrite],
        SessionAttrs::ReadOnly => &[SessionAttrs::ReadOnly],
        SessionAttrs::Primary => &[SessionAttrs::Primary],
        SessionAttrs::Standby => &[SessionAttrs::Standby],
    };
    for attrs in wanted {
        failures.clear();
        for endpoint in &info.endpoints {
            match connect_endpoint(info, mode, endpoint, *attrs).await {
                Ok(connection) => return Ok(connection),
                Err(error) => failures.push(error),
            }
        }
    }
    Err(together(failures))
}

/// One error out of the failures of several hosts.
fn together(mut failures: Vec<Error>) -> Error {
    let Some(first) = failures.pop() else {
        return Error::config("the source's connection string names no host");
    };
    if failures.is_empty() {
        return first;
    }
    failures.push(first);
    let text: Vec<_> = failures.iter().map(ToString::to_string).collect();
    let error = Error::new(Kind::DatabaseUnreachable, format!("no host will do: {}", text.join("; ")));
    match failures.iter().find_map(Error::advice) {
        Some(advice) => error.hint(advice),
        None => error,
    }
}

async fn connect_endpoint(info: &ConnInfo, mode: Mode, endpoint: &Endpoint, attrs: SessionAttrs) -> Result<Connection> {
    let mut failures = Vec::new();
    for address in addresses(endpoint, info).await? {
        let target = Target { endpoint: endpoint.clone(), address };
        let attempt = async {
            let mut connection = connect_target(info, mode, &target).await?;
            if !suits(info, &mut connection, attrs).await? {
                return Err(unreachable(format!("{endpoint}: the server is not what target_session_attrs asks for")));
            }
            Ok(connection)
        };
        match within(info, &target, attempt).await {
            Ok(connection) => return Ok(connection),
            Err(error) => failures.push(error),
        }
    }
    Err(together(failures))
}

fn unreachable(message: impl Into<String>) -> Error {
    Error::new(Kind::DatabaseUnreachable, message)
}

/// One address of one host.
#[derive(Clone, Debug)]
struct Target {
    endpoint: Endpoint,
    address: Address,
}

/// Where to open a socket.
#[derive(Clone, Debug)]
enum Address {
    Tcp(SocketAddr),
    Unix(std::path::PathBuf),
}

async fn addresses(endpoint: &Endpoint, info: &ConnInfo) -> Result<Vec<Address>> {
    let port = endpoint.port;
    match &endpoint.host {
        Host::Unix(dir) => Ok(vec![Address::Unix(dir.join(format!(".s.PGSQL.{port}")))]),
        Host::Tcp { address: Some(address), .. } => Ok(vec![Address::Tcp(SocketAddr::new(*address, port))]),
        Host::Tcp { name, address: None } => {
            let limit = info.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
            let failed = || unreachable(format!("{endpoint}: the host name cannot be looked up"));
            match tokio::time::timeout(limit, tokio::net::lookup_host((name.as_str(), port))).await {
                Ok(Ok(found)) => Ok(found.map(Address::Tcp).collect()),
                Ok(Err(error)) => Err(failed().because(error).hint("is the host name in the source URL right?")),
                Err(_) => Err(failed().hint("the name server did not answer in time")),
            }
        }
    }
}

/// Whether to use TLS in one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    Plain,
    TlsIfOffered,
    Tls,
}

/// A failure, and whether the other half of `allow` or `prefer` may fare better.
struct Failure {
    error: Error,
    try_other: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, try_other: false }
    }
}

async fn connect_target(info: &ConnInfo, mode: Mode, target: &Target) -> Result<Connection> {
    let endpoint = &target.endpoint;
    let ssl_mode = info.ssl_mode(endpoint);
    let attempts: &[Attempt] = match ssl_mode {
        SslMode::Disable => &[Attempt::Plain],
        SslMode::Allow => &[Attempt::Plain, Attempt::Tls],
        SslMode::Prefer => &[Attempt::TlsIfOffered, Attempt::Plain],
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Attempt::Tls],
    };
    if attempts.len() > 1 && !endpoint.is_local() {
        tracing::warn!(
            host = %endpoint,
            "sslmode {ssl_mode:?} lets anybody on the way switch TLS off; use verify-full"
        );
    }
    let mut last = None;
    for attempt in attempts {
        match open(info, mode, target, *attempt, ssl_mode).await {
            Ok(connection) => return Ok(connection),
            Err(Failure { error, try_other: true }) => {
                // The first reason is the better one: the second attempt is a guess.
                last.get_or_insert(error);
            }
            Err(Failure { error, try_other: false }) => return Err(last.unwrap_or(error)),
        }
    }
    Err(last.unwrap_or_else(|| unreachable(format!("{endpoint}: no attempt was made"))))
}

async fn open(
    info: &ConnInfo,
    mode: Mode,
    target: &Target,
    attempt: Attempt,
    ssl_mode: SslMode,
) -> Result<Connection, Failure> {
    let endpoint = &target.endpoint;
    let socket = socket(target).await?;
    let (stream, hash) = match (socket, attempt) {
        (Stream::Tcp(tcp), Attempt::Tls | Attempt::TlsIfOffered) => {
            encrypt(info, endpoint, tcp, attempt == Attempt::Tls, ssl_mode).await?
        }
        (socket, _) => (socket, None),
    };
    let rules = Rules {
        require_auth: info.require_auth.clone(),
        binding: info.channel_binding,
        endpoint: hash,
        private: !matches!(stream, Stream::Tcp(_)),
    };
    let connection = Connection::new(stream, target.clone());
    log_in(info, mode, endpoint, connection, &rules).await
}

async fn socket(target: &Target) -> Result<Stream> {
    let endpoint = &target.endpoint;
    match &target.address {
        Address::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix).map_err(|error| {
            unreachable(format!("cannot connect to {}", path.display()))
                .because(error)
                .hint("is the server running, and is this its unix_socket_directories and port?")
        }),
        Address::Tcp(address) => {
            let connected = async {
                let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
                // A peer that vanished without a word is noticed. The receive buffer is
                // left alone: the kernel grows it further than SO_RCVBUF may ask.
                socket.set_keepalive(true)?;
                let stream = socket.connect(*address).await?;
                stream.set_nodelay(true)?;
                Ok::<_, std::io::Error>(stream)
            };
            connected.await.map(Stream::Tcp).map_err(|error| {
                unreachable(format!("cannot connect to {endpoint} ({address})"))
                    .because(error)
                    .hint("is the server running there, and does listen_addresses include that address?")
            })
        }
    }
}

/// Asks for TLS and does the handshake. Gives the certificate's hash for channel
/// binding.
async fn encrypt(
    info: &ConnInfo,
    endpoint: &Endpoint,
    mut tcp: TcpStream,
    required: bool,
    ssl_mode: SslMode,
) -> Result<(Stream, Option<Vec<u8>>), Failure> {
    let lost = |error| unreachable(format!("{endpoint}: the connection was lost while asking for TLS")).because(error);
    let (config, name) = tls::config(info, endpoint, ssl_mode)?;
    tcp.write_all(&startup::SSL_REQUEST).await.map_err(lost)?;
    // One byte and no more: whatever was put behind it in plain text by somebody in
    // between must reach the TLS layer, and fail there (CVE-2021-23222).
    match tcp.read_u8().await.map_err(lost)? {
        b'S' => {}
        b'N' if !required => return Ok((Stream::Tcp(tcp), None)),
        b'N' => {
            let message =
                format!("{endpoint}: the server does not offer TLS, and sslmode={} asks for it", tls::name(ssl_mode));
            return Err(unreachable(message)
                .hint("set ssl=on at the server, use its Unix socket, or choose sslmode=disable on a network you trust")
                .into());
        }
        // What follows could come from anybody, so it is not shown (CVE-2024-10977).
        other => {
            let message = format!("{endpoint}: the server answered the request for TLS with {:?}", char::from(other));
            return Err(unreachable(message).hint("is it a PostgreSQL server that listens there?").into());
        }
    }
    let connector = tokio_rustls::TlsConnector::from(config);
    match connector.connect(name, tcp).await {
        Ok(stream) => {
            let hash =
                stream.get_ref().1.peer_certificates().and_then(|c| c.first()).and_then(|c| binding::binding_hash(c));
            Ok((Stream::Tls(Box::new(stream)), hash))
        }
        Err(error) => Err(Failure { error: tls::explain(endpoint, &error), try_other: !required }),
    }
}

async fn log_in(
    info: &ConnInfo,
    mode: Mode,
    endpoint: &Endpoint,
    mut connection: Connection,
    rules: &Rules,
) -> Result<Connection, Failure> {
    let (key, value) = match mode {
        Mode::Replication => ("replication", "true"),
        Mode::Sql => ("database", info.database()),
    };
    let name = info.application_name.as_deref().unwrap_or("pitr");
    let mut parameters =
        vec![("user", info.user.as_str()), (key, value), ("application_name", name), ("client_encoding", "UTF8")];
    if let Some(options) = &info.options {
        parameters.push(("options", options));
    }
    connection.send(&startup::startup(&parameters)?).await?;
    let database = if mode == Mode::Replication { "replication" } else { info.database() };
    let password = info.password_for(endpoint, database).map(|p| p.expose_secret());
    let mut authenticator = Authenticator::new(rules, &info.user, password);
    loop {
        match connection.recv().await? {
            Backend::Authentication(step) => {
                let done = step == Authentication::Ok;
                let answer = authenticator.step(step).map_err(|e| e.context(endpoint))?;
                if let Some(answer) = answer {
                    connection.send(&answer).await?;
                }
                if done {
                    connection.authenticated();
                }
            }
            Backend::Error(report) => {
                // "no pg_hba.conf entry for ..., no encryption" and its opposite.
                let try_other = report.sqlstate == "28000";
                return Err(Failure { error: report.to_error(&endpoint.to_string()), try_other });
            }
            Backend::BackendKeyData { process } => connection.set_process(process),
            Backend::NegotiateProtocolVersion => {}
            Backend::ReadyForQuery if connection.is_authenticated() => return Ok(connection),
            other => return Err(connection.unexpected(&other, "while logging in").into()),
        }
    }
}

/// Whether the server is of the kind asked for.
async fn suits(info: &ConnInfo, connection: &mut Connection, attrs: SessionAttrs) -> Result<bool> {
    Ok(match attrs {
        SessionAttrs::Any | SessionAttrs::PreferStandby => true,
        SessionAttrs::Primary => !in_recovery(info, connection).await?,
        SessionAttrs::Standby => in_recovery(info, connection).await?,
        SessionAttrs::ReadWrite => !read_only(connection).await?,
        SessionAttrs::ReadOnly => read_only(connection).await?,
    })
}

async fn read_only(connection: &mut Connection) -> Result<bool> {
    Ok(connection.show("transaction_read_only").await?.as_deref() == Some("on"))
}

/// Whether the server is a standby. From version 14 on it says so itself; in 13 a
/// transaction there is read-only, which on a primary only a setting can bring about.
///
/// # Errors
/// [`Kind::DatabaseUnreachable`] when the connection is lost.
pub async fn in_recovery(info: &ConnInfo, connection: &mut Connection) -> Result<bool> {
    if let Some(value) = connection.parameter("in_hot_standby") {
        return Ok(value == "on");
    }
    if !read_only(connection).await? {
        return Ok(false);
    }
    if connection.show("default_transaction_read_only").await?.as_deref() == Some("off") {
        return Ok(true);
    }
    // Both explanations are possible.
    let mut sql = Box::pin(beside(info, connection)).await?;
    let answer = sql.value("SELECT pg_is_in_recovery()").await?;
    sql.close().await;
    Ok(answer.as_deref() == Some("t"))
}

/// Opens a session for plain SQL with the very server `connection` leads to, whichever
/// of several hosts that is.
///
/// # Errors
/// As [`connect`].
pub async fn beside(info: &ConnInfo, connection: &Connection) -> Result<Connection> {
    within(info, connection.target(), connect_target(info, Mode::Sql, connection.target())).await
}

async fn within<T>(info: &ConnInfo, target: &Target, attempt: impl Future<Output = Result<T>>) -> Result<T> {
    let limit = info.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
    match tokio::time::timeout(limit, attempt).await {
        Ok(result) => result,
        Err(_) => Err(unreachable(format!("{}: no connection within {} s", target.endpoint, limit.as_secs_f32()))
            .hint("is the host up, and does a firewall drop packets to this port?")),
    }
}
