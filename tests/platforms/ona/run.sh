#!/usr/bin/env bash
# Gets Ona's SDK in a pinned version with digests, and proves the fake with its client. It stays in
# target/platforms, so that only the first run needs the package registry.
set -eu
cd "$(dirname "$0")/../../.."
here=tests/platforms/ona state=target/platforms/ona
mkdir -p "$state"

if ! python3 -c 'import ensurepip, ssl, venv' 2>/dev/null; then
    echo "ona: please install python3 with venv (Debian: python3-venv)" >&2
    exit 1
fi

# Runs the rest unless it was done for just these files already.
once() { # name files -- command
    local name=$1 files=()
    shift
    while [ "$1" != -- ]; do files+=("$1") && shift; done
    shift
    local now
    now=$(sha256sum "${files[@]}")
    [ "$(cat "$state/$name.done" 2>/dev/null)" = "$now" ] && return
    echo "ona: getting $name" >&2
    "$@" >"$state/$name.log" 2>&1 || {
        cat "$state/$name.log" >&2
        echo "ona: cannot get $name, see above; it takes the usual package registry" >&2
        exit 1
    }
    echo "$now" >"$state/$name.done"
}

python() {
    rm -rf "$state/python" &&
        python3 -m venv "$state/python" &&
        "$state/python/bin/python" -m pip install -q --disable-pip-version-check --require-hashes \
            --only-binary :all: -r "$here/requirements.txt"
}

[ -x "$state/python/bin/python" ] || rm -f "$state/sdk.done"
once sdk "$here/requirements.txt" -- python
exec timeout 120 "$state/python/bin/python" "$here/prove.py"
