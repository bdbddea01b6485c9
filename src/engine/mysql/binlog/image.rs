//! How long a row of a rows event is.
//!
//! ```text
//! row    one image, or for an update two: before and after
//! image  [options u8, and if 1 a bit for each JSON column]    MySQL's PARTIAL_UPDATE_ROWS, after
//!        a bit for each column that is present: whether it is null
//!        the values of those that are not
//! ```
//! Source: MySQL `sql/rpl_record.cc` (unpack_row).

use std::sync::Arc;

use super::table_map::{Column, number};

/// The images of some columns of a table.
#[derive(Debug)]
pub(super) struct Image {
    columns: Box<[Column]>,
    /// Bytes of the bits that tell what is null.
    nulls: usize,
    /// Which bits of the last of them count: the others are set.
    last_nulls: u8,
    /// For images in which nothing is null: values of a fixed length, and the length of the one
    /// behind them.
    steps: Box<[(usize, u8)]>,
    /// Bytes of a fixed length behind the last step.
    end: usize,
}

impl Image {
    /// Of these columns; `None` if the length of any is not known.
    pub(super) fn of(columns: impl Iterator<Item = Column>) -> Option<Self> {
        let columns: Box<[Column]> = columns.collect();
        let (mut steps, mut end) = (Vec::new(), 0);
        for column in &columns {
            match *column {
                Column::Fixed(bytes) => end += usize::from(bytes),
                Column::Prefixed(prefix) => steps.push((std::mem::take(&mut end), prefix)),
                Column::Unknown => return None,
            }
        }
        let last_nulls = match columns.len() % 8 {
            0 => 0xff,
            bits => (1 << bits) - 1,
        };
        Some(Self { nulls: columns.len().div_ceil(8), last_nulls, steps: steps.into(), end, columns })
    }

    pub(super) const fn nulls(&self) -> usize {
        self.nulls
    }

    pub(super) fn column(&self, nth: usize) -> Option<Column> {
        self.columns.get(nth).copied()
    }

    /// How long the image at the front of `bytes` is, if it lies there whole.
    fn length(&self, bytes: &[u8]) -> Option<usize> {
        let nulls = bytes.get(..self.nulls)?;
        let mut at = self.nulls;
        let none_is_null = match nulls.split_last() {
            Some((last, rest)) => last & self.last_nulls == 0 && rest.iter().all(|byte| *byte == 0),
            None => true,
        };
        if none_is_null {
            for (fixed, prefix) in &self.steps {
                at += fixed;
                at += prefixed(bytes.get(at..)?, *prefix)?;
            }
            at += self.end;
        } else {
            for (nth, column) in self.columns.iter().enumerate() {
                at += match *column {
                    _ if is_set(nulls, nth) => 0,
                    Column::Fixed(length) => usize::from(length),
                    Column::Prefixed(prefix) => prefixed(bytes.get(at..)?, prefix)?,
                    Column::Unknown => return None,
                };
            }
        }
        (at <= bytes.len()).then_some(at)
    }
}

/// How long a value is whose length stands in front of it, with that.
fn prefixed(bytes: &[u8], prefix: u8) -> Option<usize> {
    let length = match (prefix, bytes) {
        (1, [length, ..]) => usize::from(*length),
        (2, [low, high, ..]) => usize::from(u16::from_le_bytes([*low, *high])),
        _ => usize::try_from(number(bytes.get(..usize::from(prefix))?)).ok()?,
    };
    Some(usize::from(prefix) + length)
}

pub(super) fn is_set(bits: &[u8], nth: usize) -> bool {
    bits.get(nth / 8).is_some_and(|byte| byte & 1 << (nth % 8) != 0)
}

/// What each row of an event consists of.
#[derive(Clone, Debug)]
pub(super) struct Form {
    pub(super) first: Arc<Image>,
    /// Of an update.
    pub(super) second: Option<Arc<Image>>,
    /// Values of JSON in the second may be given as changes: how many columns those are.
    pub(super) partial: Option<usize>,
}

impl Form {
    /// Whether rows have no bytes, so that nobody can tell how many there are.
    pub(super) fn is_empty(&self) -> bool {
        let empty = |image: &Image| image.columns.is_empty();
        empty(&self.first) && self.partial.is_none() && self.second.as_deref().is_none_or(empty)
    }

    /// How many rows lie in `rows`; `None` if they do not end there.
    pub(super) fn count(&self, mut rows: &[u8]) -> Option<u64> {
        if self.is_empty() {
            return None;
        }
        let mut count = 0;
        while !rows.is_empty() {
            rows = rows.get(self.length(rows)?..)?;
            count += 1;
        }
        Some(count)
    }

    /// How long the row at the front of `bytes` is, if it lies there whole.
    pub(super) fn length(&self, bytes: &[u8]) -> Option<usize> {
        let mut length = self.first.length(bytes)?;
        if let Some(second) = &self.second {
            if let Some(json) = self.partial {
                length += match bytes.get(length)? {
                    0 => 1,
                    1 => 1 + json.div_ceil(8),
                    _ => return None,
                };
            }
            length += second.length(bytes.get(length..)?)?;
        }
        (length > 0).then_some(length)
    }
}
