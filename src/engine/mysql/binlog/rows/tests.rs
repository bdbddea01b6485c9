use std::sync::Arc;

use proptest::prelude::*;

use super::*;

/// The columns of a row and, for each, whether it is null and how long it is if it may be any.
type Row = Vec<(Column, bool, usize)>;

fn columns() -> impl Strategy<Value = Column> {
    prop_oneof![
        (0_u16..20).prop_map(Column::Fixed),
        (1_u8..=4).prop_map(Column::Prefixed),
        Just(Column::Fixed(4)),
        Just(Column::Prefixed(1)),
    ]
}

fn table() -> impl Strategy<Value = Vec<Column>> {
    prop::collection::vec(columns(), 1..20)
}

/// As the servers write an image: bits beyond the last column are set.
fn image(columns: &[Column], seed: &mut u64, out: &mut Vec<u8>) {
    let mut random = || {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (*seed >> 33) as usize
    };
    let row: Row = columns.iter().map(|column| (*column, random() % 4 == 0, random() % 300)).collect();
    let mut nulls = vec![0xff_u8; columns.len().div_ceil(8)];
    for (nth, (_, is_null, _)) in row.iter().enumerate() {
        if !is_null {
            nulls[nth / 8] &= !(1 << (nth % 8));
        }
    }
    out.extend_from_slice(&nulls);
    for (column, is_null, length) in row {
        match column {
            _ if is_null => {}
            Column::Fixed(length) => out.resize(out.len() + usize::from(length), 7),
            Column::Prefixed(prefix) => {
                let length = if prefix == 1 { length % 256 } else { length };
                out.extend_from_slice(&length.to_le_bytes()[..usize::from(prefix)]);
                out.resize(out.len() + length, 9);
            }
            Column::Unknown => unreachable!(),
        }
    }
}

fn form(first: &[Column], second: Option<&[Column]>, partial: Option<usize>) -> Form {
    let image = |columns: &[Column]| Arc::new(Image::of(columns.iter().copied()).unwrap());
    Form { first: image(first), second: second.map(image), partial }
}

fn walked(form: &Form, bytes: &[u8], size: usize) -> Option<u64> {
    let mut walker = Walker::new(form.clone());
    bytes.chunks(size).for_each(|piece| walker.feed(piece));
    walker.finish()
}

proptest! {
    #[test]
    fn rows_are_counted_in_any_pieces(
        first in table(), second in prop::option::of(table()), partial in prop::option::of(0_usize..20),
        count in 0_u64..20, mut seed: u64, size in 1_usize..400,
    ) {
        let partial = partial.filter(|_| second.is_some());
        let mut bytes = Vec::new();
        for _ in 0..count {
            image(&first, &mut seed, &mut bytes);
            if let Some(second) = &second {
                match partial {
                    Some(json) if seed.is_multiple_of(2) => {
                        bytes.push(1);
                        bytes.resize(bytes.len() + json.div_ceil(8), 0x55);
                    }
                    Some(_) => bytes.push(0),
                    None => {}
                }
                image(second, &mut seed, &mut bytes);
            }
        }
        let form = form(&first, second.as_deref(), partial);
        prop_assert_eq!(form.count(&bytes), Some(count));
        prop_assert_eq!(walked(&form, &bytes, size), Some(count));
        // What is cut off is no row, and may be all of it.
        if let Some(cut) = bytes.len().checked_sub(1) {
            let left = form.count(&bytes[..cut]);
            prop_assert!(left.is_none() || left == Some(count - 1));
            prop_assert_eq!(walked(&form, &bytes[..cut], size), left);
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic_and_alike_in_any_pieces(
        first in table(), second in prop::option::of(table()), partial in prop::option::of(0_usize..20),
        bytes in prop::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 0..400), size in 1_usize..50,
    ) {
        let form = form(&first, second.as_deref(), partial.filter(|_| second.is_some()));
        prop_assert_eq!(form.count(&bytes), walked(&form, &bytes, size));
        for event in 0..=255 {
            if let Some(held) = Held::of(event) {
                let _ = Head::parse(held, &bytes);
            }
        }
    }
}

#[test]
fn rows_without_bytes_are_not_counted() {
    let form = form(&[], None, None);
    assert_eq!(form.count(&[]), None);
    assert_eq!(walked(&form, &[1, 2, 3], 2), None);
}

#[test]
fn a_head_tells_table_and_columns() {
    let v1 = Held::of(kind::UPDATE_ROWS_V1).unwrap();
    let head = Head::parse(v1, b"\x05\0\0\0\0\0\x01\0\x09\xff\x01\x03\x00rows").unwrap();
    assert_eq!((head.table, head.columns, head.images, head.rows), (5, 9, &b"\xff\x01\x03\x00"[..], &b"rows"[..]));
    let v2 = Held::of(kind::WRITE_ROWS).unwrap();
    let head = Head::parse(v2, b"\x05\0\0\0\0\x01\x01\0\x05\0xyz\x09\xff\x01rows").unwrap();
    assert_eq!((head.table, head.columns, head.rows), (5 | 1 << 40, 9, &b"rows"[..]));
    assert!(Head::parse(v2, b"\x05\0\0\0\0\x01\x01\0\x01\0xyz").is_none());
    assert_eq!(Held::of(kind::XID), None);
}
