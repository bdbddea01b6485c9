//! Memory stores stand in for both; real archives are copied in `tests/it/copy.rs`.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::base::chunk::{ChunkHash, digest};
use crate::base::manifest::{File, FileKind, Manifest, Object};
use crate::base::pack::PackWriter;
use crate::base::table::{ChunkRecord, Place, Table};
use crate::catalog::fence::claim;
use crate::catalog::index::{Index, Indexed};
use crate::catalog::{Gap, Holder, SegmentInfo, TimelineLog};
use crate::engine::by_name;
use crate::error::Error;
use crate::model::cluster::Identity;
use crate::model::offset::{Offset, OffsetRange};
use crate::model::summary::Summary;
use crate::model::time::{Clock, Timestamp};
use crate::model::timeline::{Ancestor, History, TimelineId};
use crate::seal::key::Keys;
use crate::store::Part;
use crate::store::memory::{Fault, MemoryStore, Operation};

const T1: TimelineId = TimelineId(1);
const T2: TimelineId = TimelineId(2);

struct Now;

impl Clock for Now {
    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
}

fn range(start: u64, end: u64) -> OffsetRange {
    OffsetRange::new(Offset(start), Offset(end))
}

/// The index of the first timeline.
const INDEXED: Indexed = Indexed { level: 0, range: OffsetRange::new(Offset(0), Offset(400)), epoch: 2 };

/// An archive of every kind of object.
struct Source {
    archive: Archive,
    store: Arc<MemoryStore>,
}

impl Source {
    async fn new() -> Self {
        let source = Self::empty().await;
        source.writer("first").await;
        source.segment(T1, 0, 100, 1).await;
        source.segment(T1, 100, 200, 1).await;
        source.segment(T1, 0, 200, 1).await;
        source.writer("second").await;
        let gap =
            Gap { range: range(200, 300), cause: "lost".into(), found: Timestamp(0), confirmed: None, position: None };
        let name = ObjectName::Gap { timeline: T1, range: gap.range, epoch: 2 };
        source.put(&name, serde_json::to_vec(&gap).unwrap()).await;
        source.segment(T1, 300, 400, 2).await;
        let mut log = TimelineLog::default();
        for (start, end, epoch) in [(0, 200, 1), (300, 400, 2)] {
            let summary = Summary { range: range(start, end), ..Summary::empty(Offset(start), Offset(end)) };
            log.segments.push(SegmentInfo::of(&summary, epoch, Holder::Segment(Compression::Lz4.codec())));
        }
        let index = Index::of(&log, T1, range(0, 400), 2).encode(source.archive.layout.cluster()).unwrap();
        source.put(&ObjectName::Index { timeline: T1, index: INDEXED }, index).await;
        let ancestors = vec![Ancestor { timeline: T1, switch: Offset(400) }];
        source.archive.keep_history(&History { timeline: T2, ancestors, native: String::new() }).await.unwrap();
        source.segment(T2, 400, 500, 2).await;
        source.segment(T2, 500, 600, 2).await;
        let first = source.pack(b"first").await;
        source.base("20261123T000000Z-aaaa", std::slice::from_ref(&first)).await;
        let second = source.pack(b"second").await;
        source.base("20261123T000001Z-bbbb", &[first, second]).await;
        source.put(&ObjectName::Drill("20261123T000002Z".into()), b"{}".to_vec()).await;
        source
    }

    async fn empty() -> Self {
        let store = Arc::new(MemoryStore::new());
        let identity = Identity { engine: "postgres".into(), ..Identity::some(1 << 20) };
        let archive = Archive::open_or_create(store.clone(), &"main".parse().unwrap(), &identity, &Keys::default())
            .await
            .unwrap();
        Self { archive, store }
    }

    async fn writer(&self, who: &str) {
        claim(self.store.as_ref(), &self.archive.layout, &Now, who).await.unwrap();
    }

    async fn put(&self, object: &ObjectName, bytes: Vec<u8>) {
        self.store.create(&self.archive.layout.name(object), vec![bytes.into()]).await.unwrap();
    }

    async fn segment(&self, timeline: TimelineId, start: u64, end: u64, epoch: u32) {
        let summary = Summary { range: range(start, end), ..Summary::empty(Offset(start), Offset(end)) };
        let raw: Vec<u8> = (start..end).map(|at| at as u8).collect();
        self.archive.create_segment(timeline, &raw, &summary, epoch, Compression::Lz4).await.unwrap();
    }

    async fn pack(&self, raw: &[u8]) -> (Object, ChunkRecord) {
        let (mut blocks, mut writer) = (Vec::new(), PackWriter::new(Vec::new()));
        let hash = digest(raw, &mut blocks);
        let extent = writer.add_whole(raw, &hash, &blocks);
        let (name, bytes) = writer.finish(Vec::new());
        let object = Object { hash: name, bytes: bytes.len() as u64 };
        self.put(&ObjectName::Pack(name.0), bytes).await;
        (object, ChunkRecord { hash, raw_len: raw.len() as u32, whole: Place { pack: 0, extent }, delta: None })
    }

    async fn base(&self, id: &str, packs: &[(Object, ChunkRecord)]) {
        let place = |(n, (_, record)): (usize, &(Object, ChunkRecord))| ChunkRecord {
            whole: Place { pack: n as u32, ..record.whole },
            ..*record
        };
        let table = Table { chunks: packs.iter().enumerate().map(place).collect() }.encode();
        let file = |(n, (_, record)): (usize, &(Object, ChunkRecord))| File {
            path: format!("file{n}"),
            mode: 0o600,
            mtime: 0,
            kind: FileKind::File { size: record.raw_len.into(), first_chunk: n as u32 },
        };
        let manifest = Manifest {
            format_version: 1,
            id: id.into(),
            cluster: "main".parse().unwrap(),
            engine: "postgres".into(),
            system: self.archive.identity.system.clone(),
            server_version: 15,
            label: String::new(),
            timeline: T1,
            start: Offset(10),
            end: Offset(20),
            began: Timestamp(0),
            ended: Timestamp(0),
            bytes: 0,
            stored_bytes: 0,
            file_count: packs.len() as u64,
            tablespaces: Vec::new(),
            table: Object { hash: ChunkHash::of(&table), bytes: table.len() as u64 },
            packs: packs.iter().map(|(object, _)| object.clone()).collect(),
            files: packs.iter().enumerate().map(file).collect(),
        };
        self.put(&ObjectName::BaseChunks(id.into()), table).await;
        self.put(&ObjectName::BaseManifest(id.into()), manifest.encode().unwrap()).await;
    }

    async fn copy_to(&self, to: &Arc<MemoryStore>) -> Result<Report> {
        let engine = by_name("postgres").unwrap();
        copy(&self.archive, to.clone(), engine.as_ref(), Compression::Lz4, &|_, _| {}).await
    }

    /// What a whole copy holds.
    fn wanted(&self) -> Vec<String> {
        let hidden = [range(0, 100), range(100, 200)];
        let name = |range| {
            self.archive.layout.name(&ObjectName::Segment {
                timeline: T1,
                range,
                epoch: 1,
                codec: crate::catalog::Codec::Lz4,
            })
        };
        let hidden = hidden.map(name);
        self.store.names().into_iter().filter(|name| !hidden.contains(name)).collect()
    }

    fn name(&self, object: &ObjectName) -> String {
        self.archive.layout.name(object)
    }

    /// Changes a byte in the middle of the first object of a name with this in it; gives its name.
    async fn damage(&self, part: &str) -> String {
        let name = self.store.names().into_iter().find(|name| name.contains(part)).unwrap();
        let mut bytes = self.store.get(&name, Part::All).await.unwrap().unwrap().to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        self.store.tamper(&name, Some(bytes.into()));
        name
    }
}

/// Whether `to` claims nothing that is not there, and no hole that `from` has not.
async fn assert_honest(from: &Source, to: &Arc<MemoryStore>) {
    let archive = Archive { store: to.clone(), ..from.archive.clone() };
    let there = names(to.as_ref(), &archive.layout, "main/").await.unwrap();
    let log = names(from.store.as_ref(), &archive.layout, "main/").await.unwrap();
    assert!(there.is_empty() || there.contains_key(&ObjectName::Cluster), "{there:?}");
    for object in there.keys() {
        sound::read(&archive, object).await.unwrap().unwrap();
        match object {
            ObjectName::Segment { epoch, .. } | ObjectName::Gap { epoch, .. } => {
                assert!(there.contains_key(&ObjectName::Epoch(*epoch)), "{object:?} without its writer's claim");
            }
            ObjectName::BaseManifest(id) => {
                let base = crate::base::load::Base::load(to.as_ref(), &archive.layout, id).await.unwrap();
                assert!(base.manifest.packs.iter().all(|pack| there.contains_key(&ObjectName::Pack(pack.hash.0))));
            }
            ObjectName::Index { timeline, .. } => {
                let (name, bytes) =
                    (archive.layout.name(object), sound::read(&archive, object).await.unwrap().unwrap());
                let index = Index::decode(&name, archive.layout.cluster(), T1, INDEXED, &bytes).unwrap();
                assert!(index.segments.iter().all(|s| there.contains_key(&s.object(*timeline))), "{object:?}");
            }
            _ => {}
        }
    }
    for timeline in [T1, T2] {
        let of = plan::Log { layout: &archive.layout, timeline, counted: false };
        let missing = |to: &Names| of.missing(&log, &std::collections::BTreeSet::new(), to).unwrap();
        let (all, left) = (missing(&Names::new()), missing(&there));
        assert!(all.ends_with(&left), "a hole of its own: of {all:?} it lacks {left:?}");
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn interrupted_anywhere_it_leaves_an_honest_archive_and_goes_on(
        stops in prop::collection::vec((0..90_usize, any::<bool>(), any::<bool>()), 1..4),
    ) {
        block_on(async {
            let (from, to) = (Source::new().await, Arc::new(MemoryStore::new()));
            for (request, lost, at_source) in stops {
                let count = Arc::new(AtomicUsize::new(0));
                let store = if at_source { &from.store } else { &to };
                store.fail_when(move |_, name| {
                    let error = Error::new(Kind::StoreUnreachable, format!("no answer for {name}"));
                    let fault = if lost { Fault::After(error) } else { Fault::Before(error) };
                    (count.fetch_add(1, Ordering::Relaxed) >= request).then_some(fault)
                });
                let stopped = from.copy_to(&to).await;
                store.heal();
                if let Err(error) = stopped {
                    assert_eq!(error.kind(), Kind::StoreUnreachable, "{error}");
                }
                assert_honest(&from, &to).await;
            }
            assert_eq!(from.copy_to(&to).await.unwrap().problems, []);
            assert_eq!(to.names(), from.wanted());
            assert_eq!(from.copy_to(&to).await.unwrap(), Report::default(), "nothing is left");
        });
    }
}

#[tokio::test]
async fn what_is_damaged_is_named_and_the_rest_is_copied() {
    for (part, also_left) in [
        ("0000000000000000-00000000000000C8", 0),
        ("000000000000012C-0000000000000190", 0),
        ("gap-", 0),
        ("index/", 0),
        ("aaaa/manifest", 1),
        ("bbbb/chunks", 1),
        ("drill/", 0),
    ] {
        let (from, to) = (Source::new().await, Arc::new(MemoryStore::new()));
        let victim = from.damage(part).await;
        let report = from.copy_to(&to).await.unwrap();
        assert!(
            report.problems.iter().any(|p| p.problem.contains(&victim) || p.object == victim),
            "{part}: {report:?}"
        );
        assert!(!to.names().contains(&victim), "{part}");
        assert!(report.problems.len() <= 1 + also_left, "{report:?}");
        let archive = Archive { store: to.clone(), ..from.archive.clone() };
        assert!(archive.catalog(by_name("postgres").unwrap().as_ref()).await.unwrap().damaged().next().is_none());
        if part.ends_with("C8") {
            // Those that it hid count again; the index speaks of what is not there.
            let names = to.names();
            assert_eq!(
                names.iter().filter(|name| name.contains("log/00000001/00000000000000")).count(),
                2,
                "{names:?}"
            );
            assert!(!names.iter().any(|name| name.contains("index/")), "{names:?}");
        }
    }
}

#[tokio::test]
async fn a_base_without_a_sound_pack_is_left_out_and_the_other_one_copied() {
    let (from, to) = (Source::new().await, Arc::new(MemoryStore::new()));
    let second = ChunkHash::of(b"second");
    let packs = from.store.names().into_iter().filter(|name| name.contains("pack/"));
    let mut victim = String::new();
    for name in packs {
        let bytes = from.store.get(&name, Part::All).await.unwrap().unwrap();
        if bytes.windows(32).any(|window| window == second.0) {
            from.store.tamper(&name, Some(bytes.slice(..bytes.len() - 1)));
            victim = name;
        }
    }
    let report = from.copy_to(&to).await.unwrap();
    let objects: Vec<&str> = report.problems.iter().map(|problem| problem.object.as_str()).collect();
    assert_eq!(objects, [victim.as_str(), "main/base/20261123T000001Z-bbbb/manifest.json"]);
    let names = to.names();
    assert!(names.contains(&"main/base/20261123T000000Z-aaaa/manifest.json".to_owned()), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("bbbb")), "{names:?}");
}

#[tokio::test]
async fn archivers_that_do_not_know_of_each_other_are_kept_apart() {
    // The target went on by itself.
    let (from, to) = (Source::new().await, Arc::new(MemoryStore::new()));
    from.copy_to(&to).await.unwrap();
    claim(to.as_ref(), &from.archive.layout, &Now, "other").await.unwrap();
    let error = from.copy_to(&to).await.unwrap_err();
    assert!(error.kind() == Kind::Fenced && error.message().contains("main/epoch/0000000003"), "{error}");
    // And the other way around it goes.
    let back = Source { archive: Archive { store: to.clone(), ..from.archive.clone() }, store: to.clone() };
    assert_eq!(back.copy_to(&from.store).await.unwrap().objects, 1);
    // Both went on.
    from.writer("here").await;
    claim(to.as_ref(), &from.archive.layout, &Now, "there").await.unwrap();
    for error in [from.copy_to(&to).await.unwrap_err(), back.copy_to(&from.store).await.unwrap_err()] {
        assert!(error.kind() == Kind::Fenced && error.message().contains("main/epoch/0000000004"), "{error}");
    }
}

/// Log that it would make then could overlap that archiver's in part.
#[tokio::test]
async fn it_ends_when_an_archiver_begins_in_the_target() {
    let (from, to) = (Source::new().await, Arc::new(MemoryStore::new()));
    let begins = from.name(&ObjectName::History(T2));
    let (target, claimed) = (Arc::downgrade(&to), AtomicUsize::new(0));
    to.fail_when(move |operation, name| {
        if operation == Operation::Create && name == begins && claimed.fetch_add(1, Ordering::Relaxed) == 0 {
            // The hook of a memory store is asked outside of its lock on the objects.
            target.upgrade()?.tamper("main/epoch/0000000003", Some(Bytes::from_static(b"{}")));
        }
        None
    });
    let error = from.copy_to(&to).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Fenced, "{error}");
    assert!(!to.names().iter().any(|name| name.contains("log/00000002/0")), "{:?}", to.names());
}

#[tokio::test]
async fn an_archive_of_another_database_is_refused() {
    let (from, other) = (Source::new().await, Source::empty().await);
    let mut archive = from.archive.clone();
    archive.identity.system = "8".into();
    let from = Source { archive, ..from };
    assert_eq!(from.copy_to(&other.store).await.unwrap_err().kind(), Kind::Config);
}

#[tokio::test]
async fn other_bytes_under_a_name_are_told_and_left_unless_they_are_the_same_log() {
    let (from, to) = (Source::new().await, Arc::new(MemoryStore::new()));
    from.copy_to(&to).await.unwrap();
    // The same log, known to be complete up to a moment.
    let there = Source { archive: Archive { store: to.clone(), ..from.archive.clone() }, store: to.clone() };
    let name = to.names().into_iter().find(|name| name.contains("000000000000012C-")).unwrap();
    to.tamper(&name, None);
    let confirmed = Some(Timestamp(5));
    let summary = Summary { range: range(300, 400), confirmed, ..Summary::empty(Offset(300), Offset(400)) };
    let raw: Vec<u8> = (300..400_u64).map(|at| at as u8).collect();
    there.archive.create_segment(T1, &[9; 100], &summary, 2, Compression::Lz4).await.unwrap();
    let report = from.copy_to(&to).await.unwrap();
    assert!(matches!(report.problems.as_slice(), [only] if only.object == name), "{report:?}");
    to.tamper(&name, None);
    let position = crate::model::position::Position("as it is said elsewhere".into());
    let summary = Summary { position, ..summary };
    there.archive.create_segment(T1, &raw, &summary, 2, Compression::Lz4).await.unwrap();
    assert_eq!(from.copy_to(&to).await.unwrap(), Report::default());
}

#[tokio::test]
async fn what_vanishes_meanwhile_is_no_error() {
    let (from, to) = (Source::new().await, Arc::new(MemoryStore::new()));
    let store = Arc::downgrade(&from.store);
    let gone = ["main/log/00000001/000000000000012C", "main/base/20261123T000000Z-aaaa/manifest.json", "main/drill/"];
    from.store.fail_when(move |operation, name| {
        if operation == Operation::Get && gone.iter().any(|gone| name.starts_with(gone)) {
            store.upgrade()?.tamper(name, None);
        }
        None
    });
    let report = from.copy_to(&to).await.unwrap();
    assert_eq!(report.problems, []);
    from.store.heal();
    assert_honest(&from, &to).await;
    assert!(to.names().iter().any(|name| name.ends_with("bbbb/manifest.json")), "{:?}", to.names());
}

/// Two whole copies of one archive.
async fn two() -> (Source, Source) {
    let (one, store) = (Source::new().await, Arc::new(MemoryStore::new()));
    one.copy_to(&store).await.unwrap();
    for hidden in one.store.names().into_iter().filter(|name| !store.names().contains(name)) {
        one.store.tamper(&hidden, None);
    }
    let other = Source { archive: Archive { store: store.clone(), ..one.archive.clone() }, store };
    (one, other)
}

async fn repaired(sources: &[&Source]) -> Result<repair::Repaired> {
    let archives: Vec<Archive> = sources.iter().map(|source| source.archive.clone()).collect();
    repair::repair(&archives, by_name("postgres").unwrap().as_ref(), Compression::Lz4, &|_, _| {}).await
}

/// What both hold, if that is the same.
async fn contents(one: &Source, other: &Source) -> Vec<(String, Bytes)> {
    let mut contents = [Vec::new(), Vec::new()];
    for (source, contents) in [one, other].into_iter().zip(&mut contents) {
        for name in source.store.names() {
            let bytes = source.store.get(&name, Part::All).await.unwrap().unwrap();
            contents.push((name, bytes));
        }
    }
    let [first, second] = contents;
    assert!(first == second, "{:?} and {:?}", one.store.names(), other.store.names());
    first
}

#[tokio::test]
async fn copies_heal_each_other() {
    let (one, other) = two().await;
    let before = contents(&one, &other).await;
    let kinds = [
        "cluster.json",
        "epoch/",
        "0-00000000000000C8",
        "gap-",
        "index/",
        "history",
        "aaaa/manifest",
        "aaaa/chunks",
        "pack/",
        "drill/",
    ];
    // In turns here and there, so that nothing is intact in one store alone.
    for (n, kind) in kinds.iter().enumerate() {
        let (here, _) = if n % 2 == 0 { (&one, &other) } else { (&other, &one) };
        here.damage(kind).await;
    }
    let done = repaired(&[&one, &other]).await.unwrap();
    assert_eq!((done.objects.len(), done.copied, done.left), (kinds.len(), 0, vec![]));
    assert!(contents(&one, &other).await == before);

    let missing = ["0-00000000000000C8", "gap-", "aaaa/manifest", "bbbb/chunks", "pack/", "index/"];
    for (n, kind) in missing.iter().enumerate() {
        let here = if n % 2 == 0 { &one } else { &other };
        let name = here.store.names().into_iter().find(|name| name.contains(kind)).unwrap();
        here.store.tamper(&name, None);
    }
    let done = repaired(&[&one, &other]).await.unwrap();
    assert_eq!(done.objects.len() as u64 + done.copied, missing.len() as u64, "{done:?}");
    assert!(contents(&one, &other).await == before);
    assert_eq!(repaired(&[&one, &other]).await.unwrap(), repair::Repaired::default());
}

#[tokio::test]
async fn what_no_store_has_intact_is_left_and_named() {
    let (one, other) = two().await;
    let victim = one.damage("aaaa/manifest").await;
    other.damage("aaaa/manifest").await;
    let before = one.store.get(&victim, Part::All).await.unwrap();
    let done = repaired(&[&one, &other]).await.unwrap();
    assert!(done.left.len() == 2 && done.left.iter().all(|problem| problem.object == victim), "{done:?}");
    assert_eq!(one.store.get(&victim, Part::All).await.unwrap(), before, "nothing is deleted without its like in hand");
}

#[tokio::test]
async fn without_the_right_to_delete_nothing_is_lost() {
    let (one, other) = two().await;
    let victim = one.damage("pack/").await;
    one.store.fail_when(|operation, _| {
        (operation == Operation::Delete).then(|| Fault::Before(Error::new(Kind::StoreUnreachable, "access denied")))
    });
    let done = repaired(&[&one, &other]).await.unwrap();
    assert!(
        matches!(done.left.as_slice(), [left] if left.object == victim && left.problem.contains("access denied")),
        "{done:?}"
    );
}

#[tokio::test]
async fn archives_that_are_no_copies_of_each_other_are_not_repaired_from_each_other() {
    let (one, other) = two().await;
    one.writer("here").await;
    other.writer("there").await;
    one.damage("pack/").await;
    assert_eq!(repaired(&[&one, &other]).await.unwrap_err().kind(), Kind::Config);
}

/// What each of two stores has damaged, the other one gives.
#[tokio::test]
async fn the_catalog_of_several_stores_passes_over_what_is_damaged_in_one() {
    let (one, other) = two().await;
    let engine = by_name("postgres").unwrap();
    let whole = one.archive.catalog(engine.as_ref()).await.unwrap();
    for (n, kind) in [
        "cluster.json",
        "history",
        "index/",
        "aaaa/manifest",
        "bbbb/manifest",
        "0000000000000190-",
        "00000000000001F4-",
    ]
    .iter()
    .enumerate()
    {
        (if n % 2 == 0 { &one } else { &other }).damage(kind).await;
    }
    let several = crate::store::several::Several::new(vec![one.store.clone(), other.store.clone()]);
    let archive = Archive::open(Arc::new(several), &"main".parse().unwrap(), &Keys::default()).await.unwrap();
    assert_eq!(archive.catalog(engine.as_ref()).await.unwrap(), whole);
    for (timeline, log) in &whole.timelines {
        for segment in &log.segments {
            assert_eq!(archive.raw(*timeline, segment).await.unwrap().len() as u64, segment.range.len());
        }
    }
    for base in &whole.bases {
        crate::base::load::Base::load(archive.store.as_ref(), &archive.layout, &base.id).await.unwrap();
    }
    // In both: then it is damaged.
    other.damage("bbbb/manifest").await;
    let catalog = archive.catalog(engine.as_ref()).await.unwrap();
    assert_eq!(catalog.damaged_bases.len(), 1);
}

/// Where the archive counts the offsets, those of two archives mean different bytes.
#[tokio::test]
async fn several_stores_that_are_no_copies_of_one_archive_are_not_read_as_one() {
    let stores = [Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new())];
    let identity = Identity { engine: "mariadb".into(), ..Identity::some(1) };
    let cluster = "main".parse().unwrap();
    for store in &stores {
        Archive::open_or_create(store.clone(), &cluster, &identity, &Keys::default()).await.unwrap();
    }
    let several = || {
        let stores = stores.iter().map(|store| Arc::clone(store) as Arc<dyn Store>).collect();
        let (cluster, keys) = (cluster.clone(), Keys::default());
        async move { Archive::open(Arc::new(crate::store::several::Several::new(stores)), &cluster, &keys).await }
    };
    let layout = Layout::new("main".parse().unwrap());
    claim(stores[0].as_ref(), &layout, &Now, "one").await.unwrap();
    let first = stores[0].get("main/epoch/0000000001", Part::All).await.unwrap();
    stores[1].tamper("main/epoch/0000000001", first);
    claim(stores[0].as_ref(), &layout, &Now, "one").await.unwrap();
    several().await.unwrap();
    claim(stores[1].as_ref(), &layout, &Now, "two").await.unwrap();
    let error = several().await.err().unwrap();
    assert!(error.kind() == Kind::Config && error.message().contains("main/epoch/0000000002"), "{error}");
}
