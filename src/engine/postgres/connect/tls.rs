//! libpq's `sslmode` and `sslrootcert`, for [`crate::engine::tls`].

use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use crate::engine::postgres::conninfo::{ConnInfo, Endpoint, Host, RootCert, SslMode, root_in_home};
use crate::engine::tls::{self, Check, Settings, Words};
use crate::error::{Error, Result};

/// How PostgreSQL's users write the settings.
const WORDS: Words = Words {
    roots: "sslrootcert",
    cert: "sslcert",
    key: "sslkey",
    starttls: "postgres",
    unknown_issuer: "give the authority that signed the server's certificate: sslrootcert=FILE (or \
                     ~/.postgresql/root.crt)",
    other_name: "connect by a name the certificate carries; hostaddr=ADDRESS keeps the address",
};

/// `sslmode`'s name.
pub(super) fn name(mode: SslMode) -> &'static str {
    match mode {
        SslMode::Disable => "disable",
        SslMode::Allow => "allow",
        SslMode::Prefer => "prefer",
        SslMode::Require => "require",
        SslMode::VerifyCa => "verify-ca",
        SslMode::VerifyFull => "verify-full",
    }
}

/// The TLS configuration for a host, and the name its certificate must carry.
///
/// # Errors
/// [`crate::Kind::Config`] for certificate and key files that cannot be used.
pub(super) fn config(
    info: &ConnInfo,
    endpoint: &Endpoint,
    mode: SslMode,
) -> Result<(Arc<ClientConfig>, ServerName<'static>)> {
    let Host::Tcp { name, .. } = &endpoint.host else {
        return Err(Error::config("a Unix socket has no TLS"));
    };
    let roots = match &info.tls.root {
        RootCert::File(path) => Some(path.clone()),
        RootCert::Default => root_in_home(info.home.as_deref()),
        RootCert::System => None,
    };
    let check = match mode {
        SslMode::VerifyFull => Check::Name,
        SslMode::VerifyCa => Check::Authority,
        // As libpq: `require` with a root file at hand checks like `verify-ca`.
        SslMode::Require if roots.is_some() => Check::Authority,
        SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require => Check::Nothing,
    };
    tls::config(&Settings {
        host: name,
        check,
        roots: roots.as_deref(),
        cert: info.tls.cert.as_deref(),
        key: info.tls.key.as_deref(),
        protocol: Some("postgresql"),
        words: WORDS,
    })
}

/// A failed handshake, with what to do about it.
pub(super) fn explain(endpoint: &Endpoint, error: &std::io::Error) -> Error {
    tls::explain(endpoint, error, WORDS)
}
