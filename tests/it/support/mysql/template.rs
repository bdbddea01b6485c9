//! Data directories to begin with, with the tests' accounts and an empty database `test`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::programs::{as_server_user, must};
use crate::support::{Scratch, template};

use super::make::{Make, runnable_server};
use super::{MySqlServer, account};

/// To be raised when what is made here changes.
const REVISION: u32 = 1;

/// A new data directory `name` in `scratch`, the server's user's.
pub fn copy(make: Make, scratch: &Scratch, name: &str) -> PathBuf {
    static TEMPLATES: [OnceLock<PathBuf>; 3] = [const { OnceLock::new() }; 3];
    let template = TEMPLATES[make as usize].get_or_init(|| prepared(make));
    let data = scratch.join(name);
    template::copy(template, &data);
    data
}

fn prepared(make: Make) -> PathBuf {
    let version = must(Command::new(make.server()).arg("--version"));
    let version = version.split_once(" Ver ").map_or("", |(_, rest)| rest).split(' ').next().unwrap_or_default();
    template::kept(&format!("{}-{version}-{REVISION}", make.name()), |scratch| prepare(make, scratch))
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
