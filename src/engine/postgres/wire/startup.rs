//! The messages that open and close a session.
//!
//! ```text
//!  0              4              8
//!  | length u32   | code u32     | name \0 value \0 ... \0      StartupMessage (code 3.0)
//!  | 8            | 80877103     |                              SSLRequest
//! ```
//! Neither has a tag. Source: PostgreSQL manual, "Message Formats"; `pqcomm.h`.

use bytes::BufMut;

use crate::error::{Error, Result};

/// Asks for TLS; the server answers one byte, `S` or `N`.
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Says goodbye.
pub const TERMINATE: [u8; 5] = [b'X', 0, 0, 0, 4];

/// Ends our side of a copy.
pub const COPY_DONE: [u8; 5] = [b'c', 0, 0, 0, 4];

const PROTOCOL_3_0: u32 = 3 << 16;

/// The first message of a session.
///
/// # Errors
/// [`crate::Kind::Config`] for a name or value with a zero byte in it.
pub fn startup(parameters: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    for (name, value) in parameters {
        if name.contains('\0') || value.contains('\0') {
            return Err(Error::config(format!("connection parameter {name:?} has a zero byte in it")));
        }
        body.put_slice(name.as_bytes());
        body.put_u8(0);
        body.put_slice(value.as_bytes());
        body.put_u8(0);
    }
    body.put_u8(0);
    let length = u32::try_from(body.len() + 8).map_err(|_| Error::config("connection parameters are too long"))?;
    let mut message = Vec::with_capacity(body.len() + 8);
    message.put_u32(length);
    message.put_u32(PROTOCOL_3_0);
    message.put_slice(&body);
    Ok(message)
}

/// A simple query.
///
/// # Errors
/// [`crate::Kind::Config`] for text with a zero byte in it.
pub fn query(sql: &str) -> Result<Vec<u8>> {
    if sql.contains('\0') {
        return Err(Error::config("a statement has a zero byte in it"));
    }
    let mut body = sql.as_bytes().to_vec();
    body.push(0);
    let mut message = Vec::with_capacity(body.len() + 5);
    super::frame::put(&mut message, b'Q', &body);
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_startup_message_is_laid_out_as_the_manual_says() {
        let message = startup(&[("user", "pitr"), ("replication", "true")]).unwrap();
        assert_eq!(message, b"\0\0\0\x24\0\x03\0\0user\0pitr\0replication\0true\0\0");
    }

    #[test]
    fn a_zero_byte_cannot_smuggle_a_parameter() {
        assert!(startup(&[("user", "pitr\0replication\0true")]).is_err());
        assert!(query("SELECT 1\0").is_err());
    }
}
