//! The `pitr` command.

fn main() {}
