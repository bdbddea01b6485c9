//! What a restore refuses before it touches anything, and what it removes.

use std::process::{Child, Command};

use super::*;

#[test]
fn a_link_stands_for_the_directory_it_leads_to() {
    let scratch = tempfile::tempdir().unwrap();
    let real = fs::canonicalize(scratch.path()).unwrap().join("real");
    let link = scratch.path().join("link");
    std::os::unix::fs::symlink("real", &link).unwrap();
    let error = destination(&link).unwrap_err();
    assert_eq!(error.kind(), crate::Kind::Config);
    assert!(error.message().contains(link.to_str().unwrap()), "{error}");
    fs::create_dir(&real).unwrap();
    assert_eq!(destination(&link).unwrap(), real);
    assert_eq!(destination(&scratch.path().join("link/")).unwrap(), real);
    assert_eq!(destination(&real.join("new")).unwrap(), real.join("new"));
}

#[test]
fn a_mount_point_is_refused() {
    let error = destination(Path::new("/proc")).unwrap_err();
    assert_eq!(error.kind(), crate::Kind::Config);
    assert!(error.advice().unwrap().contains("--to /proc/data"), "{error:?}");
    assert!(!is_mount_point(Path::new("/proc/self")));
    let scratch = tempfile::tempdir().unwrap();
    fs::create_dir(scratch.path().join("inside")).unwrap();
    for dir in ["inside", "missing", "missing/too"] {
        assert!(!is_mount_point(&scratch.path().join(dir)), "{dir}");
    }
}

fn request(to: &Path, delta: bool) -> Request {
    Request {
        to: to.to_owned(),
        jobs: 1,
        delta,
        tablespace_map: Vec::new(),
        exclude: Vec::new(),
        recover: true,
        start: false,
        bin_dir: None,
        os_user: None,
        fetch_command: String::new(),
    }
}

/// Makes ready to restore a base of `bytes` to `to`, with a tablespace at `tablespace`.
fn ready(to: &Path, delta: bool, tablespace: Option<&Path>, bytes: u64) -> Result<()> {
    let request = request(to, delta);
    let tablespaces: Vec<_> =
        tablespace.map(|target| serde_json::json!({ "link": "pg_tblspc/1", "target": target })).into_iter().collect();
    let base = serde_json::from_value(serde_json::json!({
        "format_version": 1, "id": "b", "cluster": "main", "engine": "postgres", "system": "7",
        "server_version": 15, "label": "", "timeline": 1, "start": Offset(0), "end": Offset(0),
        "began": crate::model::time::Timestamp(0), "ended": crate::model::time::Timestamp(0),
        "bytes": bytes, "stored_bytes": 0, "file_count": 0, "tablespaces": tablespaces,
        "table": { "hash": "0".repeat(64), "bytes": 0 }, "packs": [], "files": [],
    }))
    .unwrap();
    let options = LayOut { jobs: 1, delta, tablespace_map: Vec::new(), owner: None };
    let present = !files::is_vacant(to).unwrap();
    let (partial, scratch) = (beside(to, ".partial").unwrap(), beside(to, ".partial.run").unwrap());
    prepare(&request, present, (&partial, &scratch), &base, &options, &|_| Ok(())).map(drop)
}

/// A scratch directory with files in it, and the path of `data`.
fn holding(files: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    for file in files {
        let path = scratch.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"theirs").unwrap();
    }
    let data = scratch.path().join("data");
    (scratch, data)
}

fn assert_refused(scratch: &Path, files: &[&str], result: Result<()>) {
    assert_eq!(result.unwrap_err().kind(), crate::Kind::Config);
    for file in files {
        assert!(scratch.join(file).exists(), "{file} was touched");
    }
}

#[test]
fn what_stands_in_the_way_is_refused_and_left_alone() {
    let files = ["data/x"];
    let (scratch, data) = holding(&files);
    assert_refused(scratch.path(), &files, ready(&data, false, None, 0));
    // A directory of this name that no restore of ours made.
    let files = ["data.partial/x"];
    let (scratch, data) = holding(&files);
    for delta in [false, true] {
        assert_refused(scratch.path(), &files, ready(&data, delta, None, 0));
    }
    let files = ["data/x", "data.partial/x"];
    let (scratch, data) = holding(&files);
    assert_refused(scratch.path(), &files, ready(&data, true, None, 0));
}

#[test]
fn what_another_restore_works_at_is_left_alone() {
    let files = ["data.partial/x", "data.partial.run/x"];
    let (scratch, data) = holding(&files);
    let claim = Claim::take(&scratch.path().join("data.partial"), &scratch.path().join("data.partial.run")).unwrap();
    for delta in [false, true] {
        let error = ready(&data, delta, None, 0).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Busy);
        for file in &files {
            assert!(scratch.path().join(file).exists(), "{file} was touched");
        }
    }
    drop(claim);
    ready(&data, false, None, 0).unwrap();
}

#[test]
fn a_server_that_was_killed_as_it_began_is_no_obstacle() {
    let (scratch, data) = holding(&["data.partial.run/x", "data.partial/x"]);
    fs::write(scratch.path().join("data.partial/postmaster.pid"), b"").unwrap();
    ready(&data, false, None, 0).unwrap();
    assert!(!scratch.path().join("data.partial").exists());
}

#[test]
fn delta_leaves_a_directory_alone_in_which_a_server_runs() {
    let files = ["data/postmaster.pid"];
    let (scratch, data) = holding(&files);
    fs::write(data.join("postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
    assert_refused(scratch.path(), &files, ready(&data, true, None, 0));
}

#[test]
fn delta_refuses_a_tablespace_in_use_before_it_renames_the_directory() {
    let files = ["data/x", "tablespace/x"];
    let (scratch, data) = holding(&files);
    assert_refused(scratch.path(), &files, ready(&data, true, Some(&scratch.path().join("tablespace")), 0));
}

#[test]
fn delta_takes_the_directory_that_is_there() {
    let (scratch, data) = holding(&["data/x"]);
    ready(&data, true, None, u64::MAX).unwrap();
    assert!(!data.exists() && scratch.path().join("data.partial/x").exists());
}

#[test]
fn what_an_interrupted_restore_left_is_removed_or_gone_on_with() {
    for (delta, goes_on) in [(false, false), (true, true)] {
        let (scratch, data) = holding(&["data.partial/x", "data.partial.run/x"]);
        ready(&data, delta, None, 0).unwrap();
        assert_eq!(scratch.path().join("data.partial/x").exists(), goes_on);
        assert!(files::is_vacant(&scratch.path().join("data.partial.run")).unwrap());
    }
}

#[test]
fn the_server_of_an_interrupted_restore_is_stopped_before_its_directory_is_touched() {
    let (scratch, data) = holding(&["data.partial/x", "data.partial.run/x"]);
    let partial = scratch.path().join("data.partial");
    let mut server = process_in(&partial);
    fs::write(partial.join("postmaster.pid"), format!("{}\n", server.id())).unwrap();
    let made = ready(&data, false, None, 0);
    let ended = server.try_wait().unwrap().is_some();
    let _ = server.kill();
    server.wait().unwrap();
    made.unwrap();
    assert!(ended);
}

/// Of a restore with `--delta` that was interrupted, the directory goes on being there.
#[test]
fn a_directory_that_came_since_is_taken_instead_of_what_was_left() {
    let (scratch, data) = holding(&["data/new", "data.partial/old", "data.partial.run/x"]);
    ready(&data, true, None, 0).unwrap();
    let partial = scratch.path().join("data.partial");
    assert!(partial.join("new").exists() && !partial.join("old").exists());
}

#[test]
fn a_disk_without_room_for_the_base_is_refused_and_nothing_is_left() {
    let (scratch, data) = holding(&[]);
    assert_refused(scratch.path(), &[], ready(&data, false, None, u64::MAX));
    assert!(files::is_vacant(scratch.path()).unwrap());
}

/// Any process, whose working directory is `dir`. It ends by the signal, as servers do, also
/// where we were started to ignore it (`make test &` in a script).
fn process_in(dir: &Path) -> Child {
    let child = Command::new("env").args(["--default-signal=QUIT", "sleep", "600"]).current_dir(dir).spawn().unwrap();
    // A signal that came before would be ignored.
    while fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap().trim() != "sleep" {
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

#[test]
fn only_a_server_of_the_directory_itself_is_stopped() {
    let scratch = tempfile::tempdir().unwrap();
    let partial = scratch.path().join("data.partial");
    fs::create_dir(&partial).unwrap();
    let mut stranger = process_in(scratch.path());
    fs::write(partial.join("postmaster.pid"), format!("{}\n/data\n", stranger.id())).unwrap();
    stop_orphan(&partial).unwrap();
    assert!(stranger.try_wait().unwrap().is_none(), "it was ended");
    stranger.kill().unwrap();
    stranger.wait().unwrap();

    let mut ours = process_in(&partial);
    fs::write(partial.join("postmaster.pid"), format!("{}\n/data\n", ours.id())).unwrap();
    stop_orphan(&partial).unwrap();
    assert!(!ours.wait().unwrap().success());
    stop_orphan(&partial).unwrap();
}
