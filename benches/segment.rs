//! How fast segments are written and read: `cargo bench --bench segment -- DIR`, where
//! DIR holds WAL files (`pg_wal` of a server after `pgbench`). One thread; the best of
//! several runs, since other work on the machine only ever makes it slower.

#![expect(clippy::print_stdout, reason = "what it prints is what it is for")]

use std::hint::black_box;
use std::time::{Duration, Instant};
use std::{env, fs};

use bytes::Bytes;
use pitr::model::offset::{Offset, OffsetRange};
use pitr::model::summary::Summary;
use pitr::model::timeline::TimelineId;
use pitr::segment::codec::Compression;
use pitr::segment::format::Header;
use pitr::segment::read::{Expected, decode};
use pitr::segment::write::{Finished, SegmentWriter};

const RUNS: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let dir = dir.ok_or("give a directory of WAL files: cargo bench --bench segment -- DIR")?;
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_file() {
            files.push(fs::read(path)?);
        }
    }
    let bytes: usize = files.iter().map(Vec::len).sum();
    println!("{} files, {} MB, best of {RUNS} runs, one thread", files.len(), bytes / 1_000_000);
    println!("{:>9} {:>10} {:>12} {:>8} {:>12}", "codec", "messages", "write MB/s", "ratio", "read MB/s");
    for compression in [Compression::Lz4, Compression::ZstdFast, Compression::Zstd(1), Compression::Zstd(3)] {
        for message in [128 << 10, 8 << 10, 256] {
            let (mut writing, mut reading) = (Duration::MAX, Duration::MAX);
            let mut stored = 0;
            for _ in 0..RUNS {
                let (mut write, mut read) = (Duration::ZERO, Duration::ZERO);
                stored = 0;
                for file in &files {
                    let begun = Instant::now();
                    let finished = black_box(segment(file, message, compression)?);
                    write += begun.elapsed();
                    stored += finished.stored_bytes;

                    let object = Bytes::from(finished.body.concat());
                    let begun = Instant::now();
                    decode("bench", &expected(file.len())?, &object, &mut |raw| {
                        black_box(raw);
                        Ok(())
                    })?;
                    read += begun.elapsed();
                }
                (writing, reading) = (writing.min(write), reading.min(read));
            }
            let rate = |time: Duration| bytes as f64 / 1e6 / time.as_secs_f64();
            println!(
                "{:>9} {message:>10} {:>12.0} {:>8.2} {:>12.0}",
                compression.to_string(),
                rate(writing),
                bytes as f64 / stored as f64,
                rate(reading)
            );
        }
    }
    Ok(())
}

fn segment(raw: &[u8], message: usize, compression: Compression) -> pitr::Result<Finished> {
    let header = Header {
        cluster: "bench".parse()?,
        engine: "postgres".into(),
        timeline: TimelineId(1),
        start: Offset::ZERO,
        epoch: 1,
    };
    let mut writer = SegmentWriter::new(header, compression);
    for slice in raw.chunks(message) {
        writer.write(slice);
    }
    let mut summary = Summary::empty(Offset::ZERO, Offset::ZERO);
    summary.range.end = writer.offset();
    writer.finish(&summary)
}

fn expected(len: usize) -> pitr::Result<Expected> {
    Ok(Expected {
        cluster: "bench".parse()?,
        timeline: TimelineId(1),
        range: OffsetRange::new(Offset::ZERO, Offset(len as u64)),
        epoch: 1,
    })
}
