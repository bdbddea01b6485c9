//! Whole backups from a stream that is told what to say, into a store in memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;

use super::*;
use crate::base::chunk::BLOCK_BYTES;
use crate::base::pack;
use crate::error::Kind;
use crate::store::Part;
use crate::store::memory::{Fault, MemoryStore};

/// The file whose bytes come.
const FILE: u32 = 0;

struct At(i64);

impl Clock for At {
    fn now(&self) -> Timestamp {
        Timestamp(self.0)
    }
}

/// Says these events, then `end`.
struct Said {
    events: VecDeque<BaseEvent>,
    end: Option<Error>,
}

#[async_trait]
impl BaseStream for Said {
    async fn next(&mut self) -> Result<Option<BaseEvent>> {
        match self.events.pop_front() {
            Some(event) => Ok(Some(event)),
            None => self.end.take().map_or(Ok(None), Err),
        }
    }
}

/// Nothing here ends at a position that has to be looked for.
struct Nowhere;

#[async_trait]
impl Find for Nowhere {
    async fn find(&self, position: &Position) -> Result<(TimelineId, Offset)> {
        Err(Error::failure(format!("{position} is not looked for here")))
    }
}

pub(crate) fn meta(path: &str) -> EntryMeta {
    EntryMeta { path: path.into(), mode: 0o600, mtime: 77 }
}

pub(crate) fn events(files: &[(&str, &[u8])]) -> VecDeque<BaseEvent> {
    let mut events = VecDeque::from([BaseEvent::Start {
        start: Some((TimelineId(1), Offset(0x200_0028))),
        estimated_bytes: Some(1 << 20),
        tablespaces: Vec::new(),
    }]);
    events.push_back(BaseEvent::Directory(meta("base")));
    for (path, bytes) in files {
        events.push_back(BaseEvent::File { file: FILE, meta: meta(path), size: Some(bytes.len() as u64) });
        // Pieces as the server sends them, which fit neither blocks nor chunks.
        events.extend(bytes.chunks(130_000).map(|b| BaseEvent::Data { file: FILE, bytes: Bytes::copy_from_slice(b) }));
        events.push_back(BaseEvent::FileEnd { file: FILE });
    }
    events.push_back(BaseEvent::End { end: BaseEnd::Offset(Offset(0x200_0100)), time: None });
    events
}

/// Bytes that do not compress, so that sizes tell what was stored.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new_derive_key("noise").update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn identity() -> Identity {
    Identity::some(16 << 20)
}

pub(crate) fn layout() -> Layout {
    Layout::new("main".parse().unwrap())
}

pub(crate) async fn take_events(
    store: &Arc<MemoryStore>,
    events: VecDeque<BaseEvent>,
    end: Option<Error>,
    previous: Option<&Manifest>,
) -> Result<Manifest> {
    let previous = match previous {
        Some(manifest) => Some(Base::load(&**store, &layout(), &manifest.id).await?),
        None => None,
    };
    let done = AtomicU64::new(0);
    let backup = Backup {
        find: &Nowhere,
        store: store.clone(),
        layout: &layout(),
        identity: &identity(),
        label: "test",
        clock: &At(1_795_210_117_000_000),
        progress: &|bytes, _| done.store(bytes, Ordering::Relaxed),
    };
    let manifest = backup.take(Box::new(Said { events, end }), previous).await?;
    assert_eq!(done.load(Ordering::Relaxed), manifest.bytes);
    Ok(manifest)
}

pub(crate) async fn take(store: &Arc<MemoryStore>, files: &[(&str, &[u8])], previous: Option<&Manifest>) -> Manifest {
    take_events(store, events(files), None, previous).await.unwrap()
}

/// The files of a base, put together from whatever its packs hold.
async fn contents(store: &Arc<MemoryStore>, manifest: &Manifest) -> Vec<(String, Vec<u8>)> {
    let base = Base::load(&**store, &layout(), &manifest.id).await.unwrap();
    let mut files = Vec::new();
    for file in &base.manifest.files {
        let mut bytes = Vec::new();
        for record in &base.table.chunks[file.chunks()] {
            let mut raw = Vec::new();
            for place in record.places() {
                let object = &base.manifest.packs[place.pack as usize];
                let name = layout().name(&ObjectName::Pack(object.hash.0));
                let part = Part::Range { start: place.extent.offset.into(), len: place.extent.len.into() };
                let stored = store.get(&name, part).await.unwrap().unwrap();
                let entry = pack::Entry::parse(&name, &stored).unwrap();
                let mut unpacked = Vec::new();
                entry.unpack(&name, &mut unpacked).unwrap();
                match entry.kind {
                    pack::EntryKind::Whole => raw = unpacked,
                    pack::EntryKind::Delta { changed, anchor } => {
                        assert_eq!(anchor, ChunkHash::of(&raw));
                        changed.apply(&mut raw, entry.raw_len, &unpacked).unwrap();
                    }
                }
            }
            assert_eq!(ChunkHash::of(&raw), record.hash);
            bytes.extend(raw);
        }
        if file.kind != FileKind::Dir {
            files.push((file.path.clone(), bytes));
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_holds_every_byte() {
    let store = Arc::new(MemoryStore::new());
    let big = noise(2 * CHUNK_BYTES + 12_345, 1);
    let exact = noise(CHUNK_BYTES, 2);
    let files: &[(&str, &[u8])] =
        &[("base/1", &big), ("base/empty", b""), ("base/exact", &exact), ("PG_VERSION", b"15\n")];
    let manifest = take(&store, files, None).await;
    let expected: Vec<_> = files.iter().map(|(p, b)| ((*p).to_owned(), b.to_vec())).collect();
    assert_eq!(contents(&store, &manifest).await, expected);
    assert!(manifest.id.starts_with("20261120T212837Z-") && manifest.id.len() == 21, "{}", manifest.id);
    assert_eq!(manifest.file_count, 4);
    assert_eq!((manifest.start, manifest.end), (Offset(0x200_0028), Offset(0x200_0100)));
    // Every pack is under its own name and sound in every byte.
    for object in &manifest.packs {
        let name = layout().name(&ObjectName::Pack(object.hash.0));
        let bytes = store.get(&name, Part::All).await.unwrap().unwrap();
        assert_eq!(ChunkHash::of(&bytes), object.hash);
        assert_eq!(bytes.len() as u64, object.bytes);
        pack::walk(&name, &bytes, |_, _| Ok(())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_database_stores_no_chunk_again() {
    let store = Arc::new(MemoryStore::new());
    let big = noise(3 * CHUNK_BYTES, 1);
    let first = take(&store, &[("base/1", &big)], None).await;
    let second = take(&store, &[("base/moved", &big)], Some(&first)).await;
    assert_eq!(second.packs, first.packs);
    assert_eq!(second.stored_bytes, second.table.bytes);
    assert_eq!(contents(&store, &second).await[0].1, big);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_files_are_stored_once() {
    let store = Arc::new(MemoryStore::new());
    let big = noise(2 * CHUNK_BYTES, 1);
    let manifest = take(&store, &[("base/1", &big), ("base/2", &big)], None).await;
    assert!(manifest.stored_bytes < (2 * CHUNK_BYTES + CHUNK_BYTES / 2) as u64, "{}", manifest.stored_bytes);
    assert_eq!(contents(&store, &manifest).await[1].1, big);
}

/// Three bases in a row, each changing other blocks: every delta is against the whole
/// chunk of the first, never against a delta.
#[tokio::test(flavor = "multi_thread")]
async fn changed_blocks_are_stored_against_a_whole_chunk() {
    let store = Arc::new(MemoryStore::new());
    let mut big = noise(4 * CHUNK_BYTES, 1);
    let mut last = take(&store, &[("base/1", &big)], None).await;
    let first = Base::load(&*store, &layout(), &last.id).await.unwrap();
    for round in 1..=3usize {
        for chunk in 0..4 {
            big[chunk * CHUNK_BYTES + round * 3 * BLOCK_BYTES] ^= 1;
        }
        let next = take(&store, &[("base/1", &big)], Some(&last)).await;
        let changed = (4 * round * BLOCK_BYTES) as u64;
        assert!((changed..changed + 8192).contains(&next.stored_bytes), "{round}: {}", next.stored_bytes);
        let base = Base::load(&*store, &layout(), &next.id).await.unwrap();
        for (record, whole) in base.table.chunks.iter().zip(&first.table.chunks) {
            assert_eq!(base.manifest.packs[record.whole.pack as usize], first.manifest.packs[0]);
            assert_eq!(record.whole.extent, whole.whole.extent);
            assert!(record.delta.is_some());
        }
        assert_eq!(contents(&store, &next).await[0].1, big);
        last = next;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_changed_past_half_is_stored_whole() {
    let store = Arc::new(MemoryStore::new());
    let old = noise(CHUNK_BYTES, 1);
    let first = take(&store, &[("base/1", &old)], None).await;
    let mut new = old.clone();
    new[..CHUNK_BYTES / 2 + 1].copy_from_slice(&noise(CHUNK_BYTES / 2 + 1, 2));
    let second = take(&store, &[("base/1", &new)], Some(&first)).await;
    assert!(second.stored_bytes > CHUNK_BYTES as u64);
    assert!(Base::load(&*store, &layout(), &second.id).await.unwrap().table.chunks[0].delta.is_none());
    new.copy_from_slice(&old);
    new[..CHUNK_BYTES / 2].copy_from_slice(&noise(CHUNK_BYTES / 2, 3));
    let third = take(&store, &[("base/1", &new)], Some(&first)).await;
    assert!(Base::load(&*store, &layout(), &third.id).await.unwrap().table.chunks[0].delta.is_some());
    assert_eq!(contents(&store, &third).await[0].1, new);
}

/// A file that grows or shrinks within its last chunk.
#[tokio::test(flavor = "multi_thread")]
async fn a_delta_may_have_another_length_than_its_anchor() {
    let store = Arc::new(MemoryStore::new());
    let long = noise(40 * BLOCK_BYTES + 100, 1);
    let first = take(&store, &[("base/1", &long[..30 * BLOCK_BYTES])], None).await;
    for len in [long.len(), 20 * BLOCK_BYTES + 5] {
        let next = take(&store, &[("base/1", &long[..len])], Some(&first)).await;
        assert!(next.stored_bytes < 12 * BLOCK_BYTES as u64, "{len}: {}", next.stored_bytes);
        assert_eq!(contents(&store, &next).await[0].1, &long[..len]);
    }
}

/// The base before lost a pack, or a pack's end is damaged: the next base does not
/// lean on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_base_does_not_damage_the_next_one() {
    let big = noise(2 * CHUNK_BYTES, 1);
    let mut changed = big.clone();
    changed[5] ^= 1;
    for lost in [true, false] {
        let store = Arc::new(MemoryStore::new());
        let first = take(&store, &[("base/1", &big)], None).await;
        let name = layout().name(&ObjectName::Pack(first.packs[0].hash.0));
        let mut bytes = store.get(&name, Part::All).await.unwrap().unwrap().to_vec();
        let at = bytes.len() - 1;
        bytes[at] ^= 1;
        store.tamper(&name, (!lost).then(|| bytes.into()));
        let second = take(&store, &[("base/1", &changed)], Some(&first)).await;
        let first_chunk = Base::load(&*store, &layout(), &second.id).await.unwrap().table.chunks[0];
        assert_eq!(first_chunk.delta, None);
        assert!(second.stored_bytes > CHUNK_BYTES as u64);
        if lost {
            assert_eq!(contents(&store, &second).await[0].1, changed);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_published_when_the_stream_fails_or_stops_early() {
    let big = noise(3 * CHUNK_BYTES, 1);
    let whole = events(&[("base/1", &big)]);
    for cut in 0..whole.len() {
        for end in [None, Some(Error::corruption("page checksums were wrong"))] {
            let store = Arc::new(MemoryStore::new());
            let kind = end.as_ref().map_or(Kind::Failure, Error::kind);
            let error = take_events(&store, whole.iter().take(cut).cloned().collect(), end, None).await.unwrap_err();
            assert_eq!(error.kind(), kind, "after {cut} events: {error}");
            assert!(store.names().iter().all(|n| !n.contains("/base/")), "{:?}", store.names());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_ends_the_backup_with_its_own_error() {
    // Several packs, so that the store fails while more is coming.
    let big = noise(80 << 20, 1);
    for failing in ["/pack/", "/chunks", "/manifest.json"] {
        let store = Arc::new(MemoryStore::new());
        store.fail_when(move |_, name| {
            let full = || Error::new(Kind::StoreUnreachable, "the disk is full");
            name.contains(failing).then(|| Fault::Before(full()))
        });
        let error = take_events(&store, events(&[("base/1", &big)]), None, None).await.unwrap_err();
        assert_eq!(error.kind(), Kind::StoreUnreachable, "{failing}: {error}");
        assert!(store.names().iter().all(|n| !n.ends_with("manifest.json")));
    }
}
