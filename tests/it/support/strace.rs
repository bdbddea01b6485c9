//! `strace` as the one who does harm at the system calls of the archiver: kills it there, or has them fail.
//!
//! So a fault comes at every place that the product has, without code for that in the product. The tracer is no parent of the
//! command (`-D`), whose end is therefore its own.

use std::fmt;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// What goes wrong at a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9` as the call is made: it is not done any more.
    KillBefore,
    /// The call is not done, and says so.
    Error(&'static str),
}

/// A fault at the calls of one name from the `first` to the `last`; each thread counts its own.
#[derive(Clone, Copy, Debug)]
pub struct At {
    pub call: &'static str,
    pub first: u32,
    pub last: u32,
    pub fault: Fault,
}

/// Calls, how many of which a thread of an archiver makes within a second or two at least.
pub type Calls = [(&'static str, u32)];

impl At {
    /// A kill at one of `calls`.
    pub fn killing(calls: &Calls, dice: &mut StdRng) -> Self {
        let (call, most) = *calls.choose(dice).expect("a call");
        let first = dice.random_range(1..=most);
        Self { call, first, last: first, fault: Fault::KillBefore }
    }

    /// An error at one of `calls`, or at some in a row.
    pub fn failing(calls: &Calls, errors: &[&'static str], dice: &mut StdRng) -> Self {
        let (call, most) = *calls.choose(dice).expect("a call");
        let first = dice.random_range(1..=most);
        let last = first + if dice.random() { 0 } else { 1 };
        Self { call, first, last, fault: Fault::Error(errors.choose(dice).expect("an error")) }
    }

    /// The first words of a command to which that happens.
    pub fn words(&self) -> Vec<String> {
        let Self { call, .. } = self;
        let words = format!("strace -D -f -q -o /dev/null -e signal=none -e trace={call} -e {self}");
        words.split(' ').map(String::from).collect()
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, first, last, fault } = self;
        match fault {
            Fault::KillBefore => write!(f, "inject={call}:signal=KILL:when={first}"),
            Fault::Error(error) => write!(f, "inject={call}:error={error}:when={first}..{last}"),
        }
    }
}
