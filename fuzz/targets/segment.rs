//! Segments: whatever lies in the store under a segment's name.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pitr::model::cluster::ClusterName;
use pitr::model::offset::{Offset, OffsetRange};
use pitr::model::timeline::TimelineId;
use pitr::segment::format::{Footer, Header};
use pitr::segment::read::{Expected, decode_to_vec, read_footer};

fuzz_target!(|data: &[u8]| {
    let _ = Header::decode(data);
    let _ = Footer::decode(data);
    let Ok(cluster) = "main".parse::<ClusterName>() else { return };
    let expected = Expected {
        cluster,
        timeline: TimelineId(1),
        range: OffsetRange { start: Offset(0x100_0000), end: Offset(0x100_1000) },
        epoch: 1,
    };
    let _ = read_footer("object", &expected, data);
    if let Ok((_, raw)) = decode_to_vec("object", &expected, &Bytes::copy_from_slice(data)) {
        assert_eq!(raw.len(), 0x1000);
    }
});
