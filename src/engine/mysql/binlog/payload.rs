//! MySQL's Transaction_payload: the events of a transaction, compressed as one.
//!
//! ```text
//! fields   id, length, value, all packed integers; 0 ends them
//!          1 bytes of the payload · 2 how it is compressed: 0 zstd, 255 not · 3 bytes inflated
//! payload  events with headers and without checksums
//! ```
//! Source: MySQL `libs/mysql/binlog/event/codecs/binary.cpp`.

use super::event::{HEADER_BYTES, Header};
use super::table_map::{packed, take};

/// What stands before a payload.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head<'a> {
    /// Or not at all.
    pub(super) is_zstd: bool,
    pub(super) inflated_bytes: u64,
    /// What was at hand of it.
    pub(super) payload: &'a [u8],
}

impl<'a> Head<'a> {
    /// Reads it; the event may be cut off behind it.
    pub(super) fn parse(mut content: &'a [u8]) -> Option<Self> {
        let (mut bytes, mut codec, mut inflated) = (None, None, None);
        loop {
            let field = packed(&mut content)?;
            if field == 0 {
                break;
            }
            let length = usize::try_from(packed(&mut content)?).ok()?;
            let mut value = take(&mut content, length)?;
            match field {
                1 => bytes = Some(packed(&mut value)?),
                2 => codec = Some(packed(&mut value)?),
                3 => inflated = Some(packed(&mut value)?),
                _ => {}
            }
        }
        let is_zstd = match codec? {
            0 => true,
            255 => false,
            _ => return None,
        };
        let inflated_bytes = if is_zstd { inflated? } else { bytes? };
        Some(Self { is_zstd, inflated_bytes, payload: content })
    }
}

/// A part of a stream of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// A whole one: its kind and its content.
    Whole(u8, &'a [u8]),
    /// One that is too large to be kept begins, of a kind and with this.
    Begin(u8, &'a [u8]),
    /// It goes on.
    More(&'a [u8]),
    /// It ends.
    End,
}

/// Cuts a stream into events, without checksums.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// The beginning of an event.
    gathered: Vec<u8>,
    /// What is to come of one that is too large to be gathered.
    left: usize,
    lost: bool,
}

/// Larger events are told of in parts.
const GATHERED_BYTES_MAX: usize = 64 << 10;

impl Events {
    /// Whether the stream ended with an event.
    pub(super) const fn is_whole(&self) -> bool {
        self.gathered.is_empty() && self.left == 0 && !self.lost
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8], each: &mut dyn FnMut(Part<'_>)) {
        while !bytes.is_empty() && !self.lost {
            if self.left > 0 {
                let (now, rest) = bytes.split_at(self.left.min(bytes.len()));
                each(Part::More(now));
                self.left -= now.len();
                if self.left == 0 {
                    each(Part::End);
                }
                bytes = rest;
            } else if let Some((kind, content, rest)) = whole(bytes).filter(|_| self.gathered.is_empty()) {
                each(Part::Whole(kind, content));
                bytes = rest;
            } else {
                bytes = self.gather(bytes, each);
            }
        }
    }

    fn gather<'b>(&mut self, bytes: &'b [u8], each: &mut dyn FnMut(Part<'_>)) -> &'b [u8] {
        let header = Header::parse(&self.gathered);
        let length = match &header {
            Ok(header) => header.length as usize,
            Err(_) if self.gathered.len() < HEADER_BYTES => HEADER_BYTES,
            Err(_) => {
                self.lost = true;
                return bytes;
            }
        };
        let wanted = length.min(GATHERED_BYTES_MAX).saturating_sub(self.gathered.len());
        let (now, rest) = bytes.split_at(wanted.min(bytes.len()));
        self.gathered.extend_from_slice(now);
        let Ok(header) = header else { return rest };
        if now.len() == wanted {
            let content = self.gathered.get(HEADER_BYTES..).unwrap_or_default();
            self.left = length - self.gathered.len().min(length);
            each(if self.left == 0 { Part::Whole(header.kind, content) } else { Part::Begin(header.kind, content) });
            self.gathered.clear();
        }
        rest
    }
}

/// The event that lies whole at the front of `bytes`: kind, content, and what follows.
fn whole(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let header = Header::parse(bytes).ok()?;
    let (event, rest) = bytes.split_at_checked(header.length as usize)?;
    Some((header.kind, event.get(HEADER_BYTES..)?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(kind: u8, content: &[u8]) -> Vec<u8> {
        let length = (HEADER_BYTES + content.len()) as u32;
        let header = Header { timestamp: 1, kind, server_id: 1, length, log_pos: 0, flags: 0 };
        [&header.encode()[..], content].concat()
    }

    #[test]
    fn a_head_tells_codec_and_length() {
        let head = b"\x02\x01\x00\x03\x03\xfc\x10\x27\x07\x01x\x01\x01\x05\x00PAY";
        assert_eq!(Head::parse(head), Some(Head { is_zstd: true, inflated_bytes: 10_000, payload: b"PAY" }));
        let plain = b"\x02\x03\xfc\xff\x00\x01\x01\x05\x00PAY";
        assert_eq!(Head::parse(plain), Some(Head { is_zstd: false, inflated_bytes: 5, payload: b"PAY" }));
        for cut in 0..head.len() - 4 {
            assert_eq!(Head::parse(&head[..cut]), None);
        }
    }

    proptest! {
        #[test]
        fn events_are_cut_out_of_any_pieces(
            contents in prop::collection::vec((1_u8..200, prop_oneof![0_usize..80, 65_000_usize..140_000]), 1..5),
            size in 1_usize..70_000,
        ) {
            let stream: Vec<u8> = contents.iter().flat_map(|(kind, len)| event(*kind, &vec![*kind; *len])).collect();
            let (mut events, mut told, mut open) = (Events::default(), Vec::new(), (0, 0));
            for piece in stream.chunks(size) {
                events.feed(piece, &mut |part| match part {
                    Part::Whole(kind, content) => told.push((kind, content.len())),
                    Part::Begin(kind, content) => open = (kind, content.len()),
                    Part::More(more) => open.1 += more.len(),
                    Part::End => told.push(open),
                });
            }
            prop_assert!(events.is_whole());
            prop_assert_eq!(told, contents);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), size in 1_usize..50) {
            let _ = Head::parse(&bytes);
            let mut events = Events::default();
            bytes.chunks(size).for_each(|piece| events.feed(piece, &mut |_| {}));
        }
    }
}
