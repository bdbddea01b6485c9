//! Reads numbers and strings from the front of a slice, never past its end.

use crate::error::{Error, Kind, Result};

/// What remains of one message's body.
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Cursor<'a> {
    /// A cursor at the start of `body`; `what` names the message in errors.
    pub(super) fn new(what: &'static str, body: &'a [u8]) -> Self {
        Self { rest: body, what }
    }

    /// The error for a message that does not hold what its kind says.
    pub(super) fn broken(&self) -> Error {
        malformed(self.what)
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(bytes).ok_or_else(|| self.broken())?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.broken())?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        self.array::<1>().map(|[b]| b)
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64> {
        self.array().map(i64::from_be_bytes)
    }

    /// A string that ends with a zero byte. Bytes that are not UTF-8 are replaced:
    /// such text is only shown, never compared.
    pub(super) fn text(&mut self) -> Result<String> {
        let end = self.rest.iter().position(|b| *b == 0).ok_or_else(|| self.broken())?;
        let text = String::from_utf8_lossy(self.take(end)?).into_owned();
        self.take(1)?;
        Ok(text)
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.broken()) }
    }
}

/// The error for a message that is not what its kind says.
pub(super) fn malformed(what: &str) -> Error {
    Error::new(Kind::DatabaseUnreachable, format!("the server sent a malformed {what} message"))
        .hint("is something between pitr and the server changing the connection?")
}
