//! Goal: what replicas and sources really said to each other is understood and said alike.
//!
//! The captures (`proto-fixtures/mysql/README.md`) hold both directions of a real server with a
//! real replica. Their client's side is fed to our parsers and their statements answered; the
//! artificial events that the real source made are made again and compared byte by byte.

use std::time::Duration;

use proptest::prelude::*;

use super::dump::{Form, Framer};
use super::login::Plugin;
use super::packets::{Command, HEADER, Login, NONCE, PACKET_MAX};
use super::queries::{Answer, Checksum, Wishes, answer};
use super::{Flavor, Settings, artificial, packets};

/// Reads a fixture, unpacked.
fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/proto-fixtures/{name}.zst", env!("CARGO_MANIFEST_DIR"));
    let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    zstd::stream::decode_all(file).unwrap()
}

/// The payloads of whole packets, with their sequence numbers.
fn packets(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let [a, b, c, sequence, rest @ ..] = bytes {
        let length = u32::from_le_bytes([*a, *b, *c, 0]) as usize;
        if rest.len() < length {
            break;
        }
        found.push((*sequence, rest[..length].to_vec()));
        bytes = &rest[length..];
    }
    found
}

fn settings(flavor: Flavor) -> Settings {
    Settings {
        flavor,
        version: "9.7.4-2".to_owned(),
        server_id: 1,
        server_uuid: "5a5a5a5a-0000-4000-8000-000000000001".to_owned(),
        user: "replica".to_owned(),
        password: "fixture".to_owned().into(),
    }
}

fn form(checksum: bool) -> Form {
    Form {
        server_id: 1,
        heartbeat: Duration::from_secs(1),
        annotations: true,
        heartbeat_v2: false,
        knows_checksums: true,
        checksum,
    }
}

const REPLICAS: [(&str, Flavor); 6] = [
    ("mysql/9.7/wire/replica", Flavor::MySql),
    ("mysql/9.7/wire/replica_with_a_position", Flavor::MySql),
    ("mysql/9.7/wire/replica_semi_sync", Flavor::MySql),
    ("mariadb/10.11/wire/replica", Flavor::MariaDb),
    ("mariadb/10.11/wire/replica_with_a_position", Flavor::MariaDb),
    ("mariadb/10.11/wire/replica_semi_sync", Flavor::MariaDb),
];

#[test]
fn every_statement_of_a_real_replica_has_an_answer() {
    for (case, flavor) in REPLICAS {
        let client = packets(&fixture(&format!("{case}/client.bin")));
        let mut wishes = Wishes::default();
        let mut dumps = 0;
        for (_, payload) in client
            .iter()
            .filter(|(sequence, payload)| *sequence == 0 && payload[0] != 0xef && !payload.starts_with(b"\x03KILL"))
        {
            // The real server offers query attributes: none, in one set, come before a statement.
            let plain = payload.strip_prefix(&[3, 0, 1]).map(|statement| [&[3], statement].concat());
            match Command::parse(plain.as_ref().unwrap_or(payload)).unwrap() {
                Command::Query(statement) => {
                    let said = answer(&statement, &settings(flavor), 1_795_292_495, &mut wishes);
                    let is_semi_sync = statement.contains("semi_sync");
                    assert!(is_semi_sync || !matches!(said, Answer::Refused { .. }), "{case}: {statement}: {said:?}");
                }
                Command::Dump(dump) => {
                    assert_eq!((dump.server_id, dump.position, dump.file.as_str()), (2, 4, ""), "{case}");
                    dumps += 1;
                }
                Command::DumpGtid(dump, set) => {
                    assert_eq!((dump.server_id, dump.position, dump.file.as_str()), (2, 4, ""), "{case}");
                    assert!(set.len() >= 8, "{case}: {set:?}");
                    dumps += 1;
                }
                Command::Fine | Command::Quit => {}
                Command::Other(number) => panic!("{case}: command {number}"),
            }
        }
        assert!(dumps > 0, "{case} asks for the log");
        assert_eq!(wishes.checksum, Some(Checksum::Crc32), "{case}");
        assert!(wishes.heartbeat.is_some(), "{case}");
        assert_eq!(wishes.connect_state.is_some(), flavor == Flavor::MariaDb, "{case}");
    }
}

#[test]
fn a_real_replica_proves_its_password() {
    for (case, flavor) in REPLICAS {
        let server = packets(&fixture(&format!("{case}/server.bin")));
        let client = packets(&fixture(&format!("{case}/client.bin")));
        // Both parts of the greeting's nonce, behind the version's end.
        let greeting = &server[0].1;
        let version = greeting.iter().position(|byte| *byte == 0).unwrap();
        let nonce = [&greeting[version + 5..version + 13], &greeting[version + 32..version + 44]].concat();
        let nonce: [u8; NONCE] = nonce.try_into().unwrap();
        let login = Login::parse(&client[0].1).unwrap();
        let plugin = Plugin::named(login.plugin.as_deref().unwrap()).unwrap();
        assert_eq!((login.user.as_str(), plugin), ("replica", Plugin::default_of(flavor)), "{case}");
        assert!(plugin.proves(&login.proof, &nonce, b"fixture"), "{case}");
        assert!(!plugin.proves(&login.proof, &nonce, b"fixtura"), "{case}");
        assert!(!plugin.proves(b"", &nonce, b"fixture"), "{case}");
        // And our greeting has its nonce at the same place.
        let ours = packets::greeting("9.7.4-2", 7, &nonce, plugin.name());
        let version = ours.iter().position(|byte| *byte == 0).unwrap();
        assert_eq!([&ours[version + 5..version + 13], &ours[version + 32..version + 44]].concat(), nonce);
    }
}

/// The events that a real source sent, from its server's side of a session.
fn events(case: &str) -> Vec<Vec<u8>> {
    let is_event = |payload: &[u8]| {
        let size = payload.get(10..14).map(|field| u32::from_le_bytes(field.try_into().unwrap()));
        payload[0] == 0 && size == Some(payload.len() as u32 - 1)
    };
    let server = packets(&fixture(&format!("{case}/server.bin")));
    server
        .into_iter()
        .map(|(_, payload)| payload)
        .filter(|payload| is_event(payload))
        .map(|it| it[1..].to_vec())
        .collect()
}

#[test]
fn artificial_events_are_those_of_a_real_source() {
    for case in ["mysql/9.7/wire/replica", "mariadb/10.11/wire/replica"] {
        let mut file = String::new();
        let mut counts = [0; 3];
        for event in events(case) {
            let log_position = u32::from_le_bytes(event[13..17].try_into().unwrap());
            let body = &event[19..event.len() - 4];
            match event[4] {
                4 if event[..4] == [0; 4] => {
                    file = String::from_utf8(body[8..].to_vec()).unwrap();
                    let position = u64::from_le_bytes(body[..8].try_into().unwrap());
                    assert_eq!(artificial::rotate(1, &file, position, true), event, "{case}");
                    counts[0] += 1;
                }
                27 => {
                    assert_eq!(artificial::heartbeat(1, &file, log_position.into(), true), event, "{case}");
                    counts[1] += 1;
                }
                41 => {
                    // The same fields, the position in fewer bytes.
                    let ours = artificial::heartbeat_v2(1, &file, 0x1234, true);
                    let fields = 19 + 2 + file.len();
                    assert_eq!((ours[4], &ours[19..fields], ours[fields]), (41, &event[19..fields], event[fields]));
                    counts[1] += 1;
                }
                15 => {
                    let (ours, checksum) = artificial::format_description(&event, 4).unwrap();
                    assert_eq!((ours, checksum), (event, true), "{case}");
                    counts[2] += 1;
                }
                _ => {}
            }
        }
        assert!(counts.iter().all(|count| *count > 0), "{case}: {counts:?}");
    }
}

#[test]
fn a_format_description_inside_a_file_is_that_of_a_real_source() {
    for case in ["mysql/9.7/wire/from_the_middle", "mariadb/10.11/wire/from_the_middle"] {
        let theirs = events(case).into_iter().find(|event| event[4] == 15).unwrap();
        assert!(!artificial::is_counted(&theirs), "{case}");
        // As it is on disk: with its position, its time, and in use.
        let mut on_disk = theirs.clone();
        on_disk[13] = 126;
        on_disk[17] |= 1;
        on_disk[71..75].copy_from_slice(&1_795_292_484_u32.to_le_bytes());
        assert_eq!(artificial::format_description(&on_disk, 900).unwrap(), (theirs, true), "{case}");
    }
}

#[test]
fn refuses_a_format_description_of_an_unknown_checksum() {
    let mut event = events("mysql/9.7/wire/replica").into_iter().find(|event| event[4] == 15).unwrap();
    let at = event.len() - 5;
    event[at] = 2;
    let error = artificial::format_description(&event, 4).unwrap_err();
    assert!(error.message().contains("checksum algorithm Some(2)"), "{error}");
    assert!(artificial::format_description(&event[..40], 4).is_err());
    event[4] = 16;
    assert!(artificial::format_description(&event, 4).is_err());
}

/// An event without checksum.
fn event(kind: u8, size: usize) -> Vec<u8> {
    let mut event: Vec<u8> = (0..size).map(|at| at as u8).collect();
    event[4] = kind;
    event[9..13].copy_from_slice(&(size as u32).to_le_bytes());
    event
}

/// What a replica makes of packets: the payloads, joined, with the sequence checked.
fn joined(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found: Vec<Vec<u8>> = Vec::new();
    let mut goes_on = false;
    let mut expected = 1_u8;
    let mut at = 0;
    while at < bytes.len() {
        let length = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], 0]) as usize;
        assert_eq!(bytes[at + 3], expected);
        expected = expected.wrapping_add(1);
        let payload = &bytes[at + HEADER..at + HEADER + length];
        match found.last_mut() {
            Some(last) if goes_on => last.extend_from_slice(payload),
            _ => found.push(payload.to_vec()),
        }
        goes_on = length == PACKET_MAX;
        at += HEADER + length;
    }
    assert!(!goes_on, "the last packet is not full");
    found
}

#[test]
fn an_event_that_fills_its_packets_is_followed_by_an_empty_one() {
    for size in [PACKET_MAX - 2, PACKET_MAX - 1, PACKET_MAX, 2 * PACKET_MAX - 1, 2 * PACKET_MAX] {
        let event = event(30, size);
        let mut out = Vec::new();
        let mut framer = Framer::new(form(false));
        for piece in event.chunks(1 << 20) {
            framer.log(piece, &mut out).unwrap();
        }
        assert!(!framer.is_inside_event());
        let found = joined(&out);
        assert_eq!(found.len(), 1);
        assert!(found[0][0] == 0 && found[0][1..] == event, "{size}");
        assert_eq!(out.len(), event.len() + 1 + HEADER * (1 + (size + 1) / PACKET_MAX), "{size}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn events_come_whole_however_the_log_is_cut(
        sizes in prop::collection::vec((19_usize..300, prop::bool::ANY), 1..60),
        pieces in prop::collection::vec(1_usize..200, 1..50),
        annotations in prop::bool::ANY,
    ) {
        let events: Vec<_> = sizes.iter().map(|(size, annotates)| event(if *annotates { 160 } else { 30 }, *size)).collect();
        let log = events.concat();
        let mut framer = Framer::new(Form { annotations, ..form(false) });
        let mut out = Vec::new();
        let (mut rest, mut lengths) = (&log[..], pieces.iter().cycle());
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(rest.len().min(*lengths.next().unwrap()));
            framer.log(piece, &mut out).unwrap();
            rest = behind;
        }
        prop_assert!(!framer.is_inside_event());
        let wanted: Vec<_> = events.into_iter().filter(|event| annotations || event[4] != 160).collect();
        let found: Vec<_> = joined(&out).into_iter().map(|payload| payload[1..].to_vec()).collect();
        prop_assert_eq!(found, wanted);
    }

    #[test]
    fn no_bytes_of_a_client_make_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Login::parse(&bytes);
        let _ = Command::parse(&bytes);
        let _ = artificial::format_description(&bytes, 4);
        let _ = Framer::new(form(true)).log(&bytes, &mut Vec::new());
    }

    #[test]
    fn no_statement_makes_a_panic(statement in ".{0,100}", verb in "set @|select @@|show variables like |") {
        let mut wishes = Wishes::default();
        answer(&format!("{verb}{statement}"), &settings(Flavor::MySql), 0, &mut wishes);
    }
}

#[test]
fn refuses_an_event_smaller_than_its_header() {
    let mut short = event(30, 19);
    short[9] = 18;
    let error = Framer::new(form(false)).log(&short, &mut Vec::new()).unwrap_err();
    assert!(error.message().contains("it has 18 bytes"), "{error}");
}

/// What a replica would be told, as (type, position of a rotation or heartbeat).
fn told(out: &[u8]) -> Vec<(u8, Option<u64>)> {
    let one = |payload: Vec<u8>| match payload[5] {
        4 => (4, Some(u64::from_le_bytes(payload[20..28].try_into().unwrap()))),
        27 => (27, Some(u32::from_le_bytes(payload[14..18].try_into().unwrap()).into())),
        kind => (kind, None),
    };
    joined(out).into_iter().map(one).collect()
}

#[test]
fn a_heartbeat_names_the_place_that_the_replica_counts() {
    let opening = events("mysql/9.7/wire/replica").into_iter().find(|event| event[4] == 15).unwrap();
    let mut framer = Framer::new(form(true));
    let mut out = Vec::new();
    framer.heartbeat(&mut out);
    assert!(out.is_empty(), "before the first file there is no place");
    framer.file("binlog.000001".to_owned(), &opening, 4, &mut out).unwrap();
    framer.heartbeat(&mut out);
    framer.log(&event(30, 100), &mut out).unwrap();
    framer.heartbeat(&mut out);
    let begun = 4 + opening.len() as u64;
    let expected = [(4, Some(4)), (15, None), (27, Some(begun)), (30, None), (27, Some(begun + 100))];
    assert_eq!(told(&out), expected);
    // Transactions are left out, and a rotation ends the file without another beginning.
    let mut framer = Framer::new(form(true));
    out.clear();
    framer.file("binlog.000001".to_owned(), &opening, 4, &mut out).unwrap();
    framer.file("binlog.000001".to_owned(), &opening, 5000, &mut out).unwrap();
    let body = [&4_u64.to_le_bytes()[..], b"binlog.000002"].concat();
    let mut rotation = event(4, 19 + body.len());
    rotation[19..].copy_from_slice(&body);
    framer.log(&rotation, &mut out).unwrap();
    framer.heartbeat(&mut out);
    framer.heartbeat(&mut out);
    let behind = 5000 + rotation.len() as u64;
    let led_back = [(4, Some(behind)), (15, None), (27, Some(behind)), (27, Some(behind))];
    let expected = [&[(4, Some(4)), (15, None), (4, Some(5000)), (15, None), (4, Some(4))][..], &led_back].concat();
    assert_eq!(told(&out), expected);
    framer.log(&event(30, 100)[..50], &mut out).unwrap();
    let before = out.len();
    framer.heartbeat(&mut out);
    assert_eq!(out.len(), before, "none inside an event");
}

#[test]
fn past_4_gib_a_heartbeat_has_its_position_elsewhere() {
    let event = artificial::heartbeat(1, "b.1", 5 << 32, false);
    assert_eq!(
        (&event[13..17], &event[19..27], &event[27..]),
        (&[0; 4][..], &(5_u64 << 32).to_le_bytes()[..], &b"b.1"[..])
    );
}

#[test]
fn refuses_a_log_with_checksums_to_who_knows_of_none() {
    let opening = events("mysql/9.7/wire/replica").into_iter().find(|event| event[4] == 15).unwrap();
    let mut framer = Framer::new(Form { knows_checksums: false, ..form(false) });
    let error = framer.file("binlog.000001".to_owned(), &opening, 4, &mut Vec::new()).unwrap_err();
    assert!(error.message().contains("binlog.000001 carry checksums"), "{error}");
}

#[test]
fn a_statement_that_is_not_known_is_named_in_its_refusal() {
    let mut wishes = Wishes::default();
    let mut ask = |statement: &str| answer(statement, &settings(Flavor::MySql), 0, &mut wishes);
    assert!(matches!(ask("DROP TABLE t"), Answer::Refused { code: 1064, message } if message.contains("DROP TABLE t")));
    assert!(matches!(ask("SELECT @@global.nothing"), Answer::Refused { code: 1193, .. }));
    assert!(matches!(ask("SELECT 1"), Answer::Refused { code: 1064, .. }));
    assert!(matches!(ask("SHOW TABLES"), Answer::Refused { code: 1064, .. }));
    assert!(matches!(ask("SET @slave_until_gtid='0-1-1'"), Answer::Refused { code: 1235, .. }));
    assert_eq!(ask("SET NAMES utf8mb4"), Answer::Ok);
    assert_eq!(ask("set @slave_connect_state = '0-1-1,1-2-3', @x = 1;"), Answer::Ok);
    assert_eq!(wishes.connect_state.as_deref(), Some("0-1-1,1-2-3"));
}
