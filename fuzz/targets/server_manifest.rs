//! The server's own backup manifest.
#![no_main]

use std::collections::HashMap;

use libfuzzer_sys::fuzz_target;
use pitr::engine::postgres::base::server_manifest;

fuzz_target!(|data: &[u8]| {
    let _ = server_manifest::check(data, &HashMap::new());
});
