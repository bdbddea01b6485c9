//! The log itself, cut into any pieces: the pieces must not matter.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr::engine::postgres::wal::WalScanner;
use pitr::engine::{Detail, ScanStart, Scanner};
use pitr::model::cluster::Identity;
use pitr::model::offset::Offset;
use pitr::model::timeline::TimelineId;

const FILE_BYTES: u64 = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, data)) = data.split_first() else { return };
    // Place, timeline and system identifier are taken from the first page's header
    // (xlp_tli at 4, xlp_pageaddr at 8, xlp_sysid at 24), so that the checks of identity
    // do not end every run at its first bytes.
    let field = |at: usize| data.get(at..at + 8).map_or(0, |b| u64::from_le_bytes(b.try_into().unwrap()));
    let (timeline, start, system) = (field(4) as u32, field(8) & 0xFF_FFF0_0000, field(24));
    let identity = Identity {
        format_version: 1,
        engine: "postgres".into(),
        system: system.to_string(),
        log_file_bytes: FILE_BYTES,
        server_version: 15,
        encryption: None,
    };
    let scan = |piece: usize| {
        let mut scanner =
            WalScanner::new(&identity, TimelineId(timeline), ScanStart::LogFile(Offset(start)), Detail::Records);
        let mut marks = Vec::new();
        let failed = data.chunks(piece.max(1)).any(|bytes| scanner.feed(bytes, &mut marks).is_err());
        (failed, scanner.boundary(), marks)
    };
    let (failed, boundary, marks) = scan(data.len());
    assert!(boundary.0 >= start && boundary.0 <= start + data.len() as u64);
    assert!(marks.windows(2).all(|two| two[0].end <= two[1].start.max(two[0].end)));
    let (failed_in_pieces, boundary_in_pieces, marks_in_pieces) = scan(usize::from(cut));
    assert_eq!((failed, boundary), (failed_in_pieces, boundary_in_pieces));
    assert_eq!(marks, marks_in_pieces);
});
