//! `BASE_BACKUP` over a replication connection: entries out, everything checked.
//!
//! PostgreSQL 13 and 14 send one `COPY` per tablespace, then one with the manifest;
//! 15 and newer send one `COPY` whose messages begin with a letter:
//!
//! ```text
//! n  archive name \0, tablespace path \0    a new archive begins
//! m                                         the manifest begins
//! d  bytes                                  of the archive or manifest
//! p  int64                                  progress; only counted, not used
//! ```
//! From 15 on the server is asked to compress the archives with LZ4: that costs it no
//! more than sending them in the clear, and a tenth of the bytes goes over the network.
//! A server that was built without LZ4 is asked again without.
//!
//! Around them, in both: a row with start LSN and timeline, rows with the tablespaces
//! (oid, path, size in kB; the data directory has neither oid nor path), and at the
//! end a row with end LSN and timeline. Sources: PostgreSQL manual, "Streaming
//! Replication Protocol", `BASE_BACKUP`; `src/backend/backup/basebackup_copy.c`.
//!
//! The server verifies page checksums while it reads (unless they are off there) and
//! says only at the very end, with an error, that some were wrong: so nothing counts
//! before [`BaseEvent::End`].
//!
//! `TABLESPACE_MAP` is not asked for: a server that finds the file `tablespace_map`
//! at its start sets the links back to where they pointed on the source, whatever a
//! restore has made of them. The paths come with the rows.

use std::collections::VecDeque;

use async_trait::async_trait;
use bytes::{Buf, Bytes};

use self::entries::{Entries, TablespaceRow};
use self::server_manifest::read_lsn;
use super::connect::Connection;
use super::wire::backend::Backend;
use super::wire::report::Report;
use crate::engine::{BaseEvent, BaseOptions, BaseStream};
use crate::error::{Error, Kind, Result};
use crate::model::offset::Offset;
use crate::model::timeline::TimelineId;

pub mod entries;
pub mod lz4_frame;
pub mod server_manifest;
pub mod tar;

/// Begins a base backup on `connection`, which must be a replication connection.
///
/// # Errors
/// [`Kind::Config`] for a label the server cannot keep or a tablespace that cannot be
/// restored elsewhere; the server's error otherwise.
pub async fn start(mut connection: Connection, options: &BaseOptions) -> Result<Box<dyn BaseStream>> {
    let version = connection.server_version_num();
    let one_copy = version >= 150_000;
    connection.send_query(&command(options, version, one_copy)?).await?;
    let mut backup = Backup {
        connection,
        one_copy,
        links: VecDeque::new(),
        entries: Entries::new(Vec::new()),
        events: VecDeque::new(),
        start: (TimelineId(0), Offset::ZERO),
        ended: false,
    };
    let rows = match backup.rows_until_copy().await? {
        Err(report) if one_copy && knows_no_lz4(&report) => {
            tracing::info!(%report, "the server cannot compress a base backup; it is sent as it is");
            backup.until_ready().await?;
            backup.connection.send_query(&command(options, version, false)?).await?;
            backup.rows_until_copy().await?
        }
        rows => rows,
    };
    let mut rows = rows.map_err(|report| backup.failed(&report))?.into_iter();
    let (start, timeline) = position(rows.next())?;
    let tablespaces = rows.map(Tablespace::read).collect::<Result<Vec<_>>>()?;
    backup.begin(timeline, start, &tablespaces)?;
    Ok(Box::new(backup))
}

/// Whether a server refused because it was built without LZ4: 15 and newer find the
/// option's value wrong (`ERRCODE_SYNTAX_ERROR`), or the feature missing.
fn knows_no_lz4(report: &Report) -> bool {
    matches!(report.sqlstate.as_str(), "42601" | "0A000")
}

/// The command in the words of this server's version.
fn command(options: &BaseOptions, version: u32, compressed: bool) -> Result<String> {
    let label = &options.label;
    // `MAXPGPATH`; a line break would forge lines of `backup_label`.
    if label.len() >= 1024 || label.chars().any(char::is_control) {
        return Err(Error::config("the backup's label is longer than 1023 bytes or has control characters"));
    }
    let label = label.replace('\'', "''");
    Ok(if version >= 150_000 {
        let checkpoint = if options.fast_checkpoint { "fast" } else { "spread" };
        let compression = if compressed { ", COMPRESSION 'lz4'" } else { "" };
        format!(
            "BASE_BACKUP (LABEL '{label}', PROGRESS, CHECKPOINT '{checkpoint}', WAIT 0, MANIFEST 'yes', \
             MANIFEST_CHECKSUMS 'CRC32C'{compression})"
        )
    } else {
        let fast = if options.fast_checkpoint { " FAST" } else { "" };
        format!("BASE_BACKUP LABEL '{label}' PROGRESS{fast} NOWAIT MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'")
    })
}

type Row = Vec<Option<Bytes>>;

fn text(row: &Row, column: usize) -> Result<Option<String>> {
    let Some(Some(value)) = row.get(column) else { return Ok(None) };
    String::from_utf8(value.to_vec()).map(Some).map_err(|_| {
        Error::config(format!("path {:?} of a tablespace is not UTF-8", String::from_utf8_lossy(value)))
            .hint("pitr keeps paths as UTF-8 text; move the tablespace to a directory with such a name")
    })
}

/// LSN and timeline, as the server's first and last row give them.
fn position(row: Option<Row>) -> Result<(Offset, TimelineId)> {
    let missing = || Error::failure("the server gave no position with the base backup");
    let row = row.ok_or_else(missing)?;
    let lsn = read_lsn(&text(&row, 0)?.ok_or_else(missing)?)?;
    let timeline = text(&row, 1)?.and_then(|t| t.parse().ok()).ok_or_else(missing)?;
    Ok((lsn, TimelineId(timeline)))
}

/// A row of the tablespace list.
struct Tablespace {
    /// `None` is the data directory.
    row: Option<TablespaceRow>,
    kilobytes: Option<u64>,
}

impl Tablespace {
    fn read(row: Row) -> Result<Self> {
        let kilobytes = text(&row, 2)?.and_then(|t| t.parse().ok());
        let Some(oid) = text(&row, 0)? else { return Ok(Self { row: None, kilobytes }) };
        let location = text(&row, 1)?.unwrap_or_default();
        let oid: u32 =
            oid.parse().map_err(|_| Error::failure(format!("the server gave {oid:?} where an oid belongs")))?;
        if !location.starts_with('/') {
            return Err(Error::config(format!("tablespace {oid} lies inside the data directory ({location:?})"))
                .hint("was it made with allow_in_place_tablespaces? that is for tests of PostgreSQL only"));
        }
        Ok(Self { row: Some(TablespaceRow { link: format!("pg_tblspc/{oid}"), location }), kilobytes })
    }
}

struct Backup {
    connection: Connection,
    /// Whether all archives come in one `COPY` (15 and newer).
    one_copy: bool,
    /// Before 15: whose archive each next `COPY` holds; `None` is the data directory.
    links: VecDeque<Option<String>>,
    entries: Entries,
    events: VecDeque<BaseEvent>,
    start: (TimelineId, Offset),
    ended: bool,
}

impl Backup {
    fn begin(&mut self, timeline: TimelineId, start: Offset, tablespaces: &[Tablespace]) -> Result<()> {
        let rows: Vec<TablespaceRow> = tablespaces.iter().filter_map(|t| t.row.clone()).collect();
        self.events.push_back(BaseEvent::Start {
            start: Some((timeline, start)),
            estimated_bytes: tablespaces.iter().map(|t| t.kilobytes?.checked_mul(1024)).sum(),
            tablespaces: rows.iter().map(|t| (t.link.clone(), t.location.clone())).collect(),
        });
        self.links = tablespaces.iter().map(|t| t.row.as_ref().map(|r| r.link.clone())).collect();
        self.entries = Entries::new(rows);
        self.start = (timeline, start);
        if !self.one_copy {
            self.next_copy()?;
        }
        Ok(())
    }

    /// Before 15: a `COPY` begins, by its place in the list.
    fn next_copy(&mut self) -> Result<()> {
        match self.links.pop_front() {
            Some(link) => self.entries.begin_archive(link.as_deref(), false),
            None => self.entries.begin_manifest(),
        }
    }

    /// Rows up to the first `COPY`, or why the server makes none.
    async fn rows_until_copy(&mut self) -> Result<Result<Vec<Row>, Report>> {
        let mut rows = Vec::new();
        loop {
            match self.connection.recv().await? {
                Backend::RowDescription(_) | Backend::CommandComplete(_) => {}
                Backend::DataRow(row) => rows.push(row),
                Backend::CopyOut => return Ok(Ok(rows)),
                Backend::Error(report) => return Ok(Err(report)),
                other => return Err(self.connection.unexpected(&other, "at the start of a base backup")),
            }
        }
    }

    /// Skips what follows an error.
    async fn until_ready(&mut self) -> Result<()> {
        match self.connection.recv().await? {
            Backend::ReadyForQuery => Ok(()),
            other => Err(self.connection.unexpected(&other, "after an error")),
        }
    }

    fn failed(&mut self, report: &Report) -> Error {
        // ERRCODE_DATA_CORRUPTED: page checksums were wrong. The warnings before it
        // name the files.
        if report.sqlstate != "XX001" {
            return report.to_error(self.connection.place());
        }
        let files: Vec<String> = self
            .connection
            .take_notices()
            .into_iter()
            .filter(|notice| notice.severity == "WARNING")
            .map(|notice| notice.message)
            .collect();
        Error::new(Kind::Corruption, format!("{}: {report}: {}", self.connection.place(), files.join("; ")))
            .hint("the server's own pages are damaged: do not expire older bases; look at its disk and memory")
    }

    /// Everything after the last `COPY`.
    async fn finish(&mut self) -> Result<()> {
        let mut rows = Vec::new();
        loop {
            match self.connection.recv().await? {
                Backend::RowDescription(_) | Backend::CommandComplete(_) => {}
                Backend::DataRow(row) => rows.push(row),
                Backend::Error(report) => return Err(self.failed(&report)),
                Backend::ReadyForQuery => break,
                other => return Err(self.connection.unexpected(&other, "at the end of a base backup")),
            }
        }
        let (end, timeline) = position(rows.pop())?;
        self.entries.finish(timeline, self.start.1, end, &mut self.events)?;
        self.ended = true;
        Ok(())
    }

    /// A message of the one `COPY` of 15 and newer.
    fn copy_message(&mut self, mut message: Bytes) -> Result<()> {
        let malformed = |what: &str| Error::failure(format!("the server sent {what} in a base backup"));
        match message.try_get_u8().map_err(|_| malformed("an empty message"))? {
            b'd' => self.entries.data(message, &mut self.events),
            b'p' => Ok(()),
            b'm' => self.entries.begin_manifest(),
            b'n' => {
                let end = message.iter().position(|&b| b == 0).ok_or_else(|| malformed("an archive without name"))?;
                let name = message.split_to(end);
                // `base.tar` or `<oid>.tar`, with `.lz4` when it is compressed.
                let (stem, compressed) = name.strip_suffix(b".lz4").map_or((&name[..], false), |stem| (stem, true));
                let link = match stem.strip_suffix(b".tar") {
                    Some(b"base") => None,
                    Some(oid) => Some(format!("pg_tblspc/{}", String::from_utf8_lossy(oid))),
                    None => return Err(malformed("an archive that is no tar")),
                };
                let listed = self.links.iter().position(|known| *known == link);
                let Some(listed) = listed else {
                    return Err(malformed(&format!(
                        "archive {:?}, which it did not list,",
                        String::from_utf8_lossy(&name)
                    )));
                };
                self.links.remove(listed);
                self.entries.begin_archive(link.as_deref(), compressed)
            }
            other => Err(malformed(&format!("a message of type {:?}", char::from(other)))),
        }
    }

    async fn step(&mut self) -> Result<()> {
        match self.connection.recv().await? {
            Backend::CopyData(bytes) if self.one_copy => self.copy_message(bytes),
            Backend::CopyData(bytes) => self.entries.data(bytes, &mut self.events),
            Backend::CopyOut if !self.one_copy => self.next_copy(),
            Backend::CopyDone => {
                self.entries.end_part()?;
                Ok(())
            }
            // The last row's description: all archives and the manifest are through.
            Backend::RowDescription(_) => self.finish().await,
            Backend::CommandComplete(_) => Ok(()),
            Backend::Error(report) => Err(self.failed(&report)),
            other => Err(self.connection.unexpected(&other, "in a base backup")),
        }
    }
}

#[async_trait]
impl BaseStream for Backup {
    async fn next(&mut self) -> Result<Option<BaseEvent>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if self.ended {
                return Ok(None);
            }
            self.step().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speaks_the_words_of_each_version() {
        let options = BaseOptions { label: "it's".into(), fast_checkpoint: true, method: crate::engine::Method::Auto };
        assert_eq!(
            command(&options, 140_009, false).unwrap(),
            "BASE_BACKUP LABEL 'it''s' PROGRESS FAST NOWAIT MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'"
        );
        assert_eq!(
            command(&BaseOptions { fast_checkpoint: false, ..options.clone() }, 150_000, false).unwrap(),
            "BASE_BACKUP (LABEL 'it''s', PROGRESS, CHECKPOINT 'spread', WAIT 0, MANIFEST 'yes', \
             MANIFEST_CHECKSUMS 'CRC32C')"
        );
        assert_eq!(
            command(&options, 180_000, true).unwrap(),
            "BASE_BACKUP (LABEL 'it''s', PROGRESS, CHECKPOINT 'fast', WAIT 0, MANIFEST 'yes', \
             MANIFEST_CHECKSUMS 'CRC32C', COMPRESSION 'lz4')"
        );
    }

    #[test]
    fn refuses_a_label_that_would_forge_lines() {
        let options = BaseOptions {
            label: "x\nSTART TIMELINE: 9".into(),
            fast_checkpoint: false,
            method: crate::engine::Method::Auto,
        };
        assert_eq!(command(&options, 150_000, true).unwrap_err().kind(), Kind::Config);
    }

    fn row(values: &[Option<&str>]) -> Row {
        values.iter().map(|v| v.map(|v| Bytes::copy_from_slice(v.as_bytes()))).collect()
    }

    #[test]
    fn reads_positions_and_tablespaces() {
        let (lsn, timeline) = position(Some(row(&[Some("0/2000028"), Some("3")]))).unwrap();
        assert_eq!((lsn, timeline), (Offset(0x200_0028), TimelineId(3)));
        assert!(position(None).is_err());
        assert!(position(Some(row(&[Some("0/2000028"), None]))).is_err());
        assert!(Tablespace::read(row(&[None, None, Some("23")])).unwrap().row.is_none());
        let tablespace = Tablespace::read(row(&[Some("16400"), Some("/srv/ts"), None])).unwrap();
        assert_eq!(tablespace.row.unwrap().link, "pg_tblspc/16400");
        assert!(Tablespace::read(row(&[Some("16400"), Some("pg_tblspc/16400"), None])).is_err());
        assert!(Tablespace::read(row(&[Some("../x"), Some("/srv"), None])).is_err());
    }
}
