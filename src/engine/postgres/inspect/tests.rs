//! Each finding from the row that brings it about.

use super::*;
use crate::model::time::Timestamp;

fn table(values: &[(&str, &str)]) -> Row {
    Row(values.iter().map(|(k, v)| ((*k).to_owned(), Some((*v).to_owned()))).collect())
}

#[test]
fn every_finding_that_is_not_well_has_a_cure() {
    let bad = table(&[
        ("wal_level", "minimal"),
        ("full_page_writes", "off"),
        ("data_checksums", "off"),
        ("max_wal_senders", "2"),
        ("wal_senders", "1"),
        ("max_replication_slots", "0"),
        ("replication_slots", "0"),
        ("max_slot_wal_keep_size_mb", "-1"),
        ("wal_sender_timeout", "0"),
    ]);
    let findings = judge::settings(&bad);
    let levels: Vec<_> = findings.iter().map(|f| (f.subject.as_str(), f.level)).collect();
    assert_eq!(
        levels,
        [
            ("wal_level", Level::Critical),
            ("full_page_writes", Level::Critical),
            ("data_checksums", Level::Warning),
            ("max_wal_senders", Level::Warning),
            ("max_replication_slots", Level::Critical),
            ("max_slot_wal_keep_size", Level::Warning),
            ("wal_sender_timeout", Level::Warning),
        ]
    );
    assert!(findings.iter().all(|f| f.cure.is_some()));
}

#[test]
fn a_well_kept_server_gives_no_warning() {
    let good = table(&[
        ("wal_level", "logical"),
        ("full_page_writes", "on"),
        ("data_checksums", "on"),
        ("max_wal_senders", "10"),
        ("wal_senders", "1"),
        ("max_replication_slots", "10"),
        ("replication_slots", "1"),
        ("max_slot_wal_keep_size_mb", "51200"),
        ("wal_sender_timeout", "1min"),
    ]);
    for finding in judge::settings(&good) {
        assert_eq!(finding.level, Level::Ok, "{finding:?}");
    }
}

#[test]
fn what_the_role_may_not_see_is_a_warning() {
    let findings = judge::settings(&Row::default());
    let senders = findings.iter().find(|f| f.subject == "max_wal_senders").unwrap();
    assert_eq!(senders.level, Level::Warning);
    assert_eq!(judge::lag("pitr", &table(&[("flush_lsn", "0/1")])).level, Level::Warning);
}

#[test]
fn versions_outside_the_tested_range_are_named() {
    assert_eq!(judge::version(12).level, Level::Critical);
    assert_eq!(judge::version(13).level, Level::Ok);
    assert_eq!(judge::version(18).level, Level::Ok);
    assert_eq!(judge::version(19).level, Level::Warning);
}

#[test]
fn the_round_trip_does_not_count_as_skew() {
    let second = 1_000_000;
    let at = |s: i64| Timestamp(s * second);
    // The answer took ten seconds, but lies between the two looks.
    assert_eq!(judge::clock(at(100), Some(105 * second), at(110)).level, Level::Ok);
    let late = judge::clock(at(100), Some(90 * second), at(110));
    assert_eq!(late.level, Level::Warning);
    assert!(late.message.contains("-10.000 s"), "{}", late.message);
    assert!(judge::clock(at(100), Some(112 * second), at(110)).message.contains("+2.000 s"));
}

#[test]
fn a_slot_in_danger_is_told_from_one_that_is_lost() {
    let level = |values: &[(&str, &str)]| slot::judge("pitr", &table(values))[0].level;
    assert_eq!(level(&[]), Level::Warning);
    assert_eq!(level(&[("slot_type", "logical")]), Level::Critical);
    assert_eq!(level(&[("slot_type", "physical"), ("wal_status", "lost")]), Level::Critical);
    assert_eq!(level(&[("slot_type", "physical"), ("wal_status", "unreserved")]), Level::Critical);
    assert_eq!(
        level(&[("slot_type", "physical"), ("wal_status", "extended"), ("safe_wal_size", "1000")]),
        Level::Warning
    );
    assert_eq!(level(&[("slot_type", "physical"), ("wal_status", "reserved")]), Level::Ok);
}

#[test]
fn a_slot_is_told_to_programs_as_it_is_to_people() {
    let status = |values: &[(&str, &str)]| slot::status("pitr", &table(values));
    let missing = status(&[]);
    assert_eq!((missing.name.as_str(), missing.state.as_str(), missing.active), ("pitr", "missing", false));
    assert!(missing.message.contains("does not exist"), "{}", missing.message);
    assert_eq!(status(&[("slot_type", "logical"), ("wal_status", "reserved")]).state, "unusable");
    assert_eq!(status(&[("slot_type", "physical")]).state, "unused");
    let good = status(&[
        ("slot_type", "physical"),
        ("active", "t"),
        ("restart_lsn", "16/B374D848"),
        ("wal_status", "extended"),
        ("safe_wal_size", "2147483648"),
        ("kept_bytes", "123"),
    ]);
    assert_eq!((good.state.as_str(), good.active), ("extended", true));
    assert_eq!((good.kept_bytes, good.safe_bytes), (Some(123), Some(1 << 31)));
    assert_eq!(good.restart.unwrap().0, "16/B374D848");
    assert_eq!(good.message, "slot \"pitr\" keeps 123 bytes of log (extended)");
}

#[test]
fn a_role_name_cannot_leave_its_quotes() {
    assert!(grants("a\"; DROP").contains("CREATE ROLE \"a\"\"; DROP\" WITH"));
}
