//! What pitr's account needs, on `*.*`.

use super::base::logical::literal::quoted;
use super::flavor::Flavor;
use super::sql::Session;
use crate::error::{Error, Kind, Result};

/// To stream, and to see where the log is.
#[must_use]
pub const fn streaming(flavor: Flavor) -> &'static [&'static str] {
    match flavor {
        Flavor::MySql => &["REPLICATION SLAVE", "REPLICATION CLIENT"],
        Flavor::MariaDb => &["REPLICATION SLAVE", "BINLOG MONITOR"],
    }
}

/// For a base backup of the server's files, beside that.
#[must_use]
pub const fn physical(flavor: Flavor) -> &'static [&'static str] {
    match flavor {
        Flavor::MySql => &["BACKUP_ADMIN", "PROCESS"],
        Flavor::MariaDb => &["RELOAD", "PROCESS", "LOCK TABLES"],
    }
}

/// For a logical base backup, beside what streaming takes.
#[must_use]
pub const fn logical(flavor: Flavor) -> &'static [&'static str] {
    match flavor {
        // `XA RECOVER` has a privilege of its own, as the lock has that keeps DDL waiting.
        Flavor::MySql => &["SELECT", "SHOW VIEW", "TRIGGER", "EVENT", "RELOAD", "BACKUP_ADMIN", "XA_RECOVER_ADMIN"],
        // `PROCESS` shows the numbers of tables, which tell one from another of its name.
        Flavor::MariaDb => &["SELECT", "SHOW VIEW", "TRIGGER", "EVENT", "RELOAD", "PROCESS"],
    }
}

/// Refuses an account that lacks some for a logical base backup, or that does not see everything.
///
/// # Errors
/// [`Kind::Config`] with the statement that grants it.
pub(super) async fn check_logical(session: &mut Session, flavor: Flavor) -> Result<()> {
    let held: Vec<String> = session.query_all("SHOW GRANTS FOR CURRENT_USER()").await?;
    let account: Option<String> = session.query_one("SELECT CURRENT_USER()").await?;
    let account = account.unwrap_or_default();
    let (user, host) = account.rsplit_once('@').unwrap_or((&account, "%"));
    let account = format!("{}@{}", quoted(user), quoted(host));
    if let Some(revoked) = held.iter().find(|line| line.starts_with("REVOKE ")) {
        return Err(Error::config(format!("pitr's account does not see every database: {revoked}")).hint(format!(
            "as an administrator take that back; a base must hold everything that {account} may not see"
        )));
    }
    let lacking = lacking(&held, logical(flavor));
    if lacking.is_empty() {
        return Ok(());
    }
    let lacking = lacking.join(", ");
    Err(Error::new(Kind::Config, format!("a logical base backup needs privileges that {account} lacks: {lacking}"))
        .hint(format!("as an administrator: GRANT {lacking} ON *.* TO {account};")))
}

/// Which of `needed` none of the `held` grants gives for everything.
#[must_use]
pub fn lacking(held: &[String], needed: &[&'static str]) -> Vec<&'static str> {
    let everywhere = held.iter().filter_map(|line| line.strip_prefix("GRANT ")?.split_once(" ON *.* TO "));
    let held: Vec<&str> = everywhere.flat_map(|(privileges, _)| privileges.split(',')).map(str::trim).collect();
    let has = |privilege: &&str| held.contains(&"ALL PRIVILEGES") || held.contains(privilege);
    needed.iter().filter(|privilege| !has(privilege)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_granted_for_everything_counts() {
        let held = |lines: &[&str]| {
            let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
            lacking(&lines, &["SELECT", "SHOW VIEW", "BACKUP_ADMIN"])
        };
        assert!(held(&["GRANT ALL PRIVILEGES ON *.* TO `a`@`%`"]).is_empty());
        let some = ["GRANT SELECT, SHOW VIEW ON *.* TO `a`@`%`", "GRANT BACKUP_ADMIN,CLONE_ADMIN ON *.* TO `a`@`%`"];
        assert!(held(&some).is_empty());
        assert_eq!(
            held(&["GRANT SELECT ON `x`.* TO `a`@`%`", "GRANT SHOW VIEW ON *.* TO `a`@`%`"]),
            ["SELECT", "BACKUP_ADMIN"]
        );
    }
}
