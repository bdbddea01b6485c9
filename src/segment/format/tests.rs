use proptest::prelude::*;

use super::*;
use crate::segment::samples;

fn footer(summary: Summary) -> Footer {
    Footer { raw_bytes: summary.range.len(), raw_crc: 0x0102_0304, stored_crc: 0x0506_0708, summary }
}

fn times() -> impl Strategy<Value = Timestamp> {
    any::<i64>().prop_map(Timestamp)
}

fn transactions() -> impl Strategy<Value = Transaction> {
    let id = prop_oneof![
        any::<u64>().prop_map(TransactionId::Number),
        ".{0,60}".prop_map(|t| TransactionId::Text(t.into()))
    ];
    (id, times(), any::<bool>(), any::<u64>(), any::<u64>()).prop_map(|(id, time, committed, start, end)| Transaction {
        id,
        time,
        committed,
        start: Offset(start),
        end: Offset(end),
    })
}

fn points() -> impl Strategy<Value = RestorePoint> {
    (".{0,63}", times(), any::<u64>()).prop_map(|(name, time, end)| RestorePoint { name, time, end: Offset(end) })
}

prop_compose! {
    fn changes()(tables in prop::collection::vec((".{0,30}", prop::collection::vec(0_u64..3, 6)), 0..5), more: bool) -> Changes {
        let tables = tables.into_iter().map(|(table, each)| {
            let mut counts = Counts::default();
            ChangeKind::ALL.into_iter().zip(each).for_each(|(kind, count)| counts.add(kind, count << 40));
            TableChanges { table: table.into(), counts }
        });
        Changes { tables: tables.collect(), more }
    }
}

prop_compose! {
    fn summaries()(
        ends in (any::<u64>(), any::<u64>()).prop_filter("not empty", |(a, b)| a != b),
        boundary in any::<u64>(),
        transactions in any::<u64>(),
        times in prop::option::of((times(), times())),
        ids in prop::option::of(any::<(u64, u64)>()),
        last in prop::option::of(transactions()),
        restore_points in prop::collection::vec(points(), 0..5),
        changes in changes(),
        confirmed in prop::option::of(times()),
        position in ".{0,300}",
    ) -> Summary {
        let range = OffsetRange::new(Offset(ends.0.min(ends.1)), Offset(ends.0.max(ends.1)));
        Summary {
            range,
            boundary: Offset(boundary).min(range.end),
            transactions,
            times: times.map(|(a, b)| (a.min(b), a.max(b))),
            ids: ids.map(|(a, b)| (a.min(b), a.max(b))),
            last,
            restore_points,
            changes,
            confirmed,
            position: Position(position),
        }
    }
}

proptest! {
    #[test]
    fn a_footer_reads_back_as_it_was_written(summary in summaries()) {
        let (header, footer) = (samples::header(5), footer(summary));
        let mut bytes = vec![0xEE];
        footer.encode(&header, &mut bytes).unwrap();
        prop_assert_eq!(Footer::len(&bytes).unwrap(), bytes.len() - 1);
        let (owner, read) = Footer::decode(&bytes[1..]).unwrap();
        prop_assert_eq!(owner, Owner { cluster: header.cluster, timeline: header.timeline, epoch: header.epoch });
        prop_assert_eq!(read, footer);
    }

    #[test]
    fn a_header_reads_back_as_it_was_written(
        cluster in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,99}", engine in ".{0,40}",
        timeline in any::<u32>(), start in any::<u64>(), epoch in any::<u32>(),
    ) {
        let header = Header {
            cluster: cluster.parse().unwrap(), engine, timeline: TimelineId(timeline), start: Offset(start), epoch,
        };
        let mut bytes = Vec::new();
        header.encode(&mut bytes).unwrap();
        let len = bytes.len();
        bytes.extend_from_slice(b"a frame");
        prop_assert_eq!(Header::decode(&bytes).unwrap(), (header, len));
    }

    #[test]
    fn noise_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..300), trailer in any::<bool>()) {
        if trailer {
            let len = bytes.len() as u32 + 12;
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(FOOTER_MAGIC);
        }
        prop_assert!(Header::decode(&bytes).is_err());
        prop_assert!(Footer::decode(&bytes).is_err());
    }
}

/// Makes a sound footer say something else, with its checksum put right again.
fn forged(change: impl FnOnce(&mut Vec<u8>)) -> Error {
    let mut bytes = Vec::new();
    footer(samples::summary(0x100, 0x200)).encode(&samples::header(0x100), &mut bytes).unwrap();
    bytes.truncate(bytes.len() - 16);
    change(&mut bytes);
    let whole = bytes.len() as u32 + 16;
    bytes[4..8].copy_from_slice(&(whole - 8).to_le_bytes());
    let crc = crc32c(&bytes);
    for field in [&crc.to_le_bytes()[..], &whole.to_le_bytes(), FOOTER_MAGIC] {
        bytes.extend_from_slice(field);
    }
    Footer::decode(&bytes).unwrap_err()
}

#[test]
fn a_newer_version_is_told_from_damage() {
    let error = forged(|bytes| bytes[8] = 2);
    assert_eq!(error.kind(), Kind::Config);
    assert_eq!(error.message(), "segment has format version 2, this pitr reads version 1");
}

#[test]
fn refuses_what_no_writer_writes_even_with_a_right_checksum() {
    let surplus = forged(|bytes| bytes.push(0));
    assert_eq!(surplus.message(), "footer has 1 bytes after its last field");
    let flags = forged(|bytes| bytes[10] |= 128);
    assert!(flags.message().contains("which version 1 never sets"), "{flags}");
    let raw_bytes = forged(|bytes| bytes[48] ^= 1);
    assert!(raw_bytes.message().starts_with("footer contradicts itself: 257 raw bytes"), "{raw_bytes}");
    for error in [surplus, flags, raw_bytes] {
        assert_eq!(error.kind(), Kind::Corruption);
    }
}

#[test]
fn a_count_of_restore_points_allocates_no_more_than_there_is() {
    let error = forged(|bytes| {
        let at = bytes.len() - (4 + 2 + "before the migration".len() + 16);
        bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    });
    assert_eq!(error.message(), "footer ends after 0 bytes where 2 were expected");
}

#[test]
fn changes_that_no_writer_writes_are_refused() {
    for (bytes, says) in [
        (&[2, 1][..], "a mark for more tables of 0x02"),
        (&[0, 0], "a number of tables of 0x00"),
        (&[0, 65], "a number of tables of 0x41"),
        (&[0, 1, 1, 0, b't', 64], "kinds of changes 0x40"),
        (&[0, 1, 1, 0, b't', 1, 0], "footer ends after 1 bytes where 8 were expected"),
        (&[0, 2, 1, 0, b't', 0], "footer ends after 0 bytes where 2 were expected"),
    ] {
        let error = forged(|footer| {
            footer[10] |= TABLES;
            footer.extend_from_slice(bytes);
        });
        assert_eq!(error.kind(), Kind::Corruption);
        assert!(error.message().contains(says), "{error}");
    }
}

#[test]
fn a_summary_that_contradicts_itself_is_not_written() {
    for (change, says) in [
        (|s: &mut Summary| s.range.end = s.range.start, "is empty"),
        (|s: &mut Summary| s.boundary = Offset(s.range.end.0 + 1), "lies past the end"),
        (|s: &mut Summary| s.times = Some((Timestamp(2), Timestamp(1))), "is later than latest"),
        (|s: &mut Summary| s.ids = Some((2, 1)), "is larger than largest"),
    ] as [(fn(&mut Summary), &str); 4]
    {
        let mut summary = samples::summary(0x100, 0x200);
        change(&mut summary);
        let error = footer(summary).encode(&samples::header(0x100), &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), Kind::Failure);
        assert!(error.message().contains(says), "{error}");
    }
}
