#!/usr/bin/env bash
# Makes the site of docs/ in target/site/html and checks it; 'serve' then serves it on loopback until Ctrl-C, at PORT or 8000.
# Material for MkDocs comes from PyPI in pinned versions with digests, into target/site; only the first run needs PyPI.
set -eu
cd "$(dirname "$0")/../.."
state=target/site
mkdir -p "$state"

now=$(sha256sum docs/site/requirements.txt)
if [ "$(cat "$state/python.done" 2>/dev/null)" != "$now" ]; then
    echo "docs: getting Material for MkDocs" >&2
    rm -rf "$state/python" "$state/python.done"
    python=$(tests/venv.sh docs)
    "$python" -m venv "$state/python"
    "$state/python/bin/python" -m pip install -q --disable-pip-version-check --require-hashes --only-binary :all: \
        -r docs/site/requirements.txt
    echo "$now" >"$state/python.done"
fi

# Material prints an advertisement for its next version by default.
NO_MKDOCS_2_WARNING=1 "$state/python/bin/python" docs/site/build.py
if [ "${1:-}" = serve ]; then
    echo "http://127.0.0.1:${PORT:-8000}/ (Ctrl-C ends it)"
    exec "$state/python/bin/python" -m http.server --bind 127.0.0.1 --directory "$state/html" "${PORT:-8000}" 2>/dev/null
fi
