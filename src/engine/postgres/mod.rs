//! PostgreSQL 13 and newer.

use async_trait::async_trait;

use super::{
    Axis, Detail, Engine, Finding, Locator, LogFiles, Recovery, ScanStart, Scanner, SlotStatus, Source, SourceOptions,
};
use crate::error::Result;
use crate::model::cluster::Identity;
use crate::model::offset::Offset;
use crate::model::position::Position;
use crate::model::target::Target;
use crate::model::timeline::TimelineId;

pub mod base;
pub mod connect;
pub mod conninfo;
pub mod files;
pub mod inspect;
pub mod locate;
pub mod recover;
pub mod source;
pub mod throwaway;
pub mod wal;
pub mod wire;

/// The PostgreSQL engine. Its offsets are LSNs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Postgres;

#[async_trait]
impl Engine for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn connect(&self, url: &str, options: &SourceOptions) -> Result<Box<dyn Source>> {
        source::connect(url, options).await
    }

    fn scanner(&self, identity: &Identity, timeline: TimelineId, start: ScanStart, detail: Detail) -> Box<dyn Scanner> {
        Box::new(wal::WalScanner::new(identity, timeline, start, detail))
    }

    fn locator(&self, target: &Target) -> Result<Box<dyn Locator>> {
        locate::locator(target)
    }

    fn axis(&self) -> Axis {
        Axis::Server
    }

    fn position(&self, offset: Offset) -> Position {
        Position(wal::name::format_lsn(offset))
    }

    fn reaches(&self, end: &Position, place: &Position) -> Result<bool> {
        Ok(wal::name::parse_lsn(&end.0) >= wal::name::parse_lsn(&place.0))
    }

    fn parse_position(&self, text: &str) -> Result<Offset> {
        locate::parse_lsn_position(text)
    }

    fn log_files(&self, identity: &Identity) -> Box<dyn LogFiles> {
        Box::new(files::PostgresLogFiles::new(identity))
    }

    async fn inspect(&self, url: &str, options: &SourceOptions) -> Result<Vec<Finding>> {
        inspect::inspect(url, options, &crate::model::time::SystemClock).await
    }

    async fn slot(&self, url: &str, options: &SourceOptions) -> Result<Option<SlotStatus>> {
        inspect::slot(url, options).await
    }

    fn grants(&self, user: &str) -> String {
        inspect::grants(user)
    }

    fn recovery(&self) -> Box<dyn Recovery> {
        Box::new(recover::PostgresRecovery)
    }
}
