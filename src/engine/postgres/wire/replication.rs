//! What travels inside `CopyData` while a walsender streams.
//!
//! ```text
//!  0   1             9             17            25
//!  | w | start u64   | end u64     | time i64    | log bytes ...   XLogData
//!  | k | end u64     | time i64    | reply u8 |                    keepalive
//!  | r | write u64   | flush u64   | apply u64   | time | reply u8  standby status update
//! ```
//! Everything big-endian; `time` counts microseconds since 2000-01-01 00:00 UTC.
//! Source: PostgreSQL manual, "Streaming Replication Protocol"; `walsender.c`,
//! `walreceiver.c`.

use bytes::{Buf, BufMut, Bytes};

use super::cursor::Cursor;
use crate::error::{Error, Kind, Result};
use crate::model::offset::Offset;
use crate::model::time::Timestamp;

/// Microseconds from the Unix epoch to PostgreSQL's, 2000-01-01 00:00 UTC.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

const XLOG_DATA_BYTES: usize = 25;

/// PostgreSQL's time on our axis. Far ends (`infinity`) stop at the axis' ends.
#[must_use]
pub fn from_postgres_micros(micros: i64) -> Timestamp {
    Timestamp(micros).saturating_add(POSTGRES_EPOCH_MICROS)
}

/// Our time as PostgreSQL counts it.
#[must_use]
pub fn to_postgres_micros(time: Timestamp) -> i64 {
    time.0.saturating_sub(POSTGRES_EPOCH_MICROS)
}

/// A message of the walsender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromServer {
    /// Log bytes.
    XLogData {
        /// Offset of the first byte.
        start: Offset,
        /// End of the server's durable log.
        log_end: Offset,
        /// The server's clock.
        time: Timestamp,
        /// The bytes, a slice of the receive buffer.
        bytes: Bytes,
    },
    /// A sign of life.
    Keepalive {
        /// How far the server has sent (`sentPtr`).
        log_end: Offset,
        /// The server's clock.
        time: Timestamp,
        /// Whether it wants a status update at once.
        reply_requested: bool,
    },
}

impl FromServer {
    /// Parses the payload of a `CopyData`.
    ///
    /// # Errors
    /// [`Kind::DatabaseUnreachable`] for bytes that are neither message, and for log
    /// that would run past the end of the axis.
    pub fn parse(mut payload: Bytes) -> Result<Self> {
        match payload.first() {
            Some(b'w') => {
                let mut cursor = Cursor::new("XLogData", &payload);
                cursor.u8()?;
                let (start, log_end, time) = (Offset(cursor.u64()?), Offset(cursor.u64()?), cursor.i64()?);
                payload.advance(XLOG_DATA_BYTES);
                if start.checked_add(payload.len() as u64).is_none() {
                    return Err(super::cursor::malformed("XLogData"));
                }
                Ok(Self::XLogData { start, log_end, time: from_postgres_micros(time), bytes: payload })
            }
            Some(b'k') => {
                let mut cursor = Cursor::new("keepalive", &payload);
                cursor.u8()?;
                let (log_end, time, reply) = (Offset(cursor.u64()?), cursor.i64()?, cursor.u8()?);
                cursor.end()?;
                let time = from_postgres_micros(time);
                Ok(Self::Keepalive { log_end, time, reply_requested: reply != 0 })
            }
            other => Err(Error::new(
                Kind::DatabaseUnreachable,
                format!(
                    "the server sent replication message {:?}, which pitr does not expect",
                    other.map(|b| char::from(*b))
                ),
            )),
        }
    }
}

/// The whole `CopyData` message of a standby status update. `applied` stays 0
/// (invalid): an archiver replays nothing.
#[must_use]
pub fn status_update(received: Offset, durable: Offset, now: Timestamp, request_reply: bool) -> [u8; 39] {
    let mut message = [0; 39];
    let mut out = &mut message[..];
    out.put_u8(b'd');
    out.put_u32(38);
    out.put_u8(b'r');
    out.put_u64(received.0);
    out.put_u64(durable.0);
    out.put_u64(0);
    out.put_i64(to_postgres_micros(now));
    out.put_u8(request_reply.into());
    message
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn postgres_counts_from_the_year_2000() {
        assert_eq!(from_postgres_micros(0).to_string(), "2000-01-01T00:00:00.000000Z");
        assert_eq!(from_postgres_micros(i64::MAX), Timestamp(i64::MAX));
        assert_eq!(to_postgres_micros(from_postgres_micros(12345)), 12345);
    }

    #[test]
    fn log_bytes_are_not_copied() {
        let mut payload = vec![b'w'];
        payload.extend(0x0100_0000_u64.to_be_bytes());
        payload.extend(0x0100_0004_u64.to_be_bytes());
        payload.extend(1_i64.to_be_bytes());
        payload.extend(b"WALX");
        let payload = Bytes::from(payload);
        let place = payload[25..].as_ptr();
        let FromServer::XLogData { start, log_end, time, bytes } = FromServer::parse(payload).unwrap() else {
            panic!("not XLogData")
        };
        assert_eq!((start, log_end), (Offset(0x0100_0000), Offset(0x0100_0004)));
        assert_eq!(time, Timestamp(POSTGRES_EPOCH_MICROS + 1));
        assert_eq!(&bytes[..], b"WALX");
        assert_eq!(bytes.as_ptr(), place);
    }

    #[test]
    fn refuses_log_past_the_end_of_the_axis() {
        let mut payload = vec![b'w'];
        payload.extend([0xff; 24]);
        payload.push(1);
        assert!(FromServer::parse(Bytes::from(payload)).is_err());
    }

    #[test]
    fn a_status_update_is_laid_out_as_the_manual_says() {
        let message = status_update(Offset(2), Offset(1), Timestamp(POSTGRES_EPOCH_MICROS + 5), true);
        assert_eq!(&message[..6], b"d\0\0\0\x26r");
        assert_eq!(message[13], 2);
        assert_eq!(message[21], 1);
        assert_eq!(message[22..30], [0; 8]);
        assert_eq!(message[37..], [5, 1]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(payload in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = FromServer::parse(Bytes::from(payload));
        }
    }
}
