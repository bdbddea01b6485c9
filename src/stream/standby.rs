//! A second archiver that waits until the first falls silent: a pair on two machines needs nothing but the store.
//!
//! Silence alone is no sign of death: an idle database writes no log. So the standby asks the server as well. It takes over when the server has
//! log that the archive lacks, and nothing has come to the archive for as long as it was told to be patient. No clocks have to agree.
//! Taking over is claiming the next epoch; the first archiver, should it wake, finds that and ends ([`crate::catalog::fence`]).
//!
//! It asks the store for a list of names at each look, and reads the catalog only once the names have not changed for that
//! time although the server's log has grown.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Archiver, unless_stopped};
use crate::catalog::archive::Archive;
use crate::catalog::layout::ObjectName;
use crate::catalog::positions::end_of_log;
use crate::engine::{Axis, Source};
use crate::error::{Kind, Result};
use crate::model::cluster::ServerState;
use crate::model::offset::Offset;
use crate::store::ObjectInfo;

/// Looks within the time of patience.
const LOOKS: u32 = 6;

/// What tells that somebody writes to an archive: the newest names in its log, or where that ends, and its writers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Signs {
    timeline: Option<String>,
    newest: Option<String>,
    end: Option<Offset>,
    epochs: usize,
}

/// What is known of the archiver that is at work.
#[derive(Default)]
struct Watch {
    signs: Signs,
    /// Where the server's log ended when the archive lacked nothing.
    complete: Option<String>,
    /// Since when the archive lacks something and shows no sign.
    silent: Option<Instant>,
}

/// Waits until whoever archives falls silent for as long as `patience`, or until asked to stop: then `false`.
///
/// # Errors
/// What no new look can cure.
pub async fn wait(archiver: &Archiver, patience: Duration, stop: &watch::Receiver<bool>) -> Result<bool> {
    let mut watch = Watch::default();
    let mut told = false;
    tracing::info!(patience = ?patience, "standing by: another archiver is to be at work");
    loop {
        let Some(looked) = unless_stopped(stop, watch.look(archiver, patience)).await else { return Ok(false) };
        match looked {
            Ok(true) => {
                tracing::warn!("the archiver at work has fallen silent: taking over");
                return Ok(true);
            }
            Ok(false) => told = false,
            Err(error) => match error.kind() {
                Kind::Config | Kind::Usage => return Err(error),
                // Whoever is at work may see both.
                _ if !told => {
                    tracing::warn!(%error, hint = error.advice(), "the standby cannot see how the archive stands");
                    told = true;
                    watch.silent = None;
                }
                _ => watch.silent = None,
            },
        }
        let pause = tokio::time::sleep(patience / LOOKS);
        if unless_stopped(stop, pause).await.is_none() {
            return Ok(false);
        }
    }
}

impl Watch {
    /// Whether it is time to take over.
    async fn look(&mut self, archiver: &Archiver, patience: Duration) -> Result<bool> {
        let (mut source, server) = archiver.connect().await?;
        let archive = Archive::open(archiver.store.clone(), &archiver.cluster, &archiver.keys).await?;
        archive.check_identity(&server.identity)?;
        let signs = self.signs_of(archiver, &archive).await?;
        if signs != self.signs {
            *self = Self { signs, ..Self::default() };
            return Ok(false);
        }
        let place = match source.log_end(None).await? {
            Some(end) => end.position.to_string(),
            None => archiver.engine.position(server.log_end).to_string(),
        };
        if self.complete.as_ref() == Some(&place) {
            self.silent = None;
            return Ok(false);
        }
        if !self.is_silent_for(patience) {
            return Ok(false);
        }
        if lacks_something(archiver, &archive, source.as_mut(), &server).await? {
            return Ok(true);
        }
        (self.complete, self.silent) = (Some(place), None);
        Ok(false)
    }

    fn is_silent_for(&mut self, patience: Duration) -> bool {
        self.silent.get_or_insert_with(Instant::now).elapsed() >= patience
    }

    async fn signs_of(&self, archiver: &Archiver, archive: &Archive) -> Result<Signs> {
        let (store, layout) = (archive.store.as_ref(), &archive.layout);
        let mut signs = Signs::default();
        store.list(&layout.epochs(), None, true, &mut |_| signs.epochs += 1).await?;
        signs.timeline = store.folders(&layout.log()).await?.into_iter().max();
        let Some(folder) = signs.timeline.clone() else { return Ok(signs) };
        // Nothing comes before what was the newest.
        let after = self.signs.newest.clone().filter(|newest| newest.starts_with(&folder));
        let mut see = |info: ObjectInfo| {
            if let Some(ObjectName::Segment { .. }) = layout.parse(&info.name) {
                signs.newest = signs.newest.take().max(Some(info.name));
            }
        };
        store.list(&folder, after.as_deref(), true, &mut see).await?;
        signs.newest = signs.newest.max(after);
        if store.local_root().is_some() {
            // A tail grows under one name.
            let catalog = archive.catalog(archiver.engine.as_ref()).await?;
            let newest = catalog.newest_timeline().and_then(|timeline| catalog.timelines.get(&timeline));
            signs.end = newest.and_then(|log| log.segments.last()).map(|segment| segment.range.end);
        }
        Ok(signs)
    }
}

/// Whether the server has log that the archive does not.
async fn lacks_something(
    archiver: &Archiver,
    archive: &Archive,
    source: &mut dyn Source,
    server: &ServerState,
) -> Result<bool> {
    let engine = archiver.engine.as_ref();
    let catalog = archive.catalog(engine).await?;
    let Some((timeline, log)) = catalog.newest_timeline().and_then(|newest| catalog.timelines.get_key_value(&newest))
    else {
        return Ok(true);
    };
    if engine.axis() == Axis::Server {
        let boundary = log.segments.last().map_or(Offset::ZERO, |segment| segment.boundary);
        return Ok(server.timeline > *timeline || server.log_end > boundary);
    }
    let archived = end_of_log(archive, engine, *timeline, log).await?;
    // Of another server than the archive's last nobody knows how far it is ahead.
    let behind = source.log_end(archived.as_ref()).await?.and_then(|end| end.behind);
    Ok(behind.is_none_or(|behind| behind > 0))
}
