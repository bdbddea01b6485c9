//! What becomes of a clone's directory, and of a clone that was started.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::engine::EntryMeta;

const UUID: &str = "6ce57952-e5ec-11f1-8b0f-02fc00000001";

/// A directory as CLONE of 9.7 leaves it, in `parent`.
fn clone_in(parent: &Path) -> CloneDir {
    let dir = CloneDir::make(&[parent.to_owned()], fs::metadata(parent).unwrap(), 1).unwrap();
    for (name, bytes) in
        [("ibdata1", 3 << 20), ("t/m.ibd", (1 << 20) + 5), ("#innodb_redo/#ib_redo0", 7), ("#clone/#status_fix", 0)]
    {
        let path = dir.data().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![b'x'; bytes]).unwrap();
    }
    dir
}

fn end() -> BaseEvent {
    let place = |at: u64| crate::model::position::Position(format!("{UUID}:1-{at} @ {UUID}/b.000001:{at}"));
    BaseEvent::End { end: BaseEnd::Between { start: place(5), end: place(9) }, time: None }
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

#[tokio::test]
async fn a_clone_comes_whole_directories_first_and_is_gone_at_its_end() {
    let parent = tempfile::tempdir().unwrap();
    let mut stream = files::read(clone_in(parent.path()), "[mysqld]\n".into(), end()).unwrap();
    let (mut paths, mut announced, mut came) = (Vec::new(), None, 0);
    while let Some(event) = stream.next().await.unwrap() {
        match event {
            BaseEvent::Start { estimated_bytes, .. } => announced = estimated_bytes,
            BaseEvent::Directory(EntryMeta { path, .. }) => paths.push(path + "/"),
            BaseEvent::File { meta, size: Some(size), .. } => paths.push(format!("{} {size}", meta.path)),
            BaseEvent::Data { bytes, .. } => came += bytes.len() as u64,
            BaseEvent::FileEnd { .. } => {}
            last => {
                assert_eq!(last, end());
                assert!(is_empty(parent.path()), "removed before the end is told");
            }
        }
    }
    assert_eq!(
        paths,
        [
            "#clone/",
            "#innodb_redo/",
            "t/",
            "#clone/#status_fix 0",
            "#innodb_redo/#ib_redo0 7",
            "ibdata1 3145728",
            "t/m.ibd 1048581",
            "backup-my.cnf 9"
        ]
    );
    assert_eq!(announced, Some(came));
}

#[tokio::test]
async fn a_clone_that_nobody_reads_to_its_end_is_removed() {
    let parent = tempfile::tempdir().unwrap();
    let mut stream = files::read(clone_in(parent.path()), String::new(), end()).unwrap();
    assert!(stream.next().await.unwrap().is_some());
    drop(stream);
    for _ in 0..200 {
        if is_empty(parent.path()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the directory is still there");
}

#[tokio::test]
async fn refuses_a_link_in_a_clone_and_removes_it() {
    let parent = tempfile::tempdir().unwrap();
    let dir = clone_in(parent.path());
    std::os::unix::fs::symlink("/etc/shadow", dir.data().join("t/n.ibd")).unwrap();
    let error = files::read(dir, String::new(), end()).err().unwrap();
    assert!(error.message().contains("neither a file nor a directory"), "{error}");
    assert!(is_empty(parent.path()));
}
