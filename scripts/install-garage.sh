#!/usr/bin/env bash
# Puts Garage, an S3 service of several nodes, into .deps/garage, for `make test-garage` and the benchmarks. There is
# only its source (crates.io; the version is pinned), and building it takes minutes: what was built is kept outside
# of the checkout, and .deps has a link to it. Does nothing when it is there.
set -euo pipefail

root="$(cd "$(dirname "$0")/.." && pwd)"
version=2.5.0
kept="${XDG_CACHE_HOME:-$HOME/.cache}/pitr"
target="$kept/garage-$version"

if [ ! -x "$target/bin/garage" ]; then
    mkdir -p "$kept"
    # Another checkout may be at it.
    exec 9> "$kept/garage.lock"
    flock 9
fi
if [ ! -x "$target/bin/garage" ]; then
    echo "building Garage $version into $target" >&2
    began=$SECONDS
    # One database is enough, and neither metrics nor other interfaces than S3 and the one for administration are
    # used. What is built stays until all is, so that a build that was ended goes on.
    CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_STRIP=true \
        "${CARGO:-cargo}" install "garage@$version" --locked --no-default-features --features bundled-libs,lmdb \
        --root "$target" --target-dir "$kept/garage-build"
    rm -rf "$kept/garage-build"
    echo "that took $((SECONDS - began)) s" >&2
fi
mkdir -p "$root/.deps"
ln -sfn "$target" "$root/.deps/garage"
