//! Which MySQL or MariaDB, and where its programs are.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::support::Scratch;

/// A server that a test can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Make {
    /// The system's where that is this version, else `.deps/mariadb-10.11`.
    MariaDb1011,
    /// From `.deps/mariadb-11.8`.
    MariaDb118,
    /// From `.deps/mysql-9.7`.
    MySql97,
}

impl Make {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::MariaDb1011, Self::MariaDb118, Self::MySql97];

    pub fn is_mariadb(self) -> bool {
        self != Self::MySql97
    }

    /// Of its URLs.
    pub fn scheme(self) -> &'static str {
        if self.is_mariadb() { "mariadb" } else { "mysql" }
    }

    /// Its name below `.deps`.
    pub fn name(self) -> &'static str {
        match self {
            Self::MariaDb1011 => "mariadb-10.11",
            Self::MariaDb118 => "mariadb-11.8",
            Self::MySql97 => "mysql-9.7",
        }
    }

    /// The server: `mariadbd` or `mysqld`.
    pub fn server(self) -> PathBuf {
        self.program(if self.is_mariadb() { "mariadbd" } else { "mysqld" })
    }

    /// The client that takes statements: `mariadb` or `mysql`.
    pub fn client(self) -> PathBuf {
        self.program(if self.is_mariadb() { "mariadb" } else { "mysql" })
    }

    /// `mariadb-binlog` or `mysqlbinlog`.
    pub fn binlog_reader(self) -> PathBuf {
        self.program(if self.is_mariadb() { "mariadb-binlog" } else { "mysqlbinlog" })
    }

    /// `mariadb-dump` or `mysqldump`.
    pub fn dump(self) -> PathBuf {
        self.program(if self.is_mariadb() { "mariadb-dump" } else { "mysqldump" })
    }

    /// Any of its programs; fails with the install command when it is missing.
    pub fn program(self, program: &str) -> PathBuf {
        let found = self.dirs().iter().map(|dir| dir.join(program)).find(|path| path.is_file());
        found.unwrap_or_else(|| {
            panic!("{program} of {} is missing; install it with: scripts/install-mysql.sh --all", self.name())
        })
    }

    /// The directory of its server program, for `--bin-dir`.
    pub fn bin_dir(self) -> PathBuf {
        self.server().parent().expect("a directory").to_path_buf()
    }

    /// Where its programs may be.
    fn dirs(self) -> Vec<PathBuf> {
        if self == Self::MariaDb1011 && system_mariadb_is("10.11.") {
            return ["/usr/sbin", "/usr/bin"].map(PathBuf::from).to_vec();
        }
        vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".deps").join(self.name()).join("bin")]
    }

    /// What its semi-synchronous variables call it: `rpl_semi_sync_ROLE_enabled`.
    pub fn source_role(self) -> &'static str {
        if self.is_mariadb() { "master" } else { "source" }
    }

    /// Options that make it a semi-synchronous source. It waits for an acknowledgement
    /// for `timeout_ms` once a replica has been there.
    pub fn semi_sync_source(self, timeout_ms: u64) -> Vec<String> {
        if self.is_mariadb() {
            vec!["--rpl-semi-sync-master-enabled=ON".into(), format!("--rpl-semi-sync-master-timeout={timeout_ms}")]
        } else {
            vec![
                "--plugin-load-add=semisync_source.so".into(),
                "--rpl-semi-sync-source-enabled=ON".into(),
                format!("--rpl-semi-sync-source-timeout={timeout_ms}"),
            ]
        }
    }

    /// Options that make its replica acknowledge.
    pub fn semi_sync_replica(self) -> Vec<String> {
        if self.is_mariadb() {
            vec!["--rpl-semi-sync-slave-enabled=ON".into()]
        } else {
            vec!["--plugin-load-add=semisync_replica.so".into(), "--rpl-semi-sync-replica-enabled=ON".into()]
        }
    }
}

/// The server program, or a copy of its installation that the server's user can run.
pub fn runnable_server(make: Make, scratch: &Scratch) -> PathBuf {
    scratch.runnable_by_server(&make.server(), 2)
}

fn system_mariadb_is(version: &str) -> bool {
    static VERSION: OnceLock<String> = OnceLock::new();
    let text = VERSION.get_or_init(|| {
        let output = Command::new("/usr/sbin/mariadbd").arg("--version").output();
        output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
    });
    text.contains(&format!(" Ver {version}"))
}
