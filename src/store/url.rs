//! Where a store is, as people write it, becomes a [`Store`]: here, once.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::Store;
use super::local::LocalStore;
use super::s3::S3Store;
use crate::error::{Error, Result};
use crate::model::time::SystemClock;

/// How the URLs of buckets begin.
const S3: &str = "s3://";

/// The store at `text`: `/path`, a relative path, `file:///path`, or `s3://BUCKET/PREFIX` with
/// options. Nothing is touched.
///
/// # Errors
/// [`crate::Kind::Config`] for a place this version cannot use.
pub fn open(text: &str) -> Result<Arc<dyn Store>> {
    match text.strip_prefix(S3) {
        Some(rest) => Ok(Arc::new(S3Store::open(rest, Arc::new(SystemClock))?)),
        None => Ok(Arc::new(LocalStore::open(&path(text)?)?)),
    }
}

/// The store at `text`, whose place is made if it is not there (`pitr init`): a directory is, a
/// bucket is not.
///
/// # Errors
/// As [`open`]; [`crate::Kind::StoreUnreachable`] when the place cannot be made.
pub fn make(text: &str) -> Result<Arc<dyn Store>> {
    match text.strip_prefix(S3) {
        Some(_) => open(text),
        None => Ok(Arc::new(LocalStore::make(&path(text)?)?)),
    }
}

fn path(text: &str) -> Result<PathBuf> {
    let Some((scheme, rest)) = text.split_once("://") else {
        if text.is_empty() {
            return Err(
                Error::config("no store is given").hint("use --store /path/of/the/store or --store s3://BUCKET/PREFIX")
            );
        }
        return Ok(text.into());
    };
    match scheme {
        "file" => {
            let path = rest.strip_prefix("localhost").filter(|path| path.starts_with('/')).unwrap_or(rest);
            if !path.starts_with('/') {
                return Err(Error::config(format!(
                    "store {text:?} names a host, and files are read from this one only"
                ))
                .hint("three slashes begin a local path: file:///path"));
            }
            percent_decoded(path).map(|bytes| OsString::from_vec(bytes).into()).ok_or_else(|| {
                Error::config(format!("store {text:?} has a % that two hexadecimal digits do not follow"))
            })
        }
        other => Err(Error::config(format!("store scheme {other:?} is not known")).hint(
            "use a directory (/path/of/the/store or file:///path/of/the/store) or a bucket (s3://BUCKET/PREFIX)",
        )),
    }
}

/// A part of a URL (RFC 3986): `%20` is a space.
pub(super) fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            u8::try_from(digit()? * 16 + digit()?).ok()?
        } else {
            byte
        });
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn paths_and_file_urls_are_directories() {
        for (text, is) in [
            ("/var/lib/pitr", "/var/lib/pitr"),
            ("backup", "backup"),
            ("file:///var/lib/pitr", "/var/lib/pitr"),
            ("file://localhost/var/lib/pitr", "/var/lib/pitr"),
            ("file:///with%20space/%C3%A9", "/with space/é"),
        ] {
            assert_eq!(path(text).unwrap(), PathBuf::from(is));
        }
        assert_eq!(open("s3://bucket/prefix").unwrap().location(), "s3://bucket/prefix");
        let here = std::env::current_dir().unwrap();
        assert_eq!(open("backup").unwrap().local_root().unwrap(), here.join("backup"));
    }

    #[test]
    fn other_places_are_refused_with_what_would_do() {
        for (text, says) in [
            ("gs://bucket", "scheme \"gs\" is not known"),
            ("file://elsewhere/path", "names a host"),
            ("file:///a%2", "hexadecimal"),
            ("", "no store is given"),
        ] {
            let error = path(text).unwrap_err();
            assert_eq!(error.kind(), Kind::Config);
            assert!(error.message().contains(says), "{error}");
        }
    }

    #[test]
    fn make_makes_the_directory_and_open_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().join("deep/store");
        let text = text.to_str().unwrap();
        open(text).unwrap();
        assert!(!PathBuf::from(text).exists());
        make(text).unwrap();
        make(text).unwrap();
        assert!(PathBuf::from(text).is_dir());
    }
}
