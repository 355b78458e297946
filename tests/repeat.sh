#!/usr/bin/env bash
# Runs the tests N times without building them in between, every second time during a build of the program, and prints a
# table. Exit status 1 if a test failed in any run; its output is in target/repeat/N.log.
# N=20: how often. FILTER=WORDS: which tests, as for cargo test; all of them otherwise.
set -u
cd "$(dirname "$0")/.."
n=${N:-20}
out=target/repeat
mkdir -p "$out"
rm -f "$out"/*.log

# The test programs, in the order in which cargo test runs them.
cargo test --locked --no-run --message-format=json 2>"$out/build.log" |
    sed -n 's/.*"kind":\["\([a-z]*\)"\].*"test":true},"features".*"executable":"\([^"]*\)".*/\1 \2/p' |
    grep -v '^bench ' | cut -d' ' -f2 >"$out/programs" || true
[ -s "$out/programs" ] || { cat "$out/build.log" >&2; echo "there are no test programs" >&2; exit 1; }

# A build of this program in a directory of its own, from the start, until it is stopped.
build_in_a_loop() {
    while :; do
        rm -rf "$out/build-in-a-loop"
        CARGO_TARGET_DIR=$out/build-in-a-loop cargo build --locked --quiet 2>>"$out/build-in-a-loop.log" || sleep 1
    done
}
stop() {
    [ -n "${group:-}" ] && kill -- "-$group" 2>/dev/null
    group=
}
trap 'stop; exit 130' INT TERM
trap stop EXIT

export CARGO_MANIFEST_DIR=$PWD
table="run  during  passed  failed  seconds  load  failures"
bad=0
for run in $(seq "$n"); do
    what=none log=$out/$run.log
    if [ $((run % 2)) = 0 ]; then
        what=build
        set -m
        build_in_a_loop &
        group=$!
        set +m
    fi
    start=$(date +%s)
    while read -r program; do
        # shellcheck disable=SC2086 # several words, several filters
        "$program" ${FILTER:-} >>"$log" 2>&1 || echo "ended with status $?: $program" >>"$log"
    done <"$out/programs"
    seconds=$(($(date +%s) - start))
    load=$(cut -d' ' -f1 /proc/loadavg)
    stop
    passed=$(sed -n 's/^test result: .* \([0-9]*\) passed; .*/\1/p' "$log" | awk '{ sum += $1 } END { print sum + 0 }')
    failures=$(sed -n 's/^test \([^ ]*\) .*FAILED$/\1/p' "$log" | sort -u)
    failed=$(echo -n "$failures" | grep -c .)
    # A program that ended without a result failed as well.
    if grep -q '^ended with status' "$log"; then
        bad=1
        [ "$failed" = 0 ] && failed=1 failures=$(sed -n 's/^ended with //p' "$log")
    fi
    line=$(printf '%3s  %-6s  %6s  %6s  %7s  %4s  %s' "$run" "$what" "${passed:-0}" "$failed" "$seconds" "$load" "$(echo "$failures" | paste -sd' ')")
    echo "$line"
    table+=$'\n'$line
done
echo
echo "$table" | tee "$out/table"
exit $bad
