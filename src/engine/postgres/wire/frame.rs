//! Cuts the byte stream into messages.
//!
//! ```text
//!  0      1              5                    1 + length
//!  | tag  | length u32   | body ............. |
//! ```
//! `length` is big-endian and counts itself but not the tag. It is checked against a
//! cap *before* anything is allocated for it: small until the server has proven who
//! it is, and afterwards large only for the messages that carry bulk. The walsender
//! sends at most 128 KiB of log per message (`MAX_SEND_SIZE`, `walsender.c`), base
//! backup pieces are smaller, and a history file is a few hundred bytes per promotion.

use crate::error::{Error, Kind, Result};

/// Bytes of tag and length.
pub const HEADER_BYTES: usize = 5;

/// Largest message before the session is authenticated, with its header.
pub const STARTUP_BYTES_MAX: usize = 64 << 10;

/// Largest message that carries bulk (`CopyData`, `DataRow`), with its header.
pub const BULK_BYTES_MAX: usize = (1 << 20) + (256 << 10);

/// Largest other message, with its header.
pub const OTHER_BYTES_MAX: usize = 64 << 10;

/// How far the session is, for the caps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nobody has proven anything yet.
    Startup,
    /// The server accepted us.
    Ready,
}

/// The head of a message whose length is sane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which message.
    pub tag: u8,
    /// Bytes of header and body together.
    pub total: usize,
}

impl Head {
    /// Reads the head at the front of `bytes`; `None` while it is not whole.
    ///
    /// # Errors
    /// [`Kind::DatabaseUnreachable`] for a length below 4 or past the cap of `phase`:
    /// the stream is then out of step and of no more use.
    pub fn parse(bytes: &[u8], phase: Phase) -> Result<Option<Self>> {
        let Some(([tag, length @ ..], _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let total = u64::from(u32::from_be_bytes(*length)) + 1;
        let cap = cap_bytes(*tag, phase);
        match usize::try_from(total) {
            Ok(total) if (HEADER_BYTES..=cap).contains(&total) => Ok(Some(Self { tag: *tag, total })),
            _ => Err(Error::new(
                Kind::DatabaseUnreachable,
                format!(
                    "the server sent message {:?} of {total} bytes, where at most {cap} make sense",
                    char::from(*tag)
                ),
            )
            .hint("is it a PostgreSQL server that listens there, and not another service?")),
        }
    }
}

fn cap_bytes(tag: u8, phase: Phase) -> usize {
    match (phase, tag) {
        (Phase::Startup, _) => STARTUP_BYTES_MAX,
        (Phase::Ready, b'd' | b'D') => BULK_BYTES_MAX,
        (Phase::Ready, _) => OTHER_BYTES_MAX,
    }
}

/// Appends one message to `out`.
///
/// # Panics
/// Never for the bodies this program makes; a body past 4 GiB would be a bug.
pub fn put(out: &mut impl bytes::BufMut, tag: u8, body: &[u8]) {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    debug_assert_ne!(length, u32::MAX);
    out.put_u8(tag);
    out.put_u32(length);
    out.put_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_only_when_whole() {
        assert_eq!(Head::parse(b"Z\0\0\0", Phase::Ready).unwrap(), None);
        let head = Head::parse(b"Z\0\0\0\x05I", Phase::Ready).unwrap();
        assert_eq!(head, Some(Head { tag: b'Z', total: 6 }));
    }

    #[test]
    fn refuses_lengths_that_make_no_sense() {
        for bytes in [&b"Z\0\0\0\x03"[..], b"d\xff\xff\xff\xff", b"E\0\x02\0\0", b"HTTP/1.1 400 Bad Request"] {
            assert!(Head::parse(bytes, Phase::Ready).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn bulk_is_allowed_only_after_authentication() {
        let bytes = b"d\0\x02\0\x19";
        assert!(Head::parse(bytes, Phase::Startup).is_err());
        assert_eq!(Head::parse(bytes, Phase::Ready).unwrap().unwrap().total, (128 << 10) + 26);
    }

    #[test]
    fn what_is_put_is_parsed() {
        let mut out = Vec::new();
        put(&mut out, b'Q', b"SELECT 1\0");
        assert_eq!(Head::parse(&out, Phase::Startup).unwrap(), Some(Head { tag: b'Q', total: out.len() }));
    }
}
