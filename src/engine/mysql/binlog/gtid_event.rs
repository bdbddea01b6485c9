//! The event that opens a transaction and names it.
//!
//! ```text
//! MySQL: GTID_LOG_EVENT 33, ANONYMOUS_GTID_LOG_EVENT 34
//!  0  flags u8         17  number u64, 0 when anonymous     26  last_committed u64
//!  1  UUID 16          25  2 u8                             34  sequence_number u64
//! 42  immediate commit time u56; with bit 55: original commit time u56
//! ..  transaction length: u8 | 252, u16 | 253, u24 | 254, u64
//! ..  server versions, commit group ticket: not read
//! MySQL: GTID_TAGGED_LOG_EVENT 42, since 8.3: a message (see `serialized.rs`) of
//!     0 flags  1 UUID, 16 integers  2 number  3 tag: length, letters  4 last_committed
//!     5 sequence_number  6 immediate commit time  7 original commit time, if another
//!     8 transaction length  9, 10 server versions  11 commit group ticket
//! MariaDB: GTID_EVENT 162
//!  0  sequence u64      8  domain u32      12  flags u8      13  zeros up to 19, or
//! 13  by flags: group commit id u64; XA's id; extra flags and what they announce: not read
//! ```
//!
//! Times are microseconds since 1970. A MySQL event may end after its number (5.6) or
//! after its sequence number (5.7). MariaDB's server id is in the event's header.
//! Source: `Gtid_event` in `libs/mysql/binlog/event/control_events.cpp` and `.h` of
//! MySQL, `Gtid_log_event` in `sql/log_event.cc` of MariaDB.

use super::event::kind;
use super::fields::Fields;
use super::serialized::{self, Message, signed, unsigned};
use crate::engine::mysql::flavor::Flavor;
use crate::engine::mysql::gtid::{Gtid, NUMBER_MAX, Tag};
use crate::error::Result;
use crate::model::time::Timestamp;

/// What precedes last_committed and sequence_number (`LOGICAL_TIMESTAMP_TYPECODE`).
const LOGICAL_CLOCK: u8 = 2;
/// Says that the original commit time follows (`ENCODED_COMMIT_TIMESTAMP_LENGTH`).
const ORIGINAL_FOLLOWS: u64 = 1 << 55;
/// Last field of a tagged event that we know of.
const LAST_FIELD: u64 = 11;
/// Least bytes of MariaDB's event (`GTID_HEADER_LEN`).
const MARIADB_BYTES_MIN: usize = 19;

/// What a GTID event says of the transaction that follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GtidEvent {
    /// The transaction's name; none when MySQL runs without GTIDs.
    pub gtid: Option<Gtid>,
    /// When it was committed on the server whose log this is; MySQL since 8.0.1 only.
    pub immediate_commit: Option<Timestamp>,
    /// When it was committed where it was first; MySQL since 8.0.1 only, and none when
    /// that server did not say.
    pub original_commit: Option<Timestamp>,
    /// The transaction in this file, by sequence number, that must be committed before
    /// this one may start on a replica; 0 when not said.
    pub last_committed: i64,
    /// Counts the transactions of a file; 0 when not said.
    pub sequence_number: i64,
    /// Bytes of the transaction in the log, this event included; MySQL since 8.0.2 only.
    pub transaction_length: Option<u64>,
    /// Whether it is one statement, DDL, XA and so on.
    pub flags: GtidFlags,
}

/// A GTID event's flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GtidFlags {
    flavor: Flavor,
    bits: u8,
}

impl GtidFlags {
    /// MySQL: statements may be among the transaction's events, not only rows
    /// (`FLAG_MAY_HAVE_SBR`).
    #[must_use]
    pub fn may_hold_statements(self) -> bool {
        self.has(Flavor::MySql, 0x01)
    }

    /// MariaDB: one statement follows without BEGIN and without an end, like DDL
    /// (`FL_STANDALONE`).
    #[must_use]
    pub fn standalone(self) -> bool {
        self.has(Flavor::MariaDb, 0x01)
    }

    /// MariaDB: it was committed in one group with others, whose id the event has
    /// (`FL_GROUP_COMMIT_ID`).
    #[must_use]
    pub fn group_committed(self) -> bool {
        self.has(Flavor::MariaDb, 0x02)
    }

    /// MariaDB: it can be rolled back as a whole (`FL_TRANSACTIONAL`).
    #[must_use]
    pub fn transactional(self) -> bool {
        self.has(Flavor::MariaDb, 0x04)
    }

    /// MariaDB: it may be replayed in parallel with others
    /// (`FL_ALLOW_PARALLEL`, from `skip_parallel_replication`).
    #[must_use]
    pub fn allows_parallel(self) -> bool {
        self.has(Flavor::MariaDb, 0x08)
    }

    /// MariaDB: it waited for another transaction's row lock (`FL_WAITED`).
    #[must_use]
    pub fn waited(self) -> bool {
        self.has(Flavor::MariaDb, 0x10)
    }

    /// MariaDB: it changes definitions (`FL_DDL`).
    #[must_use]
    pub fn ddl(self) -> bool {
        self.has(Flavor::MariaDb, 0x20)
    }

    /// MariaDB: it ends with XA PREPARE (`FL_PREPARED_XA`).
    #[must_use]
    pub fn xa_prepared(self) -> bool {
        self.has(Flavor::MariaDb, 0x40)
    }

    /// MariaDB: it is the XA COMMIT or XA ROLLBACK of a prepared one (`FL_COMPLETED_XA`).
    #[must_use]
    pub fn xa_completed(self) -> bool {
        self.has(Flavor::MariaDb, 0x80)
    }

    fn has(self, flavor: Flavor, bit: u8) -> bool {
        self.flavor == flavor && self.bits & bit != 0
    }
}

impl GtidEvent {
    /// Reads an event's body, which is what stands between its header and its checksum.
    /// `event_type` and `server_id` are the header's. `None` when the type is none of
    /// the GTID events.
    ///
    /// # Errors
    /// [`crate::Kind::Corruption`] when the body is not what its type says.
    pub fn decode(event_type: u8, server_id: u32, body: &[u8]) -> Result<Option<Self>> {
        match event_type {
            kind::GTID => named(Fields::new("GTID event", body)),
            kind::ANONYMOUS_GTID => anonymous(Fields::new("anonymous GTID event", body)),
            kind::GTID_TAGGED => tagged(Fields::new("tagged GTID event", body)),
            kind::MARIADB_GTID => mariadb(Fields::new("MariaDB GTID event", body), server_id),
            _ => return Ok(None),
        }
        .map(Some)
    }
}

fn named(mut fields: Fields<'_>) -> Result<GtidEvent> {
    let flags = fields.u8()?;
    let (uuid, number) = (fields.array()?, number(&mut fields)?);
    let gtid = Gtid::MySql { uuid, tag: Tag::default(), number };
    rest_of_untagged(&mut fields, flags, Some(gtid))
}

fn anonymous(mut fields: Fields<'_>) -> Result<GtidEvent> {
    let flags = fields.u8()?;
    fields.take(16)?;
    let number = fields.u64()?;
    if number != 0 {
        return Err(fields.refuse(format_args!("number {number}")));
    }
    rest_of_untagged(&mut fields, flags, None)
}

fn number(fields: &mut Fields<'_>) -> Result<u64> {
    let number = fields.u64()?;
    in_range(fields, number)
}

fn in_range(fields: &Fields<'_>, number: u64) -> Result<u64> {
    if (1..=NUMBER_MAX).contains(&number) {
        return Ok(number);
    }
    Err(fields.refuse(format_args!("number {number}, not one from 1 to {NUMBER_MAX},")))
}

/// What events with and without a GTID have alike; older servers' end somewhere in it.
fn rest_of_untagged(fields: &mut Fields<'_>, bits: u8, gtid: Option<Gtid>) -> Result<GtidEvent> {
    let flags = GtidFlags { flavor: Flavor::MySql, bits };
    let mut event = GtidEvent {
        gtid,
        immediate_commit: None,
        original_commit: None,
        last_committed: 0,
        sequence_number: 0,
        transaction_length: None,
        flags,
    };
    if fields.is_empty() || fields.u8()? != LOGICAL_CLOCK {
        return Ok(event);
    }
    (event.last_committed, event.sequence_number) = (fields.u64()?.cast_signed(), fields.u64()?.cast_signed());
    if fields.is_empty() {
        return Ok(event);
    }
    let immediate = fields.number(7)?;
    let original = if immediate & ORIGINAL_FOLLOWS == 0 { immediate } else { fields.number(7)? };
    event.immediate_commit = time(fields, immediate & !ORIGINAL_FOLLOWS)?;
    event.original_commit = time(fields, original)?;
    if !fields.is_empty() {
        event.transaction_length = Some(packed(fields)?);
    }
    Ok(event)
}

fn tagged(fields: Fields<'_>) -> Result<GtidEvent> {
    let mut message = Message::open(fields, LAST_FIELD)?;
    let flags = message.required(0)?;
    let bits = unsigned(flags)?;
    let bits = u8::try_from(bits).map_err(|_| flags.refuse(format_args!("flags {bits:#x}")))?;

    let bytes = message.required(1)?;
    let mut uuid = [0; 16];
    for byte in &mut uuid {
        let value = unsigned(bytes)?;
        *byte = u8::try_from(value).map_err(|_| bytes.refuse(format_args!("{value} in its UUID")))?;
    }

    let number = message.required(2)?;
    let value = signed(number)?;
    let number = in_range(number, value.cast_unsigned())?;

    let tag = serialized::tag(message.required(3)?)?;
    let last_committed = signed(message.required(4)?)?;
    let sequence_number = signed(message.required(5)?)?;
    let immediate = message.required(6)?;
    let value = unsigned(immediate)?;
    let immediate_commit = time(immediate, value)?;
    let original_commit = match message.optional(7)? {
        Some(original) => {
            let value = unsigned(original)?;
            time(original, value)?
        }
        None => immediate_commit,
    };
    Ok(GtidEvent {
        gtid: Some(Gtid::MySql { uuid, tag, number }),
        immediate_commit,
        original_commit,
        last_committed,
        sequence_number,
        transaction_length: Some(unsigned(message.required(8)?)?),
        flags: GtidFlags { flavor: Flavor::MySql, bits },
    })
}

fn mariadb(mut fields: Fields<'_>, server: u32) -> Result<GtidEvent> {
    if fields.rest().len() < MARIADB_BYTES_MIN {
        return Err(fields.refuse(format_args!("fewer than {MARIADB_BYTES_MIN} bytes")));
    }
    let (sequence, domain) = (fields.u64()?, fields.u32()?);
    Ok(GtidEvent {
        gtid: Some(Gtid::MariaDb { domain, server, sequence }),
        immediate_commit: None,
        original_commit: None,
        last_committed: 0,
        sequence_number: 0,
        transaction_length: None,
        flags: GtidFlags { flavor: Flavor::MariaDb, bits: fields.u8()? },
    })
}

/// A time; 0 stands for none.
fn time(fields: &Fields<'_>, micros: u64) -> Result<Option<Timestamp>> {
    match i64::try_from(micros) {
        Ok(0) => Ok(None),
        Ok(micros) => Ok(Some(Timestamp(micros))),
        Err(_) => Err(fields.refuse(format_args!("the time {micros} us"))),
    }
}

/// The protocol's length-encoded integer (`net_field_length_ll`).
fn packed(fields: &mut Fields<'_>) -> Result<u64> {
    match fields.u8()? {
        252 => fields.number(2),
        253 => fields.number(3),
        254 => fields.u64(),
        first @ (251 | 255) => Err(fields.refuse(format_args!("a length that begins with {first}"))),
        small => Ok(u64::from(small)),
    }
}

#[cfg(test)]
mod tests;
