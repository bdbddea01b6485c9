//! The archive's log as a source hands it out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use crate::engine::mysql::binlog::event;
use crate::engine::mysql::binlog::fold::{Folded, Folder, Tables};
use crate::engine::mysql::binlog::note::FileNote;
use crate::engine::mysql::binlog::unpack::{Part, Unpacker};
use crate::engine::mysql::flavor::Flavor;
use crate::engine::mysql::gtid::{Gtid, GtidSet, MySqlSet};
use crate::engine::mysql::place::Place;
use crate::engine::mysql::serve::{Executed, Item, LogFeed, LogStream};
use crate::engine::{LogReader, LogSource};
use crate::error::{Error, Kind, Result};
use crate::model::offset::Offset;
use crate::model::position::Position;

/// Hands out the log of a plan, without what the replica has and without what is to be left out.
pub(super) struct Feed {
    flavor: Flavor,
    log: Arc<dyn LogSource>,
    exclude: Vec<Gtid>,
    /// The transactions in the base, of which a replica that counts its way through files says
    /// nothing.
    base: Option<GtidSet>,
    /// Where transactions may be applied several as one: what the tables are.
    folded: Option<Tables>,
    told: Arc<Mutex<Told>>,
}

/// What has been handed out.
struct Told {
    /// Every transaction so far.
    gtids: GtidSet,
    /// Whether a replica has begun.
    opened: bool,
    /// Whether that is all.
    ended: bool,
    /// Where files begin in the log: name, position there, offset.
    files: Vec<(String, u64, Offset)>,
    /// The log could not be read.
    failure: Option<Error>,
    /// Transactions that were to be left out, and were.
    left_out: Vec<Gtid>,
}

impl Feed {
    pub(super) fn new(flavor: Flavor, log: Arc<dyn LogSource>, exclude: Vec<Gtid>, base: Option<GtidSet>) -> Self {
        let told = Told {
            gtids: GtidSet::empty(flavor),
            opened: false,
            ended: false,
            files: Vec::new(),
            failure: None,
            left_out: Vec::new(),
        };
        Self { flavor, log, exclude, base, folded: None, told: Arc::new(Mutex::new(told)) }
    }

    /// Hands out several transactions as one, for a server with such tables that nobody looks at
    /// in between.
    pub(super) fn folding(self, tables: Option<Tables>) -> Self {
        Self { folded: tables, ..self }
    }

    /// Every transaction there is to apply, once the last one has been handed out.
    pub(super) fn all(&self) -> Option<GtidSet> {
        let told = lock(&self.told);
        told.ended.then(|| told.gtids.clone())
    }

    /// Refuses what has been handed out unless it is what was asked for, once all of it has been.
    ///
    /// # Errors
    /// Why the log could not be read; [`Kind::NotRecoverable`] when a transaction that is to be
    /// left out is not there.
    pub(super) fn check(&self) -> Result<()> {
        if let Some(error) = self.failure() {
            return Err(error);
        }
        let told = lock(&self.told);
        match self.exclude.iter().find(|gtid| !told.left_out.contains(gtid)) {
            None => Ok(()),
            Some(gtid) => Err(Error::new(
                Kind::NotRecoverable,
                format!("{gtid}, which is to be left out, is not in the log between the base and the target"),
            )
            .hint("is it in the base already, behind the target, or misspelt?")),
        }
    }

    /// Why the log could not be read.
    pub(super) fn failure(&self) -> Option<Error> {
        lock(&self.told).failure.take()
    }

    /// About where in the log a place in a file lies.
    pub(super) fn offset_of(&self, file: &str, position: u64) -> Option<Offset> {
        let told = lock(&self.told);
        let (_, start, offset) = told.files.iter().rfind(|(name, start, _)| name == file && *start <= position)?;
        Some(Offset(offset.0 + (position - start)))
    }
}

fn lock(told: &Mutex<Told>) -> std::sync::MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl LogFeed for Feed {
    async fn open(&self, executed: &Executed) -> Result<Box<dyn LogStream>> {
        let has = match executed {
            Executed::GtidSet(bytes) => GtidSet::MySql(MySqlSet::decode(bytes)?),
            Executed::GtidPosition(text) => GtidSet::parse(self.flavor, text)?,
            Executed::Place { .. } if self.base.is_some() && std::mem::replace(&mut lock(&self.told).opened, true) => {
                // The place may lie within a transaction, of which the replica has a part.
                let text = "the private server lost its connection to the log in the middle of the replay";
                lock(&self.told).failure.get_or_insert(Error::failure(text).hint("restore again"));
                return Err(Error::failure(text));
            }
            Executed::Place { .. } => match &self.base {
                Some(base) => base.clone(),
                None => {
                    return Err(Error::config("a replica that goes by file and position is not served").hint(
                        "have it go by GTID: MASTER_USE_GTID=slave_pos (MariaDB), SOURCE_AUTO_POSITION=1 (MySQL)",
                    ));
                }
            },
        };
        let flavor = self.flavor;
        let covers = |before: &Position| Place::parse(before, flavor).is_ok_and(|place| has.covers(&place.gtids));
        let reader = self.log.open(&covers).await?;
        let (exclude, told) = (self.exclude.clone(), Arc::clone(&self.told));
        let is_excluded: Excluded = Box::new(move |gtid, place| {
            let mut told = lock(&told);
            if gtid.is_some_and(|gtid| has.contains(gtid)) {
                return true;
            }
            let Some((file, position)) = place else {
                // Passed over it would be missing, without a word.
                told.failure.get_or_insert_with(|| fileless(gtid));
                return true;
            };
            let Some(gtid) = gtid else {
                told.failure.get_or_insert_with(|| unnamed(file, position));
                return true;
            };
            if exclude.contains(gtid) {
                told.left_out.push(gtid.clone());
                return true;
            }
            // The other flavour's GTIDs are in no log of this one.
            let _ = told.gtids.add(gtid);
            false
        });
        Ok(Box::new(Stream {
            reader,
            unpacker: Unpacker::new(is_excluded),
            folder: self.folded.map(Folder::new),
            items: VecDeque::new(),
            told: Arc::clone(&self.told),
        }))
    }
}

type Excluded = Box<dyn FnMut(Option<&Gtid>, Option<(&FileNote, u64)>) -> bool + Send>;

/// A transaction that is wanted stands before the first place that says which file the log is of.
fn fileless(gtid: Option<&Gtid>) -> Error {
    let what = gtid.map_or_else(|| "a transaction without a GTID".to_owned(), ToString::to_string);
    Error::corruption(format!("the log begins with {what}, and does not say in which file that is"))
        .hint("is log before it missing or damaged? `pitr verify` tells")
}

/// By name alone the private server is told apart what it has from what it lacks.
fn unnamed(file: &FileNote, position: u64) -> Error {
    Error::new(
        Kind::NotRecoverable,
        format!(
            "the transaction at {}:{position} has no GTID, as with gtid_mode=OFF, and cannot be replayed",
            file.name
        ),
    )
    .hint("restore to a point before it; `pitr export` gives the rest as files for mysqlbinlog")
}

impl From<Folded<'_>> for Item {
    fn from(folded: Folded<'_>) -> Self {
        match folded {
            Folded::Log(bytes) => Self::Log(Bytes::copy_from_slice(bytes)),
            Folded::LeftOut(bytes) => Self::LeftOut(bytes),
        }
    }
}

struct Stream {
    reader: Box<dyn LogReader>,
    unpacker: Unpacker<Excluded>,
    folder: Option<Folder>,
    items: VecDeque<Item>,
    told: Arc<Mutex<Told>>,
}

#[async_trait]
impl LogStream for Stream {
    async fn next(&mut self) -> Result<Option<Item>> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Ok(Some(item));
            }
            let piece = match self.reader.next().await {
                Ok(Some(piece)) => piece,
                Ok(None) => {
                    if let Some(folder) = &mut self.folder {
                        let items = &mut self.items;
                        folder.flush(&mut |folded| items.push_back(folded.into()));
                    }
                    if let Some(item) = self.items.pop_front() {
                        return Ok(Some(item));
                    }
                    lock(&self.told).ended = true;
                    return Ok(None);
                }
                Err(error) => {
                    let text = error.to_string();
                    lock(&self.told).failure.get_or_insert(error);
                    return Err(Error::failure(text));
                }
            };
            let (items, folder, told) = (&mut self.items, &mut self.folder, &self.told);
            let base = piece.bytes.as_ptr() as usize;
            let mut given = 0;
            self.unpacker.feed(&piece.bytes, &mut |part| {
                match part {
                    Part::File { file, description } => {
                        let at = Offset(piece.start.0 + given);
                        lock(told).files.push((file.name.clone(), file.position, at));
                        if let Some(folder) = folder {
                            let checksums = event::checksums(&description)?;
                            folder.begin_file(checksums, &mut |folded| items.push_back(folded.into()));
                        }
                        items.push_back(Item::File {
                            name: file.name,
                            format_description: description,
                            position: file.position,
                        });
                    }
                    Part::Log(bytes) => {
                        // Mostly a part of the piece, which then need not be copied.
                        let from = (bytes.as_ptr() as usize).wrapping_sub(base);
                        let within = from.checked_add(bytes.len()).is_some_and(|end| end <= piece.bytes.len());
                        given = if within { (from + bytes.len()) as u64 } else { given };
                        match folder {
                            Some(folder) => folder.feed(bytes, &mut |folded| items.push_back(folded.into()))?,
                            None if within => items.push_back(Item::Log(piece.bytes.slice_ref(bytes))),
                            None => items.push_back(Item::Log(Bytes::copy_from_slice(bytes))),
                        }
                    }
                }
                Ok(())
            })?;
            if let Some(failure) = &lock(&self.told).failure {
                return Err(Error::failure(failure.to_string()));
            }
        }
    }
}
