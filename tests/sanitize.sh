#!/usr/bin/env bash
# The unit tests and the fuzz targets where memory is watched: valgrind over what reads bytes of strangers, then
# AddressSanitizer over all unit tests, then over every fuzz target for TIME seconds; with THREADS=1 ThreadSanitizer
# over what threads share. The first run builds everything twice more, in target/sanitize.
set -eu
cd "$(dirname "$0")/.."
host=$(rustc -vV | sed -n 's/^host: //p')
mkdir -p target/sanitize

# What cargo built: the path in brackets of "Executable unittests src/lib.rs (PATH)".
built() { sed -n 's/^ *Executable unittests src\/lib.rs (\(.*\))$/\1/p' "$1"; }

if command -v valgrind >/dev/null; then
    cargo test --locked --lib --no-run 2>target/sanitize/build.log || { cat target/sanitize/build.log; exit 1; }
    # Fewer cases: each costs fifty times as much. Proptest's own values are leaked on purpose.
    PROPTEST_CASES=16 valgrind -q --error-exitcode=9 --leak-check=no "$(built target/sanitize/build.log)" \
        --test-threads 1 spop:: request:: sessions::keyring identity::json >target/sanitize/valgrind.log 2>&1 ||
        { cat target/sanitize/valgrind.log; exit 1; }
    echo "sanitize: valgrind, $(sed -n 's/^test result: ok. \([0-9]* passed\).*/\1/p' target/sanitize/valgrind.log), no finding"
else
    echo "sanitize: there is no valgrind on this machine: skipped" >&2
fi

# Unstable in rustc; the pinned stable compiler has it all the same, and its runtime comes with it.
export RUSTC_BOOTSTRAP=1
export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=1
CARGO_TARGET_DIR=target/sanitize RUSTFLAGS=-Zsanitizer=address \
    cargo test --locked --lib --target "$host" --no-run 2>target/sanitize/build.log ||
    { cat target/sanitize/build.log; exit 1; }
"$(built target/sanitize/build.log)" >target/sanitize/address.log 2>&1 ||
    { tail -n 60 target/sanitize/address.log; exit 1; }
echo "sanitize: AddressSanitizer, $(sed -n 's/^test result: ok. \([0-9]* passed\).*/\1/p' target/sanitize/address.log), no finding"

if [ "${THREADS:-}" = 1 ]; then
    # The standard library comes without its sources and so without instrumentation: what waits for its condition
    # variables (the audit log, the test harness) looks like a race, and is left out.
    printf 'race:identity_spoa::audit\nrace:^test::\nrace:test::event\nrace:std::sync::mpmc\n' \
        >target/sanitize/suppressions
    CARGO_TARGET_DIR=target/sanitize/threads \
        RUSTFLAGS='-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer' \
        cargo test --locked --lib --target "$host" --no-run 2>target/sanitize/build.log ||
        { cat target/sanitize/build.log; exit 1; }
    TSAN_OPTIONS="suppressions=$PWD/target/sanitize/suppressions exitcode=66" \
        "$(built target/sanitize/build.log)" workspaces:: tunnels:: sessions:: identity:: metrics:: agent:: \
        >target/sanitize/threads.log 2>&1 || { tail -n 60 target/sanitize/threads.log; exit 1; }
    echo "sanitize: ThreadSanitizer, $(sed -n 's/^test result: ok. \([0-9]* passed\).*/\1/p' target/sanitize/threads.log), no finding"
fi

SANITIZER=address TIME=${TIME:-10} fuzz/run.sh
