//! What a cluster's store holds, as one value that plans are made from.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::changes::Touched;
use crate::model::cluster::Identity;
use crate::model::offset::{Offset, OffsetRange};
use crate::model::position::Position;
use crate::model::summary::{RestorePoint, Summary};
use crate::model::time::Timestamp;
use crate::model::timeline::{History, TimelineId};

use damage::Damaged;
use index::Indexed;
use layout::ObjectName;

pub mod archive;
pub mod damage;
pub mod fence;
pub mod index;
pub mod layout;
pub mod load;
pub mod positions;
pub mod sound;

/// What a cluster's store holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    /// Which database this is.
    pub identity: Identity,
    /// Its log, by timeline.
    pub timelines: BTreeMap<TimelineId, TimelineLog>,
    /// Its base backups, oldest first.
    pub bases: Vec<BaseInfo>,
    /// Manifests of bases that are damaged. Whether such a base could be used is not known,
    /// so none is.
    pub damaged_bases: Vec<Damaged>,
}

impl Catalog {
    /// The newest timeline that holds log, be it damaged by now. One of which nothing tells
    /// where it comes from does not count, unless it is the first: it may be that of a
    /// restored copy.
    #[must_use]
    pub fn newest_timeline(&self) -> Option<TimelineId> {
        let holds_log = |log: &TimelineLog| !log.segments.is_empty() || log.damaged_end().is_some();
        let history = |damaged: &Damaged| matches!(damaged.is, ObjectName::History(_));
        let is_known = |log: &TimelineLog| log.history.is_some() || log.damaged.iter().any(history);
        let mut with_log = self.timelines.iter().filter(|(_, log)| holds_log(log));
        let (first, _) = with_log.next()?;
        Some(*with_log.rfind(|(_, log)| is_known(log)).map_or(first, |(newest, _)| newest))
    }

    /// Whether the present can be reached from no base: there is none, or log is missing
    /// behind each. A base on a younger timeline needs none of its ancestors' log.
    #[must_use]
    pub fn lacks_base(&self) -> bool {
        let last_gap =
            self.timelines.iter().filter_map(|(&timeline, log)| Some((timeline, log.last_gap_end()?))).next_back();
        let behind = |base: &BaseInfo| {
            last_gap.is_none_or(|(timeline, end)| {
                base.timeline > timeline || (base.timeline == timeline && base.start >= end)
            })
        };
        !self.bases.iter().any(behind)
    }
}

/// The log of one timeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimelineLog {
    /// Where the timeline comes from; `None` for one without ancestors.
    pub history: Option<History>,
    /// Segments in order of their start, without those that a wider one supersedes.
    /// They neither overlap nor repeat; two that do not touch have a gap between them.
    pub segments: Vec<SegmentInfo>,
    /// Restore points in log order.
    pub restore_points: Vec<RestorePoint>,
    /// Which tables the segments change that begin there, if they change any and no index tells.
    pub touched: BTreeMap<Offset, Arc<Touched>>,
    /// Recorded gaps in order of their start.
    pub gaps: Vec<Gap>,
    /// The rolled-up footers, in order, without those a wider one supersedes. See [`index`].
    pub indexes: Vec<Indexed>,
    /// The log is known to be complete up to this moment of the source's clock.
    pub confirmed: Option<Timestamp>,
    /// Objects that were set aside, segments in order of their start.
    pub damaged: Vec<Damaged>,
}

impl TimelineLog {
    /// Whether the segments hold every byte of the range.
    #[must_use]
    pub fn holds(&self, range: OffsetRange) -> bool {
        let first = self.segments.partition_point(|s| s.range.end <= range.start);
        let mut at = range.start;
        for segment in self.segments.iter().skip(first) {
            if segment.range.start > at || at >= range.end {
                break;
            }
            at = segment.range.end;
        }
        at >= range.end
    }

    /// Where streaming goes on, and how many segments lie before that: the end of the log
    /// that has no hole but recorded gaps. What lies behind an unrecorded hole does not
    /// count, for nobody may acknowledge log that is in no segment. An index was made of
    /// unbroken log, so the search begins behind the last one. `None` without log.
    ///
    /// A damaged segment is no hole where log follows it: it was whole once, its name still
    /// tells its range, and the server was told of it and of more. Where it is the last one
    /// streaming goes on at its start, for the server may still have that log.
    #[must_use]
    pub fn unbroken(&self) -> Option<(usize, Offset)> {
        let indexed = self.indexes.last().map(|index| index.range.end);
        let mut at = indexed.or_else(|| self.segments.first().map(|s| s.range.start))?;
        let mut count = self.segments.partition_point(|s| s.range.end <= at);
        for segment in self.segments.iter().skip(count) {
            if segment.range.start > at && self.past_holes(at) < segment.range.start {
                break;
            }
            at = at.max(segment.range.end);
            count += 1;
        }
        Some((count, self.past_gaps(at)))
    }

    /// As [`TimelineLog::past_gaps`], past damaged segments, too.
    fn past_holes(&self, mut offset: Offset) -> Offset {
        let damaged = |offset| self.damaged.iter().filter_map(Damaged::log).find(|range| range.contains(offset));
        let gap = |offset| self.gaps.iter().map(|gap| gap.range).find(|range| range.contains(offset));
        while let Some(hole) = gap(offset).or_else(|| damaged(offset)) {
            offset = hole.end;
        }
        offset
    }

    /// Where the last log ends that is missing for good: a recorded gap, or a damaged segment
    /// that streaming will not fetch again.
    fn last_gap_end(&self) -> Option<Offset> {
        let gap = self.gaps.last().map(|gap| gap.range.end);
        let end = self.unbroken().map_or(Offset::ZERO, |(_, end)| end);
        let lost = self.lost().map(|(range, _)| range).filter(|range| range.end <= end).map(|range| range.end);
        gap.max(lost.max())
    }

    /// Where log can be had again when a recorded gap, or several in a row, hold `offset`.
    #[must_use]
    pub fn past_gaps(&self, mut offset: Offset) -> Offset {
        while let Some(gap) = self.gaps.iter().find(|gap| gap.range.contains(offset)) {
            offset = gap.range.end;
        }
        offset
    }
}

/// A segment, as planning sees it: small, for there may be millions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// The bytes it holds.
    pub range: OffsetRange,
    /// Where the last whole record at or before its end ends.
    pub boundary: Offset,
    /// Epoch of its writer.
    pub epoch: u32,
    /// Transactions that end in it.
    pub transactions: u32,
    /// Earliest and latest end of a transaction in it.
    pub times: Option<(Timestamp, Timestamp)>,
    /// Smallest and largest numeric transaction id in it.
    pub ids: Option<(u64, u64)>,
    /// Where its bytes are.
    pub holder: Holder,
}

impl SegmentInfo {
    /// What a segment's summary says, for planning.
    #[must_use]
    pub fn of(summary: &Summary, epoch: u32, holder: Holder) -> Self {
        Self {
            range: summary.range,
            boundary: summary.boundary,
            epoch,
            transactions: u32::try_from(summary.transactions).unwrap_or(u32::MAX),
            times: summary.times,
            ids: summary.ids,
            holder,
        }
    }

    /// The object that holds its bytes.
    #[must_use]
    pub const fn object(&self, timeline: TimelineId) -> ObjectName {
        match self.holder {
            Holder::Segment(codec) => ObjectName::Segment { timeline, range: self.range, epoch: self.epoch, codec },
            Holder::Tail => ObjectName::Tail { timeline, start: self.range.start, epoch: self.epoch },
        }
    }
}

/// What kind of object holds a segment's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A closed segment compressed with this codec.
    Segment(Codec),
    /// The open tail, raw.
    Tail,
}

/// How a segment is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// LZ4 frame.
    Lz4,
    /// Zstandard frame.
    Zstd,
}

/// A range the archive does not hold, with its cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gap {
    /// The missing bytes.
    pub range: OffsetRange,
    /// Why they are missing, in a sentence.
    pub cause: String,
    /// When the gap was found, by the archiver's clock.
    pub found: Timestamp,
    /// The log before the gap is known to be complete up to this moment.
    #[serde(default)]
    pub confirmed: Option<Timestamp>,
    /// The end of the gap in the engine's words, where the offset does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
}

/// A base backup, as planning sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseInfo {
    /// Its name: when it began and a few random letters, so that names sort by time.
    pub id: String,
    /// The timeline it was taken on.
    pub timeline: TimelineId,
    /// Replay begins here.
    pub start: Offset,
    /// It is consistent from here on.
    pub end: Offset,
    /// When it began, by the archiver's clock.
    pub began: Timestamp,
    /// When it ended, by the source's clock where it told, else by the archiver's.
    pub ended: Timestamp,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes this base added to the store.
    pub stored_bytes: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn base(timeline: u32, start: u64) -> BaseInfo {
        BaseInfo {
            id: format!("{timeline}-{start}"),
            timeline: TimelineId(timeline),
            start: Offset(start),
            end: Offset(start + 10),
            began: Timestamp(0),
            ended: Timestamp(0),
            bytes: 0,
            stored_bytes: 0,
        }
    }

    fn lacks_base(bases: &[BaseInfo], gaps: &[(u32, u64, u64)]) -> bool {
        let mut timelines: BTreeMap<TimelineId, TimelineLog> = BTreeMap::new();
        for &(timeline, start, end) in gaps {
            let range = OffsetRange::new(Offset(start), Offset(end));
            let gap = Gap { range, cause: "recycled".into(), found: Timestamp(0), confirmed: None, position: None };
            timelines.entry(TimelineId(timeline)).or_default().gaps.push(gap);
        }
        let identity = Identity::some(100);
        Catalog { identity, timelines, bases: bases.to_vec(), damaged_bases: Vec::new() }.lacks_base()
    }

    #[test]
    fn an_archive_without_bases_lacks_one() {
        assert!(lacks_base(&[], &[]));
        assert!(!lacks_base(&[base(1, 50)], &[]));
    }

    #[test]
    fn a_base_before_the_last_gap_is_none_and_one_behind_it_is() {
        let gaps = [(1, 100, 200), (1, 300, 400)];
        assert!(lacks_base(&[base(1, 50), base(1, 250), base(1, 399)], &gaps));
        assert!(!lacks_base(&[base(1, 50), base(1, 400)], &gaps));
    }

    #[test]
    fn a_base_on_a_younger_timeline_needs_no_log_of_the_older() {
        assert!(!lacks_base(&[base(2, 250)], &[(1, 300, 400)]));
        assert!(lacks_base(&[base(1, 900)], &[(1, 300, 400), (2, 300, 400)]));
    }

    /// What a stretch of log is: in a segment, in a recorded gap, in both, in neither.
    fn log_of(pieces: &[(u64, u8)], indexed: Option<usize>) -> (TimelineLog, Vec<u8>) {
        let (mut log, mut bytes) = (TimelineLog::default(), Vec::new());
        for (number, &(len, kind)) in pieces.iter().enumerate() {
            let start = bytes.len() as u64;
            let range = OffsetRange::new(Offset(start), Offset(start + len));
            bytes.resize(bytes.len() + len as usize, kind);
            if kind & 1 != 0 {
                let summary = Summary { range, boundary: range.end, ..Summary::empty(range.start, range.start) };
                log.segments.push(SegmentInfo::of(&summary, 1, Holder::Segment(Codec::Lz4)));
            }
            if kind & 2 != 0 {
                log.gaps.push(Gap {
                    range,
                    cause: "recycled".into(),
                    found: Timestamp(0),
                    confirmed: None,
                    position: None,
                });
            }
            if indexed == Some(number) {
                log.indexes.push(Indexed { level: 0, range: OffsetRange::new(Offset(0), range.end), epoch: 1 });
            }
        }
        (log, bytes)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        /// Held against a look at every byte.
        #[test]
        fn log_is_held_when_every_byte_is_and_goes_on_where_one_is_neither_held_nor_known_to_be_lost(
            pieces in prop::collection::vec((1..5_u64, 0..4_u8), 0..8),
            indexed in prop::option::of(0..8_usize),
        ) {
            let (log, bytes) = log_of(&pieces, indexed);
            let at = |offset: u64| bytes.get(offset as usize).copied().unwrap_or_default();
            for start in 0..36 {
                for end in start + 1..36 {
                    let held = (start..end).all(|offset| at(offset) & 1 != 0);
                    prop_assert_eq!(log.holds(OffsetRange::new(Offset(start), Offset(end))), held, "{}-{}", start, end);
                }
                let lost = (start..).find(|offset| at(*offset) & 2 == 0).unwrap();
                prop_assert_eq!(log.past_gaps(Offset(start)), Offset(lost), "from {}", start);
            }
            let first = log.indexes.last().map(|i| i.range.end).or(log.segments.first().map(|s| s.range.start));
            let expected = first.map(|first| {
                let end = (first.0..).find(|offset| at(*offset) == 0).unwrap();
                (log.segments.iter().filter(|s| s.range.start.0 < end).count(), Offset(end))
            });
            prop_assert_eq!(log.unbroken(), expected);
        }
    }
}
