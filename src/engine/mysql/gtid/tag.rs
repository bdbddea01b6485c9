//! The tag of a MySQL GTID: a name for a part of one server's transactions.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, Result};

/// Longest tag, in characters (`tag_max_length` in `libs/mysql/gtid/gtid_constants.h`).
const LENGTH_MAX: usize = 32;

/// A tag, in lower case; the default is none, which sorts first. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Option<Arc<str>>);

impl Tag {
    /// The tag's letters; none when there is no tag.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether there is no tag.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Takes a letter or underscore and up to 31 letters, digits and underscores, in
/// either case; no text at all is no tag (`Tag::from_cstring` in `libs/mysql/gtid/tag.cpp`).
///
/// # Errors
/// [`crate::Kind::Usage`] for anything else.
impl FromStr for Tag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some(&first) = text.as_bytes().first() else { return Ok(Self::default()) };
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !plain || first.is_ascii_digit() || text.len() > LENGTH_MAX {
            return Err(Error::usage(format!("{text:?} is no tag of a GTID"))
                .hint("a tag is a letter or underscore and up to 31 letters, digits and underscores"));
        }
        Ok(Self(Some(text.to_ascii_lowercase().into())))
    }
}
