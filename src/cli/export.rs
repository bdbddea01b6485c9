//! `pitr export`: the archived log as the server's own files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::Opened;
use super::output::{self, Progress};
use super::settings::Settings;
use crate::catalog::TimelineLog;
use crate::engine::Unpack;
use crate::error::{Error, Kind, Result};
use crate::model::offset::{Offset, OffsetRange};
use crate::model::timeline::TimelineId;
use crate::restore::file::{Holding, TimelineFiles};

/// Options of `pitr export`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The directory to write to; made when it does not exist
    dir: PathBuf,
}

#[derive(Serialize, Default)]
struct Document {
    files: u64,
    partial_files: u64,
    histories: u64,
    bytes: u64,
    missing: Vec<String>,
}

/// Writes every log file and history the archive holds; a file that is not whole there is
/// told, and makes the whole partial. The last file of a timeline, if
/// the archive ends within it, is written padded with zeros under `NAME.partial`, as
/// `pg_receivewal` does.
pub(super) async fn run(settings: &Settings, args: &Args) -> Result<ExitCode> {
    let opened = Opened::open(settings).await?;
    let catalog = opened.catalog().await?;
    let names = opened.engine.log_files(&opened.archive.identity);
    fs::create_dir_all(&args.dir).map_err(|e| Error::io("create", &args.dir, e))?;
    let file_bytes = opened.archive.identity.log_file_bytes;
    let total = catalog.timelines.values().flat_map(|log| &log.segments).map(|s| s.range.len()).sum();
    let progress = Progress::bytes("export");
    let (mut done, mut damaged) = (Document::default(), Vec::new());
    for (&timeline, log) in &catalog.timelines {
        let several = catalog.timelines.len() > 1;
        let dir = if several { args.dir.join(timeline.to_string()) } else { args.dir.clone() };
        if let Some(unpack) = names.unpack(&dir) {
            unpack_timeline(&opened, timeline, log, unpack, &mut done, &mut damaged).await?;
            progress.set(done.bytes, Some(total));
            continue;
        }
        if let Some(history) = &log.history {
            let path = args.dir.join(names.history_name(timeline));
            fs::write(&path, &history.native).map_err(|e| Error::io("write", &path, e))?;
            done.histories += 1;
        }
        let files = TimelineFiles::list(&opened.archive, opened.engine.as_ref(), timeline).await?;
        let mut at = Offset::ZERO;
        for segment in &log.segments {
            let mut start = segment.range.start.floor_to(file_bytes).max(at);
            // Whole files between two segments. What a timeline began with is not missed.
            while at > Offset::ZERO && at < start {
                done.missing.push(names.name(timeline, at));
                at = Offset(at.0 + file_bytes);
            }
            while start < segment.range.end {
                let range = OffsetRange::new(start, Offset(start.0 + file_bytes));
                let name = names.name(timeline, start);
                match export_file(&files, range, &name, &args.dir).await {
                    Ok(Exported::Whole) => done.files += 1,
                    Ok(Exported::Beginning) => done.partial_files += 1,
                    Ok(Exported::Nothing) => {}
                    Ok(Exported::Missing) => {
                        tracing::warn!("log file {name} is not whole in the archive (a gap): not written");
                        done.missing.push(name);
                    }
                    // The others are sound all the same.
                    Err(error) if error.kind() == Kind::Corruption => {
                        tracing::error!(%error, "log file {name} is not written");
                        damaged.push(error.message().to_owned());
                    }
                    Err(error) => return Err(error),
                }
                done.bytes += file_bytes;
                progress.set(done.bytes, Some(total));
                start = range.end;
            }
            at = start;
        }
    }
    progress.finish();
    damaged.extend(catalog.timelines.values().flat_map(|log| log.lost()).map(|(_, lost)| lost.object.clone()));
    if settings.json {
        output::print_json(&done)?;
    } else {
        output::print(&format!(
            "{} log files, {} partial ones and {} histories are in {}\n",
            done.files,
            done.partial_files,
            done.histories,
            args.dir.display()
        ))?;
    }
    if !damaged.is_empty() {
        return Err(Error::corruption(format!("damaged log was not written: {}", damaged.join("; ")))
            .hint("put intact copies of the objects back from another copy of the store"));
    }
    let (Some(first), Some(last)) = (done.missing.first(), done.missing.last()) else { return Ok(ExitCode::SUCCESS) };
    Err(Error::new(
        Kind::Partial,
        format!(
            "{} log files are not whole in the archive and were not written: {first} to {last}",
            done.missing.len()
        ),
    )
    .hint("`pitr list` shows the gaps; what lies before and behind them is in the directory"))
}

/// Writes the files of a timeline whose log tells itself where they begin and end.
async fn unpack_timeline(
    opened: &Opened,
    timeline: TimelineId,
    log: &TimelineLog,
    mut unpack: Box<dyn Unpack>,
    done: &mut Document,
    damaged: &mut Vec<String>,
) -> Result<()> {
    for segment in &log.segments {
        let read = opened.archive.raw(timeline, segment).await.and_then(|raw| unpack.feed(&raw));
        match read {
            Err(error) if error.kind() == Kind::Corruption => {
                tracing::error!(%error, "the log of timeline {timeline} is written up to there");
                damaged.push(error.message().to_owned());
                break;
            }
            read => read?,
        }
    }
    let written = unpack.finish()?;
    done.files += written.files;
    done.partial_files += written.partial_files;
    done.bytes += written.bytes;
    Ok(())
}

enum Exported {
    Whole,
    Beginning,
    /// The archive ends before it.
    Nothing,
    Missing,
}

/// Writes one log file, as far as the archive holds it.
async fn export_file(files: &TimelineFiles, range: OffsetRange, name: &str, dir: &Path) -> Result<Exported> {
    let (parts, path, exported) = match files.holding(range) {
        Holding::Whole(parts) => (parts, dir.join(name), Exported::Whole),
        Holding::Beginning(parts) => (parts, dir.join(format!("{name}.partial")), Exported::Beginning),
        Holding::Nothing | Holding::Hole(_) => return Ok(Exported::Missing),
    };
    let written = files.write(range, range.end, &parts, &path).await?;
    Ok(if written { exported } else { Exported::Nothing })
}
