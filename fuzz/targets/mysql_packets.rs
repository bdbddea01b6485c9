//! A dump's packets: whatever a source sends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr::engine::mysql::connect::packet::Unframer;
use pitr::engine::mysql::flavor::Flavor;
use pitr::engine::mysql::gtid::GtidSet;
use pitr::engine::mysql::place::Place;
use pitr::engine::mysql::source::intake::Intake;
use pitr::model::offset::Offset;

fuzz_target!(|data: &[u8]| {
    for flavor in [Flavor::MySql, Flavor::MariaDb] {
        let place = Place {
            gtids: GtidSet::empty(flavor),
            server: "s".into(),
            file: "b.000001".into(),
            position: 4,
            after: None,
            holding: 0,
        };
        let mut intake = Intake::new(flavor, "s", Offset(1), place);
        let (mut unframer, mut input) = (Unframer::new(1), data);
        while let Ok(Some(piece)) = unframer.next(&mut input) {
            if intake.take(piece).is_err() {
                break;
            }
        }
        intake.flush();
        while intake.pop().is_some() {}
    }
});
