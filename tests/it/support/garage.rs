//! Garage: a service of three nodes on this machine that keeps each object on all of them and answers as
//! long as two live, with one bucket. It keeps no condition of a create.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::programs::{as_server_user, give_to_server_user, must};
use super::server::free_port;
use super::{PATIENCE, Pitr, Scratch, condition};

const NODES: usize = 3;
const BUCKET: &str = "backups";
/// Garage takes keys of no other form than its own.
const KEY_ID: &str = "GK0123456789abcdef01234567";
/// The key's secret.
pub const KEY_SECRET: &str = "ca9a27000000000000000000000000000000000000000000000000000000cafe";

/// The service, until it is dropped.
pub struct Garage {
    program: PathBuf,
    nodes: Vec<Node>,
}

struct Node {
    dir: PathBuf,
    /// Where the others reach it.
    rpc: u16,
    /// Where it answers as S3 does.
    port: u16,
    process: Option<Child>,
}

impl Garage {
    /// One with an empty bucket.
    pub fn start(scratch: &Scratch) -> Self {
        let program = scratch.runnable_by_server(&program(), 0);
        let mut garage = Self { program, nodes: Vec::new() };
        let mut peers = Vec::new();
        for number in 0..NODES {
            let dir = scratch.server_dir(&format!("garage-{number}"));
            let node = Node { dir, rpc: free_port(), port: free_port(), process: None };
            node.configure(&peers);
            garage.nodes.push(node);
            garage.run(number);
            // Its identity is made when it runs first; whoever is to reach it has to know it.
            peers.push(garage.ask(number, &["node", "id", "--quiet"]));
        }
        for node in &garage.nodes {
            // For those that come back.
            node.configure(&peers);
        }
        // A layout comes to those who are there, and to others much later.
        for number in 0..NODES {
            garage.wait_for_health(number, "connectedNodes", NODES.into());
        }
        let ids: Vec<&str> = peers.iter().map(|peer| peer.split_once('@').expect("ID@ADDRESS").0).collect();
        garage.ask(0, &[&["layout", "assign", "--zone", "here", "--capacity", "1GB"], &ids[..]].concat());
        garage.ask(0, &["layout", "apply", "--version", "1"]);
        for number in 0..NODES {
            garage.wait_until_healthy(number);
        }
        garage.ask(0, &["key", "import", "--yes", KEY_ID, KEY_SECRET]);
        garage.ask(0, &["bucket", "create", BUCKET]);
        garage.ask(0, &["bucket", "allow", "--read", "--write", BUCKET, "--key", KEY_ID]);
        garage
    }

    /// `pitr` with its store in the bucket, by way of one of the nodes.
    pub fn pitr<'a>(&self, scratch: &'a Scratch, node: usize) -> Pitr<'a> {
        let url = format!("s3://{BUCKET}/team/db?region=garage&endpoint=http://127.0.0.1:{}", self.nodes[node].port);
        Pitr::with_keys(scratch, url).env("AWS_ACCESS_KEY_ID", KEY_ID).env("AWS_SECRET_ACCESS_KEY", KEY_SECRET)
    }

    /// Starts a node, also one that was killed, and waits until it listens.
    pub fn run(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let log = File::options().create(true).append(true).open(node.log()).expect("Garage's log");
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(node.config()).arg("server").stdin(Stdio::null());
        command.stdout(log.try_clone().expect("Garage's log")).stderr(log);
        let mut process = as_server_user(&mut command).spawn().expect("starting Garage");
        condition(format!("node {number} of Garage to listen"), PATIENCE, || {
            let ended = process.try_wait().expect("waiting for Garage");
            assert!(ended.is_none(), "node {number} of Garage ended:\n{}", node.end_of_log());
            std::net::TcpStream::connect(("127.0.0.1", node.port)).ok()
        });
        node.process = Some(process);
    }

    /// `kill -9` of a node.
    pub fn kill(&mut self, number: usize) {
        self.nodes[number].kill();
    }

    /// Waits until a node has found all the others.
    pub fn wait_until_healthy(&self, number: usize) {
        self.wait_for_health(number, "status", "healthy".into());
    }

    fn wait_for_health(&self, number: usize, field: &str, value: serde_json::Value) {
        condition(format!("node {number} of Garage to say {field}: {value}"), PATIENCE, || {
            let health = self.ask(number, &["json-api", "GetClusterHealth"]);
            let health: serde_json::Value = serde_json::from_str(&health).expect("JSON");
            (health[field] == value).then_some(())
        });
    }

    /// What Garage's own command says when it asks a node.
    #[track_caller]
    fn ask(&self, number: usize, words: &[&str]) -> String {
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(self.nodes[number].config()).args(words);
        must(as_server_user(&mut command))
    }
}

impl Node {
    fn config(&self) -> PathBuf {
        self.dir.join("garage.toml")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn configure(&self, peers: &[String]) {
        let Self { dir, rpc, port, .. } = self;
        let dir = dir.display();
        let settings = format!(
            r#"
metadata_dir = "{dir}/meta"
data_dir = "{dir}/data"
db_engine = "lmdb"
replication_factor = {NODES}
rpc_bind_addr = "127.0.0.1:{rpc}"
rpc_public_addr = "127.0.0.1:{rpc}"
rpc_secret = "{KEY_SECRET}"
bootstrap_peers = {peers:?}

[s3_api]
s3_region = "garage"
api_bind_addr = "127.0.0.1:{port}"
"#
        );
        fs::write(self.config(), settings).expect("Garage's settings");
        give_to_server_user(&self.config());
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn end_of_log(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let skip = log.lines().count().saturating_sub(30);
        log.lines().skip(skip).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Garage {
    fn drop(&mut self) {
        for (number, node) in self.nodes.iter_mut().enumerate() {
            node.kill();
            if std::thread::panicking() {
                eprintln!("--- end of the log of node {number} of Garage ---\n{}", node.end_of_log());
            }
        }
    }
}

fn program() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".deps/garage/bin/garage");
    assert!(path.exists(), "{} is missing; install it with: scripts/install-garage.sh", path.display());
    path
}
