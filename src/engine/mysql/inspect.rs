//! Everything `pitr check` asks a live server, and the statements that let pitr in.

use super::connect::Connection;
use super::conninfo::{Endpoint, SslMode};
use super::flavor::Flavor;
use super::privileges::{self, lacking};
use super::source::conninfo;
use super::source::facts::Facts;
use super::source::logs::Logs;
use crate::engine::{Finding, Level, SourceOptions};
use crate::error::{Error, Result};

/// A clock that is further off than this is told.
const CLOCK_MICROS_MAX: u64 = 2_000_000;

/// Log is kept for less than this many seconds: a weekend without an archiver loses some.
const KEPT_SECONDS_MIN: u64 = 3 * 86_400;

fn finding(subject: &str, level: Level, message: impl Into<String>, cure: Option<String>) -> Finding {
    Finding { subject: subject.to_owned(), level, message: message.into(), cure }
}

fn ok(subject: &str, message: impl Into<String>) -> Finding {
    finding(subject, Level::Ok, message, None)
}

fn warning(subject: &str, message: impl Into<String>, cure: &str) -> Finding {
    finding(subject, Level::Warning, message, Some(cure.to_owned()))
}

fn from_error(subject: &str, error: &Error) -> Finding {
    finding(subject, Level::Critical, error.to_string(), error.advice().map(str::to_owned))
}

/// Whether somebody streams the log with the account of `url`, who can only be an archiver.
///
/// # Errors
/// As [`Connection::connect`].
pub(super) async fn has_archiver(url: &str, options: &SourceOptions) -> Result<bool> {
    let info = conninfo(url, options)?;
    let mut connection = Connection::connect(&info).await?;
    // Id, User, Host, db, Command, ...; one's own are shown without any privilege.
    let threads = connection.query_all("SHOW PROCESSLIST").await?;
    connection.quit().await;
    let is_dump = |thread: &Vec<Option<String>>| {
        let column = |number: usize| thread.get(number).and_then(Option::as_deref).unwrap_or_default();
        column(1) == info.user && column(4).starts_with("Binlog Dump")
    };
    Ok(threads.iter().any(is_dump))
}

/// Inspects the server at `url`. A server that cannot be reached is a finding, not an error.
///
/// # Errors
/// [`crate::Kind::Config`] when the URL itself is wrong.
pub(super) async fn inspect(url: &str, options: &SourceOptions) -> Result<Vec<Finding>> {
    let info = conninfo(url, options)?;
    let mut findings = Vec::new();
    for endpoint in &info.endpoints {
        let weak = matches!(info.ssl_mode(endpoint), SslMode::Disabled | SslMode::Preferred | SslMode::Required);
        if matches!(endpoint, Endpoint::Tcp { .. }) && !endpoint.is_local() && weak {
            let message = format!("the TLS mode for {endpoint} does not check who the server is");
            findings.push(warning("tls", message, "set ssl-mode=VERIFY_IDENTITY in the source URL"));
        }
    }
    let mut connection = match Connection::connect(&info).await {
        Ok(connection) => connection,
        Err(error) => {
            findings.push(from_error("connection", &error));
            return Ok(findings);
        }
    };
    let (place, version, flavor) =
        (connection.place().to_owned(), connection.version().to_owned(), connection.flavor());
    findings.push(ok("connection", format!("{place} as {:?}, {flavor} {version}", info.user)));
    let held = connection.query_all("SHOW GRANTS FOR CURRENT_USER()").await.unwrap_or_default();
    let held: Vec<String> = held.into_iter().flatten().flatten().collect();
    findings.extend(judge_privileges(&held, flavor, &info.user));
    let asked = async {
        let facts = Facts::ask(&mut connection).await?;
        let logs = if facts.log_bin { Some(Logs::ask(&mut connection).await?) } else { None };
        Ok::<_, Error>((facts, logs))
    };
    match asked.await {
        Ok((facts, logs)) => findings.extend(judge(&facts, logs.as_ref())),
        Err(error) => {
            findings.push(from_error("log", &error));
            return Ok(findings);
        }
    }
    findings.extend(settings(&mut connection).await);
    connection.quit().await;
    Ok(findings)
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn judge(facts: &Facts, logs: Option<&Logs>) -> Vec<Finding> {
    let mut findings = Vec::new();
    match facts.check() {
        Err(error) => findings.push(from_error("log", &error)),
        Ok(()) => {
            let (files, bytes) = logs.map(Logs::size).unwrap_or_default();
            findings.push(ok("log", format!("{files} binlog files, {:.1} MiB", bytes as f64 / f64::from(1 << 20))));
        }
    }
    if facts.has_gtids {
        findings.push(ok("gtids", "transactions have GTIDs"));
    } else {
        let message = "gtid_mode is not ON: after a failover nothing tells where another server's log goes on";
        findings.push(warning(
            "gtids",
            message,
            "SET PERSIST gtid_mode in steps, see the manual's \"Enabling GTID Transactions Online\"",
        ));
    }
    let off = facts.clock_ahead_micros.unsigned_abs();
    if off > CLOCK_MICROS_MAX {
        let message = format!("the server's clock and this machine's differ by {:.1} s", off as f64 / 1e6);
        findings.push(warning("clock", message, "let both keep time with NTP: targets are in the server's time"));
    } else {
        findings.push(ok("clock", "the server's clock and this machine's agree"));
    }
    findings
}

/// What the account may do, and what it may not.
fn judge_privileges(held: &[String], flavor: Flavor, user: &str) -> [Finding; 2] {
    let grant = |lacking: &str| format!("GRANT {lacking} ON *.* TO '{user}'@...; `pitr grants` prints all");
    let needed = privileges::streaming(flavor);
    let stream = match lacking(held, needed).join(", ") {
        none if none.is_empty() => ok("privileges", format!("{} are there", needed.join(", "))),
        some => finding("privileges", Level::Critical, format!("{some} is lacking"), Some(grant(&some))),
    };
    // Either kind of base backup will do.
    let physical = lacking(held, privileges::physical(flavor)).join(", ");
    let logical = lacking(held, privileges::logical(flavor)).join(", ");
    let base = match (physical.is_empty(), logical.is_empty()) {
        (true, true) => ok("base backups", "the account may take them of the server's files and by statements"),
        (true, false) => ok("base backups", format!("of the server's files; by statements they would need {logical}")),
        (false, true) => ok("base backups", format!("by statements; of the server's files they would need {physical}")),
        (false, false) => {
            let message = format!("of the server's files they need {physical}, by statements {logical}");
            warning("base backups", message, &grant(&logical))
        }
    };
    [stream, base]
}

/// Settings that decide what the log is worth.
#[expect(clippy::cast_precision_loss, reason = "for people")]
async fn settings(connection: &mut Connection) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut value = async |name: &str| {
        let row = connection.query_row(&format!("SELECT @@GLOBAL.{name}")).await.unwrap_or_default();
        row.into_iter().next().flatten().unwrap_or_default()
    };
    if value("sync_binlog").await != "1" {
        let message = "sync_binlog is not 1: after a crash the server may lack transactions that the archive has";
        findings.push(warning("durability", message, "set sync_binlog = 1; else such a crash begins a new timeline"));
    }
    let format = value("binlog_format").await;
    if format != "ROW" {
        let message = format!("binlog_format is {format}: statements may replay otherwise than they ran");
        findings.push(warning("format", message, "set binlog_format = ROW"));
    }
    let expire = "binlog_expire_logs_seconds";
    if let Ok(seconds) = value(expire).await.parse::<u64>()
        && seconds != 0
        && seconds < KEPT_SECONDS_MIN
    {
        let message = format!("the server removes its log after {:.1} hours, archived or not", seconds as f64 / 3600.0);
        findings.push(warning("purge", message, &format!("set {expire} to {KEPT_SECONDS_MIN} or more")));
    }
    findings
}

/// SQL for both servers.
#[must_use]
pub(super) fn grants(user: &str) -> String {
    let quoted = format!("'{}'@'%'", user.replace('\\', "\\\\").replace('\'', "\\'"));
    let of = |needed: fn(Flavor) -> &'static [&'static str]| {
        [Flavor::MySql, Flavor::MariaDb].map(|flavor| needed(flavor).join(", "))
    };
    let [mysql_stream, mariadb_stream] = of(privileges::streaming);
    let [mysql_files, mariadb_files] = of(privileges::physical);
    let [mysql, mariadb] = of(privileges::logical);
    format!(
        "-- Run as an administrator. Put the address pitr comes from in the place of %, and a password of your own:\n\
         CREATE USER {quoted} IDENTIFIED BY '...' REQUIRE SSL;\n\
         -- MySQL: stream, and see where the log is\n\
         GRANT {mysql_stream} ON *.* TO {quoted};\n\
         -- MySQL: base backups by CLONE, which needs its plugin: INSTALL PLUGIN clone SONAME 'mysql_clone.so'\n\
         GRANT {mysql_files} ON *.* TO {quoted};\n\
         GRANT SELECT ON performance_schema.log_status TO {quoted};\n\
         -- MariaDB: stream, and see where the log is\n\
         GRANT {mariadb_stream}, SLAVE MONITOR ON *.* TO {quoted};\n\
         -- MariaDB: base backups by mariadb-backup\n\
         GRANT {mariadb_files} ON *.* TO {quoted};\n\
         -- MySQL: base backups by statements, from any host (--method logical)\n\
         GRANT {mysql} ON *.* TO {quoted};\n\
         -- MariaDB: the same\n\
         GRANT {mariadb} ON *.* TO {quoted};\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileges_are_judged_by_what_they_are_for() {
        let judge = |held: &[&str], flavor| {
            let held: Vec<String> = held.iter().map(|held| format!("GRANT {held} TO `pitr`@`%`")).collect();
            judge_privileges(&held, flavor, "pitr").map(|finding| (finding.level, finding.message, finding.cure))
        };
        for flavor in [Flavor::MySql, Flavor::MariaDb] {
            let [(stream, _, none), (base, ..)] = judge(&["ALL PRIVILEGES ON *.*"], flavor);
            assert_eq!((stream, base, none), (Level::Ok, Level::Ok, None), "{flavor}");
            // Of one database they are worth nothing.
            let [(stream, _, cure), (base, ..)] = judge(&["ALL PRIVILEGES ON `shop`.*"], flavor);
            assert_eq!((stream, base), (Level::Critical, Level::Warning), "{flavor}");
            assert!(cure.unwrap().starts_with("GRANT REPLICATION SLAVE, "), "{flavor}");
        }
        let streams = "REPLICATION SLAVE, BINLOG MONITOR ON *.*";
        let [(stream, ..), (base, message, cure)] = judge(&[streams], Flavor::MariaDb);
        assert_eq!((stream, base), (Level::Ok, Level::Warning));
        assert!(message.contains("files they need RELOAD, PROCESS, LOCK TABLES, by statements SELECT, "), "{message}");
        assert!(cure.unwrap().starts_with("GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, RELOAD, PROCESS ON *.* TO 'pitr'"));
        let [_, (base, message, _)] = judge(&[streams, "RELOAD, PROCESS, LOCK TABLES ON *.*"], Flavor::MariaDb);
        assert_eq!(base, Level::Ok);
        assert!(message.contains("by statements they would need SELECT"), "{message}");
        // A longer privilege is another one.
        let [(stream, ..), _] = judge(&["REPLICATION SLAVE ADMIN, REPLICATION CLIENT ON *.*"], Flavor::MySql);
        assert_eq!(stream, Level::Critical);
    }
}
