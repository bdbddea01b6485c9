//! From archives to entries: names, sizes and checksums of what the server sends.
//!
//! Holds no socket: it is told which archive begins and gets its bytes, gives
//! [`BaseEvent`]s, and at the end compares everything with the server's manifest.

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::Bytes;

use super::lz4_frame::FrameReader;
use super::server_manifest::{self, Received};
use super::tar::{TarEvent, TarReader};
use crate::engine::{BaseEnd, BaseEvent, EntryMeta};
use crate::error::{Error, Result};
use crate::model::offset::Offset;
use crate::model::timeline::TimelineId;

/// The file in which the server's manifest is kept, as `pg_basebackup` names it.
pub const MANIFEST_FILE: &str = "backup_manifest";

/// Largest manifest that is taken: about seven million files.
const MANIFEST_BYTES_MAX: usize = 1 << 30;

/// Files come one after the other, so that any number names the one that is open.
const FILE: u32 = 0;

/// A tablespace of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablespaceRow {
    /// Its directory's link below the data directory, `pg_tblspc/<oid>`.
    pub link: String,
    /// Where it lies on the server.
    pub location: String,
}

#[derive(Debug)]
enum Stage {
    /// Between two archives.
    Idle,
    /// Inside one.
    Archive(Archive),
    /// Inside the manifest.
    Manifest,
}

/// The archive that is being received.
#[derive(Debug)]
struct Archive {
    /// What unpacks it, when it comes compressed.
    frame: Option<FrameReader>,
    tar: TarReader,
    /// Of its names.
    prefix: String,
}

/// The file that is being received.
#[derive(Debug)]
struct Open {
    path: String,
    size: u64,
    crc: crc_fast::Digest,
}

/// Turns the archives of one backup into entries.
#[derive(Debug)]
pub struct Entries {
    tablespaces: Vec<TablespaceRow>,
    stage: Stage,
    open: Option<Open>,
    names: HashSet<String>,
    received: HashMap<String, Received>,
    manifest: Vec<u8>,
    /// Attributes for the manifest's file, which comes without any.
    like: Option<EntryMeta>,
}

impl Entries {
    /// For a server with these tablespaces.
    #[must_use]
    pub fn new(tablespaces: Vec<TablespaceRow>) -> Self {
        Self {
            tablespaces,
            stage: Stage::Idle,
            open: None,
            names: HashSet::new(),
            received: HashMap::new(),
            manifest: Vec::new(),
            like: None,
        }
    }

    /// The archive of a tablespace, or of the data directory (`None`), begins: a tar,
    /// or one in an LZ4 frame.
    ///
    /// # Errors
    /// As [`Entries::end_part`], for the part before it.
    pub fn begin_archive(&mut self, link: Option<&str>, compressed: bool) -> Result<()> {
        self.end_part()?;
        self.stage = Stage::Archive(Archive {
            frame: compressed.then(FrameReader::new),
            tar: TarReader::new(),
            prefix: link.map_or(String::new(), |link| format!("{link}/")),
        });
        Ok(())
    }

    /// The server's manifest begins.
    ///
    /// # Errors
    /// As [`Entries::end_part`], for the part before it.
    pub fn begin_manifest(&mut self) -> Result<()> {
        self.end_part()?;
        self.stage = Stage::Manifest;
        Ok(())
    }

    /// The archive or manifest is through.
    ///
    /// # Errors
    /// [`crate::Kind::Failure`] when it ends inside an entry.
    pub fn end_part(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Archive(archive) => {
                archive.frame.map_or(Ok(()), FrameReader::finish)?;
                archive.tar.finish()
            }
            Stage::Idle | Stage::Manifest => Ok(()),
        }
    }

    /// Bytes of the archive or manifest that has begun; what they complete is
    /// appended to `events`.
    ///
    /// # Errors
    /// [`crate::Kind::Failure`] for what is no archive of a PostgreSQL server.
    pub fn data(&mut self, bytes: Bytes, events: &mut VecDeque<BaseEvent>) -> Result<()> {
        let mut stage = std::mem::replace(&mut self.stage, Stage::Idle);
        match &mut stage {
            Stage::Idle => return Err(Error::failure("the server sent data outside of any archive")),
            Stage::Manifest => {
                if self.manifest.len() + bytes.len() > MANIFEST_BYTES_MAX {
                    return Err(Error::failure("the server's backup manifest is larger than 1 GiB"));
                }
                self.manifest.extend_from_slice(&bytes);
            }
            Stage::Archive(Archive { frame, tar, prefix }) => {
                let mut unpacked = |bytes| tar.feed(bytes, |event| self.entry(prefix, event, events));
                match frame {
                    Some(frame) => frame.feed(bytes, unpacked)?,
                    None => unpacked(bytes)?,
                }
            }
        }
        self.stage = stage;
        Ok(())
    }

    fn entry(&mut self, prefix: &str, event: TarEvent, events: &mut VecDeque<BaseEvent>) -> Result<()> {
        match event {
            TarEvent::Data(bytes) => {
                if let Some(open) = &mut self.open {
                    open.crc.update(&bytes);
                }
                events.push_back(BaseEvent::Data { file: FILE, bytes });
            }
            TarEvent::FileEnd => {
                if let Some(open) = self.open.take() {
                    // The algorithm is 32 bits wide.
                    let crc = open.crc.finalize() as u32;
                    self.received.insert(open.path, Received { size: open.size, crc });
                }
                events.push_back(BaseEvent::FileEnd { file: FILE });
            }
            TarEvent::File(meta, size) => {
                let meta = self.name(prefix, meta)?;
                self.like.get_or_insert_with(|| meta.clone());
                let crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
                self.open = Some(Open { path: meta.path.clone(), size, crc });
                events.push_back(BaseEvent::File { file: FILE, meta, size: Some(size) });
            }
            TarEvent::Directory(meta) => {
                let meta = self.name(prefix, meta)?;
                events.push_back(BaseEvent::Directory(meta));
            }
            TarEvent::Symlink(meta, target) => {
                let meta = self.name(prefix, meta)?;
                match self.tablespaces.iter().find(|t| t.link == meta.path) {
                    // `BaseEvent::Start` told of it.
                    Some(known) if known.location == target => {}
                    Some(known) => {
                        return Err(Error::failure(format!(
                            "the server's link {} points to {target:?}, where it listed {:?} as that tablespace",
                            known.link, known.location
                        )));
                    }
                    None => events.push_back(BaseEvent::Symlink(meta, target)),
                }
            }
        }
        Ok(())
    }

    fn name(&mut self, prefix: &str, mut meta: EntryMeta) -> Result<EntryMeta> {
        meta.path.insert_str(0, prefix);
        if meta.path == MANIFEST_FILE || !self.names.insert(meta.path.clone()) {
            return Err(Error::failure(format!("the server sent {:?} twice", meta.path)));
        }
        Ok(meta)
    }

    /// Everything has come: checks it against the server's manifest and appends the
    /// manifest itself and the end to `events`.
    ///
    /// # Errors
    /// [`crate::Kind::Corruption`] naming the file that differs.
    pub fn finish(
        &mut self,
        timeline: TimelineId,
        start: Offset,
        end: Offset,
        events: &mut VecDeque<BaseEvent>,
    ) -> Result<()> {
        self.end_part()?;
        let manifest = Bytes::from(std::mem::take(&mut self.manifest));
        let ranges = server_manifest::check(&manifest, &self.received)?;
        // A standby that changed its timeline lists the older ones too; the server
        // itself ends such a backup with an error when it was promoted meanwhile.
        let covered = ranges.iter().any(|r| r.timeline == timeline && r.end == end)
            && ranges.iter().map(|r| r.start).min() == Some(start);
        if !covered {
            return Err(Error::corruption(format!(
                "the server's backup manifest does not name the log from {start} to {end} of timeline {timeline}"
            )));
        }
        let like = self.like.take();
        let meta = EntryMeta {
            path: MANIFEST_FILE.to_owned(),
            mode: like.as_ref().map_or(0o600, |m| m.mode),
            mtime: like.map_or(0, |m| m.mtime),
        };
        events.push_back(BaseEvent::File { file: FILE, meta, size: Some(manifest.len() as u64) });
        events.push_back(BaseEvent::Data { file: FILE, bytes: manifest });
        events.push_back(BaseEvent::FileEnd { file: FILE });
        events.push_back(BaseEvent::End { end: BaseEnd::Offset(end), time: None });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::server_manifest::tests::manifest;
    use super::super::tar::tests::{file, header};
    use super::*;

    const START: Offset = Offset(0x200_0028);
    const END: Offset = Offset(0x200_0100);

    fn run(sent: &[(&str, &[u8])], announced: &[(&str, &[u8])]) -> Result<VecDeque<BaseEvent>> {
        let row = TablespaceRow { link: "pg_tblspc/16400".into(), location: "/srv/ts".into() };
        let mut entries = Entries::new(vec![row]);
        let mut events = VecDeque::new();
        entries.begin_archive(Some("pg_tblspc/16400"), false)?;
        entries.data(file("PG_15/1", b"one").into(), &mut events)?;
        entries.begin_archive(None, false)?;
        let tar: Vec<u8> = sent.iter().flat_map(|(name, bytes)| file(name, bytes)).collect();
        entries.data([tar, header("pg_tblspc/16400/", b'2', 0, "/srv/ts")].concat().into(), &mut events)?;
        entries.begin_manifest()?;
        let announced = [&[("pg_tblspc/16400/PG_15/1", &b"one"[..])], announced].concat();
        entries.data(manifest(&announced).into(), &mut events)?;
        entries.finish(TimelineId(1), START, END, &mut events)?;
        Ok(events)
    }

    #[test]
    fn names_files_below_their_tablespace_and_keeps_the_servers_manifest() {
        let files: &[(&str, &[u8])] = &[("backup_label", b"x"), ("PG_VERSION", b"15\n")];
        let events = run(files, files).unwrap();
        let names: Vec<&str> = events
            .iter()
            .filter_map(|event| match event {
                BaseEvent::File { meta, .. } | BaseEvent::Symlink(meta, _) => Some(meta.path.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(names, ["pg_tblspc/16400/PG_15/1", "backup_label", "PG_VERSION", "backup_manifest"]);
        assert_eq!(events.back(), Some(&BaseEvent::End { end: BaseEnd::Offset(END), time: None }));
    }

    #[test]
    fn a_backup_that_differs_from_the_manifest_never_ends() {
        let error = run(&[("PG_VERSION", b"14\n")], &[("PG_VERSION", b"15\n")]).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Corruption);
        assert!(error.to_string().contains("PG_VERSION"));
    }

    #[test]
    fn refuses_a_name_that_comes_twice() {
        let twice: &[(&str, &[u8])] = &[("a", b"1"), ("a", b"2")];
        assert!(run(twice, &[("a", b"1")]).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn refuses_data_outside_of_an_archive() {
        assert!(Entries::new(Vec::new()).data(Bytes::from_static(b"x"), &mut VecDeque::new()).is_err());
    }
}
