//! Reading a segment back: everything is verified, and what fails is refused by name.
//!
//! The order is what makes it safe to hand bytes on while decompressing: header and
//! footer are checked against their own checksums and against the object's name, then
//! the compressed bytes against theirs, and only then does the codec run. Its output is
//! counted and summed once more, since a codec's own end is never trusted.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};

use super::bytes::crc32c;
use super::codec;
use super::format::{Footer, Header, Owner};
use crate::error::{Error, Kind, Result};
use crate::model::cluster::ClusterName;
use crate::model::offset::OffsetRange;
use crate::model::timeline::TimelineId;

/// What an object's name says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The cluster.
    pub cluster: ClusterName,
    /// The timeline.
    pub timeline: TimelineId,
    /// The bytes of log.
    pub range: OffsetRange,
    /// The writer's epoch.
    pub epoch: u32,
}

/// What [`read_footer`] made of an object's last bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FooterRead {
    /// The footer, checked.
    Done(Box<Footer>),
    /// The footer is this many bytes long: read so many from the object's end. When
    /// the object has no more bytes, refuse it with [`too_short`].
    More(u64),
}

/// Reads the footer from the last bytes of the object `name`. 4 KiB are nearly always
/// enough.
///
/// # Errors
/// [`Kind::Corruption`] naming the object when these bytes are not the end of a sound
/// segment, or of another than its name says; [`Kind::Config`] when it is of a newer
/// format version.
pub fn read_footer(name: &str, expected: &Expected, last_bytes: &[u8]) -> Result<FooterRead> {
    footer(expected, last_bytes).map_err(|e| refuse(name, e))
}

/// The error for an object that has fewer bytes than its footer says the footer has.
#[must_use]
pub fn too_short(name: &str, object_bytes: u64) -> Error {
    refuse(
        name,
        Error::corruption(format!("object is cut off: it has {object_bytes} bytes, its footer alone has more")),
    )
}

/// Verifies a whole object and hands its raw log to `each`, in order and in pieces of
/// at most 256 KiB.
///
/// `each` sees bytes before the last check, the raw checksum, is done. They come out of
/// compressed bytes whose checksum has been proven, so that only a fault of the
/// codec or of this machine's memory can make the last check fail; whoever must not act
/// even then uses [`decode_to_vec`].
///
/// # Errors
/// As [`read_footer`], and whatever `each` returns.
pub fn decode(
    name: &str,
    expected: &Expected,
    object: &Bytes,
    each: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Footer> {
    // An error of `each` is the caller's own and passes unchanged.
    let mut passed = None;
    let mut each = |raw: &[u8]| {
        each(raw).map_err(|e| {
            passed = Some(e);
            Error::failure("stopped")
        })
    };
    let done = whole(expected, object, &mut each);
    match (passed, done) {
        (Some(error), _) => Err(error),
        (None, done) => done.map_err(|e| refuse(name, e)),
    }
}

/// Verifies a whole object and gives its raw log: all or nothing.
///
/// # Errors
/// As [`read_footer`].
pub fn decode_to_vec(name: &str, expected: &Expected, object: &Bytes) -> Result<(Footer, Vec<u8>)> {
    let mut raw = Vec::new();
    let footer = decode(name, expected, object, &mut |piece| {
        raw.extend_from_slice(piece);
        Ok(())
    })?;
    Ok((footer, raw))
}

fn footer(expected: &Expected, last_bytes: &[u8]) -> Result<FooterRead> {
    let len = Footer::len(last_bytes)?;
    let Some(bytes) = last_bytes.len().checked_sub(len).and_then(|at| last_bytes.get(at..)) else {
        return Ok(FooterRead::More(len as u64));
    };
    let (owner, footer) = Footer::decode(bytes)?;
    let range = footer.summary.range;
    expected.check(&owner)?;
    if range != expected.range {
        return Err(mismatch("range", range, expected.range));
    }
    Ok(FooterRead::Done(Box::new(footer)))
}

fn whole(expected: &Expected, object: &[u8], each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<Footer> {
    let (header, header_len) = Header::decode(object)?;
    let owner = Owner { cluster: header.cluster, timeline: header.timeline, epoch: header.epoch };
    expected.check(&owner)?;
    if header.start != expected.range.start {
        return Err(mismatch("start", header.start, expected.range.start));
    }

    let footer_len = Footer::len(object)?;
    let frame = object.len().checked_sub(footer_len).and_then(|end| object.get(header_len..end)).ok_or_else(|| {
        Error::corruption(format!(
            "object is cut off: its header has {header_len} bytes and its footer {footer_len}, all of it {}",
            object.len()
        ))
    })?;
    let footer = match footer(expected, object)? {
        FooterRead::Done(footer) => *footer,
        FooterRead::More(len) => return Err(Error::corruption(format!("footer of {len} bytes is cut off"))),
    };
    check_crc("compressed log", crc32c(frame), footer.stored_crc)?;

    let mut crc = Digest::new(CrcAlgorithm::Crc32Iscsi);
    codec::decode(frame, footer.raw_bytes, &mut |raw| {
        crc.update(raw);
        each(raw)
    })?;
    check_crc("log", crc.finalize() as u32, footer.raw_crc)?;
    Ok(footer)
}

impl Expected {
    fn check(&self, owner: &Owner) -> Result<()> {
        if owner.cluster != self.cluster {
            return Err(mismatch("cluster", &owner.cluster, &self.cluster));
        }
        if owner.timeline != self.timeline {
            return Err(mismatch("timeline", owner.timeline, self.timeline));
        }
        if owner.epoch != self.epoch {
            return Err(mismatch("epoch", format!("{:08X}", owner.epoch), format!("{:08X}", self.epoch)));
        }
        Ok(())
    }
}

fn mismatch(what: &str, found: impl std::fmt::Display, expected: impl std::fmt::Display) -> Error {
    Error::corruption(format!("object holds {what} {found}, its name says {expected}"))
        .hint("was the object renamed, or copied over another one? fetch it again from another copy of the store")
}

fn check_crc(what: &str, found: u32, expected: u32) -> Result<()> {
    if found == expected {
        Ok(())
    } else {
        Err(Error::corruption(format!("{what} has checksum {found:08x}, its footer says {expected:08x}")))
    }
}

/// Names the object, and gives advice to errors that have none.
fn refuse(name: &str, error: Error) -> Error {
    let hint = error.kind() == Kind::Corruption && error.advice().is_none();
    let error = error.context(format_args!("segment {name} is refused"));
    if hint { error.hint("is there another copy of the store? `pitr verify` lists all that is damaged") } else { error }
}

#[cfg(test)]
mod tests;
