#!/usr/bin/env bash
# Runs every fuzz target for TIME seconds, or RUNS executions; with SANITIZER=address under AddressSanitizer.
# Seeds are read from fuzz/corpus; what is found on the way is kept under target/fuzz-corpus. A crash ends the
# run and names the file to keep as a regression test.
set -eu
cd "$(dirname "$0")/.."
time=${TIME:-60} runs=${RUNS:--1} sanitizer=${SANITIZER:-none}
# For a moment's run the optimizer would take longer than the run; overflow checks are on either way.
build=() patience=10
if [ "$time" -le 5 ] && [ "$runs" -lt 0 ]; then build=(--dev) patience=60; fi
command -v cargo-fuzz >/dev/null || cargo install --quiet --locked cargo-fuzz@0.13.2
# libFuzzer's instrumentation is unstable in rustc; the pinned stable compiler has it all the same.
export RUSTC_BOOTSTRAP=1
targets=${TARGETS:-$(cargo fuzz list --fuzz-dir fuzz)}
mkdir -p target/fuzz-corpus
if ! cargo fuzz build "${build[@]}" --fuzz-dir fuzz --sanitizer "$sanitizer" >target/fuzz-corpus/build.log 2>&1; then
    cat target/fuzz-corpus/build.log
    echo "fuzz: the targets cannot be built, see above" >&2
    exit 1
fi
for target in $targets; do
    found=target/fuzz-corpus/$target
    mkdir -p "$found" "fuzz/corpus/$target"
    log=target/fuzz-corpus/$target.log
    if ! cargo fuzz run "${build[@]}" --fuzz-dir fuzz --sanitizer "$sanitizer" "$target" "$found" "fuzz/corpus/$target" -- \
        -max_total_time="$time" -runs="$runs" -max_len=20000 -timeout="$patience" -rss_limit_mb=1024 >"$log" 2>&1; then
        tail -n 30 "$log"
        echo "fuzz: $target found something, see fuzz/artifacts/$target" >&2
        exit 1
    fi
    echo "fuzz: $target, $(sed -n 's/^Done \([0-9]*\) runs in \([0-9]*\) second.*/\1 executions in \2 s/p' "$log"), no finding"
done
