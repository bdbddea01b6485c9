//! From a laid-out base and the log to a cleanly shut down data directory at the cut.
//!
//! A private server replays, as a replica of ours: it connects to a source that this process
//! plays ([`super::serve`]), which hands out the log up to the cut and not a byte more. So the
//! appliers may run in parallel as far as they like, and nothing can be applied that lies behind
//! the cut. The server listens on a socket in a directory that only its user may enter, takes its
//! settings from us, and has an account for us that goes with it.
//!
//! For the time of the replay the server runs without syncs and without doublewrites. Whoever
//! moves the directory to its final name syncs it first.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use rustix::fs::{FlockOperation, fcntl_lock};

use super::feed::Feed;
use super::flavor::Flavor;
use super::gtid::Gtid;
use super::place::Place;
use super::serve::{Server, Settings};
use super::source::random_uuid;
use crate::engine::os_user::OsUser;
use crate::engine::{LogSource, Recovery, RecoveryJob, ReplayProgress, Running};
use crate::error::{Error, Kind, Result};
use crate::model::cluster::Identity;
use crate::model::offset::OffsetRange;
use crate::model::time::SystemClock;

mod base;
mod logical;
mod orphan;
pub(super) mod programs;
pub(super) mod replica;
mod server;
pub mod settings;

use programs::Programs;
use server::PrivateServer;
use settings::{Machine, Whence};

/// What the server may be left with of a base backup's own files.
const TOOLS_FILES: [&str; 12] = [
    "backup-my.cnf",
    "xtrabackup_info",
    "xtrabackup_checkpoints",
    "xtrabackup_binlog_info",
    "xtrabackup_binlog_pos_innodb",
    "xtrabackup_logfile",
    "xtrabackup_tablespaces",
    "mariadb_backup_info",
    "mariadb_backup_checkpoints",
    "mariadb_backup_binlog_info",
    "mariadb_backup_binlog_pos_innodb",
    "auto.cnf",
];

/// Recovery of MySQL and MariaDB.
#[derive(Clone, Copy, Debug, Default)]
pub struct MySqlRecovery;

/// As whom the server of a job runs.
fn os_user(job: &RecoveryJob) -> Result<OsUser> {
    OsUser::named(job.os_user.as_deref(), "mysql")
}

#[async_trait]
impl Recovery for MySqlRecovery {
    fn preflight(&self, job: &RecoveryJob) -> Result<()> {
        let programs = Programs::find(job)?;
        let user = os_user(job)?;
        for gtid in &job.exclude {
            gtid.parse::<Gtid>()?;
        }
        let parent = job.dir.parent().unwrap_or(Path::new("/"));
        user.check_enters(parent, "give --to a directory that it can enter")?;
        user.check_enters(programs.dir(), "give --bin-dir a directory that it can enter")?;
        user.check_enters(&std::env::temp_dir(), "set TMPDIR to a directory that it can enter")
    }

    fn check_overwritable(&self, dir: &Path, _identity: &Identity) -> Result<()> {
        let system = dir.join("ibdata1");
        if system.is_file() {
            let file = fs::OpenOptions::new().read(true).write(true).open(&system);
            let file = file.map_err(|e| Error::io("open", &system, e))?;
            // InnoDB holds this lock for as long as it runs (`os_file_lock`, `os0file.cc`).
            return match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Ok(()),
                Err(_) => Err(Error::config(format!("a server runs on {}", dir.display()))
                    .hint("stop it first, or give --to another directory")),
            };
        }
        Err(Error::config(format!("{} is not a data directory: --delta would remove what is in it", dir.display()))
            .hint("give --to a directory that does not exist, or one that holds an old copy of this database"))
    }

    fn stop_orphans(&self, dir: &Path) -> Result<()> {
        orphan::stop(dir)
    }

    async fn run(
        &self,
        job: &RecoveryJob,
        log: Arc<dyn LogSource>,
        progress: ReplayProgress<'_>,
    ) -> Result<Vec<PathBuf>> {
        let programs = Programs::find(job)?;
        let user = os_user(job)?;
        fs::create_dir_all(&job.scratch).map_err(|e| Error::io("create", &job.scratch, e))?;
        user.own(&job.dir)?;
        user.own(&job.scratch)?;
        let base = base::prepare(job, &programs, &user).await?;
        let flavor = super::flavor(&job.identity);
        let exclude = job.exclude.iter().map(|gtid| gtid.parse()).collect::<Result<Vec<Gtid>>>()?;
        let machine = machine(job, &programs);
        let mut server = PrivateServer::start(job, &programs, &user, &base, &machine).await?;
        let executed = match &base.place {
            Some(place) => place.gtids.clone(),
            None => server.executed().await?,
        };
        let tables = if settings::folds(&machine) { Some(server.tables().await?) } else { None };
        let feed = Arc::new(Feed::new(flavor, log, exclude, Some(executed.clone())).folding(tables));
        let account = Settings {
            flavor,
            version: programs.version().to_owned(),
            server_id: rand::random_range(1 << 30..1 << 31),
            server_uuid: random_uuid(),
            user: "pitr".into(),
            password: format!("{:032x}", rand::random::<u128>()).into(),
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let source = Server::start(address, account.clone(), feed.clone(), Arc::new(SystemClock)).await?;
        let whence = match &base.place {
            Some(place) if flavor == Flavor::MariaDb => {
                Whence::Place { file: place.file.clone(), position: place.position }
            }
            _ => Whence::Executed,
        };
        server.follow(&source, &account, &executed, &whence).await?;
        replica::watch(&mut server, &feed, OffsetRange::new(job.start, job.cut), progress).await?;
        server.finish().await?;
        drop(source);
        tidy(&job.dir, flavor)?;
        Ok(Vec::new())
    }

    fn lay_out(&self, _job: &RecoveryJob, _fetch_command: &str) -> Result<()> {
        Err(Error::new(Kind::Usage, "--no-recover is for PostgreSQL, whose servers fetch their log themselves")
            .hint("leave it out: pitr replays the log with a private server"))
    }

    fn notes(&self, _dir: &Path) -> Vec<String> {
        Vec::new()
    }

    async fn start(&self, job: &RecoveryJob, dir: &Path) -> Result<Running> {
        let programs = Programs::find(job)?;
        let user = os_user(job)?;
        server::start_and_leave(job, &programs, &user, dir).await
    }
}

/// What the private server's settings depend on.
fn machine(job: &RecoveryJob, programs: &Programs) -> Machine {
    let info = rustix::system::sysinfo();
    #[expect(clippy::useless_conversion, reason = "the width differs between platforms")]
    let memory_bytes = u64::from(info.totalram).saturating_mul(u64::from(info.mem_unit));
    Machine {
        flavor: super::flavor(&job.identity),
        version: programs.version_number(),
        memory_bytes,
        data_bytes: job.data_bytes,
        processors: std::thread::available_parallelism().map_or(2, usize::from),
        gtids: true,
        server_id: rand::random_range(1_u32 << 31..u32::MAX),
    }
}

/// Removes what belongs to the backup and to the replay, and not to the database.
fn tidy(dir: &Path, flavor: Flavor) -> Result<()> {
    let replicas: &[&str] = match flavor {
        Flavor::MariaDb => &["master.info", "relay-log.info"],
        Flavor::MySql => &[],
    };
    for name in TOOLS_FILES.iter().chain(replicas) {
        let path = dir.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &path, error));
            }
            _ => {}
        }
    }
    let clone = dir.join("#clone");
    match fs::remove_dir_all(&clone) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &clone, error)),
        _ => Ok(()),
    }
}

/// What a base is, once it is ready to be started on.
struct Base {
    /// Where in the binlog it ends, if the base says so itself.
    place: Option<Place>,
    /// Settings of InnoDB without which its files cannot be read, as `name=value`.
    settings: Vec<String>,
}
