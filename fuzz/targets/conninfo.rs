//! Connection strings: libpq's URIs and keyword strings.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr::engine::postgres::conninfo::ConnInfo;

fuzz_target!(|text: &str| {
    // No file is named by the environment, and strings that name one are left out, so
    // that a run depends on its input alone.
    if ["file", "service", "ssl"].iter().any(|word| text.contains(word)) {
        return;
    }
    if let Ok(info) = ConnInfo::resolve(text, &|_| None) {
        let _ = info.redacted();
    }
});
