//! A base backup by a program beside the server that writes a stream of files: what
//! `mariadb-backup` and `xtrabackup` have in common.
//!
//! The stream is read here, strictly, and no other tool unpacks it. The place in the binlog at
//! which the backup is consistent is one of the stream's own files. Whether the program is
//! content with its work is told by its exit status alone.

use std::collections::VecDeque;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use async_trait::async_trait;
use bytes::BytesMut;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::task::JoinHandle;

use super::Origin;
use super::mbstream::StreamReader;
use crate::engine::mysql::flavor::Flavor;
use crate::engine::mysql::gtid::GtidSet;
use crate::engine::mysql::place::Place;
use crate::engine::{BaseEnd, BaseEvent, BaseStream};
use crate::error::{Error, Kind, Result};
use crate::model::time::{Clock as _, SystemClock};
use entries::Entries;

mod entries;

/// Bytes read from the program at a time.
const READ_BYTES: usize = 1 << 20;

/// Lines of what the program says that are kept for an error message.
const SAID_LINES: usize = 12;

/// Threads of the program that read files.
const PARALLEL: usize = 2;

/// A program that backs up the server beside it.
#[derive(Debug)]
pub(super) struct Tool {
    /// As it is called in messages.
    pub(super) name: &'static str,
    /// Its names, preferred first.
    pub(super) programs: &'static [&'static str],
    /// How to get it.
    pub(super) install: &'static str,
    /// The form of its stream, for `--stream=`.
    pub(super) stream: &'static str,
    /// Its files that may say where in the binlog a backup ends.
    pub(super) binlog_info: &'static [&'static str],
}

/// Begins a backup.
///
/// # Errors
/// [`Kind::Config`] when the program is not here, or the server's files are not.
pub(super) fn begin(tool: &'static Tool, origin: Origin) -> Result<Box<dyn BaseStream>> {
    let program =
        tool.find().ok_or_else(|| Error::config(format!("{} is not installed here", tool.name)).hint(tool.install))?;
    let readable = fs::read_dir(&origin.data_dir).map(drop);
    readable.map_err(|e| {
        Error::config(format!("the server's data directory {} cannot be read", origin.data_dir.display()))
            .because(e)
            .hint(format!(
                "{} copies the server's files: run pitr on the database's host, as root or as the server's user",
                tool.name
            ))
    })?;
    let scratch = Scratch::new()?;
    let options = scratch.path.join("client.cnf");
    let written = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&options);
    let text = super::option_file(&origin.info, origin.facts.flavor)?;
    written.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|e| Error::io("write", &options, e))?;
    let mut child = Command::new(&program)
        .arg(format!("--defaults-extra-file={}", options.display()))
        .arg("--backup")
        .arg(format!("--stream={}", tool.stream))
        .arg(format!("--parallel={PARALLEL}"))
        .arg(format!("--datadir={}", origin.data_dir.display()))
        .arg(format!("--target-dir={}", scratch.path.display()))
        .env_remove("MYSQL_PWD")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| Error::config(format!("{} cannot be run", program.display())).because(e))?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(Error::failure(format!("{} has no output", tool.name)));
    };
    let begun = BaseEvent::Start { start: None, estimated_bytes: None, tablespaces: Vec::new() };
    Ok(Box::new(Backup {
        tool,
        origin,
        child,
        stdout: Some(stdout),
        said: Some(tokio::spawn(last_lines(tool.name, stderr))),
        reader: Some(StreamReader::new()),
        buffer: BytesMut::new(),
        entries: Entries::new(tool.binlog_info, begun),
        _scratch: scratch,
    }))
}

impl Tool {
    fn find(&self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH")?;
        let mut places =
            std::env::split_paths(&path).flat_map(|dir| self.programs.iter().map(move |name| dir.join(name)));
        places.find(|program| program.is_file())
    }
}

/// The last of what a program says.
async fn last_lines(name: &str, stderr: ChildStderr) -> String {
    let mut lines = BufReader::new(stderr).lines();
    let mut last = VecDeque::new();
    while let Ok(Some(line)) = lines.next_line().await {
        tracing::debug!(program = name, "{line}");
        if last.len() == SAID_LINES {
            last.pop_front();
        }
        last.push_back(line);
    }
    last.into_iter().collect::<Vec<_>>().join("\n")
}

/// A private directory that goes with its value.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("pitr-base-{:016x}", rand::random::<u64>()));
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(|e| Error::io("create", &path, e))?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

struct Backup {
    tool: &'static Tool,
    origin: Origin,
    child: Child,
    stdout: Option<ChildStdout>,
    said: Option<JoinHandle<String>>,
    reader: Option<StreamReader>,
    buffer: BytesMut,
    entries: Entries,
    _scratch: Scratch,
}

#[async_trait]
impl BaseStream for Backup {
    async fn next(&mut self) -> Result<Option<BaseEvent>> {
        let name = self.tool.name;
        loop {
            if let Some(event) = self.entries.pop() {
                return Ok(Some(event));
            }
            let Some(stdout) = &mut self.stdout else { return Ok(None) };
            self.buffer.reserve(READ_BYTES);
            let read = stdout.read_buf(&mut self.buffer).await;
            let read = read.map_err(|e| Error::failure(format!("{name}'s output cannot be read")).because(e))?;
            if read == 0 {
                self.stdout = None;
                return self.end().await.map(Some);
            }
            let bytes = self.buffer.split().freeze();
            let (reader, entries) = (&mut self.reader, &mut self.entries);
            let fed = match reader {
                Some(reader) => reader.feed(bytes, |item| {
                    entries.take(item);
                    Ok(())
                }),
                None => Ok(()),
            };
            if let Err(error) = fed {
                // A tool that failed may leave anything behind; its own words are better.
                let _ = self.child.start_kill();
                return Err(error.context(format!("{name}'s stream")));
            }
        }
    }
}

impl Backup {
    /// The program has closed its output: it must be content, and the stream whole.
    async fn end(&mut self) -> Result<BaseEvent> {
        let name = self.tool.name;
        let status = self.child.wait().await;
        let status = status.map_err(|e| Error::failure(format!("how {name} ended is not known")).because(e))?;
        let said = match self.said.take() {
            Some(said) => said.await.unwrap_or_default(),
            None => String::new(),
        };
        if !status.success() {
            return Err(Error::new(Kind::Config, format!("{name} failed ({status}): {said}"))
                .hint("does pitr's user have the privileges that `pitr grants` prints, and can this user read the server's files?"));
        }
        if let Some(reader) = self.reader.take() {
            reader.finish().map_err(|error| error.context(format!("{name}'s stream")))?;
        }
        let facts = &self.origin.facts;
        let place = place(&self.entries.binlog_info, facts.flavor, &facts.server).ok_or_else(|| {
            let text = String::from_utf8_lossy(&self.entries.binlog_info).into_owned();
            Error::failure(format!("{name} does not say where in the binlog its backup ends: {text:?}"))
                .hint(format!("does the server write a binlog, and is {name} of its own version?"))
        })?;
        let time = SystemClock.now().saturating_add(facts.clock_ahead_micros);
        Ok(BaseEvent::End { end: BaseEnd::Position(place.to_position()), time: Some(time) })
    }
}

/// Reads `FILE <tab> POSITION <tab> GTIDS`, the last of which may be missing or run over lines.
pub(in crate::engine::mysql) fn place(binlog_info: &[u8], flavor: Flavor, server: &str) -> Option<Place> {
    let text = std::str::from_utf8(binlog_info).ok()?;
    let mut fields = text.trim_end().splitn(3, '\t');
    let (file, position) = (fields.next()?, fields.next()?.trim().parse().ok()?);
    let gtids = fields.next().unwrap_or_default();
    Some(Place {
        gtids: GtidSet::parse(flavor, gtids.trim()).ok()?,
        server: server.to_owned(),
        file: Path::new(file.trim()).file_name()?.to_str()?.to_owned(),
        position,
        after: None,
        holding: 0,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "4c2c85e9-71ca-11e1-9e33-c80aa9429562";

    fn read(flavor: Flavor, text: &str) -> Option<String> {
        place(text.as_bytes(), flavor, "id").map(|place| place.to_string())
    }

    #[test]
    fn a_place_is_read_with_gtids_over_several_lines() {
        let text = format!("binlog.000002\t1197\t{A}:1-5,\n{B}:1-3\n");
        let read = read(Flavor::MySql, &text).unwrap();
        assert_eq!(read, format!("{A}:1-5,{B}:1-3 @ id/binlog.000002:1197"));
    }

    #[test]
    fn a_place_is_read_without_gtids_and_without_the_logs_directory() {
        assert_eq!(read(Flavor::MySql, "binlog.000002\t157\n").unwrap(), "- @ id/binlog.000002:157");
        assert_eq!(read(Flavor::MariaDb, "/var/log/b.000001\t328\t0-1-7\n").unwrap(), "0-1-7 @ id/b.000001:328");
    }

    #[test]
    fn text_that_is_no_place_is_none() {
        for text in ["", "\n", "binlog.000002", "binlog.000002\tx", "\t4\t", "b.1\t4\t0-1-7"] {
            assert_eq!(read(Flavor::MySql, text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_on_any_bytes(bytes: Vec<u8>, text in "[a-z./0-9]{0,9}\t[0-9]{0,21}\t[-:,0-9a-f\n]{0,60}") {
            for flavor in [Flavor::MySql, Flavor::MariaDb] {
                let _ = place(&bytes, flavor, "id");
                let _ = place(text.as_bytes(), flavor, "id");
            }
        }
    }
}
