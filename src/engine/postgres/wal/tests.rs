//! Goal: the scanner sees exactly the records that the server wrote, and takes nothing
//! else for one. Method: WAL of a real server against what `pg_waldump` says of it
//! (`proto-fixtures/postgres/15/wal`), and made-up WAL cut, resumed and damaged at
//! every kind of place.

use std::path::PathBuf;

use proptest::prelude::*;

use super::open::KEPT_BYTES_MAX;
use super::synth::{self, Ending, FILE_BYTES, Log, START, identity};
use super::*;
use crate::error::Kind;
use crate::model::mark::TransactionId;
use crate::model::time::Timestamp;

fn scanner(log: &Log, start: ScanStart, detail: Detail) -> WalScanner {
    WalScanner::new(&identity(log.version), TimelineId(log.timeline), start, detail)
}

/// What a scan of all of `bytes` sees, where its boundary is then, and whether it was
/// refused.
fn scan(mut scanner: WalScanner, bytes: &[u8]) -> (Vec<Mark>, u64, Option<Error>) {
    let mut marks = Vec::new();
    let refused = scanner.feed(bytes, &mut marks).err();
    assert!(scanner.boundary() <= scanner.offset());
    (marks, scanner.boundary, refused)
}

fn scan_log(log: &Log) -> (Vec<Mark>, u64, Option<Error>) {
    scan(scanner(log, ScanStart::LogFile(Offset(START)), Detail::Records), &log.bytes)
}

/// Asserts that the log is refused with a message that has `what` in it, whole or byte
/// by byte, and whatever marks are asked for.
fn assert_refused(log: &Log, what: &str) {
    for (detail, piece_bytes) in
        [(Detail::Records, usize::MAX), (Detail::Marks, usize::MAX), (Detail::Records, 1), (Detail::Marks, 1)]
    {
        let mut scanner = scanner(log, ScanStart::LogFile(Offset(START)), detail);
        let refused = log.bytes.chunks(piece_bytes).find_map(|p| scanner.feed(p, &mut Vec::new()).err());
        let error = refused.unwrap_or_else(|| panic!("{detail:?} in {piece_bytes}: taken, though {what}"));
        assert_eq!(error.kind(), Kind::Corruption);
        assert!(error.message().contains(what), "{detail:?} in {piece_bytes}: {what:?} is not in {error}");
    }
}

// --- WAL of a real server -------------------------------------------------------------

struct Fixture {
    first: String,
    bytes: Vec<u8>,
    waldump: String,
}

const REAL_FILE_BYTES: u64 = 1 << 20;

fn fixture(case: &str) -> Fixture {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("proto-fixtures/postgres/15/wal").join(case);
    let mut names: Vec<_> = dir.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|n| n.ends_with(".zst"));
    names.sort();
    let bytes = names.iter().flat_map(|n| zstd::decode_all(&*std::fs::read(dir.join(n)).unwrap()).unwrap()).collect();
    let first = names[0].trim_end_matches(".zst").to_owned();
    Fixture { first, bytes, waldump: std::fs::read_to_string(dir.join("waldump.txt")).unwrap() }
}

impl Fixture {
    fn start(&self) -> u64 {
        name::parse_wal_file(&self.first, REAL_FILE_BYTES).unwrap().1.start.0
    }

    fn scanner(&self, start: ScanStart, detail: Detail) -> WalScanner {
        let identity = Identity {
            system: page::u64_at(&self.bytes, 24).to_string(),
            log_file_bytes: REAL_FILE_BYTES,
            ..identity(15)
        };
        let timeline = name::parse_wal_file(&self.first, REAL_FILE_BYTES).unwrap().0;
        WalScanner::new(&identity, timeline, start, detail)
    }

    fn scan(&self, detail: Detail) -> (Vec<Mark>, u64, Option<Error>) {
        scan(self.scanner(ScanStart::LogFile(Offset(self.start())), detail), &self.bytes)
    }

    /// Start and kind of every record, in the words of `pg_waldump`.
    fn expected(&self) -> Vec<(u64, MarkKind)> {
        self.waldump.lines().map(expected_record).collect()
    }
}

/// Reads `rmgr: R len (rec/tot): N/ N, tx: X, lsn: L, prev P, desc: D`. A restore
/// point's time is not in it.
fn expected_record(line: &str) -> (u64, MarkKind) {
    let after = |key: &str| line.split_once(key).unwrap_or_else(|| panic!("no {key:?} in {line}")).1;
    let word = |key: &str| after(key).trim_start().split([' ', ',']).next().unwrap();
    let start = name::parse_lsn(word("lsn: ")).unwrap().0;
    let desc = after("desc: ");
    let (operation, rest) = desc.split_once(' ').unwrap_or((desc, ""));
    let kind = match (word("rmgr: "), operation) {
        ("XLOG", "RESTORE_POINT") => MarkKind::RestorePoint { name: rest.to_owned(), time: Timestamp(0) },
        ("Transaction", "COMMIT" | "ABORT" | "COMMIT_PREPARED" | "ABORT_PREPARED") => {
            let (id, time) = match rest.split_once(": ") {
                Some((id, time)) if operation.ends_with("PREPARED") => (id, time),
                _ => (word("tx: "), rest),
            };
            let time = time.split_once(" UTC").unwrap().0.replacen(' ', "T", 1) + "Z";
            MarkKind::Transaction {
                id: TransactionId::Number(id.parse().unwrap()),
                time: time.parse::<jiff::Timestamp>().unwrap().into(),
                committed: operation.starts_with("COMMIT"),
            }
        }
        _ => MarkKind::Record,
    };
    (start, kind)
}

/// Start and kind of what a scanner saw, without restore points' times.
fn seen(marks: &[Mark]) -> Vec<(u64, MarkKind)> {
    let kind = |kind: &MarkKind| match kind {
        MarkKind::RestorePoint { name, .. } => MarkKind::RestorePoint { name: name.clone(), time: Timestamp(0) },
        other => other.clone(),
    };
    marks.iter().map(|m| (m.start.0, kind(&m.kind))).collect()
}

#[test]
fn sees_the_records_that_pg_waldump_sees() {
    let cases = ["transactions_and_a_switch", "record_longer_than_a_file", "end_of_log", "lost_record", "new_timeline"];
    for case in cases {
        let fixture = fixture(case);
        let expected = fixture.expected();
        let (marks, boundary, _) = fixture.scan(Detail::Records);
        assert_eq!(seen(&marks), expected, "{case}");
        assert_eq!(boundary, marks.last().unwrap().end.0, "{case}");

        let (marks, ..) = fixture.scan(Detail::Marks);
        let telling: Vec<_> = expected.into_iter().filter(|(_, kind)| *kind != MarkKind::Record).collect();
        assert_eq!(seen(&marks), telling, "{case}");
    }
}

#[test]
fn a_real_record_ends_where_the_next_one_or_its_page_header_begins() {
    let (marks, boundary, refused) = fixture("transactions_and_a_switch").scan(Detail::Records);
    assert!(refused.is_none(), "{refused:?}");
    for pair in marks.windows(2) {
        let between = pair[1].start.since(pair[0].end);
        let header = if pair[0].end.0.is_multiple_of(PAGE_BYTES) { 24 } else { 0 };
        assert_eq!(between, header, "{pair:?}");
    }
    assert!(boundary.is_multiple_of(REAL_FILE_BYTES), "the switch ends its WAL file");
}

#[test]
fn a_real_restore_point_has_the_time_of_its_making() {
    let (marks, ..) = fixture("transactions_and_a_switch").scan(Detail::Marks);
    let time = |mark: &Mark| match &mark.kind {
        MarkKind::Transaction { time, .. } | MarkKind::RestorePoint { time, .. } => *time,
        MarkKind::Record => panic!("not asked for"),
    };
    let at = marks.iter().position(|m| matches!(m.kind, MarkKind::RestorePoint { .. })).unwrap();
    assert!(time(&marks[at - 1]) <= time(&marks[at]));
    assert!(time(&marks[at + 1]) <= time(&marks[at + 2]));
}

#[test]
fn real_log_of_a_new_timeline_begins_with_a_page_of_its_parent() {
    let fixture = fixture("new_timeline");
    assert_eq!(page::u32_at(&fixture.bytes, 4), 1);
    assert_eq!(page::u32_at(&fixture.bytes, PAGE_BYTES as usize + 4), 2);
    let (marks, boundary, _) = fixture.scan(Detail::Records);
    assert!(boundary > fixture.start() + PAGE_BYTES);
    // Its first own record begins where the history says that the parent was left.
    let history = include_str!("../../../../proto-fixtures/postgres/15/wal/new_timeline/00000002.history");
    let switch = name::parse_lsn(history.split('\t').nth(1).unwrap()).unwrap();
    assert!(marks.iter().any(|m| m.start == switch));
}

#[test]
fn real_log_reads_the_same_byte_by_byte() {
    let fixture = fixture("transactions_and_a_switch");
    let (whole, end, _) = fixture.scan(Detail::Records);
    let mut scanner = fixture.scanner(ScanStart::LogFile(Offset(fixture.start())), Detail::Records);
    let mut marks = Vec::new();
    for byte in fixture.bytes.chunks(1) {
        scanner.feed(byte, &mut marks).unwrap();
    }
    assert_eq!(marks, whole);
    assert_eq!(scanner.boundary, end);
}

#[test]
fn real_log_that_ends_in_remains_of_an_older_file_has_an_exact_boundary() {
    let fixture = fixture("end_of_log");
    let (marks, boundary, refused) = fixture.scan(Detail::Records);
    assert!(refused.is_some(), "the remains are not log");
    // Zeros instead of remains change nothing.
    let mut zeroed = fixture;
    let end = (boundary - zeroed.start()) as usize;
    zeroed.bytes[end..].fill(0);
    let (again, same, refused) = zeroed.scan(Detail::Records);
    assert_eq!((again, same), (marks, boundary));
    assert!(refused.unwrap().message().contains("length is 0"));
}

#[test]
fn a_real_record_longer_than_a_file_is_skipped_when_its_beginning_is_missing() {
    let fixture = fixture("record_longer_than_a_file");
    let (all, end, _) = fixture.scan(Detail::Records);
    let second = fixture.start() + REAL_FILE_BYTES;
    let mut scanner = fixture.scanner(ScanStart::LogFile(Offset(second)), Detail::Records);
    let mut marks = Vec::new();
    let bytes = &fixture.bytes[REAL_FILE_BYTES as usize..];
    scanner.feed(&bytes[..PAGE_BYTES as usize], &mut marks).unwrap();
    assert_eq!(scanner.boundary, second, "still inside the record");
    scanner.feed(&bytes[PAGE_BYTES as usize..], &mut marks).unwrap();
    assert_eq!(scanner.boundary, end);
    let expected: Vec<_> = all.into_iter().filter(|m| m.start.0 >= second).collect();
    assert_eq!(marks, expected);
}

// --- Made-up WAL: what is told ----------------------------------------------------------

#[test]
fn reads_the_id_of_a_prepared_transaction_behind_everything_else() {
    for version in 13..=18 {
        let mut log = Log::new(version, 1);
        let full = Ending {
            database: true,
            children: 3,
            relations: 2,
            statistics: if version >= 15 { 5 } else { 0 },
            messages: 7,
            prepared: Some(4711),
            parts: true,
        };
        for operation in [0x30, 0x40] {
            log.transaction(operation, 0, 1_000_000, &full);
            log.transaction(operation, 0, 1_000_000, &Ending { prepared: Some(12), ..Ending::default() });
        }
        let (marks, _, refused) = scan_log(&log);
        assert!(refused.is_none(), "{refused:?}");
        assert_eq!(marks, log.marks, "version {version}");
    }
}

#[test]
fn a_commit_longer_than_what_is_kept_still_tells_its_time() {
    let mut log = Log::new(15, 1);
    let long = Ending { children: (KEPT_BYTES_MAX / 4) as u32 + 100, prepared: Some(99), ..Ending::default() };
    log.transaction(0x30, 0, 5, &long);
    let (marks, _, refused) = scan_log(&log);
    assert!(refused.is_none(), "{refused:?}");
    let kind = MarkKind::Transaction { id: TransactionId::Number(0), time: synth::time(5), committed: true };
    assert_eq!(marks.into_iter().map(|m| m.kind).collect::<Vec<_>>(), [kind], "only the id is lost");
}

#[test]
fn refuses_a_transaction_whose_body_ends_early() {
    let mut log = Log::new(15, 1);
    log.record(1, 0, 5, &[255, 4, 1, 2, 3, 4], MarkKind::Record);
    assert_refused(&log, "record's body ends after 6 bytes");
}

#[test]
fn a_page_full_to_the_brim_ends_at_the_page() {
    let mut log = Log::new(15, 1);
    log.plain(8192 - 40 - 24);
    assert_eq!(log.end(), START + 8192);
    log.commit(5, 0);
    let (marks, _, refused) = scan_log(&log);
    assert!(refused.is_none(), "{refused:?}");
    assert_eq!(marks[0].end.0, START + 8192);
    assert_eq!(marks[1].start.0, START + 8192 + 24);
}

// --- Made-up WAL: what is refused ---------------------------------------------------------

#[test]
fn refuses_pages_that_are_not_of_this_log() {
    let flawed = |at: usize, byte: u8| {
        let mut log = Log::new(15, 3);
        log.plain(100);
        log.bytes[at] = byte;
        log
    };
    assert_refused(&flawed(0, 0x13), "magic is D113, not D110");
    assert_refused(&flawed(3, 0x10), "flags are");
    assert_refused(&flawed(2, 0x00), "flags are");
    assert_refused(&flawed(4, 4), "timeline 4, not 3");
    assert_refused(&flawed(4, 0), "timeline 0, not 3");
    assert_refused(&flawed(8, 0x20), "belongs at");
    assert_refused(&flawed(24, 1), "is of system");
    assert_refused(&flawed(34, 2), "131072 bytes long, not 65536");
    assert_refused(&flawed(37, 0x40), "pages are 16384 bytes long");
}

#[test]
fn takes_pages_of_an_ancestor_but_none_that_go_back() {
    let mut log = Log::new(15, 2);
    log.plain(9000);
    log.timeline = 3;
    log.plain(9000);
    assert!(scan_log(&log).2.is_none(), "timeline 3 began in this file");
    log.timeline = 2;
    log.plain(9000);
    log.timeline = 3;
    assert_refused(&log, "timeline 2, not 3");
}

#[test]
fn refuses_a_record_that_does_not_follow_the_one_before() {
    let mut log = Log::new(15, 1);
    log.plain(100);
    let second = log.bytes.len();
    log.plain(100);
    // The same record again: its CRC is right, its place is not.
    let (first, rest) = log.bytes.split_at_mut(second);
    rest[..128].copy_from_slice(&first[40..168]);
    assert_refused(&log, "as the one before, not 0/30028");
}

#[test]
fn refuses_a_page_that_goes_on_with_another_record() {
    let mut log = Log::new(15, 1);
    log.plain(9000);
    log.bytes[8192 + 16] ^= 8;
    assert_refused(&log, "page continues the record by");
    let mut log = Log::new(15, 1);
    log.plain(9000);
    log.bytes[8192 + 2] = 0;
    assert_refused(&log, "does not continue the record");
    let mut log = Log::new(15, 1);
    log.plain(8192 - 40 - 24);
    log.plain(10);
    log.bytes[8192 + 2] = 1;
    log.bytes[8192 + 16] = 16;
    assert_refused(&log, "none is open");
}

#[test]
fn refuses_a_page_that_breaks_into_a_record_without_a_beginning() {
    let mut log = Log::new(15, 1);
    log.plain(FILE_BYTES as usize + 20_000);
    let second = FILE_BYTES as usize;
    let scan_second = |log: &Log| {
        let start = ScanStart::LogFile(Offset(START + FILE_BYTES));
        scan(scanner(log, start, Detail::Records), &log.bytes[second..])
    };
    assert_eq!(scan_second(&log).1, log.end());
    log.bytes[second + 8192 + 16] ^= 8;
    let (_, boundary, refused) = scan_second(&log);
    assert!(refused.unwrap().message().contains("page continues the record by"));
    assert_eq!(boundary, START + FILE_BYTES);
    log.bytes[second + 8192 + 2] = 0;
    assert!(scan_second(&log).2.unwrap().message().contains("does not continue the record"));
}

#[test]
fn drops_a_lost_record_only_when_the_server_says_so_of_that_record() {
    let torn = || {
        let mut log = Log::new(15, 1);
        log.commit(5, 0);
        log.plain(20_000);
        let lost = log.lose_the_rest();
        (log, lost)
    };
    let (mut log, lost) = torn();
    log.overwrite(lost);
    log.commit(6, 0);
    let (marks, boundary, refused) = scan_log(&log);
    assert!(refused.is_none(), "{refused:?}");
    assert_eq!(marks, log.marks);
    assert_eq!(boundary, log.end());

    let (mut log, lost) = torn();
    log.overwrite(lost - 8);
    assert_refused(&log, "gave up the record at");

    let (mut log, _) = torn();
    log.plain(100);
    assert_refused(&log, "does not say it gave it up");
}

#[test]
fn refuses_to_begin_inside_a_page_header() {
    let log = Log::new(15, 1);
    for start in [ScanStart::Boundary(Offset(START + 8)), ScanStart::LogFile(Offset(START + 8))] {
        let refused = scan(scanner(&log, start, Detail::Marks), &[0]).2.unwrap();
        assert!(refused.message().contains("inside a page's header"), "{refused}");
    }
}

#[test]
fn a_newer_server_is_read_by_the_magic_of_its_first_page() {
    let mut log = Log::new(18, 1);
    log.plain(9000);
    log.version = 19;
    assert_refused(&log, "magic is D118, not that of PostgreSQL 19 or newer");
    log.bytes[0] = 0x19;
    log.bytes[8192] = 0x19;
    assert!(scan_log(&log).2.is_none());
    log.bytes[8192] = 0x20;
    assert_refused(&log, "magic is D120, not D119");
}

// --- Made-up WAL: any log, cut and damaged anywhere ------------------------------------------

#[derive(Clone, Debug)]
enum Step {
    Plain(usize),
    Transaction(u8, u32, Ending),
    Name(String),
    Switch,
    Lost,
}

fn any_ending() -> impl Strategy<Value = Ending> {
    (any::<bool>(), 0..60_u32, 0..4_u32, 0..4_u32, 0..30_u32, any::<bool>()).prop_map(
        |(database, children, relations, statistics, messages, parts)| Ending {
            database,
            children,
            relations,
            statistics,
            messages,
            parts,
            prepared: None,
        },
    )
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..300_usize).prop_map(Step::Plain),
        2 => (0..30_000_usize).prop_map(Step::Plain),
        4 => (prop::sample::select(vec![0x00, 0x20, 0x30, 0x40]), 3..9_000_u32, any_ending())
            .prop_map(|(operation, xid, ending)| Step::Transaction(operation, xid, ending)),
        1 => "[a-zé ]{1,30}".prop_map(Step::Name),
        1 => Just(Step::Switch),
        1 => Just(Step::Lost),
    ]
}

fn any_log() -> impl Strategy<Value = Log> {
    (13..=18_u32, prop::collection::vec(any_step(), 1..40)).prop_map(|(version, steps)| {
        let mut log = Log::new(version, 7);
        for (i, step) in steps.into_iter().enumerate() {
            match step {
                Step::Plain(bytes) => log.plain(bytes),
                Step::Transaction(operation, xid, ending) => {
                    let prepared = (operation >= 0x30).then_some(xid);
                    log.transaction(operation, xid, i as i64, &Ending { prepared, ..ending });
                }
                Step::Name(name) => log.name(&name, i as i64),
                Step::Switch => log.switch(),
                Step::Lost => {
                    log.plain(9000);
                    let lost = log.lose_the_rest();
                    log.overwrite(lost);
                }
            }
        }
        log
    })
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "version {}: {:?}", self.version, self.marks)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_split_gives_the_same_marks(log in any_log(), sizes in prop::collection::vec(1..9000_usize, 1..50)) {
        let mut scanner = scanner(&log, ScanStart::LogFile(Offset(START)), Detail::Records);
        let (mut marks, mut rest) = (Vec::new(), log.bytes.as_slice());
        for size in sizes.iter().cycle() {
            let (piece, after) = rest.split_at((*size).min(rest.len()));
            scanner.feed(piece, &mut marks).unwrap();
            prop_assert!(scanner.boundary <= scanner.at);
            prop_assert_eq!(scanner.at, log.end() - after.len() as u64);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(scanner.boundary, log.end());
        prop_assert_eq!(marks, log.marks);
    }

    #[test]
    fn a_scan_goes_on_from_any_boundary(log in any_log(), at: prop::sample::Index) {
        let at = at.index(log.marks.len());
        let start = log.marks[at].end;
        let going = scanner(&log, ScanStart::Boundary(start), Detail::Records);
        let (marks, boundary, refused) = scan(going, &log.bytes[(start.0 - START) as usize..]);
        prop_assert!(refused.is_none(), "{:?}", refused);
        prop_assert_eq!(&marks, &log.marks[at + 1..]);
        prop_assert_eq!(boundary, log.end());
    }

    #[test]
    fn a_scan_begins_at_any_file(log in any_log(), at: prop::sample::Index) {
        let files = log.bytes.len().div_ceil(FILE_BYTES as usize);
        let start = START + at.index(files) as u64 * FILE_BYTES;
        let going = scanner(&log, ScanStart::LogFile(Offset(start)), Detail::Records);
        let (marks, boundary, refused) = scan(going, &log.bytes[(start - START) as usize..]);
        prop_assert!(refused.is_none(), "{:?}", refused);
        let expected: Vec<_> = log.marks.iter().filter(|m| m.start.0 >= start).cloned().collect();
        prop_assert_eq!(marks, expected);
        prop_assert_eq!(boundary, log.end());
    }

    #[test]
    fn a_flipped_bit_never_passes_for_a_record(log in any_log(), record: prop::sample::Index, byte: u64, bit in 0..8_u8) {
        let record = record.index(log.marks.len());
        let Mark { start, .. } = log.marks[record];
        let at = (start.0 - START) as usize;
        // Its first page holds this much of it, and the header's length says the rest.
        let length = u64::from(page::u32_at(&log.bytes, at)).min(8192 - start.0 % 8192);
        let mut log = log;
        log.bytes[at + (byte % length) as usize] ^= 1 << bit;
        let (marks, boundary, _) = scan_log(&log);
        prop_assert!(boundary <= start.0, "boundary {boundary:X} is past the record at {start}");
        prop_assert_eq!(&marks, &log.marks[..record]);
    }

    #[test]
    fn a_log_cut_off_and_filled_with_zeros_ends_at_a_record(log in any_log(), cut: prop::sample::Index) {
        let cut = cut.index(log.bytes.len());
        let mut zeroed = log.bytes.clone();
        zeroed[cut..].fill(0);
        // Zeros may be what stood there: padding, or the rest of a file after a switch.
        let whole = log.marks.iter().take_while(|m| {
            let end = (m.end.0 - START) as usize;
            zeroed[..end] == log.bytes[..end]
        }).count();
        let expected = whole.checked_sub(1).map_or(START, |last| log.marks[last].end.0);
        zeroed.resize((log.end().next_multiple_of(FILE_BYTES) - START) as usize, 0);
        let going = scanner(&log, ScanStart::LogFile(Offset(START)), Detail::Records);
        let (marks, boundary, _) = scan(going, &zeroed);
        prop_assert_eq!(boundary, expected);
        prop_assert_eq!(&marks, &log.marks[..whole]);

        let going = scanner(&log, ScanStart::LogFile(Offset(START)), Detail::Records);
        let (marks, boundary, refused) = scan(going, &log.bytes[..cut]);
        prop_assert!(refused.is_none(), "a log that goes on later is not refused: {:?}", refused);
        prop_assert!(boundary <= expected);
        prop_assert!(log.marks.starts_with(&marks));
    }

    #[test]
    fn garbage_is_refused_and_never_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 1..20_000),
        at in prop_oneof![Just(START), START..START + 30_000, u64::MAX - 100_000..=u64::MAX, any::<u64>()],
        file_bytes in prop_oneof![Just(FILE_BYTES), any::<u64>(), Just(0)],
        at_file: bool,
    ) {
        let identity = Identity { log_file_bytes: file_bytes, ..identity(15) };
        let start = if at_file { ScanStart::LogFile(Offset(at)) } else { ScanStart::Boundary(Offset(at)) };
        let scanner = WalScanner::new(&identity, TimelineId(1), start, Detail::Records);
        prop_assert!(scan(scanner, &bytes).0.is_empty());
    }
}

/// However its record comes, and only for who asks.
#[test]
fn a_new_tablespace_tells_its_directory() {
    let mut log = Log::new(15, 1);
    log.plain(7_900);
    let data = [&16_400_u32.to_le_bytes()[..], b"/disks/fast one\0"].concat();
    let body = [&[255, u8::try_from(data.len()).unwrap()][..], &data].concat();
    let at = Offset(log.end());
    log.record(5, 0x00, 700, &body, MarkKind::Record);
    // Dropped again, which names no directory.
    log.record(5, 0x10, 700, &[255, 4, 0x10, 0x40, 0, 0], MarkKind::Record);
    let expected = [NewTablespace { at, directory: Some("/disks/fast one".into()) }];
    for piece in [1, 7, 100, 8192, 1 << 20] {
        let start = ScanStart::LogFile(Offset(START));
        let mut scanner = WalScanner::new(&identity(15), TimelineId(1), start, Detail::Marks).with_tablespaces();
        for bytes in log.bytes.chunks(piece) {
            scanner.feed(bytes, &mut Vec::new()).unwrap();
        }
        assert_eq!(scanner.take_tablespaces(), expected);
        assert_eq!(scanner.take_tablespaces(), []);
    }
    let mut scanner = WalScanner::new(&identity(15), TimelineId(1), ScanStart::LogFile(Offset(START)), Detail::Marks);
    scanner.feed(&log.bytes, &mut Vec::new()).unwrap();
    assert_eq!(scanner.take_tablespaces(), []);
}
