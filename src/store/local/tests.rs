use std::os::unix::fs::{PermissionsExt, symlink};

use rustix::io::Errno;

use super::place::{Named, write_beside};
use super::*;
use crate::store::conformance;

fn store() -> (tempfile::TempDir, LocalStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    (dir, store)
}

async fn names(store: &LocalStore) -> Vec<String> {
    let mut names = Vec::new();
    store.list("", None, false, &mut |info| names.push(info.name)).await.unwrap();
    names.sort();
    names
}

/// Every file in the tree, hidden ones too.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(self::files(&path)) } else { files.push(path) }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_what_a_store_promises() {
    let (dir, store) = store();
    conformance::all(&store, "suite/").await.unwrap();
    assert_eq!(files(dir.path()).len(), names(&store).await.len(), "a temporary file was left");
    assert_eq!(store.local_root(), Some(dir.path()));
}

/// What a crash between writing and naming leaves: a hidden file, which is no object
/// and which a day later is swept.
#[tokio::test]
async fn a_crash_before_the_name_leaves_nothing_listed() {
    let (dir, store) = store();
    store.create("main/log/object", vec!["whole".into()]).await.unwrap();
    let temp = write_beside(&dir.path().join("main/log/other"), &["half".into()]).unwrap();
    std::mem::forget(temp);
    assert_eq!(files(dir.path()).len(), 2);
    assert_eq!(names(&store).await, ["main/log/object"]);
    assert_eq!(store.get("main/log/other", Part::All).await.unwrap(), None);
    assert_eq!(store.create("main/log/other", vec!["half".into()]).await.unwrap(), Created::New);

    let hidden = files(dir.path()).into_iter().find(|path| path.to_str().unwrap().contains("/.")).unwrap();
    let written = fs::metadata(&hidden).unwrap().modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    let written = Timestamp(i64::try_from(written.as_micros()).unwrap());
    let hour = 3_600_000_000;
    assert_eq!(store.sweep(written.saturating_add(23 * hour)).await.unwrap(), 0);
    assert_eq!(store.sweep(written.saturating_add(25 * hour)).await.unwrap(), 1);
    assert_eq!(names(&store).await.len(), files(dir.path()).len());
}

#[test]
fn a_name_is_given_once_by_rename_and_by_link() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let temp = || write_beside(&one, &["a".into(), "b".into()]).unwrap();
    assert_eq!(temp().give_name(&one).unwrap(), Named::New);
    assert_eq!(temp().give_name(&one).unwrap(), Named::Taken);
    // What file systems say that know no rename that spares other files.
    for errno in [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP] {
        let three = dir.path().join("three");
        fs::write(&three, "ab").unwrap();
        assert_eq!(place::after_rename(Err(errno), &three, &two).unwrap(), Named::New);
        assert_eq!(place::after_rename(Err(errno), &one, &two).unwrap(), Named::Taken);
        assert_eq!(fs::read(&two).unwrap(), b"ab");
        assert_eq!(files(dir.path()).len(), 2, "a temporary file was left");
        fs::remove_file(&two).unwrap();
    }
    // Anything else is no reason to try another way.
    let error = place::after_rename(Err(Errno::NOSPC), &one, &two).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(!two.exists());
}

/// More pieces than one system call takes (IOV_MAX is 1024), some of them empty.
/// A tail's file is written to again under another name once the tail is sealed.
#[test]
fn what_lost_its_name_while_it_was_read_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tail");
    fs::write(&path, "log").unwrap();
    let open = fs::metadata(&path).unwrap();
    assert!(is_named(&open, &path).unwrap());
    fs::rename(&path, dir.path().join("hidden")).unwrap();
    assert_eq!(is_named(&open, &path).unwrap_err().kind(), io::ErrorKind::NotFound);
    fs::write(&path, "log").unwrap();
    assert!(!is_named(&open, &path).unwrap());
}

#[tokio::test]
async fn many_pieces_make_one_object() {
    let (_dir, store) = store();
    let body: Vec<Bytes> = (0..5000_u32).map(|n| Bytes::from("x".repeat(n as usize % 7))).collect();
    store.create("pieces", body.clone()).await.unwrap();
    assert_eq!(store.get("pieces", Part::All).await.unwrap().unwrap(), body.concat());
    assert_eq!(store.create("pieces", body).await.unwrap(), Created::Same);
}

/// An unmounted disk must neither be written beneath nor prove anything absent.
#[tokio::test]
async fn a_store_that_is_not_there_is_not_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("mnt");
    let store = LocalStore::open(&root).unwrap();
    let errors = [
        store.create("a/b", vec![]).await.unwrap_err(),
        store.get("a/b", Part::All).await.unwrap_err(),
        store.head("a/b").await.unwrap_err(),
        store.delete("a/b").await.unwrap_err(),
        store.list("a/", None, false, &mut |_| {}).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), Kind::StoreUnreachable);
        assert_eq!(error.message(), format!("store directory {} is not there", root.display()));
        assert_eq!(error.advice(), Some("is its disk mounted? `pitr init` makes a new store"));
    }
    assert!(!root.exists());
}

#[tokio::test]
async fn directories_taken_away_are_made_again() {
    let (dir, store) = store();
    store.create("a/b/c", vec![]).await.unwrap();
    fs::remove_dir_all(dir.path().join("a")).unwrap();
    assert_eq!(store.create("a/b/c", vec![]).await.unwrap(), Created::New);
}

#[test]
fn a_folder_is_made_in_the_store_but_not_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("mnt");
    assert_eq!(make_folder(&root, &root.join("main/log")).unwrap_err().kind(), Kind::StoreUnreachable);
    fs::create_dir(&root).unwrap();
    make_folder(&root, &root.join("main/log")).unwrap();
    make_folder(&root, &root.join("main/log")).unwrap();
    assert!(root.join("main/log").is_dir());
}

#[tokio::test]
async fn folders_behind_links_are_walked_and_foreign_files_are_not() {
    let (dir, store) = store();
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), dir.path().join("pack")).unwrap();
    symlink("nowhere", dir.path().join("dangling")).unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    fs::write(dir.path().join("lost+found/x"), "").unwrap();
    fs::write(dir.path().join("with space"), "").unwrap();
    assert_eq!(store.create("pack/ab/object", vec![]).await.unwrap(), Created::New);
    assert_eq!(names(&store).await, ["pack/ab/object"]);
    assert_eq!(files(elsewhere.path()).len(), 1);
}

#[tokio::test]
async fn an_archive_is_not_for_everybody() {
    let (dir, store) = store();
    store.create("main/object", vec![]).await.unwrap();
    for path in ["main", "main/object"] {
        assert_eq!(fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o007, 0, "{path}");
    }
}

#[test]
fn system_errors_come_with_what_to_do() {
    for (errno, says) in [
        (Errno::NOSPC, "the disk is full: make room and pitr goes on; see `df -h /`"),
        (Errno::DQUOT, "the quota is used up"),
        (Errno::ROFS, "mounted read-only"),
        (Errno::ACCESS, "which user runs pitr"),
        (Errno::IO, "see `dmesg`"),
    ] {
        let error = Error::store_io("write", Path::new("/no-such/object"), errno.into());
        assert_eq!(error.kind(), Kind::StoreUnreachable);
        assert_eq!(error.message(), "cannot write /no-such/object");
        assert!(error.advice().unwrap().contains(says), "{:?}", error.advice());
    }
}

#[tokio::test]
async fn a_create_that_fails_leaves_no_file() {
    let (dir, store) = store();
    drop(write_beside(&dir.path().join("object"), &["bytes".into()]).unwrap());
    assert_eq!(files(dir.path()).len(), 0);
    fs::write(dir.path().join("taken"), "a file where a folder should be").unwrap();
    let error = store.create("taken/object", vec!["bytes".into()]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::StoreUnreachable);
    assert_eq!(files(dir.path()).len(), 1);
}

/// A tail that becomes a segment: of the two a list must have one.
#[test]
fn what_goes_away_while_it_is_listed_is_in_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|name| dir.path().join(name));
    paths.iter().for_each(|path| fs::write(path, "log").unwrap());
    let wanted = walk::Wanted { prefix: String::new(), after: None, shallow: true };
    let mut listed = Vec::new();
    let walked = walk::walk(dir.path(), &wanted, &mut |info| {
        for path in &paths {
            let _ = fs::remove_file(path);
        }
        listed.push(info.name);
        true
    });
    walked.unwrap();
    listed.sort();
    assert_eq!(listed, ["a", "b"]);
}

/// The kernel takes what it could not write for written, and the next fsync says nothing of it.
#[tokio::test]
async fn an_object_whose_fsync_failed_is_durable_only_once_it_was_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    let path = dir.path().join("a");
    let names = ["a".to_owned()];
    let inode = || fs::metadata(&path).unwrap().ino();
    store.create("a", vec!["by".into(), "tes".into()]).await.unwrap();
    store.settle(&names).await.unwrap();
    let before = inode();
    store.0.doubtful().insert(path.clone());
    for _ in 0..2 {
        assert_eq!(store.settle(&names).await.unwrap_err().kind(), Kind::StoreUnreachable);
    }
    assert_eq!(store.create("a", vec!["bytes".into()]).await.unwrap(), Created::Same);
    assert_ne!(inode(), before);
    assert_eq!(store.get("a", Part::All).await.unwrap().unwrap(), "bytes");
    store.settle(&names).await.unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
