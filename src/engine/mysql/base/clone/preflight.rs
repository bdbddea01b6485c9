//! Whether a server can be cloned so that nothing is left out, and what a server needs to know
//! that is started on the clone.
//!
//! CLONE itself leaves out silently what is not in InnoDB, and fails only after a while at files
//! outside of the data directory. Both are refused before.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::lacks;
use crate::engine::mysql::connect::Connection;
use crate::error::{Error, Result};

/// Files of tables that CLONE leaves empty: MyISAM, CSV, ARCHIVE.
const NOT_INNODB: [&str; 3] = ["MYD", "CSV", "ARZ"];

/// The server's own schema, in which only its logs are such tables.
const OWN_SCHEMA: &str = "mysql";

/// How many names an error message repeats.
const NAMES: usize = 3;

/// What a server says before it is cloned.
pub(super) struct Server {
    /// About how many bytes on disk its clone will have.
    pub(super) bytes: u64,
    /// An option file with what a server started on the clone needs to be told.
    pub(super) options: String,
}

/// Our account as the server writes it in statements: `'user'@'host'`.
pub(super) async fn account(connection: &mut Connection) -> Result<String> {
    let account = one(connection, "SELECT CURRENT_USER()").await?;
    let (user, host) = account.rsplit_once('@').unwrap_or((&account, "%"));
    Ok(format!("'{user}'@'{host}'"))
}

/// Asks the server.
///
/// # Errors
/// [`crate::Kind::Config`] when it lacks the plugin or we a privilege, and when parts of it
/// are encrypted or lie outside of its data directory.
pub(super) async fn ask(connection: &mut Connection, account: &str) -> Result<Server> {
    let plugin = "SELECT PLUGIN_STATUS FROM information_schema.PLUGINS WHERE PLUGIN_NAME = 'clone'";
    if one(connection, plugin).await? != "ACTIVE" {
        return Err(Error::config("the server has no clone plugin, or it is disabled")
            .hint("as an administrator: INSTALL PLUGIN clone SONAME 'mysql_clone.so'; or use --method xtrabackup"));
    }
    let encrypted = "SELECT NAME FROM information_schema.INNODB_TABLESPACES WHERE ENCRYPTION = 'Y' LIMIT 3";
    let mut encrypted = names(connection, encrypted).await.map_err(|e| lacks(e, "PROCESS ON *.*", account))?;
    if one(connection, "SELECT @@GLOBAL.innodb_redo_log_encrypt").await? == "1" {
        encrypted.push("the redo log".into());
    }
    if !encrypted.is_empty() {
        return Err(Error::config(format!(
            "{} is encrypted, and a clone of it would need the server's keyring to be restored",
            encrypted.join(", ")
        ))
        .hint("use --method xtrabackup"));
    }
    // Undo tablespaces may lie anywhere: those of a clone are all in its own directory.
    let outside = "SELECT FILE_NAME FROM information_schema.FILES WHERE FILE_TYPE = 'TABLESPACE' \
                   AND FILE_NAME LIKE '/%' AND FILE_NAME NOT LIKE CONCAT(@@GLOBAL.datadir, '%') LIMIT 3";
    let outside = names(connection, outside).await.map_err(|e| lacks(e, "PROCESS ON *.*", account))?;
    if !outside.is_empty() {
        return Err(outside_of_data_dir(&outside.join(", ")));
    }
    let bytes = "SELECT (SELECT COALESCE(SUM(ALLOCATED_SIZE), 0) FROM information_schema.INNODB_TABLESPACES \
                 WHERE NAME <> 'innodb_temporary') + (SELECT COALESCE(SUM(TOTAL_EXTENTS * EXTENT_SIZE), 0) \
                 FROM information_schema.FILES WHERE TABLESPACE_NAME = 'innodb_system')";
    let bytes = one(connection, bytes).await?;
    let bytes = bytes
        .parse()
        .map_err(|_| Error::failure(format!("the server's files have {bytes:?} bytes, says the server")))?;
    Ok(Server { bytes, options: options(connection).await? })
}

/// A tablespace that CLONE does not copy.
pub(super) fn outside_of_data_dir(file: &str) -> Error {
    Error::config(format!("{file} lies outside of the server's data directory, and CLONE copies nothing from there"))
        .hint("move it into the data directory, or use --method xtrabackup")
}

/// What must be the same in a server that is started on the clone: named like the file in which
/// the other tools keep it.
async fn options(connection: &mut Connection) -> Result<String> {
    let mut text = "[mysqld]\n".to_owned();
    for name in ["innodb_data_file_path", "innodb_page_size", "lower_case_table_names"] {
        let value = one(connection, &format!("SELECT @@GLOBAL.{name}")).await?;
        text.push_str(&format!("{name}={value}\n"));
    }
    Ok(text)
}

/// Looks whether the server's data directory is here, and holds nothing that CLONE leaves out.
///
/// # Errors
/// [`crate::Kind::Config`] when it is not, when it does, and when we are neither root nor
/// the server's user.
pub(super) fn check_data_dir(data_dir: &Path, uuid: &str) -> Result<Metadata> {
    let here =
        "CLONE writes beside the server's files: run pitr on the database's host, as root or as the server's user";
    let owner = fs::metadata(data_dir).map_err(|e| {
        Error::config(format!("the server's data directory {} is not here", data_dir.display())).because(e).hint(here)
    })?;
    let user = rustix::process::geteuid();
    if !user.is_root() && user.as_raw() != owner.uid() {
        return Err(Error::config(format!(
            "pitr runs as user {}, and the server's files belong to user {}",
            user.as_raw(),
            owner.uid()
        ))
        .hint(here));
    }
    let identity = data_dir.join("auto.cnf");
    let identity = fs::read_to_string(&identity)
        .map_err(|e| Error::config(format!("{} cannot be read", identity.display())).because(e).hint(here))?;
    if !identity.contains(uuid) {
        return Err(Error::config(format!(
            "{} is the data directory of another server, not of {uuid}",
            data_dir.display()
        ))
        .hint(here));
    }
    let left_out = not_innodb(data_dir).map_err(|e| Error::io("look through", data_dir, e))?;
    if !left_out.is_empty() {
        return Err(Error::config(format!("{} is not in InnoDB, and CLONE would leave it empty", left_out.join(", ")))
            .hint("ALTER TABLE ... ENGINE=InnoDB, or use --method xtrabackup"));
    }
    Ok(owner)
}

/// Files with rows of tables that are not in InnoDB: the first few, relative to the data directory.
fn not_innodb(data_dir: &Path) -> std::io::Result<Vec<String>> {
    let mut found = Vec::new();
    for schema in fs::read_dir(data_dir)? {
        let schema = schema?;
        let name = schema.file_name();
        if !schema.file_type()?.is_dir() || name == OWN_SCHEMA || name.as_encoded_bytes().starts_with(b"#") {
            continue;
        }
        for file in fs::read_dir(schema.path())? {
            let path = file?.path();
            let extension = path.extension().unwrap_or_default();
            // One that is removed meanwhile is none.
            if NOT_INNODB.iter().any(|other| extension == *other)
                && fs::metadata(&path).is_ok_and(|file| file.len() > 0)
            {
                found.push(path.strip_prefix(data_dir).unwrap_or(&path).display().to_string());
                if found.len() == NAMES {
                    return Ok(found);
                }
            }
        }
    }
    Ok(found)
}

async fn names(connection: &mut Connection, sql: &str) -> Result<Vec<String>> {
    let rows = connection.query_all(sql).await?;
    Ok(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
}

async fn one(connection: &mut Connection, sql: &str) -> Result<String> {
    Ok(connection.query_row(sql).await?.into_iter().next().flatten().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "6ce57952-e5ec-11f1-8b0f-02fc00000001";

    fn data_dir(uuid: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("auto.cnf"), format!("[auto]\nserver-uuid={uuid}\n")).unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    #[test]
    fn refuses_a_table_with_rows_outside_of_innodb_and_names_it() {
        let dir = data_dir(UUID, &[("t/a.ibd", "x"), ("t/old.MYD", "rows"), ("u/log.CSV", "1")]);
        let error = check_data_dir(dir.path(), UUID).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Config);
        assert!(error.message().contains("t/old.MYD") && error.message().contains("u/log.CSV"), "{error}");
    }

    #[test]
    fn the_servers_own_logs_and_empty_tables_are_no_loss() {
        let files = [("mysql/slow_log.CSV", "1"), ("t/empty.MYD", ""), ("#innodb_redo/x.MYD", "1"), ("top.MYD", "1")];
        check_data_dir(data_dir(UUID, &files).path(), UUID).unwrap();
    }

    #[test]
    fn refuses_the_data_directory_of_another_server() {
        let dir = data_dir("00000000-0000-0000-0000-000000000000", &[]);
        assert_eq!(check_data_dir(dir.path(), UUID).unwrap_err().kind(), crate::Kind::Config);
        let error = check_data_dir(&dir.path().join("absent"), UUID).unwrap_err();
        assert!(error.message().contains("is not here"), "{error}");
    }
}
