//! The tar archives in which a server sends its files.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pitr::engine::postgres::base::tar::TarReader;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, data)) = data.split_first() else { return };
    let read = |piece: usize| {
        let mut reader = TarReader::new();
        let mut events = 0_usize;
        let failed = data.chunks(piece.max(1)).any(|bytes| {
            reader
                .feed(Bytes::copy_from_slice(bytes), |event| {
                    events += usize::from(!matches!(event, pitr::engine::postgres::base::tar::TarEvent::Data(_)));
                    Ok(())
                })
                .is_err()
        });
        (failed || reader.finish().is_err(), events)
    };
    assert_eq!(read(data.len()), read(usize::from(cut)));
});
