//! Nouns that every module shares: no I/O, no async, no engine.

pub mod changes;
pub mod cluster;
pub mod mark;
pub mod offset;
pub mod position;
pub mod summary;
pub mod target;
pub mod time;
pub mod timeline;
