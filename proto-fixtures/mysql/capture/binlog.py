#!/usr/bin/env python3
"""Captures binlog files of a real server, one directory per case.

    ./binlog.py mariadb/10.11|mysql/9.7 OUTPUT_DIRECTORY [CASE]...

For each case it writes the files (zstd) and for each `NAME.txt`, what the server's own
reader says of it: `mysqlbinlog -v --base64-output=decode-rows`, lines cut to 240 columns.
The functions below are the cases; their docstrings say what a case shows.
"""

import signal
import sys
import threading
from pathlib import Path

from server import Make, Server, finish, new_dir, run

CASES = {}
SCHEMA = "create database if not exists d; use d;\n"


def case(makes="mariadb mysql", options=(), **by_make):
    """A case for these makes, with server options for all and for one make."""

    def register(function):
        CASES[function.__name__] = (function, makes.split(), options, by_make)
        return function

    return register


def closed(server, text, check=True):
    """Runs statements in a file of their own; gives the files that are complete."""
    server.reset()
    server.sql(text, check)
    server.sql("flush binary logs")
    return server.logs()[:-1]


@case()
def plain_transactions(server):
    """Every kind of row event and column type; a rollback, which leaves nothing."""
    own = "uuid_ uuid, ip inet6" if server.make.is_mariadb else "js json, bit_ bit(12)"
    return closed(server, SCHEMA + f"""
        create table t (id int primary key auto_increment, a tinyint unsigned, b bigint, c decimal(20,6), d double, e float,
          f date, g time(3), h datetime(6), i timestamp(6) null, j year, k char(10), l varchar(300), m varbinary(10),
          n text, o blob, p enum('x','y'), q set('m','n'), r geometry, {own}) character set utf8mb4;
        insert into t (a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r) values (255, -9223372036854775808, -123456.789,
          1.5, -2.25, '2026-01-02', '-11:12:13.456', '2026-01-02 03:04:05.678901', '2026-01-02 03:04:05.678901', 2026,
          'char', 'ünïcode ☃', x'00ff', 'text', x'0001', 'y', 'm,n', point(1, 2));
        insert into t (a) values (null), (1), (2);
        begin; update t set a = a + 1 where a < 10; update t set l = repeat('x', 300) where id = 1; delete from t where id = 3;
        insert into t (a) values (7); commit;
        begin; insert into t (a) values (8); rollback;
        begin; commit;
        delete from t;""")


@case()
def several_in_one_second(server):
    """Forty commits within about a second: header times do not tell them apart."""
    inserts = "".join(f"insert into t values ({n});\n" for n in range(40))
    return closed(server, SCHEMA + "create table t (id int primary key);" + inserts)


@case(mariadb=["--binlog-commit-wait-count=4", "--binlog-commit-wait-usec=50000"],
      mysql=["--binlog-group-commit-sync-delay=50000"])
def group_commit(server):
    """Eight connections commit together: MariaDB's commit ids, MySQL's last_committed."""
    server.sql(SCHEMA + "create table t (id int primary key auto_increment, v int)")
    server.reset()
    clients = [threading.Thread(target=server.sql, args=("use d;" + "insert into t (v) values (1);" * 4,))
               for _ in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    server.sql("flush binary logs")
    return server.logs()[:-1]


@case()
def ddl(server):
    """Definitions of all kinds, also several in one statement and CREATE ... SELECT."""
    own = "create sequence s; select nextval(s);" if server.make.is_mariadb else \
        "create table inv (a int, b int, index i (a) invisible);"
    return closed(server, SCHEMA + f"""
        create table t (id int primary key, v varchar(10)); alter table t add column w int default 5, algorithm=copy;
        create index i on t (v); insert into t values (1, 'a', 2), (2, 'b', 3);
        create table u as select * from t; create table w like t; rename table w to x; truncate t;
        create view v as select * from u; {own}
        create procedure p() insert into t values (9, 'p', 9);
        create user someone@localhost identified by 'secret'; grant select on d.* to someone@localhost;
        drop user someone@localhost; set password for root@localhost = {"password('')" if server.make.is_mariadb else "''"};
        analyze table t; drop view v; drop table if exists t, u, absent; drop database d;
        create database `a ☃`; drop database `a ☃`;""")


@case()
def xa_across_files(server):
    """XA PREPARE in the first file; XA COMMIT and XA ROLLBACK in the second. Then one phase."""
    server.sql(SCHEMA + "create table t (id int primary key)")
    server.reset()
    server.sql("use d; xa start 'kept', 'branch', 7; insert into t values (1); xa end 'kept', 'branch', 7; xa prepare 'kept', 'branch', 7")
    server.sql("use d; xa start 'undone'; insert into t values (2); xa end 'undone'; xa prepare 'undone'")
    server.sql("use d; insert into t values (3); flush binary logs; insert into t values (4)")
    server.sql("xa commit 'kept', 'branch', 7; xa rollback 'undone'")
    server.sql("use d; xa start 'once'; insert into t values (5); xa end 'once'; xa commit 'once' one phase")
    server.sql("use d; xa start 'never'; insert into t values (6); xa end 'never'; xa rollback 'never'; flush binary logs")
    return server.logs()[:-1]


@case()
def temporary_tables(server):
    """Temporary tables in statement and row format, dropped by hand and by the session's end."""
    return closed(server, SCHEMA + """
        create table t (id int primary key);
        set session binlog_format = 'ROW'; create temporary table a (id int); insert into a values (1), (2);
        insert into t select id from a; drop temporary table a;
        set session binlog_format = 'STATEMENT'; create temporary table b (id int); insert into b values (3), (4);
        insert into t select id from b; create temporary table c (id int);
        """)


@case()
def statement_format(server):
    """Statements with all that comes before them: INSERT_ID, RAND, user variables, other SQL modes, time zones."""
    return closed(server, SCHEMA + """
        create table t (id int primary key auto_increment, v double, w varchar(100));
        set session binlog_format = 'STATEMENT'; set @user_variable = 'ünïcode'; set @number = 12345678901;
        insert into t (v, w) values (rand(), @user_variable); insert into t (v, w) values (last_insert_id(), @number);
        set time_zone = '+05:00', sql_mode = 'ANSI_QUOTES', auto_increment_increment = 3;
        begin; insert into t (v) values (1); update t set w = now(6) where id > 0; delete from t where id = 2; commit;
        set names latin1; insert into t (w) values ('a'); set foreign_key_checks = 0; insert into t (w) values ('b');""")


@case()
def mixed_format(server):
    """Statements where they are safe, rows where not, also in one transaction."""
    return closed(server, SCHEMA + """
        create table t (id int primary key auto_increment, v varchar(60));
        set session binlog_format = 'MIXED'; insert into t (v) values ('safe'); insert into t (v) values (uuid());
        begin; insert into t (v) values ('safe'); insert into t (v) values (uuid()); insert into t (v) values ('safe'); commit;""")


@case()
def row_image_minimal(server):
    """binlog_row_image=MINIMAL: keys before, changed columns after."""
    return closed(server, SCHEMA + """
        create table t (id int primary key, a int, b text); set session binlog_row_image = 'MINIMAL';
        insert into t values (1, 2, 'three'); update t set a = 4; delete from t;""")


@case(mariadb=["--log-bin-compress=ON", "--log-bin-compress-min-len=10"], mysql=["--binlog-transaction-compression=ON"])
def compressed(server):
    """MySQL: whole transactions in TRANSACTION_PAYLOAD (zstd). MariaDB: single events (zlib)."""
    return closed(server, SCHEMA + """
        create table t (id int primary key auto_increment, v varchar(2000));
        insert into t (v) values (repeat('compress me ', 100)), ('short');
        begin; insert into t (v) select v from t; update t set v = concat(v, '!'); delete from t where id = 1; commit;
        insert into t (v) values ('x');
        set session binlog_format = 'STATEMENT'; insert into t (v) values (repeat('in a statement ', 50));
        update t set v = 'a statement that is long enough to be compressed by the server, one should think' where id = 2;""")


@case("mysql")
def partial_json(server):
    """binlog_row_value_options=PARTIAL_JSON: PARTIAL_UPDATE_ROWS events."""
    return closed(server, SCHEMA + """
        create table t (id int primary key, doc json); insert into t values (1, '{"a": 1, "b": [1, 2, 3], "c": "long enough"}');
        set session binlog_row_value_options = 'PARTIAL_JSON'; update t set doc = json_set(doc, '$.a', 2);
        set session binlog_row_image = 'MINIMAL'; update t set doc = json_remove(doc, '$.c');""")


@case()
def load_data(server):
    """LOAD DATA as statements (BEGIN_LOAD_QUERY, APPEND_BLOCK, EXECUTE_LOAD_QUERY) and as rows."""
    rows = new_dir("load") / "rows"
    rows.write_text("".join(f"{n}\trow {n}\n" for n in range(400)))
    rows.chmod(0o644)
    load = f"load data infile '{rows}' into table t; delete from t;"
    # The file goes over in blocks of this size.
    return closed(server, SCHEMA + f"""
        create table t (id int primary key, v varchar(20)); set session binlog_format = 'STATEMENT';
        set session read_buffer_size = 8192; {load} set session binlog_format = 'ROW'; {load}""")


@case(options=["--event-scheduler=ON"])
def triggers_and_events(server):
    """What triggers, routines and the event scheduler write."""
    return closed(server, SCHEMA + """
        create table t (id int primary key auto_increment, v int); create table log_ (at timestamp(6), v int);
        create trigger tr after insert on t for each row insert into log_ values (now(6), new.v);
        create procedure p(n int) insert into t (v) values (n), (n + 1); create function f(n int) returns int deterministic return n * 2;
        insert into t (v) values (f(21)); call p(7);
        create event e on schedule at current_timestamp + interval 1 second do insert into t (v) values (99);
        select sleep(2.5);""")


@case()
def savepoints(server):
    """A transaction with savepoints, rolled back to and released; in row and statement format."""
    # MySQL allows tables without transactions in one only where GTIDs are off.
    engine = "myisam" if server.make.is_mariadb else "innodb"
    body = """begin; insert into t values (1); savepoint a; insert into t values (2); savepoint b; insert into u values (3);
        rollback to a; insert into t values (4); release savepoint a; commit; delete from t;"""
    return closed(server, SCHEMA + "create table t (id int primary key); " + f"create table u (id int) engine={engine};" + body
                  + "set session binlog_format = 'STATEMENT';" + body)


@case(mysql=["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"])
def not_transactional(server):
    """MyISAM: no XID event at the end; and beside InnoDB in one transaction that is rolled back."""
    return closed(server, SCHEMA + """
        create table m (id int primary key) engine=myisam; create table i (id int primary key) engine=innodb;
        insert into m values (1), (2); update m set id = id + 10;
        begin; insert into i values (1); insert into m values (3); commit;
        begin; insert into i values (2); insert into m values (4); rollback;
        set session binlog_format = 'STATEMENT'; insert into m values (5);
        begin; insert into m values (6); insert into i values (6); rollback; delete from m;""")


@case()
def big_transaction(server):
    """One transaction of about 5 MB: a thousand row events, and one event of 2 MB."""
    return closed(server, SCHEMA + """
        create table t (id int primary key auto_increment, v longtext); begin;
        insert into t (v) values (repeat('0123456789abcdef', 131072)); """
                  + "insert into t (v) values (repeat('row', 1000));\n" * 1000 + "commit;")


@case()
def checksum_switched(server):
    """binlog_checksum CRC32, then NONE, then CRC32: each in a new file."""
    server.sql(SCHEMA + "create table t (id int primary key)")
    server.reset()
    server.sql("""use d; insert into t values (1); set global binlog_checksum = 'NONE'; insert into t values (2);
        set global binlog_checksum = 'CRC32'; insert into t values (3); flush binary logs""")
    return server.logs()[:-1]


@case()
def clean_shutdown(server):
    """The file of a server that was shut down ends with a STOP event."""
    server.sql(SCHEMA + "create table t (id int primary key)")
    server.reset()
    server.sql("use d; insert into t values (1)")
    files = server.logs()
    server.stop()
    return files


@case(options=["--sync-binlog=1"])
def crash(server):
    """kill -9: the first file's in-use flag is set and it ends anywhere; the server goes on in a second one."""
    server.sql(SCHEMA + "create table t (id int primary key)")
    server.reset()
    server.sql("use d; insert into t values (1)")
    server.stop(signal.SIGKILL)
    server.start()
    server.sql("use d; insert into t values (2); flush binary logs")
    return server.logs()[:-1]


@case(options=["--max-binlog-size=4096"])
def rotated_by_size(server):
    """Three files, each ended by the server itself; a transaction is never cut."""
    server.sql(SCHEMA + "create table t (id int primary key, v varchar(3000))")
    server.reset()
    server.sql("use d;" + "".join(f"insert into t values ({n}, repeat('v', 1500));" for n in range(8)))
    server.sql("flush binary logs")
    return server.logs()[:3]


@case()
def full_metadata(server):
    """binlog_row_metadata=FULL: column names in the table map; MySQL also ROWS_QUERY events."""
    more = "" if server.make.is_mariadb else "set session binlog_rows_query_log_events = ON;"
    return closed(server, SCHEMA + f"""
        create table t (id int unsigned primary key, name varchar(10), kind enum('a','b'), index (name));
        set global binlog_row_metadata = 'FULL'; {more} insert into t values (1, 'one', 'b'); update t set name = 'uno';
        set global binlog_row_metadata = default;""")


@case("mariadb", options=["--gtid-strict-mode=ON"])
def two_domains(server):
    """Three domains interleaved, another server's id, sequence numbers that leap."""
    return closed(server, SCHEMA + """
        create table t (id int primary key); insert into t values (1);
        set session gtid_domain_id = 1; insert into t values (2); set session gtid_domain_id = 0; insert into t values (3);
        set session gtid_domain_id = 4294967295, session server_id = 77, session gtid_seq_no = 18446744073709551;
        insert into t values (4); set session gtid_domain_id = 1; set session gtid_seq_no = 1000; insert into t values (5);
        flush binary logs; insert into t values (6);""")


@case("mariadb", options=["--binlog-alter-two-phase=ON"])
def two_phase_alter(server):
    """binlog_alter_two_phase=ON: START ALTER, then COMMIT ALTER or ROLLBACK ALTER, as two GTIDs."""
    return closed(server, SCHEMA + """
        create table t (id int primary key, v int); insert into t values (1, 1);
        alter table t add column w int, algorithm=copy; insert into t values (2, 2, 2);
        insert into t values (3, 3, 3), (4, 3, 3); alter table t add unique key (v), algorithm=copy;""",
                  check=False)


@case("mariadb")
def without_annotations(server):
    """binlog_annotate_row_events=OFF."""
    return closed(server, SCHEMA + """
        create table t (id int primary key); set session binlog_annotate_row_events = OFF; insert into t values (1);""")


@case("mysql")
def tagged_gtids(server):
    """GTID_TAGGED_LOG events beside untagged ones; the next file's PREVIOUS_GTIDS holds tags."""
    return closed(server, SCHEMA + """
        create table t (id int primary key); insert into t values (1);
        set gtid_next = 'AUTOMATIC:nightly'; insert into t values (2); insert into t values (3);
        set gtid_next = 'AUTOMATIC'; insert into t values (4);
        set gtid_next = '11111111-2222-3333-4444-555555555555:a_tag_of_thirty_two_characters__:900000000000'; insert into t values (5);
        set gtid_next = '11111111-2222-3333-4444-555555555555:17'; insert into t values (6);
        set gtid_next = 'AUTOMATIC'; flush binary logs; insert into t values (7);""")


@case("mysql", options=["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"])
def anonymous(server):
    """gtid_mode=OFF: ANONYMOUS_GTID events."""
    return closed(server, SCHEMA + "create table t (id int primary key); insert into t values (1); insert into t values (2);")


@case("mysql")
def gtid_mode_switched(server):
    """gtid_mode from ON to OFF step by step: anonymous and other GTIDs in neighbouring files."""
    server.sql(SCHEMA + "create table t (id int primary key)")
    server.reset()
    server.sql("""use d; insert into t values (1); set global gtid_mode = 'ON_PERMISSIVE'; insert into t values (2);
        set global gtid_mode = 'OFF_PERMISSIVE'; insert into t values (3);
        set global gtid_mode = 'ON_PERMISSIVE'; insert into t values (4); set global gtid_mode = 'ON'; insert into t values (5);
        flush binary logs""")
    return server.logs()[:-1]


def encrypted(make, out):
    """MariaDB with encrypt_binlog: what a client receives, which is not encrypted. START_ENCRYPTION never leaves the
    server."""
    keys = new_dir("keys") / "keys"
    keys.write_text("1;770A8A65DA156D24EE2A093277530142\n")
    keys.chmod(0o644)
    server = Server(make, "--plugin-load-add=file_key_management.so", f"--file-key-management-filename={keys}",
                    "--encrypt-binlog=ON")
    server.sql("create user r@'%' identified by 'r'; grant replication slave on *.* to r@'%'")
    files = closed(server, SCHEMA + "create table t (id int primary key); insert into t values (1);")
    raw = new_dir("raw")
    run(make.program("mariadb-binlog"), "--no-defaults", "--read-from-remote-server", "--raw", "-h127.0.0.1", "-ur", "-pr",
        f"-P{server.port}", f"--result-file={raw}/", *files)
    keep(make, out, "encrypted", [raw / name for name in files])
    # And what lies on the disk, which no reader without the key can read.
    compress(server.data / files[0], out / "encrypted" / f"{files[0]}.on-disk.zst")
    server.stop()


def compress(source, to):
    run("zstd", "-q", "-19", "-f", source, "-o", to)
    to.chmod(0o644)


def keep(make, out, name, files):
    directory = out / name
    directory.mkdir(parents=True, exist_ok=True)
    reader = make.pick("mysqlbinlog", "mariadb-binlog")
    strict = ["--skip-gtid-strict-mode"] if make.is_mariadb else []
    rows = [] if name == "big_transaction" else ["-v"]
    for file in files:
        text = run(reader, "--no-defaults", *rows, "--base64-output=decode-rows", *strict, file).decode(errors="replace")
        lines = "".join(f"{line[:240]}\n" for line in text.splitlines())
        compress(file, directory / f"{file.name}.zst")
        (directory / f"{file.name}.txt").write_text(lines)
        if len(lines) > 20_000:
            compress(directory / f"{file.name}.txt", directory / f"{file.name}.txt.zst")
            (directory / f"{file.name}.txt").unlink()


def main():
    make, out, wanted = Make(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    kind = "mariadb" if make.is_mariadb else "mysql"
    servers = {}
    for name, (function, makes, options, by_make) in CASES.items():
        if kind not in makes or (wanted and name not in wanted):
            continue
        options = (*options, *by_make.get(kind, ()))
        server = servers.get(options)
        if server is None or server.process is None:
            server = servers[options] = Server(make, *options)
        if "d" in server.sql("show databases").split():
            server.sql("drop database d")
        files = function(server)
        keep(make, out, name, [server.data / file for file in files])
        print(f"{name}: {', '.join(files)}")
        if options:
            server.stop()
    if make.is_mariadb and (not wanted or "encrypted" in wanted):
        encrypted(make, out)


try:
    main()
finally:
    finish()
