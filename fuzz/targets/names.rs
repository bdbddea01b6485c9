//! Object names: one name, one value, and back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr::catalog::layout::Layout;
use pitr::model::cluster::ClusterName;

fuzz_target!(|text: &str| {
    let _ = text.parse::<ClusterName>();
    let Ok(cluster) = "main".parse::<ClusterName>() else { return };
    let layout = Layout::new(cluster);
    for name in [text.to_owned(), format!("main/{text}"), format!("main/log/00000001/{text}")] {
        if let Some(object) = layout.parse(&name) {
            assert_eq!(layout.name(&object), name);
        }
    }
});
