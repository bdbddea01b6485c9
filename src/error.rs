//! What can go wrong, said so that a tired reader knows what to do next.
//!
//! An [`Error`] has a [`Kind`], which *is* the process's exit code, a message that
//! names what was wrong and where, and a hint that gives the command to run or the
//! question to ask. Errors are returned or handled; they are logged where they are
//! handled, never on the way.

use std::fmt;
use std::io::ErrorKind;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do about an error. Named for the next step, and mapped one
/// to one onto the exit codes that scripts rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Anything without a better name (exit 1).
    Failure,
    /// The log file asked for is proven not to be in the archive (exit 1).
    Absent,
    /// The command line is wrong (exit 2).
    Usage,
    /// Part of the work was done; the rest needs another step (exit 3).
    Partial,
    /// Another writer holds a higher epoch, or wrote other content here (exit 4).
    Fenced,
    /// Configuration, privileges or preconditions are wrong (exit 5).
    Config,
    /// Another process uses what we need, perhaps only for a moment more (exit 5).
    Busy,
    /// There is no archive at this place (exit 10).
    NoArchive,
    /// The key does not open this archive (exit 12).
    WrongKey,
    /// Something read back is not what was written (exit 13).
    Corruption,
    /// The archive cannot give back that moment (exit 14).
    NotRecoverable,
    /// Lag or age is past its limit (exit 15).
    Breach,
    /// The database cannot be reached or refused us (exit 20).
    DatabaseUnreachable,
    /// The store cannot be reached or refused us (exit 21).
    StoreUnreachable,
}

impl Kind {
    /// The process's exit code for this kind.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failure | Self::Absent => 1,
            Self::Usage => 2,
            Self::Partial => 3,
            Self::Fenced => 4,
            Self::Config | Self::Busy => 5,
            Self::NoArchive => 10,
            Self::WrongKey => 12,
            Self::Corruption => 13,
            Self::NotRecoverable => 14,
            Self::Breach => 15,
            Self::DatabaseUnreachable => 20,
            Self::StoreUnreachable => 21,
        }
    }
}

/// An error with advice.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A new error. `message` is lowercase, without a full stop, and names both the
    /// value found and the value expected.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), hint: None, source: None }))
    }

    /// Adds the advice: a command to run, or the question to ask.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the underlying cause, printed after the message.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Puts `context: ` before the message, keeping kind, hint and cause.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// The same error under another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The message without cause and hint.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The advice, if there is one.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// A [`Kind::Failure`].
    #[must_use]
    pub fn failure(message: impl Into<String>) -> Self {
        Self::new(Kind::Failure, message)
    }

    /// A [`Kind::Usage`].
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// A [`Kind::Config`].
    #[must_use]
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(Kind::Config, message)
    }

    /// A [`Kind::Corruption`].
    #[must_use]
    pub fn corruption(message: impl Into<String>) -> Self {
        Self::new(Kind::Corruption, message)
    }

    /// A [`Kind::StoreUnreachable`] from an I/O error of a local store at `path`, with what it means for whoever runs the archive.
    #[must_use]
    pub fn store_io(doing: &str, path: &std::path::Path, error: std::io::Error) -> Self {
        // The commands in the hint need a directory that is there.
        let at = path.ancestors().skip(1).find(|path| path.is_dir()).unwrap_or(path).display();
        let hint = match error.kind() {
            ErrorKind::StorageFull => Some(format!("the disk is full: make room and pitr goes on; see `df -h {at}`")),
            ErrorKind::QuotaExceeded => {
                Some(format!("the quota is used up: raise it and pitr goes on; see `quota` for {at}"))
            }
            ErrorKind::ReadOnlyFilesystem => Some(format!(
                "the filesystem is mounted read-only, often after a disk error: see `dmesg` and `findmnt -T {at}`"
            )),
            ErrorKind::PermissionDenied => {
                Some(format!("which user runs pitr, and may it write there? see `id` and `ls -ld {at}`"))
            }
            _ if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                Some("the disk reports an error: do not rely on it; see `dmesg`".to_owned())
            }
            _ => None,
        };
        let error = Self::new(Kind::StoreUnreachable, format!("cannot {doing} {}", path.display())).because(error);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    /// A [`Kind::Failure`] from an I/O error at `path`.
    #[must_use]
    pub fn io(doing: &str, path: &std::path::Path, error: std::io::Error) -> Self {
        Self::new(Kind::Failure, format!("cannot {doing} {}", path.display())).because(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as &(dyn std::error::Error + 'static))
    }
}
