//! WAL records: a 24-byte header, then a body of any length.
//!
//! ```text
//!  0  xl_tot_len  u32   bytes of header and body
//!  4  xl_xid      u32   transaction, 0 for none
//!  8  xl_prev     u64   LSN at which the record before begins
//! 16  xl_info     u8    what it does, in the words of its resource manager
//! 17  xl_rmid     u8    resource manager
//! 18  (padding)
//! 20  xl_crc      u32   CRC-32C of the body and then of the header's first 20 bytes
//! 24  body
//! ```
//!
//! A record begins at a multiple of 8, so that its first 8 bytes are always on one
//! page; zeros fill the room to the next. Page headers lie inside a record that
//! crosses pages and are no part of it.
//!
//! Source: `src/include/access/xlogrecord.h`, `ValidXLogRecordHeader` and
//! `ValidXLogRecord` in `src/backend/access/transam/xlogreader.c`.

use crc_fast::{CrcAlgorithm, Digest};

use super::name::format_lsn;
use super::page::{u32_at, u64_at};
use crate::model::offset::Offset;

/// Bytes of a record's header (`SizeOfXLogRecord`).
pub(super) const HEADER_BYTES: usize = 24;
/// How much of the header its CRC covers.
const HEADER_BYTES_IN_CRC: usize = 20;
/// Up to this length a body is copied to be summed with its header.
const SHORT_BODY_BYTES_MAX: usize = 236;
/// No server writes a longer record, nor would it read one (`XLogRecordMaxSize`).
const LENGTH_MAX: u32 = 1020 << 20;

/// Resource manager of the log itself (`RM_XLOG_ID`).
pub(super) const RM_XLOG: u8 = 0;
/// Resource manager of transactions (`RM_XACT_ID`).
pub(super) const RM_XACT: u8 = 1;
/// Resource manager of tablespaces (`RM_TBLSPC_ID`).
pub(super) const RM_TABLESPACE: u8 = 5;

/// The rest of the WAL file is unused (`XLOG_SWITCH`).
const SWITCH: u8 = 0x40;
/// A named restore point (`XLOG_RESTORE_POINT`).
pub(super) const RESTORE_POINT: u8 = 0x70;
/// The record before on these pages was never finished (`XLOG_OVERWRITE_CONTRECORD`).
pub(super) const OVERWRITE_CONTRECORD: u8 = 0xD0;
/// A new tablespace (`XLOG_TBLSPC_CREATE`).
const CREATE_TABLESPACE: u8 = 0x00;
/// The bits of `xl_info` that belong to the resource manager (`XLR_RMGR_INFO_MASK`).
pub(super) const INFO_MASK: u8 = 0xF0;

/// A record's header.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordHeader<'a> {
    bytes: &'a [u8; HEADER_BYTES],
}

impl<'a> RecordHeader<'a> {
    pub(super) fn new(bytes: &'a [u8; HEADER_BYTES]) -> Self {
        Self { bytes }
    }

    pub(super) fn xid(self) -> u32 {
        u32_at(self.bytes, 4)
    }

    pub(super) fn info(self) -> u8 {
        self.bytes[16]
    }

    pub(super) fn resource_manager(self) -> u8 {
        self.bytes[17]
    }

    /// Whether the rest of the WAL file is unused.
    pub(super) fn is_switch(self) -> bool {
        self.resource_manager() == RM_XLOG && self.info() & INFO_MASK == SWITCH
    }

    /// Whether it changes data only: most of the log.
    pub(super) fn is_plain(self) -> bool {
        self.resource_manager() > RM_XACT && self.resource_manager() != RM_TABLESPACE
    }

    /// Whether the body says something that [`super::xact::read`] wants to know.
    pub(super) fn is_telling(self) -> bool {
        match self.resource_manager() {
            RM_XACT => super::xact::ends_transaction(self.info()),
            RM_XLOG => matches!(self.info() & INFO_MASK, RESTORE_POINT | OVERWRITE_CONTRECORD),
            _ => false,
        }
    }

    /// Whether the record makes a tablespace, in a directory that its body names.
    pub(super) fn creates_tablespace(self) -> bool {
        self.resource_manager() == RM_TABLESPACE && self.info() & INFO_MASK == CREATE_TABLESPACE
    }

    /// Whether the record prepares a transaction.
    pub(super) fn prepares(self) -> bool {
        self.resource_manager() == RM_XACT && super::xact::prepares_transaction(self.info())
    }

    /// Checks that the record follows the one that began at `previous`, or, when that
    /// is not known, any one before `start`.
    #[inline]
    pub(super) fn check_previous(self, start: u64, previous: Option<u64>) -> Result<(), String> {
        let stated = u64_at(self.bytes, 8);
        if previous.map_or(stated < start, |previous| stated == previous) {
            return Ok(());
        }
        Err(wrong_previous(stated, previous))
    }

    /// Checks the CRC of a record whose body is at hand.
    pub(super) fn check_crc_of(self, body: &[u8]) -> Result<(), String> {
        // Half of the log is records of less than 100 bytes, and one call for header and body
        // together is then quicker than two, even with the copy it takes.
        let mut whole = [0; SHORT_BODY_BYTES_MAX + HEADER_BYTES_IN_CRC];
        match whole.get_mut(..body.len() + HEADER_BYTES_IN_CRC) {
            Some(whole) => {
                let (front, back) = whole.split_at_mut(body.len());
                front.copy_from_slice(body);
                back.copy_from_slice(&self.bytes[..HEADER_BYTES_IN_CRC]);
                self.compare(crc_fast::crc32_iscsi(whole))
            }
            None => self.check_crc(BodyCrc::new().append(body)),
        }
    }

    /// Checks the CRC of a record whose body came in pieces.
    pub(super) fn check_crc(self, body: BodyCrc) -> Result<(), String> {
        self.compare(body.append(&self.bytes[..HEADER_BYTES_IN_CRC]).value())
    }

    fn compare(self, computed: u32) -> Result<(), String> {
        let stated = u32_at(self.bytes, 20);
        if computed == stated {
            return Ok(());
        }
        Err(wrong_crc(stated, computed))
    }
}

/// A CRC-32C on its way, as the register holds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyCrc(u64);

impl BodyCrc {
    pub(super) fn new() -> Self {
        Self(0xFFFF_FFFF)
    }

    pub(super) fn append(self, bytes: &[u8]) -> Self {
        let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, self.0);
        digest.update(bytes);
        Self(digest.get_state())
    }

    fn value(self) -> u32 {
        !(self.0 as u32)
    }
}

/// Checks a record's length.
///
/// # Errors
/// A sentence that says what is wrong with it; zero is how a log ends whose file was
/// made ahead.
#[inline]
pub(super) fn check_length(length: u32) -> Result<(), String> {
    if (HEADER_BYTES as u32..=LENGTH_MAX).contains(&length) {
        return Ok(());
    }
    Err(wrong_length(length))
}

// The sentences are written apart from the checks, which run for every record.

#[cold]
fn wrong_length(length: u32) -> String {
    match length {
        0 => "log ends: the record's length is 0".to_owned(),
        l if l > LENGTH_MAX => format!("record's length is {l}, more than the {LENGTH_MAX} a server writes"),
        l => format!("record's length is {l}, less than its header's {HEADER_BYTES}"),
    }
}

#[cold]
fn wrong_previous(stated: u64, previous: Option<u64>) -> String {
    let expected = previous.map_or_else(|| "an earlier place".to_owned(), |p| format_lsn(Offset(p)));
    format!("record names {} as the one before, not {expected}", format_lsn(Offset(stated)))
}

#[cold]
fn wrong_crc(stated: u32, computed: u32) -> String {
    format!("record's CRC is {stated:08X}, computed {computed:08X}")
}

/// `length` rounded up to where the next record begins (`MAXALIGN`).
pub(super) const fn aligned(length: u64) -> u64 {
    length.next_multiple_of(8)
}
