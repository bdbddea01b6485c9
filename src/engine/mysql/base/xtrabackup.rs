//! A base backup of MySQL and Percona Server by `xtrabackup --backup --stream=xbstream`.
//!
//! **Not tried with the program itself**: written from its manual. It backs up what CLONE does
//! not: tables outside of InnoDB, tablespaces outside of the data directory, encrypted ones,
//! servers without GTIDs. A restore needs it, too, for `xtrabackup --prepare`, and of the
//! server's own series (8.0, 8.4, ...).
//!
//! Source: Percona XtraBackup manual, "Take a streaming backup", "Point-in-time recovery",
//! "Index of files created by Percona XtraBackup".

use super::Origin;
use super::tool::{self, Tool};
use crate::engine::BaseStream;
use crate::error::Result;

static XTRABACKUP: Tool = Tool {
    name: "xtrabackup",
    programs: &["xtrabackup"],
    install: "install Percona XtraBackup of the server's series on the database's host, and run pitr there; \
              or use --method clone",
    stream: "xbstream",
    binlog_info: &["xtrabackup_binlog_info"],
};

/// Begins the backup.
///
/// # Errors
/// [`crate::Kind::Config`] when the program is not here, or the server's files are not.
pub(super) fn begin(origin: Origin) -> Result<Box<dyn BaseStream>> {
    tool::begin(&XTRABACKUP, origin)
}
