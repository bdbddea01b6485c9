//! What the server says in an error packet, and what to do about it.
//!
//! Messages are in the server's language (`lc_messages`), so code decides by number.
//! Numbers: MySQL "Server Error Message Reference"; MariaDB `errmsg-utf8.txt`. Above 3000
//! the two families use different ones.

use std::fmt;

use super::reply::Cursor;
use crate::error::{Error, Kind};

/// An error of the server, found in the source chain of the [`Error`]s made from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// The number, e.g. 1045.
    pub code: u16,
    /// Five letters and digits, e.g. `28000`; `HY000` where the server sent none.
    pub sqlstate: String,
    /// The message, in the server's language.
    pub message: String,
}

impl ServerError {
    /// Reads an error packet's payload; `None` when it is none.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::new("error", payload);
        if cursor.u8().ok()? != 0xff {
            return None;
        }
        let code = cursor.u16().ok()?;
        let rest = cursor.remainder();
        let (sqlstate, message) = match rest.split_first().map(|(mark, rest)| (mark, rest.split_at_checked(5))) {
            Some((b'#', Some((state, message)))) => (state, message),
            _ => (b"HY000".as_slice(), rest),
        };
        Some(Self { code, sqlstate: printable(sqlstate), message: printable(message) })
    }

    /// The server's error in an error's chain of sources.
    #[must_use]
    pub fn find(error: &Error) -> Option<&Self> {
        let mut next = std::error::Error::source(error);
        while let Some(cause) = next {
            if let Some(found) = cause.downcast_ref() {
                return Some(found);
            }
            next = cause.source();
        }
        None
    }

    /// This error as one of `place` (host and port), with kind and hint by its number.
    /// Callers that know what they asked for refine both.
    #[must_use]
    pub fn into_error(self, place: impl fmt::Display) -> Error {
        let (kind, hint) = self.advice();
        let error = Error::new(kind, format!("{place}: the server refused")).because(self);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    fn advice(&self) -> (Kind, Option<&'static str>) {
        const AWAY: Kind = Kind::DatabaseUnreachable;
        match self.code {
            1045 | 1698 => (
                AWAY,
                Some(
                    "are user and password right, is there an account for the host we come from, and does it want TLS \
                     (ssl-mode)? the password is taken from the URL, MYSQL_PWD or an option file's [client]; \
                     `pitr grants` prints the account",
                ),
            ),
            1044 | 1049 => (Kind::Config, Some("name a database in the source URL that exists and the user may use")),
            // Password expired (3 forms); MariaDB keeps MySQL's 1862.
            1820 | 1862 => (AWAY, Some("set a new password: ALTER USER ... IDENTIFIED BY '...' PASSWORD EXPIRE NEVER")),
            // Account locked: MySQL, MariaDB.
            3118 | 4151 => (AWAY, Some("unlock the account: ALTER USER ... ACCOUNT UNLOCK")),
            1040 | 1203 | 1226 => (
                AWAY,
                Some(
                    "raise max_connections or the account's limit, or look in SHOW PROCESSLIST for forgotten \
                     connections",
                ),
            ),
            1129 => (
                AWAY,
                Some(
                    "too many of this host's connections failed: FLUSH HOSTS on MariaDB, TRUNCATE TABLE \
                     performance_schema.host_cache on MySQL",
                ),
            ),
            1130 => (AWAY, Some("no account lets this host in: `pitr grants` prints the account that is needed")),
            // Secure transport required: MySQL; MariaDB says 1045 or 3159.
            3159 => (AWAY, Some("the server wants TLS: set ssl-mode=VERIFY_IDENTITY (and ssl-ca=FILE)")),
            1251 | 1524 | 2059 => {
                (AWAY, Some("give the account a plugin that pitr knows, e.g. caching_sha2_password or ed25519"))
            }
            1142 | 1143 | 1227 | 1370 | 1419 => {
                (Kind::Config, Some("`pitr grants` prints the privileges that are needed"))
            }
            1053 | 1079 | 1927 => (AWAY, Some("the server is stopping, or somebody killed this connection")),
            1041 | 1043 | 1047 | 1153 | 1156..=1161 => (AWAY, None),
            _ => (Kind::Failure, None),
        }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.code, self.sqlstate, self.message)
    }
}

impl std::error::Error for ServerError {}

/// Text for a terminal: before the login it may come from anybody.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
