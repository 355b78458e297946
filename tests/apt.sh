#!/usr/bin/env bash
# Installs Debian packages for a part of the tests; where that is not possible, says which are missing.
# tests/apt.sh NAME PACKAGE… ; NAME says for what, in messages. HINT=TEXT is added to them.
set -eu
name=$1
shift
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "$name: please install $*${HINT:-}" >&2
    exit 1
fi
echo "installing $*" >&2
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt-get update -qq >"$log"
apt-get install -y -qq --no-install-recommends "$@" >"$log" 2>&1 || {
    cat "$log" >&2
    exit 1
}
