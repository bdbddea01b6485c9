//! A laid-out base made fit for a server to start on.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::programs::Programs;
use super::{Base, RecoveryJob};
use crate::engine::mysql::base::logical::script;
use crate::engine::mysql::base::tool::place;
use crate::engine::mysql::flavor::Flavor;
use crate::engine::os_user::OsUser;
use crate::error::{Error, Kind, Result};

/// Files that say where in the binlog a backup ends.
const BINLOG_INFO: [&str; 2] = ["mariadb_backup_binlog_info", "xtrabackup_binlog_info"];

/// What InnoDB has to be told of its files. Anything else in a backup's own option file is the
/// source's affair.
const NEEDED: [&str; 6] = [
    "innodb_page_size",
    "innodb_data_file_path",
    "innodb_undo_tablespaces",
    "innodb_checksum_algorithm",
    "innodb_log_files_in_group",
    "lower_case_table_names",
];

/// Memory for applying the base's own redo log.
const USE_MEMORY: &str = "--use-memory=512M";

/// Applies to a base of a tool's what the server wrote while it was taken.
pub(super) async fn prepare(job: &RecoveryJob, programs: &Programs, user: &OsUser) -> Result<Base> {
    if job.dir.join(script::DIR).is_dir() {
        return super::logical::load(job, programs, user).await;
    }
    let flavor = super::super::flavor(&job.identity);
    let settings = settings(&job.dir.join("backup-my.cnf"))?;
    let Some(info) = BINLOG_INFO.iter().map(|name| job.dir.join(name)).find(|path| path.is_file()) else {
        return Ok(Base { place: None, settings });
    };
    let text = fs::read_to_string(&info).map_err(|e| Error::io("read", &info, e))?;
    let place = place(text.as_bytes(), flavor, "").ok_or_else(|| {
        Error::corruption(format!("{} does not say where in the binlog the base ends: {text:?}", info.display()))
    })?;
    let program = match flavor {
        Flavor::MariaDb => programs.path(&["mariadb-backup", "mariabackup"]),
        Flavor::MySql => programs.path(&["xtrabackup"]),
    };
    let program = program.ok_or_else(|| {
        Error::config("the program that took the base is not here to prepare it: mariadb-backup or xtrabackup")
            .hint("install it (Debian: apt-get install mariadb-backup), or say with --bin-dir where it is")
    })?;
    let mut command = Command::new(&program);
    command
        .args(["--no-defaults", "--prepare", USE_MEMORY])
        .arg(format!("--target-dir={}", job.dir.display()))
        // Ours may be closed to its user.
        .env("TMPDIR", &job.scratch)
        .stdin(Stdio::null())
        .current_dir(&job.scratch);
    user.apply(&mut command);
    let output = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| Error::io("run", &program, e))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = said.lines().collect();
        let last = lines.get(lines.len().saturating_sub(8)..).unwrap_or_default().join("\n    ");
        return Err(Error::new(
            Kind::Failure,
            format!("{} could not prepare the base:\n    {last}", program.display()),
        ));
    }
    Ok(Base { place: Some(place), settings })
}

pub(super) fn settings(path: &Path) -> Result<Vec<String>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", path, error)),
    };
    let needed = |line: &str| {
        let (name, value) = line.split_once('=')?;
        let name = name.trim().replace('-', "_");
        NEEDED.contains(&name.as_str()).then(|| format!("{name}={}", value.trim()))
    };
    Ok(text.lines().filter_map(needed).collect())
}
