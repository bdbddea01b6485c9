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
use crate::catalog::archive::Archive;
use crate::catalog::index::NARROW;
use crate::engine::{Detail, LogFile, ScanStart, Scanner};
use crate::error::{Error, Kind, Result};
use crate::model::offset::OffsetRange;
use crate::model::summary::Summary;
use crate::model::timeline::TimelineId;
use crate::restore::file::{Holding, TimelineFiles, holds_log};
use crate::segment::cutter::Limits;
use crate::stream::roll_up::RollUp;

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
    let opened = Opened::at(settings.one_store()?, settings).await?;
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
    if archive.sealed.is_some() {
        return Err(Error::config("wal-push does not write to an encrypted archive").hint(
            "each call would make a data key of its own, and could not read what the one before it wrote: run `pitr archive`",
        ));
    }
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
    let files = TimelineFiles::list(archive, opened.engine.as_ref(), timeline).await?;
    refuse_unknown(archive, &files, timeline, path).await?;
    let log_file_bytes = archive.identity.log_file_bytes;
    let limits = Limits { log_file_bytes, segment_bytes: settings.stream.segment_bytes, flush_interval_micros: None };
    let mut scanner =
        opened.engine.scanner(&archive.identity, timeline, ScanStart::LogFile(range.start), Detail::Changes);
    let segments = cut(scanner.as_mut(), range, &bytes, &limits, partial).map_err(|e| e.context(path.display()))?;
    let Some(range) = segments.last().map(|last| OffsetRange::new(range.start, last.range.end)) else { return Ok(()) };
    if is_archived(opened, &files, timeline, range, &bytes).await? {
        return Ok(());
    }
    for mut summary in segments {
        let raw = bytes.slice(summary.range.within(range.start));
        summary.position = opened.engine.position(summary.range.end);
        archive
            .create_segment(timeline, &raw, &summary, PUSHED, settings.stream.compression_for(opened.engine.as_ref()))
            .await?;
    }
    if let Err(error) = index(opened, timeline, range).await {
        // The file is safe; an index only makes planning faster.
        tracing::warn!(%error, "the footers were not rolled up into an index");
    }
    Ok(())
}

/// A server pushes the history of a timeline before its log. One that does not was opened on
/// a restored copy, perhaps only to look at: its log must not become that of the source.
async fn refuse_unknown(archive: &Archive, files: &TimelineFiles, timeline: TimelineId, path: &Path) -> Result<()> {
    let known = files.holds_segments() || archive.history(timeline).await?.is_some();
    if known || timeline == TimelineId(1) || !holds_log(archive).await? {
        return Ok(());
    }
    let name = format!("{timeline}.history");
    Err(Error::config(format!(
        "the archive knows nothing of timeline {timeline}, to which {} belongs, and holds log of others",
        path.display()
    ))
    .hint(format!(
        "is this a server on a restored copy? switch its archiving off, or give it an archive of its own; if it \
         takes the source's place, push its history first: pitr wal-push {}",
        path.with_file_name(name).display()
    )))
}

/// Cuts the log file of `range` into segments. A partial file, which a promotion left, ends
/// with its last whole record. No segment says up to when the log is complete: a file's
/// times may be those of a copy, and what was committed then may be in the next one.
fn cut(
    scanner: &mut dyn Scanner,
    range: OffsetRange,
    bytes: &[u8],
    limits: &Limits,
    partial: bool,
) -> Result<Vec<Summary>> {
    let (mut segments, mut marks) = (Vec::new(), Vec::new());
    let (mut at, mut end) = (range.start, range.end);
    while at < end {
        let mut summary = Summary::empty(at, at);
        summary.range.end = limits.end_of(at).min(end);
        match scanner.feed(&bytes[summary.range.within(range.start)], &mut marks) {
            Err(_) if partial => end = scanner.boundary(),
            fed => fed?,
        }
        summary.boundary = scanner.boundary();
        marks.drain(..).for_each(|mark| summary.add(mark));
        summary.changes = scanner.take_changes();
        at = summary.range.end;
        segments.push(summary);
    }
    // The record that broke off may have begun in an earlier segment.
    segments.retain(|segment| segment.range.start < end);
    if let Some(last) = segments.last_mut() {
        last.range.end = last.range.end.min(end);
    }
    Ok(segments)
}

/// Rolls footers up, after as many files as are worth it: it asks more of the store than storing a file does.
async fn index(opened: &Opened, timeline: TimelineId, range: OffsetRange) -> Result<()> {
    let every = opened.archive.identity.log_file_bytes.saturating_mul(NARROW as u64);
    if range.start.0 / every == range.end.0 / every {
        return Ok(());
    }
    RollUp::default().go_on(&opened.archive, timeline, PUSHED, &[]).await
}

/// Whether the archive holds these very bytes already, and sound.
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
        let old = match opened.archive.raw(timeline, part).await {
            // Under the same name nothing can be stored: that one a person must move away.
            Err(error) if error.kind() == Kind::Corruption && part.epoch != PUSHED => {
                // The file in hand is what it should hold.
                tracing::error!(%error, hint = error.advice(), "what is archived of this file is damaged: it is stored again");
                return Ok(false);
            }
            old => old?,
        };
        if old[both.within(part.range.start)] != bytes[both.within(range.start)] {
            let name = opened.archive.object_of(timeline, part);
            return Err(Error::new(Kind::Fenced, format!("{name} holds other bytes than the file pushed now"))
                .hint("do two servers archive into one place? was a standby promoted without a new timeline?"));
        }
        covered = both.end;
    }
    Ok(covered >= range.end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::mark::Mark;
    use crate::model::offset::Offset;

    /// Records of ten bytes, of which the one with a zero is not sound.
    struct Tens(Vec<u8>);

    impl Scanner for Tens {
        fn feed(&mut self, bytes: &[u8], _: &mut Vec<Mark>) -> Result<()> {
            for byte in bytes {
                if *byte == 0 {
                    return Err(Error::corruption("zero"));
                }
                self.0.push(*byte);
            }
            Ok(())
        }

        fn boundary(&self) -> Offset {
            Offset(self.0.len() as u64 / 10 * 10)
        }

        fn offset(&self) -> Offset {
            Offset(self.0.len() as u64)
        }
    }

    fn cut_tens(bytes: &[u8], partial: bool) -> Result<Vec<(u64, u64, u64)>> {
        let limits = Limits { log_file_bytes: 128, segment_bytes: 32, flush_interval_micros: None };
        let range = OffsetRange::new(Offset(0), Offset(bytes.len() as u64));
        let segments = cut(&mut Tens(Vec::new()), range, bytes, &limits, partial)?;
        Ok(segments.iter().map(|s| (s.range.start.0, s.range.end.0, s.boundary.0)).collect())
    }

    #[test]
    fn each_segment_knows_where_its_last_whole_record_ends() {
        let segments = cut_tens(&[1; 128], false).unwrap();
        assert_eq!(segments, [(0, 32, 30), (32, 64, 60), (64, 96, 90), (96, 128, 120)]);
    }

    #[test]
    fn a_partial_file_ends_with_its_last_whole_record() {
        let broken_at = |at: usize| {
            let mut bytes = [1; 128];
            bytes[at..].fill(0);
            bytes
        };
        assert_eq!(cut_tens(&broken_at(75), true).unwrap(), [(0, 32, 30), (32, 64, 60), (64, 70, 70)]);
        // In a record that begins in the segment before, and at the very start of a record.
        assert_eq!(cut_tens(&broken_at(67), true).unwrap(), [(0, 32, 30), (32, 60, 60)]);
        assert_eq!(cut_tens(&broken_at(40), true).unwrap(), [(0, 32, 30), (32, 40, 40)]);
        assert_eq!(cut_tens(&broken_at(5), true).unwrap(), []);
        cut_tens(&broken_at(75), false).unwrap_err();
    }
}
