//! What transactions did to tables: rows and statements by kind, for whoever searches a log.

use std::sync::Arc;

/// No more tables of one transaction, or of one segment, are named: footers stay small.
pub const TABLES_MAX: usize = 64;

/// A kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// Rows inserted.
    Insert,
    /// Rows updated.
    Update,
    /// Rows deleted.
    Delete,
    /// Statements that the log holds as text, so that nobody knows their rows.
    Statement,
    /// Statements that made, changed or dropped something.
    Ddl,
    /// Parts of the log that hold rows which could not be counted. A table of which there are any has
    /// more rows inserted, updated or deleted than the counts say.
    Uncounted,
}

impl ChangeKind {
    /// Each of them, in the order of their numbers.
    pub const ALL: [Self; 6] = [Self::Insert, Self::Update, Self::Delete, Self::Statement, Self::Ddl, Self::Uncounted];
}

/// Which kinds there are any of: bit *n* for the *n*th of [`ChangeKind::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kinds(u8);

impl Kinds {
    /// The kinds of these bits; `None` for bits that have no meaning.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        if bits >> ChangeKind::ALL.len() == 0 { Some(Self(bits)) } else { None }
    }

    /// Their bits.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether a kind is among them.
    #[must_use]
    pub const fn has(self, kind: ChangeKind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }
}

/// How many of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts([u64; ChangeKind::ALL.len()]);

impl Counts {
    /// So many of one kind.
    #[must_use]
    pub fn of(kind: ChangeKind, count: u64) -> Self {
        let mut counts = Self::default();
        counts.add(kind, count);
        counts
    }

    /// How many of a kind.
    #[must_use]
    pub const fn get(&self, kind: ChangeKind) -> u64 {
        self.0[kind as usize]
    }

    /// Takes note of some more of a kind.
    pub const fn add(&mut self, kind: ChangeKind, count: u64) {
        let counted = &mut self.0[kind as usize];
        *counted = counted.saturating_add(count);
    }

    /// Which kinds there are any of.
    #[must_use]
    pub fn kinds(&self) -> Kinds {
        Kinds(ChangeKind::ALL.iter().fold(0, |bits, kind| bits | u8::from(self.get(*kind) > 0) << *kind as u8))
    }

    /// Takes note of as many more.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count = count.saturating_add(more);
        }
    }
}

/// What was done to one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableChanges {
    /// Its name, `schema.table`; `schema.*` for what is known to concern a schema, but not which table.
    pub table: Arc<str>,
    /// How much of what.
    pub counts: Counts,
}

/// Which tables were changed, and how, without numbers: for an index of many segments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Touched {
    /// As [`Changes::tables`].
    pub tables: Vec<(Arc<str>, Kinds)>,
    /// As [`Changes::more`].
    pub more: bool,
}

/// What one transaction did, or all of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// By table, in the order in which they came; at most [`TABLES_MAX`].
    pub tables: Vec<TableChanges>,
    /// There were more changes than these, of any table.
    pub more: bool,
}

impl Changes {
    /// Whether nothing is known to have changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && !self.more
    }

    /// The same without numbers.
    #[must_use]
    pub fn touched(&self) -> Touched {
        let tables = self.tables.iter().map(|of| (Arc::clone(&of.table), of.counts.kinds()));
        Touched { tables: tables.collect(), more: self.more }
    }

    /// Takes note of what was done to a table.
    pub fn add(&mut self, table: &Arc<str>, counts: &Counts) {
        // Nearly always it is the very same name.
        let known = self.tables.iter().position(|known| Arc::ptr_eq(&known.table, table));
        let known = known.or_else(|| self.tables.iter().position(|known| known.table == *table));
        if let Some(known) = known.and_then(|at| self.tables.get_mut(at)) {
            known.counts.merge(counts);
        } else if self.tables.len() < TABLES_MAX {
            self.tables.push(TableChanges { table: Arc::clone(table), counts: *counts });
        } else {
            self.more = true;
        }
    }

    /// Takes note of what came later.
    pub fn merge(&mut self, later: &Self) {
        later.tables.iter().for_each(|of| self.add(&of.table, &of.counts));
        self.more |= later.more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_a_table_add_up_and_the_tables_beyond_the_limit_are_only_told_of() {
        let mut all = Changes::default();
        for n in 0..TABLES_MAX {
            all.add(&format!("shop.t{n}").into(), &Counts::of(ChangeKind::Insert, 2));
        }
        assert!(!all.more);
        let mut later = Changes::default();
        later.add(&"shop.t7".into(), &Counts::of(ChangeKind::Delete, 1));
        later.add(&"shop.t7".into(), &Counts::of(ChangeKind::Insert, 3));
        all.merge(&later);
        assert!(!all.more);
        let counts = all.tables[7].counts;
        assert_eq!((counts.get(ChangeKind::Insert), counts.get(ChangeKind::Delete)), (5, 1));
        assert_eq!(counts.kinds(), Kinds::from_bits(0b101).unwrap());
        assert!(counts.kinds().has(ChangeKind::Delete) && !counts.kinds().has(ChangeKind::Update));
        later.add(&"shop.other".into(), &Counts::of(ChangeKind::Ddl, 1));
        all.merge(&later);
        assert!(all.more);
        assert_eq!(all.tables.len(), TABLES_MAX);
        assert_eq!(Kinds::from_bits(64), None);
    }
}
