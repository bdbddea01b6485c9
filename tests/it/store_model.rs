//! Promise: every store does the same. One random script runs on a directory, on two services and on a map in memory,
//! and each step must have the same outcome on all of them.

use bytes::Bytes;
use pitr::store::local::LocalStore;
use pitr::store::memory::MemoryStore;
use pitr::store::{ObjectInfo, Part, Store};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::support::moto::Moto;
use crate::support::s3::S3;
use crate::support::{Scratch, env_number, seed};

/// No name lies below another one: a disk cannot have both.
const NAMES: [&str; 8] = ["a", "b/1", "b/2", "b/c/3", "b-1", "c/d/e/f", "c/d.e", "z_9"];
const PREFIXES: [&str; 8] = ["", "a", "b", "b/", "b/c/", "c/", "c/d/e/", "nothing/"];

#[derive(Clone, Debug)]
enum Step {
    Create(&'static str, Vec<Bytes>),
    Get(&'static str, Part),
    Head(&'static str),
    Delete(&'static str),
    List(&'static str, Option<&'static str>, bool),
    Folders(&'static str),
}

fn step(dice: &mut StdRng) -> Step {
    let name = NAMES.choose(dice).copied().unwrap();
    let prefix = PREFIXES.choose(dice).copied().unwrap();
    let number = |dice: &mut StdRng| [0, 1, 2, 5, 7, 100, u64::MAX].choose(dice).copied().unwrap();
    match dice.random_range(0..12) {
        0..4 => {
            let body: &[&'static str] =
                [&["one"][..], &["o", "ne"], &["two"], &[], &["longer ", "than ", "ten bytes"]].choose(dice).unwrap();
            Step::Create(name, body.iter().map(|piece| Bytes::from(*piece)).collect())
        }
        4..7 => {
            let part = match dice.random_range(0..3) {
                0 => Part::All,
                1 => Part::Range { start: number(dice), len: number(dice) },
                _ => Part::Last(number(dice)),
            };
            Step::Get(name, part)
        }
        7 => Step::Head(name),
        8 => Step::Delete(name),
        9 | 10 => {
            let after = if dice.random() { NAMES.choose(dice).copied() } else { None };
            Step::List(prefix, after, dice.random())
        }
        _ => Step::Folders(
            PREFIXES.iter().copied().filter(|p| p.is_empty() || p.ends_with('/')).nth(dice.random_range(0..6)).unwrap(),
        ),
    }
}

/// What a step gives, in words that are the same for all stores.
async fn outcome(store: &dyn Store, step: &Step) -> String {
    match step {
        Step::Create(name, body) => format!("{:?}", store.create(name, body.clone()).await.map_err(|e| e.kind())),
        Step::Get(name, part) => format!("{:?}", store.get(name, *part).await.map_err(|e| e.kind())),
        Step::Head(name) => format!("{:?}", store.head(name).await.map_err(|e| e.kind())),
        Step::Delete(name) => format!("{:?}", store.delete(name).await.map_err(|e| e.kind())),
        Step::List(prefix, after, shallow) => {
            let mut found: Vec<(String, u64)> = Vec::new();
            let mut see = |info: ObjectInfo| found.push((info.name, info.bytes));
            let listed = store.list(prefix, *after, *shallow, &mut see).await.map_err(|e| e.kind());
            found.sort();
            format!("{listed:?} {found:?}")
        }
        Step::Folders(prefix) => {
            let folders = match store.folders(prefix).await {
                Ok(folders) => folders,
                Err(error) => return format!("{:?}", error.kind()),
            };
            let mut full = Vec::new();
            for folder in folders {
                // A directory stays when the last file in it goes.
                let mut objects = 0;
                store.list(&folder, None, false, &mut |_| objects += 1).await.unwrap();
                full.extend((objects > 0).then_some(folder));
            }
            full.sort();
            format!("{full:?}")
        }
    }
}

#[test]
fn one_script_has_one_outcome_on_every_store() {
    let seed = seed();
    let scratch = Scratch::new();
    let (s3, moto) = (S3::start(&scratch), Moto::start(&scratch));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for script in 0..env_number("PITR_MODEL_SCRIPTS", 15) {
        let model = MemoryStore::new();
        let dir = scratch.join(&format!("store-{script}"));
        let local = LocalStore::make(&dir).unwrap();
        let prefix = format!("script-{script}");
        let (files, versions) = (s3.store(&prefix), moto.store(&prefix, ""));
        let stores: [(&str, &dyn Store); 3] = [("directory", &local), ("s3s-fs", &files), ("moto", &versions)];
        let mut dice = StdRng::seed_from_u64(seed.wrapping_add(script));
        let mut done = Vec::new();
        for _ in 0..40 {
            let step = step(&mut dice);
            done.push(step.clone());
            let expected = runtime.block_on(outcome(&model, &step));
            for (name, store) in stores {
                let found = runtime.block_on(outcome(store, &step));
                assert_eq!(found, expected, "on {name} (left) and in the model, script {script}: {done:#?}");
            }
        }
    }
}
