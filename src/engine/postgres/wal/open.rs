//! What has come of a record, or of a page header, whose bytes come in pieces: where
//! a page or a message of the walsender ends inside it.

use super::page::u32_at;
use super::record::{BodyCrc, HEADER_BYTES, RecordHeader, check_length};

/// How much of a telling record's body is kept while it comes in pieces. A commit with
/// two million subtransactions is longer; what lies past this is not missed, see
/// [`super::xact::read`].
pub(super) const KEPT_BYTES_MAX: usize = 8 << 20;

/// A record that came in part.
#[derive(Debug)]
pub(super) struct Open {
    /// Where it begins.
    pub(super) start: u64,
    pub(super) header: Partial<HEADER_BYTES>,
    /// Bytes of header and body; 0 until known, which is before the page ends.
    pub(super) length: u32,
    /// Bytes seen.
    pub(super) seen: u32,
    /// CRC of the body so far.
    pub(super) crc: BodyCrc,
    /// The body so far, when somebody wants to know it.
    pub(super) body: Option<Vec<u8>>,
}

impl Open {
    pub(super) fn new(start: u64) -> Self {
        Self { start, header: Partial::new(), length: 0, seen: 0, crc: BodyCrc::new(), body: None }
    }

    /// Takes bytes of the record, up to its end or the end of `bytes`.
    pub(super) fn take(&mut self, bytes: &[u8], previous: Option<u64>) -> Result<usize, String> {
        let in_header = self.header.fill(bytes, HEADER_BYTES);
        self.seen += in_header as u32;
        if self.length == 0 && self.header.len >= 4 {
            self.length = u32_at(self.header.get(), 0);
            check_length(self.length)?;
        }
        if self.header.len < HEADER_BYTES {
            return Ok(in_header);
        }
        let header = RecordHeader::new(&self.header.bytes);
        if in_header > 0 {
            header.check_previous(self.start, previous)?;
            self.body = (header.is_telling() || header.creates_tablespace()).then(Vec::new);
        }
        let wanted = (self.length - self.seen) as usize;
        let body = bytes.get(in_header..).unwrap_or_default();
        let body = body.get(..wanted).unwrap_or(body);
        self.crc = self.crc.append(body);
        self.seen += body.len() as u32;
        if let Some(kept) = &mut self.body {
            let room = KEPT_BYTES_MAX - kept.len();
            kept.extend_from_slice(body.get(..room).unwrap_or(body));
        }
        Ok(in_header + body.len())
    }
}

/// Up to `N` bytes that came in pieces.
#[derive(Debug)]
pub(super) struct Partial<const N: usize> {
    pub(super) bytes: [u8; N],
    pub(super) len: usize,
}

impl<const N: usize> Partial<N> {
    pub(super) fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    pub(super) fn get(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Takes bytes from `input` until `wanted` are held; gives how many it took.
    pub(super) fn fill(&mut self, input: &[u8], wanted: usize) -> usize {
        let mut taken = 0;
        for (slot, byte) in self.bytes.iter_mut().take(wanted).skip(self.len).zip(input) {
            *slot = *byte;
            taken += 1;
        }
        self.len += taken;
        taken
    }
}
