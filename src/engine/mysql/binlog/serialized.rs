//! Integers and messages of MySQL's serialization library, which new events are made of.
//!
//! ```text
//! integer   n - 1 one bits and a zero bit, lowest first: it takes n bytes; the value above
//!           them, little-endian. A first byte of 255: the value is the 8 bytes after it.
//! signed    the integer value * 2 from 0 up, -value * 2 - 1 below
//! message   format version 1 byte, size of the whole, last id that must be understood,
//!           each field: id, value, in order of ids; a field may be left out
//! ```
//!
//! Fields say nothing of their size, so nothing after an unknown one can be read. Source:
//! `libs/mysql/serialization/readme.md` in MySQL.

use super::fields::Fields;
use crate::engine::mysql::gtid::Tag;
use crate::error::Result;

/// The one version there is, 1, as an integer of one byte.
const FORMAT_VERSION: u8 = 1 << 1;

/// Takes an unsigned integer.
pub(super) fn unsigned(fields: &mut Fields<'_>) -> Result<u64> {
    let first = fields.u8()?;
    let more = first.trailing_ones();
    if more == 8 {
        return fields.u64();
    }
    let high = fields.number(more as usize)?;
    // The first byte's share of the value: 7 bits with no byte after it, none with 7.
    let low = u64::from(first) >> (more + 1);
    Ok(high << (7 - more) | low)
}

/// Takes a signed integer.
pub(super) fn signed(fields: &mut Fields<'_>) -> Result<i64> {
    let value = unsigned(fields)?;
    let magnitude = (value >> 1).cast_signed();
    Ok(if value & 1 == 0 { magnitude } else { -magnitude - 1 })
}

/// Takes a GTID's tag: its length, at most 32 and so in one byte, and its letters.
pub(in crate::engine::mysql) fn tag(fields: &mut Fields<'_>) -> Result<Tag> {
    let length = usize::try_from(unsigned(fields)?).unwrap_or(usize::MAX);
    let text = String::from_utf8_lossy(fields.take(length)?);
    // Upper case would read well but not be what is written.
    text.parse()
        .ok()
        .filter(|tag: &Tag| tag.as_str() == text)
        .ok_or_else(|| fields.refuse(format_args!("the tag {text:?}")))
}

/// The fields of a message, taken in order of their ids.
pub(super) struct Message<'a>(Fields<'a>);

impl<'a> Message<'a> {
    /// Opens the message that `fields` begins with and ends with. `last_known` is the
    /// greatest id that the caller understands.
    pub(super) fn open(mut fields: Fields<'a>, last_known: u64) -> Result<Self> {
        let bytes = fields.rest().len() as u64;
        let version = fields.u8()?;
        if version != FORMAT_VERSION {
            return Err(fields.refuse(format_args!("serialization format {version}")));
        }
        let size = unsigned(&mut fields)?;
        if size != bytes {
            return Err(fields.refuse(format_args!("a message of {size} bytes in {bytes}")));
        }
        let needed = unsigned(&mut fields)?;
        if needed > last_known {
            return Err(fields.refuse(format_args!("field {needed}, which it says must be understood,")));
        }
        Ok(Self(fields))
    }

    /// What follows the id `id`, if the next field has it.
    pub(super) fn optional(&mut self, id: u64) -> Result<Option<&mut Fields<'a>>> {
        let mut ahead = self.0.clone();
        if ahead.is_empty() || unsigned(&mut ahead)? != id {
            return Ok(None);
        }
        self.0 = ahead;
        Ok(Some(&mut self.0))
    }

    /// What follows the id `id`.
    pub(super) fn required(&mut self, id: u64) -> Result<&mut Fields<'a>> {
        if self.optional(id)?.is_none() {
            return Err(self.0.refuse(format_args!("no field {id}")));
        }
        Ok(&mut self.0)
    }
}
