//! What pitr writes between the server's events: where a file begins, and when a transaction
//! came.
//!
//! A binlog file tells neither its own name nor, in MariaDB, the moment of a commit below the
//! second. Both are needed to give the file back and to find a moment, and must be as durable
//! as the log itself. So they lie in the log, as *notes*: events of the kind that every reader
//! passes over (`IGNORABLE_LOG_EVENT`), which `pitr export` takes out again.
//!
//! ```text
//!  0  header, 19 bytes: type 28, flags 0x80 (ignorable), server 0, log_pos 0
//! 19  "pitr"
//! 23  kind   u8
//! 24  body, by kind
//!     1 FILE      stands before the format description of a file;
//!                 position u64: 4, or where in the file the log goes on behind the format
//!                 description, and that between is not here;
//!                 length u16 and server, length u16 and name
//!     2 TIME      when the transaction that follows was received, i64 microseconds since
//!                 1970-01-01 UTC by the source's clock; 0: not known
//!     3 CHECKSUM  of a transaction whose events carry none: CRC-32 u32 of all its bytes
//! -4  CRC-32 of all bytes before, also where the file's events carry none
//! ```

use super::event::{CHECKSUM_BYTES, FLAG_IGNORABLE, HEADER_BYTES, Header, MAGIC, kind};
use crate::error::{Error, Result};
use crate::model::time::Timestamp;

const MARK: &[u8; 4] = b"pitr";
const BODY: usize = HEADER_BYTES + MARK.len() + 1;

/// Where a file begins, or goes on, in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileNote {
    /// The server that wrote it, see [`super::super::place::Place::server`].
    pub server: String,
    /// Its name there.
    pub name: String,
    /// Where in it the log begins: [`FILE_START`], or where it goes on behind the format
    /// description when what lies between is not here.
    pub position: u64,
}

/// Where the first event of a file begins: behind its magic.
pub const FILE_START: u64 = MAGIC.len() as u64;

/// No file is longer, for a place in one is a signed number to the system.
const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// One note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A file begins.
    File(FileNote),
    /// When the next transaction was received.
    Time(Option<Timestamp>),
    /// The checksum of the transaction before.
    Checksum(u32),
}

impl Note {
    /// The note as an event.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; HEADER_BYTES];
        out.extend_from_slice(MARK);
        match self {
            Self::File(file) => {
                out.push(1);
                out.extend_from_slice(&file.position.to_le_bytes());
                for text in [&file.server, &file.name] {
                    let text = text.as_bytes().get(..text.len().min(usize::from(u16::MAX))).unwrap_or_default();
                    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
                    out.extend_from_slice(text);
                }
            }
            Self::Time(time) => {
                out.push(2);
                out.extend_from_slice(&time.map_or(0, |time| time.0).to_le_bytes());
            }
            Self::Checksum(crc) => {
                out.push(3);
                out.extend_from_slice(&crc.to_le_bytes());
            }
        }
        out.extend_from_slice(&[0; CHECKSUM_BYTES]);
        let length = u32::try_from(out.len()).unwrap_or(u32::MAX);
        let timestamp = match self {
            Self::Time(Some(time)) => u32::try_from(time.0 / 1_000_000).unwrap_or_default(),
            _ => 0,
        };
        let header =
            Header { timestamp, kind: kind::IGNORABLE, server_id: 0, length, log_pos: 0, flags: FLAG_IGNORABLE };
        out[..HEADER_BYTES].copy_from_slice(&header.encode());
        super::event::seal(&mut out);
        out
    }

    /// Whether an event that begins so is a note.
    #[must_use]
    pub fn is_one(header: &Header, body: &[u8]) -> bool {
        header.kind == kind::IGNORABLE && body.starts_with(MARK)
    }

    /// Reads a whole event that [`Note::is_one`].
    ///
    /// # Errors
    /// [`crate::Kind::Corruption`] when it is not what was written.
    pub fn parse(event: &[u8]) -> Result<Self> {
        let broken = |what: &str| Error::corruption(format!("a note of pitr's {what}"));
        if !super::event::is_sound(event) {
            return Err(broken("fails its checksum"));
        }
        let body = event.get(BODY..event.len() - CHECKSUM_BYTES).ok_or_else(|| broken("is too short"))?;
        let note = match event.get(BODY - 1) {
            Some(1) => Self::file(body),
            Some(2) => body
                .try_into()
                .ok()
                .map(i64::from_le_bytes)
                .map(|time| Self::Time((time != 0).then_some(Timestamp(time)))),
            Some(3) => body.try_into().ok().map(u32::from_le_bytes).map(Self::Checksum),
            _ => return Err(broken("is of a kind this version does not know").hint("was it written by a newer pitr?")),
        };
        note.ok_or_else(|| broken("cannot be read"))
    }

    fn file(body: &[u8]) -> Option<Self> {
        let (position, rest) = body.split_first_chunk::<8>()?;
        let (server, rest) = text(rest)?;
        let (name, rest) = text(rest)?;
        let position = u64::from_le_bytes(*position);
        (rest.is_empty() && position <= FILE_BYTES_MAX).then_some(Self::File(FileNote { server, name, position }))
    }
}

fn text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (text, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    Some((std::str::from_utf8(text).ok()?.to_owned(), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn notes_read_back_as_written() {
        let file = FileNote { server: "uuid".into(), name: "binlog.000007".into(), position: 1 << 40 };
        for note in [
            Note::File(file),
            Note::Time(None),
            Note::Time(Some(Timestamp(1_795_290_883_123_456))),
            Note::Checksum(0xdead_beef),
        ] {
            let event = note.encode();
            let header = Header::parse(&event).unwrap();
            assert_eq!(header.length as usize, event.len());
            assert!(Note::is_one(&header, &event[HEADER_BYTES..]));
            assert_eq!(Note::parse(&event).unwrap(), note);
            for at in 0..event.len() {
                let mut broken = event.clone();
                broken[at] ^= 0x10;
                assert!(Note::parse(&broken).is_err(), "byte {at} may not change");
            }
        }
    }

    #[test]
    fn a_place_that_no_file_has_cannot_be_read() {
        for (position, is_read) in [(FILE_BYTES_MAX, true), (FILE_BYTES_MAX + 1, false), (u64::MAX - 10, false)] {
            let note = Note::File(FileNote { server: "uuid".into(), name: "binlog.000007".into(), position });
            assert_eq!(Note::parse(&note.encode()).is_ok(), is_read, "{position}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Note::parse(&bytes);
        }
    }
}
