#!/usr/bin/env bash
# Puts first inputs for a fuzz target into a directory: real bytes from
# proto-fixtures, and words that a mutation would hardly find.
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
    wire | replication)
        find proto-fixtures/postgres -type f -size -64k \( -name '*.bin' -o -name 'server*' \) -print0 2>/dev/null |
            while IFS= read -r -d '' file; do cp -n "$file" "$to/$(echo "$file" | tr '/' '-')"; done
        ;;
    conninfo)
        printf 'postgres://user:p%%40ss@h1:5432,h2/db?target_session_attrs=read-write&connect_timeout=3' >"$to/uri"
        printf 'postgresql:///db?host=/run/postgresql&port=5433&application_name=x' >"$to/socket"
        printf "host=h port=1 user='a b' password='it\\\\'s' dbname=d" >"$to/keywords"
        ;;
    history)
        printf '1\t0/3000060\tno recovery target specified\n\n2\t0/5000000\tbefore 2026-01-01\n' >"$to/history"
        printf '000000010000000000000001' >"$to/name"
        ;;
    server_tar)
        { printf 'A'; tar --format=ustar -cf - -C scripts . 2>/dev/null | head -c 65536 || true; } >"$to/tar"
        ;;
    server_lz4)
        # As the server makes them: linked blocks, no sums; and with everything else.
        { printf 'A'; tar --format=ustar -cf - -C src . | head -c 400000 | lz4 -qc -BD -B4 --no-frame-crc; } >"$to/linked" || true
        { printf 'A'; head -c 100000 Cargo.lock | lz4 -qc -BI -BX -B4; } >"$to/sums" || true
        ;;
    server_manifest)
        printf '{ "PostgreSQL-Backup-Manifest-Version": 1,\n"Files": [],\n"WAL-Ranges": [\n{ "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000100" }\n],\n"Manifest-Checksum": "%064d"}\n' 0 >"$to/manifest"
        ;;
    names)
        printf '0000000001000000-0000000002000000-1.lz4' >"$to/segment"
        printf 'tail-0000000001000000-1' >"$to/tail"
        printf 'base/20260102T030405Z-ab12/manifest.json' >"$to/base"
        ;;
    *) ;;
esac
