//! Promise: the archive takes a source's place for replicas and for servers that run already, and
//! a place in the server's own files is found to the transaction.

use crate::support::mysql::log::{Binlog, Transaction};
use crate::support::mysql::{ADMIN, Load, Make, MySqlServer, mark, marker_ids, marker_table, wait_for_markers};
use crate::support::pitr::Archiver;
use crate::support::{PATIENCE, Pitr, Scratch, condition};

const NONE: &[&str] = &[];
const PASSWORD: &str = "serve-secret";

/// An archived source, ready for the base backups of its make.
fn start(scratch: &Scratch, make: Make) -> (MySqlServer, Pitr<'_>) {
    let server = MySqlServer::start(scratch, "source", make, NONE);
    if !make.is_mariadb() {
        server.sql("INSTALL PLUGIN clone SONAME 'mysql_clone.so'");
    }
    marker_table(&server);
    let path = std::env::var("PATH").unwrap_or_default();
    let tools = format!("{}:{path}", make.bin_dir().display());
    let pitr = Pitr::new(scratch).source_url(server.url()).env("PATH", tools).env("PITR_SERVE_PASSWORD", PASSWORD);
    (server, pitr)
}

/// Archives until the server, which notes things in its log by itself, has nothing more; gives
/// where that was.
fn catch_up_with(pitr: &Pitr<'_>, server: &MySqlServer) -> Binlog {
    condition("the server's log to stand still", PATIENCE, || {
        let end = server.log_end();
        catch_up(pitr);
        (server.log_end() == end).then_some(end)
    })
}

fn catch_up(pitr: &Pitr<'_>) {
    pitr.ok(["archive", "--exit-when-caught-up", "--no-backup"]);
}

/// A server on the restored database as it stood at `target`.
fn restored(scratch: &Scratch, pitr: &Pitr<'_>, make: Make, name: &str, target: &[&str]) -> MySqlServer {
    let (to, bin) = (scratch.join(name), make.bin_dir());
    let mut words = vec!["restore", "--to", to.to_str().unwrap(), "--bin-dir", bin.to_str().unwrap()];
    if rustix::process::geteuid().is_root() {
        words.extend(["--os-user", "postgres"]);
    }
    words.extend(target);
    pitr.ok(words);
    MySqlServer::open(scratch, name, make, to, NONE)
}

/// Where `pitr serve` listens.
fn port(serving: &Archiver) -> String {
    condition("pitr serve to listen", PATIENCE, || {
        let said = serving.said();
        let (_, rest) = said.split_once(" at 127.0.0.1:")?;
        Some(rest.chars().take_while(char::is_ascii_digit).collect())
    })
}

fn follow(replica: &MySqlServer, port: &str, password: &str) {
    replica.sql(&if replica.make().is_mariadb() {
        format!(
            "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='pitr', \
             MASTER_PASSWORD='{password}', MASTER_SSL=0, MASTER_CONNECT_RETRY=1, MASTER_USE_GTID=slave_pos; START SLAVE"
        )
    } else {
        format!(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='pitr', \
             SOURCE_PASSWORD='{password}', SOURCE_SSL=0, SOURCE_CONNECT_RETRY=1, SOURCE_AUTO_POSITION=1; START REPLICA"
        )
    });
}

/// What the replica says of its connection.
fn complaint(replica: &MySqlServer) -> String {
    replica.sql(if replica.make().is_mariadb() { "SHOW SLAVE STATUS" } else { "SHOW REPLICA STATUS" })
}

#[test]
fn a_place_in_the_servers_files_is_found_to_the_transaction() {
    for make in Make::ALL {
        let scratch = Scratch::new();
        let (server, pitr) = start(&scratch, make);
        pitr.ok(["archive", "--exit-when-caught-up"]);
        let base_end = server.log_end();
        for round in 0..3 {
            for _ in 0..4 {
                mark(&server);
            }
            if round < 2 {
                server.flush_logs();
            }
        }
        let end = catch_up_with(&pitr, &server);
        let all = server.transactions();
        let log: Vec<&Transaction> =
            all.iter().skip_while(|t| (&t.file, t.start) < (&base_end.name, base_end.size)).collect();
        assert!(log.len() >= 12);
        for pair in log.windows(2) {
            let [before, behind] = pair else { unreachable!() };
            let at = |offset: u64| format!("{}:{}", behind.file, behind.start + offset);
            // At its first byte, and within it.
            for (place, exclusive) in [(at(0), false), (at(1), false), (at(1), true)] {
                let mut words = vec!["plan", "--target-position", &place];
                words.extend(exclusive.then_some("--exclusive"));
                let plan = pitr.json(&words);
                let case = format!("{make:?} {place} {exclusive}: {plan}");
                assert_eq!(plan["last_transaction_in"]["id"], before.gtid, "{case}");
                assert_eq!(plan["first_transaction_out"]["id"], behind.gtid, "{case}");
                for (said, is) in [("last_transaction_in", before), ("first_transaction_out", behind)] {
                    assert_eq!(plan[said]["position"], format!("{}:{}", is.file, is.start), "{case}");
                }
            }
            let place = format!("{}:{}", before.file, before.end);
            let plan = pitr.json(&["plan", "--target-position", &place, "--exclusive"]);
            assert_eq!(plan["first_transaction_out"]["id"], before.gtid, "{make:?} {place}: {plan}");
        }
        let last = log.last().unwrap();
        let plan = pitr.json(&["plan", "--target-position", &format!("{}:{}", end.name, end.size)]);
        assert_eq!(plan["last_transaction_in"]["id"], last.gtid, "{make:?}: {plan}");
        assert!(plan["first_transaction_out"].is_null(), "{make:?}: {plan}");
        let the_end = format!("{}:{}", end.name, end.size);
        assert_eq!(plan["cut"], the_end, "{make:?}: {plan}");
        assert_eq!(pitr.json(&["status"])["archived_to"], the_end, "{make:?}");
        assert_eq!(pitr.json(&["list"])["windows"][0]["end"], the_end, "{make:?}");
        let beyond = format!("{}:{}", end.name, end.size + 1);
        pitr.run(["plan", "--target-position", &beyond]).exit(14).says(&["goes only up to", &end.size.to_string()]);
        pitr.run(["plan", "--target-position", "other.000001:4"]).exit(14).says(&["other.000001:4", "pitr list"]);
        pitr.run(["plan", "--target-position", "binlog:x"]).exit(2).says(&["binlog.000007:1234"]);
        // And a restore agrees with the plan.
        let chosen = log[log.len() - 3];
        let place = format!("{}:{}", chosen.file, chosen.start);
        let copy = restored(&scratch, &pitr, make, "copy", &["--target-position", &place]);
        let kept = marker_ids(&server).len() - 3;
        assert_eq!(marker_ids(&copy).len(), kept, "{make:?} {place}");
    }
}

#[test]
fn a_replica_follows_the_archive_as_it_grows() {
    for make in Make::ALL {
        let scratch = Scratch::new();
        let (server, pitr) = start(&scratch, make);
        pitr.ok(["archive", "--exit-when-caught-up"]);
        let replica = restored(&scratch, &pitr, make, "replica", &["--target", "latest"]);
        let mut archiver = pitr.archive_with(&["--no-backup"]);
        let serving = pitr.serve(&["--listen", "127.0.0.1:0"]);
        let port = port(&serving);
        let load = Load::markers(&server, 4, 1);
        wait_for_markers(&server, 100);
        follow(&replica, &port, PASSWORD);
        wait_for_markers(&server, 300);
        server.flush_logs();
        // Whoever comes back goes on where it was.
        let (stop, start) =
            if make.is_mariadb() { ("STOP SLAVE", "START SLAVE") } else { ("STOP REPLICA", "START REPLICA") };
        replica.sql(stop);
        wait_for_markers(&server, 500);
        replica.sql(start);
        load.stop(&server);
        replica.wait_for(&server);
        assert_eq!(replica.checksums(), server.checksums(), "{make:?}");
        archiver.assert_running();
        archiver.stop();
        serving.stop();
    }
}

#[test]
fn a_replica_gets_the_log_up_to_a_target_and_nothing_behind_it() {
    for make in Make::ALL {
        let scratch = Scratch::new();
        let (server, pitr) = start(&scratch, make);
        pitr.ok(["archive", "--exit-when-caught-up"]);
        let replica = restored(&scratch, &pitr, make, "replica", &["--target", "latest"]);
        for _ in 0..6 {
            mark(&server);
        }
        catch_up(&pitr);
        let all = server.transactions();
        let (last, ids) = (&all[all.len() - 3], marker_ids(&server));
        let serving = pitr.serve(&["--listen", "127.0.0.1:0", "--target-gtid", &last.gtid]);
        let port = port(&serving);
        follow(&replica, &port, "wrong");
        condition("the wrong password to be refused", PATIENCE, || {
            complaint(&replica).contains("Access denied").then_some(())
        });
        replica.promote();
        follow(&replica, &port, PASSWORD);
        let wanted = ids.len() - 2;
        condition("the replica to reach the target", PATIENCE, || (marker_ids(&replica).len() >= wanted).then_some(()));
        // Heartbeats come, and nothing else.
        mark(&server);
        catch_up(&pitr);
        let again = restored(&scratch, &pitr, make, "again", &["--target-gtid", &all[all.len() - 5].gtid]);
        follow(&again, &port, PASSWORD);
        condition("the other replica to reach it", PATIENCE, || (marker_ids(&again).len() >= wanted).then_some(()));
        for server in [&replica, &again] {
            assert_eq!(marker_ids(server), ids.iter().copied().take(wanted).collect(), "{make:?}");
        }
        serving.stop();
    }
}

/// A replica that begins with nothing, and an archive that does not reach back that far.
#[test]
fn a_replica_that_lacks_what_lies_before_the_archive_is_refused() {
    for make in [Make::MariaDb1011, Make::MySql97] {
        let scratch = Scratch::new();
        let (server, pitr) = start(&scratch, make);
        server.flush_logs();
        server.purge_old_logs();
        mark(&server);
        catch_up(&pitr);
        let empty = MySqlServer::start(&scratch, "empty", make, NONE);
        empty.sql(if make.is_mariadb() { "RESET MASTER" } else { "RESET BINARY LOGS AND GTIDS" });
        let serving = pitr.serve(&["--listen", "127.0.0.1:0"]);
        follow(&empty, &port(&serving), PASSWORD);
        condition("the replica to be refused", PATIENCE, || {
            complaint(&empty).contains("earlier log is asked for").then_some(())
        });
        serving.stop();
        pitr.run(["serve", "--password-file", "/dev/null"]).exit(5).says(&["password", "--password-file"]);
    }
}

#[test]
fn a_server_that_runs_replays_up_to_the_target() {
    for make in Make::ALL {
        let scratch = Scratch::new();
        let (server, pitr) = start(&scratch, make);
        pitr.ok(["archive", "--exit-when-caught-up"]);
        let live = restored(&scratch, &pitr, make, "live", &["--target", "latest"]);
        // A copy may have the id of its source, whose transactions a replica passes over.
        let id = server.server_id();
        live.sql(&format!("SET GLOBAL server_id = {id}"));
        for _ in 0..6 {
            mark(&server);
        }
        server.flush_logs();
        mark(&server);
        catch_up(&pitr);
        let (all, ids) = (server.transactions(), marker_ids(&server));
        let target = &all[all.len() - 4];
        let pitr = pitr.env("PITR_TO_SERVER", live.url_as(ADMIN));
        pitr.ok(["restore", "--target-gtid", &target.gtid]).says(&[&target.gtid, "first one out"]);
        assert_eq!(marker_ids(&live), ids.iter().copied().take(ids.len() - 3).collect(), "{make:?}");
        let (done, later) = (&target.gtid, &all[all.len() - 2].gtid);
        if !make.is_mariadb() {
            let refused = pitr.run(["restore", "--target", "latest", "--exclude-gtid", done]);
            refused.exit(5).says(&[done, "has executed", "--to"]);
        }
        let next = &all[all.len() - 3].gtid;
        pitr.run(["restore", "--target-gtid", next, "--exclude-gtid", later])
            .exit(14)
            .says(&[later, "behind the target"]);
        pitr.ok(["restore", "--target", "latest", "--exclude-gtid", later]);
        let mut wanted = ids.clone();
        wanted.remove(ids.iter().nth(ids.len() - 2).unwrap());
        assert_eq!(marker_ids(&live), wanted, "{make:?}");
        assert_eq!(live.sql("SELECT @@GLOBAL.server_id").trim(), id.to_string());
        let status = if make.is_mariadb() { "SHOW ALL SLAVES STATUS" } else { "SHOW REPLICA STATUS" };
        assert_eq!(live.sql(status).trim(), "");
        // It is beyond that now.
        pitr.run(["restore", "--target-gtid", &target.gtid]).exit(5).says(&["do not lie before the target", "--to"]);
        follow(&live, "1", "none");
        pitr.run(["restore", "--target", "latest"]).exit(5).says(&["replica of another one already"]);
    }
}
