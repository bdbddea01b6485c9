//! PostgreSQL's frontend/backend protocol, as far as replication needs it. Works on
//! byte slices only; no sockets here.

pub mod auth;
pub mod backup;
pub mod frame;
pub mod replication;
pub mod startup;
