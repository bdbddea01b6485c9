//! Promise: what is killed, whoever kills it, costs MySQL and MariaDB nothing that was promised:
//! no transaction, no exactness of a restore, and no process is left behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};

use crate::mysql_restore::{Place, replayed, start};
use crate::mysql_stream::assert_export_equals_binlogs;
use crate::support::mysql::{Make, MySqlServer, REPLICA, mark, marker_ids, marker_table};
use crate::support::pitr::Finished;
use crate::support::{PATIENCE, Pitr, Scratch, condition, seed};

const NONE: &[&str] = &[];

/// One of each family.
const MAKES: [Make; 2] = [Make::MariaDb1011, Make::MySql97];

/// The processes whose command line names `dir`, or something in it.
fn processes_on(dir: &Path) -> Vec<Pid> {
    let name = dir.to_str().expect("a path");
    let names_it = |id: &i32| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).split(['\0', '=']).any(|word| Path::new(word) == Path::new(name))
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    ids.filter(names_it).filter_map(Pid::from_raw).collect()
}

/// `pitr restore` in the background. Killed when dropped.
struct Restore {
    child: Child,
    output: PathBuf,
    to: PathBuf,
}

impl Restore {
    fn start(scratch: &Scratch, place: &Place<'_>, name: &str) -> Self {
        let (to, output) = (scratch.join(name), scratch.join(&format!("{name}.output")));
        let file = fs::File::create(&output).unwrap();
        let mut command = place.command(&to, &["--target", "latest"]);
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Self { child, output, to }
    }

    fn partial(&self) -> PathBuf {
        self.to.with_file_name(format!("{}.partial", self.to.file_name().unwrap().to_str().unwrap()))
    }

    /// Waits until the private server has the slow transaction before it, which it will be at for
    /// some time.
    fn wait_until_it_replays(&mut self) {
        let relay = self.partial().with_extension("partial.run");
        condition("the private server to replay", PATIENCE, || {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended: {}", self.said());
            let files = fs::read_dir(&relay).ok()?.flatten();
            let mut logs = files.filter(|file| file.file_name().to_string_lossy().starts_with("relay.0"));
            let slow = |log: fs::DirEntry| fs::read(log.path()).is_ok_and(|bytes| contains(&bytes, SLOW.as_bytes()));
            logs.any(slow).then_some(())
        });
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Waits for its end.
    fn wait(&mut self) -> Finished {
        let status = condition("the restore to end", PATIENCE, || self.child.try_wait().unwrap());
        Finished { command: "pitr restore".into(), code: status.code(), stdout: self.said(), stderr: String::new() }
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for left in processes_on(&self.partial()) {
            let _ = kill_process(left, Signal::KILL);
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// What is written at once and takes two seconds to be replayed.
const SLOW: &str = "SLEEP(2)";

fn slow_transaction(server: &MySqlServer) {
    let id = server.server_id();
    server.sql(&format!(
        "CREATE TABLE IF NOT EXISTS test.slow (slept INT);
         SET SESSION binlog_format = STATEMENT;
         INSERT INTO test.slow SELECT IF(@@GLOBAL.server_id = {id}, 0, {SLOW})"
    ));
}

/// A source with an archive that takes a moment to restore.
fn archived(scratch: &Scratch, make: Make) -> (MySqlServer, Place<'_>) {
    let server = start(scratch, make, NONE);
    let place = Place::new(scratch, &server);
    place.pitr.ok(["archive", "--exit-when-caught-up"]);
    mark(&server);
    slow_transaction(&server);
    mark(&server);
    place.pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
    (server, place)
}

fn assert_exact(restored: &MySqlServer, source: &MySqlServer) {
    assert_eq!(restored.checksums(), source.checksums());
    assert_eq!(replayed(restored), source.gtid_position());
}

#[test]
fn a_second_restore_into_the_same_directory_leaves_the_first_alone() {
    for make in MAKES {
        let scratch = Scratch::new();
        let (server, place) = archived(&scratch, make);
        let mut restore = Restore::start(&scratch, &place, "restored");
        restore.wait_until_it_replays();
        let mut second = place.command(&restore.to, &["--target", "latest"]);
        let second = second.output().unwrap();
        assert_eq!(second.status.code(), Some(5), "{second:?}");
        assert!(String::from_utf8_lossy(&second.stderr).contains("another restore is under way"), "{second:?}");
        restore.wait().success();
        assert_exact(&place.open("restored", restore.to.clone()), &server);
    }
}

#[test]
fn the_server_of_a_killed_restore_is_stopped_by_the_next_one() {
    for make in MAKES {
        let scratch = Scratch::new();
        let (server, place) = archived(&scratch, make);
        let mut restore = Restore::start(&scratch, &place, "restored");
        restore.wait_until_it_replays();
        restore.child.kill().unwrap();
        restore.child.wait().unwrap();
        let orphans = processes_on(&restore.partial());
        assert_eq!(orphans.len(), 1, "{make:?}: the server is no part of what was killed");
        let name = orphans[0].as_raw_nonzero().to_string();
        place.restore(&restore.to, &["--target", "latest"]).success().says(&["process", &name]);
        assert_eq!(processes_on(&restore.partial()), []);
        assert!(!restore.partial().exists() && !restore.partial().with_extension("partial.run").exists());
        assert_exact(&place.open("restored", restore.to.clone()), &server);
    }
}

#[test]
fn a_private_server_that_is_killed_fails_the_restore_and_nothing_else() {
    let mut rng = StdRng::seed_from_u64(seed());
    for make in MAKES {
        let scratch = Scratch::new();
        let (server, place) = archived(&scratch, make);
        for round in 0..4 {
            let mut restore = Restore::start(&scratch, &place, &format!("killed-{round}"));
            if round == 0 {
                restore.wait_until_it_replays();
            } else {
                let partial = restore.partial();
                condition("the private server", PATIENCE, || (!processes_on(&partial).is_empty()).then_some(()));
                // The moment of the kill is the experiment, not a wait for anything.
                std::thread::sleep(Duration::from_micros(rng.random_range(0..3_000_000)));
            }
            for process in processes_on(&restore.partial()) {
                let _ = kill_process(process, Signal::KILL);
            }
            let ended = restore.wait();
            // The last moments of a restore are after the server's.
            if round > 0 && ended.code == Some(0) {
                assert_exact(&place.open(&format!("whole-{round}"), restore.to.clone()), &server);
                continue;
            }
            let told = ["ended with signal: 9", "not shut down cleanly: signal: 9", "could not prepare the base"];
            assert!(ended.code == Some(1) && told.iter().any(|told| ended.said().contains(told)), "{make:?}: {ended}");
            assert!(!restore.to.exists(), "{make:?}: {ended}");
            assert_eq!(processes_on(&restore.partial()), []);
        }
        assert_exact(&place.latest("restored"), &server);
    }
}

/// The ids under which a server lists those that take its log.
fn replica_ids(server: &MySqlServer) -> Vec<u32> {
    let list = if server.make().is_mariadb() { "SHOW SLAVE HOSTS" } else { "SHOW REPLICAS" };
    server.rows(list).iter().map(|row| row[0].parse().expect("an id")).collect()
}

/// Another reader of the log, which says it is `id`. Killed when dropped.
struct Dump(Child);

impl Dump {
    fn start(scratch: &Scratch, server: &MySqlServer, id: u32) -> Self {
        let first = server.binlogs().remove(0).name;
        let mut command = Command::new(server.make().binlog_reader());
        let kind = if server.make().is_mariadb() { "--stop-never-slave-server-id" } else { "--connection-server-id" };
        command.args(["--no-defaults", "--read-from-remote-server", "--stop-never", "--raw", "--host=127.0.0.1"]);
        command.arg(format!("--port={}", server.port())).arg(format!("--user={}", REPLICA.user));
        command.arg(format!("--result-file={}", scratch.join("dump-").display()));
        command.arg(format!("{kind}={id}")).arg(first).env("MYSQL_PWD", REPLICA.password);
        let log = fs::File::create(scratch.join("dump.output")).unwrap();
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }
}

impl Drop for Dump {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// MariaDB ends the older of two dumps with one id; MySQL tells them apart by UUID.
#[test]
fn a_replica_with_our_id_does_not_stop_the_archive() {
    for make in MAKES {
        let scratch = Scratch::new();
        let server = MySqlServer::start(&scratch, "source", make, NONE);
        marker_table(&server);
        let pitr = Pitr::new(&scratch).source_url(server.url());
        let mut archiver = pitr.archive_with(&["--no-backup"]);
        let ours = condition("the archiver in the server's list", PATIENCE, || replica_ids(&server).pop());
        mark(&server);
        let mut other = Dump::start(&scratch, &server, ours);
        let dumped = || {
            let mut files = fs::read_dir(scratch.path()).unwrap().flatten();
            files.find(|file| file.file_name().to_string_lossy().starts_with("dump-"))
        };
        condition("the other dump", PATIENCE, || {
            let length = dumped()?.metadata().ok()?.len();
            (length >= server.log_end().size).then_some(())
        });
        if make.is_mariadb() {
            condition("another id of ours", PATIENCE, || {
                archiver.assert_running();
                replica_ids(&server).into_iter().find(|id| *id != ours)
            });
        }
        // Neither takes the log away from the other.
        for _ in 0..3 {
            mark(&server);
        }
        let end = server.log_end();
        condition("both to go on", PATIENCE, || {
            archiver.assert_running();
            let behind = pitr.json(&["status"])["source"]["lag_bytes"].as_u64();
            (behind == Some(0) && dumped()?.metadata().ok()?.len() >= end.size).then_some(())
        });
        assert!(other.0.try_wait().unwrap().is_none(), "the other dump was ended");
        archiver.stop();
        pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
        let status = pitr.json(&["status"]);
        assert_eq!((&status["timeline"], &status["gaps"]), (&1.into(), &0.into()), "{status}");
    }
}

/// A client that writes markers, and down each of which it was told that it is committed.
struct Witness {
    child: Child,
    seen: PathBuf,
}

impl Witness {
    fn start(scratch: &Scratch, server: &MySqlServer, name: &str) -> Self {
        let (statements, seen) = (scratch.join(&format!("{name}.sql")), scratch.join(&format!("{name}.seen")));
        let one = "insert into test.marker () values (); select last_insert_id();\n";
        fs::write(&statements, one.repeat(100_000)).unwrap();
        let mut client = server.client();
        client.stdin(fs::File::open(&statements).unwrap()).stdout(fs::File::create(&seen).unwrap());
        Self { child: client.stderr(Stdio::null()).spawn().unwrap(), seen }
    }

    fn ids(&self) -> BTreeSet<u64> {
        let text = fs::read_to_string(&self.seen).unwrap();
        // The last line may not be whole.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| line.parse().expect("an id")).collect()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server whose commits wait for a replica before others see them, without end, from
/// when [`begin_to_wait`] says so.
fn start_awaiting(scratch: &Scratch, make: Make) -> MySqlServer {
    let mut options = make.semi_sync_source(1_000_000_000);
    options.push(format!("--rpl-semi-sync-{}-wait-point=AFTER_SYNC", make.source_role()));
    options.push(format!("--rpl-semi-sync-{}-enabled=OFF", make.source_role()));
    start(scratch, make, &options.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Has commits wait for the replica that is about to come.
fn begin_to_wait(server: &MySqlServer) {
    condition("pitr to be a replica", PATIENCE, || (server.semi_sync_clients() == 1).then_some(()));
    server.sql(&format!("SET GLOBAL rpl_semi_sync_{}_enabled = ON", server.make().source_role()));
}

/// The lock under which the server names its binlog files is held by a commit that waits for pitr.
#[test]
fn an_archiver_comes_back_to_commits_that_wait_for_it() {
    for make in Make::ALL {
        let scratch = Scratch::new();
        let server = start_awaiting(&scratch, make);
        let place = Place::new(&scratch, &server);
        place.pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
        let archiver = place.pitr.archive_with(&["--no-backup"]);
        begin_to_wait(&server);
        let clients: Vec<Witness> =
            (0..4).map(|nth| Witness::start(&scratch, &server, &format!("client-{nth}"))).collect();
        let wait_for_commits = || {
            let before: Vec<usize> = clients.iter().map(|client| client.ids().len()).collect();
            condition("commits to return", PATIENCE, || {
                clients.iter().zip(&before).all(|(client, before)| client.ids().len() > before + 2).then_some(())
            });
        };
        let wait_for_all_to_wait = || {
            condition("all commits to wait", PATIENCE, || {
                let waiting = "select count(*) from information_schema.processlist where info like 'insert into %'";
                (server.semi_sync_clients() == 0 && server.sql(waiting).trim() == "4").then_some(())
            });
        };
        wait_for_commits();
        archiver.kill();
        wait_for_all_to_wait();
        place.pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
        wait_for_all_to_wait();
        let mut archiver = place.pitr.archive_with(&["--no-backup"]);
        wait_for_commits();
        assert!(server.semi_sync_is_on(), "{make:?}: the server gave up waiting");
        archiver.assert_running();
        archiver.stop();
        // Else nothing ends any more.
        server.sql(&format!("SET GLOBAL rpl_semi_sync_{}_enabled = OFF", make.source_role()));
        drop(clients);
        assert_export_equals_binlogs(&place.pitr, &scratch.join("export"), &server);
    }
}

/// Semi-synchronous, with pitr as the only replica and no end to the server's patience.
#[test]
fn a_commit_that_returned_is_archived_whoever_is_killed() {
    let mut rng = StdRng::seed_from_u64(seed());
    for make in MAKES {
        let scratch = Scratch::new();
        let mut server = start_awaiting(&scratch, make);
        let place = Place::new(&scratch, &server);
        place.pitr.ok(["archive", "--exit-when-caught-up"]);
        let mut told = BTreeSet::new();
        for round in 0..2 {
            // The one before has ended, which the server notices later.
            condition("no replica", PATIENCE, || (server.semi_sync_clients() == 0).then_some(()));
            let archiver = place.pitr.archive_with(&["--no-backup"]);
            begin_to_wait(&server);
            let clients: Vec<Witness> =
                (0..4).map(|nth| Witness::start(&scratch, &server, &format!("client-{round}-{nth}"))).collect();
            condition("commits to return", PATIENCE, || {
                clients.iter().all(|client| client.ids().len() > 20).then_some(())
            });
            assert!(server.semi_sync_is_on(), "{make:?}: the server gave up waiting");
            // The moment of the kill is the experiment, not a wait for anything.
            std::thread::sleep(Duration::from_micros(rng.random_range(0..300_000)));
            archiver.kill();
            std::thread::sleep(Duration::from_micros(rng.random_range(0..100_000)));
            server.kill();
            for client in &clients {
                told.extend(client.ids());
            }
            drop(clients);
            // Nobody but the archive is asked.
            let restored = place.latest(&format!("restored-{round}"));
            let have = marker_ids(&restored);
            let lost: Vec<&u64> = told.difference(&have).collect();
            assert!(lost.is_empty(), "{make:?}, round {round}: committed and lost: {lost:?}");
            drop(restored);
            server.run();
        }
    }
}

fn url_of(first: &str, second: &MySqlServer) -> String {
    let url = second.url();
    let (scheme, rest) = url.split_once("://").unwrap();
    let (account, hosts) = rest.rsplit_once('@').unwrap();
    format!("{scheme}://{account}@{first},{hosts}")
}

#[test]
fn a_dead_host_is_passed_over_and_a_wrong_one_is_refused() {
    for make in MAKES {
        let scratch = Scratch::new();
        let server = MySqlServer::start(&scratch, "source", make, NONE);
        marker_table(&server);
        let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let first_dead = Pitr::new(&scratch).source_url(url_of(&dead.to_string(), &server));
        first_dead.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
        let before = first_dead.json(&["status"]);
        let other = MySqlServer::start(&scratch, "other", make, NONE);
        marker_table(&other);
        mark(&server);
        let wrong = format!("127.0.0.1:{}", other.port());
        let first_wrong = Pitr::new(&scratch).source_url(url_of(&wrong, &server));
        first_wrong.run(["archive", "--exit-when-caught-up", "--no-backup"]).exit(5).says(&["another database"]);
        assert_eq!(before["timeline"], first_dead.json(&["status"])["timeline"]);
        first_dead.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
        let status = first_dead.json(&["status"]);
        assert_eq!((&status["timeline"], &status["gaps"]), (&1.into(), &0.into()), "{status}");
    }
}

/// The archive holds a large transaction in part when the server that began to send it is gone,
/// and another one has it all.
#[test]
fn a_failover_inside_a_large_transaction_keeps_all_of_it() {
    for make in MAKES {
        let scratch = Scratch::new();
        let mut first = start(&scratch, make, NONE);
        let second = MySqlServer::start(&scratch, "second", make, NONE);
        if !make.is_mariadb() {
            // Of this server alone, and not of the cluster's log.
            second.sql("SET SESSION sql_log_bin = 0; INSTALL PLUGIN clone SONAME 'mysql_clone.so'");
        }
        second.follow(&first);
        first.sql("CREATE TABLE test.wide (id INT PRIMARY KEY AUTO_INCREMENT, v LONGBLOB)");
        mark(&first);
        second.wait_for(&first);
        let place = Place::new(&scratch, &first);
        place.pitr.ok(["archive", "--exit-when-caught-up"]);
        first.sql(
            &("BEGIN;\n".to_owned()
                + &"INSERT INTO test.wide (v) SELECT REPEAT(RANDOM_BYTES(1000), 8000);\n".repeat(8)
                + "COMMIT;\n"),
        );
        mark(&first);
        second.wait_for(&first);
        let log = place.pitr.cluster_dir().join("log/00000001");
        let objects = || fs::read_dir(&log).map_or(0, |dir| dir.filter_map(Result::ok).count());
        let before = objects();
        let archiver = place.pitr.archive_with(&["--no-backup"]);
        condition("a part of the transaction in the archive", PATIENCE, || (objects() != before).then_some(()));
        archiver.kill();
        first.kill();
        second.promote();
        mark(&second);
        let both = Pitr::new(&scratch)
            .source_url(url_of(&format!("127.0.0.1:{}", first.port()), &second))
            .env("PATH", std::env::var("PATH").unwrap_or_default());
        both.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
        both.ok(["verify", "--read-data"]).says(&["the archive is sound"]);
        let status = both.json(&["status"]);
        assert_eq!(status["gaps"], 0, "{status}");
        let restored = place.latest("restored");
        assert_exact(&restored, &second);
    }
}
