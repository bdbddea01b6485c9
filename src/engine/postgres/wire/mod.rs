//! PostgreSQL's frontend/backend protocol, as far as replication needs it. Works on
//! byte slices only; no sockets here.
//!
//! Promises: no length field of the peer makes this code allocate, a message is
//! parsed only when it is whole, and bytes that are no message are an error with the
//! message's letter in it, never a panic. One family per file: [`frame`] cuts the
//! byte stream into messages, [`backend`] names them, [`report`] reads errors and
//! notices, [`startup`] and [`auth`] open a session, [`replication`] is what travels
//! inside `CopyData` between walsender and standby.
//!
//! Source: PostgreSQL manual, "Frontend/Backend Protocol"; `src/backend/libpq/pqcomm.c`
//! and `src/backend/replication/walsender.c`.

pub mod auth;
pub mod backend;
mod cursor;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod frame;
pub mod replication;
pub mod report;
pub mod startup;
#[cfg(test)]
mod tests;

pub use backend::Backend;
pub use report::Report;
