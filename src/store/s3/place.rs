//! Where an S3 store is and how it is used, as people write it:
//! `s3://BUCKET/PREFIX?endpoint=URL&region=NAME&…`.
//!
//! Credentials have no place here: they come from where every AWS tool takes them, so that no
//! store's URL is a secret.

use std::time::Duration;

use super::super::name;
use super::super::url::percent_decoded;
use crate::error::{Error, Result};

/// What a URL says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) bucket: String,
    /// Empty, or what comes before an object's name in its key, with a slash at its end.
    pub(super) prefix: String,
    /// Another service than Amazon's.
    pub(super) endpoint: Option<String>,
    pub(super) region: Option<String>,
    /// The bucket is named in the path and not in the host's name.
    pub(super) path_style: Option<bool>,
    pub(super) checksum: Checksum,
    pub(super) storage_class: Option<String>,
    pub(super) encryption: Option<Encryption>,
    pub(super) lock: Option<Lock>,
}

/// Which checksum is sent with an object. The signature holds a SHA-256 of it in any case;
/// what is sent here is what the service keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Checksum {
    /// CRC-32 at Amazon's, and where objects are locked, which needs one; else none, for many
    /// other services refuse what they do not know.
    #[default]
    Auto,
    Crc32,
    Crc32c,
    Sha256,
    None,
}

/// Encryption by the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Encryption {
    /// `AES256` or `aws:kms`.
    pub(super) kind: String,
    /// Key of the key management service, unless it is the account's own.
    pub(super) key: Option<String>,
}

/// Objects that nobody can remove for a while (S3 Object Lock).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lock {
    /// Not even by the account's owner.
    pub(super) compliance: bool,
    pub(super) retain: Duration,
}

const FORM: &str = "write s3://BUCKET/PREFIX?endpoint=https://HOST&region=NAME";

impl Place {
    /// Reads what follows `s3://`.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] naming the part that is wrong.
    pub(super) fn parse(rest: &str) -> Result<Self> {
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        if bucket.contains(['@', ':']) {
            // Not shown: it is most likely a secret key.
            return Err(Error::config("the store's URL has something before the bucket's name, which is not read")
                .hint(
                    "give keys as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or by a profile, and never in a URL",
                ));
        }
        let plain =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_uppercase() || b.is_ascii_digit() || b"-._".contains(&b);
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(plain) {
            return Err(Error::config(format!(
                "store s3://{bucket} does not name a bucket of 3 to 63 letters, digits, dots and hyphens"
            ))
            .hint(FORM));
        }
        let prefix = prefix.trim_matches('/');
        if !prefix.is_empty() {
            name::check(prefix)
                .map_err(|e| Error::config(format!("the prefix of store s3://{bucket}")).because(e).hint(FORM))?;
        }
        let mut place = Self {
            bucket: bucket.to_owned(),
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            ..Self::default()
        };
        let (mut kms_key, mut lock, mut retain) = (None, None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decoded(value)
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .filter(|value| !value.is_empty())
                .ok_or_else(|| {
                    Error::config(format!(
                        "option {key} of store s3://{bucket} has no value, or not one that can be read"
                    ))
                    .hint(FORM)
                })?;
            let bad = |expected: &str| {
                Error::config(format!("option {key}={value} of store s3://{bucket} is not {expected}"))
            };
            match key {
                "endpoint" => place.endpoint = Some(endpoint("option endpoint of the store's URL", &value)?),
                "region" => place.region = Some(value),
                "path_style" => place.path_style = Some(value.parse().map_err(|_| bad("true or false"))?),
                "checksum" => {
                    place.checksum = match value.as_str() {
                        "auto" => Checksum::Auto,
                        "crc32" => Checksum::Crc32,
                        "crc32c" => Checksum::Crc32c,
                        "sha256" => Checksum::Sha256,
                        "none" => Checksum::None,
                        _ => return Err(bad("auto, crc32, crc32c, sha256 or none")),
                    }
                }
                "storage_class" => {
                    place.storage_class = Some(storage_class(&value).ok_or_else(|| {
                        bad("a class whose objects can be read at once, such as STANDARD, STANDARD_IA or GLACIER_IR")
                    })?)
                }
                "sse" => {
                    if !matches!(value.as_str(), "AES256" | "aws:kms" | "aws:kms:dsse") {
                        return Err(bad("AES256, aws:kms or aws:kms:dsse"));
                    }
                    place.encryption = Some(Encryption { kind: value, key: None });
                }
                "sse_kms_key_id" => kms_key = Some(value),
                "object_lock" => {
                    lock = Some(match value.as_str() {
                        "governance" => false,
                        "compliance" => true,
                        _ => return Err(bad("governance or compliance")),
                    });
                }
                "retain" => retain = Some(days(&value).ok_or_else(|| bad("a number of days like 30d"))?),
                _ => {
                    return Err(Error::config(format!("option {key} of store s3://{bucket} is not known"))
                        .hint("there are endpoint, region, path_style, checksum, storage_class, sse, sse_kms_key_id, object_lock and retain"));
                }
            }
        }
        place.encryption = match (place.encryption, kms_key) {
            (Some(encryption), key) if key.is_none() || encryption.kind != "AES256" => {
                Some(Encryption { key, ..encryption })
            }
            (None, None) => None,
            _ => return Err(Error::config(format!("option sse_kms_key_id of store s3://{bucket} needs sse=aws:kms"))),
        };
        place.lock = match (lock, retain) {
            (Some(compliance), Some(retain)) => Some(Lock { compliance, retain }),
            (None, None) => None,
            _ => {
                return Err(Error::config(format!(
                    "options object_lock and retain of store s3://{bucket} need each other"
                ))
                .hint("write object_lock=governance&retain=30d"));
            }
        };
        if place.lock.is_some() && place.checksum == Checksum::None {
            return Err(Error::config(format!(
                "store s3://{bucket} has object_lock and checksum=none, and a locked object needs a checksum"
            ))
            .hint("leave checksum out, or write checksum=crc32"));
        }
        Ok(place)
    }

    /// The key of an object, or of a prefix of names.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The place as people write it, without its options.
    pub(super) fn location(&self) -> String {
        let path = format!("{}/{}", self.bucket, self.prefix);
        let at = self.endpoint.as_ref().map_or_else(String::new, |endpoint| format!("?endpoint={endpoint}"));
        format!("s3://{}{at}", path.trim_end_matches('/'))
    }

    /// The checksum to send.
    pub(super) fn checksum(&self) -> Checksum {
        match self.checksum {
            Checksum::Auto if self.endpoint.is_none() || self.lock.is_some() => Checksum::Crc32,
            Checksum::Auto => Checksum::None,
            asked => asked,
        }
    }
}

/// A service's address: no secrets, no path. It is shown wherever the store is; what is none is not.
///
/// # Errors
/// [`crate::Kind::Config`] naming where it was said.
pub(super) fn endpoint(said: &str, text: &str) -> Result<String> {
    let text = text.trim_end_matches('/');
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match host.filter(|host| !host.is_empty() && !host.contains(['/', '@', '?', '#', ' '])) {
        Some(_) => Ok(text.to_owned()),
        None => Err(Error::config(format!("{said} is not a URL like https://HOST:PORT, without user and path"))),
    }
}

/// Classes from which an object must first be brought back are of no use when a database is to
/// be restored now.
fn storage_class(text: &str) -> Option<String> {
    let sensible = text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    (sensible && !matches!(text, "GLACIER" | "DEEP_ARCHIVE")).then(|| text.to_owned())
}

fn days(text: &str) -> Option<Duration> {
    let days: u64 = text.strip_suffix('d')?.parse().ok()?;
    (1..=36_500).contains(&days).then(|| Duration::from_secs(days * 86_400))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn a_url_says_where_and_how() {
        let place = Place::parse("backups").unwrap();
        assert_eq!((place.bucket.as_str(), place.key("main/x").as_str()), ("backups", "main/x"));
        assert_eq!((place.checksum(), place.location().as_str()), (Checksum::Crc32, "s3://backups"));

        let place = Place::parse(
            "backups/team/db/?endpoint=http%3A%2F%2F127.0.0.1:9000/&region=eu-west-1&path_style=false&checksum=sha256\
             &storage_class=STANDARD_IA&sse=aws:kms&sse_kms_key_id=alias/a&object_lock=compliance&retain=30d",
        )
        .unwrap();
        assert_eq!(place.key("main/x"), "team/db/main/x");
        assert_eq!(place.location(), "s3://backups/team/db?endpoint=http://127.0.0.1:9000");
        assert_eq!(place.region.as_deref(), Some("eu-west-1"));
        assert_eq!((place.path_style, place.checksum()), (Some(false), Checksum::Sha256));
        assert_eq!(place.storage_class.as_deref(), Some("STANDARD_IA"));
        assert_eq!(place.encryption, Some(Encryption { kind: "aws:kms".into(), key: Some("alias/a".into()) }));
        assert_eq!(place.lock, Some(Lock { compliance: true, retain: Duration::from_secs(30 * 86_400) }));
    }

    #[test]
    fn other_services_are_sent_a_checksum_only_where_it_is_needed() {
        let checksum = |options: &str| Place::parse(&format!("backups?endpoint=http://h{options}")).unwrap().checksum();
        assert_eq!(checksum(""), Checksum::None);
        assert_eq!(checksum("&checksum=crc32c"), Checksum::Crc32c);
        assert_eq!(checksum("&object_lock=governance&retain=1d"), Checksum::Crc32);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, says) in [
            ("", "does not name a bucket"),
            ("b/x", "does not name a bucket"),
            ("back ups", "does not name a bucket"),
            ("backups/a/../b", "prefix"),
            ("backups?endpoint=minio:9000", "is not a URL"),
            ("backups?endpoint=http://minio/path", "is not a URL"),
            ("backups?region", "region"),
            ("backups?path_style=yes", "true or false"),
            ("backups?checksum=md4", "auto, crc32"),
            ("backups?storage_class=DEEP_ARCHIVE", "read at once"),
            ("backups?sse=rot13", "AES256"),
            ("backups?sse=AES256&sse_kms_key_id=a", "needs sse=aws:kms"),
            ("backups?sse_kms_key_id=a", "needs sse=aws:kms"),
            ("backups?object_lock=governance", "need each other"),
            ("backups?retain=30d", "need each other"),
            ("backups?object_lock=governance&retain=30", "30d"),
            ("backups?object_lock=governance&retain=30d&checksum=none", "needs a checksum"),
            ("backups?endpiont=http://h", "endpiont"),
            ("backups?region=%2", "region"),
        ] {
            let error = Place::parse(text).unwrap_err();
            assert_eq!(error.kind(), Kind::Config, "{text}");
            assert!(error.to_string().contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_secret_in_a_url_is_not_shown() {
        for text in ["AKIA:hunter2@backups/x", "hunter2@backups", "backups?endpoint=http://AKIA:hunter2@minio:9000"] {
            let error = Place::parse(text).unwrap_err();
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
