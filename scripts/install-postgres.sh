#!/usr/bin/env bash
# Installs what the tests and the demonstration need and the machine lacks:
# PostgreSQL's server and client programs, lz4, zstd, openssl, strace and a C compiler.
# With --test also age, and Python's cryptography package, which read an encrypted archive without pitr;
# with --bench also the peers that the benchmarks compare with.
#
# Does nothing when everything is there. Works as root, or as an ordinary user who
# may use sudo; otherwise prints the command to run and fails.
set -euo pipefail
. "$(dirname "$0")/apt.sh"

want_bench=no
want_test=no
for argument in "$@"; do
    case "$argument" in
        --bench) want_bench=yes ;;
        --test) want_test=yes ;;
        *) echo "usage: $0 [--test] [--bench]" >&2; exit 2 ;;
    esac
done

# Prints the newest complete set of PostgreSQL programs, preferring version 15, the
# one all figures in this repository were taken with.
postgres_bin_dir() {
    local dir
    for dir in "${PITR_PG_BIN:-/nonexistent}" /usr/lib/postgresql/15/bin \
        $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV); do
        if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ] && [ -x "$dir/pgbench" ] && [ -x "$dir/pg_amcheck" ]; then
            echo "$dir"
            return 0
        fi
    done
    return 1
}

missing=()
postgres_bin_dir >/dev/null || missing+=(postgresql)
command -v lz4 >/dev/null 2>&1 || missing+=(lz4)
command -v openssl >/dev/null 2>&1 || missing+=(openssl)
command -v zstd >/dev/null 2>&1 || missing+=(zstd)
command -v strace >/dev/null 2>&1 || missing+=(strace)
# Rust brings no linker of its own, and a dependency holds C.
command -v cc >/dev/null 2>&1 || missing+=(gcc libc6-dev)
if [ "$want_test" = yes ]; then
    command -v age >/dev/null 2>&1 || missing+=(age)
    /usr/bin/python3 -c 'import cryptography' 2>/dev/null || missing+=(python3-cryptography)
fi
if [ "$want_bench" = yes ]; then
    command -v pgbackrest >/dev/null 2>&1 || missing+=(pgbackrest)
    command -v python3 >/dev/null 2>&1 || missing+=(python3)
fi
if [ "${#missing[@]}" -eq 0 ]; then
    exit 0
fi

if ! command -v apt-get >/dev/null 2>&1; then
    echo "error: missing: ${missing[*]}, and this machine has no apt-get" >&2
    echo "hint: install PostgreSQL (server and contrib programs), lz4, zstd and strace with your package manager;" >&2
    echo "      if they are in an unusual place, set PITR_PG_BIN to the directory that holds initdb and postgres" >&2
    exit 1
fi

refresh_lists
packages=()
for name in "${missing[@]}"; do
    if [ "$name" = postgresql ]; then
        # The package would start a server of its own on the standard port, and
        # nothing here wants one.
        if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
            as_root mkdir -p /etc/postgresql-common
            echo "create_main_cluster = false" | as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
        fi
        if has_package postgresql-15; then packages+=(postgresql-15); else packages+=(postgresql); fi
    else
        packages+=("$name")
    fi
done
install_packages "${packages[@]}"

if ! postgres_bin_dir >/dev/null; then
    echo "error: PostgreSQL was installed, but initdb, postgres, pgbench and pg_amcheck are in no /usr/lib/postgresql/*/bin" >&2
    echo "hint: set PITR_PG_BIN to the directory that holds them" >&2
    exit 1
fi
