//! Base backups: full to restore, incremental to store.

pub mod chunk;
pub mod manifest;
pub mod pack;
