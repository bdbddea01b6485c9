//! Does what a plan says, and decides nothing.

pub mod files;
pub mod log;
