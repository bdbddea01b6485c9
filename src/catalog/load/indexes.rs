//! Which indexes tell of a timeline, and what they tell.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use futures_util::{StreamExt as _, stream};

use super::{AT_ONCE, Loader};
use crate::catalog::TimelineLog;
use crate::catalog::index::{Index, Indexed};
use crate::catalog::layout::ObjectName;
use crate::error::Result;
use crate::model::offset::Offset;
use crate::model::timeline::TimelineId;
use crate::store::ObjectInfo;

/// Indexes that follow one another without a break.
#[derive(Default)]
pub(super) struct Run {
    pub(super) of: Vec<Indexed>,
    /// Where the first one has to begin, once that is known.
    from: Option<Offset>,
    /// Those that proved damaged when they were read.
    damaged: BTreeSet<Indexed>,
}

impl Run {
    /// Where it ends.
    pub(super) fn end(&self) -> Option<Offset> {
        self.of.last().map(|index| index.range.end)
    }
}

impl Loader<'_> {
    /// Goes on with `run` as far as indexes follow one another: the widest from its end on, then the next narrower ones, for merging
    /// begins with the oldest. Each level is listed from where the wider ones end, so that what they supersede costs no request.
    /// What comes after a hole in them is read from footers.
    pub(super) async fn find_indexes(&self, timeline: TimelineId, run: &mut Run) -> Result<()> {
        let folders = self.store.folders(&self.layout.indexes(timeline)).await?;
        let mut levels: Vec<u8> =
            folders.iter().filter_map(|folder| self.layout.index_level_of(timeline, folder)).collect();
        levels.sort_unstable();
        for level in levels.into_iter().rev() {
            let folder = self.layout.index(timeline, level);
            let after = run.end().or(run.from).map(|end| format!("{folder}{end}"));
            let mut all = Vec::new();
            let mut see = |info: ObjectInfo| {
                if let Some(ObjectName::Index { index, .. }) = self.layout.parse(&info.name) {
                    all.push(index);
                }
            };
            self.store.list(&folder, after.as_deref(), true, &mut see).await?;
            all.sort_unstable_by_key(|index: &Indexed| (index.range.start, Reverse((index.range.end, index.epoch))));
            for index in all {
                let follows = run.end().or(run.from).is_none_or(|end| end == index.range.start);
                if follows && !run.damaged.contains(&index) {
                    run.of.push(index);
                }
            }
        }
        Ok(())
    }

    /// Reads the indexes of `run` into `log`. Narrower ones stand for one that is damaged, as far as there are any.
    pub(super) async fn read_indexes(&self, timeline: TimelineId, run: &mut Run, log: &mut TimelineLog) -> Result<()> {
        loop {
            let unread = run.of.iter().skip(log.indexes.len()).copied().collect::<Vec<_>>();
            let mut read = stream::iter(unread)
                .map(|index| async move { (index, self.index(timeline, index).await) })
                .buffered(AT_ONCE);
            let damaged = loop {
                match read.next().await {
                    Some((index, Ok(content))) => {
                        log.indexes.push(index);
                        log.segments.extend(content.segments);
                        log.restore_points.extend(content.restore_points);
                    }
                    Some((index, Err(error))) => {
                        log.damaged.push(self.damaged(ObjectName::Index { timeline, index }, error)?);
                        break index;
                    }
                    None => return Ok(()),
                }
            };
            run.from = run.from.or(run.of.first().map(|first| first.range.start));
            run.of.truncate(log.indexes.len());
            run.damaged.insert(damaged);
            self.find_indexes(timeline, run).await?;
        }
    }

    async fn index(&self, timeline: TimelineId, index: Indexed) -> Result<Index> {
        let name = self.layout.name(&ObjectName::Index { timeline, index });
        self.read(&name, |bytes| Index::decode(&name, self.layout.cluster(), timeline, index, bytes)).await
    }
}
