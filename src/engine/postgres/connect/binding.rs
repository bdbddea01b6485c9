//! Ties SCRAM to the TLS session by a hash of the server's certificate.
//!
//! Source: RFC 5929 section 4 (`tls-server-end-point`); `be-secure-openssl.c` of PostgreSQL.

use sha2::{Digest as _, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode as _, Encode as _};

const RSA_PSS: &str = "1.2.840.113549.1.1.10";

/// Hash of the certificate for channel binding: by the hash of its own signature,
/// with MD5 and SHA-1 raised to SHA-256. `None` where the signature names no hash
/// (Ed25519), and then binding is not possible.
pub(super) fn binding_hash(der: &[u8]) -> Option<Vec<u8>> {
    let certificate = Certificate::from_der(der).ok()?;
    let algorithm = &certificate.signature_algorithm;
    let oid = algorithm.oid.to_string();
    let by = if oid == RSA_PSS {
        // The hash is the first identifier in the parameters; without it, SHA-1.
        let parameters = algorithm.parameters.as_ref().and_then(|p| p.to_der().ok()).unwrap_or_default();
        pss_hash(&parameters)
    } else {
        oid
    };
    Some(match by.as_str() {
        // RSA, ECDSA and the bare hashes.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2"
        | "2.16.840.1.101.3.4.2.1"
        | "1.3.14.3.2.26" => Sha256::digest(der).to_vec(),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" | "2.16.840.1.101.3.4.2.2" => Sha384::digest(der).to_vec(),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" | "2.16.840.1.101.3.4.2.3" => Sha512::digest(der).to_vec(),
        _ => return None,
    })
}

/// `SEQUENCE { [0] SEQUENCE { OID hash, ... } ... }`
fn pss_hash(parameters: &[u8]) -> String {
    const SHA1: &str = "1.3.14.3.2.26";
    let Some([0x30, _, 0xa0, _, 0x30, _, rest @ ..]) = parameters.get(..).filter(|p| p.len() > 8) else {
        return SHA1.to_owned();
    };
    let length = rest.get(1).map_or(0, |l| usize::from(*l));
    let oid = rest.get(..2 + length).and_then(|der| ObjectIdentifier::from_der(der).ok());
    oid.map_or_else(|| SHA1.to_owned(), |oid| oid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_certificate_bind_nothing() {
        assert_eq!(binding_hash(b"\x30\x03abc"), None);
    }
}
