use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use super::*;
use crate::model::mark::{Mark, MarkKind, TransactionId};
use crate::model::position::Position;
use crate::model::time::Timestamp;
use crate::model::timeline::TimelineId;
use crate::segment::samples;

#[test]
fn offset_and_bytes_follow_what_is_written() {
    let mut writer = SegmentWriter::new(samples::header(0x1000), Compression::Lz4);
    assert_eq!((writer.offset(), writer.raw_bytes()), (Offset(0x1000), 0));
    writer.write(b"twelve bytes");
    assert_eq!((writer.offset(), writer.raw_bytes()), (Offset(0x100C), 12));
}

#[test]
fn refuses_a_summary_of_another_range_and_an_empty_segment() {
    for (start, end) in [(0x1000, 0x100B), (0x1000, 0x100D), (0xFFF, 0x100C)] {
        let mut writer = SegmentWriter::new(samples::header(0x1000), Compression::Lz4);
        writer.write(b"twelve bytes");
        let error = writer.finish(&samples::summary(start, end)).unwrap_err();
        assert!(error.message().contains("does not fit the segment 0000000000001000-000000000000100C"), "{error}");
    }
    let writer = SegmentWriter::new(samples::header(0x1000), Compression::Lz4);
    assert!(writer.finish(&Summary::empty(Offset(0x1000), Offset(0x1000))).unwrap_err().message().contains("is empty"));
}

/// Goal: a log can be read without pitr. Method: three segments one after the other, as
/// `cat` would give them, through the tool every distribution has.
fn stock_tool_reads(tool: &str, compression: Compression) {
    let log = samples::log(900_000, 11);
    let mut archive = Vec::new();
    for (at, raw) in [(0, &log[..400_000]), (400_000, &log[400_000..400_100]), (400_100, &log[400_100..])] {
        archive.extend_from_slice(&samples::segment(at, raw, compression).0);
    }
    let mut child = Command::new(tool)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{tool} cannot be run ({e}): apt-get install {tool}"));
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&archive));
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(out.status.success(), "{tool}: {}", String::from_utf8_lossy(&out.stderr));
    assert!(out.stdout == log, "{tool} gave {} bytes of {}, or others", out.stdout.len(), log.len());
}

#[test]
fn the_stock_lz4_tool_reads_segments() {
    stock_tool_reads("lz4", Compression::Lz4);
}

#[test]
fn the_stock_zstd_tool_reads_segments() {
    stock_tool_reads("zstd", Compression::ZstdFast);
    stock_tool_reads("zstd", Compression::Zstd(3));
}

/// The segment that `docs/format.md` takes apart byte by byte.
fn worked_example() -> Vec<u8> {
    let mut writer = SegmentWriter::new(
        Header { timeline: TimelineId(1), epoch: 1, ..samples::header(0x0300_0000) },
        Compression::Lz4,
    );
    writer.write(&b"every byte of the log, ".repeat(4));
    let mut summary = Summary::empty(Offset(0x0300_0000), Offset(0x0300_0000));
    summary.add(Mark {
        start: Offset(0x0300_0030),
        end: Offset(0x0300_0058),
        kind: MarkKind::Transaction {
            id: TransactionId::Number(741),
            time: Timestamp(1_795_210_117_123_456),
            committed: true,
        },
    });
    summary.range.end = writer.offset();
    summary.boundary = Offset(0x0300_0058);
    summary.confirmed = Some(Timestamp(1_795_210_118_000_000));
    summary.position = Position("0/300005C".into());
    writer.finish(&summary).unwrap().body.concat()
}

#[test]
fn the_worked_example_in_the_documentation_is_true() {
    let mut dump = String::new();
    for (row, bytes) in worked_example().chunks(16).enumerate() {
        let hex: Vec<_> =
            bytes.chunks(2).map(|pair| pair.iter().map(|b| format!("{b:02x}")).collect::<String>()).collect();
        let text: String =
            bytes.iter().map(|b| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '.' }).collect();
        writeln!(dump, "{:08x}: {:39}  {text}", row * 16, hex.join(" ")).unwrap();
    }
    let documentation = include_str!("../../../docs/format.md");
    assert!(documentation.contains(&dump), "docs/format.md should show:\n{dump}");
}
