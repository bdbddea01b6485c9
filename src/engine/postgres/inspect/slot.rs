//! How the replication slot stands: the promise on which the archive's continuity
//! hangs.

use super::{Row, critical, ok, row, warning};
use crate::engine::postgres::connect::Connection;
use crate::engine::{Finding, SlotStatus};
use crate::error::Result;
use crate::model::position::Position;

/// Below this much room the slot is about to be lost.
const SAFE_BYTES_MIN: i64 = 1 << 30;

/// Looks at the slot. `name` has been validated or is quoted here.
pub(super) async fn read(sql: &mut Connection, name: &str) -> Result<Row> {
    let literal = name.replace('\'', "''");
    sql.query("SET standard_conforming_strings = on").await?;
    let query = format!(
        "SELECT slot_type, active, active_pid, restart_lsn, wal_status, safe_wal_size, \
         (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END - restart_lsn)::bigint \
         AS kept_bytes FROM pg_catalog.pg_replication_slots WHERE slot_name = '{literal}'"
    );
    row(sql, &query).await
}

/// The row for programs.
pub(super) fn status(name: &str, row: &Row) -> SlotStatus {
    let state = match (row.get("slot_type"), row.text("wal_status")) {
        (None, _) => "missing",
        (Some("physical"), "") => "unused",
        (Some("physical"), promise) => promise,
        (Some(_), _) => "unusable",
    };
    SlotStatus {
        name: name.to_owned(),
        state: state.to_owned(),
        active: row.yes("active"),
        restart: row.get("restart_lsn").map(|lsn| Position(lsn.to_owned())),
        kept_bytes: row.number("kept_bytes"),
        safe_bytes: row.number("safe_wal_size"),
        message: judge(name, row).into_iter().next().map(|finding| finding.message).unwrap_or_default(),
    }
}

/// What the row means.
pub(super) fn judge(name: &str, row: &Row) -> Vec<Finding> {
    let Some(kind) = row.get("slot_type") else {
        return vec![warning(
            "slot",
            format!("slot {name:?} does not exist"),
            "`pitr archive` makes it when it starts",
        )];
    };
    if kind != "physical" {
        let message = format!("slot {name:?} is a {kind} slot, and archiving needs a physical one");
        return vec![critical("slot", message, "choose another name: `slot` in the configuration, or `--slot`")];
    }
    let kept = row.number("kept_bytes").unwrap_or(0);
    let mut findings = Vec::new();
    match (row.text("wal_status"), row.number("safe_wal_size")) {
        ("lost", _) => {
            let message = format!("slot {name:?} was invalidated: log the archive needs may be gone");
            return vec![critical(
                "slot",
                message,
                "start `pitr archive`: it makes the slot anew and takes a base backup; then raise max_slot_wal_keep_size",
            )];
        }
        ("unreserved", _) => findings.push(critical(
            "slot",
            format!("slot {name:?} keeps {kept} bytes, more than max_slot_wal_keep_size: the next checkpoint may remove them"),
            "let `pitr archive` catch up now, or raise max_slot_wal_keep_size",
        )),
        (_, Some(safe)) if safe < SAFE_BYTES_MIN => findings.push(warning(
            "slot",
            format!("slot {name:?} is lost after {safe} more bytes of log"),
            "let `pitr archive` catch up, or raise max_slot_wal_keep_size",
        )),
        (status, _) => {
            let status = if status.is_empty() { "not yet used" } else { status };
            findings.push(ok("slot", format!("slot {name:?} keeps {kept} bytes of log ({status})")));
        }
    }
    findings.push(match row.get("active_pid") {
        Some(pid) => ok("slot_use", format!("slot {name:?} is in use by server process {pid}")),
        None => warning(
            "slot_use",
            format!("slot {name:?} is not in use: nothing is being archived, and log piles up on the server"),
            "start `pitr archive`",
        ),
    });
    findings
}
