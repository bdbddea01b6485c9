//! A place in the log in the engine's own words: which transactions lie before it, and where
//! it is in the file of the server that wrote it.
//!
//! As text, in footers, gap records and histories: `GTIDS @ SERVER/FILE:POSITION`, with `-`
//! for no GTIDs, and behind a blank
//! - `after POSITION:CRC` where the last transaction before it is known: where that began in the
//!   same file, and the checksum of its first event. With it a server proves that its log is the
//!   one that the archive holds;
//! - `holding BYTES` where so much of what follows is here already, but not all of a transaction.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use super::flavor::Flavor;
use super::gtid::GtidSet;
use crate::error::{Error, Result};
use crate::model::position::Position;

/// A place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Every transaction before it, since the server's beginning.
    pub gtids: GtidSet,
    /// Which server wrote the file: MySQL's `server_uuid`, MariaDB's `server_uid`.
    pub server: String,
    /// The file's name there.
    pub file: String,
    /// The place in the file, in bytes.
    pub position: u64,
    /// The last transaction before it in the file.
    pub after: Option<After>,
    /// How many bytes behind it the archive holds already, of a transaction that is not whole.
    pub holding: u64,
}

/// The beginning of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After {
    /// Where its first event begins in its file.
    pub position: u64,
    /// CRC-32 of that event.
    pub crc: u32,
}

impl Place {
    /// Reads a place.
    ///
    /// # Errors
    /// [`crate::Kind::Corruption`] for text that is none.
    pub fn parse(position: &Position, flavor: Flavor) -> Result<Self> {
        Self::read(&position.0, flavor)
            .ok_or_else(|| Error::corruption(format!("position {:?} is not a place in a {flavor} log", position.0)))
    }

    fn read(text: &str, flavor: Flavor) -> Option<Self> {
        let (gtids, rest) = text.split_once(" @ ")?;
        let gtids = if gtids == "-" { GtidSet::empty(flavor) } else { GtidSet::parse(flavor, gtids).ok()? };
        let (rest, holding) = match rest.split_once(" holding ") {
            Some((rest, holding)) => (rest, holding.parse().ok()?),
            None => (rest, 0),
        };
        let (rest, after) = match rest.split_once(" after ") {
            Some((rest, after)) => (rest, Some(after.parse().ok()?)),
            None => (rest, None),
        };
        // A server's identity may hold a slash, a file's name does not.
        let (server, file) = rest.rsplit_once('/')?;
        let (file, position) = file.rsplit_once(':')?;
        // No file is longer: a place in one is a signed number to the system.
        let position = position.parse().ok().filter(|position| *position <= i64::MAX as u64)?;
        Some(Self { gtids, server: server.to_owned(), file: file.to_owned(), position, after, holding })
    }

    /// The place as footers keep it.
    #[must_use]
    pub fn to_position(&self) -> Position {
        Position(self.to_string())
    }
}

/// A place in a server's files as people write it: `FILE:POSITION`, with `SERVER/` before it
/// where the files of several servers follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePosition {
    server: Option<String>,
    file: String,
    position: u64,
}

impl FilePosition {
    /// How a place lies to this one; `None` for one of another server's files.
    #[must_use]
    pub fn compare(&self, place: &Place) -> Option<Ordering> {
        if self.server.as_ref().is_some_and(|server| *server != place.server) {
            return None;
        }
        let (wanted, number) = numbered(&self.file)?;
        let (name, other) = numbered(&place.file)?;
        (name == wanted).then(|| (other, place.position).cmp(&(number, self.position)))
    }
}

/// A file's name without its number, and the number (`binlog`, 7).
fn numbered(file: &str) -> Option<(&str, u64)> {
    let (name, number) = file.rsplit_once('.')?;
    Some((name, number.parse().ok()?))
}

impl FromStr for FilePosition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let read = || {
            let (file, position) = text.rsplit_once(':')?;
            // A server's identity may hold a slash, a file's name does not.
            let (server, file) = match file.rsplit_once('/') {
                Some((server, file)) => (Some(server.to_owned()), file),
                None => (None, file),
            };
            numbered(file)?;
            Some(Self { server, file: file.to_owned(), position: position.parse().ok()? })
        };
        read().ok_or_else(|| {
            Error::usage(format!("{text:?} is no place in a binlog"))
                .hint("write it like binlog.000007:1234, as `mysqlbinlog` and SHOW BINARY LOG STATUS name it")
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.gtids.is_empty() {
            f.write_str("-")?;
        } else {
            write!(f, "{:#}", self.gtids)?;
        }
        write!(f, " @ {}/{}:{}", self.server, self.file, self.position)?;
        if let Some(after) = self.after {
            write!(f, " after {}:{:08X}", after.position, after.crc)?;
        }
        match self.holding {
            0 => Ok(()),
            bytes => write!(f, " holding {bytes}"),
        }
    }
}

impl FromStr for After {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (position, crc) = text.split_once(':').ok_or(())?;
        let crc = u32::from_str_radix(crc, 16).map_err(|_| ())?;
        Ok(Self { position: position.parse().map_err(|_| ())?, crc })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_back_as_written() {
        for (flavor, text) in [
            (
                Flavor::MariaDb,
                "0-7-7,1-2-9 @ vIfmJEDFYDe9po8I0fmksOgqQ5Q=/mysql-bin.000002:596 after 427:0E8BE2F1 holding 77",
            ),
            (Flavor::MariaDb, "- @ id-7/mysql-bin.000001:4"),
            (
                Flavor::MySql,
                "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5 @ 3e11fa47-71ca-11e1-9e33-c80aa9429562/b.000001:1234567890123",
            ),
        ] {
            assert_eq!(Place::parse(&Position(text.into()), flavor).unwrap().to_string(), text);
        }
        for text in ["", "0-7-7", "0-7-7 @ x", "0-7-7 @ x/y", "0-7-7 @ x/y:z", "no @ x/y:4", "- @ x/y:4 after 7"] {
            assert!(Place::parse(&Position(text.into()), Flavor::MariaDb).is_err(), "{text:?}");
        }
    }
}
