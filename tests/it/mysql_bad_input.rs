//! Promise: what is wrong with a source, a target or a restore of MySQL and MariaDB is named,
//! with the cure and the right exit code, and nothing gets worse.

use crate::mysql_restore::{Place, replayed, start};
use crate::support::mysql::{Make, MySqlServer, mark};
use crate::support::{PATIENCE, Scratch, condition};

const NONE: &[&str] = &[];

fn catch_up(place: &Place<'_>) {
    place.pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
}

/// The log was purged before it was archived, behind the base.
#[test]
fn a_target_in_a_gap_is_refused_and_what_lies_before_it_restores() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        let scratch = Scratch::new();
        let server = start(&scratch, make, NONE);
        let place = Place::new(&scratch, &server);
        place.pitr.ok(["archive", "--exit-when-caught-up"]);
        mark(&server);
        let before = server.transactions().pop().unwrap();
        catch_up(&place);
        mark(&server);
        let lost = server.transactions().pop().unwrap();
        server.flush_logs();
        let last = server.flush_logs();
        condition("the log to be purged", PATIENCE, || {
            server.sql(&format!("PURGE BINARY LOGS TO '{last}'"));
            (server.binlogs()[0].name == last).then_some(())
        });
        mark(&server);
        let behind = server.transactions().pop().unwrap();
        catch_up(&place);
        assert_eq!(place.pitr.json(&["status"])["gaps"], 1);
        let list = place.pitr.json(&["list"]);
        let (from, to) = (list["gaps"][0]["start"].as_str().unwrap(), list["gaps"][0]["end"].as_str().unwrap());
        assert_eq!((from.split_once(':').unwrap().0, to.split_once(':').unwrap().0), (&*before.file, &*last), "{list}");
        let to = scratch.join("refused");
        for gtid in [&lost.gtid, &behind.gtid] {
            let refused = place.restore(&to, &["--target-gtid", gtid]).exit(14).says(&[gtid]);
            assert!(!to.exists(), "{make:?}: {refused}");
        }
        let refused = place.restore(&to, &["--target", "latest"]);
        assert!(refused.code == Some(14) && !to.exists(), "{make:?}: {refused}");
        refused.says(&[&format!("{}:", before.file), &format!("{last}:")]);
        let to = scratch.join("restored");
        place.restore(&to, &["--target-gtid", &before.gtid]).success();
        assert_eq!(place.open("restored", to).sql("SELECT COUNT(*) FROM test.marker"), "1");
    }
}

/// A typing error in it would replay what was to be left out.
#[test]
fn a_transaction_to_be_left_out_must_be_there() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        let scratch = Scratch::new();
        let server = start(&scratch, make, NONE);
        let place = Place::new(&scratch, &server);
        mark(&server);
        let in_the_base = server.transactions().pop().unwrap().gtid;
        place.pitr.ok(["archive", "--exit-when-caught-up"]);
        mark(&server);
        catch_up(&place);
        let unknown = if make.is_mariadb() { "0-4242-77" } else { "11111111-2222-3333-4444-555555555555:7" };
        let to = scratch.join("restored");
        for gtid in [unknown, &in_the_base] {
            place.restore(&to, &["--target", "latest", "--exclude-gtid", gtid]).exit(14).says(&[gtid]);
            assert!(!to.exists());
        }
        place.restore(&to, &["--target", "latest", "--exclude-gtid", "rubbish"]).exit(2).says(&["rubbish"]);
        assert!(!to.exists());
    }
}

/// Transactions without names, which only their order tells apart: a base by CLONE cannot say
/// which of them it holds, no replica says which of them it has, and a server of names only does
/// not give them away, not even for a look.
#[test]
fn transactions_without_gtids_are_archived_and_refused_where_names_are_needed() {
    let scratch = Scratch::new();
    let server = start(&scratch, Make::MySql97, NONE);
    let place = Place::new(&scratch, &server);
    place.pitr.ok(["archive", "--exit-when-caught-up"]);
    mark(&server);
    catch_up(&place);
    let named = server.transactions().pop().unwrap().gtid;
    server.sql("SET GLOBAL gtid_mode = ON_PERMISSIVE; SET GLOBAL gtid_mode = OFF_PERMISSIVE");
    mark(&server);
    catch_up(&place);
    place.pitr.run(["backup"]).exit(5).says(&["gtid_mode"]);
    let to = scratch.join("restored");
    let refused = place.restore(&to, &["--target", "latest"]);
    assert!(!to.exists(), "{refused}");
    refused.exit(14).says(&["gtid_mode"]);
    // Up to there nothing lacks a name.
    place.restore(&to, &["--target-gtid", &named]).success();
    assert_eq!(place.open("restored", to).sql("SELECT COUNT(*) FROM test.marker"), "1");
    server.sql("SET GLOBAL gtid_mode = ON_PERMISSIVE; SET GLOBAL gtid_mode = ON");
    mark(&server);
    place.pitr.run(["archive", "--exit-when-caught-up", "--no-backup"]).exit(5).says(&["ON_PERMISSIVE"]);
    server.sql("SET GLOBAL gtid_mode = ON_PERMISSIVE");
    catch_up(&place);
    server.sql("SET GLOBAL gtid_mode = ON");
    mark(&server);
    catch_up(&place);
    assert_eq!(place.pitr.json(&["status"])["gaps"], 0);
}

#[test]
fn a_server_program_that_is_missing_or_older_than_the_base_is_named() {
    let scratch = Scratch::new();
    let server = start(&scratch, Make::MariaDb118, NONE);
    let place = Place::new(&scratch, &server);
    place.pitr.ok(["archive", "--exit-when-caught-up"]);
    let (to, empty) = (scratch.join("restored"), scratch.server_dir("empty"));
    let older = Make::MariaDb1011.bin_dir();
    for (dir, said) in [(&older, "10.11"), (&empty, "install")] {
        let to_text = to.to_str().unwrap();
        let words = ["restore", "--to", to_text, "--target", "latest", "--bin-dir", dir.to_str().unwrap()];
        place.pitr.run(words).exit(5).says(&["11.8", said, "--bin-dir"]);
        assert!(!to.exists());
    }
    let restored = place.latest("restored");
    assert_eq!(replayed(&restored), server.gtid_position());
}

/// What was a server with GTIDs until now no longer gives any.
#[test]
fn a_binlog_that_was_switched_off_is_told() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        let scratch = Scratch::new();
        let mut server: MySqlServer = start(&scratch, make, NONE);
        let place = Place::new(&scratch, &server);
        catch_up(&place);
        server.restart_with(&["--skip-log-bin"]);
        place.pitr.run(["archive", "--exit-when-caught-up", "--no-backup"]).exit(5).says(&["log_bin"]);
        server.restart_with(NONE);
        mark(&server);
        catch_up(&place);
        assert_eq!(place.pitr.json(&["status"])["gaps"], 0);
    }
}
