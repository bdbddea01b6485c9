//! `ssl-mode` and its companions, for [`crate::engine::tls`].

use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use crate::engine::mysql::conninfo::{ConnInfo, Endpoint, SslMode};
use crate::engine::tls::{self, Check, Settings, Words};
use crate::error::{Error, Result};

/// How MySQL's users write the settings.
const WORDS: Words = Words {
    roots: "ssl-ca",
    cert: "ssl-cert",
    key: "ssl-key",
    starttls: "mysql",
    unknown_issuer: "give the authority that signed the server's certificate: ssl-ca=FILE (MySQL makes its own, \
                     ca.pem in the data directory; MariaDB 11.4 and newer may have none: give the server a \
                     certificate); ssl-mode=REQUIRED does without, on a network you trust",
    other_name: "connect by a name the certificate carries; where it carries none, as the one MySQL makes for itself, \
                 choose ssl-mode=VERIFY_CA",
};

/// A failed handshake with `endpoint`.
pub(in crate::engine::mysql) fn explain(endpoint: &Endpoint, error: &std::io::Error) -> Error {
    tls::explain(endpoint, error, WORDS)
}

/// The TLS configuration for `host`, and the name its certificate must carry.
///
/// # Errors
/// [`crate::Kind::Config`] for certificate and key files that cannot be used.
pub(in crate::engine::mysql) fn config(
    info: &ConnInfo,
    host: &str,
    mode: SslMode,
) -> Result<(Arc<ClientConfig>, ServerName<'static>)> {
    tls::config(&Settings {
        host,
        check: match mode {
            SslMode::Disabled | SslMode::Preferred | SslMode::Required => Check::Nothing,
            SslMode::VerifyCa => Check::Authority,
            SslMode::VerifyIdentity => Check::Name,
        },
        roots: info.tls.ca.as_deref(),
        cert: info.tls.cert.as_deref(),
        key: info.tls.key.as_deref(),
        protocol: None,
        words: WORDS,
    })
}
