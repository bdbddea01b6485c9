//! The binlog as bytes: events, the transactions they make up, and pitr's notes between them.
//! No socket and no I/O.

pub mod counter;
pub mod event;
pub(in crate::engine::mysql) mod fields;
pub mod fold;
pub mod group;
pub mod gtid_event;
mod image;
mod inflate;
pub mod note;
mod payload;
mod rows;
pub mod scanner;
pub(in crate::engine::mysql) mod serialized;
mod statement;
mod table_map;
mod tally;
pub mod unpack;

#[cfg(test)]
pub(in crate::engine::mysql) mod fixtures;

pub use scanner::BinlogScanner;
