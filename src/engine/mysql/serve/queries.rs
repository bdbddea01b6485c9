//! Which statement of a replica gets which answer. Pure: no socket, no clock.
//!
//! Before a replica asks for the log it looks at its source with a dozen statements (MySQL
//! `get_master_version_and_clock`, `register_slave_on_master` of `sql/rpl_replica.cc`; MariaDB
//! the same of `sql/slave.cc`). Every statement that the tested servers send is in the fixtures
//! `wire/replica_*`. A statement that is not known gets an error that names it, which a replica
//! passes on to its operator; a system variable that is not known gets the server's own error,
//! which a replica takes for "an older source".

use std::time::Duration;

use super::{Flavor, Settings};

/// `ER_PARSE_ERROR`
const PARSE_ERROR: u16 = 1064;
/// `ER_UNKNOWN_SYSTEM_VARIABLE`
const UNKNOWN_SYSTEM_VARIABLE: u16 = 1193;
/// `ER_NOT_SUPPORTED_YET`
const NOT_SUPPORTED: u16 = 1235;

/// What a replica has set for its session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    /// How often it wants to hear of us while there is nothing to send.
    pub(super) heartbeat: Option<Duration>,
    /// The checksum it expects of what comes before the first format description. `None` for
    /// a client that knows nothing of checksums.
    pub(super) checksum: Option<Checksum>,
    /// The GTID position a MariaDB replica wants to go on from.
    pub(super) connect_state: Option<String>,
}

/// A checksum of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checksum {
    /// None.
    None,
    /// CRC-32.
    Crc32,
}

impl Checksum {
    /// As in `@@binlog_checksum`.
    fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Crc32 => "CRC32",
        }
    }
}

/// The answer to a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Done.
    Ok,
    /// A result set.
    Rows {
        /// Names of the columns.
        columns: Vec<String>,
        /// Its only row, if it has one.
        row: Option<Vec<Option<String>>>,
    },
    /// Not done.
    Refused {
        /// The server's number for it.
        code: u16,
        /// Why.
        message: String,
    },
}

/// Answers `statement` as a source with `settings` at `now`, seconds since 1970.
pub(super) fn answer(statement: &str, settings: &Settings, now: i64, wishes: &mut Wishes) -> Answer {
    let statement = statement.trim().trim_end_matches(';').trim_end();
    let (verb, rest) = statement.split_once(char::is_whitespace).unwrap_or((statement, ""));
    match verb.to_ascii_lowercase().as_str() {
        "set" => set(rest.trim(), wishes),
        "select" => select(rest.trim(), settings, now, wishes),
        "show" => show(rest.trim(), settings),
        _ => unknown(statement),
    }
}

fn unknown(statement: &str) -> Answer {
    let shown: String = statement.chars().take(120).collect();
    Answer::Refused { code: PARSE_ERROR, message: format!("this source serves a log and does not know: {shown}") }
}

/// `SET @name = value, …`, and `SET NAMES …`.
fn set(assignments: &str, wishes: &mut Wishes) -> Answer {
    if !assignments.starts_with('@') {
        // Character sets, time-outs and modes of a session that has no tables.
        return Answer::Ok;
    }
    for assignment in split_at_commas(assignments) {
        let Some((name, value)) = assignment.split_once('=') else { return unknown(assignment) };
        let name = name.trim().trim_end_matches(':').trim_end().to_ascii_lowercase();
        let value = unquoted(value.trim());
        match name.as_str() {
            "@master_heartbeat_period" | "@source_heartbeat_period" => {
                // In nanoseconds; none for 0.
                wishes.heartbeat = value.parse().ok().filter(|period| *period > 0).map(Duration::from_nanos);
            }
            "@master_binlog_checksum" | "@source_binlog_checksum" => {
                let none = value.eq_ignore_ascii_case("none");
                wishes.checksum = Some(if none { Checksum::None } else { Checksum::Crc32 });
            }
            "@slave_connect_state" => wishes.connect_state = Some(value.to_owned()),
            "@slave_until_gtid" => {
                return Answer::Refused {
                    code: NOT_SUPPORTED,
                    message: "this source ends where its log ends: use START SLAVE without UNTIL".to_owned(),
                };
            }
            // Who the replica is, what it can do and how strict it is: nothing depends on it here.
            _ => {}
        }
    }
    Answer::Ok
}

/// `SELECT term, …` of variables and the time.
fn select(terms: &str, settings: &Settings, now: i64, wishes: &Wishes) -> Answer {
    let mut columns = Vec::new();
    let mut row = Vec::new();
    for term in split_at_commas(terms) {
        let lower = term.to_ascii_lowercase();
        let value = match lower.as_str() {
            "unix_timestamp()" => Some(now.to_string()),
            "@master_binlog_checksum" | "@source_binlog_checksum" => wishes.checksum.map(|it| it.name().to_owned()),
            _ => {
                let Some(name) = lower.strip_prefix("@@") else { return unknown(&format!("SELECT {terms}")) };
                let name = name.strip_prefix("global.").unwrap_or(name);
                match variable(name, settings) {
                    Some(value) => Some(value),
                    None => {
                        let message = format!("Unknown system variable '{name}'");
                        return Answer::Refused { code: UNKNOWN_SYSTEM_VARIABLE, message };
                    }
                }
            }
        };
        columns.push(term.to_owned());
        row.push(value);
    }
    Answer::Rows { columns, row: Some(row) }
}

/// `SHOW VARIABLES LIKE 'name'`.
fn show(rest: &str, settings: &Settings) -> Answer {
    let lower = rest.to_ascii_lowercase();
    let words = lower.trim_start_matches("global").trim_start();
    let Some(pattern) = words.strip_prefix("variables").and_then(|rest| rest.trim_start().strip_prefix("like")) else {
        return unknown(&format!("SHOW {rest}"));
    };
    let name = unquoted(pattern.trim());
    let columns = vec!["Variable_name".to_owned(), "Value".to_owned()];
    let row = variable(name, settings).map(|value| vec![Some(name.to_owned()), Some(value)]);
    Answer::Rows { columns, row }
}

/// A system variable, by its name in lower case.
fn variable(name: &str, settings: &Settings) -> Option<String> {
    let value = match (name, settings.flavor) {
        ("server_id", _) => return Some(settings.server_id.to_string()),
        ("version", _) => &settings.version,
        ("binlog_checksum", _) => Checksum::Crc32.name(),
        ("server_uuid", Flavor::MySql) => &settings.server_uuid,
        ("gtid_mode", Flavor::MySql) => "ON",
        ("rpl_semi_sync_source_enabled" | "rpl_semi_sync_master_enabled", Flavor::MySql) => "0",
        ("rpl_semi_sync_master_enabled", Flavor::MariaDb) => "OFF",
        ("gtid_domain_id", Flavor::MariaDb) => "0",
        _ => return None,
    };
    Some(value.to_owned())
}

/// The parts of a list, trimmed; commas in quotes do not part.
fn split_at_commas(list: &str) -> impl Iterator<Item = &str> {
    let mut quote = None;
    let parts = list.split(move |c| match (quote, c) {
        (Some(open), _) if open == c => {
            quote = None;
            false
        }
        (None, '\'' | '"') => {
            quote = Some(c);
            false
        }
        (None, ',') => true,
        _ => false,
    });
    parts.map(str::trim)
}

/// A value without the quotes around it. What replicas quote holds no quotes.
fn unquoted(value: &str) -> &str {
    let quoted = |quote| value.strip_prefix(quote).and_then(|value: &str| value.strip_suffix(quote));
    quoted('\'').or_else(|| quoted('"')).unwrap_or(value)
}
