//! What a server answers to a command: OK, an error, or rows.
//!
//! ```text
//! OK:    00, affected rows, last id, status u16, warnings u16, ...
//! EOF:   fe, warnings u16, status u16                    (at most 8 bytes)
//! ERR:   ff, code u16, '#', state 5 bytes, message       (no state before the login)
//! rows:  count, that many column definitions, EOF, rows, EOF
//! row:   per column fb for null, or length and text
//! ```
//!
//! Numbers without a size are length-encoded: one byte up to 250, else fc, fd or fe and two,
//! three or eight bytes. Source: MySQL Internals, "Generic Response Packets" and "Text
//! Resultset".

use super::server_error::ServerError;
use crate::error::{Error, Kind, Result};

/// The error for a message that is not what it should be.
pub(super) fn malformed(what: &str) -> Error {
    Error::new(Kind::DatabaseUnreachable, format!("the server's {what} cannot be read"))
        .hint("is it a MySQL or MariaDB server that listens there?")
}

/// Reads fields, each checked against what is there.
pub(super) struct Cursor<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(what: &'static str, rest: &'a [u8]) -> Self {
        Self { what, rest }
    }

    fn malformed(&self) -> Error {
        malformed(self.what)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or_else(|| self.malformed())?;
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.malformed())?;
        self.rest = rest;
        Ok(*bytes)
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// A text up to a zero byte. Bytes that are not UTF-8 are replaced.
    pub(super) fn text(&mut self) -> Result<String> {
        let end = self.rest.iter().position(|b| *b == 0).ok_or_else(|| self.malformed())?;
        let text = self.bytes(end)?;
        self.bytes(1)?;
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// What is left as text, without a zero byte at its end.
    pub(super) fn remaining_text(&mut self) -> String {
        let text = self.remainder();
        String::from_utf8_lossy(text.strip_suffix(&[0]).unwrap_or(text)).into_owned()
    }

    /// What is left.
    pub(super) fn remainder(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// A length-encoded number.
    fn number(&mut self) -> Result<u64> {
        match self.u8()? {
            small @ 0..=250 => Ok(u64::from(small)),
            0xfc => self.u16().map(u64::from),
            0xfd => self.array().map(|[a, b, c]| u64::from(u32::from_le_bytes([a, b, c, 0]))),
            0xfe => self.array().map(u64::from_le_bytes),
            _ => Err(self.malformed()),
        }
    }
}

/// The first packet of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Done.
    Ok,
    /// The server refuses.
    Error(ServerError),
    /// Rows of this many columns follow.
    Rows(u64),
}

impl Reply {
    /// Reads the first packet of an answer.
    ///
    /// # Errors
    /// [`Kind::DatabaseUnreachable`] for what is none; a request for one of our files is
    /// none.
    pub(super) fn parse(payload: &[u8]) -> Result<Self> {
        if let Some(error) = ServerError::parse(payload) {
            return Ok(Self::Error(error));
        }
        match payload.first() {
            Some(0x00) => Ok(Self::Ok),
            _ => {
                let mut cursor = Cursor::new("answer", payload);
                match cursor.number() {
                    Ok(columns) if cursor.is_empty() => Ok(Self::Rows(columns)),
                    _ => Err(cursor.malformed()),
                }
            }
        }
    }
}

/// Whether this packet ends a list of columns or rows.
pub(super) fn is_eof(payload: &[u8]) -> bool {
    payload.first() == Some(&0xfe) && payload.len() < 9
}

/// Reads a row of `columns` values. Bytes that are not UTF-8 are replaced.
///
/// # Errors
/// [`Kind::DatabaseUnreachable`] when the packet is no such row.
pub(super) fn row(payload: &[u8], columns: u64) -> Result<Vec<Option<String>>> {
    let mut cursor = Cursor::new("row", payload);
    let mut values = Vec::new();
    for _ in 0..columns {
        if let Some((0xfb, rest)) = cursor.rest.split_first() {
            cursor.rest = rest;
            values.push(None);
            continue;
        }
        let length = usize::try_from(cursor.number()?).map_err(|_| cursor.malformed())?;
        values.push(Some(String::from_utf8_lossy(cursor.bytes(length)?).into_owned()));
    }
    if cursor.is_empty() { Ok(values) } else { Err(cursor.malformed()) }
}
