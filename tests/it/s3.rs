//! Promise: an archive in a bucket behaves as one in a directory does, whatever goes wrong on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use hyper::Method;
use pitr::store::probe::probe;
use pitr::store::{Created, Part, Store, conformance};
use pitr::{Error, Kind};

use crate::mysql_stream::{assert_export_equals_binlogs, wait_until_it_follows};
use crate::support::load::{mark, marker_table};
use crate::support::moto::Moto;
use crate::support::mysql::{self, Make, MySqlServer};
use crate::support::oracle::{assert_same_bytes, assert_segments_equal_wal, marker_xids, open_restored, wal_file_name};
use crate::support::s3::{Asked, Harm, KEY_SECRET, S3};
use crate::support::{Load, PATIENCE, Pitr, Scratch, Server, condition, env_number, seed};

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(work)
}

fn is_create(asked: &Asked) -> bool {
    asked.method == Method::PUT
}

#[test]
fn a_bucket_keeps_what_a_store_promises() {
    let scratch = Scratch::new();
    let s3 = S3::start(&scratch);
    block_on(async {
        conformance::all(&s3.store("some/where"), "suite/").await.unwrap();
        conformance::all(&s3.store(""), "suite/").await.unwrap();
    });
}

/// All but the race: moto looks whether there is an object, and then puts it.
#[test]
fn a_bucket_with_versions_and_locks_keeps_what_a_store_promises() {
    let scratch = Scratch::new();
    let moto = Moto::start(&scratch);
    for options in ["", "&checksum=crc32c", "&checksum=sha256"] {
        let store = moto.store("some/where", options);
        block_on(async {
            let folder = |name: &str| format!("suite{}/{name}/", options.replace(['&', '='], "-"));
            conformance::creates_once(&store, &folder("once")).await.unwrap();
            conformance::reads_parts(&store, &folder("parts")).await.unwrap();
            conformance::lists(&store, &folder("list")).await.unwrap();
            conformance::deletes(&store, &folder("delete")).await.unwrap();
            conformance::refuses_bad_names(&store).await.unwrap();
        });
    }
}

#[test]
fn objects_are_stored_as_the_url_asks() {
    let scratch = Scratch::new();
    let moto = Moto::start(&scratch);
    let options = "&object_lock=governance&retain=10d&storage_class=STANDARD_IA&sse=AES256";
    let large = Bytes::from(vec![7; 65 << 20]);
    block_on(async {
        let store = moto.store("x", options);
        store.create("small", vec!["small".into()]).await.unwrap();
        store.create("large", vec![large.clone()]).await.unwrap();
        assert_eq!(store.get("large", Part::All).await.unwrap(), Some(large));
    });
    let said = |name: &str, what: &str| {
        moto.ask(&format!("s3.head_object(Bucket=bucket, Key='x/{name}', ChecksumMode='ENABLED'){what}"))
    };
    for name in ["small", "large"] {
        assert_eq!(said(name, "['StorageClass']"), "STANDARD_IA");
        assert_eq!(said(name, "['ServerSideEncryption']"), "AES256");
    }
    // moto forgets the lock of an object in parts.
    assert_eq!(said("small", "['ObjectLockMode']"), "GOVERNANCE");
    let days = "['ObjectLockRetainUntilDate'].timestamp() - __import__('time').time()";
    let left: f64 = said("small", days).parse().unwrap();
    assert!((9.0 * 86_400.0..=10.0 * 86_400.0).contains(&left), "{left} s");
    assert_eq!(said("small", "['ChecksumCRC32']"), "dUXqEw==", "CRC-32 of \"small\"");
}

#[test]
fn an_archive_among_versions_and_locks_restores() {
    let scratch = Scratch::new();
    let moto = Moto::start(&scratch);
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).setting("autovacuum", "off").start();
    marker_table(&server);
    let url = moto.url("db", "&object_lock=governance&retain=1d");
    let pitr = Pitr::with_keys(&scratch, url).source(&server);
    pitr.ok(["init"]).says(&["object lock on"]);
    pitr.run(["check"]).says(&["object lock on"]);
    let row = mark(&server);
    pitr.catch_up();
    pitr.ok(["verify", "--read-data"]);
    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target", "latest"]);
    assert_eq!(marker_xids(&open_restored(&scratch, "restored", &server, &to)), [row].into());
}

#[test]
fn the_probe_tells_a_service_that_overwrites_from_one_that_does_not() {
    let scratch = Scratch::new();
    block_on(async {
        let good = probe(&S3::start(&scratch).store("a"), "probe/").await.unwrap();
        assert!(good.fences() && good.shortcomings().is_empty(), "{good:?}");
        let other = Scratch::new();
        let bad = probe(&S3::overwriting(&other).store("a"), "probe/").await.unwrap();
        assert!(!bad.fences(), "{bad:?}");
    });
}

/// As the credentials of an archiver should be.
#[test]
fn no_right_to_delete_is_needed() {
    let scratch = Scratch::new();
    let s3 = S3::start(&scratch);
    s3.harm_when(|asked| (asked.method == Method::DELETE).then_some(Harm::Refused(403, "AccessDenied")));
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).start();
    marker_table(&server);
    let pitr = Pitr::in_bucket(&scratch, &s3, "db").source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    pitr.ok(["check"]).says(&["creates once"]);
    pitr.ok(["verify", "--read-data"]);
}

/// A create whose answer is lost was done: whoever tries again is told that it is the same.
#[test]
fn a_lost_answer_is_no_foreign_object() {
    let scratch = Scratch::new();
    let s3 = S3::start(&scratch);
    let store = s3.store("x");
    block_on(async {
        store.create("warm", vec![]).await.unwrap();
        let lost = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&lost);
        s3.harm_when(move |asked| {
            (is_create(asked) && count.fetch_add(1, Ordering::Relaxed) == 0).then_some(Harm::AnswerLost)
        });
        assert_eq!(store.create("object", vec!["mine".into()]).await.unwrap(), Created::Same);
        assert!(lost.load(Ordering::Relaxed) >= 2);
        s3.heal();
        let foreign = store.create("object", vec!["else".into()]).await.unwrap_err();
        assert_eq!(foreign.kind(), Kind::Fenced);
        assert_eq!(store.get("object", Part::All).await.unwrap(), Some(Bytes::from("mine")));
    });
}

#[test]
fn an_object_that_breaks_off_is_read_to_its_end() {
    let scratch = Scratch::new();
    let s3 = S3::start(&scratch);
    let store = s3.store("x");
    let body: Bytes = (0..200_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>().into();
    block_on(async {
        store.create("object", vec![body.clone()]).await.unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        s3.harm_when(move |_| (count.fetch_add(1, Ordering::Relaxed) % 4 != 3).then_some(Harm::CutAt(100_000)));
        assert_eq!(store.get("object", Part::All).await.unwrap(), Some(body.clone()));
        assert!(asked.load(Ordering::Relaxed) >= 4);
        let part = store.get("object", Part::Range { start: 300_000, len: 300_000 }).await.unwrap();
        assert_eq!(part, Some(body.slice(300_000..600_000)));
        let part = store.get("object", Part::Last(250_000)).await.unwrap();
        assert_eq!(part, Some(body.slice(550_000..)));
        s3.harm_when(|_| Some(Harm::CutAt(0)));
        let error = store.get("object", Part::All).await.unwrap_err();
        assert_eq!(error.kind(), Kind::StoreUnreachable, "{error}");
    });
}

#[test]
fn an_object_in_parts_is_created_once_too() {
    let scratch = Scratch::new();
    let s3 = S3::start(&scratch);
    let store = s3.store("x");
    let piece: Bytes =
        (0..(1u32 << 22)).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect::<Vec<_>>().into();
    let body = vec![piece.clone(); 5];
    block_on(async {
        store.create("warm", vec![]).await.unwrap();
        assert_eq!(store.create("large", body.clone()).await.unwrap(), Created::New);
        assert_eq!(store.head("large").await.unwrap().unwrap().bytes, 5 * piece.len() as u64);
        assert_eq!(store.get("large", Part::All).await.unwrap().unwrap(), body.concat());
        assert_eq!(store.create("large", body.clone()).await.unwrap(), Created::Same);
        let other = vec![piece.clone(), piece.clone(), piece.clone(), piece.clone(), piece.slice(1..)];
        let lost = AtomicUsize::new(0);
        s3.harm_when(move |asked| {
            let completes = asked.method == Method::POST && asked.query.starts_with("uploadId");
            (completes && lost.fetch_add(1, Ordering::Relaxed) == 0).then_some(Harm::AnswerLost)
        });
        assert_eq!(store.create("again", body).await.unwrap(), Created::Same);
        s3.heal();
        assert_eq!(store.create("large", other).await.unwrap_err().kind(), Kind::Fenced);
    });
}

fn refusal_of(store: &dyn Store) -> Error {
    block_on(store.create("object", vec!["x".into()])).unwrap_err()
}

#[test]
fn refusals_say_what_to_do() {
    let scratch = Scratch::new();
    let s3 = S3::start(&scratch);
    for (status, code, advice) in [
        (403, "RequestTimeTooSkewed", "clock"),
        (400, "ExpiredToken", "expired"),
        (403, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        (403, "AccessDenied", "s3:PutObject"),
        (404, "NoSuchBucket", "make backups first"),
        (301, "PermanentRedirect", "region"),
        (501, "NotImplemented", "checksum=none"),
        (503, "SlowDown", "later"),
    ] {
        s3.harm_when(move |asked| is_create(asked).then_some(Harm::Refused(status, code)));
        let error = refusal_of(&s3.store("x"));
        assert_eq!(error.kind(), Kind::StoreUnreachable, "{code}");
        assert!(error.message().contains(code), "{code}: {error}");
        assert!(error.advice().is_some_and(|hint| hint.contains(advice)), "{code}: {:?}", error.advice());
    }
    drop(s3);
    let gone = S3::start(&Scratch::new());
    let store = gone.store("x");
    drop(gone);
    let error = refusal_of(&store);
    assert!(error.advice().is_some_and(|hint| hint.contains("run")), "{error}: {:?}", error.advice());
}

#[test]
fn an_archive_in_a_bucket_restores_as_one_in_a_directory_does() {
    let scratch = Scratch::new();
    let s3 = S3::start(&scratch);
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).setting("autovacuum", "off").start();
    marker_table(&server);
    let pitr = Pitr::in_bucket(&scratch, &s3, "team/db").source(&server);
    pitr.ok(["init"]).says(&["ready in s3://backups/team/db"]).hides(KEY_SECRET);
    pitr.ok(["check"]).says(&["creates once"]);
    pitr.ok(["list", "-vv"]).hides(KEY_SECRET).hides("Signature=");
    let trace = pitr.command(["list"]).env("PITR_LOG", "trace").output().unwrap();
    let said = String::from_utf8_lossy(&trace.stderr);
    assert!(said.contains("TRACE") && !said.contains(KEY_SECRET) && !said.contains("Signature="), "{said}");
    let mut archiver = pitr.archive();
    archiver.wait_until_streaming();
    let file = server.switch_wal();
    let mut rows = std::collections::BTreeSet::from([mark(&server)]);
    let end = server.switch_wal();
    rows.insert(mark(&server));
    archiver.wait_until_caught_up(&server);
    archiver.stop().hides(KEY_SECRET);

    assert!(assert_segments_equal_wal(&pitr.cluster_dir(), &server, 1, end) >= 1);
    let name = wal_file_name(1, file, server.wal_segment_bytes());
    let fetched = scratch.join("fetched");
    pitr.ok(["wal-fetch", &name, fetched.to_str().unwrap()]);
    let theirs = std::fs::read(server.wal_dir().join(&name)).unwrap();
    assert_same_bytes(&name, &std::fs::read(&fetched).unwrap(), &theirs);
    pitr.ok(["verify", "--read-data"]);
    let before = s3.requests();
    pitr.ok(["plan", "--target", "latest"]);
    let asked = s3.requests() - before;
    assert!(asked <= 60, "{asked} requests for a plan");
    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target", "latest"]);
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(marker_xids(&restored), rows);
    assert_eq!(restored.checksums(), server.checksums());
}

#[test]
fn binlogs_come_out_of_a_bucket_byte_for_byte() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        let scratch = Scratch::new();
        let s3 = S3::start(&scratch);
        let server = MySqlServer::start(&scratch, "source", make, &[] as &[&str]);
        mysql::marker_table(&server);
        let pitr = Pitr::in_bucket(&scratch, &s3, "db").source_url(server.url());
        let archiver = pitr.archive_with(&["--no-backup"]);
        for _ in 0..3 {
            mysql::mark(&server);
            server.flush_logs();
        }
        wait_until_it_follows(&pitr);
        archiver.stop();
        assert_export_equals_binlogs(&pitr, &scratch.join("export"), &server);
    }
}

#[test]
fn a_bit_that_changes_on_the_way_is_seen_and_named() {
    let scratch = Scratch::new();
    let s3 = S3::start(&scratch);
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).start();
    marker_table(&server);
    let pitr = Pitr::in_bucket(&scratch, &s3, "db").source(&server);
    let mut archiver = pitr.archive();
    let file = server.switch_wal();
    mark(&server);
    let end = server.switch_wal();
    archiver.wait_until_acknowledged(&server, end);
    archiver.stop();
    let name = wal_file_name(1, file, server.wal_segment_bytes());
    let fetched = scratch.join("fetched");
    for at in [100, 3000, 70_000] {
        s3.harm_when(move |asked| asked.key.ends_with(".lz4").then_some(Harm::Flipped(at)));
        let refused = pitr.run(["wal-fetch", &name, fetched.to_str().unwrap()]);
        assert!(refused.code >= Some(126), "{refused}");
        assert!(!fetched.exists(), "{refused}");
        pitr.run(["verify", "--read-data"]).exit(13).says(&[".lz4"]);
    }
    s3.heal();
    pitr.ok(["wal-fetch", &name, fetched.to_str().unwrap()]);
    pitr.ok(["verify", "--read-data"]);
}

/// Of every three requests one goes wrong in some way, and now and then the archiver is killed; without a spool, with one, and with one that counts.
#[test]
fn nothing_is_lost_where_every_third_request_goes_wrong() {
    let seed = seed();
    for round in 0..env_number("PITR_S3_ROUNDS", 3) {
        let scratch = Scratch::new();
        let s3 = S3::start(&scratch);
        let server = Server::builder(&scratch, "server").wal_segment_mib(1).setting("autovacuum", "off").start();
        marker_table(&server);
        let mut pitr = Pitr::in_bucket(&scratch, &s3, "db").source(&server);
        if let Some(ack) = [None, Some("store"), Some("spool")][round as usize % 3] {
            let spool = scratch.join("spool").to_str().unwrap().to_owned();
            pitr = pitr.env("PITR_SPOOL", spool).env("PITR_ACK", ack);
        }
        pitr.ok(["init"]);
        pitr.catch_up();
        let load = Load::markers(&scratch, &server, 2, 5);
        for part in 0..3 {
            // What goes wrong before it has begun, it ends with.
            s3.heal();
            let mut archiver = pitr.archive_with(&["--no-backup"]);
            archiver.wait_until_streaming();
            s3.harm_at_random(seed.wrapping_add(3 * round + part), 3);
            let end = server.switch_wal();
            archiver.wait_until_acknowledged(&server, end);
            archiver.kill();
        }
        load.stop(&server);
        s3.heal();
        let end = server.switch_wal();
        let mut archiver = pitr.archive_with(&["--no-backup"]);
        archiver.wait_until_acknowledged(&server, end);
        archiver.stop();
        assert!(assert_segments_equal_wal(&pitr.cluster_dir(), &server, 1, end) >= 3);
        pitr.ok(["verify", "--read-data"]);
        let to = scratch.join("restored");
        pitr.restore(&server, &to, &["--target", "latest"]);
        assert_eq!(marker_xids(&open_restored(&scratch, "restored", &server, &to)), marker_xids(&server));
    }
}

#[test]
fn an_outage_of_the_store_delays_and_loses_nothing() {
    let scratch = Scratch::new();
    let s3 = S3::start(&scratch);
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).setting("autovacuum", "off").start();
    marker_table(&server);
    let pitr = Pitr::in_bucket(&scratch, &s3, "db").source(&server);
    let mut archiver = pitr.archive();
    archiver.wait_until_caught_up(&server);
    s3.harm_when(|_| Some(Harm::Refused(503, "ServiceUnavailable")));
    for _ in 0..4 {
        mark(&server);
        server.switch_wal();
    }
    condition("the archiver to notice", PATIENCE, || archiver.said().contains("trying again").then_some(()));
    archiver.assert_running();
    s3.heal();
    let end = server.switch_wal();
    archiver.wait_until_acknowledged(&server, end);
    archiver.stop().says(&["ServiceUnavailable", "trying again"]);
    assert!(assert_segments_equal_wal(&pitr.cluster_dir(), &server, 1, end) >= 5);
}

#[test]
fn a_second_archiver_fences_the_first() {
    let scratch = Scratch::new();
    let s3 = S3::start(&scratch);
    let server = MySqlServer::start(&scratch, "source", Make::MariaDb1011, &[] as &[&str]);
    mysql::marker_table(&server);
    let pitr = Pitr::in_bucket(&scratch, &s3, "db").source_url(server.url());
    let first = pitr.archive_with(&["--no-backup"]);
    first.wait_until_streaming();
    pitr.ok(["archive", "--no-backup", "--exit-when-caught-up"]);
    mysql::mark(&server);
    first.wait().exit(4).says(&["was claimed by"]);
    pitr.ok(["verify", "--read-data"]);
}

#[test]
fn a_service_without_conditions_is_for_one_archiver_and_says_so() {
    let scratch = Scratch::new();
    let s3 = S3::overwriting(&scratch);
    let server = Server::builder(&scratch, "server").wal_segment_mib(1).start();
    marker_table(&server);
    let pitr = Pitr::in_bucket(&scratch, &s3, "db").source(&server);
    pitr.ok(["init"]).says(&["cannot keep two archivers apart", "only one archiver"]);
    pitr.ok(["check"]).says(&["warning", "replaces objects"]);
    let mut archiver = pitr.archive();
    mark(&server);
    archiver.wait_until_caught_up(&server);
    archiver.stop().says(&["see to it that there is only one"]);
    pitr.ok(["verify", "--read-data"]);
}
