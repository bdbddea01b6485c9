//! Where a transaction ends: the servers' own rules.
//!
//! A transaction (*event group*) begins with an event that gives it a GTID, or says that it has
//! none. Where it ends depends on what follows. Sources: MySQL
//! `sql/rpl_trx_boundary_parser.cc`; MariaDB `sql/log_event.h` (`is_part_of_group`,
//! `is_group_event`) and `sql/rpl_parallel.cc`.

use super::super::flavor::Flavor;
use super::event::{CHECKSUM_BYTES, Header, kind, statement};

/// How a transaction goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Until something commits it or rolls it back.
    Begun,
    /// MariaDB: one statement.
    Standalone,
    /// MySQL: the next statement tells.
    Open,
}

/// Statements are looked at no further than this.
const WORD_BYTES: usize = 16;

impl Shape {
    /// The shape of a transaction whose first event says whether it is one statement.
    #[must_use]
    pub const fn of(flavor: Flavor, standalone: bool) -> Self {
        match flavor {
            Flavor::MySql => Self::Open,
            Flavor::MariaDb if standalone => Self::Standalone,
            Flavor::MariaDb => Self::Begun,
        }
    }

    /// Takes the next event of the transaction: whether it is the last one. `body` is what
    /// follows the header, with its checksum if there is one; a part from its beginning will do.
    pub fn ends_with(&mut self, header: &Header, body: &[u8], checksums: bool) -> bool {
        match header.kind {
            kind::XID | kind::XA_PREPARE | kind::TRANSACTION_PAYLOAD | kind::VIEW_CHANGE | kind::INCIDENT => true,
            kind::EXECUTE_LOAD_QUERY | kind::QUERY_COMPRESSED => *self != Self::Begun,
            kind::QUERY => {
                let whole = header.length as usize == super::event::HEADER_BYTES + body.len();
                let body = match body.len().checked_sub(CHECKSUM_BYTES) {
                    Some(end) if checksums && whole => body.get(..end).unwrap_or(body),
                    _ => body,
                };
                self.ends_with_statement(statement(body).unwrap_or_default())
            }
            _ => false,
        }
    }

    fn ends_with_statement(&mut self, text: &[u8]) -> bool {
        let starts =
            |word: &str| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes()));
        let is = |word: &str| text.len() == word.len() && starts(word);
        match self {
            Self::Standalone => true,
            Self::Begun => {
                text.len() <= WORD_BYTES && (is("COMMIT") || is("ROLLBACK"))
                    || starts("XA COMMIT")
                    || starts("XA ROLLBACK")
            }
            Self::Open if is("BEGIN") || starts("XA START") => {
                *self = Self::Begun;
                false
            }
            Self::Open => true,
        }
    }
}
