use proptest::prelude::*;

use super::*;
use crate::engine::mysql::binlog::counter::Counter;
use crate::model::changes::TableChanges;

fn map(id: u8, table: &str) -> Vec<u8> {
    let mut map = vec![id, 0, 0, 0, 0, 0, 1, 0, 4];
    map.extend_from_slice(b"shop\0");
    map.push(table.len() as u8);
    map.extend_from_slice(table.as_bytes());
    // INT, VARCHAR(300)
    map.extend_from_slice(b"\0\x02\x03\x0f\x02\x2c\x01\x03");
    map
}

/// So many rows of seven bytes.
fn rows(id: u8, count: usize) -> Vec<u8> {
    [&[id, 0, 0, 0, 0, 0, 1, 0, 2, 3][..], &b"\xfc\x07\0\0\0\0\0".repeat(count)].concat()
}

fn query(schema: &str, text: &str) -> Vec<u8> {
    let mut body = vec![0; 13];
    body[8] = schema.len() as u8;
    [&body, schema.as_bytes(), b"\0", text.as_bytes()].concat()
}

fn told(changes: &Changes) -> Vec<(String, [u64; 6])> {
    let counts = |of: &TableChanges| ChangeKind::ALL.map(|kind| of.counts.get(kind));
    changes.tables.iter().map(|of| (of.table.to_string(), counts(of))).collect()
}

#[test]
fn what_transactions_did_is_told_once_they_have_ended() {
    let mut tally = Tally::new();
    tally.whole(kind::TABLE_MAP, &map(1, "orders"));
    tally.whole(kind::WRITE_ROWS_V1, &rows(1, 3));
    tally.whole(kind::DELETE_ROWS_V1, &rows(1, 2));
    assert!(tally.take().is_empty(), "it has not ended");
    tally.end_transaction(true);
    tally.whole(kind::WRITE_ROWS_V1, &rows(1, 100));
    tally.end_transaction(false);
    tally.whole(kind::QUERY, &query("shop", "DROP TABLE items, other.orders"));
    tally.whole(kind::QUERY, &query("shop", "COMMIT"));
    tally.end_transaction(true);
    let expected =
        [("shop.items", [0, 0, 0, 0, 1, 0]), ("other.orders", [0, 0, 0, 0, 1, 0]), ("shop.orders", [3, 0, 2, 0, 0, 0])];
    let changes = tally.take();
    assert_eq!(told(&changes), expected.map(|(table, counts)| (table.to_owned(), counts)));
    assert!(!changes.more && tally.take().is_empty());
}

#[test]
fn rows_that_cannot_be_read_are_told_and_not_taken_for_none() {
    let mut tally = Tally::new();
    tally.whole(kind::WRITE_ROWS_V1, &rows(9, 1));
    tally.end_transaction(true);
    assert!(tally.take().more, "of a table that nothing tells of");
    tally.whole(kind::TABLE_MAP, &map(1, "orders"));
    tally.whole(kind::WRITE_ROWS_V1, &rows(1, 1)[..16]);
    tally.end_transaction(true);
    assert_eq!(told(&tally.take()), [("shop.orders".to_owned(), [0, 0, 0, 0, 0, 1])]);
    // The id is another table's now, of which nothing can be read but the name.
    let mut unknown = map(1, "items");
    let types = unknown.len() - 6;
    unknown[types] = 200;
    tally.whole(kind::TABLE_MAP, &unknown);
    tally.whole(kind::WRITE_ROWS_V1, &rows(1, 1));
    tally.end_transaction(true);
    assert_eq!(told(&tally.take()), [("shop.items".to_owned(), [0, 0, 0, 0, 0, 1])]);
    tally.whole(kind::WRITE_ROWS_V1, b"\xff\xff\xff\0\0\0\x01\0\x01\x01");
    tally.end_transaction(true);
    assert!(tally.take().is_empty(), "the end of a statement");
}

#[test]
fn more_tables_than_are_remembered_lose_nothing() {
    let mut tally = Tally::new();
    for n in 0..TABLES_MAX + 50 {
        let mut of = map(n as u8, &format!("t{}", n % 60));
        let mut some = rows(n as u8, 2);
        (of[1], some[1]) = ((n >> 8) as u8, (n >> 8) as u8);
        tally.whole(kind::TABLE_MAP, &of);
        tally.whole(kind::UPDATE_ROWS_V1, &[&some[..9], b"\x03\x03", &some[10..]].concat());
    }
    assert_eq!(tally.tables.len(), TABLES_MAX);
    tally.end_transaction(true);
    let changes = tally.take();
    assert_eq!(changes.tables.len(), 60);
    let rows: u64 = changes.tables.iter().map(|of| of.counts.get(ChangeKind::Update)).sum();
    assert_eq!((rows, changes.more), ((TABLES_MAX + 50) as u64, false));
}

proptest! {
    #[test]
    fn any_events_are_taken_without_a_panic_and_alike_in_any_pieces(
        events in prop::collection::vec((
            prop_oneof![Just(19_u8), Just(40), 19..45_u8, 160..175_u8],
            prop::collection::vec(prop_oneof![Just(0_u8), Just(1), any::<u8>()], 0..120),
        ), 0..8),
        size in 1_usize..40,
        first in 0_usize..40,
    ) {
        let (mut whole, mut parts) = (Counter::new(), Counter::new());
        for counter in [&mut whole, &mut parts] {
            counter.whole(kind::TABLE_MAP, &map(1, "orders"));
        }
        for (event, content) in &events {
            whole.whole(*event, content);
            if Counter::wants_parts(*event) && content.len() > 70 + first {
                parts.begin(*event, &content[..70 + first]);
                content[70 + first..].chunks(size).for_each(|piece| parts.more(piece));
                parts.end();
            } else {
                parts.whole(*event, content);
            }
        }
        whole.end_transaction(true);
        parts.end_transaction(true);
        let (whole, parts) = (whole.take(), parts.take());
        // What is told before the rows may be all that was at hand.
        if !events.iter().any(|(event, _)| *event == 40) {
            prop_assert_eq!(whole, parts);
        }
    }
}
