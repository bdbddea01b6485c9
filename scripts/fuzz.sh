#!/usr/bin/env bash
# Runs fuzz targets for the given number of seconds each: all of them, or those named.
#
#   scripts/fuzz.sh [SECONDS] [TARGET]...
#
# Works with the stable compiler: libFuzzer comes with the crate libfuzzer-sys, the
# coverage instrumentation is an LLVM pass. There is no address sanitizer, which needs
# nightly; the product forbids unsafe code, so that panics, assertions and memory
# growth are what a target can find.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds="${1:-60}"
shift || true

for tool in cargo c++ zstd; do
    if ! command -v "$tool" >/dev/null 2>&1; then
        echo "error: $tool is needed to build the fuzz targets and is not installed" >&2
        echo "hint: apt-get install g++ zstd; for cargo see https://rustup.rs" >&2
        exit 1
    fi
done

host="$(rustc -vV | sed -n 's/^host: //p')"
target_dir="${CARGO_TARGET_DIR:-$PWD/fuzz/target}/fuzz"
# With --target the flags reach only what runs, not build scripts. The flags are those
# of cargo-fuzz without a sanitizer.
RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing" \
    cargo build --quiet --release --locked --manifest-path fuzz/Cargo.toml --target "$host" --target-dir "$target_dir"

if [ "$#" -gt 0 ]; then targets=("$@"); else
    targets=()
    for file in fuzz/targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi

for name in "${targets[@]}"; do
    corpus="fuzz/corpus/$name"
    mkdir -p "$corpus" fuzz/artifacts
    scripts/fuzz-seeds.sh "$name" "$corpus"
    "$target_dir/$host/release/seeds" "$name" "$corpus"
    echo "fuzzing $name for $seconds s"
    "$target_dir/$host/release/$name" "$corpus" -max_total_time="$seconds" -rss_limit_mb=1024 -timeout=10 \
        -max_len=262144 -artifact_prefix="fuzz/artifacts/$name-" -print_final_stats=1 2>&1 | tee "fuzz/artifacts/$name.log" |
        grep -E 'DONE|ERROR|panicked|SUMMARY|stat::(number_of_executed_units|peak_rss_mb)|Test unit' || true
    if ! grep -q '^Done ' "fuzz/artifacts/$name.log"; then
        echo "error: target $name failed; the input is in fuzz/artifacts, the log in fuzz/artifacts/$name.log" >&2
        exit 1
    fi
done
