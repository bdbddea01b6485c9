//! Events of rows: what stands before the rows, and rows that come in pieces.
//!
//! ```text
//! 0  table id u48 · flags u16
//! 8  version 2 only: u16 and as many bytes, itself among them
//!    columns, a packed integer · one bit for each: whether it is present (for an update, in the
//!    image before) · for an update the same of the image after · rows
//! ```
//! Sources: MySQL `libs/mysql/binlog/event/rows_event.h`, MariaDB `sql/log_event.h`. MariaDB's compressed
//! events differ in the rows only: see [`super::inflate`].

use super::event::kind;
use super::image::{Form, Image, is_set};
use super::table_map::{Column, number, packed, split_id, take};
use crate::model::changes::ChangeKind;

/// What a kind of event holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) change: ChangeKind,
    second_version: bool,
    pub(super) compressed: bool,
    pub(super) partial: bool,
}

impl Held {
    /// What events of this kind hold, if it is rows.
    pub(super) const fn of(event: u8) -> Option<Self> {
        use ChangeKind::{Delete, Insert, Update};
        let (change, second_version) = match event {
            kind::WRITE_ROWS_V1 | kind::WRITE_ROWS_COMPRESSED_V1 => (Insert, false),
            kind::UPDATE_ROWS_V1 | kind::UPDATE_ROWS_COMPRESSED_V1 => (Update, false),
            kind::DELETE_ROWS_V1 | kind::DELETE_ROWS_COMPRESSED_V1 => (Delete, false),
            kind::WRITE_ROWS | kind::WRITE_ROWS_COMPRESSED => (Insert, true),
            kind::UPDATE_ROWS | kind::UPDATE_ROWS_COMPRESSED | kind::PARTIAL_UPDATE_ROWS => (Update, true),
            kind::DELETE_ROWS | kind::DELETE_ROWS_COMPRESSED => (Delete, true),
            _ => return None,
        };
        let compressed = matches!(event, kind::WRITE_ROWS_COMPRESSED_V1..=kind::DELETE_ROWS_COMPRESSED);
        Some(Self { change, second_version, compressed, partial: event == kind::PARTIAL_UPDATE_ROWS })
    }
}

/// What stands before the rows.
#[derive(Debug)]
pub(super) struct Head<'a> {
    pub(super) table: u64,
    pub(super) columns: usize,
    /// A bit for each: whether it is present. For an update once more, of the second image.
    pub(super) images: &'a [u8],
    /// What was at hand of the rows.
    pub(super) rows: &'a [u8],
}

impl<'a> Head<'a> {
    /// Reads it; the event may be cut off behind it.
    pub(super) fn parse(held: Held, content: &'a [u8]) -> Option<Self> {
        let (table, mut rest) = split_id(content)?;
        take(&mut rest, 2)?;
        if held.second_version {
            let more = number(take(&mut rest, 2)?);
            take(&mut rest, usize::try_from(more).ok()?.checked_sub(2)?)?;
        }
        let columns = usize::try_from(packed(&mut rest)?).ok()?;
        let bits = columns.div_ceil(8);
        let images = take(&mut rest, if held.change == ChangeKind::Update { bits.checked_mul(2)? } else { bits })?;
        Some(Self { table, columns, images, rows: rest })
    }
}

/// Those columns that are present.
pub(super) fn present<'c>(columns: &'c [Column], bits: &'c [u8]) -> impl Iterator<Item = Column> + 'c {
    columns.iter().enumerate().filter(|(nth, _)| is_set(bits, *nth)).map(|(_, column)| *column)
}

/// Counts rows that come in pieces, in bounded memory however long they are.
#[derive(Debug)]
pub(super) struct Walker {
    form: Form,
    rows: u64,
    at: At,
    /// In the second image.
    second: bool,
    /// The null bits of the image.
    nulls: Vec<u8>,
    /// The beginning of what is looked for, if not all of it has come.
    head: Vec<u8>,
    /// Bytes to pass over.
    skip: usize,
    /// It made no sense.
    lost: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Row,
    Options,
    Nulls,
    Column(usize),
}

impl Walker {
    pub(super) fn new(form: Form) -> Self {
        let (nulls, head, lost) = (Vec::new(), Vec::new(), form.is_empty());
        Self { form, rows: 0, at: At::Row, second: false, nulls, head, skip: 0, lost }
    }

    /// Takes the next bytes of the rows.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.lost {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
            } else if self.at == At::Row {
                match self.form.length(bytes).and_then(|row| bytes.get(row..)) {
                    Some(rest) => {
                        self.rows += 1;
                        bytes = rest;
                    }
                    None => self.at = At::Nulls,
                }
            } else {
                bytes = self.step(bytes);
            }
            self.settle();
        }
    }

    /// How many rows there were; `None` if they do not end here.
    pub(super) fn finish(mut self) -> Option<u64> {
        self.settle();
        (!self.lost && self.at == At::Row && self.skip == 0).then_some(self.rows)
    }

    fn image(&self) -> &Image {
        match &self.form.second {
            Some(second) if self.second => second,
            _ => &self.form.first,
        }
    }

    /// Takes what comes next of an image that does not lie whole in one piece.
    fn step<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let wanted = match self.at {
            At::Options => 1,
            At::Nulls => self.image().nulls(),
            At::Column(nth) => match self.image().column(nth) {
                Some(Column::Prefixed(prefix)) => usize::from(prefix),
                _ => 0,
            },
            At::Row => 0,
        };
        let (taken, rest) = bytes.split_at((wanted - self.head.len().min(wanted)).min(bytes.len()));
        self.head.extend_from_slice(taken);
        if self.head.len() < wanted {
            return rest;
        }
        match self.at {
            At::Options => {
                self.at = At::Nulls;
                match self.head.first() {
                    Some(0) => {}
                    Some(1) => self.skip = self.form.partial.unwrap_or_default().div_ceil(8),
                    _ => self.lost = true,
                }
            }
            At::Nulls => {
                self.nulls.clone_from(&self.head);
                self.at = At::Column(0);
            }
            At::Column(nth) => {
                // Those of a fixed length never come here.
                self.skip = usize::try_from(number(&self.head)).unwrap_or(usize::MAX);
                self.at = At::Column(nth + 1);
            }
            At::Row => {}
        }
        self.head.clear();
        rest
    }

    /// Goes past all that takes no bytes.
    fn settle(&mut self) {
        while self.skip == 0 && !self.lost {
            match self.at {
                At::Nulls if self.image().nulls() == 0 => {
                    self.nulls.clear();
                    self.at = At::Column(0);
                }
                At::Column(nth) => match self.image().column(nth) {
                    Some(_) if is_set(&self.nulls, nth) => self.at = At::Column(nth + 1),
                    Some(Column::Fixed(length)) => {
                        self.skip = usize::from(length);
                        self.at = At::Column(nth + 1);
                    }
                    Some(_) => return,
                    None if self.form.second.is_some() && !self.second => {
                        self.second = true;
                        self.at = if self.form.partial.is_some() { At::Options } else { At::Nulls };
                    }
                    None => {
                        self.rows += 1;
                        self.second = false;
                        self.at = At::Row;
                        return;
                    }
                },
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests;
