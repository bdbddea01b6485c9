//! What no captured dump shows: positions beyond 32 bits, and heartbeats that are none of rest.

use std::fs;
use std::path::Path;

use super::super::super::binlog::event::{FLAG_ARTIFICIAL, MAGIC, is_sound};
use super::super::super::binlog::scanner::BinlogScanner;
use super::super::super::connect::packet::{Unframer, frame};
use super::super::super::gtid::GtidSet;
use super::*;
use crate::engine::{Detail, Scanner as _};

const START: Offset = Offset(1000);

/// An event with another position, sealed.
fn at(event: &[u8], log_pos: u32) -> Vec<u8> {
    let mut event = event.to_vec();
    event[13..17].copy_from_slice(&log_pos.to_le_bytes());
    seal(&mut event);
    event
}

fn made_up(kind: u8, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = (HEADER_BYTES + body.len() + CHECKSUM_BYTES) as u32;
    let header = Header { timestamp: 0, kind, server_id: 1, length, log_pos: 0, flags };
    at(&[&header.encode()[..], body, &[0; CHECKSUM_BYTES]].concat(), 0)
}

fn rotate(name: &str) -> Vec<u8> {
    made_up(kind::ROTATE, FLAG_ARTIFICIAL, &[&4_u64.to_le_bytes()[..], name.as_bytes()].concat())
}

/// What comes out of these events.
fn take(intake: &mut Intake, events: &[Vec<u8>]) -> Vec<Taken> {
    let mut wire = Vec::new();
    let mut sequence = 1;
    for event in events {
        sequence = frame(&mut wire, sequence, &[&[0], &event[..]].concat());
    }
    let (mut unframer, mut wire) = (Unframer::new(1), &wire[..]);
    while let Some(piece) = unframer.next(&mut wire).unwrap() {
        intake.take(piece).unwrap();
    }
    intake.flush();
    std::iter::from_fn(|| intake.pop()).collect()
}

/// The events of a file that a server wrote.
fn events(fixture: &str) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto-fixtures").join(fixture);
    let mut file = zstd::decode_all(fs::File::open(path).unwrap()).unwrap();
    file[21] &= 0xfe;
    let (mut rest, mut events) = (&file[MAGIC.len()..], Vec::new());
    while !rest.is_empty() {
        let (event, after) = rest.split_at(Header::parse(rest).unwrap().length as usize);
        events.push(event.to_vec());
        rest = after;
    }
    events
}

/// The source gives the log from the file's beginning then, by GTID, and passes over what we have.
#[test]
fn a_log_that_goes_on_beyond_4_gib_is_where_it_is_in_its_file() {
    let events = events("mariadb/10.11/binlog/plain_transactions/binlog.000001.zst");
    let description = at(&events[0], 0);
    let first = events.iter().position(|event| begins_group(event[4])).unwrap();
    let transactions = &events[first..];
    let position = (5_u64 << 32) + 777;
    let mut end = position;
    let sent = transactions.iter().map(|event| {
        end += event.len() as u64;
        at(event, end as u32)
    });
    let dump: Vec<Vec<u8>> = [rotate("binlog.000001"), description].into_iter().chain(sent).collect();
    assert!(dump.iter().all(|event| is_sound(event)));
    let gtids = GtidSet::empty(Flavor::MariaDb);
    let place =
        Place { gtids, server: "server".into(), file: "binlog.000001".into(), position, after: None, holding: 0 };
    let mut intake = Intake::new(Flavor::MariaDb, "server", START, place.clone());
    let mut scanner = BinlogScanner::new(Flavor::MariaDb, START, Detail::Marks);
    scanner.set_position(&place.to_position()).unwrap();
    for taken in take(&mut intake, &dump) {
        if let Taken::Log { bytes, .. } = taken {
            scanner.feed(&bytes, &mut Vec::new()).unwrap();
        }
    }
    assert_eq!(scanner.place().unwrap().position, end);
}

/// MySQL sends one before it goes on behind what it has passed over.
#[test]
fn a_heartbeat_before_the_logs_end_is_no_word_of_rest() {
    let heartbeat = |position: u64| {
        let name = b"binlog.000002";
        let body = [&[1, 13], &name[..], &[2, 9, 0xfe], &position.to_le_bytes(), &[0]].concat();
        made_up(kind::HEARTBEAT_V2, 0, &body)
    };
    let goal = FilePlace { file: "binlog.000002".into(), position: 1000 };
    let place = Place {
        gtids: GtidSet::empty(Flavor::MySql),
        server: "another".into(),
        file: "binlog.000009".into(),
        position: 4,
        after: None,
        holding: 0,
    };
    let mut intake = Intake::new(Flavor::MySql, "server", START, place);
    assert_eq!(take(&mut intake, &[rotate("binlog.000002"), heartbeat(1000)]), [Taken::Alive], "an end not known yet");
    intake.expect_end(Some(goal));
    assert_eq!(take(&mut intake, &[heartbeat(999)]), [Taken::Alive]);
    assert_eq!(take(&mut intake, &[heartbeat(1000)]), [Taken::CaughtUp(START), Taken::Heartbeat]);
    assert_eq!(take(&mut intake, &[heartbeat(1000)]), [Taken::Heartbeat]);
}
