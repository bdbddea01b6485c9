//! MariaDB's sets of GTIDs: how far each domain is.
//!
//! ```text
//! 0-1-100,1-2-7          a position: the last transaction of each domain
//! 0-2-90,0-1-100,1-2-7   a state: also the last one of each other server in a domain
//! ```
//!
//! [`MariaDbSet`] serves both: it keeps for each domain the last sequence number of each
//! server it was told of, and which of them came last. Where only a position was read,
//! that is one server. In a text, the last of a domain's entries is its position, which
//! is how the server writes `gtid_binlog_state` and GTID_LIST events.
//!
//! Everything in a domain before its position counts as held: a domain has one order,
//! and its sequence numbers rise (`gtid_strict_mode` enforces it). Where they do not,
//! the state still knows the last one of each server.
//!
//! Source: "Global Transaction ID" in MariaDB's documentation, `rpl_binlog_state` in
//! `sql/rpl_gtid.cc`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::Gtid;
use crate::error::{Error, Result};

mod binary;

/// One domain: its position, and the last sequence numbers of its other servers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Domain {
    server: u32,
    sequence: u64,
    others: BTreeMap<u32, u64>,
}

impl Domain {
    /// Takes the next transaction of the domain's order.
    fn advance(&mut self, server: u32, sequence: u64) {
        if server != self.server {
            self.others.remove(&server);
            self.others.insert(self.server, self.sequence);
            self.server = server;
        }
        self.sequence = sequence;
    }

    fn holds(&self, server: u32, sequence: u64) -> bool {
        sequence <= self.sequence || self.others.get(&server).is_some_and(|&last| sequence <= last)
    }

    /// Servers and their last sequence numbers, the position last.
    fn entries(&self) -> impl Iterator<Item = (u32, u64)> {
        self.others.iter().map(|(&server, &sequence)| (server, sequence)).chain([(self.server, self.sequence)])
    }
}

/// A set of MariaDB's GTIDs: a position, or a whole state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MariaDbSet {
    domains: BTreeMap<u32, Domain>,
}

impl MariaDbSet {
    /// Adds the next transaction of the log: it becomes its domain's position, even when
    /// a greater sequence number came before, as in the server
    /// (`rpl_binlog_state::update_nolock`).
    pub fn add(&mut self, domain: u32, server: u32, sequence: u64) {
        self.domains.entry(domain).and_modify(|held| held.advance(server, sequence)).or_insert_with(|| Domain {
            server,
            sequence,
            others: BTreeMap::new(),
        });
    }

    /// Adds all that `other` holds: in each domain the position that is further wins.
    pub fn add_all(&mut self, other: &Self) {
        for (&id, theirs) in &other.domains {
            let Some(ours) = self.domains.get_mut(&id) else {
                self.domains.insert(id, theirs.clone());
                continue;
            };
            let further = if ours.holds(theirs.server, theirs.sequence) { &*ours } else { theirs };
            let (server, sequence) = (further.server, further.sequence);
            let mut all: BTreeMap<u32, u64> = ours.entries().collect();
            for (server, sequence) in theirs.entries() {
                all.entry(server).and_modify(|held| *held = sequence.max(*held)).or_insert(sequence);
            }
            let sequence = all.remove(&server).unwrap_or(sequence);
            *ours = Domain { server, sequence, others: all };
        }
    }

    /// Whether this holds the transaction.
    #[must_use]
    pub fn contains(&self, domain: u32, server: u32, sequence: u64) -> bool {
        self.domains.get(&domain).is_some_and(|held| held.holds(server, sequence))
    }

    /// Whether this holds all that `other` holds.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.entries().all(|(domain, server, sequence)| self.contains(domain, server, sequence))
    }

    /// Whether this holds the transaction and knows it from the server that it is of: a position
    /// alone tells of no more than the last server of each domain.
    #[must_use]
    pub fn has_from_its_server(&self, gtid: &Gtid) -> bool {
        let Gtid::MariaDb { server, sequence, .. } = gtid else { return false };
        self.last_of(gtid).is_some_and(|(own, last)| own == *server && *sequence <= last)
    }

    /// Whether any transaction of the same server and domain is held.
    #[must_use]
    pub fn knows_server(&self, gtid: &Gtid) -> bool {
        self.last_of(gtid).is_some()
    }

    /// The server of a transaction and its last one here.
    fn last_of(&self, gtid: &Gtid) -> Option<(u32, u64)> {
        let Gtid::MariaDb { domain, server, .. } = gtid else { return None };
        self.domains.get(domain)?.entries().find(|(own, _)| own == server)
    }

    /// The domains in which this goes further than `other`, at this one's position: what
    /// is missing there begins after `other`'s. Empty exactly when `other` covers this.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let further = self.domains.iter().filter(|&(&domain, held)| {
            held.entries().any(|(server, sequence)| !other.contains(domain, server, sequence))
        });
        Self { domains: further.map(|(&domain, held)| (domain, held.clone())).collect() }
    }

    /// Whether this holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// The last transaction of each domain, in order of domains.
    pub fn position(&self) -> impl Iterator<Item = Gtid> {
        self.domains.iter().map(|(&domain, held)| Gtid::MariaDb {
            domain,
            server: held.server,
            sequence: held.sequence,
        })
    }

    /// The text of the whole state, fit for `SET GLOBAL gtid_binlog_state`; [`fmt::Display`]
    /// gives the position only.
    #[must_use]
    pub fn state(&self) -> String {
        let entries: Vec<String> =
            self.entries().map(|(domain, server, sequence)| format!("{domain}-{server}-{sequence}")).collect();
        entries.join(",")
    }

    /// All entries, each domain's position last.
    fn entries(&self) -> impl Iterator<Item = (u32, u32, u64)> {
        self.domains
            .iter()
            .flat_map(|(&domain, held)| held.entries().map(move |(server, sequence)| (domain, server, sequence)))
    }

    /// Adds an entry of a text or list; `false` when the domain already has the server.
    fn add_entry(&mut self, domain: u32, server: u32, sequence: u64) -> bool {
        let known =
            self.domains.get(&domain).is_some_and(|held| held.server == server || held.others.contains_key(&server));
        if !known {
            self.add(domain, server, sequence);
        }
        !known
    }
}

/// The position, as `gtid_binlog_pos` has it and `slave_connect_state` takes it.
impl fmt::Display for MariaDbSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, gtid) in self.position().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{gtid}")?;
        }
        Ok(())
    }
}

/// Reads a position or a state. White space is allowed around every entry.
///
/// # Errors
/// [`crate::Kind::Usage`] for an entry that is no GTID, and for a second entry of one
/// server in one domain.
impl FromStr for MariaDbSet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut set = Self::default();
        if text.trim().is_empty() {
            return Ok(set);
        }
        for entry in text.split(',').map(str::trim) {
            let (domain, server, sequence) = parse_entry(entry)?;
            if !set.add_entry(domain, server, sequence) {
                return Err(Error::usage(format!("{entry} is the second entry of server {server} in domain {domain}"))
                    .hint("were two positions joined? give one GTID for each domain"));
            }
        }
        Ok(set)
    }
}

/// `domain-server-sequence`.
pub(super) fn parse_gtid(text: &str) -> Result<Gtid> {
    let (domain, server, sequence) = parse_entry(text)?;
    Ok(Gtid::MariaDb { domain, server, sequence })
}

fn parse_entry(text: &str) -> Result<(u32, u32, u64)> {
    let mut words = text.split('-').filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
    let mut word = || words.next().unwrap_or_default();
    match (word().parse(), word().parse(), word().parse(), text.split('-').count()) {
        (Ok(domain), Ok(server), Ok(sequence), 3) => Ok((domain, server, sequence)),
        _ => Err(Error::usage(format!("{text:?} is no GTID of MariaDB"))
            .hint("it looks like 0-1-100: domain, server and sequence number")),
    }
}
