//! Zstandard frames (RFC 8878), streamed: no content size, no content checksum.

use std::io;

use zstd::stream::raw::{CParameter, DParameter, Decoder, Encoder as Stream, InBuffer, Operation, OutBuffer};
use zstd::zstd_safe::ParamSwitch;

use crate::error::{Error, Result};

pub(super) const MAGIC: u32 = 0xFD2F_B528;
/// Room the encoder gets at a time, and the largest piece the decoder hands on: one
/// zstd block.
const PIECE: usize = 128 << 10;
/// A frame that wants a larger window (2^23 = 8 MiB, level 19's) is refused, so that
/// reading takes bounded memory.
const WINDOW_LOG_MAX: u32 = 23;

/// Bytes between two places at which [`Encoder::fast`] looks first. Of sysbench's rows 1 leaves
/// 30.9 %, 2 32.0 %, 4 34.3 %, 8 39.2 %; beyond 4 there is hardly less work.
const FAST_STEP: u32 = 4;
/// How far back it looks, 128 KiB, so that what it works on stays in a processor's cache: of
/// sysbench's rows an eighth less work than level 1's 512 KiB, and 1.5 % more bytes. Source text, which
/// repeats from further away, takes 15 % more bytes.
const FAST_WINDOW_LOG: u32 = 17;

pub(in crate::segment) struct Encoder(Stream<'static>);

impl Encoder {
    pub(super) fn new(level: i32) -> Result<Self> {
        Stream::new(level).map(Self).map_err(failed)
    }

    /// Level 1 with longer steps where nothing repeats. What does not repeat is still coded by
    /// how often its bytes occur, which zstd's own negative levels leave out.
    pub(super) fn fast() -> Result<Self> {
        let mut stream = Stream::new(1).map_err(failed)?;
        for parameter in [
            CParameter::TargetLength(FAST_STEP),
            CParameter::WindowLog(FAST_WINDOW_LOG),
            CParameter::LiteralCompressionMode(ParamSwitch::Enable),
        ] {
            stream.set_parameter(parameter).map_err(failed)?;
        }
        Ok(Self(stream))
    }

    pub(super) fn write(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let mut input = InBuffer::around(raw);
        while input.pos() < raw.len() {
            out.reserve(PIECE);
            let filled = out.len();
            self.0.run(&mut input, &mut OutBuffer::around_pos(out, filled)).map_err(failed)?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self, out: &mut Vec<u8>) -> Result<()> {
        loop {
            out.reserve(PIECE);
            let filled = out.len();
            let left = self.0.finish(&mut OutBuffer::around_pos(out, filled), true).map_err(failed)?;
            if left == 0 {
                return Ok(());
            }
        }
    }
}

fn failed(error: io::Error) -> Error {
    Error::failure("cannot compress log with zstd").because(error)
}

pub(super) fn decode(frame: &[u8], each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let wrong = |e: io::Error| Error::corruption("zstd frame cannot be decompressed").because(e);
    let mut decoder = Decoder::new().map_err(wrong)?;
    decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(wrong)?;
    let mut input = InBuffer::around(frame);
    let mut raw: Vec<u8> = Vec::with_capacity(PIECE);
    loop {
        raw.clear();
        let before = input.pos();
        let hint = decoder.run(&mut input, &mut OutBuffer::around(&mut raw)).map_err(wrong)?;
        if !raw.is_empty() {
            each(&raw)?;
        }
        if hint == 0 {
            break;
        }
        if raw.is_empty() && input.pos() == before {
            return Err(Error::corruption(format!("zstd frame of {} bytes ends before its last block", frame.len())));
        }
    }
    match frame.len() - input.pos() {
        0 => Ok(()),
        extra => Err(Error::corruption(format!("zstd frame has {extra} bytes after its end"))),
    }
}
