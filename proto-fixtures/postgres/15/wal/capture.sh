#!/bin/sh
# Makes the cases of this directory anew: capture.sh BIN-DIR EMPTY-WORK-DIR
# Run it as a user who may run a server (not root). It needs zstd.
set -eu
bin=$1 work=$2 here=$(cd "$(dirname "$0")" && pwd)
data=$work/data
export PGHOST="$work" PGPORT=54872 PGDATABASE=postgres TZ=UTC

"$bin/initdb" -D "$data" -A trust --wal-segsize=1 --no-sync >/dev/null
cat >> "$data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$work'
port = $PGPORT
fsync = off
wal_level = logical
wal_keep_size = '2GB'
max_prepared_transactions = 4
autovacuum = off
wal_recycle = off
checkpoint_timeout = '1h'
CONF
start() { "$bin/pg_ctl" -D "$data" -w -l "$work/log" start >/dev/null; }
crash() { "$bin/pg_ctl" -D "$data" -w -m immediate stop >/dev/null; }
query() { "$bin/psql" -Xqv ON_ERROR_STOP=1 "$@" >/dev/null; }
value() { "$bin/psql" -XAtc "$1"; }
file() { value 'select pg_walfile_name(pg_current_wal_lsn() + 1)'; }
# keep CASE FIRST LAST: the WAL files and what pg_waldump says of them.
keep() {
    mkdir -p "$work/kept/$1"
    for f in $(ls "$data/pg_wal" | grep -E '^[0-9A-F]{24}$'); do
        if [ ! "$f" \< "$2" ] && [ ! "$f" \> "$3" ]; then
            zstd -q -19 "$data/pg_wal/$f" -o "$work/kept/$1/$f.zst"
        fi
    done
    "$bin/pg_waldump" -p "$data/pg_wal" "$2" "$3" 2>/dev/null | cut -c1-180 > "$work/kept/$1/waldump.txt"
}

start
query -c 'create table t(id int primary key, v text)' -c 'checkpoint' -c 'select pg_switch_wal()'

first=$(file)
query <<'SQL'
insert into t select g, repeat('x', g) from generate_series(1, 60) g;
begin; insert into t values (101, 'a'); savepoint a; insert into t values (102, 'b'); savepoint b;
  insert into t values (103, 'c'); rollback to b; release a; commit;
begin; insert into t values (111, 'a'); rollback;
begin; insert into t values (201, 'p'); prepare transaction 'one';
begin; insert into t values (202, 'p'); savepoint x; insert into t values (203, 'q'); prepare transaction 'two';
begin; create table gone(a int); savepoint y; insert into gone values (1); prepare transaction 'three';
begin; create table lost(a int); prepare transaction 'four';
commit prepared 'one';
rollback prepared 'two';
commit prepared 'three';
rollback prepared 'four';
begin; savepoint s; drop table gone; prepare transaction 'five';
commit prepared 'five';
select pg_create_restore_point('before the mistake');
select pg_create_restore_point('ünïcode ☃');
select pg_logical_emit_message(true, 'prefix', repeat('m', 500));
select pg_logical_emit_message(false, 'prefix', repeat('n', 20000));
do $$ begin for i in 1..40 loop begin insert into t values (300 + i, 'sub'); exception when others then null; end; end loop; end $$;
truncate t;
SQL
last=$(file)
query -c 'select pg_switch_wal()'
keep transactions_and_a_switch "$first" "$last"

first=$(file)
query -c "select pg_logical_emit_message(true, 'big', repeat('0123456789abcdef', 80000))"
query -c "insert into t values (1, 'after')" -c "select pg_create_restore_point('after the big one')"
last=$(file)
query -c 'select pg_switch_wal()'
keep record_longer_than_a_file "$first" "$last"

first=$(file)
query -c "insert into t values (2, 'kept')"
query -c "select pg_logical_emit_message(true, 'torn', repeat('t', 20000))"
end=$(value "select (pg_current_wal_lsn() - '0/0') % 1048576")
crash
keep end_of_log "$first" "$first"

# The last page of the message never reached the disk: the server writes on behind it.
page=$((end / 8192))
dd if=/dev/zero of="$data/pg_wal/$first" bs=8192 seek="$page" count=1 conv=notrunc 2>/dev/null
start
query -c "insert into t values (3, 'after the crash')" -c 'select pg_switch_wal()'
crash
keep lost_record "$first" "$first"

# Recovery ends in the middle of a file and goes on there as timeline 2.
start
query -c "insert into t values (4, 'on timeline 1')"
"$bin/pg_ctl" -D "$data" -w -m fast stop >/dev/null
echo "restore_command = 'false'" >> "$data/postgresql.conf"
touch "$data/recovery.signal"
start
query -c "insert into t values (5, 'on timeline 2')" \
    -c "select pg_logical_emit_message(true, 'long', repeat('l', 9000))"
first=$(file)
crash
keep new_timeline "$first" "$first"
cp "$data/pg_wal/00000002.history" "$work/kept/new_timeline/"

for case in "$work"/kept/*/; do
    mkdir -p "$here/$(basename "$case")"
    cp "$case"* "$here/$(basename "$case")/"
    chmod 644 "$here/$(basename "$case")/"*
done
