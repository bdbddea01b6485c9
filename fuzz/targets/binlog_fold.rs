//! MariaDB's transactions folded into larger ones, whole and in pieces. The first byte tells whether
//! events carry checksums, what the tables are, and how the rest is cut.
#![no_main]

#[path = "../events.rs"]
mod events;

use events::{events, sealed};
use libfuzzer_sys::fuzz_target;
use pitr::engine::mysql::binlog::event::{self, CHECKSUM_BYTES, HEADER_BYTES, kind};
use pitr::engine::mysql::binlog::fold::{Folded, Folder, Tables};

/// Where a table map and rows name their table.
const ID_END: usize = HEADER_BYTES + 6;

fuzz_target!(|data: &[u8]| {
    let Some((&how, log)) = data.split_first() else { return };
    let checksums = how & 1 != 0;
    let tables = [Tables::Plain, Tables::Cascading, Tables::Versioned, Tables::Plain][usize::from(how >> 1 & 3)];
    let log = if checksums { sealed(log) } else { log.to_vec() };
    let piece = 1 + usize::from(how >> 3).pow(2);
    let (whole, parts) =
        (folded(tables, checksums, log.chunks(log.len().max(1))), folded(tables, checksums, log.chunks(piece)));
    assert_eq!(whole.is_none(), parts.is_none());
    let (Some((out, left_out)), Some(parts)) = (whole, parts) else { return };
    assert!(parts == (out.clone(), left_out.clone()), "the pieces matter");
    assert_eq!(out.len() as u64 + left_out.iter().map(|(_, bytes)| bytes).sum::<u64>(), log.len() as u64);
    assert!(tables != Tables::Versioned || out == log);
    assert!(meaning(&out, checksums) == meaning(&log, checksums), "the log says something else");
    let is_sealed = |event: &[u8]| event.len() < HEADER_BYTES + CHECKSUM_BYTES || event::is_sound(event);
    assert!(!checksums || events(&out).0.into_iter().all(is_sealed));
});

/// The log that comes out, and where in it how much is left out; none for what is no log.
fn folded<'a>(
    tables: Tables,
    checksums: bool,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Option<(Vec<u8>, Vec<(usize, u64)>)> {
    let (mut out, mut left_out) = (Vec::new(), Vec::new());
    let mut give = |folded: Folded<'_>| match folded {
        Folded::Log(bytes) => out.extend_from_slice(bytes),
        Folded::LeftOut(bytes) => left_out.push((out.len(), bytes)),
    };
    let mut folder = Folder::new(tables);
    folder.begin_file(checksums, &mut give);
    for piece in pieces {
        folder.feed(piece, &mut give).ok()?;
    }
    folder.flush(&mut give);
    Some((out, left_out))
}

/// What folding may not change: all rows, each with its table; the last name; other events.
fn meaning(log: &[u8], checksums: bool) -> Vec<Vec<u8>> {
    let (events, rest) = events(log);
    let content = |event: &[u8]| {
        let end = event.len() - if checksums { CHECKSUM_BYTES } else { 0 };
        event.get(HEADER_BYTES..end).unwrap_or_default().to_vec()
    };
    let (mut said, mut maps, mut name) = (Vec::new(), Vec::new(), Vec::new());
    for event in events {
        match event[4] {
            kind::MARIADB_GTID => {
                maps.clear();
                name = content(event);
            }
            kind::TABLE_MAP => maps.push(event),
            kind::ANNOTATE_ROWS => {}
            of @ (kind::WRITE_ROWS_V1..=kind::DELETE_ROWS_V1
            | kind::WRITE_ROWS_COMPRESSED_V1..=kind::DELETE_ROWS_COMPRESSED_V1) => {
                let of_it = |map: &&&[u8]| map.get(HEADER_BYTES..ID_END) == event.get(HEADER_BYTES..ID_END);
                let mut rows = content(event);
                // The statement's end.
                rows.get_mut(6).into_iter().for_each(|flags| *flags &= !1);
                said.push([vec![of], rows, maps.iter().rfind(of_it).map_or(vec![], |map| content(map))].concat());
            }
            of => {
                // Names and ends of those between are what is left out.
                said.extend((of != kind::XID).then(|| event.to_vec()));
                maps.clear();
            }
        }
    }
    said.extend([name, rest.to_vec()]);
    said
}
