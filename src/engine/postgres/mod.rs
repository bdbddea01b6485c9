//! PostgreSQL 13 and newer.

pub mod base;
pub mod connect;
pub mod conninfo;
pub mod files;
pub mod inspect;
pub mod locate;
pub mod recover;
pub mod source;
pub mod wal;
pub mod wire;

/// The PostgreSQL engine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Postgres;
