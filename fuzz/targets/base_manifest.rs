//! Manifests of base backups: what decodes, encodes to the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr::base::manifest::{Manifest, check_path};

fuzz_target!(|data: &[u8]| {
    if let Ok(manifest) = Manifest::decode("manifest", data) {
        for file in &manifest.files {
            check_path(&file.path).expect("a decoded manifest names only safe paths");
        }
        let again = manifest.encode().expect("what decodes encodes");
        Manifest::decode("manifest", &again).expect("and decodes again");
    }
});
