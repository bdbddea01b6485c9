//! Transactions of nothing but rows, put together as one.

use super::super::event::{self, CHECKSUM_BYTES, HEADER_BYTES, Header, kind};
use super::super::table_map::{ID_BYTES, split_id};
use super::super::tally::NO_TABLE;
use super::{FOLDED_BYTES_MAX, Folded};

/// At most so many tables are opened at once.
const TABLES_MAX: usize = 64;

/// Where an event's header says where it ends.
const END: std::ops::Range<usize> = 13..17;

/// Where the flags of an event of rows are, which has two bytes of them.
pub(super) const FLAGS: usize = HEADER_BYTES + ID_BYTES;

/// The rows are the last of their statement (`STMT_END_F`).
pub(super) const ENDS_STATEMENT: u8 = 1;

/// All columns are there (`COMPLETE_ROWS_F`).
const COMPLETE: u8 = 8;

/// A schema's name as it begins in a table map.
const SYSTEM_SCHEMA: &[u8] = b"\x05mysql\0";

/// A transaction of which nothing but rows has come.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) domain: u32,
    /// Its bytes, of which so many are its first event.
    pub(super) bytes: Vec<u8>,
    pub(super) gtid_bytes: usize,
}

impl Open {
    /// Its events behind the first.
    fn rows(&self) -> impl Iterator<Item = (Header, &[u8])> {
        let mut bytes = self.bytes.get(self.gtid_bytes..).unwrap_or_default();
        std::iter::from_fn(move || {
            let header = Header::parse(bytes).ok()?;
            let (event, rest) = bytes.split_at_checked(header.length as usize)?;
            bytes = rest;
            Some((header, event))
        })
    }
}

/// Transactions as one.
#[derive(Debug)]
pub(super) struct Group {
    checksums: bool,
    /// Rows of another kind than the first are not to follow, unless those are inserted.
    cascading: bool,
    domain: u32,
    /// Where the first transaction's name ended.
    begun: Vec<u8>,
    /// What the first rows are.
    first: Option<Change>,
    gtid: Vec<u8>,
    maps: Vec<Vec<u8>>,
    rows: Vec<u8>,
    /// Where in `rows` the last of its events begins.
    last: usize,
    xid: Vec<u8>,
    /// How long the transactions were.
    taken: usize,
}

impl Group {
    pub(super) fn new(checksums: bool, cascading: bool, domain: u32) -> Self {
        Self {
            checksums,
            cascading,
            domain,
            begun: Vec::new(),
            first: None,
            gtid: Vec::new(),
            maps: Vec::new(),
            rows: Vec::new(),
            last: 0,
            xid: Vec::new(),
            taken: 0,
        }
    }

    /// Whether a transaction can be a part of this.
    pub(super) fn fits(&self, open: &Open) -> bool {
        if self.domain != open.domain || self.taken > 0 && self.rows.len() + open.bytes.len() > FOLDED_BYTES_MAX {
            return false;
        }
        let mut tables: Vec<Map<'_>> = self.maps.iter().filter_map(|event| Map::of(event, self.checksums)).collect();
        let (mut mapped, mut first, mut ended) = (Vec::new(), self.first, false);
        let fits = open.rows().all(|(header, event)| match header.kind {
            kind::ANNOTATE_ROWS => true,
            kind::TABLE_MAP => {
                let Some(map) = Map::of(event, self.checksums) else { return false };
                mapped.push(map.id);
                match tables.iter().find(|other| other.id == map.id || other.name == map.name) {
                    Some(other) => *other == map,
                    None => {
                        let is_ordinary = !map.name.starts_with(SYSTEM_SCHEMA);
                        tables.push(map);
                        is_ordinary && tables.len() <= TABLES_MAX
                    }
                }
            }
            _ => {
                let Some([flags, more]) = event.get(FLAGS..).and_then(|flags| flags.first_chunk()) else {
                    return false;
                };
                let Some((id, _)) = event.get(HEADER_BYTES..).and_then(split_id) else { return false };
                let change = Change::of(header.kind);
                let first = *first.get_or_insert(change);
                ended = flags & ENDS_STATEMENT != 0;
                flags & !(ENDS_STATEMENT | COMPLETE) == 0
                    && *more == 0
                    && !NO_TABLE.contains(&id)
                    && mapped.contains(&id)
                    && (!self.cascading || first == Change::Insert || first == change)
            }
        });
        fits && ended
    }

    /// Adds a transaction that [fits](Self::fits).
    pub(super) fn add(&mut self, open: &Open, xid: &[u8]) {
        self.gtid = open.bytes.get(..open.gtid_bytes).unwrap_or_default().to_vec();
        if self.taken == 0 {
            self.begun = self.gtid.get(END).unwrap_or_default().to_vec();
        }
        Self::say_where(&mut self.gtid, &self.begun, self.checksums);
        let id = |event: &[u8]| Map::of(event, self.checksums).map(|map| map.id);
        let mut rows = Vec::new();
        for (header, event) in open.rows() {
            match header.kind {
                kind::ANNOTATE_ROWS => {}
                kind::TABLE_MAP if self.maps.iter().any(|map| id(map) == id(event)) => {}
                kind::TABLE_MAP => {
                    let mut map = event.to_vec();
                    Self::say_where(&mut map, &self.begun, self.checksums);
                    self.maps.push(map);
                }
                of => {
                    self.first.get_or_insert(Change::of(of));
                    rows.push(event);
                }
            }
        }
        for event in rows {
            self.go_on();
            self.last = self.rows.len();
            self.rows.extend_from_slice(event);
        }
        self.taken += open.bytes.len() + xid.len();
        self.xid = xid.to_vec();
    }

    /// Has an event say that it ends at `end`.
    fn say_where(event: &mut [u8], end: &[u8], checksums: bool) {
        if let Some(says) = event.get_mut(END).filter(|says| *says != end && says.len() == end.len()) {
            says.copy_from_slice(end);
            if checksums {
                event::seal(event);
            }
        }
    }

    /// Has the statement go on behind the last rows.
    fn go_on(&mut self) {
        let Some(event) = self.rows.get_mut(self.last..) else { return };
        if let Some(flags) = event.get_mut(FLAGS).filter(|flags| **flags & ENDS_STATEMENT != 0) {
            *flags &= !ENDS_STATEMENT;
            if self.checksums {
                event::seal(event);
            }
        }
    }

    pub(super) fn give(&self, give: &mut impl FnMut(Folded<'_>)) {
        let mut given = 0;
        for bytes in [&self.gtid].into_iter().chain(&self.maps).chain([&self.rows, &self.xid]) {
            given += bytes.len();
            give(Folded::Log(bytes));
        }
        if given < self.taken {
            give(Folded::LeftOut((self.taken - given) as u64));
        }
    }
}

/// What a table map says.
#[derive(PartialEq, Eq)]
struct Map<'a> {
    id: u64,
    /// The schema and the table, as the event has them.
    name: &'a [u8],
    /// All that is behind the id.
    rest: &'a [u8],
}

impl<'a> Map<'a> {
    fn of(event: &'a [u8], checksums: bool) -> Option<Self> {
        let end = event.len().checked_sub(if checksums { CHECKSUM_BYTES } else { 0 })?;
        let (id, rest) = split_id(event.get(HEADER_BYTES..end)?)?;
        let names = rest.get(2..)?;
        let schema = usize::from(*names.first()?) + 2;
        let table = usize::from(*names.get(schema)?) + 2;
        Some(Self { id, name: names.get(..schema + table)?, rest })
    }
}

/// What an event of rows does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Insert,
    Update,
    Delete,
}

impl Change {
    const fn of(of: u8) -> Self {
        match of {
            kind::WRITE_ROWS_V1 | kind::WRITE_ROWS_COMPRESSED_V1 => Self::Insert,
            kind::DELETE_ROWS_V1 | kind::DELETE_ROWS_COMPRESSED_V1 => Self::Delete,
            _ => Self::Update,
        }
    }
}
