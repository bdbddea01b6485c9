//! The manifest of a base: what people and planning read of it, and how to lay it out.
//!
//! It is JSON, written after everything it names is durable: a base exists when its
//! manifest does. It ends with its own BLAKE3, so that a manifest cut short or edited
//! by hand is refused:
//!
//! ```text
//! { "format_version": 1, ..., "files": [ ... ],
//! "blake3": "<hash of all bytes before this line>" }
//! ```

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::catalog::BaseInfo;
use crate::error::{Error, Result};
use crate::model::cluster::{ClusterName, Identity};
use crate::model::offset::Offset;
use crate::model::time::Timestamp;
use crate::model::timeline::TimelineId;

use super::chunk::{CHUNK_BYTES, ChunkHash};

/// The format this program writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// A base backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Its name: when it began, in UTC, and four random letters.
    pub id: String,
    /// The cluster it belongs to.
    pub cluster: ClusterName,
    /// The engine's name.
    pub engine: String,
    /// The system's own identity.
    pub system: String,
    /// Major version of the server when the archive was made.
    pub server_version: u32,
    /// The label the server keeps with it.
    pub label: String,
    /// The timeline it was taken on.
    pub timeline: TimelineId,
    /// Replay begins here.
    pub start: Offset,
    /// It is consistent from here on.
    pub end: Offset,
    /// When it began, by the archiver's clock.
    pub began: Timestamp,
    /// When it ended, by the source's clock where it told, else by the archiver's.
    pub ended: Timestamp,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes this base added to the store.
    pub stored_bytes: u64,
    /// Regular files.
    pub file_count: u64,
    /// Tablespaces outside the data directory.
    pub tablespaces: Vec<Tablespace>,
    /// The chunk table: its object's length and hash.
    pub table: Object,
    /// The packs its chunks lie in, its own and older ones. The table counts them
    /// from 0.
    pub packs: Vec<Object>,
    /// Directories, files and links; a directory before what is in it.
    pub files: Vec<File>,
}

/// A directory outside the data directory, linked into it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tablespace {
    /// The link, relative to the data directory (`pg_tblspc/16400`).
    pub link: String,
    /// The directory it pointed to.
    pub target: String,
}

/// An object named by its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    /// BLAKE3 of its bytes.
    pub hash: ChunkHash,
    /// How many.
    pub bytes: u64,
}

/// An entry of the data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Relative to the data directory; in a tablespace, below its link.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Modification time, seconds since the Unix epoch.
    pub mtime: i64,
    /// What it is.
    #[serde(flatten)]
    pub kind: FileKind,
}

/// What a [`File`] is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum FileKind {
    /// A directory.
    Dir,
    /// A regular file of `size` bytes.
    File {
        /// Its bytes.
        size: u64,
        /// Its first chunk in the table; an empty file has none and says where it
        /// would be.
        first_chunk: u32,
    },
    /// A symbolic link.
    Symlink {
        /// What it points to.
        target: String,
    },
}

impl File {
    /// The chunks of a regular file, as indexes into the table.
    #[must_use]
    pub fn chunks(&self) -> std::ops::Range<usize> {
        match self.kind {
            FileKind::File { size, first_chunk } => {
                let first = first_chunk as usize;
                first..first.saturating_add(chunk_count(size))
            }
            _ => 0..0,
        }
    }
}

/// Chunks of a file of `size` bytes.
fn chunk_count(size: u64) -> usize {
    usize::try_from(size.div_ceil(CHUNK_BYTES as u64)).unwrap_or(usize::MAX)
}

impl Manifest {
    /// What planning needs of it.
    #[must_use]
    pub fn info(&self) -> BaseInfo {
        BaseInfo {
            id: self.id.clone(),
            timeline: self.timeline,
            start: self.start,
            end: self.end,
            began: self.began,
            ended: self.ended,
            bytes: self.bytes,
            stored_bytes: self.stored_bytes,
        }
    }

    /// Whether it is of this system.
    ///
    /// # Errors
    /// [`crate::Kind::Corruption`] naming both systems.
    pub fn check_identity(&self, identity: &Identity) -> Result<()> {
        if self.engine == identity.engine && self.system == identity.system {
            return Ok(());
        }
        Err(Error::corruption(format!(
            "base {} is of {} system {}, where the archive is of {} system {}",
            self.id, self.engine, self.system, identity.engine, identity.system
        )))
    }

    /// Its bytes.
    ///
    /// # Errors
    /// [`crate::Kind::Failure`] when it cannot be written as JSON, which is a bug.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let fail = |e| Error::failure(format!("the manifest of base {} cannot be written", self.id)).because(e);
        let head = Self { files: Vec::new(), ..self.clone() };
        let mut out = serde_json::to_vec_pretty(&head).map_err(fail)?;
        // `files` is the last field and still empty: one line for each entry, so that
        // the manifest stays small and can be searched by line. The checksum goes in
        // by hand, since it is of what stands before it.
        while out.last().is_some_and(|b| matches!(b, b'}' | b'\n' | b']')) {
            out.pop();
        }
        for (index, file) in self.files.iter().enumerate() {
            out.extend_from_slice(if index == 0 { b"\n" } else { b",\n" });
            serde_json::to_writer(&mut out, file).map_err(fail)?;
        }
        out.extend_from_slice(b"\n],\n");
        let seal = format!("{SEAL}{}\"\n}}\n", ChunkHash::of(&out));
        out.extend_from_slice(seal.as_bytes());
        Ok(out)
    }

    /// Reads a manifest. `name` names the object in errors.
    ///
    /// # Errors
    /// [`crate::Kind::Corruption`] for anything but a sound manifest.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<Self> {
        let refuse = |flaw: &str| Error::corruption(format!("base manifest {name} {flaw}"));
        let seal_len = SEAL.len() + 64 + 4;
        let (body, seal) = bytes
            .len()
            .checked_sub(seal_len)
            .and_then(|at| bytes.split_at_checked(at))
            .ok_or_else(|| refuse("is cut off"))?;
        if seal != format!("{SEAL}{}\"\n}}\n", ChunkHash::of(body)).as_bytes() {
            return Err(refuse("is cut off or was changed: its checksum is wrong"));
        }
        let body = body.strip_suffix(b",\n").ok_or_else(|| refuse("is not one"))?;
        let json = [body, b"}"].concat();
        #[derive(Deserialize)]
        struct Version {
            format_version: u32,
        }
        let version: Version = serde_json::from_slice(&json).map_err(|e| refuse("is not one").because(e))?;
        if version.format_version != FORMAT_VERSION {
            return Err(refuse(&format!(
                "has format version {}, where this pitr reads {FORMAT_VERSION}",
                version.format_version
            ))
            .hint("was the archive made by a newer pitr?"));
        }
        let manifest: Self = serde_json::from_slice(&json).map_err(|e| refuse("cannot be read").because(e))?;
        manifest.check().map_err(|e| e.context(format!("base manifest {name}")))?;
        Ok(manifest)
    }

    /// What a restore relies on: every name stays inside, once; every parent is a
    /// directory of the base or a tablespace; chunks follow each other.
    fn check(&self) -> Result<()> {
        let mut dirs: HashSet<&str> = HashSet::from([""]);
        for tablespace in &self.tablespaces {
            check_path(&tablespace.link)?;
            if !tablespace.target.starts_with('/') || tablespace.target.contains('\0') {
                return Err(Error::corruption(format!(
                    "tablespace {} points to {:?}, which is no absolute path",
                    tablespace.link, tablespace.target
                )));
            }
            if !dirs.insert(&tablespace.link) {
                return Err(Error::corruption(format!("tablespace {} is named twice", tablespace.link)));
            }
        }
        let mut seen: HashSet<&str> = HashSet::new();
        let mut next = 0;
        for file in &self.files {
            check_path(&file.path)?;
            let parent = file.path.rsplit_once('/').map_or("", |(parent, _)| parent);
            if !dirs.contains(parent) {
                return Err(Error::corruption(format!("{:?} lies in no directory of the base", file.path)));
            }
            if !seen.insert(&file.path) || (dirs.contains(file.path.as_str())) {
                return Err(Error::corruption(format!("{:?} is named twice", file.path)));
            }
            match &file.kind {
                FileKind::Dir => {
                    dirs.insert(&file.path);
                }
                FileKind::File { size, first_chunk } => {
                    if *first_chunk as usize != next {
                        return Err(Error::corruption(format!("the chunks of {:?} do not follow", file.path)));
                    }
                    next = next.saturating_add(chunk_count(*size));
                }
                FileKind::Symlink { .. } => {}
            }
        }
        if let Some(outside) = self.tablespaces.iter().find(|t| {
            let parent = t.link.rsplit_once('/').map_or("", |(parent, _)| parent);
            !self.files.iter().any(|f| f.path == parent && f.kind == FileKind::Dir)
        }) {
            return Err(Error::corruption(format!("tablespace {} lies in no directory of the base", outside.link)));
        }
        Ok(())
    }
}

const SEAL: &str = "\"blake3\": \"";

/// Whether a path is relative, plain and stays inside the data directory.
///
/// # Errors
/// [`crate::Kind::Corruption`] for one that does not.
pub fn check_path(path: &str) -> Result<()> {
    let plain = !path.contains('\0') && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if plain { Ok(()) } else { Err(Error::corruption(format!("path {path:?} is not plain and relative"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, kind: FileKind) -> File {
        File { path: path.into(), mode: 0o600, mtime: 5, kind }
    }

    fn manifest() -> Manifest {
        let object = |name: &[u8]| Object { hash: ChunkHash::of(name), bytes: 9 };
        Manifest {
            format_version: FORMAT_VERSION,
            id: "20261120T212837Z-abcd".into(),
            cluster: "main".parse().unwrap(),
            engine: "postgres".into(),
            system: "7".into(),
            server_version: 15,
            label: "pitr \"x\"".into(),
            timeline: TimelineId(1),
            start: Offset(0x200_0028),
            end: Offset(0x200_0100),
            began: Timestamp(1),
            ended: Timestamp(2),
            bytes: 3 << 20,
            stored_bytes: 9,
            file_count: 3,
            tablespaces: vec![Tablespace { link: "pg_tblspc/16400".into(), target: "/srv/ts".into() }],
            table: object(b"t"),
            packs: vec![object(b"p")],
            files: vec![
                file("pg_tblspc", FileKind::Dir),
                file("pg_tblspc/16400/PG_15", FileKind::Dir),
                file("pg_tblspc/16400/PG_15/1", FileKind::File { size: (2 << 20) + 1, first_chunk: 0 }),
                file("PG_VERSION", FileKind::File { size: 3, first_chunk: 3 }),
                file("empty", FileKind::File { size: 0, first_chunk: 4 }),
                file("link", FileKind::Symlink { target: "PG_VERSION".into() }),
            ],
        }
    }

    #[test]
    fn gives_back_what_was_written_and_is_plain_json() {
        let bytes = manifest().encode().unwrap();
        assert_eq!(Manifest::decode("m", &bytes).unwrap(), manifest());
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["id"], "20261120T212837Z-abcd");
        assert_eq!(json["start"], "0000000002000028");
        assert_eq!(manifest().files[2].chunks(), 0..3);
        assert!(manifest().files[4].chunks().is_empty());
    }

    #[test]
    fn refuses_any_flipped_byte_and_any_other_length() {
        let bytes = manifest().encode().unwrap();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(Manifest::decode("m", &bad).is_err(), "byte {at}");
            assert!(Manifest::decode("m", &bytes[..at]).is_err(), "{at} bytes");
        }
    }

    #[test]
    fn refuses_what_would_leave_the_directory_or_stand_twice() {
        let refused = |change: &dyn Fn(&mut Manifest)| {
            let mut manifest = manifest();
            change(&mut manifest);
            Manifest::decode("m", &manifest.encode().unwrap()).unwrap_err().to_string()
        };
        for path in ["../x", "/etc/passwd", "pg_tblspc/../../x", "", "pg_tblspc//x", "./x", "a\0b", "pg_tblspc/"] {
            assert!(refused(&|m| m.files[5].path = path.into()).contains("not plain"), "{path:?}");
        }
        assert!(refused(&|m| m.files[5].path = "PG_VERSION".into()).contains("twice"));
        assert!(refused(&|m| m.files[5].path = "pg_tblspc/16400".into()).contains("twice"));
        assert!(refused(&|m| m.files[5].path = "link/x".into()).contains("no directory"));
        assert!(refused(&|m| m.files[3].kind = FileKind::File { size: 3, first_chunk: 2 }).contains("do not follow"));
        assert!(refused(&|m| m.tablespaces[0].target = "srv".into()).contains("absolute"));
        assert!(refused(&|m| m.format_version = 2).contains("format version 2"));
    }
}
