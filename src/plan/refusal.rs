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
    /// Damaged objects without which the target cannot be given back, or that may be all
    /// that held it.
    pub damaged: Vec<String>,
}

impl Refusal {
    pub(super) const fn new(why: Why, message: String) -> Self {
        Self { why, message, nearest_before: None, nearest_after: None, hint: None, damaged: Vec::new() }
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

    pub(super) fn damaged(mut self, objects: impl IntoIterator<Item = String>) -> Self {
        for object in objects {
            if !self.damaged.contains(&object) {
                self.damaged.push(object);
            }
        }
        self
    }

    /// As an error of [`Kind::NotRecoverable`], or of [`Kind::Corruption`] where damaged
    /// objects are the reason. Its hint gives the nearest times.
    #[must_use]
    pub fn into_error(self) -> Error {
        let times = match (self.nearest_before, self.nearest_after) {
            (None, None) => None,
            (Some(time), None) | (None, Some(time)) => Some(format!("the nearest recoverable time is {time}")),
            (Some(before), Some(after)) => Some(format!("the nearest recoverable times are {before} and {after}")),
        };
        let hint = times.into_iter().chain(self.hint);
        let (error, hint): (Error, Vec<String>) = match self.damaged.as_slice() {
            [] => (Error::new(Kind::NotRecoverable, self.message), hint.collect()),
            objects => {
                let are = if objects.len() == 1 { "is damaged" } else { "are damaged" };
                let error = Error::corruption(format!("{}: {} {are}", self.message, objects.join(" and ")));
                let cure = "put an intact copy of it back from another copy of the store; `pitr list` shows what can be restored without it";
                (error, hint.chain([cure.to_owned()]).collect())
            }
        };
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
