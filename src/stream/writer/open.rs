//! The segment being filled, and what of it goes to the store before it is through.
//!
//! A segment of a log file takes as long as the server needs to fill it. Where a tail holds it that does no harm. Stores
//! without tails get it in small segments meanwhile, each made from the same bytes as the whole one, so that nothing has to be read back.
//! The whole one takes the place of the last small one, and so costs no request of its own.
//!
//! A server that commits a little now and then takes a day for a log file, and each second of that would be an object to whoever
//! reads its end. So wider segments are made on the way in the same manner: one of [`JOINED`] small ones goes up instead of the last of those, and one of
//! as many of those.

use bytes::Bytes;

use super::compressing::Compressing;
use crate::error::Result;
use crate::model::changes::Changes;
use crate::model::mark::Mark;
use crate::model::offset::{Offset, OffsetRange};
use crate::model::summary::Summary;
use crate::model::time::Timestamp;
use crate::segment::cutter::Limits;
use crate::segment::write::SegmentWriter;
use crate::stream::tail::Tail;

/// Small segments in a wider one, and of those in a wider one yet.
const JOINED: u32 = 64;
/// How often they are joined.
const LEVELS: usize = 3;
/// Of log that comes faster than this part of the whole segment in a small one nothing is joined: soon it is whole.
const SLOW: u64 = 256;
/// Nor is what makes up this part of the whole one, which costs memory once more.
const MOST: u64 = 4;

/// A segment as large as it may become.
pub(super) struct Open {
    /// Its bytes on a disk, where tails are kept.
    pub(super) tail: Option<Box<Tail>>,
    pub(super) segment: Compressing,
    pub(super) summary: Summary,
    pub(super) opened: Timestamp,
    /// Whether small segments of it are made.
    pub(super) in_parts: bool,
    /// What has come since the last small segment.
    pub(super) small: Option<Small>,
    /// What is to be joined, while log comes slowly: since the last one of that width went up.
    pub(super) wider: Vec<Option<Wider>>,
    /// The first small segment, if one was made.
    pub(super) sent: Option<OffsetRange>,
}

/// A small segment being filled.
pub(super) struct Small {
    pub(super) segment: Compressing,
    pub(super) summary: Summary,
    pub(super) opened: Timestamp,
}

/// A segment that joins small ones, being filled.
pub(super) struct Wider {
    segment: Compressing,
    summary: Summary,
    /// Small segments that went up and lie in it.
    holds: u32,
}

impl Open {
    /// Begins a small segment, and with it those wider ones that are not begun: `wider` makes one that is compressed on the spot, for
    /// there is little of it and many of them.
    pub(super) fn begin_parts(
        &mut self,
        small: Compressing,
        opened: Timestamp,
        wider: impl Fn() -> Box<SegmentWriter>,
    ) {
        let summary = Summary::empty(self.summary.range.end, self.summary.boundary);
        for missing in self.wider.iter_mut().filter(|wider| wider.is_none()) {
            let segment = Compressing::Here(wider());
            *missing = Some(Wider { segment, summary: summary.clone(), holds: 0 });
        }
        self.small = Some(Small { segment: small, summary, opened });
    }

    /// What goes up now: the small segment or, instead of the last of many, one that joins them.
    pub(super) fn take_part(&mut self, limits: &Limits) -> Option<(Compressing, Summary)> {
        let Small { segment, summary, .. } = self.small.take()?;
        let mut part = (segment, summary);
        if part.1.range.len() > limits.largest() / SLOW {
            self.wider.clear();
        } else if self.wider.is_empty() {
            self.wider.resize_with(LEVELS, || None);
        }
        let is_large = |wider: &Option<Wider>| {
            wider.as_ref().is_some_and(|wider| wider.summary.range.len() > limits.largest() / MOST)
        };
        while self.wider.last().is_some_and(is_large) {
            self.wider.pop();
        }
        let mut enough = JOINED;
        for wider in &mut self.wider {
            let holds = wider.as_mut().map_or(0, |wider| {
                wider.holds += 1;
                wider.holds
            });
            if holds == enough
                && let Some(Wider { segment, summary, .. }) = wider.take()
            {
                part = (segment, summary);
            }
            enough = enough.saturating_mul(JOINED);
        }
        Some(part)
    }

    /// Its first byte.
    pub(super) fn start(&self) -> Offset {
        self.summary.range.start
    }

    /// Takes the next bytes, the marks that end in them, and where the last whole record ends then.
    pub(super) fn append(&mut self, piece: Bytes, marks: &mut Vec<Mark>, boundary: Offset) -> Result<()> {
        if let Some(small) = &mut self.small {
            marks.iter().for_each(|mark| small.summary.add(mark.clone()));
            reach(&mut small.summary, piece.len(), boundary);
            small.segment.feed(piece.clone());
        }
        for wider in self.wider.iter_mut().flatten() {
            marks.iter().for_each(|mark| wider.summary.add(mark.clone()));
            reach(&mut wider.summary, piece.len(), boundary);
            wider.segment.feed(piece.clone());
        }
        marks.drain(..).for_each(|mark| self.summary.add(mark));
        reach(&mut self.summary, piece.len(), boundary);
        if let Some(tail) = &mut self.tail {
            tail.append(&piece)?;
        }
        self.segment.feed(piece);
        Ok(())
    }

    /// Takes note of what the log that has come did to tables.
    pub(super) fn add_changes(&mut self, changes: &Changes) {
        self.summary.changes.merge(changes);
        if let Some(small) = &mut self.small {
            small.summary.changes.merge(changes);
        }
        for wider in self.wider.iter_mut().flatten() {
            wider.summary.changes.merge(changes);
        }
    }
}

fn reach(summary: &mut Summary, bytes: usize, boundary: Offset) {
    summary.range.end = Offset(summary.range.end.0 + bytes as u64);
    summary.boundary = boundary;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::offset::Offset;
    use crate::model::timeline::TimelineId;
    use crate::segment::codec::Compression;
    use crate::segment::cutter::NO_FILES;
    use crate::segment::format::Header;

    const LIMITS: Limits = Limits { log_file_bytes: NO_FILES, segment_bytes: 1 << 20, flush_interval_micros: Some(1) };

    fn writer(start: Offset) -> Box<SegmentWriter> {
        let (cluster, engine) = ("main".parse().unwrap(), "toy".to_owned());
        let header = Header { cluster, engine, timeline: TimelineId(1), start, epoch: 1 };
        Box::new(SegmentWriter::new(header, Compression::Lz4))
    }

    fn open() -> Open {
        let summary = Summary::empty(Offset(0), Offset(0));
        let segment = Compressing::Here(writer(Offset(0)));
        Open {
            tail: None,
            segment,
            summary,
            opened: Timestamp(0),
            in_parts: true,
            small: None,
            wider: Vec::new(),
            sent: None,
        }
    }

    impl Open {
        /// So many bytes, and what goes up then.
        fn part_of(&mut self, bytes: u64) -> OffsetRange {
            let at = self.summary.range.end;
            if self.small.is_none() {
                self.begin_parts(Compressing::Here(writer(at)), Timestamp(0), || writer(at));
            }
            let end = Offset(at.0 + bytes);
            self.append(Bytes::from(vec![7; bytes as usize]), &mut Vec::new(), end).unwrap();
            let (segment, summary) = self.take_part(&LIMITS).unwrap();
            assert_eq!(summary.boundary, end);
            // That its bytes are those of its range is what the footer is checked against.
            assert!(matches!(segment.close(summary.clone()), super::super::compressing::Closed::Finished(Ok(_))));
            summary.range
        }
    }

    /// Those that no other hides.
    fn seen(parts: &[OffsetRange]) -> Vec<OffsetRange> {
        let mut seen: Vec<OffsetRange> = Vec::new();
        for part in parts {
            seen.retain(|small| !part.covers(*small));
            seen.push(*part);
        }
        assert!(seen.windows(2).all(|pair| pair[0].end == pair[1].start), "{seen:?}");
        seen
    }

    #[test]
    fn of_slow_log_few_segments_are_seen_and_each_second_costs_one() {
        let mut open = open();
        let parts: Vec<OffsetRange> = (0..20_000).map(|_| open.part_of(10)).collect();
        assert_eq!(parts.len(), 20_000);
        let seen = seen(&parts);
        assert_eq!((seen[0].start, seen[seen.len() - 1].end), (Offset(0), Offset(200_000)));
        let joined = u64::from(JOINED);
        let lengths = |bytes: u64| seen.iter().filter(|part| part.len() == bytes * 10).count();
        assert_eq!(lengths(joined * joined), 4);
        assert_eq!(lengths(joined), (19_999 - 4 * 4096) / 64);
        assert_eq!(seen.len(), 1 + 4 + 56 + 31);
    }

    #[test]
    fn fast_log_is_not_joined() {
        let mut open = open();
        for _ in 0..200 {
            assert_eq!(open.part_of(5000).len(), 5000);
            assert!(open.wider.is_empty());
        }
        // It may become slow again, and fast.
        let parts: Vec<OffsetRange> = (0..66).map(|_| open.part_of(100)).collect();
        assert_eq!(seen(&parts).len(), 3);
        open.part_of(5000);
        assert!(open.wider.is_empty());
    }

    /// What is held twice stays little.
    #[test]
    fn wide_segments_are_given_up_when_they_grow_large() {
        let mut open = open();
        for _ in 0..200 {
            open.part_of(4000);
        }
        assert!(open.wider.iter().flatten().all(|wider| wider.summary.range.len() < (1 << 20) / MOST + 8000));
    }
}
