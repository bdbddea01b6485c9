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
use crate::catalog::index::NARROW;
use crate::engine::{Detail, LogFile, ScanStart};
use crate::error::{Error, Kind, Result};
use crate::model::offset::{Offset, OffsetRange};
use crate::model::summary::Summary;
use crate::model::timeline::TimelineId;
use crate::restore::file::{Holding, TimelineFiles};
use crate::segment::cutter::Limits;
use crate::stream::roll_up::{indexed, roll_up};

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
    let length = |from: Offset, to: Offset| usize::try_from(to.since(from)).unwrap_or(usize::MAX);
    let log_file_bytes = archive.identity.log_file_bytes;
    let limits = Limits { log_file_bytes, segment_bytes: settings.stream.segment_bytes, flush_interval_micros: None };
    let mut scanner =
        opened.engine.scanner(&archive.identity, timeline, ScanStart::LogFile(range.start), Detail::Marks);
    let (mut marks, mut boundaries) = (Vec::new(), Vec::new());
    let mut at = range.start;
    while at < range.end {
        let end = limits.end_of(at).min(range.end);
        match scanner.feed(&bytes[length(range.start, at)..length(range.start, end)], &mut marks) {
            // What a promotion left ends somewhere.
            Err(_) if partial => range.end = scanner.boundary(),
            other => other.map_err(|e| e.context(path.display()))?,
        }
        boundaries.push(scanner.boundary());
        at = end;
    }
    let bytes = bytes.slice(..length(range.start, range.end));
    let files = TimelineFiles::list(archive, timeline).await?;
    if is_archived(opened, &files, timeline, range, &bytes).await? {
        return Ok(());
    }
    let (mut start, mut made) = (range.start, 0);
    for boundary in boundaries {
        let piece = OffsetRange::new(start, limits.end_of(start).min(range.end));
        if piece.is_empty() {
            break;
        }
        let raw = bytes.slice(length(range.start, piece.start)..length(range.start, piece.end));
        let mut summary = Summary::empty(start, start);
        marks.iter().filter(|m| piece.start < m.end && m.end <= piece.end).for_each(|m| summary.add(m));
        summary.range = piece;
        summary.boundary = boundary.min(piece.end);
        summary.position = opened.engine.position(piece.end);
        // A file does not tell up to when it is complete: its times may be those of a copy,
        // and what was committed then may be in the next one.
        summary.confirmed = None;
        archive.create_segment(timeline, &raw, &summary, PUSHED, settings.stream.compression).await?;
        (start, made) = (piece.end, made + 1);
    }
    if let Err(error) = index(opened, timeline, &files, made).await {
        // The file is safe; an index only makes planning faster.
        tracing::warn!(%error, "the footers were not rolled up into an index");
    }
    Ok(())
}

/// Rolls footers up when those that no index holds have become enough for another one:
/// `made` more than `files` knows. Where a hole lies in front of them none can be made,
/// and the next try is as many later.
async fn index(opened: &Opened, timeline: TimelineId, files: &TimelineFiles, made: usize) -> Result<()> {
    let before = files.closed_from(indexed(&opened.archive, timeline).await?);
    if (before + made) / NARROW == before / NARROW {
        return Ok(());
    }
    roll_up(&opened.archive, opened.engine.as_ref(), timeline, PUSHED).await
}

/// Whether the archive holds these very bytes already.
async fn is_archived(
    opened: &Opened,
    files: &TimelineFiles,
    timeline: TimelineId,
    range: OffsetRange,
    bytes: &Bytes,
) -> Result<bool> {
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
