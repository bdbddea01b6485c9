//! What the server says in `ErrorResponse` and `NoticeResponse`.
//!
//! A body is a list of fields, each one letter and a zero-terminated text, closed by
//! a zero byte. Source: PostgreSQL manual, "Error and Notice Message Fields".
//!
//! The *message* is in the server's language (`lc_messages`, which only a superuser
//! may change), so code decides by SQLSTATE and by the routine's name, which are not
//! translated; the English text is only an additional witness.

use std::fmt;

use super::cursor::{Cursor, malformed};
use crate::error::{Error, Kind, Result};

/// An error or a notice of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// `ERROR`, `FATAL`, `WARNING`, ...: never translated.
    pub severity: String,
    /// Five letters and digits, e.g. `28P01`.
    pub sqlstate: String,
    /// The primary message.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// The server's own advice.
    pub hint: Option<String>,
    /// The C function that reported it, e.g. `StartReplication`.
    pub routine: Option<String>,
}

impl Report {
    /// Reads the body of `ErrorResponse` or `NoticeResponse`.
    ///
    /// # Errors
    /// [`Kind::DatabaseUnreachable`] when the body is not a list of fields.
    pub fn parse(body: &[u8]) -> Result<Self> {
        let mut cursor = Cursor::new("ErrorResponse", body);
        let mut report = Self::default();
        loop {
            let field = cursor.u8()?;
            if field == 0 {
                break;
            }
            let text = cursor.text()?;
            match field {
                b'V' => report.severity = text,
                // The translated severity, for servers that send no other.
                b'S' if report.severity.is_empty() => report.severity = text,
                b'C' => report.sqlstate = text,
                b'M' => report.message = text,
                b'D' => report.detail = Some(text),
                b'H' => report.hint = Some(text),
                b'R' => report.routine = Some(text),
                _ => {}
            }
        }
        if report.message.is_empty() && report.sqlstate.is_empty() {
            return Err(malformed("ErrorResponse"));
        }
        cursor.end()?;
        Ok(report)
    }

    /// Whether the server closes the connection after this.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity.as_str(), "FATAL" | "PANIC")
    }

    /// This report as an error of `place` (host and port), its kind taken from the
    /// SQLSTATE. Callers that know what they asked for refine kind and hint.
    #[must_use]
    pub fn to_error(&self, place: &str) -> Error {
        let (kind, advice) = match (self.sqlstate.as_str(), self.sqlstate.get(..2).unwrap_or_default()) {
            ("28P01", _) => (
                Kind::DatabaseUnreachable,
                Some(
                    "is the password right? it is taken from the URL, PGPASSWORD or ~/.pgpass (database `replication`)",
                ),
            ),
            (_, "28") => (
                Kind::DatabaseUnreachable,
                Some(
                    "does pg_hba.conf let this user in with database `replication`, and may the role replicate? \
                     `pitr grants` prints both",
                ),
            ),
            ("42501", _) => (Kind::Config, Some("`pitr grants` prints the privileges that are needed")),
            ("53300", _) => (
                Kind::DatabaseUnreachable,
                Some(
                    "raise max_wal_senders or max_connections, or look in pg_stat_replication for a forgotten receiver",
                ),
            ),
            ("57P03", _) => (Kind::DatabaseUnreachable, Some("wait until the server has started")),
            ("3D000", _) => (Kind::Config, Some("name an existing database in the source URL")),
            (_, "08" | "53" | "57" | "58") => (Kind::DatabaseUnreachable, None),
            (_, "XX") if self.sqlstate == "XX001" || self.sqlstate == "XX002" => (Kind::Corruption, None),
            _ => (Kind::Failure, None),
        };
        let error = Error::new(kind, format!("{place}: {self}"));
        match (advice, &self.hint) {
            (Some(advice), _) => error.hint(advice),
            (None, Some(hint)) => error.hint(hint.clone()),
            (None, None) => error,
        }
    }
}

/// Message, SQLSTATE and detail on one line.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({})", detail.replace('\n', " "))?;
        }
        write!(f, " [{}]", self.sqlstate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REMOVED: &[u8] = b"SERREUR\0VERROR\0C58P01\0Mrequested WAL segment 000000010000000000000001 \
        has already been removed\0Fwalsender.c\0L2985\0RWalSndSegmentOpen\0\0";

    #[test]
    fn reads_the_untranslated_severity_and_the_fields() {
        let report = Report::parse(REMOVED).unwrap();
        assert_eq!(report.severity, "ERROR");
        assert_eq!(report.sqlstate, "58P01");
        assert_eq!(report.routine.as_deref(), Some("WalSndSegmentOpen"));
        assert!(!report.is_fatal());
    }

    #[test]
    fn every_shortened_body_is_refused() {
        for end in 0..REMOVED.len() {
            assert!(Report::parse(&REMOVED[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_refused_password_says_where_it_was_looked_for() {
        let report = Report::parse(b"SFATAL\0C28P01\0Mpassword authentication failed\0\0").unwrap();
        let error = report.to_error("db:5432");
        assert_eq!(error.kind(), Kind::DatabaseUnreachable);
        assert_eq!(error.to_string(), "db:5432: password authentication failed [28P01]");
        assert!(error.advice().unwrap().contains(".pgpass"));
    }
}
