//! Small transactions of MariaDB's, folded into fewer and larger ones.
//!
//! A replica pays for every commit: a row of its own in `mysql.gtid_slave_pos`, InnoDB's commit,
//! its place in a file. A restore wants what all of them leave behind, and nobody looks before
//! that is there, so that neighbours may be applied as one:
//!
//! ```text
//! GTID a · rows · XID a      GTID b · rows · XID b      GTID c · rows · XID c
//! GTID c · rows · rows · rows · XID c
//! ```
//! Every event stays as the server wrote it. Folded is only what holds nothing but rows of
//! tables that roll back, in one domain; whatever else comes stands between as it was. The last
//! GTID is the one that counts, for a position in MariaDB's sense is the last of each domain.
//!
//! Tables with system versioning by transaction keep one version of a row for each transaction
//! (`ha_innobase::update_row`), so that none are folded once a statement speaks of versioning.

use super::event::{HEADER_BYTES, Header, kind};
use super::gtid_event::GtidEvent;
use crate::engine::mysql::gtid::Gtid;
use crate::error::Result;

/// A folded transaction is no longer than this, and a longer one is not folded.
const FOLDED_BYTES_MAX: usize = 64 << 10;

/// What comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folded<'a> {
    /// Bytes of the log: a piece may begin and end anywhere.
    Log(&'a [u8]),
    /// So many bytes of the file are left out.
    LeftOut(u64),
}

/// Folds the log of a file, behind its format description.
#[derive(Debug, Default)]
pub struct Folder {
    /// The beginning of an event that has not come whole.
    partial: Vec<u8>,
    /// What is to come of an event that is given out as it comes.
    left: usize,
    /// The transaction that is coming, while it may be folded.
    open: Option<Group>,
    /// Whole ones, as one.
    folded: Option<Group>,
    /// Nothing is folded any more.
    off: bool,
}

/// A transaction, or several as one.
#[derive(Debug)]
struct Group {
    domain: u32,
    gtid: Vec<u8>,
    rows: Vec<u8>,
    xid: Vec<u8>,
    /// Bytes of GTID and XID events that are in it no more.
    left_out: u64,
}

impl Folder {
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

    /// Gives out what is held, as at the end of a file.
    pub fn flush(&mut self, give: &mut impl FnMut(Folded<'_>)) {
        for group in [self.folded.take(), self.open.take()].into_iter().flatten() {
            for bytes in [group.gtid, group.rows, group.xid] {
                give(Folded::Log(&bytes));
            }
            if group.left_out > 0 {
                give(Folded::LeftOut(group.left_out));
            }
        }
        if !self.partial.is_empty() {
            give(Folded::Log(&std::mem::take(&mut self.partial)));
        }
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
            if !self.off && is_looked_at(&header) || end > bytes.len() {
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
        if self.off {
            return Ok(false);
        }
        match &mut self.open {
            _ if matches!(header.kind, kind::QUERY | kind::QUERY_COMPRESSED) => {
                self.off = speaks_of_versioning(header, event);
                Ok(false)
            }
            _ if event.len() < header.length as usize => Ok(false),
            None if header.kind == kind::MARIADB_GTID => {
                let body = event.get(HEADER_BYTES..).unwrap_or_default();
                let begun = GtidEvent::decode(header.kind, header.server_id, body)?;
                let foldable = begun.filter(|begun| {
                    let flags = begun.flags;
                    flags.transactional()
                        && !flags.standalone()
                        && !flags.ddl()
                        && !flags.xa_prepared()
                        && !flags.xa_completed()
                });
                let Some(Gtid::MariaDb { domain, .. }) = foldable.and_then(|begun| begun.gtid) else {
                    return Ok(false);
                };
                self.open =
                    Some(Group { domain, gtid: event.to_vec(), rows: Vec::new(), xid: Vec::new(), left_out: 0 });
                Ok(true)
            }
            Some(open) if is_of_rows(header.kind) && open.rows.len() + event.len() <= FOLDED_BYTES_MAX => {
                open.rows.extend_from_slice(event);
                Ok(true)
            }
            Some(open) if header.kind == kind::XID => {
                open.xid = event.to_vec();
                self.fold(give);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Adds the transaction that is whole to those before it, if there is room.
    fn fold(&mut self, give: &mut impl FnMut(Folded<'_>)) {
        let Some(last) = self.open.take() else { return };
        match &mut self.folded {
            Some(folded) if folded.domain == last.domain && folded.rows.len() + last.rows.len() <= FOLDED_BYTES_MAX => {
                folded.left_out += (folded.gtid.len() + folded.xid.len()) as u64;
                folded.rows.extend_from_slice(&last.rows);
                (folded.gtid, folded.xid) = (last.gtid, last.xid);
            }
            _ => {
                self.flush(give);
                self.folded = Some(last);
            }
        }
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

/// Whether a statement may make a table versioned: one that cannot be read may as well.
fn speaks_of_versioning(header: &Header, event: &[u8]) -> bool {
    const WORD: &[u8] = b"VERSIONING";
    header.kind == kind::QUERY_COMPRESSED
        || event.len() < header.length as usize
        || event.windows(WORD.len()).any(|window| window.eq_ignore_ascii_case(WORD))
}

#[cfg(test)]
mod tests;
