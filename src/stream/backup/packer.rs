//! The part of a backup that computes: names chunks, finds what the last base has of
//! them, and packs the rest. Runs on a thread of its own.
//!
//! What becomes of a chunk, first match:
//! 1. the base before holds it, at the same place or elsewhere: refer to it;
//! 2. this base holds it already: refer to it;
//! 3. the base before has a chunk at the same place of which at most half the blocks
//!    changed: a delta against that chunk's anchor;
//! 4. a whole chunk.
//!
//! Nothing here makes a base worse than the one before: a pack of an older base that
//! is missing or unsound is left out of use, and its chunks are stored again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::base::chunk::{self, BlockHash, Blocks, ChunkHash};
use crate::base::load::Base;
use crate::base::manifest::Object;
use crate::base::pack::{Anchor, Footer, PackWriter, TRAILER_BYTES, Trailer};
use crate::base::table::{ChunkRecord, Place, Table};
use crate::catalog::layout::{Layout, ObjectName};
use crate::error::{Error, Result};
use crate::store::{Part, Store};

/// Memory for footers of older packs, in bytes. A backup meets the chunks in about
/// the order of the one before, so few are needed at a time.
const FOOTERS_BYTES_MAX: usize = 8 << 20;

/// Bytes of a pack's end to read at once: footer and trailer of an ordinary pack.
const FOOTER_GUESS: u64 = 512 << 10;

/// What the packer is told.
pub(super) enum Job {
    /// The next chunk.
    Chunk {
        /// Its bytes; the buffer comes back through the pool.
        raw: Vec<u8>,
        /// Its place in the base before, as an index into that base's table.
        before: Option<usize>,
    },
    /// There are no more chunks. A channel that closes without this is a backup given
    /// up.
    Finish,
}

/// A closed pack on its way to the store.
pub(super) struct ClosedPack {
    pub(super) hash: ChunkHash,
    pub(super) bytes: Vec<u8>,
}

/// What the packer has made.
pub(super) struct Packed {
    pub(super) table: Table,
    pub(super) packs: Vec<Object>,
    /// Which of `packs` are older than this base.
    pub(super) older: Vec<Object>,
    /// Bytes of the new ones.
    pub(super) new_bytes: u64,
}

/// Where the packer's input comes from and its output goes.
pub(super) struct Channels {
    pub(super) jobs: mpsc::Receiver<Job>,
    pub(super) buffers: mpsc::UnboundedSender<Vec<u8>>,
    pub(super) packs: mpsc::Sender<ClosedPack>,
    pub(super) pack_buffers: mpsc::UnboundedReceiver<Vec<u8>>,
}

/// The older base and which of its packs may be used.
pub(super) struct Older {
    pub(super) base: Base,
    pub(super) usable: Vec<bool>,
}

pub(super) struct Packer {
    store: Arc<dyn Store>,
    layout: Layout,
    older: Option<Older>,
    /// First half of a chunk's name to its index in the older base's table.
    older_chunks: HashMap<u64, u32>,
    /// The older base's pack to this base's, for those in use.
    older_packs: HashMap<u32, u32>,
    footers: Footers,
    writer: PackWriter,
    /// Index of the open pack, when it holds anything.
    open: Option<u32>,
    table: Table,
    /// As `older_chunks`, for this base.
    chunks: HashMap<u64, u32>,
    packs: Vec<Object>,
    new_bytes: u64,
}

/// A key for lookups; what is found is compared with the whole name.
fn key(hash: &ChunkHash) -> u64 {
    hash.0.first_chunk().map_or(0, |b| u64::from_le_bytes(*b))
}

impl Packer {
    pub(super) fn new(store: Arc<dyn Store>, layout: Layout, older: Option<Older>, buffer: Vec<u8>) -> Self {
        let older_chunks = older.as_ref().map_or_else(HashMap::new, |older| {
            (0..).zip(&older.base.table.chunks).map(|(index, chunk)| (key(&chunk.hash), index)).collect()
        });
        Self {
            store,
            layout,
            older,
            older_chunks,
            older_packs: HashMap::new(),
            footers: Footers::default(),
            writer: PackWriter::new(buffer),
            open: None,
            table: Table::default(),
            chunks: HashMap::new(),
            packs: Vec::new(),
            new_bytes: 0,
        }
    }

    /// Packs until [`Job::Finish`]. Blocks; to be run on a thread where that is
    /// allowed.
    pub(super) fn run(mut self, mut channels: Channels, runtime: &Handle) -> Result<Packed> {
        let stopped = || Error::failure("the backup was given up");
        let (mut blocks, mut gathered) = (Vec::new(), Vec::new());
        loop {
            match channels.jobs.blocking_recv() {
                None => return Err(stopped()),
                Some(Job::Chunk { raw, before }) => {
                    self.chunk(&raw, before, runtime, &mut blocks, &mut gathered)?;
                    // Nobody waits for buffers once the last chunk was sent.
                    let _ = channels.buffers.send(raw);
                    if self.writer.is_full() {
                        self.close_pack(&mut channels).ok_or_else(stopped)?;
                    }
                }
                Some(Job::Finish) => break,
            }
        }
        if !self.writer.is_empty() {
            self.close_pack(&mut channels).ok_or_else(stopped)?;
        }
        let older = self.older_packs.values().filter_map(|&index| self.packs.get(index as usize).cloned()).collect();
        Ok(Packed { table: self.table, packs: self.packs, older, new_bytes: self.new_bytes })
    }

    /// `None` when nobody takes packs any more.
    fn close_pack(&mut self, channels: &mut Channels) -> Option<()> {
        let buffer = channels.pack_buffers.blocking_recv()?;
        let (hash, bytes) = self.writer.finish(buffer);
        self.new_bytes += bytes.len() as u64;
        if let Some(object) = self.open.take().and_then(|index| self.packs.get_mut(index as usize)) {
            *object = Object { hash, bytes: bytes.len() as u64 };
        }
        channels.packs.blocking_send(ClosedPack { hash, bytes }).ok()
    }

    fn chunk(
        &mut self,
        raw: &[u8],
        before: Option<usize>,
        runtime: &Handle,
        blocks: &mut Vec<BlockHash>,
        gathered: &mut Vec<u8>,
    ) -> Result<()> {
        let hash = chunk::digest(raw, blocks);
        let before = before.and_then(|index| self.older_record(index));
        let same = before.filter(|r| r.hash == hash).or_else(|| {
            let index = *self.older_chunks.get(&key(&hash))?;
            self.older_record(index as usize).filter(|r| r.hash == hash)
        });
        let record = if let Some(same) = same {
            ChunkRecord { whole: self.refer(same.whole), delta: same.delta.map(|d| self.refer(d)), ..same }
        } else if let Some(had) = self.held(&hash) {
            had
        } else if let Some((place, anchor, changed)) = self.delta_base(before, blocks, runtime) {
            gathered.clear();
            changed.gather(raw, gathered);
            let extent = self.writer.add_delta(raw.len(), &hash, &anchor.hash, changed, gathered);
            let delta = Some(Place { pack: self.open_pack(), extent });
            ChunkRecord { hash, raw_len: raw.len() as u32, whole: self.refer(place), delta }
        } else {
            let extent = self.writer.add_whole(raw, &hash, blocks);
            let whole = Place { pack: self.open_pack(), extent };
            ChunkRecord { hash, raw_len: raw.len() as u32, whole, delta: None }
        };
        let index = u32::try_from(self.table.chunks.len())
            .map_err(|_| Error::failure("the database has more than 4 PiB, which one base cannot hold"))?;
        self.chunks.insert(key(&hash), index);
        self.table.chunks.push(record);
        Ok(())
    }

    /// A chunk of the older base, when all it is read from may be used.
    fn older_record(&self, index: usize) -> Option<ChunkRecord> {
        let older = self.older.as_ref()?;
        let record = older.base.table.chunks.get(index)?;
        record.places().all(|p| older.usable.get(p.pack as usize) == Some(&true)).then_some(*record)
    }

    /// A chunk this base holds already.
    fn held(&self, hash: &ChunkHash) -> Option<ChunkRecord> {
        let record = self.table.chunks.get(*self.chunks.get(&key(hash))? as usize)?;
        (record.hash == *hash).then_some(*record)
    }

    /// A place of the older base in terms of this base's packs.
    fn refer(&mut self, place: Place) -> Place {
        let packs = &mut self.packs;
        let older = self.older.as_ref().and_then(|o| o.base.manifest.packs.get(place.pack as usize));
        let pack = *self.older_packs.entry(place.pack).or_insert_with(|| {
            packs.extend(older.cloned());
            (packs.len() - 1) as u32
        });
        Place { pack, ..place }
    }

    fn open_pack(&mut self) -> u32 {
        let packs = &mut self.packs;
        *self.open.get_or_insert_with(|| {
            // Name and size are known when it is closed.
            packs.push(Object { hash: ChunkHash([0; 32]), bytes: 0 });
            (packs.len() - 1) as u32
        })
    }

    /// What a delta of a chunk with these `blocks` would be against, if it pays.
    fn delta_base(
        &mut self,
        before: Option<ChunkRecord>,
        blocks: &[BlockHash],
        runtime: &Handle,
    ) -> Option<(Place, Anchor, Blocks)> {
        // With a single block there is nothing to keep.
        let before = before.filter(|_| blocks.len() > 1)?;
        let anchor = self.anchor(before.whole, runtime)?;
        let changed = Blocks::changed(&anchor.blocks, blocks);
        (2 * changed.count() <= blocks.len()).then_some((before.whole, anchor, changed))
    }

    fn anchor(&mut self, place: Place, runtime: &Handle) -> Option<Anchor> {
        let older = self.older.as_mut()?;
        if let Some(footer) = self.footers.get(place.pack) {
            return footer.anchor(place.extent.offset);
        }
        let object = older.base.manifest.packs.get(place.pack as usize)?;
        let name = self.layout.name(&ObjectName::Pack(object.hash.0));
        match runtime.block_on(read_footer(&*self.store, &name)) {
            Ok(footer) => self.footers.put(place.pack, footer).anchor(place.extent.offset),
            Err(error) => {
                tracing::warn!(%error, "an older pack cannot be built upon; its chunks are stored again");
                if let Some(usable) = older.usable.get_mut(place.pack as usize) {
                    *usable = false;
                }
                None
            }
        }
    }
}

/// Reads a pack's footer.
async fn read_footer(store: &dyn Store, name: &str) -> Result<Footer> {
    let missing = || Error::corruption(format!("pack {name} is missing"));
    let last = store.get(name, Part::Last(FOOTER_GUESS)).await?.ok_or_else(missing)?;
    let want = Trailer::parse(name, &last)?.footer_len + TRAILER_BYTES;
    if want <= last.len() {
        return Footer::parse(name, &last);
    }
    let last = store.get(name, Part::Last(want as u64)).await?.ok_or_else(missing)?;
    Footer::parse(name, &last)
}

/// The footers read last, oldest out.
#[derive(Default)]
struct Footers {
    order: VecDeque<u32>,
    by_pack: HashMap<u32, Footer>,
    weight: usize,
}

impl Footers {
    fn get(&self, pack: u32) -> Option<&Footer> {
        self.by_pack.get(&pack)
    }

    fn put(&mut self, pack: u32, footer: Footer) -> &Footer {
        self.weight += footer.weight();
        while self.weight > FOOTERS_BYTES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.weight -= self.by_pack.remove(&oldest).map_or(0, |f| f.weight());
        }
        self.order.push_back(pack);
        self.by_pack.entry(pack).insert_entry(footer).into_mut()
    }
}
