//! Little-endian fields of headers and footers.
//!
//! [`Fields`] never reads past what it was given, and hands out slices of it, so that
//! a length field can never ask for more memory than there are bytes.

use crate::error::{Error, Result};

/// Reads fields one after the other.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Fields<'a> {
    /// Fields of `what` (for messages) in `bytes`.
    pub(super) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { rest: bytes, what }
    }

    /// Bytes not read yet.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        match self.rest.split_at_checked(len) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(Error::corruption(format!(
                "{} ends after {} bytes where {len} were expected",
                self.what,
                self.rest.len()
            ))),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// UTF-8 text of `len` bytes.
    pub(super) fn text(&mut self, len: usize) -> Result<&'a str> {
        let what = self.what;
        std::str::from_utf8(self.take(len)?)
            .map_err(|e| Error::corruption(format!("{what} holds text that is not UTF-8")).because(e))
    }

    /// Refuses bytes after the last field.
    pub(super) fn end(self) -> Result<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Error::corruption(format!("{} has {} bytes after its last field", self.what, self.rest.len())))
        }
    }
}

/// Appends text with its length in front, as `u8`, `u16` or `u32`.
///
/// # Errors
/// A text longer than `limit` bytes is refused: what could not be read back is not
/// written.
pub(super) fn put_text<L: TryFrom<usize>, const N: usize>(
    out: &mut Vec<u8>,
    what: &str,
    text: &str,
    limit: usize,
    encode: fn(L) -> [u8; N],
) -> Result<()> {
    match L::try_from(text.len()) {
        Ok(len) if text.len() <= limit => {
            out.extend_from_slice(&encode(len));
            out.extend_from_slice(text.as_bytes());
            Ok(())
        }
        _ => Err(Error::failure(format!("{what} of {} bytes is too long, {limit} is the limit", text.len()))),
    }
}

/// CRC-32C (Castagnoli, as iSCSI, PostgreSQL and S3 use it) of `bytes`.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}
