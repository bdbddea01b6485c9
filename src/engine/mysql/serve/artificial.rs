//! Events that are in no log: a source makes them up for its replicas.
//!
//! ```text
//! event: time u32, type u8, server id u32, size u32, log position u32, flags u16, body [, CRC-32]
//! ```
//!
//! The size counts header and CRC. A replica knows an artificial event by its time 0 and its
//! flag [`ARTIFICIAL`]; it does not count it when it counts its way through the source's file.
//!
//! Source: MySQL `sql/rpl_binlog_sender.cc`, `libs/mysql/binlog/event/`; MariaDB `sql/sql_repl.cc`.

use crate::error::{Error, Result};

/// Length of an event's header.
pub(super) const EVENT_HEADER: usize = 19;

/// `FORMAT_DESCRIPTION_EVENT`.
pub(super) const FORMAT_DESCRIPTION: u8 = 15;

/// `ROTATE_EVENT`.
pub(super) const ROTATE: u8 = 4;

/// `ANNOTATE_ROWS_EVENT`.
pub(super) const ANNOTATE_ROWS: u8 = 160;

/// Length of a CRC.
const CRC: usize = 4;

/// `LOG_EVENT_ARTIFICIAL_F`: not counted.
const ARTIFICIAL: u16 = 0x20;

/// `LOG_EVENT_BINLOG_IN_USE_F`: on disk only, and not in the CRC.
const IN_USE: u8 = 1;

/// Where an event's log position and flags are.
const LOG_POSITION: usize = 13;
const FLAGS: usize = 17;

/// Where a format description has the time its server began: after version and server name.
const CREATED: usize = EVENT_HEADER + 2 + 50;

/// An event with a CRC when `checksum`.
fn event(kind: u8, server_id: u32, log_position: u32, flags: u16, body: &[u8], checksum: bool) -> Vec<u8> {
    let size = EVENT_HEADER + body.len() + if checksum { CRC } else { 0 };
    let mut event = Vec::with_capacity(size);
    event.extend_from_slice(&0_u32.to_le_bytes());
    event.push(kind);
    event.extend_from_slice(&server_id.to_le_bytes());
    event.extend_from_slice(&(size as u32).to_le_bytes());
    event.extend_from_slice(&log_position.to_le_bytes());
    event.extend_from_slice(&flags.to_le_bytes());
    event.extend_from_slice(body);
    if checksum {
        let crc = crc32fast::hash(&event);
        event.extend_from_slice(&crc.to_le_bytes());
    }
    event
}

/// Tells the replica in which file, and where in it, the next event is.
pub(super) fn rotate(server_id: u32, file: &str, position: u64, checksum: bool) -> Vec<u8> {
    let body = [&position.to_le_bytes(), file.as_bytes()].concat();
    event(ROTATE, server_id, 0, ARTIFICIAL, &body, checksum)
}

/// Tells MariaDB, or MySQL before 8.0.26, that the source is alive and how far the replica
/// should be. Past 4 GiB MariaDB reads the position from before the name (`HB_SUB_HEADER_LEN`).
pub(super) fn heartbeat(server_id: u32, file: &str, position: u64, checksum: bool) -> Vec<u8> {
    let log_position = u32::try_from(position).unwrap_or(0);
    let long = if log_position == 0 { &position.to_le_bytes()[..] } else { &[] };
    event(27, server_id, log_position, 0, &[long, file.as_bytes()].concat(), checksum)
}

/// The same for MySQL from 8.0.26 on, whose fields are type, length and value, each a
/// length-encoded number where it is one (`Heartbeat_event_v2`).
pub(super) fn heartbeat_v2(server_id: u32, file: &str, position: u64, checksum: bool) -> Vec<u8> {
    let mut body = vec![1, u8::try_from(file.len()).unwrap_or(250).min(250)];
    body.extend(file.bytes().take(250));
    body.extend_from_slice(&[2, 9, 0xfe]);
    body.extend_from_slice(&position.to_le_bytes());
    body.push(0);
    event(41, server_id, 0, 0, &body, checksum)
}

/// A file's format description as a replica has to see it that goes on at `position`, and
/// whether the events of the file carry a CRC.
///
/// One that does not open the replica's way through the file is not counted, and is not to
/// be taken for the start of a server, at which temporary tables vanish
/// (`Binlog_sender::send_format_description_event`).
///
/// # Errors
/// [`crate::Kind::Corruption`] when it is none, or names a checksum unknown to us.
pub(super) fn format_description(event: &[u8], position: u64) -> Result<(Vec<u8>, bool)> {
    let unsound = |what: String| Error::corruption(format!("the log's format description {what}"));
    if event.get(4) != Some(&FORMAT_DESCRIPTION) || event.len() < CREATED + 4 + 1 + 1 + CRC {
        return Err(unsound(format!("is an event of type {:?} and {} bytes", event.get(4), event.len())));
    }
    let mut event = event.to_vec();
    let end = event.len() - CRC;
    let checksum = match event.get(end - 1) {
        Some(0) => false,
        Some(1) => true,
        other => return Err(unsound(format!("names checksum algorithm {other:?}; 0 (none) and 1 (CRC-32) are known"))),
    };
    if let Some(flags) = event.get_mut(FLAGS) {
        *flags &= !IN_USE;
    }
    if position > 4 {
        for field in [LOG_POSITION, CREATED] {
            if let Some(field) = event.get_mut(field..field + 4) {
                field.fill(0);
            }
        }
    }
    // It has a CRC of its own whether the other events have one or not.
    let crc = crc32fast::hash(event.get(..end).unwrap_or_default());
    event.truncate(end);
    event.extend_from_slice(&crc.to_le_bytes());
    Ok((event, checksum))
}

/// Whether the replica counts a format description on its way through the file.
pub(super) fn is_counted(format_description: &[u8]) -> bool {
    format_description.get(LOG_POSITION..LOG_POSITION + 4).is_some_and(|field| field != [0; 4])
}
