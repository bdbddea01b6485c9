//! Binlog as the archive keeps it: the scanner and the files taken out of it.
#![no_main]

#[path = "../events.rs"]
mod events;

use libfuzzer_sys::fuzz_target;
use pitr::engine::mysql::binlog::{BinlogScanner, unpack::Unpacker};
use pitr::engine::mysql::flavor::Flavor;
use pitr::engine::{Detail, Scanner as _};
use pitr::model::offset::Offset;

fuzz_target!(|data: &[u8]| {
    read(data);
    read(&events::sealed(data));
});

fn read(data: &[u8]) {
    for flavor in [Flavor::MySql, Flavor::MariaDb] {
        let mut scanner = BinlogScanner::new(flavor, Offset(1), Detail::Records);
        let mut marks = Vec::new();
        let _ = scanner.feed(data, &mut marks);
        assert!(scanner.boundary() <= scanner.offset());
        let mut in_parts = BinlogScanner::new(flavor, Offset(1), Detail::Records);
        let mut told = Vec::new();
        if data.chunks(7).all(|piece| in_parts.feed(piece, &mut told).is_ok()) {
            assert_eq!(marks, told);
        }
    }
    let mut unpacker = Unpacker::new(|_, _, _| false);
    let _ = unpacker.feed(data, &mut |_| Ok(()));
}
