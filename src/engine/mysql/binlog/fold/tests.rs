use std::path::Path;

use proptest::prelude::*;

use super::super::event::{self, CHECKSUM_BYTES};
use super::group::{ENDS_STATEMENT, FLAGS};
use super::*;
use crate::engine::mysql::binlog::event::MAGIC;

const TRANSACTIONAL: u8 = 0x04;
const DDL: u8 = 0x20;

fn event(of: u8, body: &[u8]) -> Vec<u8> {
    let length = (HEADER_BYTES + body.len()) as u32;
    let header = Header { timestamp: 1, kind: of, server_id: 7, length, log_pos: 0, flags: 0 };
    [&header.encode()[..], body].concat()
}

fn gtid(domain: u32, sequence: u64, flags: u8) -> Vec<u8> {
    let body = [&sequence.to_le_bytes()[..], &domain.to_le_bytes(), &[flags], &[0; 6]].concat();
    event(kind::MARIADB_GTID, &body)
}

/// A table map; `more` are its columns.
fn map(id: u8, table: &str, more: &[u8]) -> Vec<u8> {
    let names = [&[1][..], b"s", &[0, table.len() as u8], table.as_bytes(), &[0]].concat();
    event(kind::TABLE_MAP, &[&[id, 0, 0, 0, 0, 0, 1, 0][..], &names, more].concat())
}

fn of_rows(id: u8, flags: u8, bytes: usize) -> Vec<u8> {
    event(kind::WRITE_ROWS_V1, &[&[id, 0, 0, 0, 0, 0, flags, 0][..], &vec![b'r'; bytes]].concat())
}

/// A statement.
fn rows(bytes: usize) -> Vec<u8> {
    [map(5, "t", b"columns"), of_rows(5, ENDS_STATEMENT, bytes)].concat()
}

/// A transaction that may be folded.
fn transaction(domain: u32, sequence: u64, bytes: usize) -> Vec<u8> {
    [gtid(domain, sequence, TRANSACTIONAL), rows(bytes), event(kind::XID, &sequence.to_le_bytes())].concat()
}

fn statement(text: &str) -> Vec<u8> {
    event(kind::QUERY, text.as_bytes())
}

/// What comes out of pieces of a log, and how many bytes are left out.
fn folded<'a>(checksums: bool, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, u64) {
    folded_with(Tables::Plain, checksums, pieces)
}

fn folded_with<'a>(tables: Tables, checksums: bool, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, u64) {
    let (mut out, mut left_out) = (Vec::new(), 0);
    let mut give = |folded: Folded<'_>| match folded {
        Folded::Log(bytes) => out.extend_from_slice(bytes),
        Folded::LeftOut(bytes) => left_out += bytes,
    };
    let mut folder = Folder::new(tables);
    folder.begin_file(checksums, &mut give);
    for piece in pieces {
        folder.feed(piece, &mut give).unwrap();
    }
    folder.flush(&mut give);
    (out, left_out)
}

fn events(mut log: &[u8]) -> Vec<(Header, &[u8])> {
    let mut events = Vec::new();
    while !log.is_empty() {
        let header = Header::parse(log).unwrap();
        let (event, rest) = log.split_at(header.length as usize);
        events.push((header, event));
        log = rest;
    }
    events
}

fn begun(header: &Header, event: &[u8]) -> Option<GtidEvent> {
    GtidEvent::decode(header.kind, header.server_id, &event[HEADER_BYTES..]).unwrap()
}

/// A file that is in use says so behind its checksum.
const fn is_sealed_apart(header: &Header) -> bool {
    header.kind == kind::FORMAT_DESCRIPTION
}

/// The log of each of MariaDB's fixtures, and whether its events carry checksums.
fn fixtures() -> Vec<(String, bool, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto-fixtures/mariadb/10.11/binlog");
    let mut logs = Vec::new();
    for case in std::fs::read_dir(root).unwrap() {
        for file in std::fs::read_dir(case.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            if path.display().to_string().contains(".on-disk") {
                // Encrypted: no server sends it so.
                continue;
            }
            let packed = std::fs::File::open(&path).unwrap();
            let bytes = zstd::stream::decode_all(packed).unwrap_or_default();
            if let Some(log) = bytes.strip_prefix(&MAGIC[..]) {
                let checksums = event::checksums(events(log)[0].1).unwrap();
                logs.push((path.display().to_string(), checksums, log.to_vec()));
            }
        }
    }
    assert!(logs.len() > 20, "there are fixtures");
    logs
}

#[test]
fn neighbours_become_one_statement_under_the_last_name() {
    let two = [map(6, "u", b"columns"), of_rows(6, 0, 7), of_rows(6, ENDS_STATEMENT, 8), rows(20)].concat();
    let second = [gtid(0, 2, TRANSACTIONAL), two, event(kind::XID, b"x")].concat();
    let annotated = [event(kind::ANNOTATE_ROWS, b"insert"), rows(30)].concat();
    let third = [gtid(0, 3, TRANSACTIONAL), annotated, event(kind::XID, b"y")].concat();
    let log = [transaction(0, 1, 10), second, third].concat();
    let (out, left_out) = folded(false, [&log[..]]);
    let maps = [map(5, "t", b"columns"), map(6, "u", b"columns")].concat();
    let rows = [of_rows(5, 0, 10), of_rows(6, 0, 7), of_rows(6, 0, 8), of_rows(5, 0, 20), of_rows(5, 1, 30)].concat();
    assert!(out == [gtid(0, 3, TRANSACTIONAL), maps, rows, event(kind::XID, b"y")].concat());
    assert_eq!(out.len() as u64 + left_out, log.len() as u64);
}

#[test]
fn what_is_changed_is_sealed_again() {
    let sealed = |log: Vec<u8>| -> Vec<u8> {
        let with_room = events(&log).into_iter().map(|(header, event)| {
            let header = Header { length: header.length + 4, ..header };
            let mut event = [&header.encode()[..], &event[HEADER_BYTES..], &[0; 4]].concat();
            event::seal(&mut event);
            event
        });
        with_room.collect::<Vec<_>>().concat()
    };
    let log = sealed([transaction(0, 1, 10), transaction(0, 2, 20)].concat());
    let (mut out, mut folder) = (Vec::new(), Folder::new(Tables::Plain));
    let mut give = |folded: Folded<'_>| {
        if let Folded::Log(bytes) = folded {
            out.extend_from_slice(bytes);
        }
    };
    folder.begin_file(true, &mut give);
    folder.feed(&log, &mut give).unwrap();
    folder.flush(&mut give);
    let wanted = [
        gtid(0, 2, TRANSACTIONAL),
        map(5, "t", b"columns"),
        of_rows(5, 0, 10),
        of_rows(5, 1, 20),
        event(kind::XID, &2_u64.to_le_bytes()),
    ];
    assert!(out == sealed(wanted.concat()));
}

#[test]
fn whatever_is_not_of_rows_alone_stands_as_it_was() {
    let ends = |sequence: u64| event(kind::XID, &sequence.to_le_bytes());
    let none = event(kind::WRITE_ROWS_V1, &[0xff, 0xff, 0xff, 0xff, 0, 0, ENDS_STATEMENT, 0]);
    let of_the_server = event(kind::TABLE_MAP, b"\x05\0\0\0\0\0\x01\0\x05mysql\0\x01t\0columns");
    let between = [
        [gtid(0, 2, DDL | 0x01), statement("create table t (id int)")].concat(),
        [gtid(0, 2, TRANSACTIONAL), statement("insert into t values (1)"), ends(2)].concat(),
        [gtid(0, 2, TRANSACTIONAL), rows(5), statement("savepoint s"), rows(5), ends(2)].concat(),
        [gtid(0, 2, TRANSACTIONAL), rows(5), statement("ROLLBACK")].concat(),
        [gtid(0, 2, 0), rows(5), statement("COMMIT")].concat(),
        [gtid(0, 2, 0), rows(5), ends(2)].concat(),
        [gtid(0, 2, TRANSACTIONAL | 0x40), rows(5), event(kind::XA_PREPARE, b"x")].concat(),
        [gtid(0, 2, TRANSACTIONAL), rows(FOLDED_BYTES_MAX), ends(2)].concat(),
        transaction(1, 2, 10),
        // Of a table without a map, of none at all, and of the server's own.
        [gtid(0, 2, TRANSACTIONAL), of_rows(5, 1, 10), ends(2)].concat(),
        [gtid(0, 2, TRANSACTIONAL), map(5, "t", b"columns"), none, ends(2)].concat(),
        [gtid(0, 2, TRANSACTIONAL), of_the_server, of_rows(5, 1, 10), ends(2)].concat(),
        // Unchecked keys; a statement without an end; other columns, another id, another table.
        [gtid(0, 2, TRANSACTIONAL), map(5, "t", b"columns"), of_rows(5, 3, 10), ends(2)].concat(),
        [gtid(0, 2, TRANSACTIONAL), map(5, "t", b"columns"), of_rows(5, 0, 10), ends(2)].concat(),
        [gtid(0, 2, TRANSACTIONAL), map(5, "t", b"others"), of_rows(5, 1, 10), ends(2)].concat(),
        [gtid(0, 2, TRANSACTIONAL), map(6, "t", b"columns"), of_rows(6, 1, 10), ends(2)].concat(),
        [gtid(0, 2, TRANSACTIONAL), map(5, "u", b"columns"), of_rows(5, 1, 10), ends(2)].concat(),
        event(kind::ROTATE, b"binlog.000002"),
        event(kind::BINLOG_CHECKPOINT, b"binlog.000001"),
        // The server died.
        [gtid(0, 2, TRANSACTIONAL), rows(5)].concat(),
    ];
    for middle in between {
        let log = [transaction(0, 1, 10), middle.clone(), transaction(0, 3, 30)].concat();
        assert!(folded(false, [&log[..]]) == (log, 0), "{:?}", &middle[..middle.len().min(200)]);
    }
}

#[test]
fn what_is_folded_is_not_too_long() {
    let log: Vec<u8> = (1..=100).flat_map(|sequence| transaction(0, sequence, 3000)).collect();
    let (out, _) = folded(false, [&log[..]]);
    let begun: Vec<usize> = events(&out)
        .iter()
        .scan(0, |at, (header, event)| {
            let start = *at;
            *at += event.len();
            Some((header.kind == kind::MARIADB_GTID).then_some(start))
        })
        .flatten()
        .collect();
    assert_eq!(begun.len(), 5);
    assert!(begun.windows(2).all(|pair| pair[1] - pair[0] <= FOLDED_BYTES_MAX + 200));
}

#[test]
fn nothing_is_folded_once_a_table_may_be_versioned() {
    let two = [transaction(0, 3, 10), transaction(0, 4, 10)].concat();
    let compressed = event(kind::QUERY_COMPRESSED, b"\x80?");
    for statement in [statement("create table t (id int) with system versioning"), compressed.clone()] {
        let made = [gtid(0, 2, DDL | 0x01), statement].concat();
        let log = [two.clone(), made, two.clone(), two.clone()].concat();
        let (out, left_out) = folded(false, [&log[..]]);
        let in_front = folded(false, [&two[..]]);
        assert_eq!((out.len(), left_out), (log.len() - two.len() + in_front.0.len(), in_front.1));
        assert!(out.ends_with(&log[two.len()..]));
    }
    assert_eq!(folded_with(Tables::Versioned, false, [&two[..]]), (two.clone(), 0));
    // No statement within a transaction of rows and others defines a table unseen.
    let mixed = [gtid(0, 2, TRANSACTIONAL), compressed, event(kind::XID, b"x")].concat();
    assert!(folded(false, [&[mixed, two].concat()[..]]).1 > 0);
}

#[test]
fn where_keys_cascade_the_first_rows_tell_what_may_follow() {
    let change = |of: u8, sequence: u64| {
        let rows = [map(5, "t", b"columns"), event(of, b"\x05\0\0\0\0\0\x01\0row")].concat();
        [gtid(0, sequence, TRANSACTIONAL), rows, event(kind::XID, b"x")].concat()
    };
    let insert = |sequence| change(kind::WRITE_ROWS_V1, sequence);
    let update = |sequence| change(kind::UPDATE_ROWS_V1, sequence);
    let delete = |sequence| change(kind::DELETE_ROWS_V1, sequence);
    let made = [gtid(0, 1, DDL | 0x01), statement("alter table t add foreign key (a) references u (a)")].concat();
    for (log, together) in [
        ([insert(2), update(3), delete(4)].concat(), true),
        ([update(2), update(3)].concat(), true),
        ([update(2), delete(3)].concat(), false),
        ([delete(2), insert(3)].concat(), false),
    ] {
        let begun = |out: &[u8]| events(out).iter().filter(|(header, _)| header.kind == kind::MARIADB_GTID).count();
        assert_eq!(begun(&folded(false, [&log[..]]).0), 1);
        let (out, _) = folded_with(Tables::Cascading, false, [&log[..]]);
        assert_eq!(begun(&out) == 1, together);
        let log = [made.clone(), log].concat();
        assert_eq!(begun(&folded(false, [&log[..]]).0) == 2, together);
    }
}

/// How a replica counts where it is (`queue_event`, `sql/slave.cc`): a heartbeat that names a
/// place before that ends its replication.
#[test]
fn a_replica_never_counts_beyond_the_log() {
    for (name, checksums, log) in fixtures() {
        let (out, _) = folded(checksums, [&log[..]]);
        let ends: Vec<u64> = events(&log).iter().map(|(header, _)| u64::from(header.log_pos)).collect();
        let (mut counted, mut given) = (MAGIC.len() as u64, 0_u64);
        for (header, event) in events(&out) {
            counted += event.len() as u64;
            if u64::from(header.log_pos) > counted {
                counted = u64::from(header.log_pos);
            }
            given = given.max(u64::from(header.log_pos));
            if header.kind == kind::XID {
                assert_eq!(counted, given, "{name}");
                assert!(ends.contains(&counted), "{name}");
            }
        }
    }
}

#[test]
fn of_real_servers_logs_every_row_is_there() {
    let mut any = 0;
    for (name, checksums, log) in fixtures() {
        let (out, left_out) = folded(checksums, [&log[..]]);
        assert_eq!(out.len() as u64 + left_out, log.len() as u64, "{name}");
        any += left_out;
        // The rows are the same, but for the flag.
        let rows = |log: &[u8]| -> Vec<Vec<u8>> {
            let is_rows = |kind| is_of_rows(kind) && !matches!(kind, kind::TABLE_MAP | kind::ANNOTATE_ROWS);
            let of_rows = events(log).into_iter().filter(|(header, _)| is_rows(header.kind));
            let without_flag = |(_, event): (Header, &[u8])| {
                let mut event = event[..event.len() - if checksums { CHECKSUM_BYTES } else { 0 }].to_vec();
                event[FLAGS] = 0;
                event
            };
            of_rows.map(without_flag).collect()
        };
        assert!(rows(&out) == rows(&log), "{name}");
        if checksums {
            assert!(
                events(&out).iter().all(|(header, event)| is_sealed_apart(header) || event::is_sound(event)),
                "{name}"
            );
        }
        // Whatever comes, the last of each domain is the same at every end that is left.
        let positions = |log: &[u8]| {
            let (mut last, mut open, mut at_ends) = (std::collections::BTreeMap::new(), None, Vec::new());
            for (header, event) in events(log) {
                if let Some(Gtid::MariaDb { domain, sequence, .. }) = begun(&header, event).and_then(|begun| begun.gtid)
                {
                    open = Some((domain, sequence));
                }
                if let Some((domain, sequence)) = open.filter(|_| header.kind == kind::XID) {
                    last.insert(domain, sequence);
                    at_ends.push((event.to_vec(), last.clone()));
                }
            }
            at_ends
        };
        let all = positions(&log);
        assert!(positions(&out).iter().all(|end| all.contains(end)), "{name}");
        assert_eq!(positions(&out).last(), all.last(), "{name}");
    }
    assert!(any > 0, "some transactions can be folded");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn however_it_is_cut(which in any::<prop::sample::Index>(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40)) {
        let fixtures = fixtures();
        let (name, checksums, log) = which.get(&fixtures);
        let checksums = *checksums;
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(log.len() + 1)).chain([0, log.len()]).collect();
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| &log[pair[0]..pair[1]]);
        prop_assert!(folded(checksums, pieces) == folded(checksums, [&log[..]]), "{name}");
    }

    #[test]
    fn no_bytes_make_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Folder::new(Tables::Plain).feed(&bytes, &mut |_| {});
    }
}
