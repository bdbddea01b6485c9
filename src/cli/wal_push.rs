//! `pitr wal-push`: one log file from an `archive_command`.
//!
//! For sites that archive by `archive_command`, beside or instead of streaming. What is
//! archived already with the same bytes is success; with other bytes it is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytes::Bytes;

use super::Opened;
use super::settings::Settings;
use crate::catalog::Holder;
use crate::engine::{Detail, LogFile, ScanStart};
use crate::error::{Error, Kind, Result};
use crate::model::offset::{Offset, OffsetRange};
use crate::model::summary::Summary;
use crate::model::timeline::TimelineId;
use crate::restore::file::{Holding, TimelineFiles};
use crate::segment::cutter::Limits;

/// Epoch of segments made by `archive_command`: no archiver holds it, so a push never
/// fences one, and whatever an archiver made of the same range is preferred.
const PUSHED: u32 = 0;

/// The ending PostgreSQL gives the last file of a timeline that a promotion left.
const PARTIAL: &str = ".partial";

/// Options of `pitr wal-push`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file: %p
    path: PathBuf,
}

/// Stores a log file or history.
pub(super) async fn run(settings: &Settings, args: &Args) -> Result<ExitCode> {
    let opened = Opened::open(settings).await?;
    let files = opened.engine.log_files(&opened.archive.identity);
    let name = args.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let bytes = fs::read(&args.path).map_err(|e| Error::io("read", &args.path, e))?;
    let whole_name = name.strip_suffix(PARTIAL).unwrap_or(name);
    match files.parse(whole_name) {
        Some(LogFile::Log { timeline, range }) => {
            if bytes.len() as u64 != range.len() {
                return Err(Error::corruption(format!(
                    "{} has {} bytes where the archive's log files have {}",
                    args.path.display(),
                    bytes.len(),
                    range.len()
                )));
            }
            let partial = name != whole_name;
            push(settings, &opened, timeline, range, Bytes::from(bytes), partial, &args.path).await?;
        }
        Some(LogFile::History(timeline)) => {
            let text = String::from_utf8(bytes)
                .map_err(|e| Error::corruption(format!("{} is not text", args.path.display())).because(e))?;
            let history = files.parse_history(timeline, &text)?;
            opened.archive.keep_history(&history).await?;
        }
        // A backup's own note: our bases know more.
        Some(LogFile::Other) => {}
        None => {
            return Err(Error::usage(format!("{name:?} is not the name of a log file"))
                .hint("use it as archive_command = 'pitr wal-push \"%p\"'"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn push(
    settings: &Settings,
    opened: &Opened,
    timeline: TimelineId,
    range: OffsetRange,
    bytes: Bytes,
    partial: bool,
    path: &Path,
) -> Result<()> {
    let archive = &opened.archive;
    let mut range = range;
    // Every whole file begins with the identity of its system.
    if let Some(system) = opened.engine.log_files(&archive.identity).system(&bytes)
        && system != archive.identity.system
    {
        return Err(Error::config(format!(
            "{} is log of system identifier {system}, but the archive is of {}",
            path.display(),
            archive.identity.system
        ))
        .hint("does another server's archive_command point here? give it a --cluster of its own"));
    }
    let mut scanner =
        opened.engine.scanner(&archive.identity, timeline, ScanStart::LogFile(range.start), Detail::Marks);
    let mut marks = Vec::new();
    match scanner.feed(&bytes, &mut marks) {
        Err(_) if partial => range.end = scanner.boundary(),
        other => other.map_err(|e| e.context(path.display()))?,
    }
    let length = |range: OffsetRange| usize::try_from(range.len()).unwrap_or(usize::MAX);
    let bytes = bytes.slice(..length(range));
    if is_archived(opened, timeline, range, &bytes).await? {
        return Ok(());
    }
    let log_file_bytes = archive.identity.log_file_bytes;
    let limits = Limits { log_file_bytes, segment_bytes: settings.stream.segment_bytes, flush_interval_micros: None };
    let mut start = range.start;
    while start < range.end {
        let piece = OffsetRange::new(start, limits.end_of(start).min(range.end));
        let from = length(OffsetRange::new(range.start, start));
        let raw = bytes.slice(from..from + length(piece));
        let mut summary = Summary::empty(start, start);
        marks.iter().filter(|m| piece.start < m.end && m.end <= piece.end).for_each(|m| summary.add(m));
        summary.range = piece;
        summary.boundary = boundary(opened, timeline, range.start, piece.end, &bytes);
        summary.position = opened.engine.position(piece.end);
        // A file does not tell up to when it is complete: its times may be those of a copy,
        // and what was committed then may be in the next one.
        summary.confirmed = None;
        archive.create_segment(timeline, &raw, &summary, PUSHED, settings.stream.compression).await?;
        start = piece.end;
    }
    Ok(())
}

/// Where the last whole record at or before `end` ends.
fn boundary(opened: &Opened, timeline: TimelineId, start: Offset, end: Offset, bytes: &Bytes) -> Offset {
    let mut scanner =
        opened.engine.scanner(&opened.archive.identity, timeline, ScanStart::LogFile(start), Detail::Marks);
    let upto = usize::try_from(end.since(start)).unwrap_or(usize::MAX).min(bytes.len());
    // The whole file was read without fault before.
    let _ = scanner.feed(&bytes[..upto], &mut Vec::new());
    scanner.boundary()
}

/// Whether the archive holds these very bytes already.
async fn is_archived(opened: &Opened, timeline: TimelineId, range: OffsetRange, bytes: &Bytes) -> Result<bool> {
    let files = TimelineFiles::list(&opened.archive, timeline).await?;
    let (Holding::Whole(parts) | Holding::Beginning(parts)) = files.holding(range) else { return Ok(false) };
    let mut covered = range.start;
    // What a tail holds is not in a segment yet.
    for part in parts.iter().take_while(|part| part.holder != Holder::Tail) {
        let Some(both) = range.intersection(part.range) else { continue };
        let old = opened.archive.raw(timeline, part).await?;
        let at = |offset: Offset, from: Offset| usize::try_from(offset.since(from)).unwrap_or(usize::MAX);
        let old = old.slice(at(both.start, part.range.start)..at(both.end, part.range.start));
        if old != bytes.slice(at(both.start, range.start)..at(both.end, range.start)) {
            let name = opened.archive.object_of(timeline, part);
            return Err(Error::new(Kind::Fenced, format!("{name} holds other bytes than the file pushed now"))
                .hint("do two servers archive into one place? was a standby promoted without a new timeline?"));
        }
        covered = both.end;
    }
    Ok(covered >= range.end)
}
