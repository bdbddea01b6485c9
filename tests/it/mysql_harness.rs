//! The harness for MySQL and MariaDB: a test that trusts a broken ruler proves nothing.

use crate::support::mysql::{
    ADMIN, Load, Make, MySqlServer, NOBODY, PITR, REPLICA, STREAM, mark, marker_ids, marker_table, wait_for_log,
    wait_for_markers,
};
use crate::support::{PATIENCE, Scratch, condition};

const NONE: &[&str] = &[];

#[test]
fn the_log_of_each_make_reads_as_what_was_written() {
    for make in Make::ALL {
        assert!(make.bin_dir().is_absolute());
        let scratch = Scratch::new();
        let server = MySqlServer::start(&scratch, "source", make, NONE);
        assert!(server.transactions().is_empty(), "{make:?}: a new server's log is empty");
        marker_table(&server);
        let begin = server.now_micros();
        for _ in 0..3 {
            mark(&server);
        }
        let end = server.now_micros();
        let closed = server.flush_logs();
        assert_eq!(
            server.binlogs().iter().map(|log| &log.name).collect::<Vec<_>>(),
            ["binlog.000001", "binlog.000002"]
        );
        assert_eq!(closed, "binlog.000001");
        let bytes = server.binlog_bytes(&closed);
        assert_eq!((bytes.len() as u64, &bytes[..4]), (server.binlogs()[0].size, &b"\xfebin"[..]));

        let transactions = server.transactions();
        assert_eq!(transactions.len(), 4, "{make:?}: {transactions:?}");
        for transaction in &transactions[1..] {
            // MariaDB's times are whole seconds.
            let begin = if make.is_mariadb() { begin / 1_000_000 * 1_000_000 } else { begin };
            assert!((begin..=end).contains(&transaction.time_micros), "{begin} {transaction:?} {end}");
            assert_eq!(
                bytes[usize::try_from(transaction.start).unwrap() + 4],
                if make.is_mariadb() { 162 } else { 33 }
            );
        }
        let last = &transactions[3].gtid;
        let position = server.gtid_position();
        if make.is_mariadb() {
            assert_eq!(*last, position);
            assert!(position.starts_with(&format!("0-{}-", server.server_id())), "{position}");
        } else {
            let (uuid, number) = last.split_once(':').unwrap();
            assert_eq!((format!("{uuid}:1-{number}"), number), (position, "4"));
        }
    }
}

#[test]
fn checksums_see_a_changed_row_and_survive_kill_and_restart() {
    for make in Make::ALL {
        let scratch = Scratch::new();
        let mut server = MySqlServer::start(&scratch, "source", make, NONE);
        marker_table(&server);
        for _ in 0..10 {
            mark(&server);
        }
        let (sums, definitions) = (server.checksums(), server.definitions());
        assert_eq!(sums.keys().collect::<Vec<_>>(), ["test.marker"], "{make:?}");
        assert!(sums["test.marker"].starts_with("10:"), "{sums:?}");
        server.kill();
        server.run();
        assert_eq!(server.checksums(), sums, "{make:?} after kill -9");
        server.restart_with(&["--innodb-buffer-pool-size=32M"]);
        assert_eq!((server.checksums_in("test"), server.definitions()), (sums.clone(), definitions.clone()));
        server.sql("update test.marker set at = now(6) where id = 7");
        assert_ne!(server.checksums(), sums);
        server.sql("create view test.two as select 2 as two");
        assert_ne!(server.definitions(), definitions);
    }
}

#[test]
fn a_replica_follows_under_load_and_is_promoted() {
    for make in Make::ALL {
        let scratch = Scratch::new();
        let source = MySqlServer::start(&scratch, "source", make, &make.semi_sync_source(500));
        let replica = MySqlServer::start(&scratch, "replica", make, &make.semi_sync_replica());
        replica.follow(&source);
        marker_table(&source);
        let load = Load::markers(&source, 3, 0);
        wait_for_log(&source, 100_000);
        condition("an acknowledgement", PATIENCE, || source.semi_sync_is_on().then_some(()));
        assert_eq!(source.semi_sync_clients(), 1, "{make:?}");
        let frozen = replica.freeze();
        condition("the source to wait no more", PATIENCE, || (!source.semi_sync_is_on()).then_some(()));
        wait_for_markers(&source, marker_ids(&source).len() as u64 + 20);
        drop(frozen);
        load.stop(&source);
        replica.wait_for(&source);
        assert_eq!(replica.checksums(), source.checksums(), "{make:?}");
        assert_eq!(replica.gtid_position(), source.gtid_position());
        replica.promote();
        let ids = marker_ids(&source);
        mark(&replica);
        assert_eq!(marker_ids(&source), ids);
    }
}

#[test]
fn each_account_may_do_what_it_is_for() {
    for make in Make::ALL {
        let scratch = Scratch::new();
        let server = MySqlServer::start(&scratch, "source", make, NONE);
        let may = |account, statement| server.sql_as(account, statement).is_ok();
        for account in [PITR, STREAM, REPLICA, ADMIN] {
            assert!(may(account, "show binary logs"), "{make:?} {account:?}");
        }
        let port = server.port();
        assert_eq!(server.url(), format!("{}://pitr:archive-secret@127.0.0.1:{port}/", make.scheme()));
        assert!(server.url_as(STREAM).contains("//pitr_stream:stream-secret@"), "{}", server.url_as(STREAM));
        assert!(server.socket_url().ends_with(&format!("@/?socket={}", server.socket().display())));
        assert!(may(NOBODY, "select 1") && !may(NOBODY, "show binary logs"));
        marker_table(&server);
        assert!(may(PITR, "select * from test.marker") && !may(STREAM, "select * from test.marker"));
        assert!(!may(PITR, "delete from test.marker") && may(ADMIN, "delete from test.marker"));
    }
}
