//! How fast the scanners read the log of PostgreSQL, MySQL and MariaDB.
//!
//! ```text
//! cargo bench --bench scanner -- /path/to/pg_wal [rounds]
//! cargo bench --bench scanner -- /path/to/binlogs [rounds]
//! ```
//!
//! Reads every WAL file of the directory into memory, or every binlog (`binlog.000001`, ...), which
//! therefore must hold them, and scans them in order in pieces of 128 KiB (as a walsender sends
//! them). A scan of WAL begins anew where the files do not follow each other and where the log
//! ends. Prints the bytes scanned, the marks seen and the speed of the best round.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::time::{Duration, Instant};

use pitr::engine::mysql::binlog::BinlogScanner;
use pitr::engine::mysql::binlog::event::{MAGIC, kind};
use pitr::engine::mysql::binlog::note::{FILE_START, FileNote, Note};
use pitr::engine::mysql::flavor::Flavor;
use pitr::engine::postgres::wal::{WalScanner, name};
use pitr::engine::{Detail, ScanStart, Scanner};
use pitr::model::cluster::Identity;
use pitr::model::offset::Offset;
use pitr::model::summary::Summary;

/// What a walsender puts into one message (`MAX_SEND_SIZE`).
const PIECE_BYTES: usize = 128 << 10;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    let Some(dir) = arguments.next() else {
        println!("usage: cargo bench --bench scanner -- DIRECTORY-OF-WAL-FILES [ROUNDS]");
        return;
    };
    let rounds: u32 = arguments.next().map_or(5, |r| r.parse().expect("rounds is a number"));

    let mut files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
    let binlogs = files.iter().filter(|path| path.extension().is_some_and(|number| number.len() == 6));
    let binlogs = binlogs.cloned().collect::<Vec<_>>();
    if !binlogs.is_empty() {
        return binlog(binlogs, rounds);
    }
    files.retain(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.len() == 24));
    files.sort();
    let files: Vec<(String, Vec<u8>)> = files
        .into_iter()
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap()))
        .collect();
    let first = &files.first().expect("no WAL files there").1;
    let identity = Identity {
        format_version: 1,
        engine: "postgres".to_owned(),
        system: u64::from_le_bytes(first[24..32].try_into().unwrap()).to_string(),
        log_file_bytes: first.len() as u64,
        server_version: match u16::from_le_bytes([first[0], first[1]]) {
            0xD106 => 13,
            0xD10D => 14,
            0xD110 => 15,
            0xD113 => 16,
            0xD116 => 17,
            0xD118 => 18,
            _ => 19,
        },
        encryption: None,
    };

    best_of(rounds, &[Detail::Marks, Detail::Records], |detail| scan(&identity, &files, detail));
}

/// Scans once more with each detail in turn, `rounds` times, and prints the best of each.
fn best_of(rounds: u32, details: &[Detail], mut scan: impl FnMut(Detail) -> (u64, usize)) {
    let mut best = vec![(Duration::MAX, (0, 0)); details.len()];
    for _ in 0..rounds {
        for (detail, best) in details.iter().zip(&mut best) {
            let began = Instant::now();
            let scanned = scan(*detail);
            *best = (best.0.min(began.elapsed()), scanned);
        }
    }
    for (detail, (time, (bytes, seen))) in details.iter().zip(best) {
        let (seconds, megabytes) = (time.as_secs_f64(), bytes as f64 / 1e6);
        let (speed, cost) = (megabytes / seconds, seconds / (megabytes / 1e3));
        println!("{detail:?}: {megabytes:.0} MB, {seen} marks, {speed:.0} MB/s, {cost:.3} s/GB");
    }
}

/// Binlogs as the archive holds them: a note before each, without their magic.
fn binlog(mut paths: Vec<std::path::PathBuf>, rounds: u32) {
    paths.sort();
    let mut log = Vec::new();
    let mut flavor = Flavor::MySql;
    for path in paths {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        log.extend(Note::File(FileNote { server: "server".to_owned(), name, position: FILE_START }).encode());
        let mut file = std::fs::read(path).unwrap();
        // The mark that the file is open, which no source sends.
        file[MAGIC.len() + 17] &= 0xfe;
        let list = MAGIC.len() + u32::from_le_bytes(file[13..17].try_into().unwrap()) as usize;
        if file[list + 4] == kind::GTID_LIST {
            flavor = Flavor::MariaDb;
        }
        log.extend_from_slice(&file[MAGIC.len()..]);
    }
    best_of(rounds, &[Detail::Marks, Detail::Changes], |detail| {
        let (mut marks, mut seen) = (Vec::new(), 0);
        let mut summary = Summary::empty(Offset(1 << 24), Offset(1 << 24));
        let mut scanner = BinlogScanner::new(flavor, Offset(1 << 24), detail);
        for piece in log.chunks(PIECE_BYTES) {
            scanner.feed(piece, &mut marks).expect("sound binlogs");
            seen += marks.len();
            marks.drain(..).for_each(|mark| summary.add(mark));
        }
        summary.changes = scanner.take_changes();
        (log.len() as u64, seen)
    });
}

fn scan(identity: &Identity, files: &[(String, Vec<u8>)], detail: Detail) -> (u64, usize) {
    let (mut bytes, mut seen) = (0, 0);
    let mut marks = Vec::new();
    let mut scanner: Option<WalScanner> = None;
    for (file_name, content) in files {
        let (timeline, range) = name::parse_wal_file(file_name, identity.log_file_bytes).unwrap();
        let mut going = scanner
            .take()
            .filter(|s| s.offset() == range.start)
            .unwrap_or_else(|| WalScanner::new(identity, timeline, ScanStart::LogFile(range.start), detail));
        let sound = content.chunks(PIECE_BYTES).all(|piece| {
            marks.clear();
            let sound = going.feed(piece, &mut marks).is_ok();
            seen += marks.len();
            sound
        });
        bytes += going.offset().since(Offset(range.start.0));
        scanner = sound.then_some(going);
    }
    (bytes, seen)
}
