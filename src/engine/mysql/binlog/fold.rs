//! Small transactions of MariaDB's, folded into fewer and larger ones.
//!
//! A replica pays for every commit: a row of its own in `mysql.gtid_slave_pos`, InnoDB's commit,
//! its place in a file; and for every statement, whose tables it opens and locks. A restore wants
//! what all of them leave behind, and nobody looks before that is there, so that neighbours may
//! be applied as one:
//!
//! ```text
//! GTID a · map · rows · map · rows · XID a      GTID b · map · rows · XID b
//! GTID b · map · map · rows · rows · rows · XID b
//! ```
//! Folded is only what holds nothing but rows of tables that roll back, in one domain; whatever
//! else comes stands between as it was. The last GTID is the one that counts, for a position in
//! MariaDB's sense is the last of each domain. All rows become one statement, as if of many
//! tables: those are opened for the first rows, so that their maps come before, and closed behind
//! the rows that say so (`Rows_log_event::do_apply_event`, `sql/log_event_server.cc`). But for
//! that flag the rows are the server's bytes, in the log's order. The name and the maps say that
//! they end where the first name did: a replica that was told of a later place would count on
//! from there, and end beyond what a heartbeat says (`queue_event`, `sql/slave.cc`).
//!
//! What is not folded, because MariaDB would not do the same:
//! - anything, once a statement speaks of versioning: a table with system versioning by
//!   transaction may keep one version of a row for each, and by time one for each statement;
//! - rows of another kind than the first, unless those are inserted, once a statement speaks of
//!   references: the tables to which keys cascade are opened for the kind of the first;
//! - rows whose flags say more than that all columns are there and that a statement ends, for the
//!   flags of the first rows count for the statement;
//! - the server's own tables, which may not be locked beside others.

use super::event::{HEADER_BYTES, Header, kind};
use super::gtid_event::GtidEvent;
use crate::engine::mysql::gtid::Gtid;
use crate::error::Result;

mod group;

use group::{Group, Open};

/// What is folded is no longer than this, and a longer transaction is not folded.
const FOLDED_BYTES_MAX: usize = 64 << 10;

/// How far the tables of a database may be folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tables {
    /// They have nothing of what follows.
    Plain,
    /// What is changed in one may change others: a foreign key cascades.
    Cascading,
    /// They keep older versions of their rows.
    Versioned,
}

/// What comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folded<'a> {
    /// Bytes of the log: a piece may begin and end anywhere.
    Log(&'a [u8]),
    /// So many bytes of the file are left out.
    LeftOut(u64),
}

/// Folds the log of a file, behind its format description.
#[derive(Debug)]
pub struct Folder {
    /// What is known of the tables.
    tables: Tables,
    /// The transaction that has begun may define tables.
    defines: bool,
    /// Whether events carry checksums.
    checksums: bool,
    /// The beginning of an event that has not come whole.
    partial: Vec<u8>,
    /// What is to come of an event that is given out as it comes.
    left: usize,
    /// The transaction that is coming, while it may be folded.
    open: Option<Open>,
    /// Whole ones, as one.
    folded: Option<Group>,
}

impl Folder {
    /// For a database with such tables, as long as no statement makes others.
    #[must_use]
    pub const fn new(tables: Tables) -> Self {
        Self { tables, defines: false, checksums: false, partial: Vec::new(), left: 0, open: None, folded: None }
    }

    /// Takes the next bytes and gives out what can be.
    ///
    /// # Errors
    /// [`crate::Kind::Corruption`] for what is no binlog.
    pub fn feed(&mut self, bytes: &[u8], give: &mut impl FnMut(Folded<'_>)) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let plain = if self.left > 0 { self.left.min(rest.len()) } else { self.plain_run(rest)? };
            if plain > 0 {
                let (now, behind) = rest.split_at(plain);
                self.left = self.left.saturating_sub(plain);
                give(Folded::Log(now));
                rest = behind;
            } else {
                rest = self.take(rest, give)?;
            }
        }
        Ok(())
    }

    /// Gives out what is held, as at the end of the log.
    pub fn flush(&mut self, give: &mut impl FnMut(Folded<'_>)) {
        if let Some(folded) = self.folded.take() {
            folded.give(give);
        }
        let open = self.open.take().map(|open| open.bytes);
        for bytes in open.into_iter().chain([std::mem::take(&mut self.partial)]).filter(|bytes| !bytes.is_empty()) {
            give(Folded::Log(&bytes));
        }
    }

    /// Begins a file, whose events carry checksums or do not.
    pub fn begin_file(&mut self, checksums: bool, give: &mut impl FnMut(Folded<'_>)) {
        self.flush(give);
        self.checksums = checksums;
    }

    /// How many bytes of whole events lie at the front that need no look, while none are held.
    fn plain_run(&self, bytes: &[u8]) -> Result<usize> {
        if self.open.is_some() || self.folded.is_some() || !self.partial.is_empty() {
            return Ok(0);
        }
        let mut at = 0;
        while let Some(head) = bytes.get(at..).and_then(|rest| rest.first_chunk::<HEADER_BYTES>()) {
            let header = Header::parse(head)?;
            let end = at + header.length as usize;
            if self.tables != Tables::Versioned && is_looked_at(&header) || end > bytes.len() {
                break;
            }
            at = end;
        }
        Ok(at)
    }

    /// Takes one event, or as much of it as there is; gives what is behind it.
    fn take<'b>(&mut self, bytes: &'b [u8], give: &mut impl FnMut(Folded<'_>)) -> Result<&'b [u8]> {
        let wanted = match self.partial.len() {
            length if length < HEADER_BYTES => HEADER_BYTES - length,
            length => (Header::parse(&self.partial)?.length as usize).saturating_sub(length),
        };
        let (now, behind) = bytes.split_at(wanted.min(bytes.len()));
        self.partial.extend_from_slice(now);
        if self.partial.len() < HEADER_BYTES {
            return Ok(behind);
        }
        let header = Header::parse(&self.partial)?;
        let length = header.length as usize;
        if self.partial.len() < length && length <= FOLDED_BYTES_MAX {
            return Ok(behind);
        }
        let event = std::mem::take(&mut self.partial);
        if !self.holds(&header, &event, give)? {
            self.flush(give);
            self.left = length.saturating_sub(event.len());
            give(Folded::Log(&event));
        }
        Ok(behind)
    }

    /// Holds an event back, if it is of a transaction that may be folded.
    fn holds(&mut self, header: &Header, event: &[u8], give: &mut impl FnMut(Folded<'_>)) -> Result<bool> {
        if self.tables == Tables::Versioned {
            return Ok(false);
        }
        if header.kind == kind::MARIADB_GTID && self.open.is_some() {
            // The server died within that.
            self.flush(give);
        }
        match &mut self.open {
            _ if matches!(header.kind, kind::QUERY | kind::QUERY_COMPRESSED) => {
                self.hear(header, event);
                Ok(false)
            }
            _ if event.len() < header.length as usize => Ok(false),
            None if header.kind == kind::MARIADB_GTID => {
                let body = event.get(HEADER_BYTES..).unwrap_or_default();
                let Some(begun) = GtidEvent::decode(header.kind, header.server_id, body)? else { return Ok(false) };
                let flags = begun.flags;
                self.defines = flags.standalone() || flags.ddl();
                let rolls_back = flags.transactional() && !flags.xa_prepared() && !flags.xa_completed();
                let Some(Gtid::MariaDb { domain, .. }) = begun.gtid.filter(|_| rolls_back && !self.defines) else {
                    return Ok(false);
                };
                self.open = Some(Open { domain, bytes: event.to_vec(), gtid_bytes: event.len() });
                Ok(true)
            }
            Some(open) if is_of_rows(header.kind) && open.bytes.len() + event.len() <= FOLDED_BYTES_MAX => {
                open.bytes.extend_from_slice(event);
                Ok(true)
            }
            Some(_) if header.kind == kind::XID => Ok(self.fold(event, give)),
            _ => Ok(false),
        }
    }

    /// Hears what a statement may make of the tables. One that cannot be read, and may define
    /// some, may do anything.
    fn hear(&mut self, header: &Header, event: &[u8]) {
        let is_read = header.kind == kind::QUERY && event.len() == header.length as usize;
        let says = |word: &[u8]| event.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word));
        if !is_read && self.defines || is_read && says(b"VERSIONING") {
            self.tables = Tables::Versioned;
        } else if is_read && says(b"REFERENCES") && self.tables == Tables::Plain {
            self.tables = Tables::Cascading;
        }
    }

    /// Adds the transaction that ends with `xid` to those before it if it fits to them, or begins
    /// anew with it if it can be folded at all.
    fn fold(&mut self, xid: &[u8], give: &mut impl FnMut(Folded<'_>)) -> bool {
        let Some(open) = &self.open else { return false };
        if let Some(folded) = self.folded.take_if(|folded| !folded.fits(open)) {
            folded.give(give);
        }
        let anew = Group::new(self.checksums, self.tables == Tables::Cascading, open.domain);
        if self.folded.is_none() && !anew.fits(open) {
            return false;
        }
        self.folded.get_or_insert(anew).add(open, xid);
        self.open = None;
        true
    }
}

/// Events that may begin what is held, or tell that nothing may be.
const fn is_looked_at(header: &Header) -> bool {
    matches!(header.kind, kind::MARIADB_GTID | kind::QUERY | kind::QUERY_COMPRESSED)
}

/// What a transaction of nothing but rows holds between its first event and its last.
const fn is_of_rows(kind: u8) -> bool {
    matches!(
        kind,
        kind::ANNOTATE_ROWS
            | kind::TABLE_MAP
            | kind::WRITE_ROWS_V1
            | kind::UPDATE_ROWS_V1
            | kind::DELETE_ROWS_V1
            | kind::WRITE_ROWS_COMPRESSED_V1
            | kind::UPDATE_ROWS_COMPRESSED_V1
            | kind::DELETE_ROWS_COMPRESSED_V1
    )
}

#[cfg(test)]
mod tests;
