//! From a laid-out base and the log to a cleanly shut down data directory at the cut.
//!
//! A private server replays. It listens on a socket in a directory that only its user may
//! enter, takes its settings from us and not from the restored files, and is shown the
//! log up to the cut and not a byte more: what lies behind the cut is zeros, so that
//! recovery ends there by itself, whether or not the archive holds more. The server
//! then begins a new timeline and writes down where it left the old one; that place must
//! be the cut, or the restore has failed.
//!
//! For the time of the replay the server runs without fsync and with large buffers.
//! Whoever moves the directory to its final name syncs it first.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::files::PostgresLogFiles;
use super::wal::name::format_lsn;
use crate::engine::os_user::OsUser;
use crate::engine::{LogFile, LogFiles, LogSource, Recovery, RecoveryJob, ReplayProgress, Running};
use crate::error::{Error, Kind, Result};
use crate::model::cluster::Identity;
use crate::model::offset::Offset;
use crate::model::timeline::TimelineId;

mod programs;
mod server;
mod stage;

pub use programs::Programs;
use server::PrivateServer;
use stage::Stage;

/// The size of a WAL page (`XLOG_BLCKSZ`).
const PAGE: u64 = 8192;

/// The longest page header (`SizeOfXLogLongPHD`).
const PAGE_HEADER_MAX: u64 = 40;

/// As whom the server of a job runs.
fn os_user(job: &RecoveryJob) -> Result<OsUser> {
    OsUser::named(job.os_user.as_deref(), "postgres")
}

/// Recovery of PostgreSQL.
#[derive(Clone, Copy, Debug, Default)]
pub struct PostgresRecovery;

#[async_trait]
impl Recovery for PostgresRecovery {
    fn preflight(&self, job: &RecoveryJob) -> Result<()> {
        let programs = Programs::find(job)?;
        let user = os_user(job)?;
        let parent = job.dir.parent().unwrap_or(Path::new("/"));
        user.check_enters(parent, "give --to a directory that it can enter")?;
        user.check_enters(programs.dir(), "give --bin-dir a directory that it can enter")?;
        user.check_enters(&std::env::temp_dir(), "set TMPDIR to a directory that it can enter")
    }

    fn check_overwritable(&self, dir: &Path, identity: &Identity) -> Result<()> {
        let refused = |what: String| {
            Err(Error::config(format!("{} {what}: --delta would remove what is in it", dir.display()))
                .hint("give --to a directory that does not exist, or one that holds an old copy of this database"))
        };
        if !dir.join("PG_VERSION").is_file() {
            return refused("is not a data directory".to_owned());
        }
        // The control file begins with it (`src/include/catalog/pg_control.h`). Where there is
        // none, a restore was interrupted.
        let path = dir.join("global/pg_control");
        let control = match fs::read(&path) {
            Ok(control) => control,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        let system = control.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes).to_string()).unwrap_or_default();
        if system == identity.system {
            return Ok(());
        }
        refused(format!("is a database of system identifier {system}, not the archive's {}", identity.system))
    }

    async fn run(
        &self,
        job: &RecoveryJob,
        log: Arc<dyn LogSource>,
        progress: ReplayProgress<'_>,
    ) -> Result<Vec<PathBuf>> {
        let programs = Programs::find(job)?;
        let user = os_user(job)?;
        ready_directory(job)?;
        fs::create_dir_all(&job.scratch).map_err(|e| Error::io("create", &job.scratch, e))?;
        let stage = Stage::create(job)?;
        let control = programs.control_data(&job.dir)?;
        user.own(&job.dir)?;
        user.own(&job.scratch)?;
        let server = PrivateServer::start(job, &programs, &user, &server::replay_settings(job, &control, &stage))?;
        let fed = stage.feed(job, &user, log.open(&|_| false).await?, progress);
        let server = server.replayed(fed).await?;
        progress(job.cut);
        server.stop().await?;
        check_end(job)?;
        tidy(&job.dir, &programs)?;
        tablespaces(&job.dir)
    }

    fn lay_out(&self, job: &RecoveryJob, fetch_command: &str) -> Result<()> {
        let user = os_user(job)?;
        ready_directory(job)?;
        for history in &job.histories {
            if history.timeline == job.timeline {
                let name = PostgresLogFiles::new(&job.identity).history_name(history.timeline);
                let path = job.dir.join("pg_wal").join(name);
                fs::write(&path, &history.native).map_err(|e| Error::io("write", &path, e))?;
            }
        }
        let path = job.dir.join("postgresql.auto.conf");
        let before = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        let mut text = without_recovery_settings(&before);
        text.push_str("# Written by pitr restore --no-recover. Remove once recovered.\n");
        text.push_str(&format!("restore_command = {}\n", quoted(fetch_command)));
        text.push_str(&format!("recovery_target_timeline = '{}'\n", job.timeline.0));
        fs::write(&path, text).map_err(|e| Error::io("write", &path, e))?;
        user.own(&job.dir)
    }

    fn notes(&self, dir: &Path) -> Vec<String> {
        if dir.join("postgresql.conf").exists() {
            return Vec::new();
        }
        // On the command line because `data_directory` in the file would win over -D: the
        // command must never start a server on the directory of the source.
        let dir = dir.display();
        vec![format!(
            "{dir} has no postgresql.conf, for the source keeps its configuration elsewhere, where a base backup does not reach (Debian: /etc/postgresql); start it with a file of its own: pg_ctl -D {dir} -o \"-c config_file=/etc/postgresql/15/main/postgresql.conf -c data_directory={dir}\" start"
        )]
    }

    async fn start(&self, job: &RecoveryJob, dir: &Path) -> Result<Running> {
        let programs = Programs::find(job)?;
        let user = os_user(job)?;
        server::start_and_leave(job, &programs, &user, dir).await
    }
}

/// Asks for archive recovery, and makes sure that no setting that came with the base can
/// send the restored cluster to its source's standbys or archive.
fn ready_directory(job: &RecoveryJob) -> Result<()> {
    let standby = job.dir.join("standby.signal");
    if standby.exists() {
        fs::remove_file(&standby).map_err(|e| Error::io("remove", &standby, e))?;
    }
    let signal = job.dir.join("recovery.signal");
    fs::write(&signal, b"").map_err(|e| Error::io("write", &signal, e))
}

/// Where the tablespaces of a data directory are.
fn tablespaces(dir: &Path) -> Result<Vec<PathBuf>> {
    let links = dir.join("pg_tblspc");
    let mut found = Vec::new();
    for entry in fs::read_dir(&links).map_err(|e| Error::io("read", &links, e))? {
        let path = entry.map_err(|e| Error::io("read", &links, e))?.path();
        if path.is_symlink() {
            found.push(fs::read_link(&path).map_err(|e| Error::io("read", &path, e))?);
        }
    }
    Ok(found)
}

/// The settings of `text` less those that steer recovery.
fn without_recovery_settings(text: &str) -> String {
    let steers = |line: &str| {
        let key = line.split(['=', ' ', '\t']).next().unwrap_or_default().trim();
        key.starts_with("recovery_target")
            || matches!(key, "restore_command" | "primary_conninfo" | "primary_slot_name")
    };
    text.lines().filter(|line| !steers(line.trim_start())).flat_map(|line| [line, "\n"]).collect()
}

/// A value for `postgresql.conf`, in which a backslash escapes
/// (`DeescapeQuotedString`, `src/backend/utils/misc/guc-file.l`).
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// The server says where it left the timeline it replayed: that must be the cut.
fn check_end(job: &RecoveryJob) -> Result<()> {
    let files = PostgresLogFiles::new(&job.identity);
    let wal = job.dir.join("pg_wal");
    let mut newest: Option<(TimelineId, PathBuf)> = None;
    for entry in fs::read_dir(&wal).map_err(|e| Error::io("read", &wal, e))? {
        let entry = entry.map_err(|e| Error::io("read", &wal, e))?;
        if let Some(LogFile::History(timeline)) = entry.file_name().to_str().and_then(|name| files.parse(name))
            && timeline > job.timeline
            && newest.as_ref().is_none_or(|(known, _)| timeline > *known)
        {
            newest = Some((timeline, entry.path()));
        }
    }
    let Some((timeline, path)) = newest else {
        return Err(Error::failure(format!("the recovered cluster in {} began no new timeline", job.dir.display())));
    };
    let text = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
    let history = files.parse_history(timeline, &text)?;
    let left = history.ancestors.last().map(|parent| (parent.timeline, parent.switch));
    match left {
        Some((parent, at)) if parent == job.timeline && same_place(at, job.cut) => Ok(()),
        Some((parent, at)) => Err(Error::new(
            Kind::Corruption,
            format!(
                "replay ended at {} of timeline {} and not at {} of timeline {}",
                format_lsn(at),
                parent.0,
                format_lsn(job.cut),
                job.timeline.0
            ),
        )
        .hint("the server found the log unsound there; `pitr verify --read-data` tells which object is damaged")),
        None => Err(Error::failure(format!("{} names no parent timeline", path.display()))),
    }
}

/// A record that ends with its page is followed by one that begins behind the next page's
/// header: both offsets are the same place.
fn same_place(end: Offset, start: Offset) -> bool {
    end == start || (end < start && end.0.is_multiple_of(PAGE) && start.since(end) <= PAGE_HEADER_MAX)
}

/// Removes what only the restore needed. `postmaster.opts` holds the private server's command
/// line, with which `pg_ctl restart` would look in `DIR.partial`, and without which it does
/// nothing: what stays is the program alone, as if it had been started without options.
fn tidy(dir: &Path, programs: &Programs) -> Result<()> {
    let path = dir.join("postmaster.opts");
    let program = programs.path("postgres");
    fs::write(&path, format!("{}\n", program.display())).map_err(|e| Error::io("write", &path, e))?;
    for name in ["backup_label.old", "tablespace_map.old", "backup_manifest"] {
        let path = dir.join(name);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("remove", &path, error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_header_between_two_records_is_no_difference() {
        assert!(same_place(Offset(0x2000), Offset(0x2018)));
        assert!(same_place(Offset(0x100_0000), Offset(0x100_0028)));
        assert!(same_place(Offset(0x2345), Offset(0x2345)));
        assert!(!same_place(Offset(0x2008), Offset(0x2020)));
        assert!(!same_place(Offset(0x2018), Offset(0x2000)));
        assert!(!same_place(Offset(0x2000), Offset(0x2030)));
    }

    #[test]
    fn a_setting_reads_back_as_it_was() {
        assert_eq!(quoted("pitr wal-fetch %f \"%p\""), "'pitr wal-fetch %f \"%p\"'");
        assert_eq!(quoted(r"'/it'\''s'"), r"'''/it''\\''''s'''");
    }

    #[test]
    fn settings_that_steer_recovery_are_dropped_and_others_kept() {
        let text = "work_mem = '4MB'\nrestore_command = 'x'\n recovery_target_time='y'\nprimary_conninfo = 'z'\n";
        assert_eq!(without_recovery_settings(text), "work_mem = '4MB'\n");
    }

    /// Where the server left the old timeline is in the history of the newest.
    #[test]
    fn a_replay_that_did_not_end_at_the_cut_has_failed() {
        let ended = |histories: &[(&str, &str)]| {
            let scratch = tempfile::tempdir().unwrap();
            let job = stage::tests::job(scratch.path(), 2, &[(1, 0x30_0000)], 0x10_0000, 0x40_0100);
            let wal = job.dir.join("pg_wal");
            fs::create_dir_all(&wal).unwrap();
            for (name, text) in histories {
                fs::write(wal.join(name), text).unwrap();
            }
            check_end(&job).map_err(|error| error.kind())
        };
        let parent = ("00000002.history", "1\t0/300000\tx\n");
        let own = |at: &str| format!("{}2\t{at}\tx\n", parent.1);
        assert_eq!(ended(&[parent, ("00000003.history", &own("0/400100"))]), Ok(()));
        assert_eq!(ended(&[parent, ("00000003.history", &own("0/4000F8"))]), Err(Kind::Corruption));
        assert_eq!(ended(&[parent, ("00000003.history", &own("0/400108"))]), Err(Kind::Corruption));
        assert_eq!(ended(&[parent]), Err(Kind::Failure), "no new timeline");
        let skipped = ("00000003.history", "1\t0/400100\tx\n");
        assert_eq!(ended(&[parent, skipped]), Err(Kind::Corruption), "another timeline was replayed");
        let (old, new) = (own("0/400000"), own("0/400100"));
        assert_eq!(ended(&[parent, ("00000003.history", &old), ("00000004.history", &new)]), Ok(()));
        assert_eq!(ended(&[parent, ("00000003.history", &new), ("00000004.history", &old)]), Err(Kind::Corruption));
    }

    #[test]
    fn only_an_old_copy_of_the_database_is_overwritten() {
        let scratch = tempfile::tempdir().unwrap();
        let job = stage::tests::job(scratch.path(), 1, &[], 0, 1);
        let check = || PostgresRecovery.check_overwritable(&job.dir, &job.identity).map_err(|error| error.kind());
        fs::create_dir_all(job.dir.join("global")).unwrap();
        assert_eq!(check(), Err(Kind::Config), "no data directory");
        fs::write(job.dir.join("PG_VERSION"), "15").unwrap();
        assert_eq!(check(), Ok(()), "as an interrupted restore leaves it");
        for (system, answer) in [(7_u64, Ok(())), (8, Err(Kind::Config))] {
            fs::write(job.dir.join("global/pg_control"), [&system.to_ne_bytes()[..], &[0; 8]].concat()).unwrap();
            assert_eq!(check(), answer);
        }
        fs::write(job.dir.join("global/pg_control"), [7]).unwrap();
        assert_eq!(check(), Err(Kind::Config), "cut short");
    }

    #[test]
    fn a_base_from_a_standby_recovers_to_an_end() {
        let scratch = tempfile::tempdir().unwrap();
        let job = stage::tests::job(scratch.path(), 1, &[], 0, 1);
        fs::create_dir_all(&job.dir).unwrap();
        fs::write(job.dir.join("standby.signal"), "").unwrap();
        ready_directory(&job).unwrap();
        assert!(job.dir.join("recovery.signal").exists() && !job.dir.join("standby.signal").exists());
    }
}
