//! Events of real servers against what the servers' own tools print of them.

use proptest::prelude::*;

use super::*;
use crate::engine::mysql::binlog::event::begins_group;
use crate::engine::mysql::gtid::fixtures::{events, text};

/// The GTID events of a captured log.
fn captured(case: &str) -> Vec<GtidEvent> {
    let events = events(case).into_iter().filter(|(header, _)| begins_group(header.kind));
    events
        .map(|(header, content)| GtidEvent::decode(header.kind, header.server_id, &content).unwrap().unwrap())
        .collect()
}

/// An event that has to be one with a GTID, or without on purpose.
fn parse(kind: u8, content: &[u8]) -> Result<GtidEvent> {
    GtidEvent::decode(kind, 11, content).map(Option::unwrap)
}

/// What mysqlbinlog prints of an event.
fn as_mysqlbinlog(event: &GtidEvent) -> String {
    let micros = |time: Option<Timestamp>| time.unwrap().0;
    format!(
        "{} last_committed={} sequence_number={} rbr_only={} original_committed_timestamp={} \
         immediate_commit_timestamp={} transaction_length={}",
        event.gtid.as_ref().map_or("ANONYMOUS".to_owned(), Gtid::to_string),
        event.last_committed,
        event.sequence_number,
        if event.flags.may_hold_statements() { "no" } else { "yes" },
        micros(event.original_commit),
        micros(event.immediate_commit),
        event.transaction_length.unwrap(),
    )
}

#[test]
fn reads_mysql_events_as_mysqlbinlog_does() {
    for (case, count) in [("anonymous", 2), ("untagged", 9), ("tagged", 5), ("tags_before", 1)] {
        let case = format!("mysql/9.7/gtid/{case}");
        let said = text(&format!("{case}/mysqlbinlog.txt"));
        let rests =
            said.lines().filter_map(|line| line.find("last_committed=").map(|at| line[at..].replace('\t', " ")));
        let names = said.lines().filter_map(|line| line.strip_prefix("SET @@SESSION.GTID_NEXT= '")?.split('\'').next());
        let expected: Vec<String> = names.zip(rests).map(|(name, rest)| format!("{name} {rest}")).collect();
        let read: Vec<String> = captured(&case).iter().map(as_mysqlbinlog).collect();
        assert_eq!(read, expected, "{case}");
        assert_eq!(read.len(), count, "{case}");
    }
}

#[test]
fn reads_mariadb_events_as_mariadb_binlog_does() {
    let cases = [("from_the_start", 3), ("domains", 16), ("nothing", 0)];
    for (version, (case, count)) in ["10.11", "11.8"].into_iter().flat_map(|version| cases.map(|case| (version, case)))
    {
        let case = format!("mariadb/{version}/gtid/{case}");
        let said = text(&format!("{case}/mariadb-binlog.txt"));
        let expected: Vec<String> = said
            .lines()
            .filter_map(|line| line.split_once("\tGTID ").map(|(_, rest)| rest.replace(" cid=", " cid ")))
            .map(|line| {
                line.split(' ')
                    .filter(|word| word.parse::<u64>().is_err() && !word.starts_with("thread_id="))
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect();
        let read: Vec<String> = captured(&case)
            .iter()
            .map(|event| {
                let flags = [
                    (event.flags.ddl(), " ddl"),
                    (event.flags.group_committed(), " cid"),
                    (event.flags.transactional(), " trans"),
                    (event.flags.waited(), " waited"),
                ];
                let flags: String = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
                format!("{}{flags}", event.gtid.as_ref().unwrap())
            })
            .collect();
        assert_eq!(read, expected, "{case}");
        assert_eq!(read.len(), count, "{case}");
    }
}

#[test]
fn tells_the_shapes_of_mariadb_transactions() {
    for version in ["10.11", "11.8"] {
        let flagged = |flag: fn(&GtidEvent) -> bool| -> Vec<String> {
            let events = captured(&format!("mariadb/{version}/gtid/domains")).into_iter().filter(flag);
            events.map(|event| event.gtid.unwrap().to_string()).collect()
        };
        assert_eq!(flagged(|event| event.flags.standalone()), ["3-11-2", "3-11-4"]);
        assert_eq!(flagged(|event| event.flags.xa_prepared()), ["3-11-1"]);
        assert_eq!(flagged(|event| event.flags.xa_completed()), ["3-11-2"]);
        assert_eq!(flagged(|event| !event.flags.allows_parallel()), Vec::<String>::new());
        assert_eq!(flagged(|event| event.flags.may_hold_statements()), Vec::<String>::new());
    }
    let mysql = captured("mysql/9.7/gtid/untagged");
    assert!(!mysql.iter().any(|event| event.flags.standalone() || event.flags.ddl()));
}

/// A MySQL 8.0 event, cut to what older servers write.
#[test]
fn reads_the_shorter_events_of_older_servers() {
    let (header, content) = events("mysql/9.7/gtid/untagged").swap_remove(2);
    let read = |bytes: usize| parse(header.kind, &content[..bytes]);
    let (of_5_6, of_5_7, of_8_0_1) = (read(25).unwrap(), read(42).unwrap(), read(49).unwrap());
    assert_eq!(of_5_6.gtid.as_ref().unwrap().number(), 1);
    assert_eq!((of_5_6.sequence_number, of_5_7.sequence_number), (0, 1));
    assert_eq!((of_5_7.immediate_commit, of_5_7.transaction_length), (None, None));
    assert!(of_8_0_1.immediate_commit.is_some() && of_8_0_1.transaction_length.is_none());
    for cut in (0..25).chain(26..42).chain(43..49) {
        assert_eq!(read(cut).unwrap_err().kind(), crate::Kind::Corruption, "{cut}");
    }
}

#[test]
fn reads_lengths_of_every_size() {
    let (header, content) = events("mysql/9.7/gtid/untagged").swap_remove(2);
    for (packed, length) in [
        (&[250][..], Some(250)),
        (&[252, 1, 2], Some(0x201)),
        (&[253, 1, 2, 3], Some(0x3_0201)),
        (&[254, 1, 2, 3, 4, 5, 6, 7, 8], Some(0x807_0605_0403_0201)),
        (&[251], None),
        (&[255], None),
        (&[254, 1, 2, 3, 4, 5, 6, 7], None),
    ] {
        let event = parse(header.kind, &[&content[..49], packed].concat());
        assert_eq!(event.ok().map(|event| event.transaction_length), length.map(Some), "{packed:?}");
    }
}

#[test]
fn refuses_a_gtid_without_a_number() {
    let (header, mut content) = events("mysql/9.7/gtid/untagged").swap_remove(2);
    content[17] = 0;
    let error = parse(header.kind, &content).unwrap_err().to_string();
    assert_eq!(error, "GTID event of 56 bytes has number 0, not one from 1 to 9223372036854775806, before byte 25");
    content[17] = 1;
    assert!(parse(kind::ANONYMOUS_GTID, &content).is_err());
    assert_eq!(GtidEvent::decode(kind::XID, 11, &content).unwrap(), None);
}

#[test]
fn passes_over_new_fields_that_may_be_passed_over() {
    let (header, content) = events("mysql/9.7/gtid/tagged").swap_remove(2);
    let parse = |content: &[u8]| parse(header.kind, content);
    let event = parse(&content).unwrap();
    // One more field, of a kind we do not know, and the size that goes with it.
    let mut newer = [&content[..], &[12 << 1, 0xff, 0x00]].concat();
    newer[1] += 3 << 1;
    assert_eq!(parse(&newer).unwrap(), event);
    newer[2] = 12 << 1;
    assert!(parse(&newer).unwrap_err().to_string().contains("has field 12, which it says must be understood,"));
    newer[2] = 11 << 1;
    assert_eq!(parse(&newer).unwrap(), event);
    for (at, value, why) in [
        (0, 4, "format 4"),
        (1, 0, "a message of 0 bytes in 60"),
        (3, 2, "no field 0"),
        (9, 7, "506 in its UUID"),
        (30, 0, "number 0, not one"),
        (30, 6, "number 18446744073709551614, not one"),
        (33, b'T', "the tag \"Tag1\""),
    ] {
        let mut broken = newer.clone();
        broken[at] = value;
        let error = parse(&broken).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn refuses_a_tagged_event_that_is_cut_off() {
    let (header, content) = events("mysql/9.7/gtid/tagged").swap_remove(2);
    for cut in 0..content.len() {
        let mut content = content[..cut].to_vec();
        assert!(parse(header.kind, &content).is_err(), "{cut}");
        if let Some(size) = content.get_mut(1) {
            *size = (cut << 1) as u8;
        }
        // The server versions at its end are not read.
        assert_eq!(parse(header.kind, &content).is_ok(), cut >= 53, "{cut}");
    }
}

#[test]
fn reads_integers_as_the_library_documents_them() {
    let read = |bytes: &[u8]| {
        let fields = Fields::new("integer", bytes);
        (unsigned(&mut fields.clone()), signed(&mut fields.clone()))
    };
    assert_eq!(read(&[0b1111_1011, 0xff, 0b111]).0.unwrap(), 65_535);
    assert_eq!(read(&[0b1111_0011, 0xff, 0b1111]).1.unwrap(), 65_535);
    assert_eq!(read(&[0b1110_1011, 0xff, 0b1111]).1.unwrap(), -65_535);
    assert_eq!(read(&[0b1111_1011, 0xff, 0b1111]).1.unwrap(), -65_536);
    assert_eq!(read(&[0x7f, 1, 2, 3, 4, 5, 6, 7]).0.unwrap(), 0x07_0605_0403_0201);
    assert_eq!(read(&[0xff; 9]).0.unwrap(), u64::MAX);
    assert_eq!(read(&[0xff; 9]).1.unwrap(), i64::MIN);
    assert!(read(&[0xff; 8]).0.is_err());
    assert!(read(&[]).0.is_err());
}

proptest! {
    #[test]
    fn never_panics_on_any_bytes(
        kind in prop_oneof![33u8..=34, Just(42), Just(162), any::<u8>()],
        content in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let _ = GtidEvent::decode(kind, 1, &content);
    }

    #[test]
    fn never_panics_on_changed_events(index in 0usize..8, at in 0usize..100, flip in 1u8..) {
        for case in ["untagged", "tagged"] {
            let Some((header, mut content)) = events(&format!("mysql/9.7/gtid/{case}")).into_iter().nth(index) else { continue };
            if let Some(byte) = content.get_mut(at) {
                *byte ^= flip;
            }
            let _ = GtidEvent::decode(header.kind, 1, &content);
        }
    }
}
