#!/usr/bin/env bash
# Puts s3s-fs, an S3 service on files, into .deps/s3s-fs, for the benchmarks (three minutes). Does nothing when it is there.
set -euo pipefail

root="$(cd "$(dirname "$0")/.." && pwd)"
version=0.14.1
target="$root/.deps/s3s-fs"
if [ -x "$target/bin/s3s-fs" ] && [ "$(cat "$target/VERSION" 2>/dev/null)" = "$version" ]; then
    exit 0
fi
"${CARGO:-cargo}" install "s3s-fs@$version" --features binary --root "$target"
echo "$version" > "$target/VERSION"
