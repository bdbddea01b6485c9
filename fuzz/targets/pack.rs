//! Packs of chunks.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr::base::pack::{Entry, Footer, walk};

/// Where an entry keeps its checksum: a whole chunk's, and a delta's.
const SUM_AT: [usize; 2] = [44, 92];

fuzz_target!(|data: &[u8]| {
    read(data);
    // No mutation finds a checksum, so take what comes for an entry and give it the
    // right one.
    for at in SUM_AT {
        let (Some(fields), Some(payload)) = (data.get(..at), data.get(at + 4..)) else { break };
        let sum = crc_fast::crc32_iscsi(&[fields, payload].concat());
        read(&[fields, &sum.to_le_bytes(), payload].concat());
    }
});

fn read(data: &[u8]) {
    let mut raw = Vec::new();
    let _ = walk("pack", data, |_, entry| {
        raw.clear();
        entry.unpack("pack", &mut raw)
    });
    let _ = Footer::parse("pack", data);
    if let Ok(entry) = Entry::parse("pack", data) {
        raw.clear();
        let _ = entry.unpack("pack", &mut raw);
        assert!(raw.len() <= 1 << 20);
    }
}
