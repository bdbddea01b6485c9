//! The command line: parse, call, print.

pub mod output;
pub mod settings;
pub mod time;
