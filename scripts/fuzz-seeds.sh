#!/usr/bin/env bash
# Puts first inputs for a fuzz target into a directory: real bytes from
# proto-fixtures, and words that a mutation would hardly find. fuzz/seeds.rs adds those
# that take a program to make.
#
#   scripts/fuzz-seeds.sh TARGET DIRECTORY
set -euo pipefail
cd "$(dirname "$0")/.."
name="$1"
to="$2"

case "$name" in
    wal)
        # The first byte says how the target cuts its input; whole files are too large
        # to mutate well, so take the first pages.
        for file in proto-fixtures/postgres/*/wal/*/*.zst; do
            [ -e "$file" ] || continue
            out="$to/$(echo "$file" | tr '/' '-')"
            [ -e "$out" ] || { printf 'A'; zstd -dcq "$file" 2>/dev/null | head -c 65536 || true; } >"$out"
        done
        ;;
    conninfo)
        printf 'postgres://user:p%%40ss@h1:5432,h2/db?target_session_attrs=read-write&connect_timeout=3' >"$to/uri"
        printf 'postgresql:///db?host=/run/postgresql&port=5433&application_name=x' >"$to/socket"
        printf "host=h port=1 user='a b' password='it\\\\'s' dbname=d" >"$to/keywords"
        ;;
    history)
        cp proto-fixtures/postgres/15/wal/new_timeline/00000002.history "$to/captured"
        printf '1\t0/3000060\tno recovery target specified\n\n2\t0/5000000\tbefore 2026-01-01\n' >"$to/history"
        printf '000000010000000000000001' >"$to/name"
        ;;
    server_lz4)
        # What the server does not use.
        { printf 'A'; head -c 100000 Cargo.lock | lz4 -qc -BI -BX -B4; } >"$to/sums" || true
        ;;
    server_manifest)
        # All of it; few files, which mutate better; and none, as the target says came.
        zstd -dcq proto-fixtures/postgres/15/wire/base_backup_begins/backup_manifest.zst >"$to/captured"
        { head -n 6 "$to/captured" | sed '$ s/,$//'; tail -n 5 "$to/captured"; } >"$to/few"
        { head -n 2 "$to/captured"; tail -n 5 "$to/captured"; } >"$to/none"
        ;;
    gtid_set)
        # Sets as the servers say them, each alone and with another; the target parts them.
        for file in proto-fixtures/*/*/gtid/*/gtid_*.txt; do
            out="$to/$(echo "$file" | tr '/' '-')"
            tr -d '\n' <"$file" >"$out"
            { cat "$out"; printf ';0-11-7,3-11-1'; } >"$out-and-state"
            { cat "$out"; printf ';3e11fa47-71ca-11e1-9e33-c80aa9429562:2-5:8:tag1:3'; } >"$out-and-set"
        done
        ;;
    mbstream)
        { printf 'A'; cat proto-fixtures/mariadb/10.11/mbstream/four_files/stream.xbs; } >"$to/captured"
        ;;
    names)
        printf '0000000001000000-0000000002000000-1.lz4' >"$to/segment"
        printf 'tail-0000000001000000-1' >"$to/tail"
        printf 'base/20260102T030405Z-ab12/manifest.json' >"$to/base"
        ;;
    *) ;;
esac
