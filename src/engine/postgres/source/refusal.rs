//! What a walsender's errors mean for an archiver.
//!
//! The texts may be translated, so SQLSTATE and the reporting C function decide; both
//! are the same in every language. Where neither is distinctive enough the English
//! text helps.

use crate::engine::postgres::wire::Report;
use crate::error::{Error, Kind};
use crate::model::timeline::TimelineId;

/// The error for a refused or broken `START_REPLICATION`.
pub(super) fn explain(report: &Report, place: &str, slot: Option<&str>) -> Error {
    let routine = report.routine.as_deref().unwrap_or_default();
    let message = report.message.as_str();
    let state = report.sqlstate.as_str();
    let slot = slot.unwrap_or("none");
    let error = report.to_error(place);
    // errcode_for_file_access() of a WAL file that is not there.
    if state == "58P01" || message.contains("has already been removed") {
        return error.with_kind(Kind::Absent).hint(
            "the server no longer has that log: pitr must begin again with a new base backup; \
             a slot keeps log (`--slot`), max_slot_wal_keep_size limits how much",
        );
    }
    let not_ours = ["StartReplication", "tliSwitchPoint"].contains(&routine) && state == "XX000";
    if not_ours
        || message.contains("is not in this server's history")
        || message.contains("ahead of the WAL flush position")
    {
        return error.with_kind(Kind::NotRecoverable).hint(
            "the archive holds log this server never had: was another server promoted, or this one restored from a backup?",
        );
    }
    if state == "55006" {
        return error.with_kind(Kind::Busy).hint(format!(
            "slot {slot:?} is used by another process: is a second pitr running? \
             `SELECT pid, application_name, client_addr FROM pg_stat_replication` shows who"
        ));
    }
    // StartReplication itself refuses only logical slots; an invalidated slot is refused
    // where it is acquired, from version 18 on. Before that its log is simply missing.
    let detail = report.detail.as_deref().unwrap_or_default();
    if state == "55000" && routine == "StartReplication" && !detail.contains("invalidated") {
        return error.with_kind(Kind::Config).hint(format!("slot {slot:?} is a logical slot; choose another name"));
    }
    if state == "55000" {
        return error.with_kind(Kind::Absent).hint(format!(
            "slot {slot:?} was invalidated and its log is gone: raise max_slot_wal_keep_size, \
             then `SELECT pg_drop_replication_slot('{slot}')`; pitr makes it anew and takes a new base backup"
        ));
    }
    if state == "42704" {
        return error
            .with_kind(Kind::Absent)
            .hint(format!("slot {slot:?} does not exist; pitr makes it when it starts"));
    }
    error
}

/// The error for a refused `TIMELINE_HISTORY`.
pub(super) fn history(report: &Report, place: &str, timeline: TimelineId) -> Error {
    let error = report.to_error(place);
    if report.sqlstate == "58P01" {
        return error.with_kind(Kind::Absent).hint(format!(
            "the server has no {timeline}.history: was it removed from pg_wal, or does the timeline belong to another server?"
        ));
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(sqlstate: &str, routine: &str, message: &str) -> Report {
        Report {
            severity: "ERROR".to_owned(),
            sqlstate: sqlstate.to_owned(),
            message: message.to_owned(),
            routine: Some(routine.to_owned()),
            ..Report::default()
        }
    }

    #[test]
    fn a_translated_server_is_understood() {
        for (sqlstate, routine, kind) in [
            ("58P01", "WalSndSegmentOpen", Kind::Absent),
            ("XX000", "StartReplication", Kind::NotRecoverable),
            ("XX000", "tliSwitchPoint", Kind::NotRecoverable),
            ("55006", "ReplicationSlotAcquire", Kind::Busy),
            ("55000", "ReplicationSlotAcquire", Kind::Absent),
            ("55000", "StartReplication", Kind::Config),
            ("42704", "ReplicationSlotAcquire", Kind::Absent),
        ] {
            let error = explain(&report(sqlstate, routine, "le serveur a dit non"), "db:5432", Some("pitr"));
            assert_eq!(error.kind(), kind, "{sqlstate} {routine}");
            assert!(error.advice().is_some());
            assert!(error.to_string().starts_with("db:5432: "));
        }
    }

    #[test]
    fn a_busy_slot_names_the_process() {
        let said = report("55006", "ReplicationSlotAcquire", "replication slot \"pitr\" is active for PID 4242");
        assert!(explain(&said, "db:5432", Some("pitr")).to_string().contains("PID 4242"));
    }
}
