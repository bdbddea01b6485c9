//! Messages the server sends, named and split into their fields.
//!
//! `CopyData` keeps the bytes it came in: its payload is a slice of the receive
//! buffer, so that log bytes are not copied between socket and segment.
//! Source: PostgreSQL manual, "Message Formats".

use bytes::{Buf, Bytes};

use super::auth::Authentication;
use super::cursor::Cursor;
use super::report::Report;
use crate::error::{Error, Kind, Result};

/// One message of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A step of authentication (`R`).
    Authentication(Authentication),
    /// A setting the server reports (`S`).
    ParameterStatus {
        /// Name, e.g. `server_version`.
        name: String,
        /// Value.
        value: String,
    },
    /// Process number for cancelling (`K`); the key itself is not kept.
    BackendKeyData {
        /// The server's process id.
        process: i32,
    },
    /// The server waits for a command (`Z`).
    ReadyForQuery,
    /// Column names of the rows that follow (`T`).
    RowDescription(Vec<String>),
    /// One row, every value in text form (`D`).
    DataRow(Vec<Option<Bytes>>),
    /// A command is complete (`C`), with its tag.
    CommandComplete(String),
    /// The command was empty (`I`).
    EmptyQuery,
    /// Bulk from the server follows (`H`).
    CopyOut,
    /// Bulk flows both ways (`W`): replication has begun.
    CopyBoth,
    /// A piece of bulk (`d`).
    CopyData(Bytes),
    /// The server has no more bulk (`c`).
    CopyDone,
    /// A command failed (`E`).
    Error(Report),
    /// A warning or remark (`N`).
    Notice(Report),
    /// `NOTIFY` from some session (`A`), of no interest.
    Notification,
    /// The server does not speak the minor version or options asked for (`v`).
    NegotiateProtocolVersion,
}

impl Backend {
    /// Parses the body of message `tag`.
    ///
    /// # Errors
    /// [`Kind::DatabaseUnreachable`] for an unknown tag or a body that is not what the
    /// tag says.
    pub fn parse(tag: u8, body: Bytes) -> Result<Self> {
        Ok(match tag {
            b'd' => Self::CopyData(body),
            b'c' => Self::CopyDone,
            b'H' => Self::CopyOut,
            b'W' => Self::CopyBoth,
            b'R' => Self::Authentication(Authentication::parse(&body)?),
            b'S' => {
                let mut cursor = Cursor::new("ParameterStatus", &body);
                let (name, value) = (cursor.text()?, cursor.text()?);
                cursor.end()?;
                Self::ParameterStatus { name, value }
            }
            b'K' => Self::BackendKeyData { process: Cursor::new("BackendKeyData", &body).i32()? },
            b'Z' => Self::ReadyForQuery,
            b'T' => Self::RowDescription(columns(&body)?),
            b'D' => Self::DataRow(row(body)?),
            b'C' => Self::CommandComplete(Cursor::new("CommandComplete", &body).text()?),
            b'I' => Self::EmptyQuery,
            b'E' => Self::Error(Report::parse(&body)?),
            b'N' => Self::Notice(Report::parse(&body)?),
            b'A' => Self::Notification,
            b'v' => Self::NegotiateProtocolVersion,
            other => {
                return Err(Error::new(
                    Kind::DatabaseUnreachable,
                    format!("the server sent message {:?}, which pitr does not expect", char::from(other)),
                )
                .hint("is it a PostgreSQL server that listens there, and not another service?"));
            }
        })
    }
}

/// Names from a `RowDescription`:
/// `count u16, { name \0, table i32, column i16, type i32, size i16, modifier i32, format i16 }`.
fn columns(body: &[u8]) -> Result<Vec<String>> {
    let mut cursor = Cursor::new("RowDescription", body);
    let count = cursor.u16()?;
    // Grown as the bytes prove it: a column takes at least 19 of them.
    let mut names = Vec::new();
    for _ in 0..count {
        names.push(cursor.text()?);
        cursor.take(18)?;
    }
    cursor.end()?;
    Ok(names)
}

/// Values of a `DataRow`: `count u16, { length i32 (-1 is null), bytes }`.
fn row(mut body: Bytes) -> Result<Vec<Option<Bytes>>> {
    let broken = || super::cursor::malformed("DataRow");
    let count = body.try_get_u16().map_err(|_| broken())?;
    let mut values = Vec::new();
    for _ in 0..count {
        let length = body.try_get_i32().map_err(|_| broken())?;
        if length == -1 {
            values.push(None);
            continue;
        }
        let length = usize::try_from(length).map_err(|_| broken())?;
        if length > body.len() {
            return Err(broken());
        }
        values.push(Some(body.split_to(length)));
    }
    if body.is_empty() { Ok(values) } else { Err(broken()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_row_keeps_null_and_empty_apart() {
        let body = Bytes::from_static(b"\0\x03\0\0\0\x01x\xff\xff\xff\xff\0\0\0\0");
        let row = Backend::parse(b'D', body).unwrap();
        assert_eq!(row, Backend::DataRow(vec![Some(Bytes::from_static(b"x")), None, Some(Bytes::new())]));
    }

    #[test]
    fn refuses_a_row_whose_lengths_lie() {
        for body in [&b"\0\x01\0\0\0\x02x"[..], b"\0\x01\xff\xff\xff\xfe", b"\0\x02\0\0\0\0", b"\0\0x", b"\0"] {
            assert!(Backend::parse(b'D', Bytes::from_static(body)).is_err(), "{body:?}");
        }
    }

    #[test]
    fn refuses_a_tag_it_does_not_know() {
        let error = Backend::parse(b'!', Bytes::new()).unwrap_err();
        assert!(error.to_string().contains("'!'"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(tag in any::<u8>(), body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Backend::parse(tag, Bytes::from(body));
        }
    }
}
