//! How fast the scanner reads PostgreSQL's log.
//!
//! ```text
//! cargo bench --bench scanner -- /path/to/pg_wal [rounds]
//! ```
//!
//! Reads every WAL file of the directory into memory, which therefore must hold
//! them, and scans them in order in pieces of 128 KiB (as a walsender sends them).
//! A scan begins anew where the files do not follow each other and where the log
//! ends. Prints the bytes scanned, the marks seen and the speed of the best round.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::time::{Duration, Instant};

use pitr::engine::postgres::wal::{WalScanner, name};
use pitr::engine::{Detail, ScanStart, Scanner};
use pitr::model::cluster::Identity;
use pitr::model::offset::Offset;

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
    };

    for detail in [Detail::Marks, Detail::Records] {
        let mut best = Duration::MAX;
        let (mut bytes, mut seen) = (0, 0);
        for _ in 0..rounds {
            let began = Instant::now();
            (bytes, seen) = scan(&identity, &files, detail);
            best = best.min(began.elapsed());
        }
        let seconds = best.as_secs_f64();
        let megabytes = bytes as f64 / 1e6;
        println!(
            "{detail:?}: {megabytes:.0} MB, {seen} marks, {:.0} MB/s, {:.3} s/GB",
            megabytes / seconds,
            seconds / (bytes as f64 / 1e9)
        );
    }
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
