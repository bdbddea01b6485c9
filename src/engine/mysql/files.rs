//! How the log lies in the server's own files: under names that the log itself tells.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use super::binlog::event::MAGIC;
use super::binlog::note::{FILE_START, FileNote};
use super::binlog::unpack::{Part, Unpacker};
use super::gtid::Gtid;
use crate::engine::{LogFile, LogFiles, Unpack, Unpacked};
use crate::error::{Error, Result};
use crate::model::offset::Offset;
use crate::model::timeline::{History, TimelineId};

/// Bytes gathered before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// Binlog files. Neither name nor bytes of one tell where in the archive it lies.
#[derive(Clone, Copy, Debug)]
pub struct BinlogFiles;

impl LogFiles for BinlogFiles {
    fn name(&self, timeline: TimelineId, offset: Offset) -> String {
        format!("{timeline}-{offset}")
    }

    fn parse(&self, _name: &str) -> Option<LogFile> {
        None
    }

    fn system(&self, _bytes: &[u8]) -> Option<String> {
        None
    }

    fn history_name(&self, timeline: TimelineId) -> String {
        timeline.to_string()
    }

    fn parse_history(&self, timeline: TimelineId, _native: &str) -> Result<History> {
        Err(Error::corruption(format!("timeline {timeline} has no history file of the server's")))
    }

    fn unpack(&self, dir: &Path) -> Option<Box<dyn Unpack>> {
        Some(Box::new(Files {
            dir: dir.to_owned(),
            unpacker: Unpacker::new(|_, _| false),
            out: Out { open: None, server: None, made: BTreeSet::new(), done: Unpacked::default() },
        }))
    }
}

/// Leaves out nothing.
type KeepsAll = fn(Option<&Gtid>, Option<(&FileNote, u64)>) -> bool;

/// Writes binlog files into a directory, byte for byte as the server has them: but for the mark
/// of one that is being written to, which no reader wants.
struct Files {
    dir: PathBuf,
    unpacker: Unpacker<KeepsAll>,
    out: Out,
}

struct Out {
    open: Option<(BufWriter<File>, PathBuf)>,
    /// Whose files lie in the directory itself; those of others have directories of their own.
    server: Option<String>,
    made: BTreeSet<PathBuf>,
    done: Unpacked,
}

impl Unpack for Files {
    fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        let (dir, out) = (&self.dir, &mut self.out);
        self.unpacker.feed(bytes, &mut |part| match part {
            Part::File { file, description } => out.begin(dir, &file, &description),
            Part::Log(bytes) => out.write(bytes),
        })
    }

    fn finish(mut self: Box<Self>) -> Result<Unpacked> {
        self.out.close()?;
        Ok(self.out.done)
    }
}

impl Out {
    fn begin(&mut self, dir: &Path, file: &FileNote, description: &[u8]) -> Result<()> {
        self.close()?;
        let own = *self.server.get_or_insert_with(|| file.server.clone()) == file.server;
        let dir = if own { dir.to_owned() } else { dir.join(file.server.replace('/', "_")) };
        fs::create_dir_all(&dir).map_err(|e| Error::io("create", &dir, e))?;
        if file.name.contains('/') || file.name.starts_with('.') {
            return Err(Error::corruption(format!(
                "the log names a file {:?}, which is no binlog file's name",
                file.name
            )));
        }
        let whole = file.position == FILE_START;
        let path = if whole { dir.join(&file.name) } else { dir.join(format!("{}.from-{}", file.name, file.position)) };
        if !self.made.insert(path.clone()) {
            return Err(Error::corruption(format!("the log names {} twice", path.display())));
        }
        let made = File::create(&path).map_err(|e| Error::io("create", &path, e))?;
        self.open = Some((BufWriter::with_capacity(BUFFER_BYTES, made), path));
        if whole {
            self.done.files += 1;
        } else {
            self.done.partial_files += 1;
        }
        self.write(&MAGIC)?;
        self.write(description)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.done.bytes += bytes.len() as u64;
        match &mut self.open {
            Some((file, path)) => file.write_all(bytes).map_err(|e| Error::io("write", path, e)),
            None => Ok(()),
        }
    }

    fn close(&mut self) -> Result<()> {
        match self.open.take() {
            Some((mut file, path)) => file.flush().map_err(|e| Error::io("write", &path, e)),
            None => Ok(()),
        }
    }
}
