//! The `pitr` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    pitr::cli::main(std::env::args_os().collect())
}
