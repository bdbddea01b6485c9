//! The accounts of a test's server, each with the privileges it is made for.

use super::make::Make;

/// A name and a password.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    pub user: &'static str,
    pub password: &'static str,
}

/// Streams the log and takes base backups: what an installation's own account would be.
pub const PITR: Account = Account { user: "pitr", password: "archive-secret" };

/// May stream the log and nothing else.
pub const STREAM: Account = Account { user: "pitr_stream", password: "stream-secret" };

/// Runs a replica of the server's own make.
pub const REPLICA: Account = Account { user: "replica", password: "replica-secret" };

/// May connect and nothing else.
pub const NOBODY: Account = Account { user: "nobody", password: "nobody-secret" };

/// May do anything, over TCP; `root` may on the Unix socket, without a password.
pub const ADMIN: Account = Account { user: "admin", password: "admin-secret" };

/// The statements that make them.
pub fn statements(make: Make) -> String {
    let stream = "replication slave, replication client";
    // MariaDB: mariadb-backup's manual page, "Authentication and Privileges". MySQL: the
    // manual's pages on LOCK INSTANCE FOR BACKUP, CLONE and mysqldump.
    let base = if make.is_mariadb() {
        "reload, process, lock tables, select, show view, trigger, event"
    } else {
        "reload, process, lock tables, select, show view, trigger, event, backup_admin"
    };
    let grants = [
        (PITR, format!("{stream}, {base}")),
        (STREAM, stream.to_owned()),
        (REPLICA, stream.to_owned()),
        (NOBODY, "usage".to_owned()),
        (ADMIN, "all privileges".to_owned()),
    ];
    let mut statements = String::from("create database test;\n");
    for (Account { user, password }, privileges) in grants {
        statements += &format!("create user {user}@'%' identified by '{password}';\n");
        statements += &format!("grant {privileges} on *.* to {user}@'%';\n");
    }
    statements
}
