//! pitr archives a database's log as it is written and gives the database back as
//! it stood at an exact moment.
//!
//! The modules are listed in the order in which data flows through them:
//!
//! ```text
//! server --replication protocol--> engine --> segment --> store
//!                                               |           |
//!                                           (footers)    catalog
//!                                               |           |
//!                            target --> plan (pure) --> restore --> a data directory
//! ```
//!
//! Between engine and disk a log is bytes on one `u64` axis per timeline, the
//! [`model::offset::Offset`]; only an engine knows what an offset means to its
//! database. See `docs/architecture.md` for the tour and `docs/format.md` for every
//! byte that is stored.

pub mod error;
pub mod model;

pub mod base;
pub mod catalog;
pub mod cli;
pub mod copy;
pub mod engine;
pub mod plan;
pub mod restore;
pub mod seal;
pub mod segment;
pub mod store;
pub mod stream;

mod shell;

pub use error::{Error, Kind, Result};
