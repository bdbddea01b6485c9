//! The first packets of a session: the server's greeting, our request for TLS and our
//! answer.
//!
//! ```text
//! greeting:  10, version "...\0", connection id u32, nonce 8 bytes, 0, capabilities u16,
//!            collation u8, status u16, capabilities (upper half) u16, nonce length u8,
//!            10 reserved, rest of the nonce, plugin "...\0"
//! request:   capabilities u32, largest packet u32, collation u8, 23 reserved
//! answer:    a request, then user "...\0", length and proof, plugin "...\0", attributes
//! ```
//!
//! Source: MySQL Internals, "Connection Phase Packets"; `parse_client_handshake_packet` and
//! `send_server_handshake_packet` in `sql_authentication.cc`; MariaDB `sql_acl.cc`.

use super::reply::Cursor;
use crate::error::{Error, Kind, Result};

/// The only version of the protocol that is still spoken.
const PROTOCOL_VERSION: u8 = 10;

/// `CLIENT_*` bits.
mod capability {
    pub(super) const LONG_PASSWORD: u32 = 1;
    pub(super) const LONG_FLAG: u32 = 1 << 2;
    pub(super) const PROTOCOL_41: u32 = 1 << 9;
    pub(super) const SSL: u32 = 1 << 11;
    pub(super) const TRANSACTIONS: u32 = 1 << 13;
    pub(super) const SECURE_CONNECTION: u32 = 1 << 15;
    pub(super) const PLUGIN_AUTH: u32 = 1 << 19;
    pub(super) const CONNECT_ATTRS: u32 = 1 << 20;
    pub(super) const PLUGIN_AUTH_LENENC: u32 = 1 << 21;
}

/// What a server must be able to do.
const NEEDED: u32 = capability::PROTOCOL_41 | capability::SECURE_CONNECTION | capability::PLUGIN_AUTH;

/// What is asked for beyond that. Left out on purpose: local files (a server could ask for
/// any of ours), several statements, and sandboxes for expired passwords.
const WANTED: u32 = capability::LONG_PASSWORD
    | capability::LONG_FLAG
    | capability::TRANSACTIONS
    | capability::CONNECT_ATTRS
    | capability::PLUGIN_AUTH_LENENC;

/// `utf8mb4_general_ci`, which both families number alike.
const COLLATION: u8 = 45;

/// The largest packet we take: the servers' own limit for events.
const PACKET_BYTES_MAX: u32 = 1 << 30;

/// How the server introduces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    /// The version, as sent.
    pub(super) version: String,
    /// The server's number for this connection.
    pub(super) connection_id: u32,
    capabilities: u32,
    /// What a proof of the password is made with.
    pub(super) nonce: Vec<u8>,
    /// The plugin the server supposes for us.
    pub(super) plugin: String,
}

impl Greeting {
    /// Reads the greeting.
    ///
    /// # Errors
    /// [`Kind::DatabaseUnreachable`] for anything else, or another protocol.
    pub(super) fn parse(payload: &[u8]) -> Result<Self> {
        let mut cursor = Cursor::new("greeting", payload);
        let protocol = cursor.u8()?;
        if protocol != PROTOCOL_VERSION {
            return Err(Error::new(
                Kind::DatabaseUnreachable,
                format!("the server speaks version {protocol} of the protocol, and {PROTOCOL_VERSION} was expected"),
            )
            .hint("is it the classic protocol's port (3306), not the X protocol's (33060)?"));
        }
        let version = cursor.text()?;
        let connection_id = cursor.u32()?;
        let mut nonce = cursor.bytes(8)?.to_vec();
        cursor.bytes(1)?;
        let lower = cursor.u16()?;
        // Collation and status.
        cursor.bytes(3)?;
        let upper = cursor.u16()?;
        let nonce_len = usize::from(cursor.u8()?);
        // MariaDB's own capabilities are the last four.
        cursor.bytes(10)?;
        let capabilities = u32::from(lower) | (u32::from(upper) << 16);
        if capabilities & NEEDED != NEEDED {
            return Err(Error::new(
                Kind::DatabaseUnreachable,
                format!("server {version} lacks parts of the protocol (capabilities {capabilities:#x})"),
            )
            .hint("pitr needs MySQL 8.0 or MariaDB 10.6, or newer"));
        }
        nonce.extend_from_slice(cursor.bytes(nonce_len.saturating_sub(8).max(13))?);
        // The zero after the nonce belongs to no plugin.
        if nonce.last() == Some(&0) {
            nonce.pop();
        }
        let plugin = cursor.remaining_text();
        Ok(Self { version, connection_id, capabilities, nonce, plugin })
    }

    /// Whether the server can do TLS.
    pub(super) const fn offers_tls(&self) -> bool {
        self.capabilities & capability::SSL != 0
    }

    /// What this server and we both can.
    const fn common(&self, tls: bool) -> u32 {
        (NEEDED | WANTED | if tls { capability::SSL } else { 0 }) & self.capabilities
            // MariaDB leaves this one out and reads its absence as the mark of a MariaDB client
            // with capabilities of its own, which we have not.
            | capability::LONG_PASSWORD
    }

    /// The request after which TLS begins.
    pub(super) fn tls_request(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        out.extend_from_slice(&self.common(true).to_le_bytes());
        out.extend_from_slice(&PACKET_BYTES_MAX.to_le_bytes());
        out.push(COLLATION);
        out.extend_from_slice(&[0; 23]);
        out
    }

    /// Our answer: who we are, and a proof for `plugin`.
    ///
    /// # Errors
    /// [`Kind::Config`] for a user name with a zero byte.
    pub(super) fn answer(&self, tls: bool, user: &str, plugin: &str, proof: &[u8]) -> Result<Vec<u8>> {
        if user.contains('\0') {
            return Err(Error::config("the user's name holds a zero byte"));
        }
        let mut out = self.tls_request();
        let capabilities = self.common(tls);
        if let Some(start) = out.get_mut(..4) {
            start.copy_from_slice(&capabilities.to_le_bytes());
        }
        out.extend_from_slice(user.as_bytes());
        out.push(0);
        // Proofs are 64 bytes at most, a length that every form writes as one byte.
        out.push(u8::try_from(proof.len()).map_err(|_| Error::failure("a proof of 255 bytes or more"))?);
        out.extend_from_slice(proof);
        out.extend_from_slice(plugin.as_bytes());
        out.push(0);
        if capabilities & capability::CONNECT_ATTRS != 0 {
            attributes(&mut out);
        }
        Ok(out)
    }
}

/// What `performance_schema.session_connect_attrs` shows of us.
fn attributes(out: &mut Vec<u8>) {
    let mut list = Vec::new();
    for text in ["_client_name", "pitr", "_client_version", env!("CARGO_PKG_VERSION"), "program_name", "pitr"] {
        // All of them are short.
        list.push(u8::try_from(text.len()).unwrap_or_default());
        list.extend_from_slice(text.as_bytes());
    }
    out.push(u8::try_from(list.len()).unwrap_or_default());
    out.append(&mut list);
}
