//! What must be true, told by programs that are not ours: the server's own WAL
//! files, `pg_waldump`, `pg_verifybackup`, `pg_amcheck`, stock `lz4`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::programs::{Version, client, must, tool};
use super::server::{format_lsn, parse_lsn};
use super::{Scratch, Server};

/// Name of the WAL file of `timeline` that holds `offset`.
pub fn wal_file_name(timeline: u32, offset: u64, segment_bytes: u64) -> String {
    let number = offset / segment_bytes;
    let per_id = 0x1_0000_0000 / segment_bytes;
    format!("{timeline:08X}{:08X}{:08X}", number / per_id, number % per_id)
}

/// `(timeline, start)` of the WAL file called `name`; `None` for any other file.
pub fn parse_wal_file_name(name: &str, segment_bytes: u64) -> Option<(u32, u64)> {
    if name.len() != 24 || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let field = |range| u64::from_str_radix(&name[range], 16).ok();
    let number = field(8..16)? * (0x1_0000_0000 / segment_bytes) + field(16..24)?;
    Some((u32::try_from(field(0..8)?).ok()?, number * segment_bytes))
}

/// One segment object of a local store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentFile {
    pub timeline: u32,
    pub start: u64,
    pub end: u64,
    pub path: PathBuf,
}

/// The segments of cluster `main`, by their names alone:
/// `log/<timeline>/<start>-<end>-<epoch>.<codec>`.
pub fn segment_files(cluster_dir: &Path) -> Vec<SegmentFile> {
    let mut files = Vec::new();
    for timeline in std::fs::read_dir(cluster_dir.join("log")).into_iter().flatten().flatten() {
        let name = timeline.file_name().to_string_lossy().into_owned();
        let Ok(number) = u32::from_str_radix(&name, 16) else { continue };
        for entry in std::fs::read_dir(timeline.path()).expect("reading a timeline").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((stem, "lz4" | "zst")) = name.split_once('.') else { continue };
            let fields: Vec<&str> = stem.split('-').collect();
            let [start, end, _epoch] = fields[..] else { panic!("strange segment name: {name}") };
            let offset = |text| u64::from_str_radix(text, 16).unwrap_or_else(|_| panic!("segment name: {name}"));
            files.push(SegmentFile { timeline: number, start: offset(start), end: offset(end), path: entry.path() });
        }
    }
    files.sort();
    files
}

/// The fewest segments that cover `[start, end)` of a timeline, in order. Fails
/// naming the first offset that nothing covers.
#[track_caller]
pub fn covering(segments: &[SegmentFile], timeline: u32, start: u64, end: u64) -> Vec<SegmentFile> {
    let mut chain = Vec::new();
    let mut at = start;
    while at < end {
        let next = segments
            .iter()
            .filter(|s| s.timeline == timeline && s.start == at && s.end <= end)
            .max_by_key(|s| s.end)
            .unwrap_or_else(|| {
                panic!("no segment begins at {} of timeline {timeline}: {segments:#?}", format_lsn(at));
            });
        at = next.end;
        chain.push(next.clone());
    }
    chain
}

/// `cat files | lz4 -dc`.
pub fn cat_lz4(files: &[SegmentFile]) -> Vec<u8> {
    let mut cat = tool("cat").args(files.iter().map(|f| &f.path)).stdout(Stdio::piped()).spawn().expect("starting cat");
    let output = tool("lz4").arg("-dc").stdin(cat.stdout.take().expect("cat's output")).output().expect("running lz4");
    assert!(output.status.success(), "lz4 -dc: {}", String::from_utf8_lossy(&output.stderr));
    assert!(cat.wait().expect("cat").success(), "cat");
    output.stdout
}

/// Compares two byte strings, naming the first place where they differ.
#[track_caller]
pub fn assert_same_bytes(what: &str, ours: &[u8], theirs: &[u8]) {
    if ours == theirs {
        return;
    }
    let at = ours.iter().zip(theirs).position(|(a, b)| a != b).unwrap_or(ours.len().min(theirs.len()));
    panic!("{what}: {} bytes and {} bytes differ from byte {at} (0x{at:x}) on", ours.len(), theirs.len());
}

/// The whole WAL files of `timeline` in `[start, end)`, by name.
pub fn whole_wal_files(timeline: u32, start: u64, end: u64, segment_bytes: u64) -> Vec<String> {
    let first = start.div_ceil(segment_bytes);
    (first..end / segment_bytes).map(|n| wal_file_name(timeline, n * segment_bytes, segment_bytes)).collect()
}

/// Checks that the store's segments, through the stock tools, give every whole WAL
/// file of the server's `timeline` between the archive's beginning and `end`.
/// Gives how many files were compared.
#[track_caller]
pub fn assert_segments_equal_wal(cluster_dir: &Path, server: &Server, timeline: u32, end: u64) -> usize {
    let segments = segment_files(cluster_dir);
    let size = server.wal_segment_bytes();
    let start = segments.iter().filter(|s| s.timeline == timeline).map(|s| s.start).min().expect("a segment");
    let names = whole_wal_files(timeline, start, end, size);
    for name in &names {
        let (_, from) = parse_wal_file_name(name, size).expect("a WAL file name");
        let ours = cat_lz4(&covering(&segments, timeline, from, from + size));
        let theirs = std::fs::read(server.wal_dir().join(name)).unwrap_or_else(|e| panic!("server's {name}: {e}"));
        assert_same_bytes(name, &ours, &theirs);
    }
    names.len()
}

/// Checks that `dir`, filled by `pitr export`, holds every whole WAL file between
/// the archive's beginning and `end`, equal to the server's, and for the last one at
/// least what lies before `end`. Gives how many files were compared.
#[track_caller]
pub fn assert_export_equals_wal(dir: &Path, server: &Server, timeline: u32, start: u64, end: u64) -> usize {
    let size = server.wal_segment_bytes();
    let names = whole_wal_files(timeline, start, end, size);
    for name in &names {
        let ours = std::fs::read(dir.join(name)).unwrap_or_else(|e| panic!("exported {name}: {e}"));
        let theirs = std::fs::read(server.wal_dir().join(name)).unwrap_or_else(|e| panic!("server's {name}: {e}"));
        assert_same_bytes(name, &ours, &theirs);
    }
    if !end.is_multiple_of(size) {
        let name = wal_file_name(timeline, end, size);
        let length = usize::try_from(end % size).expect("a length");
        let ours = [dir.join(&name), dir.join(format!("{name}.partial"))]
            .iter()
            .find_map(|path| std::fs::read(path).ok())
            .unwrap_or_else(|| panic!("neither {name} nor {name}.partial was exported"));
        let theirs = std::fs::read(server.wal_dir().join(&name)).expect("server's last WAL file");
        assert!(ours.len() >= length, "exported {name} ends at {} and not at {length}", ours.len());
        assert_same_bytes(&name, &ours[..length], &theirs[..length]);
    }
    names.len()
}

/// The offset at which the archive of `timeline` begins, by object names: of its
/// segments, and of `tail-<start>-<epoch>` files, the open end of a local store.
#[track_caller]
pub fn archive_start(cluster_dir: &Path, timeline: u32) -> u64 {
    let segments = segment_files(cluster_dir).into_iter().filter(|s| s.timeline == timeline).map(|s| s.start);
    let tails = std::fs::read_dir(cluster_dir.join("log")).into_iter().flatten().flatten();
    let tails = tails
        .filter(|dir| u32::from_str_radix(&dir.file_name().to_string_lossy(), 16) == Ok(timeline))
        .flat_map(|dir| std::fs::read_dir(dir.path()).into_iter().flatten().flatten())
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            u64::from_str_radix(name.strip_prefix("tail-")?.split_once('-')?.0, 16).ok()
        });
    segments.chain(tails).min().unwrap_or_else(|| {
        panic!("nothing of timeline {timeline} in {}", cluster_dir.display());
    })
}

/// The end of a transaction as `pg_waldump` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionEnd {
    /// Where its record begins.
    pub lsn: u64,
    pub xid: u32,
    pub committed: bool,
    /// `2026-11-20 22:01:02.123456+00`: sorts as text, and is what pitr takes.
    pub time: String,
}

/// Every end of a transaction of `timeline` in `[start, end)`, in WAL order.
pub fn transactions(server: &Server, timeline: u32, start: u64, end: u64) -> Vec<TransactionEnd> {
    assert_eq!(server.version(), Version::System, "pg_waldump reads only its own version's WAL");
    let output = client("pg_waldump")
        .env("TZ", "UTC")
        .args([
            "-r",
            "Transaction",
            "-t",
            &timeline.to_string(),
            "-s",
            &format_lsn(start),
            "-e",
            &format_lsn(end),
            "-p",
        ])
        .arg(server.wal_dir())
        .output()
        .expect("running pg_waldump");
    assert!(output.status.success(), "pg_waldump: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().filter_map(parse_waldump).collect()
}

/// Reads `rmgr: Transaction len (rec/tot): 34/34, tx: 745, lsn: 0/1529A88, prev
/// 0/1529A50, desc: COMMIT 2026-11-20 22:01:02.123456 UTC; ...`.
fn parse_waldump(line: &str) -> Option<TransactionEnd> {
    let after = |key: &str| line.split_once(key).map(|(_, rest)| rest);
    let desc = after("desc: ")?;
    let (kind, rest) = desc.split_once(' ')?;
    let (committed, own_xid, rest) = match kind {
        "COMMIT" => (true, None, rest),
        "ABORT" => (false, None, rest),
        "COMMIT_PREPARED" | "ABORT_PREPARED" => {
            let (xid, rest) = rest.split_once(": ")?;
            (kind == "COMMIT_PREPARED", Some(xid), rest)
        }
        _ => return None,
    };
    let time = rest.split_once(" UTC").unwrap_or_else(|| panic!("no time in: {line}")).0;
    let xid = own_xid.or_else(|| after("tx:")?.split_once(',').map(|(xid, _)| xid))?;
    Some(TransactionEnd {
        lsn: parse_lsn(after("lsn: ")?.split_once(',')?.0),
        xid: xid.trim().parse().unwrap_or_else(|_| panic!("no xid in: {line}")),
        committed,
        time: format!("{time}+00"),
    })
}

/// How many of `ends` (in WAL order) PostgreSQL's own rule replays for a target
/// time: it stops before the first whose time is later, or for an exclusive target
/// not earlier.
pub fn replayed_at_time(ends: &[TransactionEnd], time: &str, inclusive: bool) -> usize {
    ends.iter()
        .position(|end| if inclusive { end.time.as_str() > time } else { end.time.as_str() >= time })
        .unwrap_or(ends.len())
}

/// The marker rows' xids in a server.
pub fn marker_xids(server: &Server) -> BTreeSet<u32> {
    let rows = server.sql("select (xid::text::numeric % 4294967296)::bigint from marker order by 1");
    rows.lines().map(|row| row.parse().expect("an xid")).collect()
}

/// The marker rows' xids with the exact times their commits carry, from the
/// server's own commit timestamps.
pub fn marker_commit_times(server: &Server) -> BTreeMap<u32, String> {
    let rows = server.sql(
        "select xmin, to_char(pg_xact_commit_timestamp(xmin) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00'
         from marker",
    );
    rows.lines()
        .map(|row| {
            let (xid, time) = row.split_once('|').expect("two columns");
            (xid.parse().expect("an xid"), time.to_owned())
        })
        .collect()
}

/// The cluster state in `global/pg_control`. The field follows system identifier
/// (8 bytes), control version and catalog version (4 each) in every version 13 to 19
/// (src/include/catalog/pg_control.h); the client program reads only its own.
pub fn cluster_state(data: &Path) -> u32 {
    let bytes = std::fs::read(data.join("global/pg_control")).expect("reading pg_control");
    u32::from_le_bytes(bytes[16..20].try_into().expect("four bytes"))
}

/// `DB_SHUTDOWNED`, the state after a clean shutdown.
pub const SHUT_DOWN: u32 = 1;

/// Checks what every finished restore leaves: a cleanly shut-down directory that
/// wants no more recovery, and nothing beside it.
#[track_caller]
pub fn assert_ready_data_dir(data: &Path) {
    assert_eq!(cluster_state(data), SHUT_DOWN, "{} was not shut down cleanly", data.display());
    for leftover in [
        "recovery.signal",
        "standby.signal",
        "backup_label",
        "backup_label.old",
        "backup_manifest",
        "tablespace_map",
        "tablespace_map.old",
        "postmaster.pid",
    ] {
        assert!(!data.join(leftover).exists(), "{leftover} was left in {}", data.display());
    }
    for ending in [".partial", ".partial.run"] {
        let mut beside = data.as_os_str().to_owned();
        beside.push(ending);
        assert!(!Path::new(&beside).exists(), "{} was left behind", Path::new(&beside).display());
    }
}

/// `pg_verifybackup` on a laid-out base. Its WAL check is off: a base in our store
/// carries none, recovery fetches it.
#[track_caller]
pub fn verify_backup(data: &Path) {
    must(client("pg_verifybackup").arg("--no-parse-wal").arg(data));
}

/// `pg_amcheck` of every database: heap and B-tree structure, with indexes matched
/// against their tables.
#[track_caller]
pub fn amcheck(server: &Server) {
    must(client("pg_amcheck").args([
        "--all",
        "--install-missing",
        "--heapallindexed",
        "--jobs=2",
        "--no-strict-names",
        "--maintenance-db",
        &server.socket_url("postgres"),
    ]));
}

/// Opens a restored directory with a server of its own.
pub fn open_restored(scratch: &Scratch, name: &str, source: &Server, data: &Path) -> Server {
    Server::open(scratch, name, source.version(), data.to_path_buf())
}
