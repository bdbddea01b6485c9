//! What the servers compressed, inflated piece by piece: bounded memory, and no more output
//! than was promised.

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

use super::table_map::take;

/// Room for output.
const PIECE: usize = 64 << 10;

/// No more is inflated of one event, whatever it promises: an event has at most a gibibyte, of
/// which little may make very much.
const INFLATED_BYTES_MAX: u64 = 4 << 30;

/// A window that levels 1 to 19 of zstd need at most, 8 MiB.
const WINDOW_LOG_MAX: u32 = 23;

/// Takes what is inflated.
pub(super) type Each<'e> = &'e mut dyn FnMut(&[u8]);

/// Either of the decoders. What it was told last it has understood if [`Inflater::is_sound`].
pub(super) struct Inflater {
    zlib: Option<Decompress>,
    zstd: Option<Decoder<'static>>,
    out: Vec<u8>,
    /// Bytes still promised.
    left: u64,
    is_zstd: bool,
    sound: bool,
}

impl Inflater {
    pub(super) const fn new() -> Self {
        Self { zlib: None, zstd: None, out: Vec::new(), left: 0, is_zstd: false, sound: false }
    }

    /// Begins what MariaDB compressed; gives what follows its head.
    ///
    /// ```text
    /// 0  u8   0x80, and how many bytes the length has
    /// 1  big-endian, the length of all when inflated · zlib's format
    /// ```
    /// Source: MariaDB `sql/log_event.cc`, `binlog_buf_compress`.
    pub(super) fn begin_zlib<'b>(&mut self, mut bytes: &'b [u8]) -> Option<&'b [u8]> {
        self.sound = false;
        let head = *take(&mut bytes, 1)?.first()?;
        let length = take(&mut bytes, usize::from(head & 7)).filter(|_| matches!(head, 0x81..=0x84))?;
        let length = length.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        match &mut self.zlib {
            Some(zlib) => zlib.reset(true),
            None => self.zlib = Some(Decompress::new(true)),
        }
        self.begin(length, false);
        Some(bytes)
    }

    /// Begins a frame of zstd that promises so many bytes.
    pub(super) fn begin_zstd(&mut self, length: u64) -> Option<()> {
        self.sound = false;
        match &mut self.zstd {
            Some(zstd) => zstd.reinit().ok()?,
            None => {
                let mut zstd = Decoder::new().ok()?;
                zstd.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).ok()?;
                self.zstd = Some(zstd);
            }
        }
        self.begin(length, true);
        Some(())
    }

    fn begin(&mut self, length: u64, is_zstd: bool) {
        self.left = length;
        self.is_zstd = is_zstd;
        self.sound = length <= INFLATED_BYTES_MAX;
    }

    /// Whether all that came was sound, and was all that was promised.
    pub(super) const fn is_sound(&self) -> bool {
        self.sound && self.left == 0
    }

    /// Takes the next bytes.
    pub(super) fn feed(&mut self, mut bytes: &[u8], each: Each<'_>) {
        while self.sound && self.left > 0 {
            self.out.clear();
            self.out.reserve(PIECE);
            let ran = if self.is_zstd { self.run_zstd(bytes) } else { self.run_zlib(bytes) };
            let Some(rest) = ran.and_then(|read| bytes.get(read..)) else {
                self.sound = false;
                return;
            };
            let promised = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.out.len());
            self.left -= promised as u64;
            each(self.out.get(..promised).unwrap_or_default());
            // Room that was not filled: all there was has come out.
            if rest.is_empty() && self.out.len() < self.out.capacity() || rest.len() == bytes.len() && promised == 0 {
                return;
            }
            bytes = rest;
        }
    }

    fn run_zlib(&mut self, bytes: &[u8]) -> Option<usize> {
        let zlib = self.zlib.as_mut()?;
        let before = zlib.total_in();
        let status = zlib.decompress_vec(bytes, &mut self.out, FlushDecompress::None).ok()?;
        let read = usize::try_from(zlib.total_in() - before).ok()?;
        (status != Status::StreamEnd || self.out.len() as u64 >= self.left).then_some(read)
    }

    fn run_zstd(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut input = InBuffer::around(bytes);
        let mut output = OutBuffer::around(&mut self.out);
        self.zstd.as_mut()?.run(&mut input, &mut output).ok()?;
        Some(input.pos())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    pub(in crate::engine::mysql::binlog) fn zlib(raw: &[u8]) -> Vec<u8> {
        let mut out = vec![0x84];
        out.extend_from_slice(&(raw.len() as u32).to_be_bytes());
        let mut encoder = flate2::write::ZlibEncoder::new(&mut out, flate2::Compression::fast());
        encoder.write_all(raw).unwrap();
        encoder.finish().unwrap();
        out
    }

    fn inflated(inflater: &mut Inflater, bytes: &[u8], size: usize) -> Vec<u8> {
        let mut raw = Vec::new();
        bytes.chunks(size).for_each(|piece| inflater.feed(piece, &mut |out| raw.extend_from_slice(out)));
        raw
    }

    proptest! {
        #[test]
        fn what_was_compressed_comes_back_in_any_pieces(
            seed in prop::collection::vec(any::<u8>(), 1..300), times in 1_usize..3000, size in 1_usize..5000,
        ) {
            let raw = seed.repeat(times);
            let mut inflater = Inflater::new();
            for _ in 0..2 {
                let packed = zlib(&raw);
                let rest = inflater.begin_zlib(&packed).unwrap();
                prop_assert!(inflated(&mut inflater, rest, size) == raw && inflater.is_sound());
                let packed = zstd::bulk::compress(&raw, 3).unwrap();
                inflater.begin_zstd(raw.len() as u64).unwrap();
                prop_assert!(inflated(&mut inflater, &packed, size) == raw && inflater.is_sound());
                // Less than there is, and more.
                inflater.begin_zstd(raw.len() as u64 - 1).unwrap();
                prop_assert!(inflated(&mut inflater, &packed, size) == raw[..raw.len() - 1]);
                inflater.begin_zstd(raw.len() as u64 + 1).unwrap();
                prop_assert!(inflated(&mut inflater, &packed, size) == raw && !inflater.is_sound());
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), size in 1_usize..50) {
            let mut inflater = Inflater::new();
            if let Some(rest) = inflater.begin_zlib(&bytes) {
                inflated(&mut inflater, rest, size);
            }
            inflater.begin_zstd(1 << 40);
            inflated(&mut inflater, &bytes, size);
            inflater.begin_zstd(1 << 20);
            inflated(&mut inflater, &bytes, size);
        }
    }
}
