//! Writes first inputs that take a program to make: captured messages taken apart, and
//! pitr's own objects around captured bytes.
//!
//!     seeds TARGET DIRECTORY
//!
//! Run from the repository's root by `scripts/fuzz.sh`. It is built as the targets are,
//! whose instrumentation needs libFuzzer's run time, and ends before that would begin.
#![no_main]

mod events;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use events::events;
use libfuzzer_sys::fuzz_target;
use pitr::base::chunk::{BLOCK_BYTES, Blocks, ChunkHash, digest};
use pitr::base::manifest::{FORMAT_VERSION, File, FileKind, Manifest, Object, Tablespace};
use pitr::base::pack::PackWriter;
use pitr::engine::mysql::binlog::BinlogScanner;
use pitr::engine::mysql::binlog::event::{
    self, CHECKSUM_BYTES, FLAG_ARTIFICIAL, HEADER_BYTES, Header, MAGIC, begins_group, kind,
};
use pitr::engine::mysql::connect::packet::{self, Unframer};
use pitr::engine::mysql::flavor::Flavor;
use pitr::engine::mysql::gtid::GtidSet;
use pitr::engine::mysql::place::Place;
use pitr::engine::mysql::source::intake::{Intake, Taken};
use pitr::engine::{Detail, Scanner as _};
use pitr::model::mark::{Mark, MarkKind, TransactionId};
use pitr::model::offset::Offset;
use pitr::model::position::Position;
use pitr::model::summary::Summary;
use pitr::model::time::Timestamp;
use pitr::model::timeline::TimelineId;
use pitr::segment::codec::Compression;
use pitr::segment::format;
use pitr::segment::write::SegmentWriter;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Longer inputs do not mutate well.
const SEED_BYTES_MAX: usize = 64 << 10;

const WIRE: &str = "proto-fixtures/postgres/15/wire";

fuzz_target!(init: run(), |_data: &[u8]| {});

fn run() {
    let failed = seeds().inspect_err(|error| eprintln!("error: {error}")).is_err();
    std::process::exit(i32::from(failed));
}

fn seeds() -> Result<()> {
    let mut args = env::args().skip(1);
    let (Some(target), Some(directory)) = (args.next(), args.next()) else {
        return Err("seeds TARGET DIRECTORY".into());
    };
    let to = PathBuf::from(directory);
    match target.as_str() {
        "wire" => write(&to, messages()?),
        "replication" => write(&to, copy_data()?.into_iter().filter(|(name, _)| !name.starts_with("base_backup"))),
        "server_tar" => write(&to, [("tar".to_owned(), after_a_cut(archive("base_backup_begins")?))]),
        "server_lz4" => write(&to, [("frame".to_owned(), after_a_cut(archive("base_backup_compressed")?))]),
        "segment" => write(&to, segments()?),
        "pack" => write(&to, packs()?),
        "base_manifest" => write(&to, manifests()?),
        "binlog" => write(&to, archived()?),
        "binlog_rows" => write(&to, counted()?),
        "binlog_fold" => write(&to, to_fold()?),
        "gtid_event" => write(&to, names()?),
        "gtid_set" => write(&to, sets()?),
        "mbstream" => write(&to, [("sparse".to_owned(), sparse())]),
        "mysql_packets" => write(&to, dumps()?),
        _ => Ok(()),
    }
}

fn write(to: &Path, seeds: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<()> {
    for (name, bytes) in seeds {
        fs::write(to.join(format!("seed-{name}")), bytes)?;
    }
    Ok(())
}

/// The first byte tells these targets how to cut the rest.
fn after_a_cut(bytes: Vec<u8>) -> Vec<u8> {
    [b"A".as_slice(), &bytes].concat()
}

/// What servers sent, message by message.
fn messages() -> Result<Vec<(String, Vec<u8>)>> {
    let mut messages = Vec::new();
    for case in fs::read_dir(WIRE)?.collect::<std::io::Result<Vec<_>>>()? {
        let Ok(bytes) = fs::read(case.path().join("server.bin")) else { continue };
        let mut rest = bytes.as_slice();
        for number in 0.. {
            let Some(length) = rest.get(1..5) else { break };
            let total = 1 + u32::from_be_bytes(length.try_into()?) as usize;
            let (message, next) = rest.split_at_checked(total).ok_or("a captured message is cut off")?;
            messages.push((format!("{}-{number:03}", case.file_name().display()), message.to_vec()));
            rest = next;
        }
    }
    Ok(messages)
}

/// What lies in their `CopyData`.
fn copy_data() -> Result<Vec<(String, Vec<u8>)>> {
    let copies = messages()?.into_iter().filter(|(_, message)| message[0] == b'd');
    Ok(copies.map(|(name, message)| (name, message[5..].to_vec())).collect())
}

/// The first bytes of a base backup's archive, as the server sent them.
fn archive(case: &str) -> Result<Vec<u8>> {
    let pieces = copy_data()?.into_iter().filter(|(name, data)| name.starts_with(case) && data[0] == b'd');
    Ok(pieces.flat_map(|(_, data)| data[1..].to_vec()).collect())
}

/// A page's worth of a server's log.
fn log() -> Result<Vec<u8>> {
    let records = copy_data()?.into_iter().filter(|(name, data)| !name.starts_with("base_backup") && data[0] == b'w');
    let mut log: Vec<u8> = records.flat_map(|(_, data)| data[25..].to_vec()).collect();
    log.resize(0x1000, 0);
    Ok(log)
}

/// The range, cluster, timeline and epoch are those the target expects.
fn segments() -> Result<Vec<(String, Vec<u8>)>> {
    let (start, log) = (Offset(0x100_0000), log()?);
    let end = Offset(start.0 + log.len() as u64);
    let mut busy = Summary::empty(start, start);
    let time = Timestamp(1_763_675_317_123_456);
    let kinds = [
        MarkKind::Transaction { id: TransactionId::Number(741), time, committed: true },
        MarkKind::RestorePoint { name: "before the migration".into(), time },
        MarkKind::Transaction { id: TransactionId::Text("0-1-42".into()), time, committed: false },
    ];
    for kind in kinds {
        busy.add(&Mark { start, end, kind });
    }
    busy.confirmed = Some(time);
    busy.position = Position("0/1001000".into());
    let mut idle = Summary::empty(start, start);
    (busy.range.end, idle.range.end) = (end, end);
    let mut segments = Vec::new();
    for (name, compression, summary) in
        [("lz4", Compression::Lz4, &busy), ("zstd", Compression::Zstd(3), &busy), ("idle", Compression::Lz4, &idle)]
    {
        let header = format::Header {
            cluster: "main".parse()?,
            engine: "postgres".into(),
            timeline: TimelineId(1),
            start,
            epoch: 1,
        };
        let mut writer = SegmentWriter::new(header, compression);
        writer.write(&log);
        segments.push((name.to_owned(), writer.finish(summary)?.body.concat()));
    }
    Ok(segments)
}

/// A whole chunk, one with a changed block, one that does not compress; and each entry.
fn packs() -> Result<Vec<(String, Vec<u8>)>> {
    let mut old = archive("base_backup_begins")?;
    old.truncate(3 * BLOCK_BYTES + 100);
    let mut new = old.clone();
    new[BLOCK_BYTES + 7] ^= 1;
    let noise: Vec<u8> = (0..8_u8).flat_map(|n| ChunkHash::of(&[n]).0).collect();

    let mut writer = PackWriter::new(Vec::new());
    let (mut old_blocks, mut blocks) = (Vec::new(), Vec::new());
    let old_hash = digest(&old, &mut old_blocks);
    let mut extents = vec![writer.add_whole(&old, &old_hash, &old_blocks)];
    let hash = digest(&new, &mut blocks);
    let changed = Blocks::changed(&old_blocks, &blocks);
    let mut gathered = Vec::new();
    changed.gather(&new, &mut gathered);
    extents.push(writer.add_delta(new.len(), &hash, &old_hash, changed, &gathered));
    let hash = digest(&noise, &mut blocks);
    extents.push(writer.add_whole(&noise, &hash, &blocks));
    let (_, pack) = writer.finish(Vec::new());

    let entry = |offset: u32, len: u32| pack[offset as usize..][..len as usize].to_vec();
    let mut seeds: Vec<_> =
        (0..).zip(&extents).map(|(n, at)| (format!("entry-{n}"), entry(at.offset, at.len))).collect();
    let footer = extents.last().map_or(0, |last| (last.offset + last.len) as usize);
    seeds.push(("footer".to_owned(), pack[footer..].to_vec()));
    seeds.push(("pack".to_owned(), pack));
    Ok(seeds)
}

fn manifests() -> Result<Vec<(String, Vec<u8>)>> {
    let object = |bytes: u64| Object { hash: ChunkHash::of(&bytes.to_le_bytes()), bytes };
    let file = |path: &str, kind| File { path: path.into(), mode: 0o600, mtime: 1_763_675_317, kind };
    let mut manifest = Manifest {
        format_version: FORMAT_VERSION,
        id: "20261121T105507Z-ab12".into(),
        cluster: "main".parse()?,
        engine: "postgres".into(),
        system: "7575000000000000000".into(),
        server_version: 15,
        encryption: None,
        label: "a label".into(),
        timeline: TimelineId(1),
        start: Offset(0x130_0028),
        end: Offset(0x130_0100),
        began: Timestamp(1_763_675_317_000_000),
        ended: Timestamp(1_763_675_318_000_000),
        bytes: 3 << 20,
        stored_bytes: 1 << 20,
        file_count: 3,
        tablespaces: vec![Tablespace { link: "pg_tblspc/16400".into(), target: "/srv/fast".into() }],
        table: object(264),
        packs: vec![object(1 << 20), object(4096)],
        files: vec![
            file("base", FileKind::Dir),
            file("base/1", FileKind::Dir),
            file("base/1/1259", FileKind::File { size: (2 << 20) + 8192, first_chunk: 0 }),
            file("empty", FileKind::File { size: 0, first_chunk: 3 }),
            file("link", FileKind::Symlink { target: "base".into() }),
            file("pg_tblspc", FileKind::Dir),
            file("pg_tblspc/16400/PG_15", FileKind::Dir),
            file("pg_tblspc/16400/PG_15/16401", FileKind::File { size: 8192, first_chunk: 3 }),
        ],
    };
    let full = manifest.encode()?;
    Manifest::decode("seed", &full)?;
    (manifest.files, manifest.tablespaces, manifest.packs) = (Vec::new(), Vec::new(), Vec::new());
    Ok(vec![("full".to_owned(), full), ("bare".to_owned(), manifest.encode()?)])
}

/// Files of MySQL's and MariaDB's fixtures that are named so, unpacked; each with its path.
fn captured(name: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let (mut captured, mut left) = (Vec::new(), vec!["proto-fixtures/mysql".into(), "proto-fixtures/mariadb".into()]);
    while let Some(path) = left.pop() {
        let path: PathBuf = path;
        if path.is_dir() {
            left.extend(fs::read_dir(path)?.collect::<std::io::Result<Vec<_>>>()?.iter().map(fs::DirEntry::path));
        } else if path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name)) {
            let bytes = fs::read(&path)?;
            let packed = path.extension().is_some_and(|extension| extension == "zst");
            let bytes = if packed { zstd::decode_all(&bytes[..])? } else { bytes };
            captured.push((path.display().to_string().replace('/', "-"), bytes));
        }
    }
    Ok(captured)
}

/// The first whole events of each binlog, and whether they carry checksums. An encrypted file is
/// left out, for no server sends it so.
fn binlogs() -> Result<Vec<(String, bool, Vec<Vec<u8>>)>> {
    let mut logs = Vec::new();
    for (name, file) in captured("binlog")?.into_iter().filter(|(name, _)| !name.contains("on-disk")) {
        // What is written of a log beside it does not begin as one.
        let Some(log) = file.strip_prefix(&MAGIC) else { continue };
        let (events, _) = events(&log[..log.len().min(SEED_BYTES_MAX)]);
        let events: Vec<Vec<u8>> = events.into_iter().map(<[u8]>::to_vec).collect();
        let checksums = event::checksums(events.first().ok_or("a captured log is empty")?)?;
        logs.push((name, checksums, events));
    }
    Ok(logs)
}

/// Of each event of a binlog behind the first, its type and what is between header and checksum.
fn contents(checksums: bool, events: &[Vec<u8>]) -> impl Iterator<Item = (u8, &[u8])> {
    let tail = if checksums { CHECKSUM_BYTES } else { 0 };
    events.iter().skip(1).map(move |event| (event[4], &event[HEADER_BYTES..event.len() - tail]))
}

/// Content as that target frames it.
fn counted() -> Result<Vec<(String, Vec<u8>)>> {
    let framed = |(kind, content): (u8, &[u8])| {
        let length = u16::try_from(content.len()).ok()?.to_le_bytes();
        Some([&[kind], &length[..], content].concat())
    };
    let seed = |(name, checksums, events): (_, bool, Vec<Vec<u8>>)| {
        (name, after_a_cut(contents(checksums, &events).filter_map(framed).flatten().collect()))
    };
    Ok(binlogs()?.into_iter().map(seed).collect())
}

/// The first byte tells whether there are checksums, and then how to cut. One is longer than what is
/// folded into one.
fn to_fold() -> Result<Vec<(String, Vec<u8>)>> {
    let mut seeds = Vec::new();
    for (name, checksums, events) in binlogs()?.into_iter().filter(|(name, ..)| name.contains("mariadb")) {
        let (how, log) = ([8 | u8::from(checksums)], events[1..].concat());
        if name.contains("rotated_by_size") {
            seeds.push((format!("{name}-often"), [&how[..], &log.repeat(100 * 1024 / log.len())].concat()));
        }
        seeds.push((name, [&how[..], &log].concat()));
    }
    Ok(seeds)
}

/// The events that name transactions, one of each length of a log.
fn names() -> Result<Vec<(String, Vec<u8>)>> {
    let mut names = BTreeMap::new();
    for (name, checksums, events) in binlogs()? {
        for (kind, content) in contents(checksums, &events).filter(|(kind, _)| begins_group(*kind)) {
            names.insert(format!("{name}-{kind}-{}", content.len()), [&[kind], content].concat());
        }
    }
    Ok(names.into_iter().collect())
}

/// The events that list them.
fn sets() -> Result<Vec<(String, Vec<u8>)>> {
    let mut sets = Vec::new();
    for (name, checksums, events) in binlogs()? {
        let lists =
            contents(checksums, &events).filter(|(of, _)| matches!(*of, kind::PREVIOUS_GTIDS | kind::GTID_LIST));
        sets.extend(lists.map(|(_, content)| (name.clone(), content.to_vec())));
    }
    Ok(sets)
}

/// Dumps as sources sent them, and as they would send the captured binlogs.
fn dumps() -> Result<Vec<(String, Vec<u8>)>> {
    let mut dumps = Vec::new();
    for (name, server) in captured("server.bin")? {
        // The first packet that answers a command and holds an event, or the last error.
        let (mut at, mut dump) = (0, None);
        while let Some(&[a, b, c, sequence]) = server.get(at..).and_then(|rest| rest.first_chunk()) {
            let packet = &server[at..];
            match packet.get(4..) {
                Some([0, header @ ..]) if sequence == 1 && header.len() > HEADER_BYTES && header[4] == kind::ROTATE => {
                    dump = Some(packet);
                    break;
                }
                Some([0xff, ..]) if sequence == 1 => dump = Some(packet),
                _ => {}
            }
            at += 4 + u32::from_le_bytes([a, b, c, 0]) as usize;
        }
        dumps.extend(dump.map(|dump| (name, dump[..dump.len().min(SEED_BYTES_MAX)].to_vec())));
    }
    for (name, checksums, events) in binlogs()? {
        let mut rotate =
            [&[0; HEADER_BYTES][..], &4_u64.to_le_bytes(), b"binlog.000001", &[0; CHECKSUM_BYTES]].concat();
        rotate.truncate(rotate.len() - if checksums { 0 } else { CHECKSUM_BYTES });
        let length = rotate.len() as u32;
        let header =
            Header { timestamp: 0, kind: kind::ROTATE, server_id: 1, length, log_pos: 0, flags: FLAG_ARTIFICIAL };
        rotate[..HEADER_BYTES].copy_from_slice(&header.encode());
        if checksums {
            event::seal(&mut rotate);
        }
        let (mut wire, mut sequence) = (Vec::new(), 1);
        for event in [rotate].iter().chain(&events) {
            let mut event = event.clone();
            if event[4] == kind::FORMAT_DESCRIPTION {
                // A server does not tell that the file is in use.
                event[17] &= 0xfe;
            }
            sequence = packet::frame(&mut wire, sequence, &[&[0], &event[..]].concat());
        }
        dumps.push((name, wire));
    }
    Ok(dumps)
}

/// What the archive keeps of those dumps.
fn archived() -> Result<Vec<(String, Vec<u8>)>> {
    let mut logs = Vec::new();
    for (name, dump) in dumps()? {
        let flavor = if name.contains("mariadb") { Flavor::MariaDb } else { Flavor::MySql };
        let gtids = GtidSet::empty(flavor);
        let place = Place { gtids, server: "s".into(), file: "b".into(), position: 4, after: None, holding: 0 };
        let mut intake = Intake::new(flavor, "s", Offset(1), place);
        intake.set_now(Timestamp(1_795_290_883_123_456));
        let (mut unframer, mut input) = (Unframer::new(1), &dump[..]);
        while let Ok(Some(piece)) = unframer.next(&mut input) {
            if intake.take(piece).is_err() {
                break;
            }
        }
        intake.flush();
        let mut log = Vec::new();
        while let Some(taken) = intake.pop() {
            if let Taken::Log { bytes, .. } = taken {
                log.extend_from_slice(&bytes);
            }
        }
        let mut marks = Vec::new();
        BinlogScanner::new(flavor, Offset(1), Detail::Marks).feed(&log, &mut marks)?;
        if !marks.is_empty() {
            logs.push((name, log));
        }
    }
    Ok(logs)
}

/// A file with holes, and a chunk that may be passed over: MariaDB's backup has none.
fn sparse() -> Vec<u8> {
    let head = |flags: u8, kind: u8, path: &str| {
        [b"XBSTCK01", &[flags, kind][..], &(path.len() as u32).to_le_bytes(), path.as_bytes()].concat()
    };
    let numbers = |offset: u64, content: &[u8]| {
        let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, content) as u32;
        [&offset.to_le_bytes()[..], &sum.to_le_bytes(), content].concat()
    };
    // Bytes to skip and bytes of content, twice.
    let entries = [3_u32, 2, 4096, 1].map(u32::to_le_bytes).concat();
    let content = [&entries, &b"xyz"[..]].concat();
    let chunks = [
        [head(0, b'P', "b/t.ibd"), 7_u64.to_le_bytes().into(), numbers(0, b"content")],
        [head(0, b'S', "b/t.ibd"), [&2_u32.to_le_bytes()[..], &3_u64.to_le_bytes()].concat(), numbers(7, &content)],
        [head(1, b'?', "a"), 6_u64.to_le_bytes().into(), numbers(0, b"passed")],
        [head(0, b'E', "b/t.ibd"), Vec::new(), Vec::new()],
    ];
    after_a_cut(chunks.concat().concat())
}
