//! What every [`Store`] and every decorator of one promises, as checks that run over
//! any of them. Each takes a `folder` of its own, which ends with a slash and is empty.

use std::collections::BTreeSet;
use std::fmt::Debug;

use bytes::Bytes;
use futures_util::future::join_all;

use super::{Created, ObjectInfo, Part, Store};
use crate::error::{Error, Kind, Result};

/// All checks, in folders below `folder`.
///
/// # Errors
/// The first promise that is not kept, or what the store answered.
pub async fn all(store: &dyn Store, folder: &str) -> Result<()> {
    creates_once(store, &format!("{folder}once/")).await?;
    one_creator_wins(store, &format!("{folder}race/")).await?;
    reads_parts(store, &format!("{folder}parts/")).await?;
    lists(store, &format!("{folder}list/")).await?;
    deletes(store, &format!("{folder}delete/")).await?;
    refuses_bad_names(store).await
}

/// New, then the same, then refused; and the first bytes stay.
///
/// # Errors
/// As [`all`].
pub async fn creates_once(store: &dyn Store, folder: &str) -> Result<()> {
    let name = format!("{folder}a/deep/name");
    let pieces = |all: &[&'static str]| all.iter().map(|piece| Bytes::from(*piece)).collect::<Vec<_>>();
    equal("create", store.create(&name, pieces(&["one", "", "two"])).await?, Created::New)?;
    equal("create again", store.create(&name, pieces(&["onet", "wo"])).await?, Created::Same)?;
    for other in [&["onetwx"][..], &["onetw"], &["onetwo", "3"], &[]] {
        match store.create(&name, pieces(other)).await {
            Err(e) if e.kind() == Kind::Fenced && e.message().contains(&name) => {}
            outcome => return Err(broken("create of other bytes", outcome, "Fenced, with the name")),
        }
    }
    equal("get", store.get(&name, Part::All).await?, Some("onetwo".into()))?;
    equal("create of nothing", store.create(&format!("{folder}empty"), vec![]).await?, Created::New)?;
    equal("get of nothing", store.get(&format!("{folder}empty"), Part::All).await?, Some(Bytes::new()))
}

/// Of many creators with bytes of their own, exactly one is told `New`, and its bytes stay.
///
/// # Errors
/// As [`all`].
pub async fn one_creator_wins(store: &dyn Store, folder: &str) -> Result<()> {
    let body = |creator: usize| Bytes::from(vec![creator as u8; 100_000]);
    for round in 0..10 {
        let name = format!("{folder}{round}");
        let outcomes = join_all((0..8).map(|creator| store.create(&name, vec![body(creator)]))).await;
        let mut winners = Vec::new();
        for (creator, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Ok(Created::New) => winners.push(creator),
                Err(e) if e.kind() == Kind::Fenced => {}
                outcome => return Err(broken("a racing create", outcome, "New or Fenced")),
            }
        }
        equal("winners", winners.len(), 1)?;
        let stays = store.get(&name, Part::All).await? == winners.first().map(|winner| body(*winner));
        equal("the winner's bytes stay", stays, true)?;
    }
    Ok(())
}

/// Whole objects, ranges and ends, also past the end; nothing for what is not there.
///
/// # Errors
/// As [`all`].
pub async fn reads_parts(store: &dyn Store, folder: &str) -> Result<()> {
    let name = format!("{folder}object");
    equal("get before create", store.get(&name, Part::All).await?, None)?;
    equal("head before create", store.head(&name).await?, None)?;
    store.create(&name, vec!["0123456789".into()]).await?;
    equal("head", store.head(&name).await?, Some(ObjectInfo { name: name.clone(), bytes: 10 }))?;
    for (part, is) in [
        (Part::All, "0123456789"),
        (Part::Range { start: 0, len: 1 }, "0"),
        (Part::Range { start: 3, len: 4 }, "3456"),
        (Part::Range { start: 8, len: 4 }, "89"),
        (Part::Range { start: 8, len: u64::MAX }, "89"),
        (Part::Range { start: 10, len: 1 }, ""),
        (Part::Range { start: u64::MAX, len: u64::MAX }, ""),
        (Part::Range { start: 3, len: 0 }, ""),
        (Part::Last(0), ""),
        (Part::Last(3), "789"),
        (Part::Last(10), "0123456789"),
        (Part::Last(u64::MAX), "0123456789"),
    ] {
        equal(&format!("get {part:?}"), store.get(&name, part).await?, Some(is.into()))?;
    }
    // A name that goes on below an object is not there.
    equal("get below an object", store.get(&format!("{name}/below"), Part::All).await?, None)?;
    equal("head of a folder", store.head(folder.trim_end_matches('/')).await?, None)
}

/// Prefixes, folders, `after` and `shallow`, right after the creates. No object has a
/// folder's name: a disk cannot have both.
///
/// # Errors
/// As [`all`].
pub async fn lists(store: &dyn Store, folder: &str) -> Result<()> {
    let names = ["a-b", "a/1", "a/2", "a/b/3", "ab/4", "b", "b-2/5"];
    for name in names {
        store.create(&format!("{folder}{name}"), vec![Bytes::from(name)]).await?;
    }
    let cases: [(&str, Option<&str>, bool, &[&str]); 11] = [
        ("", None, false, &names),
        ("", None, true, &["a-b", "b"]),
        ("a", None, false, &["a-b", "a/1", "a/2", "a/b/3", "ab/4"]),
        ("a", None, true, &["a-b"]),
        ("a/", None, false, &["a/1", "a/2", "a/b/3"]),
        ("a/", None, true, &["a/1", "a/2"]),
        ("a/", Some("a/1"), false, &["a/2", "a/b/3"]),
        ("", Some("a/2"), false, &["a/b/3", "ab/4", "b", "b-2/5"]),
        ("", Some("a/b"), false, &["a/b/3", "ab/4", "b", "b-2/5"]),
        ("a/b/3", None, false, &["a/b/3"]),
        ("none/", None, false, &[]),
    ];
    for (prefix, after, shallow, are) in cases {
        let mut found = BTreeSet::new();
        let mut repeated = 0;
        let after = after.map(|after| format!("{folder}{after}"));
        let mut each = |info: ObjectInfo| {
            let size = info.name.len() as u64 - folder.len() as u64;
            repeated += u32::from(size != info.bytes || !found.insert(info.name));
        };
        store.list(&format!("{folder}{prefix}"), after.as_deref(), shallow, &mut each).await?;
        let are = are.iter().map(|name| format!("{folder}{name}")).collect();
        let what = format!("list of {prefix:?} after {after:?}, shallow {shallow}");
        equal(&what, found, are)?;
        equal(&format!("{what}: names repeated or of a wrong size"), repeated, 0)?;
    }
    Ok(())
}

/// Gone at once; gone already is success; the name is free again.
///
/// # Errors
/// As [`all`].
pub async fn deletes(store: &dyn Store, folder: &str) -> Result<()> {
    let name = format!("{folder}x/object");
    store.delete(&name).await?;
    store.create(&name, vec!["one".into()]).await?;
    store.delete(&name).await?;
    equal("get after delete", store.get(&name, Part::All).await?, None)?;
    let mut left = Vec::new();
    store.list(folder, None, false, &mut |info| left.push(info.name)).await?;
    equal("list after delete", left, Vec::<String>::new())?;
    store.delete(&name).await?;
    equal("create after delete", store.create(&name, vec!["two".into()]).await?, Created::New)
}

/// No operation leaves the store, or meets an unfinished object.
///
/// # Errors
/// As [`all`].
pub async fn refuses_bad_names(store: &dyn Store) -> Result<()> {
    for name in ["", "/etc/passwd", "..", "a/../../b", "a/.hidden", "a//b", "a/"] {
        let refused = store.create(name, vec![]).await.is_err()
            && store.get(name, Part::All).await.is_err()
            && store.head(name).await.is_err()
            && store.delete(name).await.is_err();
        equal(&format!("name {name:?} is refused"), refused, true)?;
    }
    let outside = store.list("../", None, false, &mut |_| {}).await.is_err();
    equal("a list outside the store is refused", outside, true)
}

fn equal<T: PartialEq + Debug>(what: &str, found: T, expected: T) -> Result<()> {
    if found == expected { Ok(()) } else { Err(broken(what, found, expected)) }
}

fn broken(what: &str, found: impl Debug, expected: impl Debug) -> Error {
    Error::failure(format!("store breaks its promise: {what} gives {found:?}, expected {expected:?}"))
}
