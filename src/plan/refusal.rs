//! Why a target cannot be given back, and the nearest times that can.

use std::fmt;

use crate::error::{Error, Kind};
use crate::model::time::Timestamp;

/// The reasons for a [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is no base backup that could be used, or no log.
    NoBase,
    /// The target lies before the first moment at which a base backup is consistent.
    BeforeFirstBase,
    /// Log is missing at the target, or between it and every base backup before it.
    InGap,
    /// The archive's log does not reach as far, or not provably.
    AfterEnd,
    /// The target lies in the future.
    Future,
    /// The archive knows nothing of that name.
    Unknown,
    /// The source's clock went back there, and no base backup is consistent before
    /// the first transaction that is later than the target.
    ClockWentBack,
}

/// The archive cannot give back the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason.
    pub why: Why,
    /// The reason in a sentence, with values.
    pub message: String,
    /// The latest recoverable time before the target, where the target is a time.
    pub nearest_before: Option<Timestamp>,
    /// The earliest recoverable time after the target, where the target is a time.
    pub nearest_after: Option<Timestamp>,
    /// What to do, beside asking for one of the nearest times.
    pub hint: Option<String>,
}

impl Refusal {
    pub(super) const fn new(why: Why, message: String) -> Self {
        Self { why, message, nearest_before: None, nearest_after: None, hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        let hint = hint.into();
        self.hint = Some(match self.hint {
            None => hint,
            Some(first) => format!("{first}; {hint}"),
        });
        self
    }

    pub(super) const fn nearest(mut self, before: Option<Timestamp>, after: Option<Timestamp>) -> Self {
        self.nearest_before = before;
        self.nearest_after = after;
        self
    }

    /// As an error of [`Kind::NotRecoverable`], whose hint gives the nearest times.
    #[must_use]
    pub fn into_error(self) -> Error {
        let times = match (self.nearest_before, self.nearest_after) {
            (None, None) => None,
            (Some(time), None) | (None, Some(time)) => Some(format!("the nearest recoverable time is {time}")),
            (Some(before), Some(after)) => Some(format!("the nearest recoverable times are {before} and {after}")),
        };
        let hint: Vec<String> = times.into_iter().chain(self.hint).collect();
        let error = Error::new(Kind::NotRecoverable, self.message);
        if hint.is_empty() { error } else { error.hint(hint.join("; ")) }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        refusal.into_error()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
