//! `pitr verify`: proves that the archive is whole, and names what is not.

use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;

use super::Opened;
use super::output::{self, Progress, size};
use super::settings::Settings;
use crate::base;
use crate::catalog::archive::{Archive, bases};
use crate::catalog::layout::ObjectName;
use crate::catalog::load;
use crate::catalog::{Catalog, Holder, SegmentInfo, sound};
use crate::copy::repair::{Repaired, repair};
use crate::engine::{Detail, ScanStart, Scanner};
use crate::error::{Error, Kind, Result};
use crate::model::offset::{Offset, OffsetRange};
use crate::model::timeline::TimelineId;
use crate::plan;

/// Options of `pitr verify`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Read and check every byte, not only names, footers and manifests
    #[arg(long)]
    read_data: bool,
    /// First replace what is damaged or missing in one store by what another has intact, and then read
    /// and check every byte; asks for two --store or more
    #[arg(long)]
    repair: bool,
}

#[derive(Serialize, Default)]
struct Document {
    sound: bool,
    read_data: bool,
    segments: u64,
    bases: u64,
    packs: u64,
    bytes_read: u64,
    repaired: Vec<String>,
    /// Objects that a store lacked and another had.
    copied: u64,
    gaps: Vec<String>,
    problems: Vec<String>,
}

/// Walks everything. A gap is told; a damaged or missing object is exit 13.
pub(super) async fn run(settings: &Settings, args: &Args) -> Result<ExitCode> {
    let opened = Opened::open(settings).await?;
    let read_data = args.read_data || args.repair;
    let archives: Vec<Archive> = settings.stores()?.into_iter().map(|store| opened.archive.over(store)).collect();
    let mut found = Document { read_data, ..Document::default() };
    if args.repair {
        put_right(settings, &opened, &archives, &mut found).await?;
    }
    let one_of_several = archives.len() > 1;
    for archive in archives {
        let opened = Opened { archive, engine: Arc::clone(&opened.engine) };
        let mut walk = Walk { opened: &opened, read_data, found: Document::default() };
        walk.all().await?;
        let place = if one_of_several { format!("{}: ", opened.archive.store.location()) } else { String::new() };
        found.add(walk.found, &place);
    }
    found.sound = found.problems.is_empty();
    if settings.json {
        output::print_json(&found)?;
    } else {
        output::print(&text(&found))?;
    }
    match found.problems.len() {
        0 => Ok(ExitCode::SUCCESS),
        n => Err(Error::corruption(format!("{n} problems were found, the first: {}", found.problems[0])).hint(
            "a new base backup (`pitr backup`) makes what comes after it restorable; `pitr list` shows what still is",
        )),
    }
}

/// Repairs, and takes note of what was done and of what could not be done.
async fn put_right(settings: &Settings, opened: &Opened, archives: &[Archive], found: &mut Document) -> Result<()> {
    if archives.len() < 2 {
        return Err(Error::usage("--repair takes what is intact from another store, and one store is named")
            .hint("name the copies, too: --store URL --store URL"));
    }
    let engine = opened.engine.as_ref();
    let progress = Progress::bytes("repair");
    let compression = settings.stream.compression_for(engine);
    let done = repair(archives, engine, compression, &|done, of| progress.set(done, Some(of))).await;
    progress.finish();
    let Repaired { objects, copied, left } = done?;
    (found.repaired, found.copied) = (objects, copied);
    found.problems = left.into_iter().map(|problem| format!("{}: {}", problem.object, problem.problem)).collect();
    Ok(())
}

impl Document {
    /// Adds what was found in one of several stores.
    fn add(&mut self, one: Self, place: &str) {
        self.segments += one.segments;
        self.bases += one.bases;
        self.packs += one.packs;
        self.bytes_read += one.bytes_read;
        let told = |text: String| format!("{place}{text}");
        self.gaps.extend(one.gaps.into_iter().map(told));
        self.problems.extend(one.problems.into_iter().map(told));
    }
}

struct Walk<'a> {
    opened: &'a Opened,
    read_data: bool,
    found: Document,
}

impl Walk<'_> {
    async fn all(&mut self) -> Result<()> {
        self.footers().await?;
        let catalog = self.opened.archive.catalog(self.opened.engine.as_ref()).await;
        let catalog = self.note(catalog)?;
        if let Some(catalog) = &catalog {
            self.catalog(catalog).await?;
        }
        self.bases(catalog.as_ref()).await
    }

    /// Takes note of a corruption and goes on; any other error ends the walk.
    fn note<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == Kind::Corruption => {
                self.problem(error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Notes a problem, once.
    fn problem(&mut self, problem: String) {
        if !self.found.problems.contains(&problem) {
            self.found.problems.push(problem);
        }
    }

    /// Every segment's footer, superseded ones too.
    async fn footers(&mut self) -> Result<()> {
        let archive = &self.opened.archive;
        let mut names = Vec::new();
        archive.store.list(&archive.layout.log(), None, false, &mut |object| names.push(object)).await?;
        names.sort_by(|a, b| a.name.cmp(&b.name));
        for object in names {
            let Some(ObjectName::Segment { timeline, range, epoch, .. }) = archive.layout.parse(&object.name) else {
                continue;
            };
            self.found.segments += 1;
            let expected = archive.expected(timeline, range, epoch);
            let footer = load::footer(archive.store.as_ref(), &object.name, &expected).await;
            if footer.is_err() && archive.store.head(&object.name).await?.is_none() {
                continue;
            }
            self.note(footer)?;
        }
        Ok(())
    }

    async fn catalog(&mut self, catalog: &Catalog) -> Result<()> {
        let engine = &self.opened.engine;
        for (timeline, log) in &catalog.timelines {
            for pair in log.segments.windows(2) {
                let [before, after] = pair else { continue };
                if before.range.end >= after.range.start {
                    continue;
                }
                let cause = log
                    .gaps
                    .iter()
                    .find(|gap| gap.range.start <= before.range.end && after.range.start <= gap.range.end);
                let place = format!(
                    "timeline {}: from {} to {}",
                    timeline.0,
                    engine.position(before.range.end),
                    engine.position(after.range.start)
                );
                let hole = OffsetRange::new(before.range.end, after.range.start);
                let damaged = log.lost().find(|(lost, _)| lost.intersection(hole).is_some());
                match cause {
                    // It is a problem already.
                    None if damaged.is_some() => {
                        let object = damaged.map(|(_, damaged)| damaged.object.as_str()).unwrap_or_default();
                        self.found.gaps.push(format!("{place} ({object} is damaged)"));
                    }
                    Some(gap) => self.found.gaps.push(format!("{place} ({})", gap.cause)),
                    None => self.found.problems.push(format!("{place}: log is missing, and no gap was recorded")),
                }
            }
            if self.read_data {
                self.log(*timeline, &log.segments).await?;
            }
        }
        for damaged in catalog.damaged() {
            // Bases and footers are looked at by themselves.
            if damaged.log().is_none() && damaged.base().is_none() {
                self.problem(damaged.problem.clone());
            }
        }
        Ok(())
    }

    /// Every base that has a manifest, damaged or not.
    async fn bases(&mut self, catalog: Option<&Catalog>) -> Result<()> {
        let archive = &self.opened.archive;
        let mut checked = base::verify::Checked::default();
        for id in bases(archive).await? {
            self.found.bases += 1;
            let sound = base::verify::verify(archive, &id, self.read_data, &mut checked).await;
            let sound = self.note(sound)?.is_some();
            for problem in checked.problems.drain(..) {
                self.problem(problem.to_string());
            }
            if let Some(catalog) = catalog.filter(|_| sound)
                && !plan::restorable(catalog, &id)
            {
                self.found.gaps.push(format!("base {id} cannot be restored: its log is not archived"));
            }
        }
        self.found.packs = checked.packs();
        self.found.bytes_read += checked.bytes_read;
        Ok(())
    }

    /// Every byte of a timeline's log, and in it every record.
    async fn log(&mut self, timeline: TimelineId, segments: &[SegmentInfo]) -> Result<()> {
        let progress = Progress::bytes("log");
        let total = segments.iter().map(|s| s.range.len()).sum();
        let mut done = 0;
        let mut scanner: Option<Box<dyn Scanner>> = None;
        for segment in segments {
            let raw = match self.opened.archive.raw(timeline, segment).await {
                // What an archiver cannot read it can prove to be as it was written.
                Err(error) if error.kind() == Kind::WrongKey => {
                    let sealed = sound::read(&self.opened.archive, &segment.object(timeline)).await;
                    if let Some(sealed) = self.note(sealed)?.flatten() {
                        self.found.bytes_read += sealed.len() as u64;
                    }
                    done += segment.range.len();
                    progress.set(done, Some(total));
                    continue;
                }
                raw => raw,
            };
            let Some(raw) = self.note(raw)? else {
                scanner = None;
                continue;
            };
            let mut reader = match scanner.take() {
                Some(scanner) if scanner.offset() == segment.range.start => scanner,
                _ => self.fresh(timeline, segment.range.start),
            };
            let read = reader.feed(&raw, &mut Vec::new());
            let name = self.opened.archive.object_of(timeline, segment);
            if self.note(read.map_err(|e| e.context(name)))?.is_some() {
                scanner = Some(reader);
            }
            done += raw.len() as u64;
            self.found.bytes_read += raw.len() as u64;
            progress.set(done, Some(total));
            debug_assert!(
                segment.holder != Holder::Tail || segment.range.len() == raw.len() as u64,
                "a tail is read to its end"
            );
        }
        progress.finish();
        Ok(())
    }

    fn fresh(&self, timeline: TimelineId, start: Offset) -> Box<dyn Scanner> {
        let identity = &self.opened.archive.identity;
        let at = if start.0.is_multiple_of(identity.log_file_bytes) {
            ScanStart::LogFile(start)
        } else {
            ScanStart::Boundary(start)
        };
        self.opened.engine.scanner(identity, timeline, at, Detail::Marks)
    }
}

fn text(found: &Document) -> String {
    let depth = if found.read_data {
        format!("every byte ({})", size(found.bytes_read))
    } else {
        "names, footers and manifests".into()
    };
    let mut text =
        format!("checked {depth}: {} segments, {} base backups, {} packs\n", found.segments, found.bases, found.packs);
    for repaired in &found.repaired {
        text.push_str(&format!("repaired {repaired}\n"));
    }
    if found.copied > 0 {
        text.push_str(&format!("copied   {} objects that a store lacked and another had\n", found.copied));
    }
    for gap in &found.gaps {
        text.push_str(&format!("gap      {gap}\n"));
    }
    for problem in &found.problems {
        text.push_str(&format!("problem  {problem}\n"));
    }
    text.push_str(if found.problems.is_empty() { "the archive is sound\n" } else { "the archive is damaged\n" });
    text
}
