//! The bytes around a segment's log: its header and its footer. Nothing else knows
//! them; `docs/format.md` shows a real one.
//!
//! Both are *skippable frames* of the LZ4 and zstd formats (lz4 `doc/lz4_Frame_format.md`,
//! RFC 8878 §3.1.2), so that the stock tools pass over them. Numbers are little-endian.
//!
//! ```text
//! header                              footer
//!  0  u32  0x184D2A57                  0  u32  0x184D2A57
//!  4  u32  bytes that follow           4  u32  bytes that follow
//!  8  [8]  "pitr-seg"                  8  u16  version = 1
//! 16  u16  version = 1                10  u8   flags, see below
//! 18  u8   n, then n bytes cluster    11  u8   n, then n bytes cluster
//!     u8   n, then n bytes engine         u32  timeline
//!     u32  timeline                       u32  writer's epoch
//!     u64  start                          u64  start
//!     u32  writer's epoch                 u64  end
//!     u32  CRC-32C of all the above       u64  boundary
//!                                         u64  raw bytes (= end - start)
//! flags                                   u32  CRC-32C of the raw bytes
//!  1 times        2 ids                   u32  CRC-32C of the codec's frame
//!  4 last         8 confirmed             u64  transactions
//! 16 last committed                       i64  earliest, i64 latest       (times)
//! 32 last's id is text                    u64  smallest, u64 largest id   (ids)
//!                                         u64  id, or u16 n and n bytes   (last)
//!                                         i64  time, u64 start, u64 end   (last)
//!                                         i64  confirmed                  (confirmed)
//!                                         u32  n, then n bytes position
//!                                         u32  n restore points, each:
//!                                                u16 n and n bytes name, i64 time, u64 end
//!                                         u8   1 if there were more tables          (tables)
//!                                         u8   n tables, each:                      (tables)
//!                                                u16 n and n bytes name, u8 kinds of changes,
//!                                                u64 how many, for each kind
//!                                         u32  CRC-32C of all the above
//!                                         u32  bytes of the footer, all of it
//!                                         [8]  "pitr-end"
//! ```
//!
//! The footer is found from the object's last 12 bytes. Header and footer both say
//! whose they are (cluster, timeline, epoch, start), so that an object under another's
//! name is seen for what it is. A later version may add fields, but keeps the place of
//! magic, version and checksum, so that an older program can tell new from damaged.

use super::bytes::{Fields, crc32c, put_text};
use crate::error::{Error, Kind, Result};
use crate::model::changes::{ChangeKind, Changes, Counts, Kinds, TABLES_MAX, TableChanges};
use crate::model::cluster::ClusterName;
use crate::model::mark::{Transaction, TransactionId};
use crate::model::offset::{Offset, OffsetRange};
use crate::model::position::Position;
use crate::model::summary::{RestorePoint, Summary};
use crate::model::time::Timestamp;
use crate::model::timeline::TimelineId;

/// The version this program writes, and the only one it reads.
pub const VERSION: u16 = 1;

/// Bytes at the end of every object that say where its footer begins.
pub const TRAILER_BYTES: usize = 12;

/// No footer is larger; it would take more than a million restore points in one segment.
pub const FOOTER_BYTES_MAX: usize = 64 << 20;

/// Any of 0x184D2A50 to 0x184D2A5F is skipped; 50 is pzstd's and 5E the seekable format's.
const SKIPPABLE: u32 = 0x184D_2A57;
/// Length of a skippable frame's own head.
const HEAD: usize = 8;
const HEADER_MAGIC: &[u8; 8] = b"pitr-seg";
const FOOTER_MAGIC: &[u8; 8] = b"pitr-end";
const HEADER_BYTES_MAX: usize = HEAD + 8 + 2 + 256 + 256 + 4 + 8 + 4 + 4;
/// GTID sets grow with every server that ever wrote; a megabyte is some 20,000 servers.
const POSITION_BYTES_MAX: usize = 1 << 20;
const NAME_BYTES_MAX: usize = 4096;

const TIMES: u8 = 1;
const IDS: u8 = 2;
const LAST: u8 = 4;
const CONFIRMED: u8 = 8;
const LAST_COMMITTED: u8 = 16;
const LAST_IS_TEXT: u8 = 32;
const TABLES: u8 = 64;

/// What stands before the log: whose it is and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The cluster whose log this is.
    pub cluster: ClusterName,
    /// Name of its engine, e.g. `postgres`.
    pub engine: String,
    /// The timeline the log belongs to.
    pub timeline: TimelineId,
    /// Offset of the first raw byte.
    pub start: Offset,
    /// The writer's epoch.
    pub epoch: u32,
}

impl Header {
    /// Appends the header's bytes to `out`.
    ///
    /// # Errors
    /// [`Kind::Failure`] for an engine name of more than 255 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        let at = begin_frame(out);
        out.extend_from_slice(HEADER_MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        put_text(out, "cluster name", self.cluster.as_str(), 255, u8::to_le_bytes)?;
        put_text(out, "engine name", &self.engine, 255, u8::to_le_bytes)?;
        out.extend_from_slice(&self.timeline.0.to_le_bytes());
        out.extend_from_slice(&self.start.0.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        end_frame(out, at, 4)?;
        let crc = crc32c(&out[at..]);
        out.extend_from_slice(&crc.to_le_bytes());
        Ok(())
    }

    /// Reads the header at the beginning of `object`, and how many bytes it takes.
    ///
    /// # Errors
    /// [`Kind::Corruption`] when it is not one, [`Kind::Config`] when it is sound but of
    /// a version this program does not know.
    pub fn decode(object: &[u8]) -> Result<(Self, usize)> {
        let mut head = Fields::new("header", object);
        skippable(&mut head, "header")?;
        let len = frame_len("header", object, HEADER_BYTES_MAX)?;
        let mut fields = Fields::new("header", object);
        let body = fields.take(len)?;
        let covered = check_crc("header", body, 0)?;

        let mut fields = Fields::new("header", covered);
        fields.take(HEAD)?;
        magic("header", fields.take(HEADER_MAGIC.len())?, HEADER_MAGIC)?;
        version(fields.u16()?)?;
        let header = Self {
            cluster: cluster(&mut fields)?,
            engine: {
                let len = fields.u8()?;
                fields.text(len.into())?.to_owned()
            },
            timeline: TimelineId(fields.u32()?),
            start: Offset(fields.u64()?),
            epoch: fields.u32()?,
        };
        fields.end()?;
        Ok((header, len))
    }
}

/// What stands after the log: what the log holds, and the checksums that prove it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// The log in a few words.
    pub summary: Summary,
    /// Raw bytes of log; always the length of the summary's range.
    pub raw_bytes: u64,
    /// CRC-32C of the raw bytes.
    pub raw_crc: u32,
    /// CRC-32C of the codec's frame, as stored.
    pub stored_crc: u32,
}

/// Whose footer it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The cluster.
    pub cluster: ClusterName,
    /// The timeline.
    pub timeline: TimelineId,
    /// The writer's epoch.
    pub epoch: u32,
}

impl Footer {
    /// Appends the footer's bytes to `out`; `header` says whose it is.
    ///
    /// # Errors
    /// [`Kind::Failure`] for a summary that contradicts itself or is too large to be
    /// read back.
    pub fn encode(&self, header: &Header, out: &mut Vec<u8>) -> Result<()> {
        let summary = &self.summary;
        self.contradiction().map_or(Ok(()), |what| Err(Error::failure(format!("summary is not sound: {what}"))))?;

        let mut flags = 0;
        let mut flag = |set: bool, bit: u8| flags |= if set { bit } else { 0 };
        flag(summary.times.is_some(), TIMES);
        flag(summary.ids.is_some(), IDS);
        flag(summary.confirmed.is_some(), CONFIRMED);
        flag(!summary.changes.is_empty(), TABLES);
        if let Some(last) = &summary.last {
            flag(true, LAST);
            flag(last.committed, LAST_COMMITTED);
            flag(matches!(last.id, TransactionId::Text(_)), LAST_IS_TEXT);
        }

        let at = begin_frame(out);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.push(flags);
        put_text(out, "cluster name", header.cluster.as_str(), 255, u8::to_le_bytes)?;
        out.extend_from_slice(&header.timeline.0.to_le_bytes());
        out.extend_from_slice(&header.epoch.to_le_bytes());
        out.extend_from_slice(&summary.range.start.0.to_le_bytes());
        out.extend_from_slice(&summary.range.end.0.to_le_bytes());
        out.extend_from_slice(&summary.boundary.0.to_le_bytes());
        out.extend_from_slice(&self.raw_bytes.to_le_bytes());
        out.extend_from_slice(&self.raw_crc.to_le_bytes());
        out.extend_from_slice(&self.stored_crc.to_le_bytes());
        out.extend_from_slice(&summary.transactions.to_le_bytes());
        if let Some((earliest, latest)) = summary.times {
            out.extend_from_slice(&earliest.0.to_le_bytes());
            out.extend_from_slice(&latest.0.to_le_bytes());
        }
        if let Some((smallest, largest)) = summary.ids {
            out.extend_from_slice(&smallest.to_le_bytes());
            out.extend_from_slice(&largest.to_le_bytes());
        }
        if let Some(last) = &summary.last {
            match &last.id {
                TransactionId::Number(id) => out.extend_from_slice(&id.to_le_bytes()),
                TransactionId::Text(id) => put_text(out, "transaction id", id, NAME_BYTES_MAX, u16::to_le_bytes)?,
            }
            out.extend_from_slice(&last.time.0.to_le_bytes());
            out.extend_from_slice(&last.start.0.to_le_bytes());
            out.extend_from_slice(&last.end.0.to_le_bytes());
        }
        if let Some(confirmed) = summary.confirmed {
            out.extend_from_slice(&confirmed.0.to_le_bytes());
        }
        put_text(out, "position", &summary.position.0, POSITION_BYTES_MAX, u32::to_le_bytes)?;
        let count = u32::try_from(summary.restore_points.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&count.to_le_bytes());
        for point in &summary.restore_points {
            put_text(out, "restore point's name", &point.name, NAME_BYTES_MAX, u16::to_le_bytes)?;
            out.extend_from_slice(&point.time.0.to_le_bytes());
            out.extend_from_slice(&point.end.0.to_le_bytes());
        }
        if !summary.changes.is_empty() {
            put_changes(out, &summary.changes)?;
        }
        let whole = out.len() - at + 4 + TRAILER_BYTES;
        if whole > FOOTER_BYTES_MAX {
            return Err(Error::failure(format!(
                "footer of {whole} bytes is too large, {FOOTER_BYTES_MAX} is the limit: the segment holds {} restore points",
                summary.restore_points.len()
            )));
        }
        end_frame(out, at, 4 + TRAILER_BYTES)?;
        let crc = crc32c(&out[at..]);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&(whole as u32).to_le_bytes());
        out.extend_from_slice(FOOTER_MAGIC);
        Ok(())
    }

    /// How long the footer is that `last_bytes` end with; they may be just the last
    /// [`TRAILER_BYTES`].
    ///
    /// # Errors
    /// [`Kind::Corruption`] when they are not the end of a segment.
    pub fn len(last_bytes: &[u8]) -> Result<usize> {
        let trailer =
            last_bytes.len().checked_sub(TRAILER_BYTES).and_then(|at| last_bytes.get(at..)).ok_or_else(|| {
                Error::corruption(format!("{} bytes are too few for the end of a segment", last_bytes.len()))
            })?;
        let mut fields = Fields::new("footer", trailer);
        let len = fields.u32()? as usize;
        magic("footer", fields.take(FOOTER_MAGIC.len())?, FOOTER_MAGIC)?;
        if len <= HEAD + 4 + TRAILER_BYTES || len > FOOTER_BYTES_MAX {
            return Err(Error::corruption(format!(
                "footer says it is {len} bytes long, {FOOTER_BYTES_MAX} is the limit"
            )));
        }
        Ok(len)
    }

    /// Reads a whole footer, no byte more or less, and whose it is.
    ///
    /// # Errors
    /// As [`Header::decode`].
    pub fn decode(bytes: &[u8]) -> Result<(Owner, Self)> {
        let len = Self::len(bytes)?;
        skippable(&mut Fields::new("footer", bytes), "footer")?;
        let frame = frame_len("footer", bytes, FOOTER_BYTES_MAX)?;
        if frame != len || bytes.len() != len {
            return Err(Error::corruption(format!(
                "footer of {} bytes says {frame} at its head and {len} at its end",
                bytes.len()
            )));
        }
        let covered = check_crc("footer", bytes, TRAILER_BYTES)?;

        let mut fields = Fields::new("footer", covered);
        fields.take(HEAD)?;
        version(fields.u16()?)?;
        let flags = fields.u8()?;
        let known = TIMES | IDS | LAST | CONFIRMED | LAST_COMMITTED | LAST_IS_TEXT | TABLES;
        if flags & !known != 0 || (flags & LAST == 0 && flags & (LAST_COMMITTED | LAST_IS_TEXT) != 0) {
            return Err(Error::corruption(format!(
                "footer has flags {flags:#04x}, which version {VERSION} never sets"
            )));
        }
        let has = |bit: u8| flags & bit != 0;
        let owner = Owner { cluster: cluster(&mut fields)?, timeline: TimelineId(fields.u32()?), epoch: fields.u32()? };
        let range = OffsetRange::new(Offset(fields.u64()?), Offset(fields.u64()?));
        let boundary = Offset(fields.u64()?);
        let (raw_bytes, raw_crc, stored_crc) = (fields.u64()?, fields.u32()?, fields.u32()?);
        let transactions = fields.u64()?;
        let times = if has(TIMES) { Some((Timestamp(fields.i64()?), Timestamp(fields.i64()?))) } else { None };
        let ids = if has(IDS) { Some((fields.u64()?, fields.u64()?)) } else { None };
        let last = if has(LAST) {
            let id = if has(LAST_IS_TEXT) {
                let len = fields.u16()?;
                TransactionId::Text(fields.text(len.into())?.into())
            } else {
                TransactionId::Number(fields.u64()?)
            };
            Some(Transaction {
                id,
                time: Timestamp(fields.i64()?),
                committed: has(LAST_COMMITTED),
                start: Offset(fields.u64()?),
                end: Offset(fields.u64()?),
            })
        } else {
            None
        };
        let confirmed = if has(CONFIRMED) { Some(Timestamp(fields.i64()?)) } else { None };
        let len = fields.u32()? as usize;
        let position = Position(fields.text(len)?.to_owned());
        let count = fields.u32()? as usize;
        // Never more room than the bytes at hand can fill: a point takes at least 18.
        let mut restore_points = Vec::with_capacity(count.min(fields.left() / 18));
        for _ in 0..count {
            let len = fields.u16()?;
            restore_points.push(RestorePoint {
                name: fields.text(len.into())?.to_owned(),
                time: Timestamp(fields.i64()?),
                end: Offset(fields.u64()?),
            });
        }
        let changes = if has(TABLES) { changes(&mut fields)? } else { Changes::default() };
        fields.end()?;

        let summary =
            Summary { range, boundary, transactions, times, ids, last, restore_points, changes, confirmed, position };
        let footer = Self { summary, raw_bytes, raw_crc, stored_crc };
        match footer.contradiction() {
            None => Ok((owner, footer)),
            Some(what) => Err(Error::corruption(format!("footer contradicts itself: {what}"))),
        }
    }

    /// What in this footer cannot be true. Checked before it is written and after it
    /// is read.
    fn contradiction(&self) -> Option<String> {
        let Summary { range, boundary, times, ids, .. } = &self.summary;
        if range.is_empty() {
            return Some(format!("range {range} is empty"));
        }
        if self.raw_bytes != range.len() {
            return Some(format!("{} raw bytes in range {range} of {} bytes", self.raw_bytes, range.len()));
        }
        if *boundary > range.end {
            return Some(format!("boundary {boundary} lies past the end {}", range.end));
        }
        if let Some((earliest, latest)) = times.filter(|(earliest, latest)| earliest > latest) {
            return Some(format!("earliest time {earliest} is later than latest {latest}"));
        }
        if let Some((smallest, largest)) = ids.filter(|(smallest, largest)| smallest > largest) {
            return Some(format!("smallest id {smallest} is larger than largest {largest}"));
        }
        None
    }
}

fn put_changes(out: &mut Vec<u8>, changes: &Changes) -> Result<()> {
    let count = u8::try_from(changes.tables.len()).ok().filter(|count| usize::from(*count) <= TABLES_MAX);
    let count = count.ok_or_else(|| Error::failure(format!("{} tables are too many", changes.tables.len())))?;
    out.extend_from_slice(&[changes.more.into(), count]);
    for TableChanges { table, counts } in &changes.tables {
        put_text(out, "table's name", table, NAME_BYTES_MAX, u16::to_le_bytes)?;
        let kinds = counts.kinds();
        out.push(kinds.bits());
        for kind in ChangeKind::ALL.into_iter().filter(|kind| kinds.has(*kind)) {
            out.extend_from_slice(&counts.get(kind).to_le_bytes());
        }
    }
    Ok(())
}

fn changes(fields: &mut Fields<'_>) -> Result<Changes> {
    let unknown = |what: &str, value: u8| {
        Error::corruption(format!("footer has {what} {value:#04x}, which version {VERSION} never writes"))
    };
    let more = match fields.u8()? {
        0 => false,
        1 => true,
        other => return Err(unknown("a mark for more tables of", other)),
    };
    let count = fields.u8()?;
    if usize::from(count) > TABLES_MAX || (count == 0 && !more) {
        return Err(unknown("a number of tables of", count));
    }
    let mut tables = Vec::with_capacity(count.into());
    for _ in 0..count {
        let len = fields.u16()?;
        let table = fields.text(len.into())?.into();
        let bits = fields.u8()?;
        let kinds = Kinds::from_bits(bits).ok_or_else(|| unknown("kinds of changes", bits))?;
        let mut counts = Counts::default();
        for kind in ChangeKind::ALL.into_iter().filter(|kind| kinds.has(*kind)) {
            counts.add(kind, fields.u64()?);
        }
        tables.push(TableChanges { table, counts });
    }
    Ok(Changes { tables, more })
}

/// Writes the head of a skippable frame with its length open; gives where it begins.
fn begin_frame(out: &mut Vec<u8>) -> usize {
    let at = out.len();
    out.extend_from_slice(&SKIPPABLE.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    at
}

/// Fills in the length of the frame that began at `at` and takes `more` bytes still.
fn end_frame(out: &mut [u8], at: usize, more: usize) -> Result<()> {
    let len =
        u32::try_from(out.len() - at - HEAD + more).map_err(|e| Error::failure("frame is too large").because(e))?;
    out[at + 4..at + HEAD].copy_from_slice(&len.to_le_bytes());
    Ok(())
}

/// Refuses anything but a skippable frame of ours.
fn skippable(fields: &mut Fields<'_>, what: &str) -> Result<()> {
    match fields.u32()? {
        SKIPPABLE => Ok(()),
        other => Err(Error::corruption(format!("{what} begins with {other:#010x}, expected {SKIPPABLE:#010x}"))),
    }
}

/// Length of the skippable frame at the beginning of `bytes`, with its head.
fn frame_len(what: &'static str, bytes: &[u8], limit: usize) -> Result<usize> {
    let mut fields = Fields::new(what, bytes);
    fields.take(4)?;
    let len = (fields.u32()? as usize).saturating_add(HEAD);
    if len > limit {
        return Err(Error::corruption(format!("{what} says it is {len} bytes long, {limit} is the limit")));
    }
    Ok(len)
}

/// Checks the CRC that stands before the last `after` bytes; gives what it covers.
fn check_crc<'a>(what: &'static str, bytes: &'a [u8], after: usize) -> Result<&'a [u8]> {
    let mut fields = Fields::new(what, bytes);
    let covered = fields.take(bytes.len().saturating_sub(after + 4))?;
    let stated = fields.u32()?;
    let found = crc32c(covered);
    if stated == found {
        Ok(covered)
    } else {
        Err(Error::corruption(format!("{what} has checksum {found:08x}, expected {stated:08x}")))
    }
}

fn magic(what: &str, found: &[u8], expected: &[u8; 8]) -> Result<()> {
    if found == expected {
        Ok(())
    } else {
        Err(Error::corruption(format!(
            "{what} is marked \"{}\", expected \"{}\"",
            found.escape_ascii(),
            expected.escape_ascii()
        )))
    }
}

fn version(found: u16) -> Result<()> {
    if found == VERSION {
        Ok(())
    } else {
        Err(Error::new(Kind::Config, format!("segment has format version {found}, this pitr reads version {VERSION}"))
            .hint("was the archive written by a newer pitr? use that version"))
    }
}

fn cluster(fields: &mut Fields<'_>) -> Result<ClusterName> {
    let len = fields.u8()?;
    fields.text(len.into())?.parse().map_err(|e: Error| e.with_kind(Kind::Corruption))
}

#[cfg(test)]
mod tests;
