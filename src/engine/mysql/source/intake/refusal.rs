//! Why a dump is refused: by us, when its log is not the archive's, or by the source.

use super::super::super::connect::ServerError;
use super::super::super::place::Place;
use crate::error::{Error, Kind};

pub(super) fn another_log(place: &Place, what: &str) -> Error {
    Error::new(Kind::NotRecoverable, format!("the source {what}: {place}"))
}

/// An error met before the source's log has proved to be the archive's: where another log has
/// taken the file's name, no event begins where the archive's last transaction did, and the
/// source takes its own log for damaged.
pub(in crate::engine::mysql::source) fn unproved(error: Error, place: &Place) -> Error {
    let damaged = [
        "bogus data",
        "truncated",
        "corrupt",
        "checksum",
        "impossible position",
        "position > file size",
        "exceeded max_allowed_packet",
    ];
    let said = ServerError::find(&error).map(|said| said.message.to_ascii_lowercase());
    let speaks_of_damage = said.is_some_and(|said| damaged.iter().any(|word| said.contains(word)));
    // Or it sends what lies there, taken for an event.
    if speaks_of_damage || error.kind() == Kind::Corruption {
        return another_log(place, "has no transaction where the archive holds its last one").because(error);
    }
    error
}

/// Whether the source found its file to end inside an event (`LOG_READ_TRUNC`), or zeros where one
/// was due (`LOG_READ_BOGUS`): what is left of a server's last writes by a kill, or by a power cut.
pub(in crate::engine::mysql::source) fn is_cut_short(error: &Error) -> bool {
    let ends = ["truncated in the middle of event", "bogus data in log event"];
    ServerError::find(error).is_some_and(|said| ends.iter().any(|end| said.message.contains(end)))
}

/// What the source says instead of an event. By number alone this cannot be told apart: all of
/// them are `ER_MASTER_FATAL_ERROR_READING_BINLOG`, in English whatever `lc_messages` is.
pub(super) fn refusal(packet: &[u8]) -> Error {
    let Some(said) = ServerError::parse(packet) else {
        return Error::new(Kind::DatabaseUnreachable, "the source sent an error that cannot be read");
    };
    let text = said.message.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if has(&["anonymous transaction"]) {
        let text =
            format!("the source's log holds transactions without GTIDs, which it does not give away: {}", said.message);
        return Error::config(text).because(said).hint(
            "SET GLOBAL gtid_mode = ON_PERMISSIVE, and ON again once later transactions are archived; or purge the \
             binlog files that hold them",
        );
    }
    let kind = if has(&["more gtids than", "is not in the master's binlog", "diverge", "alternate history"]) {
        Kind::NotRecoverable
    } else if has(&["purged", "could not find", "too old", "not in index"]) {
        Kind::Absent
    } else {
        Kind::DatabaseUnreachable
    };
    Error::new(kind, format!("the source does not give its log: {}", said.message)).because(said)
}
