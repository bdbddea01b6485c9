//! Real servers, the real binary, and oracles that do not share code with it.
//!
//! Rules of the house: a wait is a condition with a deadline and never a bare
//! sleep; whatever a test starts is stopped when its value is dropped, also when
//! the test panics; times come from the server, never from this process's clock.

pub mod garage;
pub mod load;
pub mod moto;
pub mod mysql;
pub mod oracle;
pub mod pitr;
pub mod power;
pub mod programs;
pub mod relay;
pub mod s3;
pub mod scratch;
pub mod server;
pub mod started;
pub mod strace;
pub mod template;

use std::fmt::Display;
use std::time::{Duration, Instant};

pub use load::Load;
pub use pitr::{Finished, Pitr};
pub use programs::Version;
pub use scratch::Scratch;
pub use server::Server;

/// Long enough for a loaded two-core machine, short enough that a hang is seen.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Waits until `probe` gives a value, and fails naming `what` when it has not done
/// so after `deadline`.
#[track_caller]
pub fn condition<T>(what: impl Display, deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        let waited = began.elapsed();
        assert!(waited < deadline, "after {deadline:?} still waiting for: {what}");
        // A probe may be a process of its own, which takes time from what is waited for: the longer, the rarer.
        std::thread::sleep((waited / 10).clamp(Duration::from_millis(10), Duration::from_millis(200)));
    }
}

/// The seed of a randomised test: `PITR_SEED` when set, else a new one. Printed, so
/// that a failure can be run again.
pub fn seed() -> u64 {
    let seed = match std::env::var("PITR_SEED") {
        Ok(text) => text.parse().expect("PITR_SEED is a whole number"),
        Err(_) => rand::random(),
    };
    eprintln!("seed: run again with PITR_SEED={seed}");
    seed
}

/// A whole number from the environment, for how long and how often; else `default`.
pub fn env_number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a whole number, not {text:?}")),
        Err(_) => default,
    }
}
