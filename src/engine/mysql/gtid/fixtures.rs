//! The captured binary logs in `proto-fixtures/{mysql/9.7,mariadb/10.11}/gtid`, for tests.

use std::path::PathBuf;

use crate::engine::mysql::binlog::event::{CHECKSUM_BYTES, HEADER_BYTES, Header, MAGIC, is_sound};

/// A file of a case, e.g. `mysql/9.7/gtid/tagged/gtid_executed.txt`.
pub(crate) fn file(path: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("proto-fixtures").join(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A text file of a case, without the line end that the capturing client wrote.
pub(crate) fn text(path: &str) -> String {
    String::from_utf8(file(path)).unwrap().trim_end().to_owned()
}

/// The events of a case's binary log: header, and what is between it and the checksum.
pub(crate) fn events(case: &str) -> Vec<(Header, Vec<u8>)> {
    let log = file(&format!("{case}/binlog"));
    let mut rest = log.strip_prefix(&MAGIC).unwrap();
    let mut events = Vec::new();
    while !rest.is_empty() {
        let header = Header::parse(rest).unwrap();
        let (event, after) = rest.split_at(header.length as usize);
        assert!(is_sound(event), "{case}: {header:?}");
        events.push((header, event[HEADER_BYTES..event.len() - CHECKSUM_BYTES].to_vec()));
        rest = after;
    }
    events
}
