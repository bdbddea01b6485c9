//! Names in a server's certificate, for where the TLS library is stricter than the
//! databases' own clients.
//!
//! Source: `fe-secure-common.c` of PostgreSQL; `X509_check_host` of OpenSSL, which MySQL's
//! and MariaDB's clients call.

use std::net::IpAddr;
use std::time::Duration;

use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// What a certificate says of itself, as far as database clients look.
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
    /// common name only where it has none, as libpq and MySQL's client do (RFC 6125).
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
    fn bytes_that_are_no_certificate_have_no_names() {
        assert_eq!(Names::read(b"\x30\x03abc"), None);
        assert_eq!(Names::read(b""), None);
    }
}
