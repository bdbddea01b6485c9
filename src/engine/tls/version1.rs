//! Certificates of version 1, which the TLS library cannot read.
//!
//! `openssl x509 -req` without an extension file makes one (up to OpenSSL 3.1; the recipes
//! in PostgreSQL's and MySQL's manuals call it just so), the databases' own clients accept
//! them, and so they guard real servers. Such a certificate has no extensions, hence no alternative names: it
//! is trusted only when a root from the file of authorities signed it directly, and TLS 1.3 is
//! needed, where the handshake's signature can be checked with the bare key.

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use x509_cert::certificate::{Certificate, Version};
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

/// A certificate of version 1.
pub(super) struct Version1(Certificate);

impl Version1 {
    /// Reads a certificate; `None` when it is none, or of a newer version.
    pub(super) fn read(der: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(der).ok()?;
        (certificate.tbs_certificate.version == Version::V1).then_some(Self(certificate))
    }

    /// Its public key.
    pub(super) fn key(&self) -> Option<SubjectPublicKeyInfoDer<'static>> {
        let der = self.0.tbs_certificate.subject_public_key_info.to_der().ok()?;
        Some(SubjectPublicKeyInfoDer::from(der))
    }

    /// Whether one of the roots signed it.
    pub(super) fn signed_by(&self, roots: &[CertificateDer<'_>], algorithms: &WebPkiSupportedAlgorithms) -> bool {
        let Ok(signed) = self.0.tbs_certificate.to_der() else { return false };
        roots.iter().filter_map(|root| Certificate::from_der(root).ok()).any(|root| {
            root.tbs_certificate.subject == self.0.tbs_certificate.issuer
                && self.verifies(&root.tbs_certificate.subject_public_key_info, &signed, algorithms)
        })
    }

    fn verifies(&self, key: &SubjectPublicKeyInfoOwned, signed: &[u8], algorithms: &WebPkiSupportedAlgorithms) -> bool {
        let (Some(by), Some(of)) = (identifier(&self.0.signature_algorithm), identifier(&key.algorithm)) else {
            return false;
        };
        let (Some(signature), Some(key)) = (self.0.signature.as_bytes(), key.subject_public_key.as_bytes()) else {
            return false;
        };
        algorithms
            .all
            .iter()
            .filter(|a| a.signature_alg_id().as_ref() == by && a.public_key_alg_id().as_ref() == of)
            .any(|a| a.verify_signature(key, signed, signature).is_ok())
    }
}

/// An algorithm's identifier without tag and length, as the TLS library keeps it.
fn identifier(algorithm: &AlgorithmIdentifierOwned) -> Option<Vec<u8>> {
    let der = algorithm.to_der().ok()?;
    // Always shorter than 128 bytes: one byte of tag, one of length.
    match der.as_slice() {
        [0x30, length, rest @ ..] if usize::from(*length) == rest.len() => Some(rest.to_vec()),
        _ => None,
    }
}
