//! How a dump is asked for: the statements before it and its command. Pure.
//!
//! Sources: MySQL "Replication Protocol" (`COM_REGISTER_REPLICA`, `COM_BINLOG_DUMP`,
//! `COM_BINLOG_DUMP_GTID`), `sql/rpl_source.cc`; MariaDB `sql/slave.cc`
//! (`get_master_version_and_clock`), `sql/sql_repl.cc`.

use super::super::flavor::Flavor;
use super::super::gtid::{GtidSet, MySqlSet};

/// How often a source says that it is alive and has nothing more.
const HEARTBEAT_NANOS: u64 = 1_000_000_000;

const COM_BINLOG_DUMP: u8 = 0x12;
const COM_REGISTER_SLAVE: u8 = 0x15;
const COM_BINLOG_DUMP_GTID: u8 = 0x1e;

/// MySQL: heartbeats with 64-bit positions (`USE_HEARTBEAT_EVENT_V2`); MariaDB: the statements
/// that rows come from, which are in its files (`BINLOG_SEND_ANNOTATE_ROWS_EVENT`).
const FLAG_WHOLE: u16 = 0x02;

/// Where a dump begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// At a position of a file, which is where an event begins.
    File {
        /// Its name.
        name: String,
        /// In bytes; the command has room for 32 bits only.
        position: u32,
    },
    /// With the first transaction that is none of these.
    Gtids(GtidSet),
}

/// What a replica tells a source of itself before it asks for the log.
#[must_use]
pub fn statements(flavor: Flavor, start: &Start, uuid: &str, semi_sync: bool) -> Vec<String> {
    // Each family knows one of each pair and takes the other for any user variable.
    let mut all = vec![
        format!("SET @master_heartbeat_period = {HEARTBEAT_NANOS}, @source_heartbeat_period = {HEARTBEAT_NANOS}"),
        "SET @master_binlog_checksum = 'CRC32', @source_binlog_checksum = 'CRC32'".to_owned(),
        format!("SET @slave_uuid = '{uuid}', @replica_uuid = '{uuid}'"),
    ];
    if flavor == Flavor::MariaDb {
        all.push("SET @mariadb_slave_capability = 4".to_owned());
        if let Start::Gtids(gtids) = start {
            all.push(format!("SET @slave_connect_state = '{gtids}'"));
            all.push("SET @slave_gtid_strict_mode = 0, @slave_gtid_ignore_duplicates = 0".to_owned());
        }
    }
    if semi_sync {
        all.push("SET @rpl_semi_sync_slave = 1, @rpl_semi_sync_replica = 1".to_owned());
    }
    all
}

/// The command that enters us in the source's list of replicas.
#[must_use]
pub fn register(server_id: u32, host: &str) -> Vec<u8> {
    let host = host.as_bytes().get(..host.len().min(60)).unwrap_or_default();
    let mut packet = vec![COM_REGISTER_SLAVE];
    packet.extend_from_slice(&server_id.to_le_bytes());
    packet.push(host.len() as u8);
    packet.extend_from_slice(host);
    // No user, no password, no port, no rank, and the source's id is its own affair.
    packet.extend_from_slice(&[0; 12]);
    packet
}

/// The command that begins the dump.
#[must_use]
pub fn command(start: &Start, server_id: u32) -> Vec<u8> {
    let mut packet = Vec::new();
    match start {
        Start::Gtids(GtidSet::MySql(gtids)) => {
            packet.push(COM_BINLOG_DUMP_GTID);
            packet.extend_from_slice(&FLAG_WHOLE.to_le_bytes());
            packet.extend_from_slice(&server_id.to_le_bytes());
            // With a name, the source would begin in that file and look at no GTID.
            packet.extend_from_slice(&0_u32.to_le_bytes());
            packet.extend_from_slice(&4_u64.to_le_bytes());
            let set = MySqlSet::encode(gtids);
            packet.extend_from_slice(&u32::try_from(set.len()).unwrap_or(u32::MAX).to_le_bytes());
            packet.extend_from_slice(&set);
        }
        Start::Gtids(GtidSet::MariaDb(_)) => packet.extend(by_position("", 4, server_id)),
        Start::File { name, position } => packet.extend(by_position(name, *position, server_id)),
    }
    packet
}

fn by_position(name: &str, position: u32, server_id: u32) -> Vec<u8> {
    let mut packet = vec![COM_BINLOG_DUMP];
    packet.extend_from_slice(&position.to_le_bytes());
    packet.extend_from_slice(&FLAG_WHOLE.to_le_bytes());
    packet.extend_from_slice(&server_id.to_le_bytes());
    packet.extend_from_slice(name.as_bytes());
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_by_gtid_names_no_file() {
        let gtids = GtidSet::parse_mysql("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5").unwrap();
        let packet = command(&Start::Gtids(gtids), 7);
        assert_eq!(packet[..7], [0x1e, 2, 0, 7, 0, 0, 0]);
        assert_eq!(packet[7..19], [0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(packet.len(), 23 + 8 + 16 + 8 + 16);
    }

    #[test]
    fn mariadb_hears_of_gtids_before_the_dump() {
        let start = Start::Gtids(GtidSet::parse_mariadb("0-1-7,3-1-2").unwrap());
        let statements = statements(Flavor::MariaDb, &start, "u", false);
        assert!(statements.contains(&"SET @slave_connect_state = '0-1-7,3-1-2'".to_owned()));
        assert_eq!(command(&start, 7), [0x12, 4, 0, 0, 0, 2, 0, 7, 0, 0, 0]);
        let start = Start::File { name: "b.01".into(), position: 0x0102_0304 };
        assert_eq!(command(&start, 7), [0x12, 4, 3, 2, 1, 2, 0, 7, 0, 0, 0, b'b', b'.', b'0', b'1']);
    }

    #[test]
    fn a_long_host_name_does_not_break_the_registration() {
        assert_eq!(register(7, &"h".repeat(300)).len(), 1 + 4 + 1 + 60 + 12);
    }
}
