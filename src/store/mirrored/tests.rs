//! Members in memory that fail, hang, lose answers and come back, by scripts drawn at random.
//!
//! The archives in them, and two writers, are the matter of `copy/mirrors/tests.rs`.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::{sleep, timeout};

use super::moody::{Mood, Moody};
use super::*;
use crate::store::conformance;
use crate::store::memory::MemoryStore;

/// So many bytes may wait for a member.
const LIMIT: u64 = 1000;

/// Everything that was asked for, in that order.
#[derive(Default)]
struct Asked {
    /// The names, and which of those before had been answered when each was asked for.
    names: Vec<(String, usize)>,
}

struct World {
    members: Vec<Arc<Moody>>,
    mirrored: Arc<Mirrored>,
    asked: Arc<Mutex<Asked>>,
    holes: Arc<Mutex<Vec<String>>>,
    acks: usize,
}

fn stores(members: &[Arc<Moody>]) -> Vec<Arc<dyn Store>> {
    members.iter().map(|member| Arc::clone(member) as Arc<dyn Store>).collect()
}

impl World {
    fn new(count: usize, acks: usize) -> Self {
        let asked: Arc<Mutex<Asked>> = Arc::default();
        let holes: Arc<Mutex<Vec<String>>> = Arc::default();
        let memory: Vec<Arc<MemoryStore>> = (0..count).map(|_| Arc::default()).collect();
        let member = |own: &Arc<MemoryStore>| {
            let mut moody = Moody::new(Arc::clone(own));
            let (asked, holes, own, all) = (asked.clone(), holes.clone(), Arc::clone(own), memory.clone());
            moody.sees = Some(Box::new(move |name| {
                let asked = asked.lock().unwrap();
                let Some((_, answered)) = asked.names.iter().find(|(of, _)| of == name) else { return };
                let here = own.names();
                for (before, _) in &asked.names[..*answered] {
                    if !here.contains(before) && all.iter().any(|other| other.names().contains(before)) {
                        holes.lock().unwrap().push(format!("{name} without {before}"));
                    }
                }
            }));
            Arc::new(moody)
        };
        let members: Vec<Arc<Moody>> = memory.iter().map(member).collect();
        let mirrored = Mirrored::with_limit(stores(&members), acks, acks, LIMIT);
        mirrored.begin(&(0..count).collect::<Vec<_>>());
        Self { members, mirrored, asked, holes, acks }
    }

    fn holders(&self, name: &str) -> usize {
        self.members.iter().filter(|member| member.store.names().contains(&name.to_owned())).count()
    }

    /// Creates an object, and gives up after a while; whether it was created.
    async fn create(&self, bytes: usize, patience: Duration) -> bool {
        let name = {
            let mut asked = self.asked.lock().unwrap();
            let number = asked.names.len();
            // All before were answered, or given up.
            asked.names.push((format!("log/{number:04}"), number));
            format!("log/{number:04}")
        };
        let body = vec![Bytes::from(vec![1; bytes])];
        match timeout(patience, self.mirrored.create(&name, body)).await {
            Ok(Ok(_)) => {
                assert!(self.holders(&name) >= self.acks, "{name} is in {} members", self.holders(&name));
                true
            }
            Ok(Err(error)) => {
                assert_eq!(error.kind(), Kind::StoreUnreachable, "{error}");
                false
            }
            Err(_) => false,
        }
    }

    /// Brings a member up whenever it is behind.
    async fn keep(mirrored: Arc<Mirrored>, member: usize) {
        loop {
            mirrored.behind(member).await;
            if Self::bring_up(&mirrored, member).await.is_err() {
                mirrored.drop_out(member);
                sleep(Duration::from_secs(1)).await;
            }
        }
    }

    async fn bring_up(mirrored: &Mirrored, member: usize) -> Result<()> {
        let to = &mirrored.members()[member];
        loop {
            let mark = mirrored.mark().await;
            let mut names = Vec::new();
            mirrored.list("log/", None, false, &mut |info| names.push(info.name)).await?;
            names.sort();
            let mut made = 0;
            for name in names {
                if to.head(&name).await?.is_none() {
                    let bytes = mirrored.get(&name, Part::All).await?.expect("it was listed");
                    to.create(&name, vec![bytes]).await?;
                    made += 1;
                }
            }
            if mirrored.join(member, mark) {
                return Ok(());
            }
            if made <= 1 {
                mirrored.hold(member);
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Create { bytes: usize, patience: u64 },
    Mood(usize, Mood),
    Wait(u64),
}

fn steps(members: usize) -> impl Strategy<Value = Vec<Step>> {
    let mood = prop_oneof![
        3 => Just(Mood::Works),
        2 => Just(Mood::Fails),
        1 => Just(Mood::LosesAnswers),
        2 => Just(Mood::Hangs),
    ];
    let bytes = prop_oneof![3 => Just(10usize), 1 => Just(600)];
    let step = prop_oneof![
        6 => (bytes, prop_oneof![Just(1u64), Just(20), Just(200)])
            .prop_map(|(bytes, patience)| Step::Create { bytes, patience }),
        3 => (0..members, mood).prop_map(|(member, mood)| Step::Mood(member, mood)),
        2 => prop_oneof![Just(0u64), Just(1), Just(15), Just(150)].prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..40)
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(work)
}

async fn play(count: usize, acks: usize, steps: Vec<Step>) {
    let world = World::new(count, acks);
    let keepers: Vec<_> =
        (0..count).map(|member| tokio::spawn(World::keep(Arc::clone(&world.mirrored), member))).collect();
    let mut created = Vec::new();
    for step in steps {
        match step {
            Step::Create { bytes, patience } => {
                if world.create(bytes, Duration::from_secs(patience)).await {
                    created.push(world.asked.lock().unwrap().names.last().unwrap().0.clone());
                }
            }
            Step::Mood(member, mood) => world.members[member].set(mood),
            Step::Wait(seconds) => sleep(Duration::from_secs(seconds)).await,
        }
        assert_eq!(*world.holes.lock().unwrap(), [""; 0]);
    }
    world.members.iter().for_each(|member| member.set(Mood::Works));
    while !(world.mirrored.is_quiet() && (0..count).all(|member| world.mirrored.standing(member) == Standing::Current))
    {
        sleep(Duration::from_secs(1)).await;
    }
    assert!(world.create(10, Duration::from_secs(60)).await, "all works again");
    while !world.mirrored.is_quiet() {
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(*world.holes.lock().unwrap(), [""; 0]);
    let first = world.members[0].store.names();
    assert!(created.iter().all(|name| first.contains(name)));
    for member in &world.members {
        assert_eq!(member.store.names(), first);
    }
    keepers.iter().for_each(tokio::task::JoinHandle::abort);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn what_counts_is_in_enough_members_and_none_has_a_hole_at_any_time(
        (count, acks, steps) in (2usize..4)
            .prop_flat_map(|count| (Just(count), 1..=count, steps(count)))
    ) {
        block_on(play(count, acks, steps));
    }
}

#[tokio::test]
async fn several_stores_keep_what_a_store_promises() {
    for acks in 1..=3 {
        let world = World::new(3, acks);
        conformance::creates_once(world.mirrored.as_ref(), "suite/once/").await.unwrap();
        conformance::one_creator_wins(world.mirrored.as_ref(), "suite/race/").await.unwrap();
        conformance::lists(world.mirrored.as_ref(), "suite/list/").await.unwrap();
        conformance::refuses_bad_names(world.mirrored.as_ref()).await.unwrap();
        if acks == 3 {
            conformance::all(world.mirrored.as_ref(), "all/").await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_hangs_is_passed_over_only_if_enough_others_are_left() {
    let world = World::new(2, 1);
    world.members[1].set(Mood::Hangs);
    assert!(world.create(10, Duration::from_secs(1)).await);
    sleep(table::SILENT_MAX + table::FAILING_MAX).await;
    assert_eq!(world.mirrored.standing(1), Standing::Behind);
    assert!(world.create(10, Duration::from_secs(1)).await);
    // The other one is the last that has everything.
    world.members[0].set(Mood::Hangs);
    assert!(!world.create(10, Duration::from_secs(600)).await);
    assert_eq!(world.mirrored.standing(0), Standing::Current);

    let both = World::new(2, 2);
    both.members[1].set(Mood::Fails);
    assert!(!both.create(10, Duration::from_secs(600)).await);
    assert_eq!(both.mirrored.standing(1), Standing::Current);
    both.members[1].set(Mood::Works);
    assert!(both.create(10, Duration::from_secs(60)).await);
    assert_eq!(both.members[1].store.names(), ["log/0000", "log/0001"]);
}

/// An abandoned base leaves a pack in line; who comes with log is told that a store takes nothing, as he would be without the pack.
#[tokio::test(start_paused = true)]
async fn who_waits_behind_what_was_given_up_is_told_of_the_failure() {
    let world = World::new(2, 2);
    world.members[1].set(Mood::Fails);
    let pack = world.mirrored.create("pack", vec!["pack".into()]).await;
    assert_eq!(pack.unwrap_err().kind(), Kind::StoreUnreachable);
    for _ in 0..2 {
        let log = timeout(Duration::from_secs(60), world.mirrored.create("log", vec!["log".into()])).await;
        assert_eq!(log.expect("an answer").unwrap_err().kind(), Kind::StoreUnreachable);
    }
    world.members[1].set(Mood::Works);
    world.mirrored.create("log", vec!["log".into()]).await.unwrap();
    assert_eq!((world.holders("pack"), world.holders("log")), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_slow_member_is_bounded() {
    let world = World::new(2, 1);
    world.members[1].set(Mood::Hangs);
    for _ in 0..3 {
        assert!(world.create(600, Duration::from_secs(1)).await);
    }
    assert_eq!(world.mirrored.standing(1), Standing::Behind);
    assert!(world.mirrored.is_quiet());

    // One that cannot be passed over has the creators wait.
    let both = World::new(2, 2);
    both.members[1].set(Mood::Fails);
    for _ in 0..3 {
        assert!(!both.create(600, Duration::from_secs(1)).await);
    }
    assert!(both.holders("log/0002") == 0 && both.holders("log/0001") == 1);
}

#[tokio::test]
async fn other_bytes_in_any_member_fence_the_writer() {
    for at in 0..2 {
        let world = World::new(2, 2);
        world.members[at].store.tamper("log/x", Some("theirs".into()));
        let error = world.mirrored.create("log/x", vec!["ours".into()]).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Fenced);
    }
}

/// So that of two that come together one loses before the other members hear of it.
#[tokio::test]
async fn a_claim_goes_to_one_member_after_the_other() {
    let world = World::new(2, 1);
    let members = stores(&world.members);
    let writers = [Mirrored::new(members.clone(), 1, 2), Mirrored::new(members, 1, 2)];
    writers.iter().for_each(|writer| writer.meet(vec![0, 1]));
    let claims = ["one", "two"].map(|body| vec![Bytes::from(body)]);
    let [one, two] = claims;
    let (one, two) = tokio::join!(writers[0].create("epoch/1", one), writers[1].create("epoch/1", two));
    assert!(one.is_ok() != two.is_ok());
    let [first, second] = [0, 1].map(|at| Arc::clone(&world.members[at].store));
    let claim = first.get("epoch/1", Part::All).await.unwrap();
    assert_eq!(second.get("epoch/1", Part::All).await.unwrap(), claim);

    world.members[0].set(Mood::Fails);
    let error = writers[0].create("epoch/2", vec!["one".into()]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::StoreUnreachable, "one of two is too few for a claim");
}
