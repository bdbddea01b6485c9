//! Promise: `pitr restore` gives back the database as it stood at that instant, the
//! last transaction in and the first one out being exactly the right ones.
//!
//! The ruler is the server's own: `pg_waldump` lists every end of a transaction in
//! WAL order with its time, and PostgreSQL's rule (stop before the first one that is
//! later) says which marker rows a restored cluster must hold.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use crate::support::load::{mark, marker_table, pgbench_tables, wait_for_markers};
use crate::support::oracle::{
    TransactionEnd, amcheck, assert_ready_data_dir, marker_commit_times, marker_xids, open_restored, replayed_at_time,
    segment_files, transactions,
};
use crate::support::programs::{as_server_user, must};
use crate::support::server::format_lsn;
use crate::support::started::{RunningServer, recover_elsewhere};
use crate::support::{Load, PATIENCE, Pitr, Scratch, Server, Version, condition, seed};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// An archived server whose history is fully known.
struct Archive<'a> {
    scratch: &'a Scratch,
    server: Server,
    pitr: Pitr<'a>,
    /// Every end of a transaction after the base backup, in WAL order.
    ends: Vec<TransactionEnd>,
    markers: BTreeSet<u32>,
    restores: usize,
}

impl<'a> Archive<'a> {
    /// A base backup, then `rows` marker rows under `pgbench`'s load by two more
    /// writers, an idle stretch, and some more rows.
    fn under_load(scratch: &'a Scratch, rows: u64) -> Self {
        // Nobody else writes: what the archive holds in the end is all there is.
        let server = Server::builder(scratch, "source").setting("autovacuum", "off").start();
        pgbench_tables(&server, 1);
        marker_table(&server);
        let pitr = Pitr::new(scratch).source(&server);
        pitr.ok(["init"]);
        pitr.catch_up();
        // The archive begins before the base does; what ended in between is in the base,
        // and no plan names it.
        let after_base = server.flush_lsn();
        let load = Load::pgbench_at(&server, 2, 200);
        let markers = Load::markers(scratch, &server, 2, 3);
        wait_for_markers(&server, rows);
        markers.stop(&server);
        load.stop(&server);
        server.sql("select pg_sleep(1.5)");
        for _ in 0..5 {
            mark(&server);
        }
        pitr.catch_up();
        let ends = transactions(&server, 1, after_base, server.flush_lsn());
        let markers = marker_xids(&server);
        Self { scratch, server, pitr, ends, markers, restores: 0 }
    }

    /// The ends of marker transactions, in WAL order, by index into `ends`.
    fn marker_ends(&self) -> Vec<usize> {
        (0..self.ends.len()).filter(|i| self.markers.contains(&self.ends[*i].xid)).collect()
    }

    /// The marker rows that a restore must hold when `replayed` ends were replayed.
    fn expected(&self, replayed: usize) -> BTreeSet<u32> {
        // Every other row is in the base.
        let later: BTreeSet<u32> = self.ends[replayed..].iter().map(|end| end.xid).collect();
        self.markers.difference(&later).copied().collect()
    }

    /// Restores with `target`, opens the result and checks that it holds exactly the
    /// transactions that ended before number `replayed`.
    #[track_caller]
    fn check(&mut self, target: &[&str], replayed: usize) -> Server {
        self.restores += 1;
        let name = format!("r{}", self.restores);
        let to = self.scratch.join(&name);
        let said = self.pitr.restore(&self.server, &to, target);
        assert_ready_data_dir(&to);
        // The last one in and the first one out are both named.
        let named = |end: Option<&TransactionEnd>| {
            if let Some(end) = end.filter(|end| end.committed) {
                let xid = end.xid.to_string();
                assert!(said.said().contains(&xid), "transaction {xid} is not named in {said}");
            }
        };
        named(replayed.checked_sub(1).and_then(|i| self.ends.get(i)));
        named(self.ends.get(replayed));
        let restored = open_restored(self.scratch, &name, &self.server, &to);
        let have = marker_xids(&restored);
        let want = self.expected(replayed);
        assert!(
            have == want,
            "{target:?}: too much: {:?}, missing: {:?}",
            have.difference(&want).collect::<Vec<_>>(),
            want.difference(&have).collect::<Vec<_>>()
        );
        restored
    }

    #[track_caller]
    fn check_time(&mut self, time: &str) {
        let replayed = replayed_at_time(&self.ends, time, true);
        drop(self.check(&["--target-time", time], replayed));
    }
}

/// `time` and some microseconds more or less, by the server.
fn shifted(server: &Server, time: &str, microseconds: i64) -> String {
    server.sql(&format!(
        "select to_char((timestamptz '{time}' + interval '{microseconds} microseconds') at time zone 'UTC',
                        'YYYY-MM-DD HH24:MI:SS.US') || '+00'"
    ))
}

#[test]
fn holds_exactly_the_commits_at_or_before_many_times() {
    let scratch = Scratch::new();
    let mut archive = Archive::under_load(&scratch, 400);
    let mut rng = StdRng::seed_from_u64(seed());
    let markers = archive.marker_ends();
    // Before the first one of all: the base as it is.
    let first = shifted(&archive.server, &archive.ends[0].time, -1);
    archive.check_time(&first);
    for _ in 0..3 {
        let time = archive.ends[markers[rng.random_range(0..markers.len() - 5)]].time.clone();
        // On the boundary, a microsecond before it, and in between.
        archive.check_time(&time);
        let before = shifted(&archive.server, &time, -1);
        archive.check_time(&before);
        let between = shifted(&archive.server, &time, rng.random_range(1..4000));
        archive.check_time(&between);
    }
}

/// The server's word that there is no more is waited for.
#[test]
fn an_idle_server_restores_to_a_time_as_soon_as_it_is_archived() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "source").setting("autovacuum", "off").start();
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let now = server.sql("select now() at time zone 'UTC'") + "Z";
    let window = |list: &serde_json::Value| list["windows"][0]["to"].as_str().map(str::to_owned);
    let listed = pitr.json(&["list"]);
    let first = window(&listed).unwrap_or_else(|| panic!("no window: {listed:#}"));
    pitr.ok(["plan", "--target-time", &first]);
    pitr.catch_up();
    pitr.ok(["plan", "--target-time", &now]);
    // The first archiver's went when the second came.
    let folder = std::fs::read_dir(pitr.cluster_dir().join("log/00000001")).unwrap();
    let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.starts_with("tail-")).count(), 1);
}

#[test]
fn a_quiet_database_restores_to_a_time_in_which_nothing_happened() {
    let scratch = Scratch::new();
    let mut archive = Archive::under_load(&scratch, 50);
    // The idle stretch lies before the last five marker rows.
    let markers = archive.marker_ends();
    let last_busy = archive.ends[markers[markers.len() - 6]].time.clone();
    let idle = shifted(&archive.server, &last_busy, 700_000);
    archive.check_time(&idle);
}

/// The time of the very last commit is inside; PostgreSQL alone would end with
/// "recovery ended before configured recovery target was reached".
#[test]
fn the_last_commit_of_the_archive_can_be_asked_for() {
    let scratch = Scratch::new();
    let mut archive = Archive::under_load(&scratch, 50);
    let last = archive.ends.last().unwrap().time.clone();
    archive.check_time(&last);
}

#[test]
fn latest_is_everything_and_equals_the_source() {
    let scratch = Scratch::new();
    let mut archive = Archive::under_load(&scratch, 100);
    let all = archive.ends.len();
    let restored = archive.check(&["--target", "latest"], all);
    assert_eq!(restored.checksums(), archive.server.checksums());
    amcheck(&restored);
}

#[test]
fn exclusive_leaves_out_the_transaction_exactly_there() {
    let scratch = Scratch::new();
    let mut archive = Archive::under_load(&scratch, 100);
    let markers = archive.marker_ends();
    let end = archive.ends[markers[markers.len() / 2]].clone();
    let replayed = replayed_at_time(&archive.ends, &end.time, false);
    drop(archive.check(&["--target-time", &end.time, "--exclusive"], replayed));

    let place = archive.ends.iter().position(|e| e.xid == end.xid).unwrap();
    drop(archive.check(&["--target-xid", &end.xid.to_string(), "--exclusive"], place));
    drop(archive.check(&["--target-xid", &end.xid.to_string()], place + 1));
}

/// An LSN names a record by its beginning: inclusive replays that record, exclusive
/// stops before it, as `recovery_target_lsn` does.
#[test]
fn an_lsn_is_understood_as_postgresql_does() {
    let scratch = Scratch::new();
    let mut archive = Archive::under_load(&scratch, 100);
    let markers = archive.marker_ends();
    let place = markers[markers.len() / 2];
    let lsn = format_lsn(archive.ends[place].lsn);
    drop(archive.check(&["--target-lsn", &lsn], place + 1));
    drop(archive.check(&["--target-lsn", &lsn, "--exclusive"], place));
}

#[test]
fn a_restore_point_is_found_by_its_name() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "source");
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let inside = mark(&server);
    server.sql("select pg_create_restore_point('before the release')");
    mark(&server);
    pitr.catch_up();
    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target-name", "before the release"]);
    assert_ready_data_dir(&to);
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(marker_xids(&restored), BTreeSet::from([inside]));
}

/// The job that all this is for.
#[test]
fn a_dropped_table_is_back_and_every_table_is_as_it_was() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "source");
    pgbench_tables(&server, 2);
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    let mut archiver = pitr.archive();
    archiver.wait_until_caught_up(&server);
    let load = Load::pgbench(&server, 2);
    crate::support::load::wait_for_wal(&server, 20 << 20);
    load.stop(&server);
    mark(&server);
    let sums = server.checksums();
    let moment = server.now();
    server.sql("select pg_sleep(0.01); drop table pgbench_accounts");
    mark(&server);
    archiver.wait_until_caught_up(&server);
    archiver.stop();

    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target-time", &moment]);
    assert_ready_data_dir(&to);
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(restored.checksums(), sums);
    amcheck(&restored);
}

#[test]
fn the_time_may_be_written_in_every_form_that_names_its_zone() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "source");
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let inside = mark(&server);
    let time = marker_commit_times(&server)[&inside].clone();
    mark(&server);
    pitr.catch_up();
    let (clock, _) = time.split_once('+').unwrap();
    let berlin = server.sql(&format!("set timezone = 'Europe/Berlin'; select timestamptz '{time}'"));
    let plain = |zone: &str| {
        server.sql(&format!("select to_char(timestamptz '{time}' at time zone '{zone}', 'YYYY-MM-DD HH24:MI:SS.US')"))
    };
    let forms: Vec<Vec<String>> = vec![
        vec![format!("{}Z", clock.replace(' ', "T"))],
        vec![format!("{clock}Z")],
        vec![time.clone()],
        vec![berlin],
        vec![format!("{}[Europe/Berlin]", plain("Europe/Berlin"))],
        vec![plain("Europe/Berlin"), "--tz".into(), "Europe/Berlin".into()],
    ];
    let plans: Vec<String> = forms
        .iter()
        .map(|form| {
            let mut words = vec!["plan".to_owned(), "--target-time".to_owned()];
            words.extend(form.clone());
            let finished = pitr.ok(&words);
            assert!(finished.said().contains(&inside.to_string()), "{inside} is not the last one in: {finished}");
            finished.stdout
        })
        .collect();
    for plan in &plans {
        assert_eq!(plan, &plans[0]);
    }
}

#[test]
fn delta_makes_an_old_copy_into_the_moment_asked_for() {
    let scratch = Scratch::new();
    let mut archive = Archive::under_load(&scratch, 100);
    let all = archive.ends.len();
    let place = archive.marker_ends()[20];
    let time = archive.ends[place].time.clone();
    let early = replayed_at_time(&archive.ends, &time, true);
    // A restored copy that lived on by itself for a while, with files of its own.
    let mut lived = archive.check(&["--target", "latest"], all);
    lived.sql("create table of_its_own as select generate_series(1, 1000) n; delete from marker; vacuum full marker;");
    lived.stop();
    let to = lived.data().to_path_buf();
    std::fs::write(to.join("base/left_over"), "nobody's file").unwrap();

    archive.pitr.run_restore(&archive.server, &to, &["--target-time", &time]).exit(5).says(&["--delta"]);
    archive.pitr.restore(&archive.server, &to, &["--target-time", &time, "--delta"]);
    assert_ready_data_dir(&to);
    assert!(!to.join("base/left_over").exists());
    lived.start();
    assert_eq!(marker_xids(&lived), archive.expected(early));
    assert_eq!(lived.sql("select to_regclass('of_its_own') is null"), "t");
    amcheck(&lived);
}

#[test]
fn delta_refuses_a_directory_in_which_a_server_runs() {
    let scratch = Scratch::new();
    let mut archive = Archive::under_load(&scratch, 20);
    let all = archive.ends.len();
    let running = archive.check(&["--target", "latest"], all);
    let refused = archive.pitr.run_restore(&archive.server, running.data(), &["--target", "latest", "--delta"]);
    refused.exit(5).says(&["postmaster.pid"]);
    assert_eq!(marker_xids(&running), archive.expected(all));
}

/// What `--delta` is given by mistake is not removed.
#[test]
fn delta_refuses_what_is_no_copy_of_the_database() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "server");
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let home = scratch.join("home");
    std::fs::create_dir(&home).unwrap();
    std::fs::write(home.join("thesis"), "precious").unwrap();
    pitr.run_restore(&server, &home, &["--target", "latest", "--delta"]).exit(5).says(&["not a data directory"]);
    assert_eq!(std::fs::read(home.join("thesis")).unwrap(), b"precious");

    let mut other = Server::new(&scratch, "other");
    other.sql("create table precious as select 1");
    other.stop();
    let other_system = ["system identifier", "other"];
    pitr.run_restore(&server, other.data(), &["--target", "latest", "--delta"]).exit(5).says(&other_system);
    other.start();
    assert_eq!(other.sql("select count(*) from precious"), "1");
}

/// Replay makes a tablespace where the source made it, and the source may still run there.
#[test]
fn a_tablespace_made_in_the_log_never_goes_over_a_living_one() {
    let scratch = Scratch::new();
    let mut server = Server::new(&scratch, "server");
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let place = scratch.server_dir("later");
    server.sql("select pg_create_restore_point('before')");
    server.sql(&format!("create tablespace later location '{}'", place.display()));
    server.sql("create table there tablespace later as select generate_series(1, 1000) n; checkpoint");
    pitr.catch_up();
    // The archive does not have these: a replay would take them away.
    server.sql("insert into there select generate_series(1001, 5000); checkpoint");

    let to = scratch.join("restored");
    let refused = pitr.run_restore(&server, &to, &["--target", "latest"]);
    refused.exit(5).says(&["tablespace", &place.to_string_lossy(), "living server"]);
    assert!(!to.exists());
    server.crash();
    server.start();
    assert_eq!(server.sql("select count(*) from there"), "5000");
    let early = scratch.join("early");
    pitr.restore(&server, &early, &["--target-name", "before"]);

    // As on another machine, where nothing is in that place.
    server.stop();
    std::fs::rename(&place, scratch.join("aside")).unwrap();
    pitr.restore(&server, &to, &["--target", "latest"]);
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(restored.sql("select count(*) from there"), "1000");
    assert!(place.exists());
    amcheck(&restored);
}

/// `--no-recover` lays out files and settings; a server elsewhere then replays with
/// an ordinary `restore_command`.
#[test]
fn no_recover_leaves_the_replay_to_an_ordinary_server() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "source");
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server).by_server_user();
    pitr.ok(["init"]);
    pitr.catch_up();
    let inside = BTreeSet::from([mark(&server), mark(&server)]);
    let time = marker_commit_times(&server)[inside.last().unwrap()].clone();
    mark(&server);
    pitr.catch_up();

    let to = scratch.join("laid-out");
    pitr.restore(&server, &to, &["--target-time", &time, "--no-recover"]);
    assert!(to.join("recovery.signal").exists());
    assert!(to.join("backup_label").exists());
    let restored = recover_elsewhere(&scratch, "laid-out", &server, &to);
    assert_eq!(marker_xids(&restored), inside);
    assert!(!to.join("pg_wal/.pitr-ready").exists(), "files prepared past the target are left");
}

/// The archive goes on between the laying out and the start of the server: what comes then
/// is behind the target, in the same WAL file and in later ones.
#[test]
fn no_recover_to_the_end_is_the_end_there_was() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "source").wal_segment_mib(1).start();
    pgbench_tables(&server, 1);
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server).by_server_user();
    pitr.ok(["init"]);
    pitr.catch_up();
    let load = Load::pgbench(&server, 2);
    crate::support::load::wait_for_wal(&server, 3 << 20);
    load.stop(&server);
    let inside = BTreeSet::from([mark(&server), mark(&server)]);
    pitr.catch_up();

    let to = scratch.join("laid-out");
    pitr.restore(&server, &to, &["--target", "latest", "--no-recover"]);
    mark(&server);
    server.switch_wal();
    mark(&server);
    pitr.catch_up();
    let restored = recover_elsewhere(&scratch, "laid-out", &server, &to);
    assert_eq!(marker_xids(&restored), inside);
    amcheck(&restored);
}

/// What `ALTER SYSTEM` wrote comes with the base, and servers read it.
#[test]
fn settings_that_came_with_the_base_do_not_steer_the_replay() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "source");
    marker_table(&server);
    for setting in [
        "recovery_target_time = '2001-01-01 00:00:00+00'",
        "recovery_min_apply_delay = '1d'",
        // Relative to the data directory.
        "recovery_end_command = 'touch steered'",
        "archive_mode = 'on'",
        "archive_command = 'touch steered'",
        "primary_conninfo = 'host=/nowhere'",
    ] {
        server.sql(&format!("alter system set {setting}"));
    }
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let inside = BTreeSet::from([mark(&server), mark(&server)]);
    pitr.catch_up();

    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target", "latest"]);
    assert!(!to.join("steered").exists());
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(marker_xids(&restored), inside);
}

/// Paths go through a shell, through PostgreSQL's `%f` and `%p`, and through its settings.
#[test]
fn odd_characters_in_paths_do_no_harm() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "source").wal_segment_mib(1).start();
    marker_table(&server);
    let pitr = Pitr::with_store(&scratch, r"50%f of it's \ \' here").source(&server).by_server_user();
    pitr.ok(["init"]);
    pitr.catch_up();
    let rows = BTreeSet::from([mark(&server), mark(&server)]);
    pitr.catch_up();
    let to = scratch.join(r"100%p of it's \ \' there");
    pitr.restore(&server, &to, &["--target", "latest"]);
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(marker_xids(&restored), rows);
    let to = scratch.join("laid-out");
    pitr.restore(&server, &to, &["--target", "latest", "--no-recover"]);
    let restored = recover_elsewhere(&scratch, "laid-out", &server, &to);
    assert_eq!(marker_xids(&restored), rows);
}

#[test]
fn tablespaces_move_to_where_the_map_says() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "source");
    let old = scratch.server_dir("fast disk");
    let new = scratch.server_dir("moved");
    server.sql(&format!("create tablespace fast location '{}'", old.display()));
    server.sql("create table there (n int) tablespace fast; insert into there select generate_series(1, 10000)");
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    server.sql("insert into there select generate_series(1, 500)");
    pitr.catch_up();

    let to = scratch.join("restored");
    // On the machine of the source its own directory is in use: refused, and named.
    pitr.run_restore(&server, &to, &["--target", "latest"]).exit(5).says(&["tablespace", &old.to_string_lossy()]);
    let map = format!("{}={}", old.display(), new.display());
    pitr.restore(&server, &to, &["--target", "latest", "--tablespace-map", &map]);
    assert_ready_data_dir(&to);
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(restored.sql("select count(*), sum(n) from there"), server.sql("select count(*), sum(n) from there"));
    let location = restored.sql("select pg_tablespace_location(oid) from pg_tablespace where spcname = 'fast'");
    assert_eq!(Path::new(&location), new);
    amcheck(&restored);
}

#[test]
fn a_symbolic_link_stands_for_the_directory_it_names() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "source");
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let inside = BTreeSet::from([mark(&server)]);
    pitr.catch_up();
    let (real, link) = (scratch.join("real"), scratch.join("link"));
    std::fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    pitr.restore(&server, &link, &["--target", "latest"]);
    assert_eq!(std::fs::read_link(&link).unwrap(), real);
    assert_ready_data_dir(&real);
    let restored = open_restored(&scratch, "restored", &server, &link);
    assert_eq!(marker_xids(&restored), inside);
}

#[test]
fn start_leaves_a_server_that_answers() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "source");
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let inside = mark(&server);
    pitr.catch_up();
    let to = scratch.join("restored");
    // The source holds the port of the copied configuration.
    let said = pitr.restore(&server, &to, &["--target", "latest", "--start", "--json"]);
    let said: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let started = RunningServer::of(&to);
    let rows = started.sql("select xid from marker");
    assert_eq!(rows, inside.to_string());
    assert_eq!(started.sql("select pg_is_in_recovery()"), "f");
    let options = std::fs::read_to_string(to.join("postmaster.opts")).unwrap();
    assert!(options.contains("listen_addresses"), "a server that runs keeps its own: {options}");
    // Whoever ran pitr, root too, gets in with the command as it was printed.
    let connect = said["connect"].as_str().unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{connect} -X -A -t -c 'select rolsuper from pg_roles where rolname = current_user'")]);
    let path = std::env::join_paths([server.bin_dir()].into_iter().chain([Path::new("/bin"), Path::new("/usr/bin")]));
    shell.env("PATH", path.unwrap()).env_remove("PGUSER");
    assert_eq!(must(&mut shell), "t", "{connect}");
}

/// `pg_ctl restart` starts what does not run with the options in `postmaster.opts`.
#[test]
fn pg_ctl_restarts_a_restored_directory() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "source");
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let inside = mark(&server);
    pitr.catch_up();
    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target", "latest"]);
    let options = std::fs::read_to_string(to.join("postmaster.opts")).unwrap();
    assert_eq!(options.trim_end(), server.bin_dir().join("postgres").to_string_lossy());
    let sockets = scratch.server_dir("sockets");
    let mut conf = std::fs::OpenOptions::new().append(true).open(to.join("postgresql.auto.conf")).unwrap();
    writeln!(conf, "listen_addresses = ''\nunix_socket_directories = '{}'", sockets.display()).unwrap();
    let mut pg_ctl = Command::new(server.bin_dir().join("pg_ctl"));
    pg_ctl.arg("-D").arg(&to).arg("-l").arg(scratch.join("restored.log")).args(["-w", "restart"]);
    must(as_server_user(&mut pg_ctl));
    let started = RunningServer::of(&to);
    assert_eq!(started.sql("select xid from marker"), inside.to_string());
}

/// As Debian lays it out: configuration elsewhere, which names the data directory.
#[test]
fn a_source_configured_elsewhere_is_told_and_starts_as_told() {
    let scratch = Scratch::new();
    let mut server = Server::new(&scratch, "source");
    marker_table(&server);
    server.stop();
    let etc = scratch.server_dir("etc");
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        std::fs::rename(server.data().join(name), etc.join(name)).unwrap();
    }
    let config = etc.join("postgresql.conf");
    let mut text = std::fs::OpenOptions::new().append(true).open(&config).unwrap();
    for (key, path) in [
        ("data_directory", server.data().to_path_buf()),
        ("hba_file", etc.join("pg_hba.conf")),
        ("ident_file", etc.join("pg_ident.conf")),
    ] {
        writeln!(text, "{key} = '{}'", path.display()).unwrap();
    }
    let config = config.to_string_lossy();
    server.launch(&[("config_file", &config)]);
    condition("the source to answer", PATIENCE, || server.try_sql("select 1").ok());
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let inside = BTreeSet::from([mark(&server)]);
    pitr.catch_up();

    let laid_out = scratch.join("laid-out");
    let said = pitr.restore(&server, &laid_out, &["--target", "latest", "--no-recover"]);
    said.says(&["note", "has no postgresql.conf", &pitr.binary().to_string_lossy()]);
    let to = scratch.join("restored");
    let said = pitr.restore(&server, &to, &["--target", "latest", "--json"]);
    let said: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let note = said["notes"][0].as_str().unwrap();
    assert!(note.contains(&format!("-c data_directory={}", to.display())), "{note}");

    let mut restored = Server::at(&scratch, "restored", Version::System, to.clone());
    restored.launch(&[("config_file", &config), ("data_directory", &to.to_string_lossy())]);
    condition("the restored server to answer", PATIENCE, || restored.try_sql("select 1").ok());
    assert_eq!(restored.sql("show data_directory"), to.to_string_lossy());
    assert_eq!(marker_xids(&restored), inside);
}

/// Recovery ends by reading the last record again, from its beginning: here so many WAL
/// files back that most of what it takes up was replayed before the last file was staged.
#[test]
fn the_last_record_may_fill_more_files_than_are_staged() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "source").wal_segment_mib(1).start();
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let inside = BTreeSet::from([mark(&server)]);
    let before = server.flush_lsn();
    let end = server.sql("select pg_logical_emit_message(false, '', repeat('long', 75000000))");
    assert!(server.flush_lsn() - before > 280 << 20);
    mark(&server);
    pitr.catch_up();
    let to = scratch.join("restored");
    pitr.restore(&server, &to, &["--target-lsn", &end, "--exclusive"]);
    assert_ready_data_dir(&to);
    let restored = open_restored(&scratch, "restored", &server, &to);
    assert_eq!(marker_xids(&restored), inside);
}

/// An archiver that is far behind hears from the server all the while that everything it
/// was going to send is sent. That says nothing of the log the server has yet to send.
#[test]
fn an_archive_that_is_behind_does_not_claim_the_present() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "source");
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    mark(&server);
    for _ in 0..8 {
        server.sql("select pg_logical_emit_message(false, '', repeat(md5(random()::text), 3 << 20))");
    }
    let row = mark(&server);
    let time = marker_commit_times(&server)[&row].clone();
    let before = segment_files(&pitr.cluster_dir()).len();
    let archiver = pitr.archive();
    // Some of the log has come, and much is to come still.
    condition("new segments", PATIENCE, || (segment_files(&pitr.cluster_dir()).len() >= before + 3).then_some(()));
    archiver.kill();
    pitr.run(["plan", "--target-time", &time]).exit(14);
    pitr.catch_up();
    pitr.ok(["plan", "--target-time", &time]);
}
