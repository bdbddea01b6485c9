#!/bin/sh
# Makes the cases of this directory anew: capture.sh EMPTY-WORK-DIR
# MYSQLD, MYSQL and MYSQLBINLOG may name the programs, with arguments they always need.
# Run it as a user who may run a server, or as root with MYSQLD='mysqld --user=mysql'.
set -eu
work=$1 here=$(cd "$(dirname "$0")" && pwd)
data=$work/data socket=$work/sock
mysqld=${MYSQLD:-mysqld} mysql=${MYSQL:-mysql} mysqlbinlog=${MYSQLBINLOG:-mysqlbinlog}
export TZ=UTC

$mysqld --no-defaults --initialize-insecure --datadir="$data" 2>>"$work/log"
# A fixed UUID, so that the files differ little from one run to the next.
printf '[auto]\nserver-uuid=3e11fa47-71ca-11e1-9e33-c80aa9429562\n' > "$data/auto.cnf"

start() {
    $mysqld --no-defaults --datadir="$data" --socket="$socket" --pid-file="$work/pid" --skip-networking --mysqlx=OFF \
        --server-id=11 --log-bin=binlog --innodb-redo-log-capacity=8M "$@" 2>>"$work/log" &
    server=$!
    until query -e 'select 1'; do sleep 0.2; kill -0 "$server"; done
}
stop() { query -e 'shutdown'; wait "$server"; server=; }
trap 'test -z "${server-}" || kill "$server"' EXIT
query() { $mysql --no-defaults -uroot -S "$socket" "$@" >/dev/null 2>>"$work/log"; }
value() { $mysql --no-defaults -uroot -S "$socket" -BNre "$1" 2>>"$work/log"; }
# keep CASE: the newest binary log, and what mysqlbinlog says of it. Then begins another.
keep() {
    file=$(value 'show binary log status' | head -n 1 | cut -f1)
    query -e 'flush binary logs'
    mkdir -p "$here/$1"
    cp "$data/$file" "$here/$1/binlog"
    $mysqlbinlog --no-defaults "$here/$1/binlog" | sed '/^BINLOG/,/^'\''/d' > "$here/$1/mysqlbinlog.txt"
    value 'select @@global.gtid_executed' > "$here/$1/gtid_executed.txt"
}

start --gtid-mode=OFF
query -e 'reset binary logs and gtids; create database d; create table d.t (i int primary key, v text)'
query -e 'flush binary logs; insert into d.t values (1, "one"); set binlog_format = statement; update d.t set v = "two"'
keep anonymous
query -e 'reset binary logs and gtids'
stop

start --gtid-mode=ON --enforce-gtid-consistency
query <<'SQL'
insert into d.t values (10, 'row');
set binlog_format = statement;
update d.t set v = 'statement' where i = 10;
set binlog_format = row;
set original_commit_timestamp = 1700000000123456;
insert into d.t values (11, 'from elsewhere');
set original_commit_timestamp = default;
insert into d.t values (12, repeat('x', 300));
create table d.u (i int);
xa start 'a'; insert into d.t values (13, 'xa'); xa end 'a'; xa prepare 'a'; xa commit 'a';
set gtid_next = '4c2c85e9-71ca-11e1-9e33-c80aa9429562:3'; begin; commit;
set gtid_next = '4c2c85e9-71ca-11e1-9e33-c80aa9429562:7'; begin; commit;
SQL
keep untagged
query <<'SQL'
set gtid_next = 'AUTOMATIC:tag1';
insert into d.t values (20, 'tagged');
insert into d.t values (21, 'tagged');
set original_commit_timestamp = 1700000000123456;
insert into d.t values (22, 'tagged, from elsewhere');
set original_commit_timestamp = default;
set binlog_format = statement;
update d.t set v = 'statement' where i = 20;
set gtid_next = 'AUTOMATIC:tag_of_32_xxxxxxxxxxxxxxxxxxxxxx';
insert into d.t values (23, 'tagged');
SQL
keep tagged
query -e 'insert into d.t values (30, "after")'
keep tags_before
stop
