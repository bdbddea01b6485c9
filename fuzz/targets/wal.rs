//! The log itself, cut into any pieces: the pieces must not matter.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr::engine::postgres::wal::WalScanner;
use pitr::engine::{Detail, ScanStart, Scanner};
use pitr::model::cluster::Identity;
use pitr::model::offset::Offset;
use pitr::model::timeline::TimelineId;

const START: u64 = 0x100_0000;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, data)) = data.split_first() else { return };
    // The system identifier of the page header, when there is one, so that the check of
    // identity does not end every run.
    let system = data.get(24..32).map_or(0, |b| u64::from_le_bytes(b.try_into().unwrap()));
    let identity = Identity {
        format_version: 1,
        engine: "postgres".into(),
        system: system.to_string(),
        log_file_bytes: 1 << 20,
        server_version: 15,
    };
    let scan = |piece: usize| {
        let mut scanner =
            WalScanner::new(&identity, TimelineId(1), ScanStart::LogFile(Offset(START)), Detail::Records);
        let mut marks = Vec::new();
        let failed = data.chunks(piece.max(1)).any(|bytes| scanner.feed(bytes, &mut marks).is_err());
        (failed, scanner.boundary(), marks)
    };
    let (failed, boundary, marks) = scan(data.len());
    assert!(boundary.0 >= START && boundary.0 <= START + data.len() as u64);
    assert!(marks.windows(2).all(|two| two[0].end <= two[1].start.max(two[0].end)));
    let (failed_in_pieces, boundary_in_pieces, marks_in_pieces) = scan(usize::from(cut));
    assert_eq!((failed, boundary), (failed_in_pieces, boundary_in_pieces));
    assert_eq!(marks, marks_in_pieces);
});
