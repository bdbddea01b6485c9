//! Archives in memory, and two archivers each with ways of its own to the stores.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::catalog::fence::{self, Epoch};
use crate::catalog::load::Known;
use crate::model::cluster::Identity;
use crate::model::offset::OffsetRange;
use crate::model::summary::Summary;
use crate::model::time::{Clock, Timestamp};
use crate::seal::key::Keys;
use crate::store::memory::MemoryStore;
use crate::store::mirrored::moody::{Mood, Moody};
use crate::store::several::copies;

const T1: TimelineId = TimelineId(1);

struct Now;

impl Clock for Now {
    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
}

fn identity() -> Identity {
    Identity { engine: "postgres".into(), ..Identity::some(1 << 20) }
}

/// An archiver as `stream` has it, with its own ways to the stores. Its log is counted by the archive: whoever
/// goes on at an offset gives it to bytes of its own.
struct Archiver {
    name: u8,
    ways: Vec<Arc<Moody>>,
    acks: usize,
    at_work: Option<AtWork>,
}

struct AtWork {
    archive: Archive,
    epoch: Epoch,
    end: u64,
    _keeper: Keeper,
}

impl Archiver {
    fn new(name: u8, stores: &[Arc<MemoryStore>], acks: usize) -> Self {
        let ways = stores.iter().map(|store| Arc::new(Moody::new(Arc::clone(store)))).collect();
        Self { name, ways, acks, at_work: None }
    }

    /// From the claim to where it goes on.
    async fn start(&mut self) -> Result<()> {
        self.at_work = None;
        let members: Vec<Arc<dyn Store>> = self.ways.iter().map(|way| Arc::clone(way) as Arc<dyn Store>).collect();
        let claims = self.acks.max(members.len() + 1 - self.acks);
        let mirrored = Mirrored::new(members, self.acks, claims);
        let cluster: ClusterName = "main".parse()?;
        let mirrors = Mirrors::new(Arc::clone(&mirrored), cluster.clone(), Compression::Lz4, Keys::default(), true);
        mirrors.meet().await?;
        let archive = Archive::open_or_create(mirrored, &cluster, &identity(), &Keys::default()).await?;
        let epoch = fence::claim(archive.store.as_ref(), &archive.layout, &Now, "test").await?;
        let keeper = mirrors.begin().await?;
        let engine = by_name("postgres")?;
        let log = archive.timeline_log(engine.as_ref(), T1, &Known::new()).await?;
        let end = log.unbroken().map_or(0, |(_, end)| end.0);
        archive.store.settle(&[]).await?;
        self.at_work = Some(AtWork { archive, epoch, end, _keeper: keeper });
        Ok(())
    }

    /// One more segment. What it may acknowledge.
    async fn go_on(&mut self) -> Result<Option<u64>> {
        let Some(at_work) = &mut self.at_work else { return Ok(None) };
        let range = OffsetRange::new(Offset(at_work.end), Offset(at_work.end + 10));
        let summary = Summary { range, ..Summary::empty(range.start, range.end) };
        let raw = [self.name; 10];
        let (archive, epoch) = (&at_work.archive, &at_work.epoch);
        archive.create_segment(T1, &raw, &summary, epoch.number(), Compression::Lz4).await?;
        epoch.check(archive.store.as_ref()).await?;
        at_work.end += 10;
        Ok(Some(range.start.0))
    }
}

#[derive(Clone, Debug)]
enum Step {
    Start(usize),
    GoOn(usize),
    Mood(usize, usize, Mood),
    Wait(u64),
}

fn steps(members: usize) -> impl Strategy<Value = Vec<Step>> {
    let mood = prop_oneof![3 => Just(Mood::Works), 2 => Just(Mood::Fails), 1 => Just(Mood::LosesAnswers), 1 => Just(Mood::Hangs)];
    let step = prop_oneof![
        2 => (0..2usize).prop_map(Step::Start),
        6 => (0..2usize).prop_map(Step::GoOn),
        3 => (0..2usize, 0..members, mood).prop_map(|(who, member, mood)| Step::Mood(who, member, mood)),
        1 => prop_oneof![Just(1u64), Just(15), Just(150)].prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..30)
}

/// Work that may wait for ever is left after a while.
async fn soon<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let silent = Err(Error::new(Kind::StoreUnreachable, "nothing came"));
    tokio::time::timeout(Duration::from_secs(200), work).await.unwrap_or(silent)
}

async fn play(count: usize, acks: usize, steps: Vec<Step>) {
    let stores: Vec<Arc<MemoryStore>> = (0..count).map(|_| Arc::default()).collect();
    let mut archivers = [Archiver::new(1, &stores, acks), Archiver::new(2, &stores, acks)];
    // Who was told what at which offset.
    let mut acknowledged: BTreeMap<u64, u8> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Start(who) => drop(soon(archivers[who].start()).await),
            Step::GoOn(who) => {
                match soon(archivers[who].go_on()).await {
                    Ok(Some(start)) => {
                        let other = acknowledged.insert(start, who as u8);
                        assert_eq!(other, None, "{start} was acknowledged before");
                    }
                    Ok(None) => {}
                    // Whatever it was, an archiver begins anew then.
                    Err(_) => archivers[who].at_work = None,
                }
            }
            Step::Mood(who, member, mood) => archivers[who].ways[member].set(mood),
            Step::Wait(seconds) => sleep(Duration::from_secs(seconds)).await,
        }
    }
    for archiver in &mut archivers {
        archiver.at_work = None;
        archiver.ways.iter().for_each(|way| way.set(Mood::Works));
    }
    // Nothing that was acknowledged is lost, once all answer: each store alone has it.
    let last = &mut archivers[0];
    soon(last.start()).await.unwrap();
    let at_work = last.at_work.as_mut().unwrap();
    assert_eq!(at_work._keeper.finish().await, [""; 0]);
    let engine = by_name("postgres").unwrap();
    for store in &stores {
        let own = Archive { store: Arc::clone(store) as Arc<dyn Store>, ..at_work.archive.clone() };
        let log = own.timeline_log(engine.as_ref(), T1, &Known::new()).await.unwrap();
        let mut held: BTreeMap<u64, u8> = BTreeMap::new();
        for segment in log.segments.iter().take(log.unbroken().map_or(0, |(count, _)| count)) {
            held.insert(segment.range.start.0, own.raw(T1, segment).await.unwrap()[0] - 1);
        }
        for (start, who) in &acknowledged {
            assert_eq!(held.get(start), Some(who), "at {start}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn two_archivers_never_acknowledge_one_offset_twice_and_nothing_of_it_is_lost(
        (count, acks, steps) in (2usize..4)
            .prop_flat_map(|count| (Just(count), 1..=count, steps(count)))
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(play(count, acks, steps));
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_another_archiver_has_written_to_fences_whenever_it_comes() {
    let stores: Vec<Arc<MemoryStore>> = (0..2).map(|_| Arc::default()).collect();
    let mut one = Archiver::new(1, &stores, 1);
    one.start().await.unwrap();
    one.go_on().await.unwrap();
    one.ways[1].set(Mood::Fails);
    // Nothing but this archiver's way to it is cut.
    let other =
        Archive { store: Arc::clone(&stores[1]) as Arc<dyn Store>, ..one.at_work.as_ref().unwrap().archive.clone() };
    fence::claim(other.store.as_ref(), &other.layout, &Now, "another").await.unwrap();
    one.go_on().await.unwrap();
    sleep(Duration::from_secs(60)).await;
    one.go_on().await.unwrap();
    one.ways[1].set(Mood::Works);
    sleep(Duration::from_secs(120)).await;
    assert_eq!(one.go_on().await.unwrap_err().kind(), Kind::Fenced);
    // And at the next start, whoever is asked first.
    assert_eq!(copies(other.store.as_ref()).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_store_gets_what_is_there_before_it_counts() {
    let stores: Vec<Arc<MemoryStore>> = (0..2).map(|_| Arc::default()).collect();
    let mut alone = Archiver::new(1, &stores[..1], 1);
    alone.start().await.unwrap();
    for _ in 0..5 {
        alone.go_on().await.unwrap();
    }
    alone.at_work = None;
    let mut both = Archiver::new(2, &stores, 2);
    soon(both.start()).await.unwrap();
    both.go_on().await.unwrap();
    let names = stores[0].names();
    assert!(names.len() > 8 && names == stores[1].names(), "{names:?}");

    // A new archiver of two stores has to see both, if each alone may hold what was acknowledged.
    both.at_work = None;
    let mut one = Archiver::new(1, &stores, 1);
    one.ways[0].set(Mood::Fails);
    let error = one.start().await.unwrap_err();
    assert_eq!(error.kind(), Kind::StoreUnreachable);
    assert!(error.message().contains("1 of 2 stores answer"), "{error}");
}
