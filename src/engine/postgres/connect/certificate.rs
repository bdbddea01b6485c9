//! What pitr reads in a server's certificate itself: the hash that ties SCRAM to the
//! TLS session, and names where the TLS library is stricter than libpq.
//!
//! Source: RFC 5929 section 4 (`tls-server-end-point`); `be-secure-openssl.c`,
//! `fe-secure-common.c` of PostgreSQL.

use std::net::IpAddr;
use std::time::Duration;

use sha2::{Digest as _, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
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

/// What a certificate says of itself, as far as libpq looks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    dns: Vec<String>,
    addresses: Vec<IpAddr>,
    common: Option<String>,
    not_before: Duration,
    not_after: Duration,
}

impl Names {
    /// Reads a certificate; `None` when it is none.
    pub(super) fn read(der: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(der).ok()?;
        let body = &certificate.tbs_certificate;
        let mut names = Self {
            not_before: body.validity.not_before.to_unix_duration(),
            not_after: body.validity.not_after.to_unix_duration(),
            ..Self::default()
        };
        if let Ok(Some((_, SubjectAltName(alternatives)))) = body.get::<SubjectAltName>() {
            for name in alternatives {
                match name {
                    GeneralName::DnsName(dns) => names.dns.push(dns.to_string()),
                    GeneralName::IpAddress(octets) => match *octets.as_bytes() {
                        [a, b, c, d] => names.addresses.push([a, b, c, d].into()),
                        ref bytes => names.addresses.extend(<[u8; 16]>::try_from(bytes).map(IpAddr::from)),
                    },
                    _ => {}
                }
            }
        }
        let common = body.subject.0.iter().rev().flat_map(|rdn| rdn.0.iter()).find(|a| a.oid == COMMON_NAME);
        names.common = common.and_then(|a| String::from_utf8(a.value.value().to_vec()).ok());
        Some(names)
    }

    /// Whether `now` (since 1970) lies in the certificate's time.
    pub(super) fn valid_at(&self, now: Duration) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Whether the certificate is for this host: by alternative names, and by the
    /// common name only where it has none, as in libpq (RFC 6125).
    pub(super) fn cover(&self, host: &str) -> bool {
        if let Ok(address) = host.parse::<IpAddr>() {
            if self.addresses.contains(&address) {
                return true;
            }
            return self.dns.is_empty() && self.addresses.is_empty() && self.common.as_deref() == Some(host);
        }
        if self.dns.is_empty() && self.addresses.is_empty() {
            return self.common.as_deref().is_some_and(|name| matches_name(name, host));
        }
        self.dns.iter().any(|name| matches_name(name, host))
    }
}

/// Equal but for case, or `*.` in front of everything behind the host's first label.
fn matches_name(pattern: &str, host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    match pattern.strip_prefix("*.") {
        Some(suffix) if suffix.contains('.') => {
            host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(suffix))
        }
        Some(_) => false,
        None => pattern.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_one_label() {
        assert!(matches_name("*.example.org", "db.Example.org"));
        assert!(!matches_name("*.example.org", "a.db.example.org"));
        assert!(!matches_name("*.example.org", "example.org"));
        assert!(!matches_name("*.org", "example.org"));
        assert!(matches_name("DB", "db"));
    }

    #[test]
    fn the_common_name_counts_only_without_alternatives() {
        let mut names = Names { common: Some("db".to_owned()), ..Names::default() };
        assert!(names.cover("db"));
        names.dns.push("other".to_owned());
        assert!(!names.cover("db"));
        assert!(names.cover("other"));
        names.addresses.push([10, 0, 0, 1].into());
        assert!(names.cover("10.0.0.1") && !names.cover("10.0.0.2"));
    }

    #[test]
    fn bytes_that_are_no_certificate_bind_nothing() {
        assert_eq!(binding_hash(b"\x30\x03abc"), None);
        assert_eq!(Names::read(b""), None);
    }
}
