//! Typed name to object name and back; no other code builds or takes apart a name.
//!
//! ```text
//! <cluster>/cluster.json
//! <cluster>/epoch/<n>                                   n: 10 decimal digits
//! <cluster>/log/<timeline>/<start>-<end>-<epoch>.<lz4|zst>
//! <cluster>/log/<timeline>/tail-<start>-<epoch>
//! <cluster>/log/<timeline>/history.json
//! <cluster>/log/<timeline>/gap-<start>-<end>-<epoch>.json
//! <cluster>/log/<timeline>/index/<level>/<start>-<end>-<epoch>     level: 1 decimal digit, up to 7
//! <cluster>/base/<id>/manifest.json
//! <cluster>/base/<id>/chunks
//! <cluster>/pack/<2 hex>/<64 hex>                       lower case; the first two repeat
//! <cluster>/drill/<id>.json
//! <cluster>/key/<n>[-<wrap>]                            n: 10, wrap: 2 decimal digits, not 00
//! <cluster>/probe/<id>
//! ```
//!
//! `start` and `end` are offsets in 16, `timeline` and `epoch` in 8 upper-case
//! hexadecimal digits. There is exactly one name for a value: [`Layout::parse`] takes
//! nothing that [`Layout::name`] would not write, so a stray file is never mistaken
//! for an object.

use std::fmt::Write as _;

use super::Codec;
use super::index::{Indexed, LEVEL_MAX};
use crate::model::cluster::ClusterName;
use crate::model::offset::{Offset, OffsetRange};
use crate::model::timeline::TimelineId;

/// The names of one cluster's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    cluster: ClusterName,
}

/// What an object is, as its name tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectName {
    /// The cluster's identity.
    Cluster,
    /// A writer's claim to this epoch.
    Epoch(u32),
    /// A closed piece of log.
    Segment {
        /// Its timeline.
        timeline: TimelineId,
        /// The bytes it holds.
        range: OffsetRange,
        /// Epoch of its writer.
        epoch: u32,
        /// How it is compressed.
        codec: Codec,
    },
    /// The open end of a log on a local store, raw.
    Tail {
        /// Its timeline.
        timeline: TimelineId,
        /// Offset of its first byte.
        start: Offset,
        /// Epoch of its writer.
        epoch: u32,
    },
    /// Where a timeline comes from.
    History(TimelineId),
    /// A record of log that is missing.
    Gap {
        /// Its timeline.
        timeline: TimelineId,
        /// The missing bytes.
        range: OffsetRange,
        /// Epoch of the writer that found it.
        epoch: u32,
    },
    /// Rolled-up footers of the segments of a range.
    Index {
        /// Their timeline.
        timeline: TimelineId,
        /// Which of the timeline's.
        index: Indexed,
    },
    /// What a base backup consists of.
    BaseManifest(String),
    /// Where the chunks of a base backup are.
    BaseChunks(String),
    /// Chunks of base backups, named by content.
    Pack([u8; 32]),
    /// The result of a restore drill.
    Drill(String),
    /// A wrapped data key.
    Key {
        /// Its number.
        number: u32,
        /// How often it was wrapped anew.
        wrap: u32,
    },
    /// Left by a probe of the store that was cut short.
    Probe(String),
}

impl Layout {
    /// The names of this cluster's objects.
    #[must_use]
    pub const fn new(cluster: ClusterName) -> Self {
        Self { cluster }
    }

    /// Whose names these are.
    #[must_use]
    pub const fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// The object's name in the store.
    #[must_use]
    pub fn name(&self, object: &ObjectName) -> String {
        match object {
            ObjectName::Cluster => format!("{}/cluster.json", self.cluster),
            ObjectName::Epoch(n) => format!("{}{n:010}", self.epochs()),
            ObjectName::Segment { timeline, range, epoch, codec } => {
                format!("{}{range}-{epoch:08X}.{}", self.timeline(*timeline), codec.extension())
            }
            ObjectName::Tail { timeline, start, epoch } => {
                format!("{}tail-{start}-{epoch:08X}", self.timeline(*timeline))
            }
            ObjectName::History(timeline) => format!("{}history.json", self.timeline(*timeline)),
            ObjectName::Gap { timeline, range, epoch } => {
                format!("{}gap-{range}-{epoch:08X}.json", self.timeline(*timeline))
            }
            ObjectName::Index { timeline, index: Indexed { level, range, epoch } } => {
                format!("{}{range}-{epoch:08X}", self.index(*timeline, *level))
            }
            ObjectName::BaseManifest(id) => format!("{}{id}/manifest.json", self.bases()),
            ObjectName::BaseChunks(id) => format!("{}{id}/chunks", self.bases()),
            ObjectName::Pack(hash) => {
                let mut hex = String::with_capacity(64);
                for byte in hash {
                    // Writing to a String cannot fail.
                    let _ = write!(hex, "{byte:02x}");
                }
                let [first, ..] = hash;
                format!("{}{first:02x}/{hex}", self.packs())
            }
            ObjectName::Drill(id) => format!("{}{id}.json", self.drills()),
            ObjectName::Key { number, wrap: 0 } => format!("{}{number:010}", self.keys()),
            ObjectName::Key { number, wrap } => format!("{}{number:010}-{wrap:02}", self.keys()),
            ObjectName::Probe(id) => format!("{}{id}", self.probes()),
        }
    }

    /// What the object of this name is; `None` for a name this program never gives.
    #[must_use]
    pub fn parse(&self, name: &str) -> Option<ObjectName> {
        let rest = name.strip_prefix(self.cluster.as_str())?.strip_prefix('/')?;
        let Some((folder, rest)) = rest.split_once('/') else {
            return (rest == "cluster.json").then_some(ObjectName::Cluster);
        };
        match folder {
            "epoch" => digits(rest, 10).map(ObjectName::Epoch),
            "key" => match rest.split_once('-') {
                None => digits(rest, 10).map(|number| ObjectName::Key { number, wrap: 0 }),
                Some((number, wrap)) => Some(ObjectName::Key {
                    number: digits(number, 10)?,
                    wrap: digits(wrap, 2).filter(|wrap| *wrap > 0)?,
                }),
            },
            "log" => {
                let (timeline, rest) = rest.split_once('/')?;
                Self::parse_log(timeline.parse().ok()?, rest)
            }
            "base" => match rest.split_once('/')? {
                (id, "manifest.json") => id_of(id).map(ObjectName::BaseManifest),
                (id, "chunks") => id_of(id).map(ObjectName::BaseChunks),
                _ => None,
            },
            "pack" => {
                let (folder, hex) = rest.split_once('/')?;
                let hash = hash_of(hex)?;
                (hex.get(..2) == Some(folder)).then_some(ObjectName::Pack(hash))
            }
            "drill" => id_of(rest.strip_suffix(".json")?).map(ObjectName::Drill),
            "probe" => id_of(rest).map(ObjectName::Probe),
            _ => None,
        }
    }

    fn parse_log(timeline: TimelineId, rest: &str) -> Option<ObjectName> {
        if rest == "history.json" {
            return Some(ObjectName::History(timeline));
        }
        if let Some(rest) = rest.strip_prefix("index/") {
            let (level, rest) = rest.split_once('/')?;
            let (range, epoch) = range_of(rest)?;
            return Some(ObjectName::Index { timeline, index: Indexed { level: level_of(level)?, range, epoch } });
        }
        if let Some(rest) = rest.strip_prefix("tail-") {
            let (start, epoch) = rest.split_once('-')?;
            return Some(ObjectName::Tail { timeline, start: start.parse().ok()?, epoch: epoch_of(epoch)? });
        }
        if let Some(rest) = rest.strip_prefix("gap-") {
            let (range, epoch) = range_of(rest.strip_suffix(".json")?)?;
            return Some(ObjectName::Gap { timeline, range, epoch });
        }
        let (stem, extension) = rest.split_once('.')?;
        let codec = Codec::from_extension(extension)?;
        let (range, epoch) = range_of(stem)?;
        Some(ObjectName::Segment { timeline, range, epoch, codec })
    }

    /// Prefix of everything of this cluster.
    #[must_use]
    pub fn everything(&self) -> String {
        format!("{}/", self.cluster)
    }

    /// Prefix of the writers' epochs.
    #[must_use]
    pub fn epochs(&self) -> String {
        format!("{}/epoch/", self.cluster)
    }

    /// Prefix of the log of all timelines.
    #[must_use]
    pub fn log(&self) -> String {
        format!("{}/log/", self.cluster)
    }

    /// Prefix of one timeline's log; its index lies in a folder below.
    #[must_use]
    pub fn timeline(&self, timeline: TimelineId) -> String {
        format!("{}/log/{timeline}/", self.cluster)
    }

    /// The timeline whose log lies in this folder (a prefix with a slash at its end).
    #[must_use]
    pub fn timeline_of(&self, folder: &str) -> Option<TimelineId> {
        folder.strip_prefix(&self.log())?.strip_suffix('/')?.parse().ok()
    }

    /// Prefix of all of one timeline's rolled-up footers.
    #[must_use]
    pub fn indexes(&self, timeline: TimelineId) -> String {
        format!("{}/log/{timeline}/index/", self.cluster)
    }

    /// Prefix of those of one level.
    #[must_use]
    pub fn index(&self, timeline: TimelineId, level: u8) -> String {
        format!("{}{level}/", self.indexes(timeline))
    }

    /// The level whose indexes lie in this folder (a prefix with a slash at its end).
    #[must_use]
    pub fn index_level_of(&self, timeline: TimelineId, folder: &str) -> Option<u8> {
        level_of(folder.strip_prefix(&self.indexes(timeline))?.strip_suffix('/')?)
    }

    /// Prefix of the base backups.
    #[must_use]
    pub fn bases(&self) -> String {
        format!("{}/base/", self.cluster)
    }

    /// Prefix of the packs.
    #[must_use]
    pub fn packs(&self) -> String {
        format!("{}/pack/", self.cluster)
    }

    /// Prefix of the drills' results.
    #[must_use]
    pub fn drills(&self) -> String {
        format!("{}/drill/", self.cluster)
    }

    /// Prefix of the wrapped data keys.
    #[must_use]
    pub fn keys(&self) -> String {
        format!("{}/key/", self.cluster)
    }

    /// Prefix under which the store may be probed.
    #[must_use]
    pub fn probes(&self) -> String {
        format!("{}/probe/", self.cluster)
    }
}

impl Codec {
    /// The last part of a segment's name, without the dot.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Zstd => "zst",
        }
    }

    /// The codec whose segments end in this.
    #[must_use]
    pub fn from_extension(extension: &str) -> Option<Self> {
        match extension {
            "lz4" => Some(Self::Lz4),
            "zst" => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// `<start>-<end>-<epoch>` with at least one byte in the range.
fn range_of(text: &str) -> Option<(OffsetRange, u32)> {
    let (start, rest) = text.split_once('-')?;
    let (end, epoch) = rest.split_once('-')?;
    let range = OffsetRange::new(start.parse().ok()?, end.parse().ok()?);
    (!range.is_empty()).then_some(())?;
    Some((range, epoch_of(epoch)?))
}

/// The level of an index.
fn level_of(text: &str) -> Option<u8> {
    digits(text, 1).and_then(|level| u8::try_from(level).ok()).filter(|level| *level <= LEVEL_MAX)
}

/// A number of so many decimal digits.
fn digits(text: &str, count: usize) -> Option<u32> {
    let digits = text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// An epoch in 8 upper-case hexadecimal digits, which is how a timeline is written too.
fn epoch_of(text: &str) -> Option<u32> {
    text.parse::<TimelineId>().ok().map(|TimelineId(n)| n)
}

fn hash_of(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return None;
    }
    let mut hash = [0; 32];
    for (i, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(hash)
}

/// An id of a base, drill or probe: one path component without a dot.
fn id_of(text: &str) -> Option<String> {
    let good = !text.is_empty()
        && text.len() <= 100
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    good.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout() -> Layout {
        Layout::new("main".parse().unwrap())
    }

    fn range() -> impl Strategy<Value = OffsetRange> {
        (0..u64::MAX, 1..u64::MAX)
            .prop_map(|(start, len)| OffsetRange::new(Offset(start), Offset(start.saturating_add(len))))
    }

    fn object() -> impl Strategy<Value = ObjectName> {
        let timeline = any::<u32>().prop_map(TimelineId);
        let codec = prop_oneof![Just(Codec::Lz4), Just(Codec::Zstd)];
        let id = "[A-Za-z0-9_-]{1,100}";
        prop_oneof![
            Just(ObjectName::Cluster),
            any::<u32>().prop_map(ObjectName::Epoch),
            (timeline.clone(), range(), any::<u32>(), codec)
                .prop_map(|(timeline, range, epoch, codec)| ObjectName::Segment { timeline, range, epoch, codec }),
            (timeline.clone(), any::<u64>(), any::<u32>()).prop_map(|(timeline, start, epoch)| ObjectName::Tail {
                timeline,
                start: Offset(start),
                epoch
            }),
            timeline.clone().prop_map(ObjectName::History),
            (timeline.clone(), range(), any::<u32>()).prop_map(|(timeline, range, epoch)| ObjectName::Gap {
                timeline,
                range,
                epoch
            }),
            (timeline, 0..=LEVEL_MAX, range(), any::<u32>()).prop_map(|(timeline, level, range, epoch)| {
                ObjectName::Index { timeline, index: Indexed { level, range, epoch } }
            }),
            id.prop_map(ObjectName::BaseManifest),
            id.prop_map(ObjectName::BaseChunks),
            any::<[u8; 32]>().prop_map(ObjectName::Pack),
            id.prop_map(ObjectName::Drill),
            id.prop_map(ObjectName::Probe),
        ]
    }

    proptest! {
        #[test]
        fn every_value_has_one_name_and_every_name_one_value(object in object()) {
            let name = layout().name(&object);
            prop_assert_eq!(layout().parse(&name), Some(object));
        }

        /// Whatever is taken for a name is exactly what would be written: a changed
        /// letter gives another value or none, never the same one.
        #[test]
        fn a_changed_name_is_another_object_or_none(object in object(), at in any::<prop::sample::Index>(), to in "[ -~]") {
            let name = layout().name(&object);
            let at = at.index(name.len());
            let changed = format!("{}{to}{}", &name[..at], &name[at + 1..]);
            if let Some(other) = layout().parse(&changed) {
                prop_assert_eq!(layout().name(&other), changed);
            }
        }
    }

    #[test]
    fn names_are_those_of_the_format() {
        let timeline = TimelineId(1);
        let range = OffsetRange::new(Offset(0x500_0000), Offset(0x600_0000));
        let cases = [
            (ObjectName::Cluster, "main/cluster.json"),
            (ObjectName::Epoch(7), "main/epoch/0000000007"),
            (
                ObjectName::Segment { timeline, range, epoch: 7, codec: Codec::Zstd },
                "main/log/00000001/0000000005000000-0000000006000000-00000007.zst",
            ),
            (
                ObjectName::Tail { timeline, start: range.start, epoch: 0xAB },
                "main/log/00000001/tail-0000000005000000-000000AB",
            ),
            (ObjectName::History(timeline), "main/log/00000001/history.json"),
            (
                ObjectName::Gap { timeline, range, epoch: 7 },
                "main/log/00000001/gap-0000000005000000-0000000006000000-00000007.json",
            ),
            (
                ObjectName::Index { timeline, index: Indexed { level: 3, range, epoch: 7 } },
                "main/log/00000001/index/3/0000000005000000-0000000006000000-00000007",
            ),
            (ObjectName::BaseManifest("20261120T212837Z-k3vd".into()), "main/base/20261120T212837Z-k3vd/manifest.json"),
            (ObjectName::BaseChunks("b".into()), "main/base/b/chunks"),
            (ObjectName::Drill("d".into()), "main/drill/d.json"),
            (ObjectName::Probe("p".into()), "main/probe/p"),
            (ObjectName::Key { number: 7, wrap: 0 }, "main/key/0000000007"),
            (ObjectName::Key { number: 7, wrap: 12 }, "main/key/0000000007-12"),
        ];
        for (object, name) in cases {
            assert_eq!(layout().name(&object), name);
        }
        let pack = layout().name(&ObjectName::Pack([0xC5; 32]));
        assert_eq!(pack, format!("main/pack/c5/{}", "c5".repeat(32)));
    }

    #[test]
    fn a_folder_tells_its_timeline() {
        let folder = layout().timeline(TimelineId(0xAB));
        assert_eq!(layout().timeline_of(&folder), Some(TimelineId(0xAB)));
        assert_eq!(layout().timeline_of(&layout().indexes(TimelineId(0xAB))), None);
        assert_eq!(layout().timeline_of(&layout().log()), None);
    }

    #[test]
    fn refuses_names_it_would_not_write() {
        for name in [
            "other/cluster.json",
            "mainly/cluster.json",
            "main/cluster.json/x",
            "main/epoch/7",
            "main/epoch/4294967296",
            "main/log/00000001/0000000005000000-0000000006000000-00000007.gz",
            "main/log/00000001/0000000005000000-0000000005000000-00000007.lz4",
            "main/log/00000001/0000000005000000-0000000006000000-0000000a.lz4",
            "main/log/1/0000000005000000-0000000006000000-00000007.lz4",
            "main/log/00000001/tail-0000000005000000",
            "main/base/../manifest.json",
            "main/base//manifest.json",
            "main/base/a/b/manifest.json",
            "main/drill/.json",
        ] {
            assert_eq!(layout().parse(name), None, "{name}");
        }
        // A pack in the folder of another hash.
        assert_eq!(layout().parse(&format!("main/pack/c6/{}", "c5".repeat(32))), None);
        assert_eq!(layout().parse(&format!("main/pack/C5/{}", "C5".repeat(32))), None);
    }
}
