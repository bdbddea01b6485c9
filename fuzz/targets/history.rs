//! Timeline history files and names of the server's files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr::engine::LogFiles;
use pitr::engine::postgres::files::PostgresLogFiles;
use pitr::model::cluster::Identity;
use pitr::model::timeline::TimelineId;

fuzz_target!(|text: &str| {
    let identity = Identity {
        format_version: 1,
        engine: "postgres".into(),
        system: "1".into(),
        log_file_bytes: 16 << 20,
        server_version: 15,
        encryption: None,
    };
    let files = PostgresLogFiles::new(&identity);
    let _ = files.parse_history(TimelineId(7), text);
    let _ = files.parse(text);
});
