//! The streams of mariadb-backup and xtrabackup, cut into any pieces: the pieces must not matter.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pitr::engine::mysql::base::mbstream::{Item, StreamReader};

fuzz_target!(|data: &[u8]| {
    let Some((&cut, data)) = data.split_first() else { return };
    let read = |piece: usize| {
        let mut reader = StreamReader::new();
        let (mut items, mut content) = (0_usize, 0_usize);
        let failed = data.chunks(piece.max(1)).any(|bytes| {
            reader
                .feed(Bytes::copy_from_slice(bytes), |item| {
                    match item {
                        Item::Data { bytes, .. } => content += bytes.len(),
                        Item::Hole { .. } | Item::End { .. } => items += 1,
                    }
                    Ok(())
                })
                .is_err()
        });
        (failed || reader.finish().is_err(), items, content)
    };
    assert!(read(data.len()).2 <= data.len());
    assert_eq!(read(data.len()), read(usize::from(cut)));
});
