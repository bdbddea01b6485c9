//! The replication slot: the server's promise to keep log for us.
//!
//! Version 15 tells a slot's position on the replication connection
//! (`READ_REPLICATION_SLOT`); before, and for what that command leaves out, plain SQL
//! is asked, where the role may open such a session.
//! Source: PostgreSQL manual, "pg_replication_slots"; `walsender.c`, `slot.c`.

use crate::engine::postgres::connect::{Connection, beside};
use crate::engine::postgres::conninfo::ConnInfo;
use crate::engine::postgres::files::parse_history;
use crate::engine::postgres::wal::name::parse_lsn;
use crate::engine::postgres::wire::Report;
use crate::error::{Error, Kind, Result};
use crate::model::cluster::ServerState;
use crate::model::offset::Offset;
use crate::model::timeline::TimelineId;

/// Refuses names the server would refuse (`ReplicationSlotValidateName`): so a name
/// never needs quoting.
pub(super) fn validate(name: &str) -> Result<()> {
    let good = (1..64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if good {
        return Ok(());
    }
    Err(Error::config(format!("slot name {name:?} is not usable"))
        .hint("use 1 to 63 lower-case letters, digits or `_`"))
}

/// What a slot says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SlotState {
    /// `false` for a logical slot.
    physical: bool,
    /// From where on log is kept; none before its first use, and when it is lost.
    restart: Option<Offset>,
    /// The timeline of `restart`, where the server tells it.
    timeline: Option<TimelineId>,
    /// Whether the server broke its promise.
    lost: bool,
}

/// Makes sure there is a slot, and tells from where on it keeps log, if the server says so.
///
/// A lost slot keeps nothing and never will: it is dropped and made anew. What is
/// missing then shows as a gap, since the new one begins after the archive's end.
pub(super) async fn prepare(
    info: &ConnInfo,
    connection: &mut Connection,
    name: &str,
    server: &ServerState,
) -> Result<Option<(TimelineId, Offset)>> {
    let mut state = read(info, connection, name).await?;
    if let Some(SlotState { physical: false, .. }) = state {
        return Err(Error::config(format!("{}: slot {name:?} is a logical slot", connection.place()))
            .hint("choose another name with `--slot`"));
    }
    if state.as_ref().is_some_and(|state| state.lost) {
        tracing::warn!(
            slot = name,
            host = connection.place(),
            "the slot was invalidated and is made anew: log is missing"
        );
        command(connection, &format!("DROP_REPLICATION_SLOT \"{name}\""))
            .await?
            .map_err(|r| r.to_error(connection.place()))?;
        state = None;
    }
    if state.is_none() {
        match command(connection, &format!("CREATE_REPLICATION_SLOT \"{name}\" PHYSICAL RESERVE_WAL")).await? {
            Ok(()) => tracing::info!(slot = name, host = connection.place(), "replication slot created"),
            // It existed after all and we could not see it, or somebody was quicker.
            Err(report) if report.sqlstate == "42710" => {}
            Err(report) => return Err(cannot_create(&report, connection.place(), name)),
        }
        state = read(info, connection, name).await?;
    }
    Ok(match state {
        None => None,
        // Made without RESERVE_WAL and never used: it keeps log from our first answer on.
        Some(SlotState { restart: None, .. }) => Some((server.timeline, server.log_end)),
        Some(SlotState { restart: Some(restart), timeline: Some(timeline), .. }) => Some((timeline, restart)),
        Some(SlotState { restart: Some(restart), timeline: None, .. }) => {
            Some((timeline_of(connection, restart, server).await?, restart))
        }
    })
}

/// Makes a slot that lasts as long as the connection, or until a command on it fails
/// ("Temporary slots are ... dropped on error", the manual's "Streaming Replication Protocol").
///
/// Not under the name itself: an archiver that is started meanwhile makes that one.
pub(super) async fn keep(connection: &mut Connection, name: &str) -> Result<()> {
    let name = stand_in(name, rand::random());
    command(connection, &format!("CREATE_REPLICATION_SLOT \"{name}\" TEMPORARY PHYSICAL RESERVE_WAL"))
        .await?
        .map_err(|report| cannot_create(&report, connection.place(), &name))?;
    tracing::debug!(slot = name, "temporary replication slot created");
    Ok(())
}

/// The name of a temporary slot, which may be no longer than 63 letters.
fn stand_in(name: &str, chance: u32) -> String {
    let room = 63 - "_00000000".len();
    format!("{}_{chance:08x}", name.get(..room).unwrap_or(name))
}

fn cannot_create(report: &Report, place: &str, name: &str) -> Error {
    let error = report.to_error(place);
    match report.sqlstate.as_str() {
        "53400" => error.with_kind(Kind::Config).hint("raise max_replication_slots, or drop a slot that nobody uses"),
        "42501" => error.hint("the role needs REPLICATION: `pitr grants` prints the statements"),
        _ => error.context(format!("slot {name:?} cannot be made")),
    }
}

async fn command(connection: &mut Connection, text: &str) -> Result<Result<(), Report>> {
    Ok(connection.try_query(text).await?.map(|_| ()))
}

/// The slot's state; `None` when it does not exist or nobody lets us see it.
async fn read(info: &ConnInfo, connection: &mut Connection, name: &str) -> Result<Option<SlotState>> {
    if connection.server_version_num() < 150_000 {
        return match read_by_sql(info, connection, name).await {
            Ok(state) => Ok(state),
            Err(error) => {
                tracing::warn!(%error, "the slot's position cannot be read in plain SQL");
                Ok(None)
            }
        };
    }
    let sets = match connection.try_query(&format!("READ_REPLICATION_SLOT \"{name}\"")).await? {
        Ok(sets) => sets,
        // The command refuses logical slots, and they are all it refuses.
        Err(report) if report.sqlstate == "0A000" => {
            return Ok(Some(SlotState { physical: false, restart: None, timeline: None, lost: false }));
        }
        Err(report) => return Err(report.to_error(connection.place())),
    };
    let row = sets.into_iter().flat_map(|s| s.rows).next().unwrap_or_default();
    let field = |index: usize| row.get(index).and_then(Option::as_deref);
    let Some(kind) = field(0) else { return Ok(None) };
    let mut state = SlotState {
        physical: kind == "physical",
        restart: field(1).and_then(parse_lsn),
        timeline: field(2).and_then(|t| t.parse().ok()).map(TimelineId),
        lost: false,
    };
    // Never used, or lost? The command says nothing in both cases. And from version 18 on
    // (idle_replication_slot_timeout) a lost slot may still have a position.
    if state.restart.is_none() || connection.server_version_num() >= 180_000 {
        match read_by_sql(info, connection, name).await {
            Ok(Some(seen)) => state.lost = seen.lost,
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "whether the slot is lost cannot be read in plain SQL"),
        }
    }
    Ok(Some(state))
}

async fn read_by_sql(info: &ConnInfo, connection: &Connection, name: &str) -> Result<Option<SlotState>> {
    let mut sql = beside(info, connection).await?;
    let query = format!(
        "SELECT slot_type, restart_lsn, wal_status FROM pg_catalog.pg_replication_slots WHERE slot_name = '{name}'"
    );
    let sets = sql.query(&query).await;
    sql.close().await;
    let row = sets?.into_iter().flat_map(|s| s.rows).next().unwrap_or_default();
    let field = |index: usize| row.get(index).and_then(Option::as_deref);
    Ok(field(0).map(|kind| SlotState {
        physical: kind == "physical",
        restart: field(1).and_then(parse_lsn),
        timeline: None,
        lost: field(2) == Some("lost"),
    }))
}

/// The timeline that `lsn` belongs to in the server's own history.
async fn timeline_of(connection: &mut Connection, lsn: Offset, server: &ServerState) -> Result<TimelineId> {
    if server.timeline.0 <= 1 {
        return Ok(server.timeline);
    }
    let sets = connection.query(&format!("TIMELINE_HISTORY {}", server.timeline.0)).await?;
    let text = sets.into_iter().flat_map(|s| s.rows).flat_map(|row| row.into_iter().nth(1)).next().flatten();
    let history = parse_history(server.timeline, &text.unwrap_or_default())?;
    let older = history.ancestors.iter().find(|ancestor| lsn < ancestor.switch);
    Ok(older.map_or(server.timeline, |ancestor| ancestor.timeline))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_slot_has_a_usable_name_of_its_own() {
        assert_eq!(stand_in("pitr", 0xab), "pitr_000000ab");
        let long = stand_in(&"x".repeat(63), u32::MAX);
        assert!(validate(&long).is_ok() && long.ends_with("x_ffffffff"), "{long}");
    }

    #[test]
    fn a_slot_name_needs_no_quoting() {
        assert!(validate("pitr_2").is_ok());
        for bad in ["", "Pitr", "a b", "a\"b", "a-b", "é", &"x".repeat(64)] {
            assert_eq!(validate(bad).unwrap_err().kind(), Kind::Config, "{bad}");
        }
    }
}
