//! The content of GTID events; the first byte is the event's type.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr::engine::mysql::binlog::gtid_event::GtidEvent;
use pitr::engine::mysql::gtid::Gtid;

fuzz_target!(|data: &[u8]| {
    let Some((&kind, content)) = data.split_first() else { return };
    if let Ok(Some(GtidEvent { gtid: Some(gtid), .. })) = GtidEvent::decode(kind, 7, content) {
        assert_eq!(gtid.to_string().parse::<Gtid>().unwrap(), gtid);
    }
});
