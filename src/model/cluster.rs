//! Which database this is: the name people gave it and the identity it gave itself.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The name of a cluster in a store: one path component that needs no quoting.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName(String);

impl ClusterName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let good = !text.is_empty()
            && text.len() <= 100
            && !text.starts_with(['.', '-'])
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::usage(format!("cluster name {text:?} is not usable"))
                .hint("use 1 to 100 letters, digits, `.`, `-` or `_`, and begin with a letter, a digit or `_`"))
        }
    }
}

impl TryFrom<String> for ClusterName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<ClusterName> for String {
    fn from(name: ClusterName) -> Self {
        name.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What makes a database system itself: never changes while the archive lives. This
/// is the content of `cluster.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Version of the store layout; this program writes and reads version 1.
    pub format_version: u32,
    /// The engine's name, e.g. `postgres`.
    pub engine: String,
    /// The system's own identity (PostgreSQL: the system identifier, in decimal).
    pub system: String,
    /// Size of the server's log files in bytes (PostgreSQL: `wal_segment_size`). A
    /// segment never crosses a multiple of it.
    pub log_file_bytes: u64,
    /// Major version of the server when the archive was made, e.g. `15`.
    pub server_version: u32,
    /// How the archive is encrypted, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
}

/// How an archive is encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encryption {
    /// Version of the way in which objects are sealed; this program knows version 1.
    pub version: u32,
    /// What tells this archive from another one of the same database: random, in hexadecimal.
    pub id: String,
    /// The public half of the key that signs all objects (Ed25519, in base64).
    pub writer: String,
}

#[cfg(test)]
impl Identity {
    /// Some system, for tests to which only the size of its log files matters.
    pub(crate) fn some(log_file_bytes: u64) -> Self {
        Self {
            format_version: 1,
            engine: "postgres".into(),
            system: "7".into(),
            log_file_bytes,
            server_version: 15,
            encryption: None,
        }
    }
}

/// What a live server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerState {
    /// Which system it is.
    pub identity: Identity,
    /// Version as the server prints it.
    pub version: String,
    /// Its present timeline; zero where only the archive knows of timelines.
    pub timeline: super::timeline::TimelineId,
    /// The end of its durable log; zero where only the archive counts offsets.
    pub log_end: super::offset::Offset,
    /// Whether it is a standby.
    pub standby: bool,
}
