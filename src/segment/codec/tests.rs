use proptest::prelude::*;

use super::*;
use crate::segment::samples;

fn frame(compression: Compression, slices: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(compression, &mut out).unwrap();
    for slice in slices {
        encoder.write(slice, &mut out).unwrap();
    }
    encoder.finish(&mut out).unwrap();
    out
}

fn raw(frame: &[u8], limit: usize) -> Result<Vec<u8>> {
    let mut raw = Vec::new();
    decode(frame, limit as u64, &mut |piece| {
        assert!(piece.len() <= 256 << 10);
        raw.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(raw)
}

const ALL: [Compression; 3] = [Compression::Lz4, Compression::ZstdFast, Compression::Zstd(1)];

#[test]
fn compression_reads_as_it_prints() {
    for (text, is, prints) in [
        ("lz4", Compression::Lz4, "lz4"),
        ("zstd:fast", Compression::ZstdFast, "zstd:fast"),
        ("zstd", Compression::Zstd(1), "zstd:1"),
        ("zstd:19", Compression::Zstd(19), "zstd:19"),
    ] {
        assert_eq!(text.parse::<Compression>().unwrap(), is);
        assert_eq!(is.to_string(), prints);
    }
    for text in ["", "gzip", "lz4:1", "zstd:", "zstd:0", "zstd:20", "zstd:x"] {
        assert_eq!(text.parse::<Compression>().unwrap_err().kind(), crate::Kind::Usage, "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_log_in_any_slices_comes_back(
        len in 0..700_000_usize, seed in any::<u64>(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let log = samples::log(len, seed);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(len + 1)).chain([0, len]).collect();
        cuts.sort_unstable();
        let slices: Vec<_> = cuts.windows(2).map(|pair| &log[pair[0]..pair[1]]).collect();
        for compression in ALL {
            prop_assert!(raw(&frame(compression, &slices), len).unwrap() == log, "{compression}");
        }
    }
}

#[test]
fn bytes_that_do_not_compress_grow_by_four_per_block() {
    let noise: Vec<u8> = {
        use rand::{RngCore, SeedableRng};
        let mut noise = vec![0; 300 << 10];
        rand::rngs::StdRng::seed_from_u64(1).fill_bytes(&mut noise);
        noise
    };
    let frame = frame(Compression::Lz4, &[&noise]);
    assert_eq!(frame.len(), 7 + 4 + (256 << 10) + 4 + (44 << 10) + 4);
    assert_eq!(raw(&frame, noise.len()).unwrap(), noise);
}

/// The trap of `lz4_flex::frame::FrameDecoder` 0.14: a frame cut between two blocks
/// reads as a clean end.
#[test]
fn refuses_a_frame_cut_at_a_block_boundary() {
    let block = samples::log(256 << 10, 2);
    let (one, two) = (frame(Compression::Lz4, &[&block]), frame(Compression::Lz4, &[&block, &block]));
    let cut = &two[..one.len() - 4];
    assert_eq!(raw(cut, block.len()).unwrap_err().message(), "LZ4 frame has no end mark");
}

#[test]
fn refuses_bytes_after_the_frame_more_output_than_counted_and_less() {
    let log = samples::log(100_000, 3);
    for compression in ALL {
        let mut frame = frame(compression, &[&log]);
        assert!(raw(&frame, log.len() - 1).unwrap_err().message().contains("longer than 99999 bytes"));
        assert!(raw(&frame, log.len() + 1).unwrap_err().message().contains("its footer counts 100001"));
        frame.push(0);
        assert!(raw(&frame, log.len()).unwrap_err().message().contains("has 1 bytes after its end"), "{compression}");
    }
}

#[test]
fn refuses_every_cut_of_a_frame() {
    let log = samples::log(3000, 4);
    for compression in ALL {
        let frame = frame(compression, &[&log]);
        for len in 0..frame.len() {
            assert_eq!(
                raw(&frame[..len], log.len()).unwrap_err().kind(),
                crate::Kind::Corruption,
                "{compression} {len}"
            );
        }
    }
}

proptest! {
    #[test]
    fn noise_in_a_frame_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..400), which in 0..3) {
        let start: &[u8] = match which {
            0 => &[0x04, 0x22, 0x4D, 0x18, 0x60, 0x50, 0xFB],
            1 => &[0x28, 0xB5, 0x2F, 0xFD],
            _ => &[],
        };
        bytes.splice(0..0, start.iter().copied());
        let _ = raw(&bytes, 1 << 20);
    }
}
