//! What the bodies of a few records say: ends of transactions, restore points, tablespaces.
//!
//! ```text
//! body:  [origin: 253, u16] [top-level xid: 252, u32]  main data: 255, u8 length | 254, u32 length
//!        main data
//! end of a transaction:  time i64, then if xl_info has 0x80: xinfo u32 and, each if its bit is set,
//!          0x001 database   u32, u32              (xl_xact_dbinfo)
//!          0x002 children   n, n x u32            (xl_xact_subxacts)
//!          0x004 relations  n, n x 12             (xl_xact_relfilelocators)
//!          0x100 statistics n, n x 12, since 18 16 (xl_xact_stats_items, since 15)
//!          0x008 messages   n, n x 16             (xl_xact_invals; commits only)
//!          0x010 two-phase  xid u32               (xl_xact_twophase)
//! restore point:  time i64, name [64], ended by a zero   (xl_restore_point)
//! tablespace:     oid u32, directory, ended by a zero     (xl_tblspc_create_rec)
//! lost rest:      LSN u64 of the unfinished record, time i64   (xl_overwrite_contrecord)
//! ```
//!
//! Times are microseconds since 2000-01-01 UTC. None of these records names a block.
//! Source: `src/include/access/xact.h`, `src/include/access/xlog_internal.h`,
//! `src/backend/access/rmgrdesc/xactdesc.c` (`ParseCommitRecord`), `DecodeXLogRecord`
//! in `src/backend/access/transam/xlogreader.c`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::page::{u32_at, u64_at};
use super::record::{INFO_MASK, OVERWRITE_CONTRECORD, RESTORE_POINT, RM_XLOG, RecordHeader};
use crate::model::mark::{MarkKind, TransactionId};
use crate::model::time::Timestamp;

/// What the record does (`XLOG_XACT_OPMASK`).
const OP_MASK: u8 = 0x70;
const COMMIT: u8 = 0x00;
const PREPARE: u8 = 0x10;
const ABORT: u8 = 0x20;
const COMMIT_PREPARED: u8 = 0x30;
const ABORT_PREPARED: u8 = 0x40;
/// The body has an `xinfo` (`XLOG_XACT_HAS_INFO`).
const HAS_INFO: u8 = 0x80;

/// Microseconds from 1970 to 2000, where PostgreSQL's time begins.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Whether a record of the transaction manager with this `xl_info` ends a transaction.
pub(super) const fn ends_transaction(info: u8) -> bool {
    matches!(info & OP_MASK, COMMIT | ABORT | COMMIT_PREPARED | ABORT_PREPARED)
}

/// Whether a record of the transaction manager with this `xl_info` prepares a transaction.
pub(super) const fn prepares_transaction(info: u8) -> bool {
    info & OP_MASK == PREPARE
}

/// What a telling record tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// A mark for everybody.
    Mark(MarkKind),
    /// The record that began here was never finished.
    Overwritten(u64),
}

/// Reads the body of a telling record. `body` may be cut off when the record is
/// longer than the scanner keeps; only a prepared transaction's id can be lost so, and
/// the header's is taken.
///
/// # Errors
/// A sentence that says what is wrong with the body.
pub(super) fn read(header: RecordHeader<'_>, body: &[u8], server_version: u32) -> Result<Told, String> {
    let mut data = main_data(body)?;
    let told = if header.resource_manager() == RM_XLOG {
        match header.info() & INFO_MASK {
            RESTORE_POINT => restore_point(&mut data),
            OVERWRITE_CONTRECORD => data.u64().map(Told::Overwritten),
            other => return Err(format!("record {other:02X} of the log itself tells nothing")),
        }
    } else {
        transaction(header, &mut data, server_version)
    };
    told.ok_or_else(|| format!("record's body ends after {} bytes", body.len()))
}

/// Goes past the headers inside the body.
fn main_data(body: &[u8]) -> Result<Fields<'_>, String> {
    let mut fields = Fields(body);
    while let Some(&[part]) = fields.take(1) {
        let bytes = match part {
            255 => 1,
            254 | 252 => 4,
            253 => 2,
            other => return Err(format!("record has a part {other} that its kind never has")),
        };
        if fields.take(bytes).is_none() {
            break;
        }
        if part >= 254 {
            return Ok(fields);
        }
    }
    Err(format!("record's body ends after {} bytes", body.len()))
}

fn transaction(header: RecordHeader<'_>, data: &mut Fields<'_>, server_version: u32) -> Option<Told> {
    let operation = header.info() & OP_MASK;
    let time = data.time()?;
    let xid = match operation {
        COMMIT_PREPARED | ABORT_PREPARED if header.info() & HAS_INFO != 0 => {
            prepared_xid(data, server_version).unwrap_or_else(|| header.xid())
        }
        _ => header.xid(),
    };
    Some(Told::Mark(MarkKind::Transaction {
        id: TransactionId::Number(u64::from(xid)),
        time,
        committed: matches!(operation, COMMIT | COMMIT_PREPARED),
    }))
}

/// The xid of the transaction that was prepared: the record's own is that of the
/// session that ends it.
fn prepared_xid(data: &mut Fields<'_>, server_version: u32) -> Option<u32> {
    let statistics_item = if server_version >= 18 { 16 } else { 12 };
    let xinfo = data.u32()?;
    if xinfo & 0x001 != 0 {
        data.take(8)?;
    }
    for (bit, item_bytes) in [(0x002, 4), (0x004, 12), (0x100, statistics_item), (0x008, 16)] {
        if xinfo & bit != 0 {
            let count = data.u32()?;
            data.take(usize::try_from(count).ok()?.checked_mul(item_bytes)?)?;
        }
    }
    if xinfo & 0x010 != 0 { data.u32() } else { None }
}

/// The directory of a new tablespace; `None` when the body is none of a kind we know.
pub(super) fn tablespace_directory(body: &[u8]) -> Option<PathBuf> {
    let mut data = main_data(body).ok()?;
    data.take(4)?;
    let end = data.0.iter().position(|byte| *byte == 0)?;
    Some(PathBuf::from(OsStr::from_bytes(data.take(end)?)))
}

fn restore_point(data: &mut Fields<'_>) -> Option<Told> {
    let time = data.time()?;
    let name = data.take(64)?.split(|b| *b == 0).next()?;
    Some(Told::Mark(MarkKind::RestorePoint { name: String::from_utf8_lossy(name).into_owned(), time }))
}

/// Bytes that are taken from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|b| u32_at(b, 0))
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8).map(|b| u64_at(b, 0))
    }

    fn time(&mut self) -> Option<Timestamp> {
        self.u64().map(|micros| Timestamp(micros.cast_signed().saturating_add(EPOCH_MICROS)))
    }
}
