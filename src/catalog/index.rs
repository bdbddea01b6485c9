//! Rolled-up footers, so that planning reads few objects.
//!
//! Promise: an index is *all* the catalog knows of its range: the segments and restore
//! points there, with holes where log is missing. The ranges of a timeline's indexes
//! follow one another without a break, so that the end of the last one tells from
//! where footers must be read. Every [`NARROW`] segments make an index of level 0, and [`MERGE`] of one level become one of the next,
//! which supersedes them (wider wins): of a million segments some twenty objects tell, and each entry is written eight times.
//!
//! Relies on: nobody adds a segment inside the range of an index. About 20 bytes per
//! segment.
//!
//! ```text
//!  0  8  "PITRIDX1"
//!  8  4  timeline           12  4  epoch of the writer of the index
//! 16  8  start of the range 24  8  end of the range
//! 32  4  segments           36  4  restore points
//! 40  1  length of the cluster's name, then the name
//!        segments, restore points, tables
//!        4  CRC-32C of everything before
//! ```
//!
//! All fixed fields are little-endian; `v` is a LEB128 varint, `z` one of a zigzag number.
//! Differences are to the segment (point) before, wrapping; the first differs from the
//! start of the range and from 0.
//!
//! ```text
//! segment  u8  flags: 1 zstd, 2 has times, 4 has ids, 8 a hole lies before it
//!          v   bytes of the hole (flag 8)
//!          v   bytes                     v   end - boundary
//!          z   epoch, difference         v   transactions
//!          z   earliest - latest of the segment before     v   latest - earliest   (flag 2)
//!          z   lowest id - that of the segment before      v   highest - lowest    (flag 4)
//! point    v   end, difference           z   time, difference
//!          v   bytes of the name, then the name
//! tables   v   names, each: v bytes of the name, then the name
//!          v   sets, each: v tables * 2 + 1 if there are more, and for each: v which name, u8 kinds
//!              runs, until there is a set for each segment: v segments, v which set
//! ```
//! Names, and sets, are numbered from 0 in the order of their first use, and none is there twice.
//! No set: no segment changes any table that is known.

use std::sync::Arc;

use super::{Codec, Holder, SegmentInfo, TimelineLog};
use crate::error::{Error, Result};
use crate::model::changes::Touched;
use crate::model::cluster::ClusterName;
use crate::model::offset::{Offset, OffsetRange};
use crate::model::summary::RestorePoint;
use crate::model::time::Timestamp;
use crate::model::timeline::TimelineId;

mod fields;
mod touched;

use fields::{Reader, put_signed, put_unsigned};

/// Segments in an index of level 0.
pub const NARROW: usize = 16;
/// Indexes of one level in one of the next.
pub const MERGE: usize = 4;
/// The highest level: 262,144 segments, 4 TiB of ordinary log.
pub const LEVEL_MAX: u8 = 7;

/// What to do about a damaged one.
pub const IF_DAMAGED: &str = "nothing is lost: footers are read in its place, which takes longer; put an intact copy of it back, if there is one";

const MAGIC: &[u8; 8] = b"PITRIDX1";
const ZSTD: u8 = 1;
const TIMES: u8 = 2;
const IDS: u8 = 4;
const HOLE: u8 = 8;

/// The rolled-up footers of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The timeline.
    pub timeline: TimelineId,
    /// What this index speaks of.
    pub range: OffsetRange,
    /// Epoch of the writer of the index.
    pub epoch: u32,
    /// The segments in the range, in order.
    pub segments: Vec<SegmentInfo>,
    /// The restore points in the range, in order.
    pub restore_points: Vec<RestorePoint>,
    /// Which tables each of the segments changes; empty if none of them changes any.
    pub touched: Vec<Arc<Touched>>,
}

/// An index, as its name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Indexed {
    /// How often it was merged.
    pub level: u8,
    /// From the start of its first segment to the end of its last.
    pub range: OffsetRange,
    /// Epoch of its writer.
    pub epoch: u32,
}

/// What index to write next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// One of level 0, of the segments in this range.
    Narrow(OffsetRange),
    /// One of the next level, of what these hold.
    Wider(Vec<Indexed>),
}

/// Which index to write next, if one is due. `log` is what the catalog holds, at least past the indexes, of log files of so many bytes: an index
/// ends with one of them, for small segments of one that still grows are to be hidden by a wider one, which begins before the index's end and
/// would not be listed.
#[must_use]
pub fn due(log: &TimelineLog, log_file_bytes: u64) -> Option<Due> {
    // Of as many as there are the first are merged, so that levels never rise from one index to the next.
    let same_level = log.indexes.chunk_by(|a, b| a.level == b.level).rev();
    for same in same_level.filter(|same| same.first().is_some_and(|index| index.level < LEVEL_MAX)) {
        if let Some(merged) = same.get(..MERGE) {
            return Some(Due::Wider(merged.to_vec()));
        }
    }
    let indexed = log.indexes.last().map(|index| index.range.end);
    let first = indexed.map_or(0, |end| log.segments.partition_point(|s| s.range.start < end));
    // What an index covers is not listed any more, so a hole that may yet be filled ends it,
    // and so does a damaged segment, which may yet be put back.
    let (unbroken, _) = log.unbroken()?;
    let next = log.segments.get(first).map(|s| s.range.start);
    let lost = log.lost().map(|(lost, _)| lost.start).find(|start| Some(*start) >= indexed.or(next));
    let closed = log.segments.get(first..unbroken)?.iter();
    let closed =
        closed.take_while(|s| matches!(s.holder, Holder::Segment(_)) && lost.is_none_or(|lost| s.range.end <= lost));
    let last = closed.clone().skip(NARROW - 1).find(|s| s.range.end.0.is_multiple_of(log_file_bytes))?;
    let start = indexed.or_else(|| closed.clone().next().map(|s| s.range.start))?;
    Some(Due::Narrow(OffsetRange::new(start, last.range.end)))
}

impl Index {
    /// The index of what `log` holds in `range`.
    #[must_use]
    pub fn of(log: &TimelineLog, timeline: TimelineId, range: OffsetRange, epoch: u32) -> Self {
        let segments: Vec<SegmentInfo> = log.segments.iter().filter(|s| range.covers(s.range)).copied().collect();
        let touched = |segment: &SegmentInfo| log.touched.get(&segment.range.start).cloned().unwrap_or_default();
        let touched = match log.touched.range(range.start..range.end).next() {
            Some(_) => segments.iter().map(touched).collect(),
            None => Vec::new(),
        };
        let points = log.restore_points.iter().filter(|p| range.start < p.end && p.end <= range.end);
        Self { timeline, range, epoch, segments, restore_points: points.cloned().collect(), touched }
    }

    /// What `parts`, which follow one another, hold together; `None` of nothing.
    #[must_use]
    pub fn merged(parts: Vec<Self>, epoch: u32) -> Option<Self> {
        let tells = parts.iter().any(|part| !part.touched.is_empty());
        parts.into_iter().map(|part| Self { epoch, ..part }).reduce(|mut whole, part| {
            whole.range.end = part.range.end;
            if tells {
                whole.touched.resize_with(whole.segments.len(), Arc::default);
                whole.touched.extend(part.touched);
                whole.touched.resize_with(whole.segments.len() + part.segments.len(), Arc::default);
            }
            whole.segments.extend(part.segments);
            whole.restore_points.extend(part.restore_points);
            whole
        })
    }

    /// Its bytes.
    ///
    /// # Errors
    /// [`crate::Kind::Failure`] for segments that overlap, lie outside of the range or
    /// are not closed, which is a bug.
    pub fn encode(&self, cluster: &ClusterName) -> Result<Vec<u8>> {
        let bug = |what: &str| Error::failure(format!("index {} of timeline {}: {what}", self.range, self.timeline));
        let count = |n: usize| u32::try_from(n).map_err(|e| bug("too many entries").because(e));
        let mut out = Vec::with_capacity(64 + 24 * self.segments.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.timeline.0.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.range.start.0.to_le_bytes());
        out.extend_from_slice(&self.range.end.0.to_le_bytes());
        out.extend_from_slice(&count(self.segments.len())?.to_le_bytes());
        out.extend_from_slice(&count(self.restore_points.len())?.to_le_bytes());
        let name = cluster.as_str();
        out.push(u8::try_from(name.len()).map_err(|e| bug("cluster name is too long").because(e))?);
        out.extend_from_slice(name.as_bytes());

        let mut before = Before::at(self.range.start);
        for segment in &self.segments {
            if segment.range.start < before.end || segment.range.is_empty() || segment.boundary > segment.range.end {
                return Err(bug(&format!("segment {} is out of place", segment.range)));
            }
            put_segment(&mut out, segment, &before).ok_or_else(|| bug("the open tail has no footer"))?;
            before.step(segment);
        }
        if before.end > self.range.end {
            return Err(bug(&format!("its last segment ends at {}", before.end)));
        }
        let (mut end, mut time) = (self.range.start.0, 0_i64);
        for point in &self.restore_points {
            put_unsigned(&mut out, point.end.0.wrapping_sub(end));
            put_signed(&mut out, point.time.0.wrapping_sub(time));
            put_unsigned(&mut out, point.name.len() as u64);
            out.extend_from_slice(point.name.as_bytes());
            (end, time) = (point.end.0, point.time.0);
        }
        if !matches!(self.touched.len(), n if n == 0 || n == self.segments.len()) {
            return Err(bug("it does not tell of each segment's tables"));
        }
        touched::put(&mut out, &self.touched);
        out.extend_from_slice(&crc_fast::crc32_iscsi(&out).to_le_bytes());
        Ok(out)
    }

    /// Reads the index object `name`, which says that it is `index` of `timeline`.
    ///
    /// # Errors
    /// [`crate::Kind::Corruption`] naming the object when it is not a sound index, or
    /// one of something else.
    pub fn decode(
        name: &str,
        cluster: &ClusterName,
        timeline: TimelineId,
        Indexed { range, epoch, .. }: Indexed,
        bytes: &[u8],
    ) -> Result<Self> {
        let (segments, restore_points, touched) = (Vec::new(), Vec::new(), Vec::new());
        let expected = Self { timeline, range, epoch, segments, restore_points, touched };
        expected
            .filled(cluster, bytes)
            .map_err(|flaw| Error::corruption(format!("index {name} {flaw}")).hint(IF_DAMAGED))
    }

    fn filled(mut self, cluster: &ClusterName, bytes: &[u8]) -> Result<Self, String> {
        const SHORT: &str = "is cut off";
        let (body, crc) =
            bytes.split_last_chunk::<4>().map(|(body, crc)| (body, u32::from_le_bytes(*crc))).ok_or(SHORT)?;
        let found = crc_fast::crc32_iscsi(body);
        if found != crc {
            return Err(format!("has checksum {found:08X} where it says {crc:08X}"));
        }
        let mut r = Reader(body);
        if r.array::<8>().ok_or(SHORT)? != *MAGIC {
            return Err("is not of a kind this version of pitr reads".to_owned());
        }
        let timeline = TimelineId(r.u32().ok_or(SHORT)?);
        let epoch = r.u32().ok_or(SHORT)?;
        let range = OffsetRange::new(Offset(r.u64().ok_or(SHORT)?), Offset(r.u64().ok_or(SHORT)?));
        let (segments, points) = (r.u32().ok_or(SHORT)?, r.u32().ok_or(SHORT)?);
        let len = r.u8().ok_or(SHORT)?;
        let owner = r.take(usize::from(len)).ok_or(SHORT)?;
        if (timeline, epoch, range) != (self.timeline, self.epoch, self.range) || owner != cluster.as_str().as_bytes() {
            return Err(format!(
                "is that of {range}, epoch {epoch}, timeline {timeline}, cluster {}",
                String::from_utf8_lossy(owner)
            ));
        }
        // The least an entry takes bounds what is reserved.
        self.segments.reserve((segments as usize).min(body.len() / 5));
        let mut before = Before::at(range.start);
        for at in 0..segments {
            let segment = read_segment(&mut r, &before)
                .filter(|s| s.range.end <= range.end)
                .ok_or_else(|| format!("holds no sound segment at place {at}"))?;
            before.step(&segment);
            self.segments.push(segment);
        }
        let mut last = RestorePoint { name: String::new(), time: Timestamp(0), end: range.start };
        for at in 0..points {
            last = read_point(&mut r, &last)
                .filter(|p| p.end <= range.end)
                .ok_or_else(|| format!("holds no sound restore point at place {at}"))?;
            self.restore_points.push(last.clone());
        }
        self.touched = touched::read(&mut r, self.segments.len()).ok_or("does not say soundly which tables changed")?;
        if r.0.is_empty() { Ok(self) } else { Err(format!("has {} bytes after its last entry", r.0.len())) }
    }
}

/// What the next entry is told apart from.
struct Before {
    end: Offset,
    epoch: u32,
    latest: i64,
    low: u64,
}

impl Before {
    const fn at(start: Offset) -> Self {
        Self { end: start, epoch: 0, latest: 0, low: 0 }
    }

    fn step(&mut self, segment: &SegmentInfo) {
        self.end = segment.range.end;
        self.epoch = segment.epoch;
        if let Some((_, latest)) = segment.times {
            self.latest = latest.0;
        }
        if let Some((low, _)) = segment.ids {
            self.low = low;
        }
    }
}

/// Appends a segment; `None` for a tail.
fn put_segment(out: &mut Vec<u8>, segment: &SegmentInfo, before: &Before) -> Option<()> {
    let Holder::Segment(codec) = segment.holder else { return None };
    let hole = segment.range.start.since(before.end);
    let flag = |on: bool, flag: u8| if on { flag } else { 0 };
    out.push(
        flag(codec == Codec::Zstd, ZSTD)
            | flag(segment.times.is_some(), TIMES)
            | flag(segment.ids.is_some(), IDS)
            | flag(hole > 0, HOLE),
    );
    if hole > 0 {
        put_unsigned(out, hole);
    }
    put_unsigned(out, segment.range.len());
    put_unsigned(out, segment.range.end.since(segment.boundary));
    put_signed(out, i64::from(segment.epoch) - i64::from(before.epoch));
    put_unsigned(out, u64::from(segment.transactions));
    if let Some((earliest, latest)) = segment.times {
        put_signed(out, earliest.0.wrapping_sub(before.latest));
        put_unsigned(out, latest.0.wrapping_sub(earliest.0).cast_unsigned());
    }
    if let Some((low, high)) = segment.ids {
        put_signed(out, low.wrapping_sub(before.low).cast_signed());
        put_unsigned(out, high.wrapping_sub(low));
    }
    Some(())
}

fn read_segment(r: &mut Reader<'_>, before: &Before) -> Option<SegmentInfo> {
    let flags = r.u8()?;
    if flags & !(ZSTD | TIMES | IDS | HOLE) != 0 {
        return None;
    }
    let hole = if flags & HOLE != 0 { Some(r.unsigned()?).filter(|hole| *hole > 0)? } else { 0 };
    let start = before.end.checked_add(hole)?;
    let end = start.checked_add(Some(r.unsigned()?).filter(|len| *len > 0)?)?;
    let boundary = Offset(end.0.checked_sub(r.unsigned()?)?);
    let epoch = u32::try_from(i64::from(before.epoch).checked_add(r.signed()?)?).ok()?;
    let transactions = u32::try_from(r.unsigned()?).ok()?;
    let mut segment = SegmentInfo {
        range: OffsetRange::new(start, end),
        boundary,
        epoch,
        transactions,
        times: None,
        ids: None,
        holder: Holder::Segment(if flags & ZSTD != 0 { Codec::Zstd } else { Codec::Lz4 }),
    };
    if flags & TIMES != 0 {
        let earliest = before.latest.wrapping_add(r.signed()?);
        let latest = earliest.wrapping_add(r.unsigned()?.cast_signed());
        segment.times = Some((Timestamp(earliest), Timestamp(latest))).filter(|(e, l)| e <= l);
        segment.times?;
    }
    if flags & IDS != 0 {
        let low = before.low.wrapping_add(r.signed()?.cast_unsigned());
        segment.ids = Some((low, low.checked_add(r.unsigned()?)?));
    }
    Some(segment)
}

fn read_point(r: &mut Reader<'_>, before: &RestorePoint) -> Option<RestorePoint> {
    let end = before.end.checked_add(r.unsigned()?)?;
    let time = Timestamp(before.time.0.wrapping_add(r.signed()?));
    let len = usize::try_from(r.unsigned()?).ok()?;
    let name = std::str::from_utf8(r.take(len)?).ok()?.to_owned();
    Some(RestorePoint { name, time, end })
}

#[cfg(test)]
mod tests;
