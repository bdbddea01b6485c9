//! Global transaction identifiers, and sets of them, of both servers.
//!
//! A [`Gtid`] names one transaction wherever it is replicated. A [`GtidSet`] says which
//! transactions a log, a backup or a server holds. Both are read and written in the
//! servers' own text, so that what we print can be pasted into a server.
//!
//! | | MySQL | MariaDB |
//! |---|---|---|
//! | one | `uuid:number`, `uuid:tag:number` | `domain-server-sequence` |
//! | a set | intervals of numbers, with gaps ([`MySqlSet`]) | how far each domain is ([`MariaDbSet`]) |
//!
//! The two never mix: asking one server's set for the other's transaction is answered
//! with `false`, adding it is an error.
//!
//! Source: "GTID Format and Storage" in MySQL's manual, `sql/rpl_gtid_set.cc`; "Global
//! Transaction ID" in MariaDB's documentation, `sql/rpl_gtid.cc`.

use std::fmt;
use std::str::FromStr;

use super::flavor::Flavor;
use crate::error::{Error, Result};

#[cfg(test)]
pub(super) mod fixtures;
mod intervals;
mod mariadb;
mod mysql;
mod tag;

pub use mariadb::MariaDbSet;
pub use mysql::MySqlSet;
pub(in crate::engine::mysql) use mysql::NUMBER_MAX;
pub use tag::Tag;

/// The name of one transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Gtid {
    /// MySQL's: who committed it first, and its number there.
    MySql {
        /// `server_uuid` of the server where it was first committed, or the group's name.
        uuid: [u8; 16],
        /// What `gtid_next = 'AUTOMATIC:tag'` gave it (8.3 and later).
        tag: Tag,
        /// Counts from 1 for each pair of UUID and tag.
        number: u64,
    },
    /// MariaDB's: `domain-server-sequence`.
    MariaDb {
        /// `gtid_domain_id`: transactions of one domain have one order.
        domain: u32,
        /// `server_id` of the server where it was first committed.
        server: u32,
        /// Counts up within the domain.
        sequence: u64,
    },
}

impl Gtid {
    /// Its place in the count of its UUID and tag, or of its domain.
    #[must_use]
    pub const fn number(&self) -> u64 {
        match self {
            Self::MySql { number, .. } => *number,
            Self::MariaDb { sequence, .. } => *sequence,
        }
    }

    /// Whose it is.
    #[must_use]
    pub const fn flavor(&self) -> Flavor {
        match self {
            Self::MySql { .. } => Flavor::MySql,
            Self::MariaDb { .. } => Flavor::MariaDb,
        }
    }
}

/// The server's own text: `uuid:number`, `uuid:tag:number`, `domain-server-sequence`.
impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MySql { uuid, tag, number } => {
                mysql::write_uuid(f, uuid)?;
                if !tag.is_empty() {
                    write!(f, ":{tag}")?;
                }
                write!(f, ":{number}")
            }
            Self::MariaDb { domain, server, sequence } => write!(f, "{domain}-{server}-{sequence}"),
        }
    }
}

/// Reads either server's text; MySQL's always has a colon, MariaDB's never.
///
/// # Errors
/// [`crate::Kind::Usage`] for text that is neither.
impl FromStr for Gtid {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.contains(':') { mysql::parse_gtid(text) } else { mariadb::parse_gtid(text) }
    }
}

/// Transactions of one server's kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GtidSet {
    /// MySQL's.
    MySql(MySqlSet),
    /// MariaDB's.
    MariaDb(MariaDbSet),
}

impl GtidSet {
    /// The set of no transactions.
    #[must_use]
    pub fn empty(flavor: Flavor) -> Self {
        match flavor {
            Flavor::MySql => Self::MySql(MySqlSet::default()),
            Flavor::MariaDb => Self::MariaDb(MariaDbSet::default()),
        }
    }

    /// Reads MySQL's text, as `gtid_executed` and `gtid_purged` have it.
    ///
    /// # Errors
    /// As [`MySqlSet::from_str`].
    pub fn parse_mysql(text: &str) -> Result<Self> {
        text.parse().map(Self::MySql)
    }

    /// Reads MariaDB's text, as `gtid_binlog_pos` and `gtid_binlog_state` have it.
    ///
    /// # Errors
    /// As [`MariaDbSet::from_str`].
    pub fn parse_mariadb(text: &str) -> Result<Self> {
        text.parse().map(Self::MariaDb)
    }

    /// Reads the text of a server of this kind.
    ///
    /// # Errors
    /// As [`MySqlSet::from_str`] and [`MariaDbSet::from_str`].
    pub fn parse(flavor: Flavor, text: &str) -> Result<Self> {
        match flavor {
            Flavor::MySql => Self::parse_mysql(text),
            Flavor::MariaDb => Self::parse_mariadb(text),
        }
    }

    /// Whose transactions these are.
    #[must_use]
    pub const fn flavor(&self) -> Flavor {
        match self {
            Self::MySql(_) => Flavor::MySql,
            Self::MariaDb(_) => Flavor::MariaDb,
        }
    }

    /// Adds the next transaction of the log.
    ///
    /// # Errors
    /// [`crate::Kind::Failure`] when it is the other server's.
    pub fn add(&mut self, gtid: &Gtid) -> Result<()> {
        match (self, gtid) {
            (Self::MySql(set), Gtid::MySql { uuid, tag, number }) => set.add(uuid, tag, *number),
            (Self::MariaDb(set), Gtid::MariaDb { domain, server, sequence }) => set.add(*domain, *server, *sequence),
            (set, gtid) => return Err(mixed(set.flavor(), gtid)),
        }
        Ok(())
    }

    /// Adds all that `other` holds.
    ///
    /// # Errors
    /// [`crate::Kind::Failure`] when it is the other server's.
    pub fn add_all(&mut self, other: &Self) -> Result<()> {
        match (self, other) {
            (Self::MySql(set), Self::MySql(other)) => set.add_all(other),
            (Self::MariaDb(set), Self::MariaDb(other)) => set.add_all(other),
            (set, other) => return Err(mixed(set.flavor(), other)),
        }
        Ok(())
    }

    /// Whether this holds `gtid`.
    #[must_use]
    pub fn contains(&self, gtid: &Gtid) -> bool {
        match (self, gtid) {
            (Self::MySql(set), Gtid::MySql { uuid, tag, number }) => set.contains(uuid, tag, *number),
            (Self::MariaDb(set), Gtid::MariaDb { domain, server, sequence }) => {
                set.contains(*domain, *server, *sequence)
            }
            _ => false,
        }
    }

    /// Whether this holds all that `other` holds.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::MySql(set), Self::MySql(other)) => set.covers(other),
            (Self::MariaDb(set), Self::MariaDb(other)) => set.covers(other),
            _ => other.is_empty(),
        }
    }

    /// What this holds and `other` does not; for MariaDB see [`MariaDbSet::minus`].
    ///
    /// # Errors
    /// [`crate::Kind::Failure`] when `other` is the other server's.
    pub fn minus(&self, other: &Self) -> Result<Self> {
        match (self, other) {
            (Self::MySql(set), Self::MySql(other)) => Ok(Self::MySql(set.minus(other))),
            (Self::MariaDb(set), Self::MariaDb(other)) => Ok(Self::MariaDb(set.minus(other))),
            (set, other) => Err(mixed(set.flavor(), other)),
        }
    }

    /// Whether this holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::MySql(set) => set.is_empty(),
            Self::MariaDb(set) => set.is_empty(),
        }
    }
}

/// The server's own text, `{:#}` in one line; nothing for an empty set.
impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MySql(set) => set.fmt(f),
            Self::MariaDb(set) => set.fmt(f),
        }
    }
}

fn mixed(flavor: Flavor, other: &dyn fmt::Display) -> Error {
    Error::failure(format!("{other:?} is no GTID of {flavor}", other = other.to_string()))
        .hint("do both ends run the same kind of server? MySQL and MariaDB cannot continue each other's logs")
}

#[cfg(test)]
mod tests;
