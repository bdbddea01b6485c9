//! Segments: whatever lies in the store under a segment's name.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pitr::model::cluster::ClusterName;
use pitr::model::offset::{Offset, OffsetRange};
use pitr::model::timeline::TimelineId;
use pitr::segment::format::{Footer, Header};
use pitr::segment::read::{Expected, decode_to_vec, read_footer};

/// A skippable frame's magic and length.
const FRAME_HEAD_BYTES: usize = 8;
/// Behind the footer's own checksum: its length and a magic.
const TRAILER_BYTES: usize = 12;
/// Where the footer of a cluster with a name of four letters keeps the checksum of the
/// compressed bytes (docs/format.md).
const STORED_CRC_AT: usize = 60;

/// The same bytes with every checksum right, which no mutation finds: of the header, of
/// what is compressed, of the footer.
fn sealed(data: &[u8]) -> Option<Vec<u8>> {
    let mut out = data.to_vec();
    let field = |at: usize| Some(u32::from_le_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?) as usize);
    let header = FRAME_HEAD_BYTES.checked_add(field(4)?)?;
    let trailer = data.len().checked_sub(TRAILER_BYTES)?;
    let footer = data.len().checked_sub(field(trailer)?)?;
    let sums = [
        (0..header.checked_sub(4)?, header - 4),
        (header..footer, footer.checked_add(STORED_CRC_AT)?),
        (footer..trailer.checked_sub(4)?, trailer - 4),
    ];
    for (covered, at) in sums {
        let sum = crc_fast::crc32_iscsi(out.get(covered)?);
        out.get_mut(at..at.checked_add(4)?)?.copy_from_slice(&sum.to_le_bytes());
    }
    Some(out)
}

fuzz_target!(|data: &[u8]| {
    read(data);
    if let Some(sealed) = sealed(data) {
        read(&sealed);
    }
});

fn read(data: &[u8]) {
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
}
