//! What a value means for an archiver: values in, findings out, no socket.

use super::{Row, VERSION_MAX, VERSION_MIN, critical, ok, warning};
use crate::engine::Finding;
use crate::model::time::Timestamp;

/// From here on the clocks differ enough to put a restore on the wrong side of a
/// transaction somebody remembers by the clock.
const SKEW_WARNING_MICROS: i64 = 1_000_000;

pub(super) fn version(major: u32) -> Finding {
    if major < VERSION_MIN {
        critical(
            "version",
            format!("PostgreSQL {major} is older than {VERSION_MIN}, the oldest that pitr supports"),
            format!("upgrade the server to {VERSION_MIN} or newer"),
        )
    } else if major > VERSION_MAX {
        warning(
            "version",
            format!("PostgreSQL {major} is newer than {VERSION_MAX}, the newest this pitr was tested with"),
            "look for a newer pitr, and rehearse a restore with `pitr drill`",
        )
    } else {
        ok("version", format!("PostgreSQL {major} is supported"))
    }
}

pub(super) fn role(row: &Row) -> Finding {
    let name = row.text("name");
    if !row.yes("replicates") {
        critical(
            "replication",
            format!("role {name:?} may not replicate"),
            format!("ALTER ROLE \"{name}\" REPLICATION"),
        )
    } else if row.yes("superuser") {
        warning(
            "replication",
            format!("role {name:?} is a superuser, which is far more than archiving needs"),
            "`pitr grants` prints a role that has just enough",
        )
    } else if !row.yes("monitors") {
        warning(
            "replication",
            format!("role {name:?} does not see lag and settings"),
            format!("GRANT pg_monitor TO \"{name}\""),
        )
    } else {
        ok("replication", format!("role {name:?} may replicate and monitor"))
    }
}

pub(super) fn wal_level(value: &str) -> Finding {
    if matches!(value, "replica" | "logical") {
        return ok("wal_level", format!("wal_level is {value}"));
    }
    critical(
        "wal_level",
        format!("wal_level is {value:?}, with which no base backup can be recovered"),
        "ALTER SYSTEM SET wal_level = 'replica', then restart the server",
    )
}

pub(super) fn full_page_writes(value: &str) -> Finding {
    if value == "on" {
        return ok("full_page_writes", "full_page_writes is on");
    }
    critical(
        "full_page_writes",
        "full_page_writes is off: a page torn while it is copied into a base backup cannot be repaired",
        "ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf()",
    )
}

pub(super) fn data_checksums(value: &str) -> Finding {
    if value == "on" {
        return ok("data_checksums", "data checksums are on: base backups check every page");
    }
    warning(
        "data_checksums",
        format!("data checksums are {value:?}: a damaged page goes into base backups unnoticed"),
        "stop the server and run pg_checksums --enable",
    )
}

pub(super) fn settings(row: &Row) -> Vec<Finding> {
    let mut findings = vec![
        wal_level(row.text("wal_level")),
        full_page_writes(row.text("full_page_writes")),
        data_checksums(row.text("data_checksums")),
        // Two more are wanted: the stream and a base backup.
        room("max_wal_senders", row.number("max_wal_senders"), row.number("wal_senders"), 2),
        room("max_replication_slots", row.number("max_replication_slots"), row.number("replication_slots"), 1),
        keep_size(row.number("max_slot_wal_keep_size_mb")),
    ];
    if row.get("wal_sender_timeout") == Some("0") {
        findings.push(warning(
            "wal_sender_timeout",
            "wal_sender_timeout is 0: the server never notices that pitr has vanished",
            "ALTER SYSTEM RESET wal_sender_timeout; SELECT pg_reload_conf()",
        ));
    }
    findings
}

fn room(setting: &str, max: Option<i64>, used: Option<i64>, wanted: i64) -> Finding {
    let (Some(max), Some(used)) = (max, used) else {
        return warning(setting, format!("{setting} could not be read"), "GRANT pg_monitor to the role");
    };
    let message = format!("{used} of {setting}={max} are in use");
    let cure = format!("ALTER SYSTEM SET {setting} = {}, then restart the server", max + wanted.max(1));
    if max == 0 {
        critical(setting, format!("{setting} is 0"), cure)
    } else if max - used < wanted {
        // Ours may be among those in use: only a warning.
        warning(setting, message, cure)
    } else {
        ok(setting, message)
    }
}

fn keep_size(megabytes: Option<i64>) -> Finding {
    match megabytes {
        Some(-1) => warning(
            "max_slot_wal_keep_size",
            "max_slot_wal_keep_size is unlimited: while pitr is away, log can fill the server's disk",
            "ALTER SYSTEM SET max_slot_wal_keep_size to what the disk can spare, e.g. '50GB'; SELECT pg_reload_conf()",
        ),
        Some(megabytes) => {
            ok("max_slot_wal_keep_size", format!("a slot keeps at most {megabytes} MB of log for a pitr that is away"))
        }
        None => warning(
            "max_slot_wal_keep_size",
            "max_slot_wal_keep_size could not be read",
            "GRANT pg_monitor to the role",
        ),
    }
}

/// The server's clock was read somewhere between `before` and `after`.
pub(super) fn clock(before: Timestamp, server_micros: Option<i64>, after: Timestamp) -> Finding {
    let Some(server) = server_micros.map(Timestamp) else {
        return warning("clock", "the server's clock could not be read", "run `pitr check` again");
    };
    let skew = if server < before { server.micros_since(before) } else { server.micros_since(after).max(0) };
    #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
    let seconds = skew as f64 / 1e6;
    if skew.abs() >= SKEW_WARNING_MICROS {
        return warning(
            "clock",
            format!(
                "the server's clock differs from this machine's by {seconds:+.3} s; restore times mean the server's"
            ),
            "synchronise both clocks (chrony, systemd-timesyncd)",
        );
    }
    ok("clock", format!("the clocks agree within {:.3} s", seconds.abs()))
}

pub(super) fn lag(name: &str, row: &Row) -> Finding {
    let Some(state) = row.get("state") else {
        let hidden = !row.0.is_empty();
        let message = if hidden {
            format!("{name:?} streams, but this role may not see how far it is")
        } else {
            format!("no {name:?} in pg_stat_replication: nothing is being archived at this moment")
        };
        let cure = if hidden { "GRANT pg_monitor to the role" } else { "start `pitr archive`" };
        return warning("lag", message, cure);
    };
    let sync = row.get("sync_state").unwrap_or("async");
    match row.number("lag_bytes") {
        Some(bytes) => ok("lag", format!("{name:?} is {state} ({sync}), {bytes} bytes behind")),
        None => ok("lag", format!("{name:?} is {state} ({sync}) and has acknowledged nothing yet")),
    }
}
