//! `pitr key`: the keys of encrypted archives.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use age::x25519;
use serde::Serialize;

use super::settings::Settings;
use super::{Opened, output};
use crate::catalog::layout::ObjectName;
use crate::catalog::{Holder, SegmentInfo, sound};
use crate::error::{Error, Kind, Result};
use crate::model::time::{Clock as _, SystemClock};
use crate::model::timeline::TimelineId;
use crate::seal::key::{ArchiverKey, RestoreKey, recipient_of, writer_text};
use crate::seal::ring::{KeyInfo, Ring};
use crate::seal::store::Sealed;

/// Options of `pitr key`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make a pair of keys: archiver.key for the archiver, restore.key to be kept elsewhere
    New(NewArgs),
    /// Prove that the restore key opens the archive: every data key, and the newest segment
    Check,
    /// Wrap the data keys anew, for the recipients that the archiver key names now
    Rotate(RotateArgs),
}

#[derive(Debug, clap::Args)]
struct NewArgs {
    /// Directory for the two files
    #[arg(long, value_name = "DIR", default_value = ".")]
    to: PathBuf,
    /// Another restore key's public half (age1...), which is to open everything too
    #[arg(long, value_name = "RECIPIENT")]
    recipient: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct RotateArgs {
    /// Delete what the new wraps replace, so that recipients who were taken out open nothing any more
    #[arg(long)]
    forget: bool,
}

/// What `pitr key check --json` prints.
#[derive(Debug, Serialize)]
struct Checked {
    schema_version: u32,
    cluster: String,
    writer: String,
    keys: Vec<KeyInfo>,
    /// The newest segment, if it could be read.
    read: Option<String>,
}

/// What `pitr key rotate --json` prints.
#[derive(Debug, Serialize)]
struct Rotated {
    schema_version: u32,
    made: Vec<String>,
    replaced: Vec<String>,
    forgotten: bool,
}

/// Does what is asked.
pub(super) async fn run(settings: &Settings, args: &Args) -> Result<ExitCode> {
    match &args.verb {
        Verb::New(args) => new(args),
        Verb::Check => check(settings).await,
        Verb::Rotate(args) => rotate(settings, args).await,
    }
}

fn new(args: &NewArgs) -> Result<ExitCode> {
    let others = args.recipient.iter().map(|text| recipient_of(text)).collect::<Result<Vec<_>>>()?;
    let identity = x25519::Identity::generate();
    let recipients = std::iter::once(identity.to_public()).chain(others).collect();
    let archiver = ArchiverKey::generate(recipients)?;
    let restore = RestoreKey { identities: vec![identity], writer: archiver.writer()? };
    let made = SystemClock.now();
    let (archiver_file, restore_file) = (args.to.join("archiver.key"), args.to.join("restore.key"));
    for file in [&archiver_file, &restore_file] {
        if file.exists() {
            return Err(Error::config(format!("{} is there already, and keys are never written over", file.display()))
                .hint("name another directory with --to DIR"));
        }
    }
    write(&restore_file, &restore.to_text(made))?;
    write(&archiver_file, &archiver.to_text(made))?;
    output::print(&format!(
        "{}  for the archiver: --key-file, or key_file under [encryption]\n\
         {}  for restores: --restore-key. Take it off this machine now, and keep two copies of it:\n\
         without it nothing can be restored, and who has it reads everything\n\
         next: pitr init --key-file {}, and later pitr key check --restore-key FILE\n",
        archiver_file.display(),
        restore_file.display(),
        archiver_file.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// A file that nobody else can read.
fn write(path: &Path, text: &str) -> Result<()> {
    let written = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        // Without it nothing can be restored: its name is to survive a power cut too.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::File::open(folder)?.sync_all()
    });
    written.map_err(|e| Error::io("write", path, e))
}

fn ring(opened: &Opened) -> Result<&Ring> {
    opened
        .archive
        .sealed
        .as_deref()
        .map(Sealed::ring)
        .ok_or_else(|| Error::new(Kind::WrongKey, "the archive is not encrypted"))
}

async fn check(settings: &Settings) -> Result<ExitCode> {
    let keys = settings.keys()?;
    if keys.restore.is_none() {
        let writer = keys.writer()?;
        return Err(Error::new(Kind::WrongKey, "no restore key is given to be checked")
            .hint(format!("name it with --restore-key FILE; this archiver key signs as {}", writer_text(&writer))));
    }
    let opened = Opened::open(settings).await?;
    let (ring, store) = (ring(&opened)?, opened.archive.store.as_ref());
    let infos = ring.all(store).await?;
    for info in &infos {
        ring.data_key(store, info.number).await?;
    }
    let read = match newest_segment(&opened).await? {
        Some((timeline, segment)) => {
            let object = segment.object(timeline);
            sound::read(&opened.archive, &object).await?;
            opened.archive.raw(timeline, &segment).await?;
            Some(opened.archive.layout.name(&object))
        }
        None => None,
    };
    let found = Checked {
        schema_version: 1,
        cluster: settings.cluster.to_string(),
        writer: writer_text(&ring.origin().writer),
        keys: infos,
        read,
    };
    if settings.json {
        output::print_json(&found)?;
    } else {
        let mut text = format!("signed by  {}\n", found.writer);
        for KeyInfo { object, made, recipients, .. } in &found.keys {
            text.push_str(&format!("opens      {object}, made at {made}, for {}\n", recipients.join(", ")));
        }
        text.push_str(&match &found.read {
            Some(name) => format!("reads      {name}\nthe restore key opens this archive\n"),
            None => "the restore key opens this archive, which holds no log yet\n".to_owned(),
        });
        output::print(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn newest_segment(opened: &Opened) -> Result<Option<(TimelineId, SegmentInfo)>> {
    let catalog = opened.catalog().await?;
    let Some(timeline) = catalog.newest_timeline() else { return Ok(None) };
    let segments = catalog.timelines.get(&timeline).map(|log| log.segments.as_slice()).unwrap_or_default();
    let closed = segments.iter().rfind(|segment| segment.holder != Holder::Tail);
    Ok(closed.map(|segment| (timeline, *segment)))
}

async fn rotate(settings: &Settings, args: &RotateArgs) -> Result<ExitCode> {
    let opened = Opened::at(settings.one_store()?, settings).await?;
    let store = opened.archive.store.as_ref();
    let (made, replaced) = ring(&opened)?.wrap_anew(store).await?;
    if args.forget {
        for name in &replaced {
            debug_assert!(matches!(opened.archive.layout.parse(name), Some(ObjectName::Key { .. })), "only keys");
            store.delete(name).await?;
        }
    }
    let done = Rotated { schema_version: 1, made, replaced, forgotten: args.forget };
    if settings.json {
        output::print_json(&done)?;
    } else {
        let mut text = match done.made.len() {
            0 => "all data keys are wrapped for these recipients already\n".to_owned(),
            count => format!("wrapped anew {count} data keys\n"),
        };
        match (done.replaced.len(), args.forget) {
            (0, _) => {}
            (count, true) => text.push_str(&format!("deleted {count} earlier wraps\n")),
            (count, false) => {
                text.push_str(&format!("{count} earlier wraps are still there: with --forget they are deleted\n"));
            }
        }
        output::print(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}
