//! Whom to believe: what database clients call `sslmode` or `ssl-mode`, on top of rustls.
//!
//! Three things are done that rustls alone would refuse and the databases' own clients
//! accept, since real servers depend on them: a certificate that is itself in the file of
//! authorities is trusted as it stands (`openssl req -x509` makes such a one), a
//! certificate without alternative names is matched by its common name, and version 1
//! certificates are read (`version1.rs`).

use std::fmt;
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

use crate::error::{Error, Kind, Result};

mod certificate;
mod version1;

use certificate::Names;
use version1::Version1;

/// How an engine's users write its settings, for messages.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// The file of authorities, e.g. `ssl-ca`.
    pub roots: &'static str,
    /// Our certificate, e.g. `ssl-cert`.
    pub cert: &'static str,
    /// Its key, e.g. `ssl-key`.
    pub key: &'static str,
    /// The protocol as `openssl s_client -starttls` knows it.
    pub starttls: &'static str,
    /// What to do about an authority that is not known.
    pub unknown_issuer: &'static str,
    /// What to do about a certificate for another name.
    pub other_name: &'static str,
}

/// What a server's certificate must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// Anything.
    Nothing,
    /// Signed by a known authority.
    Authority,
    /// Signed by a known authority, for the host's name.
    Name,
}

/// Everything about one TLS connection.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// The host's name or address.
    pub host: &'a str,
    /// What its certificate must be.
    pub check: Check,
    /// The file of authorities; `None` is the system's store.
    pub roots: Option<&'a Path>,
    /// Our certificate and its key.
    pub cert: Option<&'a Path>,
    /// Its key.
    pub key: Option<&'a Path>,
    /// What is spoken inside (ALPN), where the protocol has a name for that.
    pub protocol: Option<&'a str>,
    /// How users write these.
    pub words: Words,
}

/// The TLS configuration for a host, and the name its certificate must carry.
///
/// # Errors
/// [`Kind::Config`] for certificate and key files that cannot be used.
pub fn config(settings: &Settings<'_>) -> Result<(Arc<ClientConfig>, ServerName<'static>)> {
    let Settings { host, cert, key, words, .. } = *settings;
    let server = ServerName::try_from(host.to_owned())
        .map_err(|e| Error::config(format!("host {host:?} is not a name TLS can check")).because(e))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Verifier::new(settings, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::config("TLS cannot be set up").because(e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match (cert, key) {
        (None, _) => builder.with_no_client_auth(),
        (Some(cert), None) => {
            return Err(Error::config(format!("{} {} is given without {}", words.cert, cert.display(), words.key)));
        }
        (Some(cert), Some(key)) => {
            builder.with_client_auth_cert(certificates(cert)?, private_key(key)?).map_err(|e| {
                Error::config(format!("certificate {} and its key cannot be used", cert.display())).because(e)
            })?
        }
    };
    config.alpn_protocols = settings.protocol.iter().map(|p| p.as_bytes().to_vec()).collect();
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
    /// `None`: any certificate will do.
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
    fn new(settings: &Settings<'_>, provider: &Arc<CryptoProvider>) -> Result<Self> {
        let chain = match settings.check {
            Check::Nothing => None,
            Check::Authority | Check::Name => Some(Chain::new(settings, provider)?),
        };
        Ok(Self {
            provider: provider.clone(),
            chain,
            host: settings.host.to_owned(),
            check_name: settings.check == Check::Name,
        })
    }

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
    fn new(settings: &Settings<'_>, provider: &Arc<CryptoProvider>) -> Result<Self> {
        let words = settings.words;
        let mut store = RootCertStore::empty();
        let roots = match settings.roots {
            Some(path) => {
                let roots = certificates(path)?;
                for root in &roots {
                    store.add(root.clone()).map_err(|e| {
                        Error::config(format!(
                            "{} {} has a certificate that cannot be used",
                            words.roots,
                            path.display()
                        ))
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
                Error::config("no certificate authority is known to check the server with").because(e).hint(format!(
                    "give {}=FILE with the authority's certificate, or install ca-certificates",
                    words.roots
                ))
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

/// A failed handshake at `place`, with what to do about it.
#[must_use]
pub fn explain(place: impl fmt::Display, error: &std::io::Error, words: Words) -> Error {
    let reason = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    let Words { roots, cert, key, starttls, unknown_issuer, other_name } = words;
    let hint = match reason {
        Some(rustls::Error::InvalidCertificate(reason)) => match reason {
            CertificateError::UnknownIssuer => unknown_issuer.to_owned(),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                other_name.to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "renew the server's certificate".to_owned()
            }
            // The TLS library's own words; its types are not ours to name.
            CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
                format!("the server's certificate is its own authority: give that very certificate as {roots}=FILE")
            }
            CertificateError::Other(other) if other.to_string().contains("UnsupportedCertVersion") => {
                "the server's certificate is of version 1, which needs TLS 1.3: sign it again with a subjectAltName \
                 (`openssl x509 -extfile`)"
                    .to_owned()
            }
            _ => format!("`openssl s_client -starttls {starttls} -connect HOST:PORT` shows the certificate"),
        },
        Some(rustls::Error::AlertReceived(_)) => {
            format!("the server refused: does it ask for a client certificate ({cert}, {key})?")
        }
        _ => "the server's log says more".to_owned(),
    };
    Error::new(Kind::DatabaseUnreachable, format!("{place}: TLS could not be established: {error}")).hint(hint)
}
