//! Promise: the commands behave like good Unix programs: help that helps, one JSON
//! document with a version, results on stdout and the rest on stderr.

use crate::support::load::{mark, marker_table};
use crate::support::pitr::SLOT;
use crate::support::{PATIENCE, Pitr, Scratch, Server, condition};

const VERBS: &[&str] = &[
    "demo",
    "init",
    "check",
    "archive",
    "backup",
    "list",
    "status",
    "plan",
    "restore",
    "serve",
    "wal-fetch",
    "wal-push",
    "export",
    "verify",
    "copy",
    "key",
    "grants",
    "completions",
    "man",
];

#[test]
fn help_names_every_verb_and_every_verb_has_help() {
    let scratch = Scratch::new();
    let pitr = Pitr::new(&scratch);
    let help = pitr.ok(["--help"]);
    assert_eq!(help.stderr, "");
    for verb in VERBS {
        assert!(help.stdout.contains(verb), "{verb} is not in --help");
        let own = pitr.ok([*verb, "--help"]);
        assert!(own.stdout.len() > 80, "help of {verb}: {own}");
    }
    for words in [vec![], vec!["restore", "--no-such-option"]] {
        let finished = pitr.run(&words).exit(2);
        assert_eq!(finished.stdout, "");
        assert!(finished.stderr.to_lowercase().contains("usage"), "{finished}");
    }
}

#[test]
fn the_version_is_the_packages() {
    let scratch = Scratch::new();
    Pitr::new(&scratch).ok(["--version"]).says(&[env!("CARGO_PKG_VERSION")]);
}

#[test]
fn completions_and_manual_pages_are_written_for_every_verb() {
    let scratch = Scratch::new();
    let pitr = Pitr::new(&scratch);
    for shell in ["bash", "zsh", "fish"] {
        let script = pitr.ok(["completions", shell]).stdout;
        for verb in VERBS {
            assert!(script.contains(verb), "{verb} is not in the completions for {shell}");
        }
    }
    let man = pitr.ok(["man"]).stdout;
    assert!(man.contains(".TH"), "not a manual page: {}", &man[..man.len().min(300)]);
    assert!(man.contains("EXIT") || man.to_lowercase().contains("exit"), "no exit codes in the manual page");
}

/// The statements are run, and the role they make can do the job and no more.
#[test]
fn the_grants_are_enough_to_archive_and_no_superuser() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "server");
    marker_table(&server);
    let grants = Pitr::new(&scratch).source(&server).ok(["grants"]).stdout;
    let statements: Vec<&str> = grants
        .lines()
        .filter(|line| !line.trim_start().starts_with("--") && !line.trim_start().starts_with('#'))
        .collect();
    server.sql(&statements.join("\n"));
    let role = server.sql("select rolname from pg_roles where rolname !~ '^pg_' and rolname <> 'postgres'");
    assert_eq!(role.lines().count(), 1, "{grants}");
    assert_eq!(server.sql(&format!("select rolsuper from pg_roles where rolname = '{role}'")), "f");
    let pitr = Pitr::new(&scratch).source_url(server.url_as(&role));
    pitr.ok(["init"]);
    pitr.ok(["check"]);
    pitr.catch_up();
    mark(&server);
    pitr.ok(["backup"]);
}

#[test]
fn check_says_what_is_well_and_what_is_not() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "server").without_data_checksums().start();
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let said = pitr.ok(["check", "--slot", SLOT]).says(&["slot", "store", "checksums", "wal_level"]);
    assert!(said.stdout.lines().count() >= 6, "{said}");
    let nagios = pitr.run(["check", "--nagios"]);
    assert_eq!(nagios.stdout.trim_end().lines().count(), 1, "{nagios}");

    let mut server = server;
    server.sql("alter system set wal_level = minimal; alter system set max_wal_senders = 0");
    server.sql(&format!("select pg_drop_replication_slot('{SLOT}')"));
    server.stop();
    server.start();
    let broken = pitr.run(["check"]);
    assert!(broken.code.is_some_and(|c| c != 0), "{broken}");
    // With wal_level = minimal the server allows no walsender, so that this is as far
    // as anybody gets; what is named is the setting that stands in the way.
    broken.says(&["max_wal_senders", "critical"]);
    server.stop();
    let unreachable = pitr.run(["check"]).exit(20);
    assert_eq!(unreachable.stdout.lines().filter(|line| line.starts_with("critical")).count(), 1, "{unreachable}");
}

#[test]
fn check_says_whether_the_present_can_be_restored() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "server");
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.ok(["check", "--slot", SLOT]).says(&["nothing is archived yet"]);
    pitr.ok(["archive", "--slot", SLOT, "--no-backup", "--exit-when-caught-up"]);
    pitr.run(["check", "--slot", SLOT]).exit(14).says(&["critical", "no base backup", "pitr backup"]);
    let mut archiver = pitr.archive();
    archiver.wait_until_caught_up(&server);
    condition("a base", PATIENCE, || (pitr.run(["check", "--slot", SLOT]).code == Some(0)).then_some(()));
    mark(&server);
    archiver.wait_until_caught_up(&server);
    archiver.stop();
    pitr.ok(["check", "--slot", SLOT]).says(&["ok        restorable"]);
    let base = std::fs::read_dir(pitr.cluster_dir().join("base")).unwrap().next().unwrap().unwrap();
    crate::bad_input::damage(&base.path().join("manifest.json"), |bytes| bytes.truncate(100));
    pitr.run(["check", "--slot", SLOT]).exit(13).says(&["critical", "manifest.json"]);
    assert_eq!(pitr.run(["check", "--slot", SLOT, "--nagios"]).code, Some(2));
}

#[test]
fn init_can_be_repeated() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "server");
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    let identity = std::fs::read(pitr.cluster_dir().join("cluster.json")).unwrap();
    pitr.ok(["init"]);
    assert_eq!(std::fs::read(pitr.cluster_dir().join("cluster.json")).unwrap(), identity);
    let json: serde_json::Value = serde_json::from_slice(&identity).unwrap();
    assert!(json.to_string().contains(&server.sql("select system_identifier from pg_control_system()")), "{json}");
}

#[test]
fn json_is_one_versioned_document_on_stdout() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "server");
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    mark(&server);
    pitr.catch_up();
    for words in [
        &["list"][..],
        &["status"],
        &["plan", "--target", "latest"],
        &["check"],
        &["verify"],
        &["verify", "--read-data"],
    ] {
        let json = pitr.json(words);
        assert!(json["schema_version"].is_u64(), "{words:?}: {json}");
    }
    // A refusal is readable by scripts as well, and stdout stays one document or empty.
    let refused = pitr.run(["plan", "--target-time", "2001-01-01T00:00:00Z", "--json"]).exit(14);
    assert!(refused.stdout.is_empty() || serde_json::from_str::<serde_json::Value>(&refused.stdout).is_ok());
}

#[test]
fn list_and_status_tell_bases_windows_and_lag() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "server");
    marker_table(&server);
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.catch_up();
    let row = mark(&server);
    pitr.catch_up();
    let base = std::fs::read_dir(pitr.cluster_dir().join("base")).unwrap().flatten().next().expect("a base");
    let id = base.file_name().to_string_lossy().into_owned();
    pitr.ok(["list"]).says(&[&id]);
    assert!(pitr.json(&["list"]).to_string().contains(&id));
    pitr.ok(["status"]).says(&[&id, "lag", "timeline 1"]);
    pitr.ok(["plan", "--target", "latest"]).says(&[&id, &row.to_string()]);
}

/// Every verb that has to do with the slot takes its name from the same places.
#[test]
fn status_tells_of_the_slot_that_archive_uses() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "server");
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    let mut archiver = pitr.command(["archive", "--exit-when-caught-up"]);
    archiver.env("PITR_SLOT", "ours");
    crate::support::pitr::finish(&scratch, archiver).success();
    let config = scratch.join("slot.toml");
    std::fs::write(&config, "[cluster.main]\nslot = \"ours\"\n").unwrap();
    let config = config.to_string_lossy();
    let from_file = ["status", "--config", &config];
    let by_env = Pitr::new(&scratch).source(&server).env("PITR_SLOT", "ours");
    for status in [pitr.json(&["status", "--slot", "ours"]), pitr.json(&from_file), by_env.json(&["status"])] {
        let slot = &status["slot"];
        assert_eq!(
            (&slot["name"], &slot["state"], &slot["active"]),
            (&"ours".into(), &"reserved".into(), &false.into())
        );
        assert!(slot["kept_bytes"].is_u64() && slot["restart"].is_string(), "{status}");
    }
    pitr.ok(["status", "--slot", "ours"]).says(&["slot \"ours\" keeps", "reserved"]);
    assert_eq!(pitr.json(&["status"])["slot"]["state"], "missing");
    pitr.ok(["status"]).says(&["slot \"pitr\" does not exist"]);
}

#[test]
fn options_are_taken_before_and_after_the_verb_and_from_the_environment() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "server");
    let pitr = Pitr::new(&scratch).source(&server);
    pitr.ok(["init"]);
    pitr.ok(["--cluster", "second", "init"]);
    pitr.ok(["init", "--cluster", "third"]);
    Pitr::new(&scratch).source(&server).env("PITR_CLUSTER", "fourth").ok(["init"]);
    for name in ["main", "second", "third", "fourth"] {
        assert!(pitr.store().join(name).join("cluster.json").exists(), "{name}");
    }
    // A flag wins over the environment.
    let other = scratch.join("other-store");
    pitr.ok(["--store".as_ref(), other.as_os_str(), "init".as_ref()]);
    assert!(other.join("main/cluster.json").exists());
}

#[test]
fn output_into_a_closed_pipe_is_not_a_panic() {
    let scratch = Scratch::new();
    let pitr = Pitr::new(&scratch);
    let mut command = std::process::Command::new("bash");
    command.args(["-o", "pipefail", "-c", "\"$0\" completions bash | head -c 1 >/dev/null"]).arg(pitr.binary());
    let finished = crate::support::pitr::finish(&scratch, command);
    assert!(!finished.stderr.contains("panicked"), "{finished}");
}

/// The first thing anybody runs.
#[test]
fn the_demonstration_ends_well() {
    use crate::support::mysql::Make;
    let programs = Make::MySql97.bin_dir();
    let programs = ["--bin-dir", programs.to_str().unwrap()];
    for (engine, more) in [("postgres", &[] as &[&str]), ("mariadb", &[]), ("mysql", &programs)] {
        let scratch = Scratch::new();
        let pitr = Pitr::new(&scratch);
        let mut command = pitr.command(["demo", "--engine", engine]);
        command.args(more).env("TMPDIR", scratch.path());
        crate::support::pitr::finish(&scratch, command).success().says(&["drop table", "restore", "demo passed"]);
    }
}
