#!/usr/bin/env bash
# Checks the crates of Cargo.lock against deny.toml: licences, banned crates, origins. Advisories need a database from the
# internet: 'packaging/deny.sh advisories' where it can be reached.
set -eu
cd "$(dirname "$0")/.."
tools=$(packaging/tools.sh cargo-deny)
[ $# -gt 0 ] || set -- licenses bans sources
# Two versions of a crate are allowed, and not shown each time.
"$tools/cargo-deny" --locked check --allow duplicate --hide-inclusion-graph "$@"
