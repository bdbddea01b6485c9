//! Data directories to begin with.
//!
//! Making one takes seconds and copying it none, so that one of each make is kept beside
//! the build, with the tests' accounts and an empty database `test`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::Scratch;
use crate::support::programs::{as_server_user, must};

use super::make::{Make, runnable_server};
use super::{MySqlServer, account};

/// To be raised when what is made here changes.
const REVISION: u32 = 1;

/// A new data directory `name` in `scratch`, the server's user's.
pub fn copy(make: Make, scratch: &Scratch, name: &str) -> PathBuf {
    static TEMPLATES: [OnceLock<PathBuf>; 3] = [const { OnceLock::new() }; 3];
    let template = TEMPLATES[make as usize].get_or_init(|| template(make));
    let data = scratch.join(name);
    must(Command::new("cp").args(["-a", "--reflink=auto", "--sparse=always"]).arg(template).arg(&data));
    data
}

fn template(make: Make) -> PathBuf {
    let version = must(Command::new(make.server()).arg("--version"));
    let version = version.split_once(" Ver ").map_or("", |(_, rest)| rest).split(' ').next().unwrap_or_default();
    let kept = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{version}-{REVISION}", make.name()));
    if !kept.exists() {
        let scratch = Scratch::new();
        let data = prepare(make, &scratch);
        let beside = kept.with_extension(format!("new-{}", std::process::id()));
        must(Command::new("cp").args(["-a", "--sparse=always"]).arg(data).arg(&beside));
        // One that another process was quicker to make is as good.
        if std::fs::rename(&beside, &kept).is_err() {
            assert!(kept.exists(), "moving a template to {}", kept.display());
            must(Command::new("rm").arg("-rf").arg(&beside));
        }
    }
    kept
}

fn prepare(make: Make, scratch: &Scratch) -> PathBuf {
    let data = scratch.server_dir("template");
    let mut install = if make.is_mariadb() {
        let mut install = Command::new(make.program("mariadb-install-db"));
        install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
        install.arg("--innodb-log-file-size=16M");
        install
    } else {
        let mut install = Command::new(runnable_server(make, scratch));
        install.args(["--no-defaults", "--initialize-insecure", "--innodb-redo-log-capacity=16M"]);
        install
    };
    install.arg(format!("--datadir={}", data.display())).env("TMPDIR", scratch.server_dir("tmp"));
    must(as_server_user(&mut install));

    // Without a log, so that no test meets the accounts there.
    let mut options = vec!["--skip-networking", "--skip-log-bin"];
    if !make.is_mariadb() {
        options.extend(["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"]);
    }
    let mut server = MySqlServer::open(scratch, "template", make, data, &options);
    server.sql(&account::statements(make));
    server.stop();
    // The server's identity, which every copy makes anew.
    let _ = std::fs::remove_file(Path::new(server.data()).join("auto.cnf"));
    server.data().to_path_buf()
}
