//! A timeline's log into the other store: its history, segments and gap records, indexes.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, stream};

use super::plan::{Log, Names};
use super::{AT_ONCE, Copy, Read, names, tail};
use crate::catalog::index::Index;
use crate::catalog::layout::ObjectName;
use crate::catalog::{Codec, Holder, SegmentInfo, TimelineLog, sound};
use crate::engine::Axis;
use crate::error::{Error, Kind, Result};
use crate::model::timeline::TimelineId;
use crate::store::Part;

/// What the source holds of a timeline.
struct Held {
    /// Its tails are in it as the segments that they make.
    names: Names,
    /// Those tails.
    tails: BTreeMap<ObjectName, SegmentInfo>,
    /// What leads to them; empty where there is none.
    log: TimelineLog,
}

/// Why a timeline has to be looked at again: what is not there after all changes what counts.
enum Again {
    Damaged(ObjectName),
    Gone(ObjectName),
}

impl Copy<'_> {
    pub(super) fn log_of(&self, timeline: TimelineId) -> Log<'_> {
        Log { layout: &self.from.layout, timeline, counted: self.engine.axis() == Axis::Archive }
    }

    /// All of a timeline.
    pub(super) async fn timeline(&mut self, timeline: TimelineId) -> Result<()> {
        let history = ObjectName::History(timeline);
        self.one(&history).await?;
        if !self.has_same(&history).await? {
            self.report.contradicts = true;
            return Ok(());
        }
        let (mut damaged, mut gone) = (BTreeSet::new(), BTreeSet::new());
        loop {
            let mut held = self.held(timeline).await?;
            held.names.retain(|object, _| !gone.contains(object));
            self.keys().await?;
            self.compare(&held.names).await?;
            let missing = match self.log_of(timeline).missing(&held.names, &damaged, &self.there) {
                Err(error) if error.kind() == Kind::Corruption => {
                    self.problem(self.from.layout.timeline(timeline), &error);
                    self.report.contradicts = true;
                    return Ok(());
                }
                missing => missing?,
            };
            match self.make(timeline, missing, &held).await? {
                Some(Again::Damaged(object)) => drop(damaged.insert(object)),
                Some(Again::Gone(object)) => drop(gone.insert(object)),
                None => return self.indexes(timeline).await,
            }
        }
    }

    /// What the source holds of a timeline now, by writers whose claims are in the target.
    async fn held(&self, timeline: TimelineId) -> Result<Held> {
        let (store, layout) = (self.from.store.as_ref(), &self.from.layout);
        let folder = layout.timeline(timeline);
        let mut held =
            Held { names: names(store, layout, &folder).await?, tails: BTreeMap::new(), log: TimelineLog::default() };
        let is_tail = |object: &&ObjectName| matches!(object, ObjectName::Tail { .. });
        let tails: Vec<String> = held.names.keys().filter(is_tail).map(|tail| layout.name(tail)).collect();
        if !tails.is_empty() {
            held.log = self.from.catalog(self.engine).await?.timelines.remove(&timeline).unwrap_or_default();
            for tail in tails {
                // What was seen of it is to outlive a power cut, as what will be made of it does.
                match store.settle(std::slice::from_ref(&tail)).await {
                    // It was sealed meanwhile.
                    Err(_) if store.head(&tail).await?.is_none() => {}
                    settled => settled?,
                }
            }
            // Again, for a tail may have become a segment since.
            held.names = names(store, layout, &folder).await?;
            for tail in held.log.segments.iter().filter(|s| s.holder == Holder::Tail && !s.range.is_empty()) {
                let sealed = |codec| SegmentInfo { holder: Holder::Segment(codec), ..*tail }.object(timeline);
                if ![Codec::Lz4, Codec::Zstd].map(sealed).iter().any(|sealed| held.names.contains_key(sealed)) {
                    let object = sealed(self.compression.codec());
                    held.names.insert(object.clone(), tail.range.len());
                    held.tails.insert(object, *tail);
                }
            }
        }
        held.names.retain(|object, _| match object {
            ObjectName::Segment { epoch, .. } | ObjectName::Gap { epoch, .. } => *epoch <= self.last_epoch,
            _ => true,
        });
        Ok(held)
    }

    /// Makes these in their order; several are read ahead. Ends at the first one that proves damaged or gone.
    async fn make(&mut self, timeline: TimelineId, missing: Vec<ObjectName>, held: &Held) -> Result<Option<Again>> {
        let from = self.from.clone();
        let mut reading = stream::iter(missing)
            .map(|object| {
                // On a task of its own: nobody polls it while another is being made.
                let (from, is) = (from.clone(), object.clone());
                let tail = held.tails.get(&object);
                let read = tail.is_none().then(|| tokio::spawn(async move { sound::read(&from, &is).await }));
                async move {
                    let read = match read {
                        Some(read) => {
                            Some(read.await.map_err(|e| Error::failure("a task that reads died").because(e))?)
                        }
                        None => None,
                    };
                    Ok::<_, Error>((object, tail, read))
                }
            })
            .buffered(AT_ONCE);
        while let Some(next) = reading.next().await {
            let (object, tail, read) = next?;
            self.check_alone().await?;
            let read = match (tail, read) {
                (Some(tail), _) => {
                    tail::sealed(&self.from, self.engine, timeline, &held.log, tail, self.compression).await.map(Some)
                }
                (None, Some(read)) => read,
                (None, None) => continue,
            };
            match self.noted(&object, read)? {
                Read::Sound(bytes) => self.put(&object, bytes).await?,
                Read::Damaged => return Ok(Some(Again::Damaged(object))),
                Read::Gone => return Ok(Some(Again::Gone(object))),
            }
        }
        Ok(None)
    }

    /// Rolled-up footers, where the target holds all they speak of.
    async fn indexes(&mut self, timeline: TimelineId) -> Result<()> {
        let layout = self.from.layout.clone();
        let found = names(self.from.store.as_ref(), &layout, &layout.indexes(timeline)).await?;
        for (object, _) in found {
            let ObjectName::Index { index, .. } = object else { continue };
            if self.there.contains_key(&object) {
                continue;
            }
            let read = sound::read(&self.from, &object).await;
            let Read::Sound(bytes) = self.noted(&object, read)? else { continue };
            let name = layout.name(&object);
            let plain = self.from.plain(&name, &bytes).await?;
            let index = Index::decode(&name, layout.cluster(), timeline, index, &plain)?;
            if index.segments.iter().all(|segment| self.there.contains_key(&segment.object(timeline))) {
                self.check_alone().await?;
                self.put(&object, bytes).await?;
            }
        }
        Ok(())
    }

    /// Names what has another size in the target.
    async fn compare(&mut self, log: &Names) -> Result<()> {
        let differs = |(object, bytes): (&ObjectName, &u64)| {
            let differs = self.there.get(object).is_some_and(|there| there != bytes);
            (differs && !matches!(object, ObjectName::Tail { .. })).then(|| object.clone())
        };
        for object in log.iter().filter_map(differs).collect::<Vec<_>>() {
            self.differs(&object).await?;
        }
        Ok(())
    }

    /// Whether no other bytes stand in the target under this name; those are told of.
    async fn has_same(&mut self, object: &ObjectName) -> Result<bool> {
        let name = self.from.layout.name(object);
        let (ours, theirs) =
            tokio::try_join!(self.from.store.get(&name, Part::All), self.to.store.get(&name, Part::All))?;
        let same = ours.is_none() || theirs.is_none() || ours == theirs;
        if !same {
            self.differs(object).await?;
        }
        Ok(same)
    }
}
