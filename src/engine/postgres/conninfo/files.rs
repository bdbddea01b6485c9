//! The password file and the service file.
//!
//! Source: PostgreSQL manual, "The Password File" and "The Connection Service File".

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::{Endpoint, Given, Host, Lookup};
use crate::error::{Error, Result};

/// A line of the password file.
#[derive(Clone, Debug)]
pub(super) struct PassEntry {
    host: String,
    port: String,
    database: String,
    user: String,
    password: SecretString,
}

impl PassEntry {
    /// Reads `host:port:database:user:password`; `None` for comments and lines that
    /// are none.
    fn parse(line: &str) -> Option<Self> {
        if line.starts_with('#') {
            return None;
        }
        let mut fields = vec![String::new()];
        let mut chars = line.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => fields.last_mut()?.extend(chars.next()),
                ':' if fields.len() < 5 => fields.push(String::new()),
                // The password runs to the next bare colon, as in libpq.
                ':' => break,
                c => fields.last_mut()?.push(c),
            }
        }
        let [host, port, database, user, password] = <[String; 5]>::try_from(fields).ok()?;
        (!password.is_empty()).then(|| Self { host, port, database, user, password: password.into() })
    }

    pub(super) fn matches(&self, endpoint: &Endpoint, database: &str, user: &str) -> bool {
        let is = |pattern: &str, value: &str| pattern == "*" || pattern == value;
        let host = match &endpoint.host {
            Host::Tcp { name, .. } => is(&self.host, name),
            // libpq says `localhost` for the default socket directory and the path for
            // others; which directory is the default differs between packages.
            Host::Unix(dir) => is(&self.host, "localhost") || dir.to_str().is_some_and(|d| self.host == d),
        };
        host && is(&self.port, &endpoint.port.to_string()) && is(&self.database, database) && is(&self.user, user)
    }

    pub(super) fn password(&self) -> &SecretString {
        &self.password
    }
}

/// Reads the password file. One that others may read is ignored with a warning, as
/// libpq does.
pub(super) fn passfile(path: &Path) -> Vec<PassEntry> {
    let Ok(metadata) = std::fs::metadata(path) else { return Vec::new() };
    if !metadata.is_file() {
        tracing::warn!(path = %path.display(), "the password file is not a plain file and is ignored");
        return Vec::new();
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "the password file may be read by others and is ignored: chmod 0600 it");
        return Vec::new();
    }
    match std::fs::read_to_string(path) {
        Ok(text) => text.lines().filter_map(PassEntry::parse).collect(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the password file cannot be read and is ignored");
            Vec::new()
        }
    }
}

/// The settings of a service.
///
/// # Errors
/// [`crate::Kind::Config`] when no file defines it, or a file has a line that is no
/// setting.
pub(super) fn service(name: &str, file: Option<&str>, home: Option<&Path>, lookup: Lookup<'_>) -> Result<Given> {
    let user_file = file
        .map(PathBuf::from)
        .or_else(|| lookup("PGSERVICEFILE").map(PathBuf::from))
        .or_else(|| home.map(|h| h.join(".pg_service.conf")));
    let system_dir = lookup("PGSYSCONFDIR").unwrap_or_else(|| "/etc/postgresql-common".to_owned());
    let system_file = Path::new(&system_dir).join("pg_service.conf");
    let mut looked = Vec::new();
    for path in user_file.into_iter().chain([system_file]) {
        if let Ok(text) = std::fs::read_to_string(&path)
            && let Some(given) = section(&text, name, &path)?
        {
            return Ok(given);
        }
        looked.push(path.display().to_string());
    }
    Err(Error::config(format!("service {name:?} is not defined in {}", looked.join(" or ")))
        .hint("is PGSERVICEFILE set for this process?"))
}

fn section(text: &str, name: &str, path: &Path) -> Result<Option<Given>> {
    let mut found: Option<Given> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(section) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            if found.is_some() {
                break;
            }
            found = (section == name).then(Given::new);
        } else if let Some(given) = &mut found {
            let Some((key, value)) = line.split_once('=') else {
                return Err(Error::config(format!("line {} of {} is not key=value", number + 1, path.display())));
            };
            // The first of two equal keys counts, as in libpq.
            given.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn tcp(name: &str) -> Endpoint {
        Endpoint { host: Host::Tcp { name: name.to_owned(), address: None }, port: 5432 }
    }

    #[test]
    fn a_pgpass_line_may_escape_colons_and_use_stars() {
        let entry = PassEntry::parse(r"db:*:replication:pitr:a\:b\\c").unwrap();
        assert_eq!(entry.password().expose_secret(), r"a:b\c");
        assert!(entry.matches(&tcp("db"), "replication", "pitr"));
        assert!(!entry.matches(&tcp("db2"), "replication", "pitr"));
        assert!(!entry.matches(&tcp("db"), "postgres", "pitr"));
        assert!(!format!("{entry:?}").contains("a:b"));
    }

    #[test]
    fn lines_that_are_no_entry_are_passed_over() {
        for line in ["", "# db:5432:*:u:p", "db:5432:*:u", "db:5432:*:u:"] {
            assert!(PassEntry::parse(line).is_none(), "{line}");
        }
    }

    #[test]
    fn localhost_is_a_unix_socket_too() {
        let socket = Endpoint { host: Host::Unix("/run/pg".into()), port: 5432 };
        assert!(PassEntry::parse("localhost:5432:*:*:x").unwrap().matches(&socket, "replication", "u"));
        assert!(PassEntry::parse("/run/pg:5432:*:*:x").unwrap().matches(&socket, "replication", "u"));
    }

    #[test]
    fn a_password_file_that_others_read_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pgpass");
        std::fs::write(&path, "*:*:*:*:x\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(passfile(&path).is_empty());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(passfile(&path).len(), 1);
    }

    #[test]
    fn only_the_named_section_counts() {
        let text = "# c\n[a]\nhost=one\n\n[b]\nhost=two\nport=1\nhost=three\n[c]\nport=3\n";
        let given = section(text, "b", Path::new("f")).unwrap().unwrap();
        assert_eq!(given.get("host").map(String::as_str), Some("two"));
        assert_eq!(given.get("port").map(String::as_str), Some("1"));
        assert!(section(text, "d", Path::new("f")).unwrap().is_none());
        assert!(section("[a]\nhost\n", "a", Path::new("f")).is_err());
    }
}
