//! Servers made to be thrown away, for `pitr demo`: what it needs of any engine.

use std::path::Path;

use async_trait::async_trait;

use super::Engine;
use crate::error::Result;

/// A server in a directory of its own. Dropping it stops it.
#[async_trait]
pub trait Throwaway: Send + Sync {
    /// Its engine.
    fn engine(&self) -> Box<dyn Engine>;

    /// Its make and version, for people.
    fn title(&self) -> String;

    /// The server as a source.
    fn url(&self) -> String;

    /// Where its programs are.
    fn bin_dir(&self) -> &Path;

    /// How it writes what its make writes in its own way.
    fn dialect(&self) -> Dialect;

    /// An ordinary session with this server, or with one restored from it.
    ///
    /// # Errors
    /// When the server at `url` cannot be reached.
    async fn session(&self, url: &str) -> Result<Box<dyn Session>>;

    /// Stops the server that runs on `dir`, one restored from this one.
    ///
    /// # Errors
    /// When it does not stop.
    async fn stop(&self, dir: &Path, url: &str) -> Result<()>;
}

/// SQL that is not the same everywhere.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    /// A number of its own for each row.
    pub serial: &'static str,
    /// When a row was made, to the microsecond.
    pub moment: &'static str,
    /// The server's clock, in microseconds since the Unix epoch.
    pub now: &'static str,
    /// The column `at`, a `moment`, likewise.
    pub at: &'static str,
}

/// An ordinary session.
#[async_trait]
pub trait Session: Send {
    /// Runs a statement; gives its rows as text.
    ///
    /// # Errors
    /// What the server says.
    async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>>;
}
