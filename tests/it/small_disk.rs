//! Promise: on a disk that is really full nothing is acknowledged that is not stored, what
//! is there stays sound, and everything goes on by itself when there is room.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::support::load::{pgbench_tables, wait_for_wal};
use crate::support::oracle::{assert_segments_equal_wal, segment_files};
use crate::support::pitr::{SLOT, acknowledged, finish, inside};
use crate::support::programs::{must, server_user, tool};
use crate::support::s3::{Harm, S3};
use crate::support::{Load, PATIENCE, Pitr, Scratch, Server, condition};

/// A disk in memory, seen only from within a mount namespace of its own, so that an
/// ordinary user may have one too.
struct SmallDisk {
    holder: Child,
    at: PathBuf,
}

impl SmallDisk {
    fn new(at: &Path, mib: u32) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let ready = at.with_extension("ready");
        let mut command = tool("unshare");
        command.args(if server_user().is_some() { &["-m"][..] } else { &["-U", "-r", "-m"] });
        let script = format!("mount -t tmpfs -o size={mib}m none \"$1\" && touch \"$2\" && exec sleep 1000");
        command.args(["sh", "-c", &script, "sh"]).arg(at).arg(&ready).stdin(Stdio::null());
        let mut holder = command.spawn().unwrap();
        condition("the small disk", PATIENCE, || {
            assert!(
                holder.try_wait().unwrap().is_none(),
                "no disk could be mounted in a namespace of its own: run the tests as root, or allow unprivileged \
                 user namespaces (sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)"
            );
            ready.exists().then_some(())
        });
        Self { holder, at: at.to_owned() }
    }

    /// A command's first words that make it see the disk.
    fn enter(&self) -> Vec<String> {
        let target = format!("--target={}", self.holder.id());
        let user: &[&str] = if server_user().is_some() { &[] } else { &["-U", "--preserve-credentials"] };
        let words = ["nsenter", target.as_str(), "-m"].into_iter().chain(user.iter().copied()).chain(["--"]);
        words.map(String::from).collect()
    }

    fn shell(&self, script: &str, argument: &Path) {
        let words = self.enter();
        must(tool(&words[0]).args(&words[1..]).args(["sh", "-c", script, "sh"]).arg(&self.at).arg(argument));
    }

    fn fill(&self) {
        self.shell("dd if=/dev/zero of=\"$1\"/filler bs=64k 2>/dev/null; test -s \"$1\"/filler", Path::new(""));
    }

    fn make_room(&self) {
        self.shell("rm \"$1\"/filler", Path::new(""));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[test]
fn a_disk_without_room_stops_streaming_and_backups_until_there_is_some() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).start();
    pgbench_tables(&server, 1);
    let plain = Pitr::new(&scratch).source(&server);
    let disk = SmallDisk::new(plain.store(), 64);
    let inside = |words: &[&str]| inside(&disk.enter(), &plain.command(words));
    let run = |words: &[&str]| finish(&scratch, inside(words));
    run(&["init"]).success();
    run(&["archive", "--slot", SLOT, "--exit-when-caught-up"]).success();

    let log = std::fs::File::create(scratch.join("archiver.log")).unwrap();
    let mut archiver = inside(&["archive", "--slot", SLOT]);
    let mut archiver = archiver.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let said = || std::fs::read_to_string(scratch.join("archiver.log")).unwrap();
    condition("streaming", PATIENCE, || said().contains("streaming").then_some(()));
    disk.fill();
    let load = Load::pgbench(&server, 2);
    wait_for_wal(&server, 5 << 20);
    load.stop(&server);
    condition("the archiver to complain", PATIENCE, || said().contains("the disk is full").then_some(()));
    let told = acknowledged(&server).unwrap();
    assert!(told < server.flush_lsn(), "acknowledged what it could not write");
    run(&["backup"]).exit(21).says(&["the disk is full"]);
    run(&["verify", "--read-data"]).success();

    disk.make_room();
    let end = server.switch_wal();
    condition("everything to be acknowledged", PATIENCE, || {
        assert!(archiver.try_wait().unwrap().is_none(), "{}", said());
        (acknowledged(&server)? >= end).then_some(())
    });
    run(&["backup"]).success();
    let copy = scratch.join("copy");
    condition("the last log file to be sealed", PATIENCE, || {
        let _ = std::fs::remove_dir_all(&copy);
        // Not whole while a tail goes away.
        disk.shell("cp -a \"$1\" \"$2\" || rm -rf \"$2\"", &copy);
        segment_files(&copy.join("main")).iter().any(|segment| segment.end >= end).then_some(())
    });
    run(&["verify", "--read-data"]).success();
    assert!(assert_segments_equal_wal(&copy.join("main"), &server, 1, end) >= 5);
    archiver.kill().unwrap();
    archiver.wait().unwrap();
}

#[test]
fn a_spool_without_room_stops_streaming_until_there_is_some() {
    let scratch = Scratch::new();
    let s3 = S3::start(&scratch);
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).start();
    pgbench_tables(&server, 1);
    std::fs::write(scratch.join("pitr.toml"), "[stream]\nsegment_size = \"1MiB\"\nspool_size = \"16MiB\"\n").unwrap();
    let spool = scratch.join("spool");
    let pitr = Pitr::in_bucket(&scratch, &s3, "db").source(&server);
    let plain = pitr.env("PITR_SPOOL", spool.to_str().unwrap()).env("PITR_ACK", "spool");
    let disk = SmallDisk::new(&spool, 32);
    plain.catch_up();

    let log = std::fs::File::create(scratch.join("archiver.log")).unwrap();
    let mut archiver = inside(&disk.enter(), &plain.command(["archive", "--slot", SLOT, "--no-backup"]));
    let mut archiver = archiver.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let said = || std::fs::read_to_string(scratch.join("archiver.log")).unwrap();
    condition("streaming", PATIENCE, || said().contains("streaming timeline").then_some(()));
    // The files of its tails are there, and used again: only what has to wait needs room.
    disk.fill();
    s3.harm_when(|_| Some(Harm::Refused(503, "ServiceUnavailable")));
    let load = Load::pgbench(&server, 2);
    wait_for_wal(&server, 8 << 20);
    load.stop(&server);
    condition("the archiver to complain", PATIENCE, || said().contains("the disk is full").then_some(()));
    s3.heal();
    plain.ok(["verify", "--read-data"]);

    disk.make_room();
    let end = server.switch_wal();
    condition("everything to be acknowledged", PATIENCE, || {
        assert!(archiver.try_wait().unwrap().is_none(), "{}", said());
        (acknowledged(&server)? >= end).then_some(())
    });
    archiver.kill().unwrap();
    archiver.wait().unwrap();
    // What only the spool has is brought to the store by the next one, on the same disk.
    let words = ["archive", "--slot", SLOT, "--no-backup", "--exit-when-caught-up"];
    finish(&scratch, inside(&disk.enter(), &plain.command(words))).success();
    plain.ok(["verify", "--read-data"]);
    assert!(assert_segments_equal_wal(&plain.cluster_dir(), &server, 1, end) >= 5);
}
