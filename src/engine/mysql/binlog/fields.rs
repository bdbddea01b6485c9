//! Takes numbers from the front of some bytes, never past their end.

use crate::error::{Error, Result};

/// What remains of some bytes. Numbers are little-endian, as both servers write them.
#[derive(Clone, Debug)]
pub(in crate::engine::mysql) struct Fields<'a> {
    what: &'static str,
    length: usize,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// At the start of `bytes`; `what` names them in errors.
    pub(in crate::engine::mysql) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, length: bytes.len(), rest: bytes }
    }

    /// The error for bytes that have `flaw` before the place reached.
    pub(in crate::engine::mysql) fn refuse(&self, flaw: impl std::fmt::Display) -> Error {
        let at = self.length - self.rest.len();
        Error::corruption(format!("{} of {} bytes has {flaw} before byte {at}", self.what, self.length)).hint(
            "does the server's own mysqlbinlog or mariadb-binlog read it? if so, is the server newer than this pitr?",
        )
    }

    pub(in crate::engine::mysql) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(self.refuse(format_args!("{} bytes left of {count}", self.rest.len())));
        };
        self.rest = rest;
        Ok(taken)
    }

    pub(in crate::engine::mysql) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let Some((taken, rest)) = self.rest.split_first_chunk() else {
            return Err(self.refuse(format_args!("{} bytes left of {N}", self.rest.len())));
        };
        self.rest = rest;
        Ok(*taken)
    }

    pub(in crate::engine::mysql) fn u8(&mut self) -> Result<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(in crate::engine::mysql) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(in crate::engine::mysql) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number of `count` bytes, at most 8.
    pub(in crate::engine::mysql) fn number(&mut self, count: usize) -> Result<u64> {
        Ok(self.take(count)?.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    /// All that was not taken.
    pub(in crate::engine::mysql) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(in crate::engine::mysql) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}
