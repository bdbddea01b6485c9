use std::path::Path;

use proptest::prelude::*;

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

fn rows(bytes: usize) -> Vec<u8> {
    [event(kind::TABLE_MAP, b"map"), event(kind::WRITE_ROWS_V1, &vec![b'r'; bytes])].concat()
}

/// A transaction that may be folded.
fn transaction(domain: u32, sequence: u64, bytes: usize) -> Vec<u8> {
    [gtid(domain, sequence, TRANSACTIONAL), rows(bytes), event(kind::XID, &sequence.to_le_bytes())].concat()
}

fn statement(text: &str) -> Vec<u8> {
    event(kind::QUERY, text.as_bytes())
}

/// What comes out of pieces of a log, and how many bytes are left out.
fn folded<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, u64) {
    let (mut out, mut left_out) = (Vec::new(), 0);
    let mut give = |folded: Folded<'_>| match folded {
        Folded::Log(bytes) => out.extend_from_slice(bytes),
        Folded::LeftOut(bytes) => left_out += bytes,
    };
    let mut folder = Folder::default();
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

/// The log of each of MariaDB's fixtures.
fn fixtures() -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto-fixtures/mariadb/10.11/binlog");
    let mut logs = Vec::new();
    for case in std::fs::read_dir(root).unwrap() {
        for file in std::fs::read_dir(case.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let packed = std::fs::File::open(&path).unwrap();
            let bytes = zstd::stream::decode_all(packed).unwrap_or_default();
            if let Some(log) = bytes.strip_prefix(&MAGIC[..]) {
                logs.push((path.display().to_string(), log.to_vec()));
            }
        }
    }
    assert!(logs.len() > 20, "there are fixtures");
    logs
}

#[test]
fn neighbours_become_one_under_the_last_name() {
    let log = [transaction(0, 1, 10), transaction(0, 2, 20), transaction(0, 3, 30)].concat();
    let (out, left_out) = folded([&log[..]]);
    let wanted =
        [gtid(0, 3, TRANSACTIONAL), rows(10), rows(20), rows(30), event(kind::XID, &3_u64.to_le_bytes())].concat();
    assert_eq!(out, wanted);
    assert_eq!(out.len() as u64 + left_out, log.len() as u64);
}

#[test]
fn whatever_is_not_of_rows_alone_stands_as_it_was() {
    let ends = |sequence: u64| event(kind::XID, &sequence.to_le_bytes());
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
        event(kind::ROTATE, b"binlog.000002"),
        event(kind::BINLOG_CHECKPOINT, b"binlog.000001"),
        // The server died.
        [gtid(0, 2, TRANSACTIONAL), rows(5)].concat(),
    ];
    for middle in between {
        let log = [transaction(0, 1, 10), middle.clone(), transaction(0, 3, 30)].concat();
        assert!(folded([&log[..]]) == (log, 0), "{:?}", &middle[..middle.len().min(200)]);
    }
}

#[test]
fn what_is_folded_is_not_too_long() {
    let log: Vec<u8> = (1..=100).flat_map(|sequence| transaction(0, sequence, 3000)).collect();
    let (out, _) = folded([&log[..]]);
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
    for statement in [statement("create table t (id int) with system versioning"), compressed] {
        let made = [gtid(0, 2, DDL | 0x01), statement].concat();
        let log = [two.clone(), made, two.clone(), two.clone()].concat();
        let (out, left_out) = folded([&log[..]]);
        let in_front = folded([&two[..]]);
        assert_eq!((out.len(), left_out), (log.len() - two.len() + in_front.0.len(), in_front.1));
        assert!(out.ends_with(&log[two.len()..]));
    }
}

#[test]
fn of_real_servers_logs_nothing_but_names_and_ends_is_left_out() {
    let mut any = 0;
    for (name, log) in fixtures() {
        let (out, left_out) = folded([&log[..]]);
        assert_eq!(out.len() as u64 + left_out, log.len() as u64, "{name}");
        any += left_out;
        let kept = |log: &[u8]| -> Vec<Vec<u8>> {
            let others = |header: &Header| !matches!(header.kind, kind::MARIADB_GTID | kind::XID);
            events(log).into_iter().filter(|(header, _)| others(header)).map(|(_, event)| event.to_vec()).collect()
        };
        assert!(kept(&out) == kept(&log), "{name}");
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
        let (name, log) = which.get(&fixtures);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(log.len() + 1)).chain([0, log.len()]).collect();
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| &log[pair[0]..pair[1]]);
        prop_assert!(folded(pieces) == folded([&log[..]]), "{name}");
    }

    #[test]
    fn no_bytes_make_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Folder::default().feed(&bytes, &mut |_| {});
    }
}
