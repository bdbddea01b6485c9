#!/bin/sh
# Makes the cases of this directory anew: capture.sh EMPTY-WORK-DIR
# MARIADBD, MARIADB and MARIADB_BINLOG may name the programs, with arguments they always
# need. Run it as a user who may run a server, or as root with MARIADBD='mariadbd --user=mysql'.
set -eu
work=$1 here=$(cd "$(dirname "$0")" && pwd)
data=$work/data socket=$work/sock
mariadbd=${MARIADBD:-mariadbd} mariadb=${MARIADB:-mariadb} mariadb_binlog=${MARIADB_BINLOG:-mariadb-binlog}
export TZ=UTC

query() { $mariadb --no-defaults -uroot -S "$socket" "$@" >/dev/null 2>>"$work/log"; }
value() { $mariadb --no-defaults -uroot -S "$socket" -BNre "$1" 2>>"$work/log"; }
# keep CASE: the newest binary log, and what mariadb-binlog says of it. Then begins another.
keep() {
    file=$(value 'show master status' | cut -f1)
    mkdir -p "$here/$1"
    value 'select @@gtid_binlog_pos' > "$here/$1/gtid_binlog_pos.txt"
    value 'select @@gtid_binlog_state' > "$here/$1/gtid_binlog_state.txt"
    query -e 'flush binary logs'
    cp "$data/$file" "$here/$1/binlog"
    $mariadb_binlog --no-defaults "$here/$1/binlog" | sed '/^BINLOG/,/^'\''/d' > "$here/$1/mariadb-binlog.txt"
}

mkdir -m 777 "$data"
$mariadbd --no-defaults --datadir="$data" --bootstrap 2>>"$work/log" <<'SQL'
create database mysql;
SQL
$mariadbd --no-defaults --datadir="$data" --socket="$socket" --pid-file="$work/pid" --skip-networking --skip-grant-tables \
    --server-id=11 --log-bin=binlog --binlog-format=row --innodb-log-file-size=8M 2>>"$work/log" &
server=$!
trap 'test -z "${server-}" || kill "$server"' EXIT
until query -e 'select 1'; do sleep 0.2; kill -0 "$server"; done

query -e 'reset master; create database d; create table d.t (i int primary key, v text); create table d.m (i int) engine=myisam'
keep from_the_start
query <<'SQL'
use d;
insert into t values (1, 'row');
insert into m values (1);
begin; insert into t values (2, 'a'); insert into m values (2); commit;
set gtid_domain_id = 7;
insert into t values (3, 'domain 7');
set server_id = 12;
insert into t values (4, 'domain 7, server 12');
set server_id = 11;
insert into t values (5, 'domain 7, server 11');
set gtid_domain_id = 0, gtid_seq_no = 18446744073709551000;
insert into t values (6, 'a great number');
set gtid_domain_id = 4294967295, server_id = 4294967295;
insert into t values (7, 'the greatest domain and server');
set gtid_domain_id = 3, server_id = 11;
xa start 'global', 'branch', 5; insert into t values (8, 'xa'); xa end 'global', 'branch', 5;
xa prepare 'global', 'branch', 5; xa commit 'global', 'branch', 5;
create table e engine=aria as select * from t;
drop table e;
SQL
# A group commit of several transactions.
query -e 'set global binlog_commit_wait_count = 3, global binlog_commit_wait_usec = 2000000'
for i in 21 22 23; do query -e "insert into d.t values ($i, 'group')" & pids="${pids-} $!"; done
wait $pids
query -e 'set global binlog_commit_wait_count = 0'
keep domains
keep nothing
query -e 'shutdown'
wait "$server"
server=
