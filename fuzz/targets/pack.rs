//! Packs of chunks.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr::base::pack::{Entry, Footer, walk};

fuzz_target!(|data: &[u8]| {
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
});
