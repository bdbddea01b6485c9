//! Manifests of base backups: what decodes, encodes to the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr::base::chunk::ChunkHash;
use pitr::base::manifest::{Manifest, check_path};

/// Bytes of the last two lines, the manifest's own hash.
const SEAL_BYTES: usize = "\"blake3\": \"\"\n}\n".len() + 64;

fuzz_target!(|data: &[u8]| {
    let _ = Manifest::decode("manifest", data);
    // No mutation finds a hash, so give what comes the right one.
    let body = data.get(..data.len().saturating_sub(SEAL_BYTES)).unwrap_or_default();
    let sealed = [body, format!("\"blake3\": \"{}\"\n}}\n", ChunkHash::of(body)).as_bytes()].concat();
    if let Ok(manifest) = Manifest::decode("manifest", &sealed) {
        for file in &manifest.files {
            check_path(&file.path).expect("a decoded manifest names only safe paths");
        }
        let again = manifest.encode().expect("what decodes encodes");
        assert_eq!(Manifest::decode("manifest", &again).expect("and decodes again"), manifest);
    }
});
