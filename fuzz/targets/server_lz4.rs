//! The LZ4 frames in which a server compresses its archives.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pitr::engine::postgres::base::lz4_frame::FrameReader;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, data)) = data.split_first() else { return };
    let read = |piece: usize| {
        let mut reader = FrameReader::new();
        let mut out = Vec::new();
        for bytes in data.chunks(piece.max(1)) {
            reader
                .feed(Bytes::copy_from_slice(bytes), |bytes| {
                    out.extend_from_slice(&bytes);
                    Ok(())
                })
                .ok()?;
        }
        reader.finish().ok()?;
        Some(out)
    };
    assert_eq!(read(data.len()), read(usize::from(cut)));
});
