//! Takes a base backup of a live server into an archive, by itself or beside the stream.

use std::sync::Arc;

use super::backup::Backup;
use super::find::Finder;
use super::session::Goal;
use super::{BACKOFF, Run};
use crate::base::load::Base;
use crate::catalog::BaseInfo;
use crate::catalog::archive::{Archive, bases};
use crate::engine::{Axis, BaseOptions, Engine, SourceOptions};
use crate::error::{Error, Kind, Result};
use crate::model::offset::Offset;
use crate::model::time::Clock;

/// What a base backup needs.
pub struct Task<'a> {
    /// Where it goes.
    pub archive: &'a Archive,
    /// Which kind of database.
    pub engine: &'a dyn Engine,
    /// Where the database is.
    pub url: &'a str,
    /// How to connect.
    pub options: &'a SourceOptions,
    /// What time it is.
    pub clock: &'a dyn Clock,
    /// Told how many bytes of about how many have come.
    pub progress: &'a (dyn Fn(u64, Option<u64>) + Send + Sync),
}

impl Task<'_> {
    /// Takes a base backup, storing only what the newest base does not hold.
    ///
    /// # Errors
    /// From the source or the store; no base is published then.
    pub async fn run(&self, options: &BaseOptions) -> Result<BaseInfo> {
        let mut source = self.engine.connect(self.url, self.options).await?;
        let server = source.identify().await?;
        self.archive.check_identity(&server.identity)?;
        let previous = self.newest().await?;
        let stream = source.base_backup(options).await?;
        let find = Finder { archive: self.archive, engine: self.engine };
        let backup = Backup {
            find: &find,
            store: Arc::clone(&self.archive.store),
            layout: &self.archive.layout,
            identity: &self.archive.identity,
            label: &options.label,
            clock: self.clock,
            progress: self.progress,
        };
        Ok(backup.take(stream, previous).await?.info())
    }

    /// The newest base, if it can be read. A damaged one is no reason not to take another:
    /// everything is stored anew then.
    async fn newest(&self) -> Result<Option<Base>> {
        let Some(id) = bases(self.archive).await?.into_iter().next_back() else { return Ok(None) };
        match Base::load(self.archive.store.as_ref(), &self.archive.layout, &id).await {
            Ok(base) => Ok(Some(base)),
            Err(error) if error.kind() == Kind::Corruption => {
                tracing::warn!(error = %error, "the newest base is damaged; this one stores everything anew");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Run<'_> {
    /// Takes a base backup beside the stream, and another when a gap has come behind it.
    pub(super) fn begin_base(&mut self) {
        let archive = self.archive.clone();
        let engine = Arc::clone(&self.archiver.engine);
        let clock = Arc::clone(&self.archiver.clock);
        let url = self.archiver.url.clone();
        let options = SourceOptions { slot: None, ..self.archiver.options.clone() };
        let (goal, caught_up) = (self.goal.clone(), self.archiver.settings.exit_when_caught_up);
        let (log_end, report) = (self.log_end, self.report.subscribe());
        let counted = engine.axis() == Axis::Archive;
        self.base_wanted = false;
        self.base = Some(tokio::spawn(async move {
            let task = Task {
                archive: &archive,
                engine: engine.as_ref(),
                url: &url,
                options: &options,
                clock: clock.as_ref(),
                progress: &|_, _| {},
            };
            let mut wait = BACKOFF.0;
            let base = loop {
                let taken = task
                    .run(&BaseOptions { label: "pitr".into(), fast_checkpoint: true, ..BaseOptions::default() })
                    .await;
                let lacking = match &taken {
                    Ok(_) => archive.catalog(engine.as_ref()).await.map(|catalog| catalog.lacks_base()),
                    Err(_) => Ok(true),
                };
                match taken.and_then(|base| Ok((base, lacking?))) {
                    Ok((base, false)) => break base,
                    Ok((base, true)) => {
                        tracing::warn!(base = base.id, "a gap came behind this base backup; taking another")
                    }
                    Err(error) if caught_up || error.kind() == Kind::Fenced => {
                        goal.send_replace(Goal::Offset(Offset::ZERO));
                        return Err(error);
                    }
                    Err(error) => {
                        tracing::error!(error = %error, hint = error.advice(), "the base backup failed; trying again");
                        tokio::time::sleep(wait).await;
                        wait = (wait * 2).min(BACKOFF.1);
                    }
                }
            };
            tracing::info!(base = base.id, bytes = base.bytes, stored = base.stored_bytes, "base backup is stored");
            goal.send_if_modified(|goal| {
                let waiting = *goal == Goal::Wait;
                if waiting {
                    // The end of a base backup lets the server begin a new log file. Where the
                    // archive counts, a base is there only with the log up to its end.
                    let end = base.end.max(log_end).max(report.borrow().log_end);
                    *goal = if counted { Goal::Quiet } else { Goal::Offset(end) };
                }
                waiting
            });
            Ok(())
        }));
    }

    /// Waits for a base backup that the caller asked to see finished.
    pub(super) async fn finish_base(&mut self) -> Result<()> {
        if !self.archiver.settings.exit_when_caught_up {
            return Ok(());
        }
        match self.base.take() {
            Some(base) if !*self.until.stop.borrow() => {
                base.await.map_err(|e| Error::failure("the base backup stopped").because(e))?
            }
            _ => Ok(()),
        }
    }
}
