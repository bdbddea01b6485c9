//! Integration tests against real servers: one module per promise.
//!
//! Nothing in here is skipped: a test that lacks a program fails with the command
//! that installs it. `docs/testing.md` tells how the pieces work together.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub
)]

mod support;

mod bad_input;
mod base;
mod cli;
mod connect;
mod copy;
mod crash;
mod damage;
mod encryption;
mod failover;
mod faults;
mod garage;
mod harness;
mod holes;
mod mirrors;
mod mysql_bad_input;
mod mysql_changes;
mod mysql_faults;
mod mysql_features;
mod mysql_harness;
mod mysql_large;
mod mysql_live;
mod mysql_logical;
mod mysql_restore;
mod mysql_serve;
mod mysql_stream;
mod object_store;
mod power;
mod restore_to_time;
mod s3;
mod small_disk;
mod spool;
mod stalls;
mod standby;
mod store_model;
mod stream;
mod versions;
mod wal_commands;
