//! PostgreSQL's write-ahead log, read as it passes.

pub mod name;
pub mod page;
pub mod record;
pub mod xact;
