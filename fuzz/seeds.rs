//! Writes first inputs that take a program to make: captured messages taken apart, and
//! pitr's own objects around captured bytes.
//!
//!     seeds TARGET DIRECTORY
//!
//! Run from the repository's root by `scripts/fuzz.sh`. It is built as the targets are,
//! whose instrumentation needs libFuzzer's run time, and ends before that would begin.
#![no_main]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use libfuzzer_sys::fuzz_target;
use pitr::base::chunk::{BLOCK_BYTES, Blocks, ChunkHash, digest};
use pitr::base::manifest::{FORMAT_VERSION, File, FileKind, Manifest, Object, Tablespace};
use pitr::base::pack::PackWriter;
use pitr::model::mark::{Mark, MarkKind, TransactionId};
use pitr::model::offset::Offset;
use pitr::model::position::Position;
use pitr::model::summary::Summary;
use pitr::model::time::Timestamp;
use pitr::model::timeline::TimelineId;
use pitr::segment::codec::Compression;
use pitr::segment::format::Header;
use pitr::segment::write::SegmentWriter;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

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
        let header =
            Header { cluster: "main".parse()?, engine: "postgres".into(), timeline: TimelineId(1), start, epoch: 1 };
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
