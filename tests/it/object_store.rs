//! Promise: a store that cannot keep a tail, as an object store cannot, holds the log
//! in small segments no older than the flush interval, and in one segment for each WAL
//! file that is through.
//!
//! Such a store is here a local one that says it is none: what it holds is read by the
//! same oracles.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pitr::engine::{self, Engine, SourceOptions};
use pitr::model::time::SystemClock;
use pitr::seal::key::Keys;
use pitr::segment::codec::Compression;
use pitr::store::local::LocalStore;
use pitr::store::{Created, ObjectInfo, Part, Store};
use pitr::stream::session::Report;
use pitr::stream::{Archiver, Settings};
use tokio::sync::watch;

use crate::support::load::{mark, marker_table, pgbench_tables};
use crate::support::oracle::{
    SegmentFile, assert_same_bytes, assert_segments_equal_wal, covering, marker_xids, open_restored, segment_files,
    wal_file_name,
};
use crate::support::pitr::{SLOT, acknowledged};
use crate::support::{PATIENCE, Pitr, Scratch, Server, condition};

/// A local store without a place for tails.
struct Objects(LocalStore);

#[async_trait::async_trait]
impl Store for Objects {
    async fn create(&self, name: &str, body: Vec<Bytes>) -> pitr::Result<Created> {
        self.0.create(name, body).await
    }

    async fn get(&self, name: &str, part: Part) -> pitr::Result<Option<Bytes>> {
        self.0.get(name, part).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        shallow: bool,
        each: &mut (dyn FnMut(ObjectInfo) + Send),
    ) -> pitr::Result<()> {
        self.0.list(prefix, after, shallow, each).await
    }

    async fn head(&self, name: &str) -> pitr::Result<Option<ObjectInfo>> {
        self.0.head(name).await
    }

    async fn delete(&self, name: &str) -> pitr::Result<()> {
        self.0.delete(name).await
    }

    fn location(&self) -> String {
        self.0.location()
    }
}

/// Archives `server` in this process until `work` returns, and then stops as SIGTERM does.
fn archive_while(pitr: &Pitr, server: &Server, work: impl FnOnce()) {
    let url = server.url();
    let engine: Arc<dyn Engine> = Arc::from(engine::by_url(&url).unwrap());
    let archiver = Archiver {
        keys: Keys::default(),
        store: Arc::new(Objects(LocalStore::open(pitr.store()).unwrap())),
        mirrors: None,
        cluster: "main".parse().unwrap(),
        engine,
        url,
        options: SourceOptions { slot: Some(SLOT.into()), application_name: "test".into(), ..SourceOptions::default() },
        settings: Settings {
            compression: Compression::Lz4,
            segment_bytes: 16 << 20,
            flush_interval: Duration::from_millis(50),
            spool: None,
            standby: None,
            from: None,
            until: None,
            exit_when_caught_up: false,
            backup: true,
        },
        clock: Arc::new(SystemClock),
    };
    let (stop, stopped) = watch::channel(false);
    let (report, _) = watch::channel(Report::default());
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(archiver.run(stopped, &report))
        });
        work();
        stop.send_replace(true);
        running.join().unwrap().unwrap();
    });
}

/// Until then the backup itself makes the server switch WAL files.
fn wait_for_base(pitr: &Pitr) {
    let bases = pitr.cluster_dir().join("base");
    condition("the first base backup", PATIENCE, || {
        let mut found = std::fs::read_dir(&bases).ok()?.flatten();
        found.any(|base| base.path().join("manifest.json").exists()).then_some(())
    });
}

fn wait_until_acknowledged(server: &Server, offset: u64) {
    condition("everything to be acknowledged", PATIENCE, || (acknowledged(server)? >= offset).then_some(()));
}

#[track_caller]
fn assert_one_segment_each(segments: &[SegmentFile], file: u64, end: u64, size: u64) {
    for at in (file..end).step_by(usize::try_from(size).unwrap()) {
        assert_eq!(covering(segments, 1, at, at + size).len(), 1, "the WAL file at {at:X}: {segments:#?}");
    }
}

/// What the format's description says to type, for the WAL file that begins at `start`.
fn assert_documented_commands_make(pitr: &Pitr, server: &Server, start: u64) {
    let text = std::fs::read_to_string("docs/format.md").unwrap();
    let (at, end) = ("0000000003000000", "0000000004000000");
    let commands = text.split_once(&format!("    at={at}")).unwrap().1.split_once("\n\n").unwrap().0;
    let size = server.wal_segment_bytes();
    let commands = format!("at={at}{commands}")
        .replace(at, &format!("{start:016X}"))
        .replace(end, &format!("{:016X}", start + size));
    let folder = pitr.cluster_dir().join("log/00000001");
    let mut shell = std::process::Command::new("sh");
    assert!(shell.args(["-ec", &commands]).current_dir(&folder).status().unwrap().success());
    let made = folder.join("000000010000000000000003");
    let name = wal_file_name(1, start, size);
    let theirs = std::fs::read(server.wal_dir().join(&name)).unwrap();
    assert_same_bytes(&name, &std::fs::read(&made).unwrap(), &theirs);
    std::fs::remove_file(&made).unwrap();
}

#[test]
fn small_segments_give_way_to_one_for_each_wal_file() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).setting("autovacuum", "off").start();
    pgbench_tables(&server, 1);
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    let size = server.wal_segment_bytes();
    let (mut file, mut end, mut rows) = (0, 0, std::collections::BTreeSet::new());
    archive_while(&pitr, &server, || {
        wait_for_base(&pitr);
        file = server.switch_wal();
        for _ in 0..4 {
            rows.insert(mark(&server));
            wait_until_acknowledged(&server, server.flush_lsn());
        }
        server.sql("update pgbench_accounts set abalance = 7 where aid <= 20000");
        end = server.switch_wal();
        wait_until_acknowledged(&server, end);
        rows.insert(mark(&server));
        wait_until_acknowledged(&server, server.flush_lsn());
    });

    let segments = segment_files(&pitr.cluster_dir());
    let small = segments.iter().filter(|s| s.start >= file && s.end < file + size).count();
    assert!(small >= 4, "each row was acknowledged by itself: {segments:#?}");
    assert_one_segment_each(&segments, file, end, size);
    assert!(assert_segments_equal_wal(&pitr.cluster_dir(), &server, 1, end) >= 2);
    for entry in std::fs::read_dir(pitr.cluster_dir().join("log/00000001")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.contains("tail"), "{name}");
    }
    assert_documented_commands_make(&pitr, &server, file);
    pitr.ok(["verify", "--read-data"]);
    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target", "latest"]);
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(marker_xids(&restored), rows);
    assert_eq!(restored.checksums(), server.checksums());
}

/// What was stored before the end is neither stored again nor left out when the next
/// archiver goes on in the middle of a WAL file.
#[test]
fn a_wal_file_that_two_archivers_filled_becomes_one_segment_too() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).setting("autovacuum", "off").start();
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    let (mut file, mut rows) = (0, std::collections::BTreeSet::new());
    archive_while(&pitr, &server, || {
        wait_for_base(&pitr);
        file = server.switch_wal();
        rows.insert(mark(&server));
        wait_until_acknowledged(&server, server.flush_lsn());
    });
    rows.insert(mark(&server));
    let mut end = 0;
    archive_while(&pitr, &server, || {
        rows.insert(mark(&server));
        wait_until_acknowledged(&server, server.flush_lsn());
        end = server.switch_wal();
        wait_until_acknowledged(&server, end);
    });
    let segments = segment_files(&pitr.cluster_dir());
    assert_one_segment_each(&segments, file, end, server.wal_segment_bytes());
    assert!(assert_segments_equal_wal(&pitr.cluster_dir(), &server, 1, end) >= 1);
    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target", "latest"]);
    assert_eq!(marker_xids(&open_restored(&scratch, "restored", &server, &to)), rows);
}
