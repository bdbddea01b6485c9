//! A base backup of MariaDB by `mariadb-backup --backup --stream=mbstream`.

use super::Origin;
use super::tool::{self, Tool};
use crate::engine::BaseStream;
use crate::error::Result;

static MARIADB_BACKUP: Tool = Tool {
    name: "mariadb-backup",
    programs: &["mariadb-backup", "mariabackup"],
    install: "install it on the database's host (Debian: apt-get install mariadb-backup), and run pitr there",
    stream: "mbstream",
    // Since 11.1, and before.
    binlog_info: &["mariadb_backup_binlog_info", "xtrabackup_binlog_info"],
};

/// Begins the backup.
///
/// # Errors
/// [`crate::Kind::Config`] when the program is not here, or the server's files are not.
pub(super) fn begin(origin: Origin) -> Result<Box<dyn BaseStream>> {
    tool::begin(&MARIADB_BACKUP, origin)
}
