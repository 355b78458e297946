#!/usr/bin/env bash
# Gets workspace platforms that nobody here wrote, in pinned versions with digests, and runs the agent
# against them. They stay in target/platforms, so that only the first run needs the package registries.
# Nothing of a package is run while it is installed.
set -eu
cd "$(dirname "$0")/../.."
here=tests/platforms state=target/platforms
PATH="$PATH:$HOME/.cargo/bin"
mkdir -p "$state"

# A Python of the machine that has what a virtual environment needs: some have no TLS.
for python in python3 /usr/bin/python3; do
    "$python" -c 'import ensurepip, ssl, venv' 2>/dev/null && break
    python=
done
if [ -z "$python" ]; then
    if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
        echo "platforms: please install python3 with venv (Debian: python3-venv)" >&2
        exit 1
    fi
    echo "installing python3-venv" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
    python=/usr/bin/python3
fi

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

get ona
get jupyterhub
# A fake is worth something only if the platform's own client takes it for the platform.
timeout 120 "$state/ona/bin/python" "$here/ona/prove.py"
tests/containers/images.sh >/dev/null || echo "no container engine: the tests use the haproxy of this machine"
cargo test --locked --test it platforms:: -- --ignored --nocapture --test-threads 2
