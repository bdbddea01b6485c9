#!/usr/bin/env bash
# Runs every fuzz target for the given number of seconds, seeded from
# proto-fixtures. Needs cargo-fuzz and a nightly compiler.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds="${1:-60}"
if ! command -v cargo-fuzz >/dev/null 2>&1; then
    echo "error: cargo-fuzz is not installed" >&2
    echo "hint: cargo install cargo-fuzz && rustup toolchain install nightly" >&2
    exit 1
fi
if ! cargo +nightly --version >/dev/null 2>&1; then
    echo "error: fuzzing needs the nightly compiler (sanitizer coverage)" >&2
    echo "hint: rustup toolchain install nightly" >&2
    exit 1
fi

for target in $(cargo +nightly fuzz list); do
    corpus="fuzz/corpus/$target"
    mkdir -p "$corpus"
    if [ -d "fuzz/seeds/$target" ]; then
        cp -n "fuzz/seeds/$target"/* "$corpus"/
    fi
    echo "fuzzing $target for $seconds s"
    cargo +nightly fuzz run "$target" "$corpus" -- -max_total_time="$seconds" -rss_limit_mb=1024 -print_final_stats=1
done
