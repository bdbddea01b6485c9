//! Everything `pitr check` asks a live server: can pitr archive it, will it go on to,
//! and what should the operator change.
//!
//! Works with a role that has REPLICATION and `pg_monitor`; what such a role may not
//! see is a warning with the grant as its cure, never a failure. The plain-SQL half
//! needs a database the role may connect to; without one the checks that need it say
//! so.

use super::connect::{Connection, Mode, connect};
use super::conninfo::SslMode;
use super::source::{VERSION_MAX, VERSION_MIN, conninfo};
use crate::engine::{Finding, Level, SlotStatus, SourceOptions};
use crate::error::{Error, Result};
use crate::model::time::Clock;

mod grants;
mod judge;
mod slot;
#[cfg(test)]
mod tests;

pub use grants::grants;

/// A finding that needs no cure.
fn ok(subject: &str, message: impl Into<String>) -> Finding {
    Finding { subject: subject.to_owned(), level: Level::Ok, message: message.into(), cure: None }
}

fn warning(subject: &str, message: impl Into<String>, cure: impl Into<String>) -> Finding {
    Finding { subject: subject.to_owned(), level: Level::Warning, message: message.into(), cure: Some(cure.into()) }
}

fn critical(subject: &str, message: impl Into<String>, cure: impl Into<String>) -> Finding {
    Finding { subject: subject.to_owned(), level: Level::Critical, message: message.into(), cure: Some(cure.into()) }
}

fn from_error(subject: &str, level: Level, error: &Error) -> Finding {
    Finding { subject: subject.to_owned(), level, message: error.to_string(), cure: error.advice().map(str::to_owned) }
}

/// Inspects the server at `url`. A server that cannot be reached is a finding, not an
/// error: `pitr check` prints it beside what else it found.
///
/// # Errors
/// [`crate::Kind::Config`] when the connection string itself is wrong.
pub async fn inspect(url: &str, options: &SourceOptions, clock: &dyn Clock) -> Result<Vec<Finding>> {
    let info = conninfo(url, options)?;
    let mut findings = Vec::new();
    for endpoint in info.endpoints.iter().filter(|e| !e.is_local()) {
        let mode = info.ssl_mode(endpoint);
        if mode < SslMode::VerifyCa {
            let message = format!("sslmode {mode:?} for {endpoint} does not check who the server is");
            findings.push(warning("tls", message, "set sslmode=verify-full in the source URL"));
        }
    }
    let mut walsender = match connect(&info, Mode::Replication).await {
        Ok(connection) => connection,
        Err(error) => {
            findings.push(from_error("connection", Level::Critical, &error));
            // The settings may say why, if the server lets us in at all.
            if let Ok(mut sql) = connect(&info, Mode::Sql).await {
                findings.extend(settings_by_show(&mut sql).await);
                sql.close().await;
            }
            return Ok(findings);
        }
    };
    let server = walsender.parameter("server_version").unwrap_or_default().to_owned();
    findings.push(ok("connection", format!("{} as {:?}, PostgreSQL {server}", walsender.place(), info.user)));
    findings.push(judge::version(walsender.server_version_num() / 10_000));
    if let Err(error) = walsender.query("IDENTIFY_SYSTEM").await {
        findings.push(from_error("replication", Level::Critical, &error));
    }
    match super::connect::beside(&info, &walsender).await {
        Ok(mut sql) => {
            let name = info.application_name.as_deref().unwrap_or("pitr");
            for finding in with_sql(&mut sql, walsender.process(), options.slot.as_deref(), name, clock).await {
                match finding {
                    Ok(finding) => findings.push(finding),
                    Err((subject, error)) => findings.push(from_error(subject, Level::Warning, &error)),
                }
            }
            sql.close().await;
        }
        Err(error) => {
            let mut finding = from_error("sql", Level::Warning, &error);
            finding.message = format!("settings, slot and lag cannot be looked at: {}", finding.message);
            findings.push(finding);
            findings.extend(settings_by_show(&mut walsender).await);
        }
    }
    walsender.close().await;
    Ok(findings)
}

/// How the slot of `options` stands on the server that replication goes to.
///
/// # Errors
/// When the server cannot be reached, or not in plain SQL.
pub async fn slot(url: &str, options: &SourceOptions) -> Result<Option<SlotStatus>> {
    let Some(name) = options.slot.as_deref() else { return Ok(None) };
    let info = conninfo(url, options)?;
    let walsender = connect(&info, Mode::Replication).await?;
    let mut sql = super::connect::beside(&info, &walsender).await?;
    let row = slot::read(&mut sql, name).await;
    sql.close().await;
    walsender.close().await;
    Ok(Some(slot::status(name, &row?)))
}

/// What a replication connection alone can tell.
async fn settings_by_show(walsender: &mut Connection) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (setting, judge) in [
        ("wal_level", judge::wal_level as fn(&str) -> Finding),
        ("full_page_writes", judge::full_page_writes),
        ("data_checksums", judge::data_checksums),
    ] {
        match walsender.show(setting).await {
            Ok(value) => findings.push(judge(&value.unwrap_or_default())),
            Err(error) => findings.push(from_error(setting, Level::Warning, &error)),
        }
    }
    findings
}

type Outcome = Result<Finding, (&'static str, Error)>;

async fn with_sql(
    sql: &mut Connection,
    own_process: i32,
    slot: Option<&str>,
    name: &str,
    clock: &dyn Clock,
) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    outcomes.push(role(sql).await.map_err(|e| ("replication", e)));
    match row(sql, SETTINGS).await {
        Ok(row) => outcomes.extend(judge::settings(&row).into_iter().map(Ok)),
        Err(error) => outcomes.push(Err(("settings", error))),
    }
    outcomes.push(clock_skew(sql, clock).await.map_err(|e| ("clock", e)));
    if let Some(slot) = slot {
        match slot::read(sql, slot).await {
            Ok(row) => outcomes.extend(slot::judge(slot, &row).into_iter().map(Ok)),
            Err(error) => outcomes.push(Err(("slot", error))),
        }
    }
    outcomes.push(lag(sql, own_process, name).await.map_err(|e| ("lag", e)));
    outcomes
}

/// One row of named values.
#[derive(Clone, Debug, Default)]
struct Row(Vec<(String, Option<String>)>);

impl Row {
    fn get(&self, column: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == column).and_then(|(_, value)| value.as_deref())
    }

    fn text(&self, column: &str) -> &str {
        self.get(column).unwrap_or_default()
    }

    fn number(&self, column: &str) -> Option<i64> {
        self.get(column).and_then(|v| v.parse().ok())
    }

    fn yes(&self, column: &str) -> bool {
        self.get(column) == Some("t")
    }
}

/// The first row, empty when there is none.
async fn row(sql: &mut Connection, query: &str) -> Result<Row> {
    let set = sql.query(query).await?.into_iter().next().unwrap_or_default();
    let values = set.rows.into_iter().next().unwrap_or_default();
    Ok(Row(set.columns.into_iter().zip(values).collect()))
}

/// `current_setting(.., true)` gives null for a setting the version does not know.
const SETTINGS: &str = "SELECT current_setting('wal_level') AS wal_level, \
    current_setting('full_page_writes') AS full_page_writes, \
    current_setting('data_checksums') AS data_checksums, \
    current_setting('max_wal_senders') AS max_wal_senders, \
    (SELECT count(*) FROM pg_catalog.pg_stat_replication) AS wal_senders, \
    current_setting('max_replication_slots') AS max_replication_slots, \
    (SELECT count(*) FROM pg_catalog.pg_replication_slots) AS replication_slots, \
    (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size') AS max_slot_wal_keep_size_mb, \
    current_setting('wal_sender_timeout') AS wal_sender_timeout, \
    current_setting('synchronous_standby_names') AS synchronous_standby_names";

async fn role(sql: &mut Connection) -> Result<Finding> {
    let row = row(
        sql,
        "SELECT current_user AS name, rolreplication OR rolsuper AS replicates, rolsuper AS superuser, \
         pg_has_role(current_user, 'pg_monitor', 'USAGE') AS monitors \
         FROM pg_catalog.pg_roles WHERE rolname = current_user",
    )
    .await?;
    Ok(judge::role(&row))
}

/// Compares the clocks: the server's answer lies between our two looks.
async fn clock_skew(sql: &mut Connection, clock: &dyn Clock) -> Result<Finding> {
    let before = clock.now();
    let row = row(sql, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS micros").await?;
    let after = clock.now();
    Ok(judge::clock(before, row.number("micros"), after))
}

/// `own_process` is this inspection's own walsender, which bears the same name.
async fn lag(sql: &mut Connection, own_process: i32, name: &str) -> Result<Finding> {
    // `application_name` may hold anything: as a literal with every quote doubled, and
    // with standard strings whatever the server's default is.
    let literal = name.replace('\'', "''");
    sql.query("SET standard_conforming_strings = on").await?;
    let query = format!(
        "SELECT state, sync_state, flush_lsn, \
         (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END - flush_lsn)::bigint AS lag_bytes \
         FROM pg_catalog.pg_stat_replication WHERE application_name = '{literal}' AND pid <> {own_process} \
         ORDER BY lag_bytes NULLS LAST LIMIT 1"
    );
    Ok(judge::lag(name, &row(sql, &query).await?))
}
