//! Rows and statements of a transaction, by table.

use std::sync::Arc;

use super::event::kind;
use super::image::{Form, Image};
use super::inflate::Inflater;
use super::rows::{Head, Held, Walker, present};
use super::statement::{Query, Statement};
use super::table_map::{Columns, TableMap, split_id};
use crate::model::changes::{ChangeKind, Changes, Counts};

/// Tables that are remembered. Their maps come again with each transaction.
const TABLES_MAX: usize = 256;

/// Maps that are longer are read each time.
const MAP_BYTES_MAX: usize = 4 << 10;

/// Forms of rows that are remembered of a table: with `binlog_row_image=MINIMAL` there are many.
const FORMS_MAX: usize = 4;

/// How much of a compressed statement is looked at.
const STATEMENT_BYTES: usize = 4 << 10;

/// Bytes before the status variables of a statement, and of a `LOAD DATA`.
const QUERY_FIXED: usize = 13;
const LOAD_FIXED: usize = 26;

/// Of events that have no rows and only end a statement.
pub(super) const NO_TABLE: [u64; 3] = [0xff_ffff, 0xffff_ffff, 0xffff_ffff_ffff];

/// Counts events that are not a payload of others.
pub(super) struct Tally {
    /// Ids and tables, in the same places.
    ids: Vec<u64>,
    tables: Vec<Table>,
    /// The place of the last one looked for, and of the next to be forgotten.
    last: usize,
    oldest: usize,
    /// Places of tables that the transaction at hand has changed.
    touched: Vec<usize>,
    /// What it did that is of no table in `tables`.
    beside: Changes,
    /// What transactions did that have ended, but for the totals of `tables`.
    changes: Changes,
    /// An event of rows that comes in parts.
    open: Option<Open>,
    inflater: Inflater,
}

/// A table, as its last map tells.
struct Table {
    /// What that says behind the id.
    map: Box<[u8]>,
    name: Arc<str>,
    columns: Option<Columns>,
    forms: Vec<(Shape, Form)>,
    /// Of the transaction at hand.
    counts: Counts,
    is_touched: bool,
    /// Of those that have ended.
    total: Counts,
}

/// Which columns the images of rows have: the bits of one image, or of two.
struct Shape {
    images: Box<[u8]>,
    is_update: bool,
    partial: bool,
}

struct Open {
    /// Its place.
    table: usize,
    held: Held,
    walker: Walker,
}

impl Tally {
    pub(super) const fn new() -> Self {
        Self {
            ids: Vec::new(),
            tables: Vec::new(),
            last: 0,
            oldest: 0,
            touched: Vec::new(),
            beside: Changes { tables: Vec::new(), more: false },
            changes: Changes { tables: Vec::new(), more: false },
            open: None,
            inflater: Inflater::new(),
        }
    }

    /// What has been counted of transactions that have ended.
    pub(super) fn take(&mut self) -> Changes {
        for table in &mut self.tables {
            table.settle(&mut self.changes);
        }
        std::mem::take(&mut self.changes)
    }

    /// The transaction ends; it counts if it is `whole`.
    pub(super) fn end_transaction(&mut self, whole: bool) {
        self.open = None;
        for at in self.touched.drain(..) {
            if let Some(table) = self.tables.get_mut(at) {
                table.is_touched = false;
                let counts = std::mem::take(&mut table.counts);
                if whole {
                    table.total.merge(&counts);
                }
            }
        }
        if !self.beside.is_empty() {
            let beside = std::mem::take(&mut self.beside);
            if whole {
                self.changes.merge(&beside);
            }
        }
    }

    /// There is something that nobody can tell the table of.
    pub(super) const fn tell_more(&mut self) {
        self.beside.more = true;
    }

    pub(super) fn whole(&mut self, event: u8, content: &[u8]) {
        match event {
            kind::TABLE_MAP => self.table_map(content),
            kind::QUERY | kind::QUERY_COMPRESSED | kind::EXECUTE_LOAD_QUERY => self.statement(event, content),
            kind::PRE_GA_WRITE_ROWS..=kind::PRE_GA_DELETE_ROWS | kind::PARTIAL_ROW_DATA => self.tell_more(),
            _ => match Held::of(event) {
                Some(held) if held.compressed => {
                    self.begin(event, content);
                    self.end();
                }
                Some(held) => self.rows(held, content),
                None => {}
            },
        }
    }

    /// Takes the beginning of a large event.
    pub(super) fn begin(&mut self, event: u8, content: &[u8]) {
        self.open = None;
        let Some(held) = Held::of(event) else { return self.tell_more() };
        let head = Head::parse(held, content);
        let Some((head, table)) = self.place(head.as_ref()) else { return };
        let form = self.tables.get_mut(table).and_then(|of| of.form(held, head).cloned());
        let rows = if held.compressed { self.inflater.begin_zlib(head.rows) } else { Some(head.rows) };
        if let (Some(form), Some(rows)) = (form, rows) {
            self.open = Some(Open { table, held, walker: Walker::new(form) });
            self.more(rows);
        } else {
            self.add(table, held, None);
        }
    }

    pub(super) fn more(&mut self, bytes: &[u8]) {
        let Some(Open { held, walker, .. }) = &mut self.open else { return };
        if held.compressed {
            self.inflater.feed(bytes, &mut |raw| walker.feed(raw));
        } else {
            walker.feed(bytes);
        }
    }

    pub(super) fn end(&mut self) {
        let Some(Open { table, held, walker }) = self.open.take() else { return };
        let count = walker.finish().filter(|_| !held.compressed || self.inflater.is_sound());
        self.add(table, held, count);
    }

    fn rows(&mut self, held: Held, content: &[u8]) {
        let head = Head::parse(held, content);
        let Some((head, table)) = self.place(head.as_ref()) else { return };
        let form = self.tables.get_mut(table).and_then(|of| of.form(held, head));
        let count = form.and_then(|form| form.count(head.rows));
        self.add(table, held, count);
    }

    /// The place of the table that rows are of. What stands before them is not copied: that took a
    /// third of the time.
    fn place<'h, 'c>(&mut self, head: Option<&'h Head<'c>>) -> Option<(&'h Head<'c>, usize)> {
        let table = head.and_then(|head| self.find(head.table));
        if table.is_none() && !head.is_some_and(|head| NO_TABLE.contains(&head.table)) {
            self.tell_more();
        }
        Some((head?, table?))
    }

    fn add(&mut self, table: usize, held: Held, count: Option<u64>) {
        let Some(of) = self.tables.get_mut(table) else { return };
        match count {
            Some(count) => of.counts.add(held.change, count),
            None => of.counts.add(ChangeKind::Uncounted, 1),
        }
        if !std::mem::replace(&mut of.is_touched, true) {
            self.touched.push(table);
        }
    }

    fn find(&mut self, id: u64) -> Option<usize> {
        if self.ids.get(self.last) != Some(&id) {
            self.last = self.ids.iter().position(|known| *known == id)?;
        }
        Some(self.last)
    }

    fn table_map(&mut self, content: &[u8]) {
        let Some((id, map)) = split_id(content) else { return };
        let known = self.find(id);
        if known.and_then(|at| self.tables.get(at)).is_some_and(|table| *table.map == *map) {
            return;
        }
        let read = TableMap::parse(map);
        // A map that cannot be read still takes the place of the one before.
        let Some(TableMap { name, columns }) = read else {
            if let Some(id) = known.and_then(|at| self.ids.get_mut(at)) {
                *id = u64::MAX;
            }
            return;
        };
        let kept = map.get(..if map.len() > MAP_BYTES_MAX { 0 } else { map.len() }).unwrap_or_default();
        let table = Table {
            map: kept.into(),
            name: name.into(),
            columns,
            forms: Vec::new(),
            counts: Counts::default(),
            is_touched: false,
            total: Counts::default(),
        };
        let at = known.unwrap_or_else(|| {
            let at = if self.ids.len() < TABLES_MAX { self.ids.len() } else { self.oldest };
            self.oldest = (at + 1) % TABLES_MAX;
            at
        });
        match (self.ids.get_mut(at), self.tables.get_mut(at)) {
            (Some(old_id), Some(old)) => {
                old.forget(&mut self.changes, &mut self.beside);
                self.touched.retain(|touched| *touched != at);
                (*old_id, *old) = (id, table);
            }
            _ => {
                self.ids.push(id);
                self.tables.push(table);
            }
        }
        self.last = at;
    }

    fn statement(&mut self, event: u8, content: &[u8]) {
        let fixed = if event == kind::EXECUTE_LOAD_QUERY { LOAD_FIXED } else { QUERY_FIXED };
        let Some(Query { schema, text }) = Query::parse(content, fixed) else { return self.tell_more() };
        let mut inflated = Vec::new();
        let text = if event == kind::QUERY_COMPRESSED {
            if let Some(rest) = self.inflater.begin_zlib(text) {
                self.inflater.feed(rest, &mut |raw| {
                    let room = STATEMENT_BYTES - inflated.len().min(STATEMENT_BYTES);
                    inflated.extend_from_slice(raw.get(..room.min(raw.len())).unwrap_or_default());
                });
            }
            if inflated.is_empty() {
                return self.tell_more();
            }
            &inflated
        } else {
            text
        };
        let Some(Statement { change, tables }) = Statement::read(text) else { return };
        let schema = String::from_utf8_lossy(schema);
        let one = Counts::of(change, 1);
        if tables.is_empty() {
            self.beside.add(&format!("{schema}.*").into(), &one);
        }
        for (own, table) in tables {
            let schema = own.as_deref().unwrap_or(&schema);
            self.beside.add(&format!("{schema}.{table}").into(), &one);
        }
    }
}

impl Table {
    /// Moves the totals to what is told.
    fn settle(&mut self, changes: &mut Changes) {
        if self.total != Counts::default() {
            changes.add(&self.name, &std::mem::take(&mut self.total));
        }
    }

    /// Another table takes this one's place.
    fn forget(&mut self, changes: &mut Changes, beside: &mut Changes) {
        self.settle(changes);
        if self.is_touched {
            beside.add(&self.name, &self.counts);
        }
    }

    /// What rows of an event look like; `None` if nobody can tell.
    fn form(&mut self, held: Held, head: &Head<'_>) -> Option<&Form> {
        let is_update = held.change == ChangeKind::Update;
        let known = self.forms.iter().position(|(shape, _)| {
            *shape.images == *head.images && shape.is_update == is_update && shape.partial == held.partial
        });
        let at = match known {
            Some(at) => at,
            None => {
                let Columns { all, json } = self.columns.as_ref().filter(|of| of.all.len() == head.columns)?;
                let image = |bits| Image::of(present(all, bits)).map(Arc::new);
                let (first, second) = head.images.split_at_checked(head.columns.div_ceil(8))?;
                let second = if is_update { Some(image(second)?) } else { None };
                let form = Form { first: image(first)?, second, partial: held.partial.then_some(*json) };
                if self.forms.len() >= FORMS_MAX {
                    self.forms.remove(0);
                }
                self.forms.push((Shape { images: head.images.into(), is_update, partial: held.partial }, form));
                self.forms.len() - 1
            }
        };
        self.forms.get(at).map(|(_, form)| form)
    }
}

#[cfg(test)]
mod tests;
