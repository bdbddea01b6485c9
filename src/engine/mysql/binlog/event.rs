//! The common header of every binlog event, and the kinds of events there are.
//!
//! ```text
//!  0  timestamp   u32   seconds since 1970-01-01 UTC; 0 in artificial events
//!  4  type        u8
//!  5  server_id   u32
//!  9  length      u32   of the whole event: header, body and, where the file has them, checksum
//! 13  log_pos     u32   where the event ends in its file, modulo 2^32; 0 in artificial events
//! 17  flags       u16
//! 19  body, and in its last four bytes the CRC-32 of all bytes before
//! ```
//! Numbers are little endian. Sources: MySQL `libs/mysql/binlog/event/binlog_event.h`,
//! MariaDB `sql/log_event.h`.

use crate::error::{Error, Result};

/// Length of an event's header.
pub const HEADER_BYTES: usize = 19;

/// Length of an event's checksum, in files that have them.
pub const CHECKSUM_BYTES: usize = 4;

/// The first bytes of every binlog file.
pub const MAGIC: [u8; 4] = [0xfe, b'b', b'i', b'n'];

/// No event may be longer (`MAX_MAX_ALLOWED_PACKET`, and what is wrapped around it).
pub const EVENT_BYTES_MAX: u32 = (1 << 30) + (1 << 20);

/// The file is being written to; the server's dump clears it (`LOG_EVENT_BINLOG_IN_USE_F`).
pub const FLAG_IN_USE: u16 = 0x0001;

/// The event is in no file (`LOG_EVENT_ARTIFICIAL_F`).
pub const FLAG_ARTIFICIAL: u16 = 0x0020;

/// Whoever does not know the event may pass over it (`LOG_EVENT_IGNORABLE_F`).
pub const FLAG_IGNORABLE: u16 = 0x0080;

/// An event's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// When the statement began, seconds since the Unix epoch, by the source's clock.
    pub timestamp: u32,
    /// What it is, one of [`kind`].
    pub kind: u8,
    /// Where it came from first.
    pub server_id: u32,
    /// Bytes of the whole event.
    pub length: u32,
    /// Where it ends in its file, modulo 2^32.
    pub log_pos: u32,
    /// See the `FLAG_` constants.
    pub flags: u16,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// [`crate::Kind::Corruption`] for fewer than [`HEADER_BYTES`] bytes, type 0, and a
    /// length that none can have.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let Some(b) = bytes.first_chunk::<HEADER_BYTES>() else { return Err(no_header(bytes.len())) };
        let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let header = Self {
            timestamp: word(0),
            kind: b[4],
            server_id: word(5),
            length: word(9),
            log_pos: word(13),
            flags: u16::from_le_bytes([b[17], b[18]]),
        };
        if header.kind == 0 || (header.length as usize) < HEADER_BYTES || header.length > EVENT_BYTES_MAX {
            return Err(no_event(header.kind, header.length));
        }
        Ok(header)
    }

    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&self.timestamp.to_le_bytes());
        bytes[4] = self.kind;
        bytes[5..9].copy_from_slice(&self.server_id.to_le_bytes());
        bytes[9..13].copy_from_slice(&self.length.to_le_bytes());
        bytes[13..17].copy_from_slice(&self.log_pos.to_le_bytes());
        bytes[17..19].copy_from_slice(&self.flags.to_le_bytes());
        bytes
    }

    /// Whether the source made it up for the connection, so that it is in no file. A position of
    /// 0 alone does not tell: MariaDB 11.8 writes it for the rows within a transaction.
    #[must_use]
    pub const fn is_artificial(&self) -> bool {
        self.flags & FLAG_ARTIFICIAL != 0
            || self.log_pos == 0 && matches!(self.kind, kind::ROTATE | kind::GTID_LIST | kind::PREVIOUS_GTIDS)
    }
}

#[cold]
fn no_header(len: usize) -> Error {
    Error::corruption(format!("an event's header has {HEADER_BYTES} bytes, not {len}"))
}

#[cold]
fn no_event(kind: u8, length: u32) -> Error {
    Error::corruption(format!("an event of type {kind} says it is {length} bytes long, which none is"))
}

/// The kinds of events that pitr tells apart.
pub mod kind {
    /// A statement, or `BEGIN` and `COMMIT`.
    pub const QUERY: u8 = 2;
    /// The server stopped, and the file ends.
    pub const STOP: u8 = 3;
    /// The file ends, and the next one is named.
    pub const ROTATE: u8 = 4;
    /// What the events of a file look like.
    pub const FORMAT_DESCRIPTION: u8 = 15;
    /// A transaction of a transactional engine committed.
    pub const XID: u8 = 16;
    /// `LOAD DATA`, the statement behind its blocks.
    pub const EXECUTE_LOAD_QUERY: u8 = 18;
    /// Which table the rows that follow belong to.
    pub const TABLE_MAP: u8 = 19;
    /// Rows as the first servers with a row format wrote them.
    pub const PRE_GA_WRITE_ROWS: u8 = 20;
    /// The last of those kinds.
    pub const PRE_GA_DELETE_ROWS: u8 = 22;
    /// Rows inserted; MariaDB writes these.
    pub const WRITE_ROWS_V1: u8 = 23;
    /// Rows updated.
    pub const UPDATE_ROWS_V1: u8 = 24;
    /// Rows deleted.
    pub const DELETE_ROWS_V1: u8 = 25;
    /// Something is missing from the log.
    pub const INCIDENT: u8 = 26;
    /// The source is alive.
    pub const HEARTBEAT: u8 = 27;
    /// Nothing that anybody need know.
    pub const IGNORABLE: u8 = 28;
    /// Rows inserted; MySQL writes these.
    pub const WRITE_ROWS: u8 = 30;
    /// Rows updated.
    pub const UPDATE_ROWS: u8 = 31;
    /// Rows deleted.
    pub const DELETE_ROWS: u8 = 32;
    /// MySQL: a transaction begins.
    pub const GTID: u8 = 33;
    /// MySQL: a transaction without GTID begins.
    pub const ANONYMOUS_GTID: u8 = 34;
    /// MySQL: GTIDs of all files before.
    pub const PREVIOUS_GTIDS: u8 = 35;
    /// MySQL group replication: the members changed; a group of its own.
    pub const VIEW_CHANGE: u8 = 37;
    /// `XA PREPARE`.
    pub const XA_PREPARE: u8 = 38;
    /// MySQL: rows updated, where JSON may be given as what changed in it.
    pub const PARTIAL_UPDATE_ROWS: u8 = 39;
    /// MySQL: a whole transaction, compressed.
    pub const TRANSACTION_PAYLOAD: u8 = 40;
    /// MySQL: as [`HEARTBEAT`], with a position of 64 bits.
    pub const HEARTBEAT_V2: u8 = 41;
    /// MySQL 8.3+: as [`GTID`], perhaps with a tag.
    pub const GTID_TAGGED: u8 = 42;
    /// MariaDB: the statement that made the rows that follow.
    pub const ANNOTATE_ROWS: u8 = 160;
    /// MariaDB: up to which file all transactions are committed in the engines.
    pub const BINLOG_CHECKPOINT: u8 = 161;
    /// MariaDB: a transaction begins.
    pub const MARIADB_GTID: u8 = 162;
    /// MariaDB: GTIDs of all files before.
    pub const GTID_LIST: u8 = 163;
    /// MariaDB: what follows is encrypted; only in files.
    pub const START_ENCRYPTION: u8 = 164;
    /// MariaDB: as [`QUERY`], compressed.
    pub const QUERY_COMPRESSED: u8 = 165;
    /// MariaDB: as [`WRITE_ROWS_V1`], compressed.
    pub const WRITE_ROWS_COMPRESSED_V1: u8 = 166;
    /// MariaDB: as [`UPDATE_ROWS_V1`], compressed.
    pub const UPDATE_ROWS_COMPRESSED_V1: u8 = 167;
    /// MariaDB: as [`DELETE_ROWS_V1`], compressed.
    pub const DELETE_ROWS_COMPRESSED_V1: u8 = 168;
    /// MariaDB: as [`WRITE_ROWS`], compressed.
    pub const WRITE_ROWS_COMPRESSED: u8 = 169;
    /// MariaDB: as [`UPDATE_ROWS`], compressed.
    pub const UPDATE_ROWS_COMPRESSED: u8 = 170;
    /// MariaDB: as [`DELETE_ROWS`], compressed.
    pub const DELETE_ROWS_COMPRESSED: u8 = 171;
    /// MariaDB 12.3+: a part of an event of rows that is too large for a replica.
    pub const PARTIAL_ROW_DATA: u8 = 172;
}

/// Whether events of this kind begin a transaction.
#[must_use]
pub const fn begins_group(of: u8) -> bool {
    matches!(of, kind::GTID | kind::ANONYMOUS_GTID | kind::GTID_TAGGED | kind::MARIADB_GTID)
}

/// The checksums that the events of a file carry, as its format description tells: its last
/// byte before its own checksum, which it has in any case (MySQL 5.6.1 and later, MariaDB 5.3
/// and later).
///
/// # Errors
/// [`crate::Kind::Corruption`] for an event that is none, or an algorithm nobody knows.
pub fn checksums(format_description: &[u8]) -> Result<bool> {
    let at = format_description.len().checked_sub(CHECKSUM_BYTES + 1).filter(|at| *at >= HEADER_BYTES + 57);
    match at.and_then(|at| format_description.get(at)) {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        Some(other) => Err(Error::corruption(format!("checksum algorithm {other} is not known"))
            .hint("is the server newer than this pitr? `set global binlog_checksum = CRC32` helps")),
        None => {
            Err(Error::corruption(format!("a format description of {} bytes is too short", format_description.len()))
                .hint("is the server older than MySQL 5.6.1 or MariaDB 5.3?"))
        }
    }
}

/// The CRC-32 that ends an event, and whether it is right.
#[must_use]
pub fn is_sound(event: &[u8]) -> bool {
    event
        .split_last_chunk::<CHECKSUM_BYTES>()
        .is_some_and(|(covered, crc)| crc32fast::hash(covered) == u32::from_le_bytes(*crc))
}

/// Takes the CRC-32 of an event anew, after a change to it.
pub fn seal(event: &mut [u8]) {
    if let Some((covered, crc)) = event.split_last_chunk_mut::<CHECKSUM_BYTES>() {
        *crc = crc32fast::hash(covered).to_le_bytes();
    }
}

/// The statement of a QUERY event's body, which ends before the checksum.
///
/// ```text
///  0 thread u32 · 4 seconds u32 · 8 length of the database's name u8 · 9 error u16
/// 11 length of status variables u16 · 13 status variables · name, zero · statement
/// ```
#[must_use]
pub fn statement(body: &[u8]) -> Option<&[u8]> {
    let name = usize::from(*body.get(8)?);
    let variables = usize::from(u16::from_le_bytes([*body.get(11)?, *body.get(12)?]));
    body.get(13 + variables + name + 1..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_as_written() {
        let header =
            Header { timestamp: 7, kind: kind::XID, server_id: 9, length: 31, log_pos: 1 << 31, flags: FLAG_IGNORABLE };
        assert_eq!(Header::parse(&header.encode()).unwrap(), header);
        assert!(!header.is_artificial());
        let rows = Header { log_pos: 0, ..header };
        assert!(!rows.is_artificial());
        assert!(Header { kind: kind::ROTATE, ..rows }.is_artificial());
        assert!(Header { flags: FLAG_ARTIFICIAL, ..header }.is_artificial());
    }

    #[test]
    fn zeros_and_impossible_lengths_are_no_event() {
        let header = Header { timestamp: 7, kind: kind::XID, server_id: 9, length: 31, log_pos: 4, flags: 0 };
        for broken in
            [Header { kind: 0, ..header }, Header { length: 18, ..header }, Header { length: u32::MAX, ..header }]
        {
            assert_eq!(Header::parse(&broken.encode()).unwrap_err().kind(), crate::Kind::Corruption);
        }
        assert!(Header::parse(&[0; 64]).is_err());
        assert!(Header::parse(&[1; 18]).is_err());
    }

    #[test]
    fn a_statement_lies_behind_variables_and_database() {
        let mut body = vec![0; 13];
        body[8] = 4;
        body[11] = 3;
        body.extend_from_slice(b"vartest\0COMMIT");
        assert_eq!(statement(&body), Some(&b"COMMIT"[..]));
        body[11] = 250;
        assert_eq!(statement(&body), None);
    }
}
