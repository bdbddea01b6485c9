//! The server's own backup manifest.
#![no_main]

use std::collections::HashMap;
use std::fmt::Write;

use libfuzzer_sys::fuzz_target;
use pitr::engine::postgres::base::server_manifest;
use sha2::{Digest, Sha256};

/// Bytes of the last line, the manifest's own hash.
const SEAL_BYTES: usize = "\"Manifest-Checksum\": \"\"}\n".len() + 64;

fuzz_target!(|data: &[u8]| {
    let _ = server_manifest::check(data, &HashMap::new());
    // No mutation finds a hash, so give what comes the right one.
    let body = data.get(..data.len().saturating_sub(SEAL_BYTES)).unwrap_or_default();
    let hash = Sha256::digest(body).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    let sealed = [body, format!("\"Manifest-Checksum\": \"{hash}\"}}\n").as_bytes()].concat();
    let _ = server_manifest::check(&sealed, &HashMap::new());
});
