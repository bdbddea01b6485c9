//! The packets a server writes and the commands it reads, as bytes.
//!
//! ```text
//! packet: length u24, sequence number u8, payload
//! ```
//!
//! All numbers are little-endian. A payload of [`PACKET_MAX`] bytes or more goes on in further
//! packets, the last of which is shorter, if need be empty. A command's first packet has
//! sequence number 0, and every packet of its answer one more than the packet before.
//!
//! Source: "Client/Server Protocol" of the MySQL source documentation; "Clientserver protocol"
//! of the MariaDB knowledge base.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::error::{Error, Kind, Result};

/// The longest payload of one packet; one of this length is continued in the next.
pub(super) const PACKET_MAX: usize = 0xff_ffff;

/// Length of a packet's header.
pub(super) const HEADER: usize = 4;

/// Length of the random part of a greeting (`SCRAMBLE_LENGTH`).
pub(super) const NONCE: usize = 20;

/// A character set for the greeting and the columns: `utf8mb3_general_ci`, which every server knows.
const CHARSET: u8 = 33;

/// `SERVER_STATUS_AUTOCOMMIT`.
const STATUS: u16 = 2;

/// What a server and a client can do (`include/mysql_com.h`).
mod capability {
    pub(super) const LONG_PASSWORD: u32 = 1;
    pub(super) const LONG_FLAG: u32 = 1 << 2;
    pub(super) const CONNECT_WITH_DB: u32 = 1 << 3;
    pub(super) const PROTOCOL_41: u32 = 1 << 9;
    pub(super) const SSL: u32 = 1 << 11;
    pub(super) const TRANSACTIONS: u32 = 1 << 13;
    pub(super) const SECURE_CONNECTION: u32 = 1 << 15;
    pub(super) const PLUGIN_AUTH: u32 = 1 << 19;
    pub(super) const CONNECT_ATTRS: u32 = 1 << 20;
    pub(super) const PLUGIN_AUTH_LENENC: u32 = 1 << 21;

    /// What is offered: neither compression, nor TLS, nor result sets without EOF packets.
    pub(super) const OFFERED: u32 = LONG_PASSWORD
        | LONG_FLAG
        | CONNECT_WITH_DB
        | PROTOCOL_41
        | TRANSACTIONS
        | SECURE_CONNECTION
        | PLUGIN_AUTH
        | CONNECT_ATTRS
        | PLUGIN_AUTH_LENENC;
}

/// Appends a packet's header.
pub(super) fn put_header(out: &mut Vec<u8>, length: usize, sequence: u8) {
    debug_assert!(length <= PACKET_MAX, "a packet holds {length} bytes");
    let [a, b, c, ..] = length.to_le_bytes();
    out.extend_from_slice(&[a, b, c, sequence]);
}

/// Appends a packet with a payload that fits in one.
pub(super) fn put_packet(out: &mut Vec<u8>, sequence: &mut u8, payload: &[u8]) {
    debug_assert!(payload.len() < PACKET_MAX, "a payload of {} bytes", payload.len());
    put_header(out, payload.len(), *sequence);
    *sequence = sequence.wrapping_add(1);
    out.extend_from_slice(payload);
}

/// Reads one packet; `None` when the peer has closed the connection before it.
///
/// # Errors
/// [`Kind::Failure`] for one that is cut off, or longer than `length_max`, or whose number is
/// not `sequence`.
pub(super) async fn read_packet(
    from: &mut (impl AsyncRead + Unpin),
    sequence: u8,
    length_max: usize,
) -> Result<Option<Bytes>> {
    let mut header = [0; HEADER];
    let cut = |e| Error::failure("cannot read from the replica").because(e);
    if from.read(&mut header[..1]).await.map_err(cut)? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut header[1..]).await.map_err(cut)?;
    let [a, b, c, number] = header;
    let length = u32::from_le_bytes([a, b, c, 0]) as usize;
    if number != sequence {
        return Err(Error::failure(format!("the replica sent packet {number}, not {sequence}")));
    }
    if length > length_max {
        return Err(Error::failure(format!(
            "the replica sent a packet of {length} bytes; more than {length_max} make no command"
        )));
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload).await.map_err(cut)?;
    Ok(Some(payload.into()))
}

/// The server's first packet (`HandshakeV10`).
pub(super) fn greeting(version: &str, connection: u32, nonce: &[u8; NONCE], plugin: &str) -> Vec<u8> {
    let [low, high] = [capability::OFFERED as u16, (capability::OFFERED >> 16) as u16];
    let mut out = vec![10];
    out.extend_from_slice(version.as_bytes());
    out.push(0);
    out.extend_from_slice(&connection.to_le_bytes());
    out.extend_from_slice(&nonce[..8]);
    out.push(0);
    out.extend_from_slice(&low.to_le_bytes());
    out.push(CHARSET);
    out.extend_from_slice(&STATUS.to_le_bytes());
    out.extend_from_slice(&high.to_le_bytes());
    out.push(NONCE as u8 + 1);
    out.extend_from_slice(&[0; 10]);
    out.extend_from_slice(&nonce[8..]);
    out.push(0);
    out.extend_from_slice(plugin.as_bytes());
    out.push(0);
    out
}

/// Who the client says it is (`HandshakeResponse41`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Login {
    /// The account.
    pub(super) user: String,
    /// The proof that it knows the password, in the way of `plugin`.
    pub(super) proof: Bytes,
    /// The authentication plugin it used, when it says so.
    pub(super) plugin: Option<String>,
}

impl Login {
    /// Reads a client's answer to the greeting.
    ///
    /// # Errors
    /// [`Kind::Failure`] for one that is malformed, of an older protocol, or asks for TLS.
    pub(super) fn parse(payload: &[u8]) -> Result<Self> {
        let mut cursor = Cursor { what: "login", rest: payload };
        let flags = cursor.u32()?;
        if flags & capability::PROTOCOL_41 == 0 || flags & capability::SECURE_CONNECTION == 0 {
            return Err(Error::failure(format!("the client's capabilities {flags:#x} are of a server before 5.0")));
        }
        cursor.take(4 + 1 + 23)?;
        if flags & capability::SSL != 0 && cursor.rest.is_empty() {
            return Err(Error::failure("the replica asks for TLS, which was not offered")
                .hint("set SOURCE_SSL=0 (MariaDB: MASTER_SSL=0) on it"));
        }
        let user = cursor.text_to_nul()?;
        let length = if flags & capability::PLUGIN_AUTH_LENENC != 0 { cursor.length()? } else { cursor.u8()?.into() };
        let proof = Bytes::copy_from_slice(cursor.take(length)?);
        if flags & capability::CONNECT_WITH_DB != 0 {
            cursor.text_to_nul()?;
        }
        let plugin = if flags & capability::PLUGIN_AUTH != 0 { Some(cursor.text_to_nul()?) } else { None };
        Ok(Self { user, proof, plugin })
    }
}

/// Asks the client to log in by another plugin (`AuthSwitchRequest`).
pub(super) fn auth_switch(plugin: &str, nonce: &[u8; NONCE]) -> Vec<u8> {
    [&[0xfe], plugin.as_bytes(), &[0], nonce, &[0]].concat()
}

/// `caching_sha2_password` says that the scramble was right and OK follows (`fast_auth_success`).
pub(super) const FAST_AUTH_OK: &[u8] = &[1, 3];

/// All is well.
pub(super) fn ok() -> Vec<u8> {
    let [a, b] = STATUS.to_le_bytes();
    vec![0, 0, 0, a, b, 0, 0]
}

/// An error with the server's number for it and an SQL state of five characters.
pub(super) fn refusal(code: u16, state: &str, message: &str) -> Vec<u8> {
    let [a, b] = code.to_le_bytes();
    [&[0xff, a, b, b'#'], state.as_bytes(), message.as_bytes()].concat()
}

/// Appends a result set of text columns with at most one row (`ProtocolText::Resultset`).
/// Names and values are far shorter than a packet.
pub(super) fn put_result(out: &mut Vec<u8>, sequence: &mut u8, columns: &[String], row: Option<&[Option<String>]>) {
    let [a, b] = STATUS.to_le_bytes();
    let eof = [0xfe, 0, 0, a, b];
    put_packet(out, sequence, &[columns.len().min(250) as u8]);
    for name in columns {
        let mut column = Vec::new();
        for text in ["def", "", "", "", name, ""] {
            put_text(&mut column, text);
        }
        column.push(12);
        column.extend_from_slice(&u16::from(CHARSET).to_le_bytes());
        column.extend_from_slice(&1024_u32.to_le_bytes());
        // MYSQL_TYPE_VAR_STRING, no flags, no decimals, filler.
        column.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0]);
        put_packet(out, sequence, &column);
    }
    put_packet(out, sequence, &eof);
    if let Some(values) = row {
        let mut payload = Vec::new();
        for value in values {
            match value {
                Some(text) => put_text(&mut payload, text),
                None => payload.push(0xfb),
            }
        }
        put_packet(out, sequence, &payload);
    }
    put_packet(out, sequence, &eof);
}

/// Appends a text with its length before it.
fn put_text(out: &mut Vec<u8>, text: &str) {
    match u8::try_from(text.len()) {
        Ok(length) if length < 251 => out.push(length),
        _ => {
            out.push(0xfd);
            out.extend_from_slice(&text.len().to_le_bytes()[..3]);
        }
    }
    out.extend_from_slice(text.as_bytes());
}

/// What a replica asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// It leaves.
    Quit,
    /// A statement.
    Query(String),
    /// Answered with OK and nothing else: `COM_PING`, `COM_INIT_DB`, `COM_REGISTER_SLAVE`,
    /// `COM_RESET_CONNECTION`.
    Fine,
    /// The log from a place in a file on (`COM_BINLOG_DUMP`); MariaDB sends it also when it
    /// wants the log from a GTID position, which it has set before.
    Dump(Dump),
    /// The log less the transactions of a set (`COM_BINLOG_DUMP_GTID`).
    DumpGtid(Dump, Bytes),
    /// Any other command, by number.
    Other(u8),
}

/// What the two ways to ask for the log have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dump {
    /// The file, empty for the first.
    pub(super) file: String,
    /// A place in it, in bytes.
    pub(super) position: u64,
    /// `BINLOG_DUMP_NON_BLOCK` and others.
    pub(super) flags: u16,
    /// The replica's own number.
    pub(super) server_id: u32,
}

impl Dump {
    /// A MariaDB replica wants to read which statement made the rows
    /// (`BINLOG_SEND_ANNOTATE_ROWS_EVENT`).
    pub(super) const ANNOTATIONS: u16 = 2;

    /// To MySQL the same bit: it understands [`super::artificial::heartbeat_v2`] (MySQL 8.0.26 and later;
    /// `USE_HEARTBEAT_EVENT_V2`, `sql/rpl_constants.h`).
    pub(super) const HEARTBEAT_V2: u16 = 2;
}

impl Command {
    /// Reads a command.
    ///
    /// # Errors
    /// [`Kind::Failure`] for one that is cut off or is not text where it should be.
    pub(super) fn parse(payload: &[u8]) -> Result<Self> {
        let mut cursor = Cursor { what: "command", rest: payload };
        Ok(match cursor.u8()? {
            0x01 => Self::Quit,
            0x03 => Self::Query(text(cursor.rest)?),
            0x02 | 0x0e | 0x15 | 0x1f => Self::Fine,
            0x12 => {
                let position = cursor.u32()?.into();
                let flags = cursor.u16()?;
                let server_id = cursor.u32()?;
                Self::Dump(Dump { file: text(cursor.rest)?, position, flags, server_id })
            }
            0x1e => {
                let flags = cursor.u16()?;
                let server_id = cursor.u32()?;
                let length = cursor.u32()? as usize;
                let file = text(cursor.take(length)?)?;
                let position = cursor.u64()?;
                let length = cursor.u32()? as usize;
                let set = Bytes::copy_from_slice(cursor.take(length)?);
                Self::DumpGtid(Dump { file, position, flags, server_id }, set)
            }
            other => Self::Other(other),
        })
    }
}

fn text(bytes: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(bytes);
    text.map(str::to_owned).map_err(|e| Error::failure("the replica sent text that is not UTF-8").because(e))
}

/// Takes a payload apart from its start.
struct Cursor<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(|| {
            Error::new(
                Kind::Failure,
                format!("the replica's {} is cut off: {length} bytes wanted, {} there", self.what, self.rest.len()),
            )
        })?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length-encoded number that is a length here.
    fn length(&mut self) -> Result<usize> {
        match self.u8()? {
            0xfc => Ok(self.u16()?.into()),
            short @ 0..=0xfa => Ok(short.into()),
            long => Err(Error::failure(format!("the replica's {} has a field with length mark {long:#x}", self.what))),
        }
    }

    fn text_to_nul(&mut self) -> Result<String> {
        let length = self.rest.iter().position(|byte| *byte == 0).unwrap_or(self.rest.len());
        let text = text(self.take(length)?)?;
        self.rest = self.rest.get(1..).unwrap_or_default();
        Ok(text)
    }
}
