#!/usr/bin/env bash
# Puts moto, a server that answers as S3 does (versions, object lock, conditions), into .deps/moto, for the
# tests of archives in a bucket. It comes from PyPI; the version is pinned. Does nothing when it is there.
set -euo pipefail
. "$(dirname "$0")/apt.sh"

root="$(cd "$(dirname "$0")/.." && pwd)"
version=5.2.5
target="$root/.deps/moto"

if [ -x "$target/bin/moto_server" ] && [ "$(cat "$target/VERSION" 2>/dev/null)" = "$version" ]; then
    exit 0
fi
# Debian's python3 makes virtual environments only with another package.
if ! python3 -c 'import venv, ensurepip' >/dev/null 2>&1; then
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "error: moto needs python3 with venv and pip, and this machine has no apt-get" >&2
        echo "hint: install them with your package manager" >&2
        exit 1
    fi
    install_packages python3 python3-venv
fi
echo "fetching moto $version into .deps/moto" >&2
mkdir -p "$root/.deps"
rm -rf "$target"
python3 -m venv "$target"
"$target/bin/pip" install -q --disable-pip-version-check "moto[s3]==$version" 'flask==3.1.3' 'flask-cors==6.0.5' >&2
echo "$version" > "$target/VERSION"
