//! Bases from a store in memory into real directories.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::Mutex;

use super::*;
use crate::base::chunk::{BLOCK_BYTES, CHUNK_BYTES};
use crate::base::manifest::Manifest;
use crate::engine::{BaseEnd, BaseEvent, EntryMeta};
use crate::error::Kind;
use crate::model::offset::Offset;
use crate::model::timeline::TimelineId;
use crate::store::memory::MemoryStore;
use crate::stream::backup::tests::{layout, meta, noise, take_events};

/// The file whose bytes come.
const FILE: u32 = 0;

/// A small cluster: two tables, one in a tablespace, and what a server needs.
fn cluster(table: &[u8], other: &[u8], tablespace: &Path) -> VecDeque<BaseEvent> {
    let dir = |path: &str| BaseEvent::Directory(EntryMeta { mode: 0o700, ..meta(path) });
    let file = |events: &mut VecDeque<BaseEvent>, path: &str, bytes: &[u8]| {
        events.push_back(BaseEvent::File { file: FILE, meta: meta(path), size: Some(bytes.len() as u64) });
        events.extend(bytes.chunks(100_000).map(|b| BaseEvent::Data { file: FILE, bytes: Bytes::copy_from_slice(b) }));
        events.push_back(BaseEvent::FileEnd { file: FILE });
    };
    let mut events = VecDeque::from([BaseEvent::Start {
        start: Some((TimelineId(1), Offset(40))),
        estimated_bytes: None,
        tablespaces: vec![("pg_tblspc/16400".into(), tablespace.to_str().unwrap().into())],
    }]);
    events.push_back(dir("pg_tblspc/16400/PG_15"));
    file(&mut events, "pg_tblspc/16400/PG_15/2", other);
    file(&mut events, "PG_VERSION", b"15\n");
    events.extend([dir("base"), dir("global"), dir("pg_tblspc"), dir("pg_wal")]);
    file(&mut events, "base/1", table);
    file(&mut events, "base/empty", b"");
    file(&mut events, "global/pg_control", &[3; 8192]);
    events.push_back(BaseEvent::Symlink(meta("link"), "PG_VERSION".into()));
    events.push_back(BaseEvent::End { end: BaseEnd::Offset(Offset(80)), time: None });
    events
}

struct Setup {
    store: Arc<MemoryStore>,
    scratch: tempfile::TempDir,
    table: Vec<u8>,
    other: Vec<u8>,
    base: Manifest,
}

impl Setup {
    /// Two bases, so that the newest has deltas.
    async fn new() -> Self {
        let store = Arc::new(MemoryStore::new());
        let scratch = tempfile::tempdir().unwrap();
        let tablespace = scratch.path().join("ts");
        let mut table = noise(3 * CHUNK_BYTES + 5000, 1);
        let other = noise(20_000, 2);
        let first = take_events(&store, cluster(&table, &other, &tablespace), None, None).await.unwrap();
        table[CHUNK_BYTES + 9] ^= 1;
        table[3 * CHUNK_BYTES - 1] ^= 1;
        let base = take_events(&store, cluster(&table, &other, &tablespace), None, Some(&first)).await.unwrap();
        assert!(base.stored_bytes < 30_000);
        Self { store, scratch, table, other, base }
    }

    fn dir(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    async fn lay_out(&self, options: &LayOut) -> Result<LaidOut> {
        let base = Base::load(&*self.store, &layout(), &self.base.id).await?;
        let told = Mutex::new(0);
        let done =
            lay_out(self.store.clone(), &layout(), base, &self.dir(), options, &|n| *told.lock().unwrap() = n).await?;
        assert_eq!(*told.lock().unwrap(), self.base.bytes);
        assert_eq!(done.bytes_written + done.bytes_kept, self.base.bytes);
        Ok(done)
    }

    fn check(&self) {
        self.check_at(&self.scratch.path().join("ts"));
    }

    fn check_at(&self, tablespace: &Path) {
        let dir = self.dir();
        assert!(fs::read(dir.join("base/1")).unwrap() == self.table);
        assert!(fs::read(dir.join("pg_tblspc/16400/PG_15/2")).unwrap() == self.other);
        assert_eq!(fs::read_link(dir.join("pg_tblspc/16400")).unwrap(), tablespace);
        assert_eq!(fs::read_link(dir.join("link")).unwrap(), Path::new("PG_VERSION"));
        let names = tree(&dir);
        let expected = [
            "PG_VERSION",
            "base",
            "base/1",
            "base/empty",
            "global",
            "global/pg_control",
            "link",
            "pg_tblspc",
            "pg_tblspc/16400",
            "pg_wal",
        ];
        assert_eq!(names.keys().map(String::as_str).collect::<Vec<_>>(), expected);
        for (path, meta) in &names {
            let mode = meta.permissions().mode() & 0o7777;
            if meta.is_symlink() {
                continue;
            }
            assert_eq!(mode, if meta.is_dir() { 0o700 } else { 0o600 }, "{path}");
            assert_eq!(meta.mtime(), 77, "{path}");
        }
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o7777, 0o700);
    }
}

impl Setup {
    /// Over what is there, the tablespace's directory named.
    fn delta(&self) -> LayOut {
        let ts = self.scratch.path().join("ts");
        LayOut { tablespace_map: vec![(ts.clone(), ts)], ..options(true) }
    }
}

/// Everything below `dir`, links not followed.
fn tree(dir: &Path) -> BTreeMap<String, fs::Metadata> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(at) = dirs.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                dirs.push(path.clone());
            }
            found.insert(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned(), meta);
        }
    }
    found
}

fn options(delta: bool) -> LayOut {
    LayOut { jobs: 3, delta, tablespace_map: Vec::new(), owner: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_is_laid_out_as_it_was() {
    let setup = Setup::new().await;
    let done = setup.lay_out(&options(false)).await.unwrap();
    setup.check();
    assert_eq!((done.bytes_kept, done.files), (0, 5));
    sync_tree(&setup.dir(), &done.tablespaces).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tablespace_goes_where_it_is_told() {
    let setup = Setup::new().await;
    let old = setup.scratch.path().join("ts");
    let new = setup.scratch.path().join("deep/elsewhere");
    let options = LayOut { tablespace_map: vec![(old.clone(), new.clone())], ..options(false) };
    setup.lay_out(&options).await.unwrap();
    setup.check_at(&new);
    assert!(!old.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_a_map_that_fits_no_tablespace_or_directories_that_overlap() {
    let setup = Setup::new().await;
    let old = setup.scratch.path().join("ts");
    for (from, to) in [
        (PathBuf::from("/typo"), PathBuf::from("/x")),
        (old.clone(), PathBuf::from("relative")),
        (old.clone(), setup.dir().join("inside")),
        (old.clone(), setup.scratch.path().to_owned()),
        (old.clone(), setup.scratch.path().join("a/../data")),
    ] {
        let options = LayOut { tablespace_map: vec![(from, to)], ..options(false) };
        assert_eq!(setup.lay_out(&options).await.unwrap_err().kind(), Kind::Usage);
        assert!(!setup.dir().exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_a_directory_with_something_in_it() {
    let setup = Setup::new().await;
    for taken in [setup.dir(), setup.scratch.path().join("ts")] {
        fs::create_dir(&taken).unwrap();
        fs::write(taken.join("precious"), b"x").unwrap();
        let error = setup.lay_out(&options(false)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.message().contains(taken.to_str().unwrap()), "{error}");
        assert_eq!(tree(&taken).len(), 1);
        fs::remove_dir_all(&taken).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn delta_writes_only_the_blocks_that_differ() {
    let setup = Setup::new().await;
    setup.lay_out(&options(false)).await.unwrap();
    let mut changed = setup.table.clone();
    changed[2 * BLOCK_BYTES] ^= 1;
    changed[2 * CHUNK_BYTES + 7] ^= 1;
    fs::write(setup.dir().join("base/1"), &changed).unwrap();
    let done = setup.lay_out(&setup.delta()).await.unwrap();
    setup.check();
    // Two blocks, and pg_control, which is always made anew.
    assert_eq!(done.bytes_written, 3 * BLOCK_BYTES as u64);
}

/// Whatever stands in the directory, it ends as the base; what lies outside of it and
/// is only linked to stays as it is.
#[tokio::test(flavor = "multi_thread")]
async fn delta_clears_what_the_base_does_not_have_and_follows_no_link() {
    let setup = Setup::new().await;
    setup.lay_out(&options(false)).await.unwrap();
    let (dir, outside) = (setup.dir(), setup.scratch.path().join("outside"));
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), b"do not touch").unwrap();
    fs::write(outside.join("1"), b"do not touch").unwrap();
    // A file where a directory belongs, and the other way round; links to the
    // outside in place of both; a hard link; leftovers; wrong sizes.
    fs::remove_dir(dir.join("pg_wal")).unwrap();
    fs::write(dir.join("pg_wal"), b"x").unwrap();
    fs::remove_file(dir.join("PG_VERSION")).unwrap();
    fs::create_dir_all(dir.join("PG_VERSION/deep")).unwrap();
    fs::remove_dir_all(dir.join("base")).unwrap();
    symlink(&outside, dir.join("base")).unwrap();
    fs::remove_file(dir.join("link")).unwrap();
    fs::hard_link(outside.join("precious"), dir.join("link")).unwrap();
    fs::write(dir.join("postmaster.pid"), b"1").unwrap();
    fs::create_dir_all(dir.join("extra/deep")).unwrap();
    let part = setup.scratch.path().join("ts/PG_15");
    fs::write(part.join("2"), &setup.other[..100]).unwrap();
    fs::write(part.join("3"), b"leftover").unwrap();
    fs::create_dir(setup.scratch.path().join("ts/PG_16")).unwrap();
    setup.lay_out(&setup.delta()).await.unwrap();
    setup.check();
    assert_eq!(tree(&setup.scratch.path().join("ts")).keys().collect::<Vec<_>>(), ["PG_15", "PG_15/2", "PG_16"]);
    assert_eq!(fs::read(outside.join("precious")).unwrap(), b"do not touch");
    assert_eq!(fs::read(outside.join("1")).unwrap(), b"do not touch");
}

/// A directory restored elsewhere has no say over the source's tablespaces, even where the
/// base names them; nor has a plain copy of the source, whose links lead there.
#[tokio::test(flavor = "multi_thread")]
async fn delta_leaves_a_tablespace_alone_unless_it_was_named() {
    let setup = Setup::new().await;
    setup.lay_out(&options(false)).await.unwrap();
    let (dir, outside) = (setup.dir(), setup.scratch.path().join("outside"));
    let (ts, link) = (setup.scratch.path().join("ts"), dir.join("pg_tblspc/16400"));
    fs::write(ts.join("PG_15/3"), b"written since").unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), b"do not touch").unwrap();
    for to in [None, Some(&outside), Some(&ts)] {
        let _ = fs::remove_file(&link);
        if let Some(to) = to {
            symlink(to, &link).unwrap();
        }
        let error = setup.lay_out(&options(true)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.message().contains(ts.to_str().unwrap()), "{error}");
        assert!(error.advice().unwrap().contains("--tablespace-map"), "{error:?}");
        assert_eq!(fs::read(ts.join("PG_15/3")).unwrap(), b"written since");
        assert!(dir.join("global/pg_control").exists(), "nothing was touched");
        let manifest = &setup.base;
        assert_eq!(check(manifest, &dir, &options(true)).unwrap_err().kind(), Kind::Config);
    }
    // Elsewhere is free; the link that led outside is replaced, not followed.
    let new = setup.scratch.path().join("new");
    let options = LayOut { tablespace_map: vec![(ts.clone(), new.clone())], ..options(true) };
    setup.lay_out(&options).await.unwrap();
    setup.check_at(&new);
    assert_eq!(fs::read(ts.join("PG_15/3")).unwrap(), b"written since");
    assert_eq!(tree(&outside).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_pack_is_named_and_no_server_could_start() {
    let setup = Setup::new().await;
    for object in &setup.base.packs {
        let name = layout().name(&ObjectName::Pack(object.hash.0));
        let bytes = setup.store.get(&name, Part::All).await.unwrap();
        setup.store.tamper(&name, None);
        let error = setup.lay_out(&setup.delta()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Corruption);
        assert!(error.message().contains(&name), "{error}");
        assert!(!setup.dir().join("global/pg_control").exists());
        setup.store.tamper(&name, bytes);
    }
    setup.lay_out(&setup.delta()).await.unwrap();
    setup.check();
}

/// Any byte that is read of any pack: flipped, it is refused and the pack named.
/// (What is not read is the packs' head, footer and trailer, which `verify` walks.)
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_pack_is_named() {
    let setup = Setup::new().await;
    for object in &setup.base.packs {
        let name = layout().name(&ObjectName::Pack(object.hash.0));
        let good = setup.store.get(&name, Part::All).await.unwrap().unwrap();
        let mut entries = Vec::new();
        crate::base::pack::walk(&name, &good, |extent, _| {
            entries.push(extent);
            Ok(())
        })
        .unwrap();
        let used = Base::load(&*setup.store, &layout(), &setup.base.id).await.unwrap().table;
        let used: Vec<_> = used.chunks.iter().flat_map(ChunkRecord::places).map(|p| p.extent).collect();
        for extent in entries.into_iter().filter(|e| used.contains(e)) {
            for at in [0, 13, extent.len / 2, extent.len - 1] {
                let mut bad = good.to_vec();
                bad[(extent.offset + at) as usize] ^= 0x10;
                setup.store.tamper(&name, Some(bad.into()));
                let error = setup.lay_out(&setup.delta()).await.unwrap_err();
                assert_eq!(error.kind(), Kind::Corruption);
                assert!(error.message().contains(&name), "{error}");
                // So that the next round reads everything again.
                fs::remove_dir_all(setup.dir()).unwrap();
                fs::remove_dir_all(setup.scratch.path().join("ts")).unwrap();
            }
        }
        setup.store.tamper(&name, Some(good));
    }
}

#[test]
fn a_live_server_is_told_from_a_leftover() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("postmaster.pid");
    assert_eq!(live_server(dir.path()).unwrap(), None);
    fs::write(&path, format!("{}\n/data\n", std::process::id())).unwrap();
    assert_eq!(live_server(dir.path()).unwrap(), Some(std::process::id()));
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    fs::write(&path, format!("{}\n", child.id())).unwrap();
    assert_eq!(live_server(dir.path()).unwrap(), None);
    for text in ["", "x", "-1", "0"] {
        fs::write(&path, text).unwrap();
        assert!(live_server(dir.path()).is_err(), "{text:?}");
    }
}

#[test]
fn workers_together_do_every_unit_once() {
    for (units, jobs) in [(0, 3), (1, 3), (7, 3), (100, 1), (5, 8)] {
        let shares = Shares::new(units, jobs);
        let mut done: Vec<usize> = (0..jobs).flat_map(|_| shares.next(0)).collect();
        done.extend((0..jobs).rev().flat_map(|own| std::iter::from_fn(|| shares.next(own)).collect::<Vec<_>>()));
        done.sort_unstable();
        assert_eq!(done, (0..units).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn delta_cuts_what_is_too_long_and_leaves_a_files_other_name_alone() {
    let setup = Setup::new().await;
    setup.lay_out(&options(false)).await.unwrap();
    let (file, other_name) = (setup.dir().join("base/1"), setup.scratch.path().join("other name"));
    fs::write(&file, b"do not touch").unwrap();
    fs::hard_link(&file, &other_name).unwrap();
    let part = setup.scratch.path().join("ts/PG_15/2");
    fs::write(&part, [&setup.other[..], b"more"].concat()).unwrap();
    setup.lay_out(&setup.delta()).await.unwrap();
    setup.check();
    assert_eq!(fs::read(&other_name).unwrap(), b"do not touch");
}

/// That a tablespace's directory was named does not make it this directory's.
#[tokio::test(flavor = "multi_thread")]
async fn delta_refuses_a_named_tablespace_to_which_no_link_leads() {
    let setup = Setup::new().await;
    setup.lay_out(&options(false)).await.unwrap();
    let link = setup.dir().join("pg_tblspc/16400");
    fs::remove_file(&link).unwrap();
    assert_eq!(setup.lay_out(&setup.delta()).await.unwrap_err().kind(), Kind::Config);
    symlink("elsewhere", &link).unwrap();
    assert_eq!(setup.lay_out(&setup.delta()).await.unwrap_err().kind(), Kind::Config);
    assert_eq!(fs::read(setup.scratch.path().join("ts/PG_15/2")).unwrap(), setup.other);
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_two_tablespaces_in_one_directory() {
    let setup = Setup::new().await;
    for other in ["ts", "ts/within", ""] {
        let mut base = setup.base.clone();
        let target = setup.scratch.path().join(other).to_str().unwrap().to_owned();
        base.tablespaces.push(crate::base::manifest::Tablespace { link: "pg_tblspc/16401".into(), target });
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check(&base, &dir.path().join("data"), &options(false)).unwrap_err().kind(), Kind::Usage);
    }
}

/// Its pack is sound, and holds another chunk there.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_is_not_the_one_of_the_table_is_refused() {
    let setup = Setup::new().await;
    let load = async || Base::load(&*setup.store, &layout(), &setup.base.id).await.unwrap();
    for index in 0..load().await.table.chunks.len() {
        let mut base = load().await;
        base.table.chunks[index].hash = crate::base::chunk::ChunkHash::of(b"another");
        let laid_out = lay_out(setup.store.clone(), &layout(), base, &setup.dir(), &options(false), &|_| ()).await;
        assert_eq!(laid_out.unwrap_err().kind(), Kind::Corruption);
        fs::remove_dir_all(setup.dir()).unwrap();
        fs::remove_dir_all(setup.scratch.path().join("ts")).unwrap();
    }
}
