//! A base backup into the store: entries to chunks to packs to manifest.
//!
//! ```text
//! BaseStream --1 MiB buffers--> packer (own thread) --packs--> store, several at once
//!                                     |
//!                                  table, then manifest
//! ```
//! Order of writes: packs, each durable before it counts; the chunk table; last the
//! manifest, which makes the base exist. A crash before that leaves packs that nothing
//! names, which `expire` collects. The manifest is written only after the stream has
//! ended with [`BaseEvent::End`], that is after everything matched what the server
//! said of it.
//!
//! Memory: [`CHUNK_BUFFERS`] chunks, [`PACK_BUFFERS`] packs, and about 80 bytes for
//! each chunk of this base and the one before.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::packer::{Channels, ClosedPack, Job, Older, Packed, Packer};
use crate::base::chunk::{CHUNK_BYTES, ChunkHash};
use crate::base::load::Base;
use crate::base::manifest::{FORMAT_VERSION, File, FileKind, Manifest, Object, Tablespace};
use crate::base::pack::PACK_BYTES;
use crate::base::table::{ChunkRecord, Table};
use crate::catalog::layout::{Layout, ObjectName};
use crate::engine::{BaseEnd, BaseEvent, BaseStream, EntryMeta};
use crate::error::{Error, Result};
use crate::model::cluster::Identity;
use crate::model::offset::Offset;
use crate::model::position::Position;
use crate::model::time::{Clock, Timestamp};
use crate::model::timeline::TimelineId;
use crate::store::{Created, Store};

mod packer;
#[cfg(test)]
pub(crate) mod tests;

/// Chunks between the socket and the packer.
const CHUNK_BUFFERS: usize = 8;

/// Packs in memory: one that is filled, the others on their way to the store.
const PACK_BUFFERS: usize = 3;

/// How many packs of the base before are looked up at once.
const HEADS_AT_ONCE: usize = 16;

/// A base backup that is about to be taken.
pub struct Backup<'a> {
    /// Where it goes.
    pub store: Arc<dyn Store>,
    /// Names of the cluster's objects.
    pub layout: &'a Layout,
    /// Which system it is of.
    pub identity: &'a Identity,
    /// The label the server was given.
    pub label: &'a str,
    /// Finds a position in the archive's log: where a base is consistent that only tells it
    /// in the engine's words.
    pub find: &'a dyn Find,
    /// Tells when it began and ended.
    pub clock: &'a dyn Clock,
    /// Told after each chunk how many bytes of how many (as the server guessed) have
    /// come.
    pub progress: &'a (dyn Fn(u64, Option<u64>) + Send + Sync),
}

/// Finds positions in the archive's log.
#[async_trait]
pub trait Find: Send + Sync {
    /// The offset behind the last transaction before `position`, once the archive holds it.
    ///
    /// # Errors
    /// [`crate::Kind::Partial`] when it does not in time.
    async fn find(&self, position: &Position) -> Result<(TimelineId, Offset)>;
}

impl Backup<'_> {
    /// Takes it from `stream`, storing only what `previous` does not hold.
    ///
    /// # Errors
    /// What the stream or the store says; nothing is published then.
    pub async fn take(&self, stream: Box<dyn BaseStream>, previous: Option<Base>) -> Result<Manifest> {
        let began = self.clock.now();
        let older = match previous {
            Some(base) => Some(self.usable(base).await?),
            None => None,
        };
        let places = older.as_ref().map_or_else(HashMap::new, |older| places(&older.base.manifest));

        let (jobs_in, jobs) = mpsc::channel(CHUNK_BUFFERS);
        let (buffers, buffers_out) = mpsc::unbounded_channel();
        let (packs, packs_out) = mpsc::channel(1);
        let (pack_buffers_in, pack_buffers) = mpsc::unbounded_channel();
        for _ in 0..CHUNK_BUFFERS {
            let _ = buffers.send(Vec::new());
        }
        for _ in 1..PACK_BUFFERS {
            let _ = pack_buffers_in.send(pack_buffer());
        }
        let packer = Packer::new(self.store.clone(), self.layout.clone(), older, pack_buffer());
        let channels = Channels { jobs, buffers, packs, pack_buffers };
        let runtime = Handle::current();
        let packer = tokio::task::spawn_blocking(move || packer.run(channels, &runtime));

        let receive = self.receive(stream, &places, jobs_in, buffers_out);
        let upload = self.upload(packs_out, pack_buffers_in);
        // Each ends when its neighbour does; of several errors the first in the order
        // of causes counts: a store that fails stops the packer, which stops receiving.
        let (received, uploaded) = tokio::join!(receive, upload);
        let packed = packer.await.map_err(|e| Error::failure("the packing thread died").because(e))?;
        uploaded?;
        let (received, packed) = match (received, packed) {
            (Ok(Some(received)), Ok(packed)) => (received, packed),
            (Err(error), _) | (_, Err(error)) => return Err(error),
            (Ok(None), Ok(_)) => return Err(Error::failure("the packing thread ended early")),
        };
        self.publish(began, received, packed).await
    }

    /// Which packs of the base before are still there with the size they had. What is
    /// not is stored again, so that a damaged base does not damage the next one.
    async fn usable(&self, base: Base) -> Result<Older> {
        // Owned packs: a borrowing closure here makes the future unfit for `spawn`.
        let usable: Vec<bool> = stream::iter(base.manifest.packs.clone())
            .map(|pack| async move { self.is_there(&pack).await })
            .buffered(HEADS_AT_ONCE)
            .try_collect()
            .await?;
        let lost = usable.iter().filter(|&&there| !there).count();
        if lost > 0 {
            tracing::warn!(base = %base.manifest.id, lost, "packs of the base before are missing; its chunks are stored again");
        }
        Ok(Older { base, usable })
    }

    async fn is_there(&self, pack: &Object) -> Result<bool> {
        let name = self.layout.name(&ObjectName::Pack(pack.hash.0));
        Ok(self.store.head(&name).await?.is_some_and(|info| info.bytes == pack.bytes))
    }

    /// Cuts the stream into chunks. `None` when the packer has stopped taking them.
    async fn receive(
        &self,
        mut stream: Box<dyn BaseStream>,
        places: &HashMap<String, std::ops::Range<usize>>,
        jobs: mpsc::Sender<Job>,
        mut buffers: mpsc::UnboundedReceiver<Vec<u8>>,
    ) -> Result<Option<Received>> {
        let mut received = Received::default();
        let mut ended = false;
        let mut open: HashMap<u32, OpenFile> = HashMap::new();
        while let Some(event) = stream.next().await? {
            match event {
                BaseEvent::Start { start, estimated_bytes, tablespaces } => {
                    received.begun = start;
                    received.estimated_bytes = estimated_bytes;
                    received.tablespaces =
                        tablespaces.into_iter().map(|(link, target)| Tablespace { link, target }).collect();
                }
                BaseEvent::Directory(meta) => received.files.push(file(meta, FileKind::Dir)),
                BaseEvent::Symlink(meta, target) => received.files.push(file(meta, FileKind::Symlink { target })),
                BaseEvent::File { file: id, meta, size } => {
                    let before = places.get(&meta.path).cloned().unwrap_or(0..0);
                    let index = received.files.len();
                    received.files.push(file(meta, FileKind::File { size: 0, first_chunk: 0 }));
                    received.file_count += 1;
                    open.insert(id, OpenFile { index, announced: size, size: 0, before, raw: None });
                }
                BaseEvent::Data { file, mut bytes } => {
                    let Some(now) = open.get(&file) else { return Err(unopened()) };
                    if now.announced.is_some_and(|announced| announced - now.size < bytes.len() as u64) {
                        return Err(received.unequal(now.index, "more"));
                    }
                    let filling = open.values().filter(|file| file.raw.is_some()).count();
                    let Some(now) = open.get_mut(&file) else { return Err(unopened()) };
                    now.size += bytes.len() as u64;
                    while !bytes.is_empty() {
                        let mut buffer = match now.raw.take() {
                            Some(buffer) => buffer,
                            None => match empty(&mut buffers, filling).await {
                                Some(buffer) => buffer,
                                None => return Ok(None),
                            },
                        };
                        let take = bytes.len().min(CHUNK_BYTES - buffer.len());
                        buffer.extend_from_slice(&bytes.split_to(take));
                        if buffer.len() < CHUNK_BYTES {
                            now.raw = Some(buffer);
                        } else if !self.send(&mut received, now, &jobs, buffer).await? {
                            return Ok(None);
                        }
                    }
                }
                BaseEvent::FileEnd { file } => {
                    let Some(mut now) = open.remove(&file) else { return Err(unopened()) };
                    if now.announced.is_some_and(|announced| announced != now.size) {
                        return Err(received.unequal(now.index, "fewer"));
                    }
                    if let Some(buffer) = now.raw.take()
                        && !self.send(&mut received, &mut now, &jobs, buffer).await?
                    {
                        return Ok(None);
                    }
                    received.bytes += now.size;
                    if let Some(FileKind::File { size, .. }) =
                        received.files.get_mut(now.index).map(|file| &mut file.kind)
                    {
                        *size = now.size;
                    }
                }
                BaseEvent::End { end, time } => {
                    received.end = Some(end);
                    received.ended = Some(time.unwrap_or_else(|| self.clock.now()));
                    ended = true;
                }
            }
        }
        if !ended || !open.is_empty() {
            return Err(Error::failure("the base backup's stream stopped before its end"));
        }
        Ok(jobs.send(Job::Finish).await.is_ok().then_some(received))
    }

    /// Gives a chunk to the packer; `false` when it takes none any more.
    async fn send(
        &self,
        received: &mut Received,
        file: &mut OpenFile,
        jobs: &mpsc::Sender<Job>,
        raw: Vec<u8>,
    ) -> Result<bool> {
        received
            .chunks
            .push(u32::try_from(file.index).map_err(|_| Error::failure("the database has more than 4 billion files"))?);
        received.done += raw.len() as u64;
        (self.progress)(received.done, received.estimated_bytes);
        Ok(jobs.send(Job::Chunk { raw, before: file.before.next() }).await.is_ok())
    }

    /// Puts packs into the store while the next ones are filled.
    async fn upload(
        &self,
        mut packs: mpsc::Receiver<ClosedPack>,
        buffers: mpsc::UnboundedSender<Vec<u8>>,
    ) -> Result<()> {
        let mut running: JoinSet<Result<Option<Vec<u8>>>> = JoinSet::new();
        loop {
            tokio::select! {
                pack = packs.recv() => match pack {
                    Some(pack) => {
                        let (store, name) = (self.store.clone(), self.layout.name(&ObjectName::Pack(pack.hash.0)));
                        running.spawn(async move { create_pack(&*store, &name, pack.bytes).await });
                    }
                    None => break,
                },
                Some(done) = running.join_next() => {
                    // The packer waits for buffers: one for each pack that is through.
                    let buffer = finished(done)?.unwrap_or_else(pack_buffer);
                    let _ = buffers.send(buffer);
                }
            }
        }
        while let Some(done) = running.join_next().await {
            finished(done)?;
        }
        Ok(())
    }

    async fn publish(&self, began: Timestamp, mut received: Received, packed: Packed) -> Result<Manifest> {
        // `expire` may have run meanwhile and not known that we build upon them.
        // Owned packs: a closure that borrows them makes the future unfit for `spawn`.
        let mut heads = stream::iter(packed.older.clone())
            .map(|pack| async move { self.is_there(&pack).await.map(|there| (pack, there)) })
            .buffered(HEADS_AT_ONCE);
        while let Some((pack, there)) = heads.try_next().await? {
            if !there {
                return Err(Error::corruption(format!("pack {} went away while a base was built upon it", pack.hash))
                    .hint("did `pitr expire` run at the same time? take the backup again"));
            }
        }
        let (timeline, start, end) = match (received.begun, received.end.take()) {
            (Some((timeline, start)), Some(BaseEnd::Offset(end))) => (timeline, start, end),
            (_, Some(BaseEnd::Position(position))) => {
                let (timeline, at) = self.find.find(&position).await?;
                (timeline, at, at)
            }
            (_, Some(BaseEnd::Between { start, end })) => {
                let (timeline, from) = self.find.find(&start).await?;
                let (end_timeline, to) = self.find.find(&end).await?;
                if end_timeline != timeline {
                    return Err(Error::failure(format!(
                        "the base backup began on timeline {timeline} and ended on timeline {end_timeline}"
                    ))
                    .hint("the archive's source changed meanwhile: take the backup again"));
                }
                (timeline, from, to)
            }
            _ => return Err(Error::failure("the base backup's stream never said where it begins and ends")),
        };
        let id = new_id(began);
        let table = Bytes::from(received.in_order_of_files(packed.table)?.encode());
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            id: id.clone(),
            cluster: self.layout.cluster().clone(),
            engine: self.identity.engine.clone(),
            system: self.identity.system.clone(),
            server_version: self.identity.server_version,
            label: self.label.to_owned(),
            timeline,
            start,
            end,
            began,
            ended: received.ended.unwrap_or(began),
            bytes: received.bytes,
            stored_bytes: packed.new_bytes + table.len() as u64,
            file_count: received.file_count,
            tablespaces: received.tablespaces,
            table: Object { hash: ChunkHash::of(&table), bytes: table.len() as u64 },
            packs: packed.packs,
            files: received.files,
        };
        let name = self.layout.name(&ObjectName::BaseManifest(id.clone()));
        let bytes = manifest.encode()?;
        // What could not be restored must not be published.
        Manifest::decode(&name, &bytes)?;
        self.store.create(&self.layout.name(&ObjectName::BaseChunks(id)), vec![table]).await?;
        self.store.create(&name, vec![Bytes::from(bytes)]).await?;
        Ok(manifest)
    }
}

/// What came out of the stream, but for the chunks.
#[derive(Default)]
struct Received {
    /// Timeline and start, once the stream has begun.
    begun: Option<(TimelineId, Offset)>,
    end: Option<BaseEnd>,
    ended: Option<Timestamp>,
    estimated_bytes: Option<u64>,
    tablespaces: Vec<Tablespace>,
    files: Vec<File>,
    file_count: u64,
    bytes: u64,
    /// Of each chunk, in the order of their coming, the file.
    chunks: Vec<u32>,
    done: u64,
}

/// A file whose bytes are coming.
struct OpenFile {
    /// Its place among the files.
    index: usize,
    announced: Option<u64>,
    /// Bytes that have come.
    size: u64,
    /// What the base before has at the place of the chunks to come.
    before: std::ops::Range<usize>,
    /// The chunk being filled.
    raw: Option<Vec<u8>>,
}

impl Received {
    fn unequal(&self, index: usize, how: &str) -> Error {
        let path = self.files.get(index).map_or("", |f| f.path.as_str());
        Error::failure(format!("{path} came with {how} bytes than the stream announced"))
    }

    /// Brings the chunks into the order of the files, which may have come side by side, and
    /// tells each file where its own begin.
    fn in_order_of_files(&mut self, table: Table) -> Result<Table> {
        let mut order: Vec<(u32, ChunkRecord)> = self.chunks.iter().copied().zip(table.chunks).collect();
        // Stable: the chunks of one file came in order.
        order.sort_by_key(|(file, _)| *file);
        let mut next = 0;
        for (index, file) in self.files.iter_mut().enumerate() {
            if let FileKind::File { first_chunk, .. } = &mut file.kind {
                *first_chunk = u32::try_from(next)
                    .map_err(|_| Error::failure("the database has more than 4 PiB, which one base cannot hold"))?;
                next +=
                    order.get(next..).unwrap_or_default().iter().take_while(|(of, _)| *of as usize == index).count();
            }
        }
        Ok(Table { chunks: order.into_iter().map(|(_, chunk)| chunk).collect() })
    }
}

fn unopened() -> Error {
    Error::failure("the base backup's stream gave bytes of no file")
}

/// A buffer for a chunk. Each of several files that come side by side holds one; where they
/// hold all there are, there is one more.
async fn empty(buffers: &mut mpsc::UnboundedReceiver<Vec<u8>>, held: usize) -> Option<Vec<u8>> {
    let mut buffer = if held + 1 < CHUNK_BUFFERS {
        buffers.recv().await?
    } else {
        match buffers.try_recv() {
            Ok(buffer) => buffer,
            Err(mpsc::error::TryRecvError::Empty) => Vec::new(),
            Err(mpsc::error::TryRecvError::Disconnected) => return None,
        }
    };
    buffer.clear();
    buffer.reserve_exact(CHUNK_BYTES);
    Some(buffer)
}

fn file(meta: EntryMeta, kind: FileKind) -> File {
    File { path: meta.path, mode: meta.mode, mtime: meta.mtime, kind }
}

/// Path to chunks, for every file of a base.
fn places(manifest: &Manifest) -> HashMap<String, std::ops::Range<usize>> {
    manifest.files.iter().filter(|f| !f.chunks().is_empty()).map(|f| (f.path.clone(), f.chunks())).collect()
}

fn pack_buffer() -> Vec<u8> {
    Vec::with_capacity(PACK_BYTES + 2 * CHUNK_BYTES)
}

/// Creates a pack; its buffer comes back when nobody else holds it.
async fn create_pack(store: &dyn Store, name: &str, bytes: Vec<u8>) -> Result<Option<Vec<u8>>> {
    let bytes = Bytes::from(bytes);
    match store.create(name, vec![bytes.clone()]).await? {
        Created::New | Created::Same => {}
    }
    Ok(bytes.try_into_mut().ok().map(Vec::from))
}

fn finished<T>(done: Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    done.map_err(|e| Error::failure("a task that wrote a pack died").because(e))?
}

/// When it began, to the second, and four letters or digits by chance.
fn new_id(began: Timestamp) -> String {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let seconds = jiff::Timestamp::from_second(began.0.div_euclid(1_000_000)).unwrap_or_default();
    let mut chance = rand::random::<u32>();
    let mut id = seconds.strftime("%Y%m%dT%H%M%SZ-").to_string();
    for _ in 0..4 {
        let (rest, digit) = (chance / 36, chance % 36);
        id.push(char::from(LETTERS.get(digit as usize).copied().unwrap_or(b'a')));
        chance = rest;
    }
    id
}
