use super::*;
use crate::model::offset::Offset;
use crate::segment::codec::Compression;
use crate::segment::samples::{self, NAME};

const ALL: [Compression; 3] = [Compression::Lz4, Compression::ZstdFast, Compression::Zstd(1)];

#[test]
fn a_segment_comes_back_with_its_footer() {
    for compression in ALL {
        for len in [1, 100, 65_536, 600_000] {
            let log = samples::log(len, 1);
            let (object, expected) = samples::segment(0x2_0000, &log, compression);
            let (footer, raw) = decode_to_vec(NAME, &expected, &object).unwrap();
            assert!(raw == log, "{compression} {len}");
            assert_eq!(footer.summary, samples::summary(0x2_0000, 0x2_0000 + len as u64));
            assert_eq!(footer.raw_bytes, len as u64);
            assert_eq!(read_footer(NAME, &expected, &object).unwrap(), FooterRead::Done(Box::new(footer)));
        }
    }
}

#[test]
fn a_footer_larger_than_what_was_read_asks_for_exactly_itself() {
    let (object, expected) = samples::segment(0, &samples::log(5000, 1), Compression::Lz4);
    let FooterRead::More(need) = read_footer(NAME, &expected, &object[object.len() - 12..]).unwrap() else {
        panic!("12 bytes are no footer")
    };
    let from = object.len() - need as usize;
    assert!(
        matches!(read_footer(NAME, &expected, &object[from + 1..]).unwrap(), FooterRead::More(again) if again == need)
    );
    assert!(matches!(read_footer(NAME, &expected, &object[from..]).unwrap(), FooterRead::Done(_)));
}

fn refused(expected: &Expected, object: &[u8], what: &str) {
    let error = decode(NAME, expected, &Bytes::copy_from_slice(object), &mut |_| Ok(()))
        .expect_err(&format!("{what} was taken for sound"));
    assert_eq!(error.kind(), Kind::Corruption, "{what}: {error}");
    assert!(error.message().contains(NAME), "{what}: {error}");
    assert!(error.advice().is_some(), "{what}: {error}");
}

#[test]
fn refuses_an_object_cut_at_any_length() {
    for compression in ALL {
        let (object, expected) = samples::segment(0x30, &samples::log(2500, 1), compression);
        for len in 0..object.len() {
            refused(&expected, &object[..len], &format!("{compression} cut to {len}"));
            refused(&expected, &object[object.len() - len..], &format!("{compression} last {len}"));
        }
    }
}

#[test]
fn refuses_a_flipped_bit_in_any_byte() {
    for compression in ALL {
        let (object, expected) = samples::segment(0x30, &samples::log(1200, 1), compression);
        let mut object = object.to_vec();
        for at in 0..object.len() {
            for bit in 0..8 {
                object[at] ^= 1 << bit;
                refused(&expected, &object, &format!("{compression} byte {at} bit {bit}"));
                object[at] ^= 1 << bit;
            }
        }
    }
}

#[test]
fn refuses_bytes_before_between_and_after() {
    let (object, expected) = samples::segment(0x30, &samples::log(1200, 1), Compression::Lz4);
    for at in 0..=object.len() {
        let mut longer = object.to_vec();
        longer.insert(at, 0);
        refused(&expected, &longer, &format!("a byte put in at {at}"));
    }
}

/// The log of one segment with the footer of another of the same name.
#[test]
fn refuses_a_segment_put_together_from_two() {
    let (one, expected) = samples::segment(0x30, &samples::log(5000, 1), Compression::Lz4);
    let (two, _) = samples::segment(0x30, &samples::log(5000, 2), Compression::Lz4);
    let footer = |object: &Bytes| object.slice(object.len() - Footer::len(object).unwrap()..);
    let log = |object: &Bytes| object.slice(..object.len() - footer(object).len());
    refused(&expected, &[log(&one), footer(&two)].concat(), "a patchwork");
    decode(NAME, &expected, &Bytes::from([log(&two), footer(&two)].concat()), &mut |_| Ok(())).unwrap();
}

#[test]
fn refuses_a_sound_segment_under_another_name() {
    let (object, right) = samples::segment(0x30, &samples::log(1200, 1), Compression::Lz4);
    type Change = fn(&mut Expected);
    let other: [(&str, Change); 5] = [
        ("cluster main, its name says test", |e| e.cluster = "test".parse().unwrap()),
        ("timeline 00000003, its name says 00000004", |e| e.timeline = TimelineId(4)),
        ("epoch 00000007, its name says 00000008", |e| e.epoch = 8),
        ("start 0000000000000030, its name says 0000000000000031", |e| e.range.start = Offset(0x31)),
        ("range 0000000000000030-00000000000004E0, its name says 0000000000000030-00000000000004E1", |e| {
            e.range.end = Offset(0x4E1);
        }),
    ];
    for (says, change) in other {
        let mut expected = right.clone();
        change(&mut expected);
        let error = decode(NAME, &expected, &object, &mut |_| Ok(())).unwrap_err();
        assert_eq!(error.kind(), Kind::Corruption);
        assert_eq!(error.message(), format!("segment {NAME} is refused: object holds {says}"));
        assert_eq!(read_footer(NAME, &expected, &object).unwrap_err().kind(), Kind::Corruption);
    }
}

#[test]
fn an_error_of_the_taker_comes_back_unchanged() {
    let (object, expected) = samples::segment(0, &samples::log(1200, 1), Compression::Lz4);
    let error = decode(NAME, &expected, &object, &mut |_| Err(Error::config("no room"))).unwrap_err();
    assert_eq!((error.kind(), error.message()), (Kind::Config, "no room"));
}
