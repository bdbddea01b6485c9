//! MySQL 8.0 and newer, MariaDB 10.6 and newer: one engine, for both speak the same protocol
//! and write the same kind of log. What differs is in [`mod@flavor`], [`gtid`] and where a comment
//! says so.
//!
//! The log has no offsets of its own: GTIDs name transactions, and positions are those of some
//! server's file. So the archive counts the bytes that it holds ([`Axis::Archive`]), and a
//! [`place::Place`] rides along.

use std::cmp::Ordering;
use std::sync::Arc;

use async_trait::async_trait;

use super::{
    Axis, Detail, Engine, Finding, LiveJob, Locator, LogFiles, LogSource, Recovery, ReplayProgress, ScanStart, Scanner,
    ServeJob, Serving, SlotStatus, Source, SourceOptions,
};
use crate::error::{Error, Result};
use crate::model::cluster::Identity;
use crate::model::offset::Offset;
use crate::model::position::Position;
use crate::model::target::Target;
use crate::model::timeline::TimelineId;

pub mod base;
pub mod binlog;
pub mod connect;
pub mod conninfo;
mod feed;
pub mod files;
pub mod flavor;
pub mod gtid;
pub mod inspect;
mod live;
pub mod locate;
pub mod place;
pub mod privileges;
pub mod recover;
pub mod serve;
pub mod source;
pub mod sql;
pub mod throwaway;

use binlog::BinlogScanner;
use flavor::Flavor;
use place::{FilePosition, Place};

/// MySQL and MariaDB.
#[derive(Clone, Copy, Debug, Default)]
pub struct MySql;

/// Reads a place, whose text says itself whose it is: only MySQL's GTIDs have colons before the
/// server.
fn read_place(position: &Position) -> Result<Place> {
    Place::parse(position, Flavor::MySql).or_else(|_| Place::parse(position, Flavor::MariaDb))
}

/// The family of an archived server.
fn flavor(identity: &Identity) -> Flavor {
    if identity.system == "mariadb" { Flavor::MariaDb } else { Flavor::MySql }
}

#[async_trait]
impl Engine for MySql {
    fn name(&self) -> &'static str {
        "mysql"
    }

    fn axis(&self) -> Axis {
        Axis::Archive
    }

    async fn connect(&self, url: &str, options: &SourceOptions) -> Result<Box<dyn Source>> {
        source::connect(url, options).await
    }

    fn scanner(&self, identity: &Identity, _: TimelineId, start: ScanStart, detail: Detail) -> Box<dyn Scanner> {
        let (ScanStart::Boundary(start) | ScanStart::LogFile(start)) = start;
        Box::new(BinlogScanner::new(flavor(identity), start, detail))
    }

    fn locator(&self, target: &Target) -> Result<Box<dyn Locator>> {
        locate::locator(target)
    }

    fn position(&self, offset: Offset) -> Position {
        Position(format!("byte {}", offset.0))
    }

    fn place(&self, position: &Position) -> String {
        // Damaged text is told as it is.
        read_place(position).map_or_else(|_| position.to_string(), |at| format!("{}:{}", at.file, at.position))
    }

    fn reaches(&self, end: &Position, place: &Position) -> Result<bool> {
        Ok(read_place(end)?.gtids.covers(&read_place(place)?.gtids))
    }

    fn compare(&self, position: &Position, place: &str) -> Result<Option<Ordering>> {
        let wanted: FilePosition = place.parse()?;
        Ok(wanted.compare(&read_place(position)?))
    }

    fn parse_position(&self, text: &str) -> Result<Offset> {
        text.parse().map(Offset).map_err(|_| {
            Error::usage(format!("{text:?} is not a number of bytes of the archive's log"))
                .hint("`pitr list` shows how far the log reaches")
        })
    }

    fn log_files(&self, _identity: &Identity) -> Box<dyn LogFiles> {
        Box::new(files::BinlogFiles)
    }

    async fn inspect(&self, url: &str, options: &SourceOptions) -> Result<Vec<Finding>> {
        inspect::inspect(url, options).await
    }

    async fn slot(&self, _url: &str, _options: &SourceOptions) -> Result<Option<SlotStatus>> {
        Ok(None)
    }

    async fn has_archiver(&self, url: &str, options: &SourceOptions) -> Result<bool> {
        inspect::has_archiver(url, options).await
    }

    fn grants(&self, user: &str) -> String {
        inspect::grants(user)
    }

    fn recovery(&self) -> Box<dyn Recovery> {
        Box::new(recover::MySqlRecovery)
    }

    async fn serve(&self, job: &ServeJob, log: Arc<dyn LogSource>) -> Result<Box<dyn Serving>> {
        live::serve(job, log).await
    }

    async fn replay_to(&self, job: &LiveJob, log: Arc<dyn LogSource>, progress: ReplayProgress<'_>) -> Result<()> {
        live::replay(job, log, progress).await
    }
}
