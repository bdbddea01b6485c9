//! Binlog files of real servers on their whole way: as a dump, into the archive's log, through
//! the scanner, and back into files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::event::{FLAG_ARTIFICIAL, HEADER_BYTES, Header, MAGIC, kind, seal};
use super::unpack::{Part, Unpacker};
use super::*;
use crate::engine::mysql::connect::packet::{Unframer, frame};
use crate::engine::mysql::flavor::Flavor;
use crate::engine::mysql::gtid::{Gtid, GtidSet};
use crate::engine::mysql::place::Place;
use crate::engine::mysql::source::intake::{Intake, Taken};
use crate::engine::{Detail, Scanner as _};
use crate::error::Kind;
use crate::model::changes::{ChangeKind, Changes, TableChanges};
use crate::model::mark::{Mark, MarkKind};
use crate::model::offset::Offset;
use crate::model::time::Timestamp;
use crate::segment::trailer::Trailer;

const START: Offset = Offset(1000);

/// A file's name, its bytes, and what the server's own reader says of it.
type File = (String, Vec<u8>, String);

/// Cases, each with its files in order.
fn cases(flavor: Flavor) -> Vec<(String, Vec<File>)> {
    let folder = match flavor {
        Flavor::MySql => "mysql/9.7/binlog",
        Flavor::MariaDb => "mariadb/10.11/binlog",
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto-fixtures").join(folder);
    let mut cases = Vec::new();
    for case in sorted(&root) {
        let mut files = Vec::new();
        for path in sorted(&case) {
            let name = path.file_name().unwrap().to_str().unwrap();
            let Some(name) =
                name.strip_suffix(".zst").filter(|name| !name.ends_with(".txt") && !name.ends_with(".on-disk"))
            else {
                continue;
            };
            let text = case.join(format!("{name}.txt"));
            let text = fs::read(&text).unwrap_or_else(|_| unpacked(&case.join(format!("{name}.txt.zst"))));
            files.push((name.to_owned(), unpacked(&path), String::from_utf8_lossy(&text).into_owned()));
        }
        cases.push((case.file_name().unwrap().to_str().unwrap().to_owned(), files));
    }
    assert!(cases.len() > 20, "there are fixtures");
    cases
}

fn sorted(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn unpacked(path: &Path) -> Vec<u8> {
    zstd::decode_all(fs::File::open(path).unwrap()).unwrap()
}

/// The GTIDs that the server's own reader names, in order.
fn named(flavor: Flavor, text: &str) -> Vec<String> {
    let mut gtids = Vec::new();
    for line in text.lines() {
        let gtid = match flavor {
            Flavor::MariaDb if line.starts_with('#') => {
                line.split_once("\tGTID ").map(|(_, rest)| rest.split_whitespace().next().unwrap().to_owned())
            }
            Flavor::MariaDb => None,
            Flavor::MySql => line
                .split_once("GTID_NEXT= '")
                .and_then(|(_, rest)| rest.split_once('\''))
                .map(|(gtid, _)| gtid.to_lowercase())
                .filter(|gtid| gtid != "automatic"),
        };
        gtids.extend(gtid);
    }
    gtids
}

/// The event that names the next file, as a source makes it up.
fn artificial_rotate(name: &str, checksums: bool) -> Vec<u8> {
    let mut event = vec![0; HEADER_BYTES];
    event.extend_from_slice(&4_u64.to_le_bytes());
    event.extend_from_slice(name.as_bytes());
    event.resize(event.len() + if checksums { 4 } else { 0 }, 0);
    let length = event.len() as u32;
    let header = Header { timestamp: 0, kind: kind::ROTATE, server_id: 1, length, log_pos: 0, flags: FLAG_ARTIFICIAL };
    event[..HEADER_BYTES].copy_from_slice(&header.encode());
    if checksums {
        seal(&mut event);
    }
    event
}

/// What a server keeps to itself of a file: that it is open.
fn closed(file: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    file[21] &= 0xfe;
    file
}

fn events(file: &[u8]) -> Vec<&[u8]> {
    let mut rest = &file[MAGIC.len()..];
    let mut events = Vec::new();
    while !rest.is_empty() {
        let Ok(header) = Header::parse(rest) else { break };
        if header.length as usize > rest.len() {
            break;
        }
        let (event, after) = rest.split_at(header.length as usize);
        events.push(event);
        rest = after;
    }
    events
}

/// The bytes of a dump of these files from their beginning.
fn dump(files: &[File]) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut sequence = 1;
    for (name, file, _) in files {
        let file = closed(file);
        for event in [&artificial_rotate(name, true)[..]].into_iter().chain(events(&file)) {
            sequence = frame(&mut wire, sequence, &[&[0], event].concat());
        }
    }
    wire
}

fn intake(flavor: Flavor, offset: Offset, place: Place) -> Intake {
    Intake::new(flavor, "server", offset, place)
}

fn beginning(flavor: Flavor, file: &str) -> Place {
    Place {
        gtids: GtidSet::empty(flavor),
        server: "server".into(),
        file: file.into(),
        position: 4,
        after: None,
        holding: 0,
    }
}

/// What the archive keeps of a dump, which comes in pieces of `size`.
fn kept(intake: &mut Intake, wire: &[u8], size: usize) -> crate::error::Result<Vec<u8>> {
    let mut unframer = Unframer::new(1);
    let mut log = Vec::new();
    let mut expected = intake.offset();
    for mut piece in wire.chunks(size) {
        intake.set_now(Timestamp(7));
        while let Some(packet) = unframer.next(&mut piece)? {
            intake.take(packet)?;
        }
        intake.flush();
        while let Some(taken) = intake.pop() {
            if let Taken::Log { start, bytes } = taken {
                assert_eq!(start, expected, "the log has no hole");
                expected = Offset(start.0 + bytes.len() as u64);
                log.extend_from_slice(&bytes);
            }
        }
    }
    Ok(log)
}

fn scanned(flavor: Flavor, start: Offset, log: &[u8], size: usize) -> crate::error::Result<(Vec<Mark>, BinlogScanner)> {
    let mut scanner = BinlogScanner::new(flavor, start, Detail::Marks);
    let mut marks = Vec::new();
    for piece in log.chunks(size) {
        scanner.feed(piece, &mut marks)?;
    }
    Ok((marks, scanner))
}

fn ids(marks: &[Mark]) -> Vec<String> {
    let id = |mark: &Mark| match &mark.kind {
        MarkKind::Transaction { id, .. } => Some(id.to_string()),
        _ => None,
    };
    marks.iter().filter_map(id).collect()
}

fn files_of(log: &[u8], size: usize) -> BTreeMap<String, Vec<u8>> {
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut unpacker = Unpacker::new(|_: Option<&Gtid>, _: Option<(&note::FileNote, u64)>| false);
    let mut open = String::new();
    for piece in log.chunks(size) {
        unpacker
            .feed(piece, &mut |part| {
                match part {
                    Part::File { file, description } => {
                        assert_eq!(file.position, 4);
                        open = file.name;
                        files.insert(open.clone(), [&MAGIC[..], &description].concat());
                    }
                    Part::Log(bytes) => files.get_mut(&open).unwrap().extend_from_slice(bytes),
                }
                Ok(())
            })
            .unwrap();
    }
    files
}

/// Encrypted files are not what a client receives.
fn is_readable(file: &[u8]) -> bool {
    !events(file).iter().any(|event| event[4] == kind::START_ENCRYPTION)
}

#[test]
fn every_transaction_of_real_files_is_told_and_every_byte_comes_back() {
    for flavor in [Flavor::MariaDb, Flavor::MySql] {
        for (case, files) in cases(flavor) {
            let files: Vec<_> = files.into_iter().filter(|(_, file, _)| is_readable(file)).collect();
            let Some((first, ..)) = files.first() else { continue };
            let wire = dump(&files);
            for (read, fed) in [(1 << 20, 1 << 20), (7, 11), (4096, 33)] {
                let what = format!("{flavor} {case}, in pieces of {read} and {fed}");
                let log = kept(&mut intake(flavor, START, beginning(flavor, first)), &wire, read)
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
                let (marks, scanner) =
                    scanned(flavor, START, &log, fed).unwrap_or_else(|error| panic!("{what}: {error}"));
                let told: Vec<String> = ids(&marks);
                let named: Vec<String> = files.iter().flat_map(|(_, _, text)| named(flavor, text)).collect();
                // A server that died left one unfinished.
                if case != "crash" {
                    assert_eq!(told, named, "{what}");
                    assert_eq!(scanner.boundary(), scanner.offset(), "{what}");
                }
                let back = files_of(&log, fed);
                for (name, file, _) in &files {
                    assert!(back[name] == closed(file), "{what}: {name} differs");
                }
            }
        }
    }
}

/// Rows inserted, updated and deleted, by table, as the server's own reader shows them.
fn rows_shown(text: &str) -> BTreeMap<String, [u64; 3]> {
    let mut rows: BTreeMap<String, [u64; 3]> = BTreeMap::new();
    for line in text.lines() {
        for (nth, verb) in ["### INSERT INTO ", "### UPDATE ", "### DELETE FROM "].into_iter().enumerate() {
            if let Some(table) = line.strip_prefix(verb) {
                rows.entry(table.replace('`', "")).or_default()[nth] += 1;
            }
        }
    }
    rows
}

fn changes(flavor: Flavor, log: &[u8], size: usize) -> Changes {
    let mut scanner = BinlogScanner::new(flavor, START, Detail::Changes);
    let mut marks = Vec::new();
    log.chunks(size).for_each(|piece| scanner.feed(piece, &mut marks).unwrap());
    scanner.take_changes()
}

#[test]
fn rows_of_real_files_are_counted_as_the_servers_own_reader_shows_them() {
    for flavor in [Flavor::MariaDb, Flavor::MySql] {
        for (case, files) in cases(flavor) {
            let files: Vec<_> = files.into_iter().filter(|(_, file, _)| is_readable(file)).collect();
            // The reader shows what a server left behind that died, too.
            let Some((first, ..)) = files.first().filter(|_| case != "crash") else { continue };
            let log = kept(&mut intake(flavor, START, beginning(flavor, first)), &dump(&files), 1 << 16).unwrap();
            let changes = [1 << 20, 7, 4096].map(|size| changes(flavor, &log, size));
            assert!(changes[0] == changes[1] && changes[0] == changes[2], "{flavor} {case}: {changes:?}");
            let kinds = [ChangeKind::Insert, ChangeKind::Update, ChangeKind::Delete];
            let of = |table: &TableChanges| (table.table.to_string(), kinds.map(|kind| table.counts.get(kind)));
            let counted = changes[0].tables.iter().map(of).filter(|(_, rows)| *rows != [0; 3]).collect();
            let text = files.iter().map(|(_, _, text)| text.as_str()).collect::<String>();
            let shown = match (flavor, case.as_str()) {
                // Captured without its rows: a thousand, and a large one.
                (_, "big_transaction") => [("d.t".to_owned(), [1001, 0, 0])].into(),
                // MySQL's reader gives up at a GEOMETRY; these are what its statements say.
                (Flavor::MySql, "plain_transactions") => [("d.t".to_owned(), [5, 3, 5])].into(),
                _ => rows_shown(&text),
            };
            assert_eq!(shown, counted, "{flavor} {case}");
            let uncounted = |table: &TableChanges| table.counts.get(ChangeKind::Uncounted) > 0;
            assert!(!changes[0].more && !changes[0].tables.iter().any(uncounted), "{flavor} {case}: {changes:?}");
        }
    }
}

#[test]
fn a_scanner_may_begin_at_any_transaction_and_tells_the_same() {
    for flavor in [Flavor::MariaDb, Flavor::MySql] {
        for (case, files) in cases(flavor) {
            let files: Vec<_> = files.into_iter().filter(|(_, file, _)| is_readable(file)).collect();
            let Some((first, ..)) = files.first() else { continue };
            let log = kept(&mut intake(flavor, START, beginning(flavor, first)), &dump(&files), 1 << 16).unwrap();
            let (marks, _) = scanned(flavor, START, &log, 1 << 16).unwrap();
            for (nth, mark) in marks.iter().enumerate().step_by(1 + marks.len() / 40) {
                let from = usize::try_from(mark.end.0 - START.0).unwrap();
                let (rest, _) = scanned(flavor, mark.end, &log[from..], 1 << 16)
                    .unwrap_or_else(|error| panic!("{flavor} {case} from {}: {error}", mark.end.0));
                assert_eq!(rest, marks[nth + 1..], "{flavor} {case} from {}", mark.end.0);
            }
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_is_seen() {
    for flavor in [Flavor::MariaDb, Flavor::MySql] {
        for (case, files) in cases(flavor) {
            if !["plain_transactions", "checksum_switched"].contains(&case.as_str()) {
                continue;
            }
            let log = kept(&mut intake(flavor, START, beginning(flavor, &files[0].0)), &dump(&files), 1 << 16).unwrap();
            let (all, _) = scanned(flavor, START, &log, 1 << 16).unwrap();
            for at in (0..log.len()).step_by(13) {
                let mut broken = log.clone();
                broken[at] ^= 4;
                let mut scanner = BinlogScanner::new(flavor, START, Detail::Marks);
                let mut marks = Vec::new();
                match scanner.feed(&broken, &mut marks) {
                    Err(error) => assert_eq!(error.kind(), Kind::Corruption),
                    // A length that says more is to come.
                    Ok(()) => assert!(scanner.boundary() < scanner.offset(), "{flavor} {case}: bit in byte {at}"),
                }
                assert!(all.starts_with(&marks), "{flavor} {case}: bit in byte {at}");
                assert!(scanner.boundary().0 <= START.0 + at as u64, "{flavor} {case}: bit in byte {at}");
            }
        }
    }
}

/// A tail ends with a trailer and zeros, and after a power cut some of its blocks may be zeros
/// still: what it holds is the transactions that lie whole before them.
#[test]
fn the_log_in_a_tail_ends_with_the_last_transaction_that_is_whole() {
    const BLOCK: usize = 4096;
    for flavor in [Flavor::MariaDb, Flavor::MySql] {
        for (case, files) in cases(flavor) {
            let files: Vec<_> = files.into_iter().filter(|(_, file, _)| is_readable(file)).collect();
            let Some((first, ..)) = files.first() else { continue };
            let log = kept(&mut intake(flavor, START, beginning(flavor, first)), &dump(&files), 1 << 16).unwrap();
            let mut units = Vec::new();
            BinlogScanner::new(flavor, START, Detail::Records).feed(&log, &mut units).unwrap();
            let end_within = |bytes: usize| {
                let ends = units.iter().map(|unit| unit.end).take_while(|end| end.since(START) <= bytes as u64);
                ends.last().unwrap_or(START)
            };
            for cut in (0..log.len()).step_by(1 + log.len() / 300) {
                let trailer = Trailer { boundary: end_within(cut), confirmed: Timestamp(cut as i64) };
                let whole = [&log[..cut], &trailer.encode(START), &[0; 3 * BLOCK]].concat();
                let torn = (0..=cut / BLOCK).rev().take(3).map(|block| {
                    let mut torn = whole.clone();
                    torn[block * BLOCK..(block + 1) * BLOCK].fill(0);
                    torn
                });
                for tail in torn.chain([whole.clone()]) {
                    let intact = same_bytes(&tail, &log);
                    let mut scanner = BinlogScanner::new(flavor, START, Detail::Marks);
                    if let Err(error) = scanner.feed(&tail, &mut Vec::new()) {
                        assert_eq!(error.kind(), Kind::Corruption, "{flavor} {case} cut at {cut}: {error}");
                    }
                    assert_eq!(scanner.boundary(), end_within(intact), "{flavor} {case} cut at {cut}");
                }
            }
        }
    }
}

/// With how many of the same bytes both begin. By blocks first, for byte by byte takes a minute.
fn same_bytes(a: &[u8], b: &[u8]) -> usize {
    let blocks = a.chunks(4096).zip(b.chunks(4096)).take_while(|(a, b)| a == b);
    let same: usize = blocks.map(|(a, _)| a.len()).sum();
    same + a[same..].iter().zip(&b[same..]).take_while(|(a, b)| a == b).count()
}

/// Wherever the connection breaks, the dump that follows goes on without a hole: from the last
/// transaction, of which it gives the archive only what that does not hold.
#[test]
fn a_dump_goes_on_where_another_broke_off() {
    for flavor in [Flavor::MariaDb, Flavor::MySql] {
        for (case, files) in cases(flavor) {
            if !["plain_transactions", "group_commit", "big_transaction"].contains(&case.as_str()) {
                continue;
            }
            let (name, file, _) = &files[0];
            let whole = kept(&mut intake(flavor, START, beginning(flavor, name)), &dump(&files[..1]), 1 << 16).unwrap();
            let (all, _) = scanned(flavor, START, &whole, 1 << 16).unwrap();
            for cut in (500..whole.len()).step_by(1 + whole.len() / 60) {
                let (_, scanner) = scanned(flavor, START, &whole[..cut], 1 << 16).unwrap();
                let Some(place) = scanner.place() else { continue };
                let Some(after) = place.after else { continue };
                let held = START.0 + cut as u64;
                let mut again = intake(flavor, Offset(held), place.clone());
                again.expect_proof(after);
                // A dump from the middle of a file: its description is made up.
                let mut wire = Vec::new();
                let mut sequence = frame(&mut wire, 1, &[&[0], &artificial_rotate(name, true)[..]].concat());
                let mut position = 4;
                for event in events(&closed(file)) {
                    let mut event = event.to_vec();
                    let starts = position;
                    position += event.len() as u64;
                    if event[4] == kind::FORMAT_DESCRIPTION {
                        event[13..17].fill(0);
                        seal(&mut event);
                    } else if starts < after.position {
                        continue;
                    }
                    sequence = frame(&mut wire, sequence, &[&[0], &event[..]].concat());
                }
                match kept(&mut again, &wire, 1 << 16) {
                    Ok(rest) => {
                        let log = [&whole[..cut], &rest].concat();
                        let (marks, _) = scanned(flavor, START, &log, 1 << 16)
                            .unwrap_or_else(|error| panic!("{flavor} {case} cut at {cut} ({place}): {error}"));
                        assert_eq!(ids(&marks), ids(&all), "{flavor} {case} cut at {cut} ({place})");
                    }
                    // In the middle of a header nobody knows what it is of.
                    Err(error) => {
                        assert_eq!((error.kind(), place.holding), (Kind::NotRecoverable, u64::MAX), "{error}");
                    }
                }
            }
        }
    }
}

/// Where an archive stands that has half of the first file.
fn in_the_middle(flavor: Flavor, files: &[File]) -> Place {
    let wire = dump(&files[..1]);
    let log = kept(&mut intake(flavor, START, beginning(flavor, &files[0].0)), &wire, 1 << 16).unwrap();
    let (marks, _) = scanned(flavor, START, &log, 1 << 16).unwrap();
    let middle = usize::try_from(marks[marks.len() / 2].end.0 - START.0).unwrap();
    let (_, scanner) = scanned(flavor, START, &log[..middle], 1 << 16).unwrap();
    scanner.place().unwrap()
}

#[test]
fn a_source_whose_last_transaction_is_another_one_is_refused() {
    let (_, files) = cases(Flavor::MariaDb).into_iter().find(|(case, _)| case == "plain_transactions").unwrap();
    let wire = dump(&files[..1]);
    let place = in_the_middle(Flavor::MariaDb, &files);
    let after = place.after.unwrap();
    let mut again = intake(Flavor::MariaDb, START, place.clone());
    again.expect_proof(crate::engine::mysql::place::After { crc: !after.crc, ..after });
    let error = kept(&mut again, &wire, 1 << 16).unwrap_err();
    assert_eq!(error.kind(), Kind::NotRecoverable);
    assert!(error.message().contains("another transaction"), "{error}");
}

/// A server that did not sync its log, and crashed, may have rolled back what the archive holds.
#[test]
fn a_source_that_lost_the_end_of_the_last_transaction_is_refused() {
    for flavor in [Flavor::MariaDb, Flavor::MySql] {
        let (_, files) = cases(flavor).into_iter().find(|(case, _)| case == "plain_transactions").unwrap();
        let (name, file, _) = &files[0];
        let place = in_the_middle(flavor, &files);
        let after = place.after.unwrap();
        let file = closed(file);
        let mut ends = 4;
        let (mut description, mut transaction) = (Vec::new(), Vec::new());
        for event in events(&file) {
            let starts = ends;
            ends += event.len() as u64;
            if event[4] == kind::FORMAT_DESCRIPTION {
                description = [&[0], event].concat();
            } else if (after.position..place.position).contains(&starts) {
                transaction.push([&[0], event].concat());
            }
        }
        assert!(transaction.len() > 2);
        for lost in 0..transaction.len() {
            let mut again = intake(flavor, START, place.clone());
            again.expect_proof(after);
            let first = [&[0], &artificial_rotate(name, true)[..]].concat();
            let next = [&[0], &artificial_rotate("binlog.999999", true)[..]].concat();
            let left = &transaction[..transaction.len() - lost];
            let packets =
                [&[first, description.clone()][..], left, &[next, description.clone()], &transaction].concat();
            let (mut wire, mut sequence) = (Vec::new(), 1);
            for packet in &packets {
                sequence = frame(&mut wire, sequence, packet);
            }
            let went_on = kept(&mut again, &wire, 1 << 16);
            if lost == 0 {
                went_on.unwrap();
            } else {
                let error = went_on.unwrap_err();
                assert_eq!(error.kind(), Kind::NotRecoverable, "{flavor}, without {lost}");
                assert!(error.message().contains("another file"), "{error}");
            }
        }
    }
}
