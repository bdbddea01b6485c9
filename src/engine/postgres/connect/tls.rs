//! Whom to believe: libpq's `sslmode` and `sslrootcert` on top of rustls.
//!
//! Three things are done that rustls alone would refuse and libpq accepts, since real
//! servers depend on them: a certificate that is itself in `sslrootcert` is trusted as
//! it stands (the manual's own `openssl req -x509` recipe makes such a one), a
//! certificate without alternative names is matched by its common name, and version 1
//! certificates are read (`version1.rs`).

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::certificate::Names;
use super::version1::Version1;
use crate::engine::postgres::conninfo::{ConnInfo, Endpoint, Host, RootCert, SslMode};
use crate::error::{Error, Kind, Result};

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
/// [`Kind::Config`] for certificate and key files that cannot be used.
pub(super) fn config(
    info: &ConnInfo,
    endpoint: &Endpoint,
    mode: SslMode,
) -> Result<(Arc<ClientConfig>, ServerName<'static>)> {
    let Host::Tcp { name, .. } = &endpoint.host else {
        return Err(Error::config("a Unix socket has no TLS"));
    };
    let server = ServerName::try_from(name.clone())
        .map_err(|e| Error::config(format!("host {name:?} is not a name TLS can check")).because(e))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Verifier::new(info, mode, name, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::config("TLS cannot be set up").because(e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match (&info.tls.cert, &info.tls.key) {
        (None, _) => builder.with_no_client_auth(),
        (Some(cert), None) => {
            return Err(Error::config(format!("sslcert {} is given without sslkey", cert.display())));
        }
        (Some(cert), Some(key)) => {
            builder.with_client_auth_cert(certificates(cert)?, private_key(key)?).map_err(|e| {
                Error::config(format!("certificate {} and its key cannot be used", cert.display())).because(e)
            })?
        }
    };
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok((Arc::new(config), server))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let broken = |e| Error::config(format!("certificates cannot be read from {}", path.display())).because(e);
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(broken)?.collect::<Result<_, _>>().map_err(broken)?;
    if found.is_empty() {
        return Err(Error::config(format!("{} holds no certificate in PEM form", path.display())));
    }
    Ok(found)
}

/// Reads the key, unless others may read it too: libpq's rule.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let metadata = std::fs::metadata(path)
        .map_err(|e| Error::config(format!("private key {} cannot be read", path.display())).because(e))?;
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.permissions().mode() & forbidden != 0 {
        return Err(Error::config(format!("private key {} may be read by others", path.display()))
            .hint(format!("chmod 0600 {}", path.display())));
    }
    PrivateKeyDer::from_pem_file(path).map_err(|e| {
        Error::config(format!("private key {} cannot be read", path.display()))
            .because(e)
            .hint("is it encrypted? pitr cannot ask for a passphrase; decrypt it with `openssl pkey`")
    })
}

/// Checks the server's certificate as far as the mode asks.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// `None`: any certificate will do (`require` and below, without a root file).
    chain: Option<Chain>,
    host: String,
    check_name: bool,
}

#[derive(Debug)]
struct Chain {
    webpki: Arc<WebPkiServerVerifier>,
    roots: Vec<CertificateDer<'static>>,
}

impl Verifier {
    fn new(info: &ConnInfo, mode: SslMode, host: &str, provider: &Arc<CryptoProvider>) -> Result<Self> {
        let home_root = super::super::conninfo::root_in_home(info.home.as_deref());
        let file = match &info.tls.root {
            RootCert::File(path) => Some(path.clone()),
            RootCert::Default => home_root,
            RootCert::System => None,
        };
        // As libpq: `require` with a root file at hand checks like `verify-ca`.
        let checks = mode >= SslMode::VerifyCa || (mode == SslMode::Require && file.is_some());
        let chain = if checks { Some(Chain::new(file.as_deref(), provider)?) } else { None };
        Ok(Self { provider: provider.clone(), chain, host: host.to_owned(), check_name: mode == SslMode::VerifyFull })
    }
}

impl Verifier {
    /// Time and name, for certificates that the TLS library leaves to us.
    fn check_own(&self, names: &Names, now: UnixTime) -> Result<(), rustls::Error> {
        if !names.valid_at(std::time::Duration::from_secs(now.as_secs())) {
            return Err(CertificateError::Expired.into());
        }
        if self.check_name && !names.cover(&self.host) {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(())
    }
}

impl Chain {
    fn new(file: Option<&Path>, provider: &Arc<CryptoProvider>) -> Result<Self> {
        let mut store = RootCertStore::empty();
        let roots = match file {
            Some(path) => {
                let roots = certificates(path)?;
                for root in &roots {
                    store.add(root.clone()).map_err(|e| {
                        Error::config(format!("sslrootcert {} has a certificate that cannot be used", path.display()))
                            .because(e)
                    })?;
                }
                roots
            }
            None => {
                let loaded = rustls_native_certs::load_native_certs();
                store.add_parsable_certificates(loaded.certs);
                // Public authorities are never themselves a server.
                Vec::new()
            }
        };
        let webpki =
            WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone()).build().map_err(|e| {
                Error::config("no certificate authority is known to check the server with")
                    .because(e)
                    .hint("give sslrootcert=FILE with the authority's certificate, or install ca-certificates")
            })?;
        Ok(Self { webpki, roots })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        let mine = || Names::read(end_entity).ok_or(CertificateError::BadEncoding);
        if chain.roots.iter().any(|root| root.as_ref() == end_entity.as_ref()) {
            self.check_own(&mine()?, now)?;
            return Ok(ServerCertVerified::assertion());
        }
        if let Some(old) = Version1::read(end_entity) {
            if !old.signed_by(&chain.roots, &self.provider.signature_verification_algorithms) {
                return Err(CertificateError::UnknownIssuer.into());
            }
            self.check_own(&mine()?, now)?;
            return Ok(ServerCertVerified::assertion());
        }
        match chain.webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // rustls checks the chain first and the name last: this says the chain is good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.check_name || mine()?.cover(&self.host) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        match Version1::read(cert).and_then(|old| old.key()) {
            Some(key) => verify_tls13_signature_with_raw_key(message, &key, dss, algorithms),
            None => verify_tls13_signature(message, cert, dss, algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A failed handshake, with what to do about it.
pub(super) fn explain(endpoint: &Endpoint, error: &std::io::Error) -> Error {
    let reason = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    let hint = match reason {
        Some(rustls::Error::InvalidCertificate(reason)) => match reason {
            CertificateError::UnknownIssuer => {
                "give the authority that signed the server's certificate: sslrootcert=FILE (or ~/.postgresql/root.crt)"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "connect by a name the certificate carries; hostaddr=ADDRESS keeps the address"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "renew the server's certificate",
            // The TLS library's own words; its types are not ours to name.
            CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
                "the server's certificate is its own authority: give that very certificate as sslrootcert=FILE"
            }
            CertificateError::Other(other) if other.to_string().contains("UnsupportedCertVersion") => {
                "the server's certificate is of version 1, which needs TLS 1.3: sign it again with a subjectAltName \
                 (`openssl x509 -extfile`)"
            }
            _ => "`openssl s_client -starttls postgres -connect HOST:PORT` shows the certificate",
        },
        Some(rustls::Error::AlertReceived(_)) => {
            "the server refused: does it ask for a client certificate (sslcert, sslkey)?"
        }
        _ => "the server's log says more",
    };
    Error::new(Kind::DatabaseUnreachable, format!("{endpoint}: TLS could not be established: {error}")).hint(hint)
}
