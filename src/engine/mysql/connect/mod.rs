//! Opens replication sessions: sockets, TLS, authentication, several hosts.
//!
//! Promises: no password leaves this process in a form that somebody who listens can use
//! (`auth.rs`); a certificate is checked as `ssl-mode` says before anything secret is sent;
//! one address can cost at most `connect-timeout`. Every error names the host and what to do.
//!
//! Reading the stream has no time limit here: a silent one is the caller's to judge.

use std::net::SocketAddr;
use std::path::PathBuf;

use secrecy::ExposeSecret as _;
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use super::conninfo::{ConnInfo, Endpoint, SslMode};
use crate::error::{Error, Kind, Result};

mod auth;
mod connection;
mod handshake;
pub mod packet;
mod parts;
mod reply;
mod server_error;
#[cfg(test)]
mod tests;
mod tls;

use crate::engine::stream::Stream;
pub(super) use auth::unknown_plugin;
use auth::{Authenticator, Next};
pub use connection::Connection;
use connection::Wire;
pub(super) use connection::version_number;
use handshake::Greeting;
pub use parts::{Reader, Writer};
pub use server_error::ServerError;
pub(super) use tls::{config as tls_config, explain as explain_tls};

impl Connection {
    /// Connects to the first host that answers and lets us in.
    ///
    /// # Errors
    /// [`Kind::DatabaseUnreachable`] when none does, with every host's reason, and a
    /// [`ServerError`] among the causes where a server gave one; [`Kind::Config`] for
    /// certificates and keys that cannot be read.
    pub async fn connect(info: &ConnInfo) -> Result<Self> {
        let mut failures = Vec::new();
        for endpoint in &info.endpoints {
            match connect_endpoint(info, endpoint).await {
                Ok(connection) => return Ok(connection),
                Err(error) => failures.push(error),
            }
        }
        Err(together(failures))
    }
}

/// One error out of the failures of several hosts: that of the first, which is the one that
/// was preferred, with the others' reasons.
pub(super) fn together(failures: Vec<Error>) -> Error {
    let mut failures = failures.into_iter();
    let Some(first) = failures.next() else {
        return Error::config("the source's URL names no host");
    };
    let others: Vec<_> = failures.map(|e| e.to_string()).collect();
    if others.is_empty() { first } else { first.context(format!("no host will do ({})", others.join("; "))) }
}

fn unreachable(message: impl Into<String>) -> Error {
    Error::new(Kind::DatabaseUnreachable, message)
}

/// The connection to `place` broke, or was closed without a word.
fn lost(place: &str, error: Option<std::io::Error>) -> Error {
    let error = match error {
        Some(error) => unreachable(format!("{place}: the connection was lost")).because(error),
        None => unreachable(format!("{place}: the server closed the connection")),
    };
    error.hint("has the server stopped? its log says why")
}

/// Where to open a socket.
enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

async fn connect_endpoint(info: &ConnInfo, endpoint: &Endpoint) -> Result<Connection> {
    let mut failures = Vec::new();
    for address in addresses(info, endpoint).await? {
        match within(info, endpoint, connect_address(info, endpoint, &address)).await {
            Ok(connection) => return Ok(connection),
            Err(error) => failures.push(error),
        }
    }
    Err(together(failures))
}

/// Lets an attempt take as long as `connect-timeout` allows.
pub(super) async fn within<T>(
    info: &ConnInfo,
    endpoint: &Endpoint,
    attempt: impl Future<Output = Result<T>>,
) -> Result<T> {
    let limit = info.connect_timeout;
    tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| {
        Err(unreachable(format!("{endpoint}: no connection within {} s", limit.as_secs_f32()))
            .hint("is the host up, and does a firewall drop packets to this port?"))
    })
}

async fn addresses(info: &ConnInfo, endpoint: &Endpoint) -> Result<Vec<Address>> {
    let (host, port) = match endpoint {
        Endpoint::Unix(path) => return Ok(vec![Address::Unix(path.clone())]),
        Endpoint::Tcp { host, port } => (host, *port),
    };
    let failed = || unreachable(format!("{endpoint}: the host name cannot be looked up"));
    match tokio::time::timeout(info.connect_timeout, tokio::net::lookup_host((host.as_str(), port))).await {
        Ok(Ok(found)) => Ok(found.map(Address::Tcp).collect()),
        Ok(Err(error)) => Err(failed().because(error).hint("is the host name in the source URL right?")),
        Err(_) => Err(failed().hint("the name server did not answer in time")),
    }
}

async fn connect_address(info: &ConnInfo, endpoint: &Endpoint, address: &Address) -> Result<Connection> {
    let place = endpoint.to_string();
    let mut wire = Wire::new(place.clone(), socket(endpoint, address).await?);
    let first = wire.answer().await?;
    // A server that has no room for us says so instead of a greeting.
    if let Some(error) = ServerError::parse(&first) {
        return Err(error.into_error(endpoint));
    }
    let greeting = Greeting::parse(&first).map_err(|e| e.context(endpoint))?;
    let mode = info.ssl_mode(endpoint);
    if wants_tls(endpoint, &greeting, mode)? {
        wire = encrypt(info, endpoint, wire, &greeting, mode).await?;
    }
    log_in(info, endpoint, &mut wire, &greeting).await?;
    Ok(Connection::new(wire, &greeting, endpoint.is_local()))
}

async fn socket(endpoint: &Endpoint, address: &Address) -> Result<Stream> {
    match address {
        Address::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix).map_err(|error| {
            unreachable(format!("cannot connect to {}", path.display()))
                .because(error)
                .hint("is the server running, and is this its `socket`?")
        }),
        Address::Tcp(address) => tcp(*address).await.map(Stream::Tcp).map_err(|error| {
            unreachable(format!("cannot connect to {endpoint} ({address})"))
                .because(error)
                .hint("is the server running there, and does its bind-address include that address?")
        }),
    }
}

async fn tcp(address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A peer that vanished without a word is noticed. The receive buffer is left alone: the
    // kernel grows it further than SO_RCVBUF may ask.
    socket.set_keepalive(true)?;
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether this session is to use TLS.
///
/// # Errors
/// [`Kind::DatabaseUnreachable`] when it must and the server cannot.
fn wants_tls(endpoint: &Endpoint, greeting: &Greeting, mode: SslMode) -> Result<bool> {
    match (mode, greeting.offers_tls()) {
        (SslMode::Disabled, _) => Ok(false),
        (SslMode::Preferred, offered) => {
            if !endpoint.is_local() {
                tracing::warn!(
                    host = %endpoint,
                    "ssl-mode=PREFERRED lets anybody on the way switch TLS off; use VERIFY_IDENTITY"
                );
            }
            Ok(offered)
        }
        (_, true) => Ok(true),
        (mode, false) => Err(without_tls(endpoint, mode)),
    }
}

/// The server cannot do what `ssl-mode` asks for.
pub(super) fn without_tls(endpoint: &Endpoint, mode: SslMode) -> Error {
    unreachable(format!("{endpoint}: the server does not offer TLS, and ssl-mode={mode} asks for it")).hint(
        "give the server a certificate (ssl_cert, ssl_key), use its Unix socket, or choose ssl-mode=DISABLED on a \
         network you trust",
    )
}

/// Asks for TLS and does the handshake.
async fn encrypt(
    info: &ConnInfo,
    endpoint: &Endpoint,
    mut wire: Wire,
    greeting: &Greeting,
    mode: SslMode,
) -> Result<Wire> {
    let Endpoint::Tcp { host, .. } = endpoint else {
        return Err(Error::config("a Unix socket has no TLS"));
    };
    let (config, name) = tls::config(info, host, mode)?;
    wire.send(&greeting.tls_request()).await?;
    let (stream, unframer) = wire.into_stream()?;
    let Stream::Tcp(tcp) = stream else {
        return Err(Error::config("TLS is only for TCP"));
    };
    match tokio_rustls::TlsConnector::from(config).connect(name, tcp).await {
        Ok(stream) => Ok(Wire::resume(endpoint.to_string(), Stream::Tls(Box::new(stream)), unframer)),
        Err(error) => Err(tls::explain(endpoint, &error)),
    }
}

async fn log_in(info: &ConnInfo, endpoint: &Endpoint, wire: &mut Wire, greeting: &Greeting) -> Result<()> {
    let is_tls = matches!(wire.stream, Stream::Tls(_));
    let password = info.password.as_ref().map(|p| p.expose_secret());
    let mut authenticator = Authenticator::new(greeting, password, wire.stream.is_private());
    let proof = authenticator.proof().map_err(|e| e.context(endpoint))?;
    wire.send(&greeting.answer(is_tls, &info.user, authenticator.plugin(), &proof)?).await?;
    loop {
        let payload = wire.answer().await?;
        match authenticator.step(&payload).map_err(|e| e.context(endpoint))? {
            Next::Send(answer) => wire.send(&answer).await?,
            Next::Wait => {}
            Next::Done => return Ok(()),
            Next::Refused(error) => return Err(error.into_error(endpoint)),
        }
    }
}
