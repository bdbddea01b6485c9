//! Takes a base backup of a live server into an archive.

use std::sync::Arc;

use super::backup::Backup;
use crate::base::load::Base;
use crate::catalog::BaseInfo;
use crate::catalog::archive::{Archive, bases};
use crate::engine::{BaseOptions, Engine, SourceOptions};
use crate::error::{Kind, Result};
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
        let backup = Backup {
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
