//! Sessions for ordinary SQL: [`mysql_async`] with the same hosts, TLS rules and accounts as
//! the replication connection.
//!
//! Where the library cannot do what `connect` can, it is the stricter one: a certificate
//! for another name, or without alternative names, fails not only `VERIFY_IDENTITY` but also
//! `VERIFY_CA` (it looks for words in an error's text that the TLS library no longer uses), so
//! does one that is its own authority or of version 1, and accounts with `sha256_password` are
//! refused.

use mysql_async::prelude::{FromRow, Queryable as _};
use mysql_async::{ClientIdentity, Conn, DriverError, IoError, OptsBuilder, Row, SslOpts};
use secrecy::ExposeSecret as _;

use super::connect::{ServerError, explain_tls, tls_config, together, unknown_plugin, within, without_tls};
use super::conninfo::{ConnInfo, Endpoint, SslMode};
use crate::error::{Error, Kind, Result};

/// The largest row that is taken: the servers' own limit.
const PACKET_BYTES_MAX: usize = 1 << 30;

/// What the library takes for the server's `wait_timeout` without asking; only its pool, which
/// is not used, goes by it.
const WAIT_TIMEOUT_SECONDS: usize = 28_800;

/// An open SQL session.
#[derive(Debug)]
pub struct Session {
    conn: Conn,
    endpoint: Endpoint,
}

impl Session {
    /// Connects to the first host that answers and lets us in.
    ///
    /// # Errors
    /// As [`super::connect::Connection::connect`].
    pub async fn connect(info: &ConnInfo) -> Result<Self> {
        let mut failures = Vec::new();
        for endpoint in &info.endpoints {
            match within(info, endpoint, open(info, endpoint)).await {
                Ok(conn) => return Ok(Self { conn, endpoint: endpoint.clone() }),
                Err(error) => failures.push(error),
            }
        }
        Err(together(failures))
    }

    /// The library's connection, for what is not offered here; [`Session::error`] maps its
    /// errors.
    pub const fn conn(&mut self) -> &mut Conn {
        &mut self.conn
    }

    /// An error of the library as ours, with the server's own among its causes.
    #[must_use]
    pub fn error(&self, error: mysql_async::Error) -> Error {
        explain(&self.endpoint, SslMode::Disabled, error)
    }

    /// Runs a statement and drops what it gives.
    ///
    /// # Errors
    /// The server's, with a [`ServerError`] among its causes; [`Kind::DatabaseUnreachable`]
    /// when the connection is lost.
    pub async fn execute(&mut self, sql: &str) -> Result<()> {
        self.conn.query_drop(sql).await.map_err(|e| self.error(e))
    }

    /// The first row of a query, if there is one.
    ///
    /// # Errors
    /// As [`Session::execute`]; [`Kind::Failure`] for a row that is no `T`.
    pub async fn query_one<T: FromRow>(&mut self, sql: &str) -> Result<Option<T>> {
        let row: Option<Row> = self.conn.query_first(sql).await.map_err(|e| self.error(e))?;
        row.map(|row| self.convert(row, sql)).transpose()
    }

    /// All rows of a query, which must be few: they are held in memory.
    ///
    /// # Errors
    /// As [`Session::query_one`].
    pub async fn query_all<T: FromRow>(&mut self, sql: &str) -> Result<Vec<T>> {
        let rows: Vec<Row> = self.conn.query(sql).await.map_err(|e| self.error(e))?;
        rows.into_iter().map(|row| self.convert(row, sql)).collect()
    }

    /// The library's own conversion would panic.
    fn convert<T: FromRow>(&self, row: Row, sql: &str) -> Result<T> {
        T::from_row_opt(row).map_err(|_| {
            Error::failure(format!("{}: a row is not as expected in the answer to: {sql}", self.endpoint))
                .hint("is this version of the server supported? `pitr check` says")
        })
    }

    /// Says goodbye and closes. Errors no longer matter.
    pub async fn close(self) {
        let _ = self.conn.disconnect().await;
    }
}

async fn open(info: &ConnInfo, endpoint: &Endpoint) -> Result<Conn> {
    let mode = info.ssl_mode(endpoint);
    // The library reads these files too, but does not say which one was wrong.
    if let (Endpoint::Tcp { host, .. }, true) = (endpoint, mode != SslMode::Disabled) {
        tls_config(info, host, mode)?;
    }
    let attempt = Conn::new(options(info, endpoint, mode)).await;
    let error = match attempt {
        Err(mysql_async::Error::Driver(DriverError::NoClientSslFlagFromServer)) if mode == SslMode::Preferred => {
            match Conn::new(options(info, endpoint, SslMode::Disabled)).await {
                Ok(conn) => return Ok(conn),
                Err(error) => error,
            }
        }
        Ok(conn) => return Ok(conn),
        Err(error) => error,
    };
    Err(explain(endpoint, mode, error))
}

fn options(info: &ConnInfo, endpoint: &Endpoint, mode: SslMode) -> OptsBuilder {
    let builder = OptsBuilder::default()
        .user(Some(&info.user))
        .pass(info.password.as_ref().map(|p| p.expose_secret()))
        .db_name(info.database.as_deref())
        .max_allowed_packet(Some(PACKET_BYTES_MAX))
        .wait_timeout(Some(WAIT_TIMEOUT_SECONDS))
        .connect_attribute("program_name", "pitr")
        // Else the library would leave the host it was given for a socket the server names.
        .prefer_socket(false);
    match endpoint {
        Endpoint::Unix(path) => builder.socket(path.to_str()),
        Endpoint::Tcp { host, port } => {
            builder.ip_or_hostname(host.as_str()).tcp_port(*port).ssl_opts(ssl_options(info, mode))
        }
    }
}

fn ssl_options(info: &ConnInfo, mode: SslMode) -> Option<SslOpts> {
    let identity = info.tls.cert.clone().zip(info.tls.key.clone());
    let identity = identity.map(|(cert, key)| ClientIdentity::new(cert.into(), key.into()));
    let options = SslOpts::default().with_client_identity(identity);
    match mode {
        SslMode::Disabled => None,
        SslMode::Preferred | SslMode::Required => Some(options.with_danger_accept_invalid_certs(true)),
        SslMode::VerifyCa | SslMode::VerifyIdentity => {
            let roots = match &info.tls.ca {
                Some(path) => vec![path.clone().into()],
                None => system_roots().map(Into::into).collect(),
            };
            let skip_name = mode == SslMode::VerifyCa;
            // Its built-in roots are not the system's.
            let options = options.with_disable_built_in_roots(true).with_root_certs(roots);
            Some(options.with_danger_skip_domain_validation(skip_name))
        }
    }
}

/// The system's authorities, but for those the library would stumble over.
fn system_roots() -> impl Iterator<Item = Vec<u8>> {
    let found = rustls_native_certs::load_native_certs().certs;
    let usable = found.into_iter().filter(|cert| rustls::RootCertStore::empty().add(cert.clone()).is_ok());
    usable.map(|cert| cert.to_vec())
}

/// An error of the library at `endpoint`, as [`super::connect`] would have said it.
fn explain(endpoint: &Endpoint, mode: SslMode, error: mysql_async::Error) -> Error {
    use mysql_async::Error as Its;
    let unreachable = |text: &str| Error::new(Kind::DatabaseUnreachable, format!("{endpoint}: {text}"));
    match error {
        Its::Server(error) => {
            let error = ServerError { code: error.code, sqlstate: error.state, message: error.message };
            error.into_error(endpoint)
        }
        Its::Io(IoError::Io(error)) if error.get_ref().is_some_and(|e| e.is::<rustls::Error>()) => {
            let error = explain_tls(endpoint, &error);
            match mode {
                SslMode::VerifyCa => error.hint(
                    "SQL sessions check the certificate's name even with ssl-mode=VERIFY_CA: give the server a \
                     certificate with a subjectAltName for this host",
                ),
                _ => error,
            }
        }
        Its::Io(IoError::Io(error)) => unreachable("the connection cannot be made or was lost")
            .because(error)
            .hint("is the host name right, and is the server running there?"),
        Its::Io(IoError::Tls(error)) => Error::config(format!("{endpoint}: TLS cannot be set up"))
            .because(error)
            .hint("are ssl-ca, ssl-cert and ssl-key files in PEM form that can be read?"),
        Its::Driver(DriverError::NoClientSslFlagFromServer) => without_tls(endpoint, mode),
        Its::Driver(DriverError::UnknownAuthPlugin { name }) => unknown_plugin(&name).context(endpoint),
        Its::Driver(DriverError::CleartextPluginDisabled) => unknown_plugin("mysql_clear_password").context(endpoint),
        Its::Driver(DriverError::MysqlOldPasswordDisabled) => unknown_plugin("mysql_old_password").context(endpoint),
        Its::Driver(DriverError::ConnectionClosed) => unreachable("the server closed the connection"),
        error => unreachable("the session failed").because(error),
    }
}
