#!/usr/bin/env bash
# Builds the program twice, here and from a copy of the commit in another directory with another name and
# length, and compares the bytes. Takes two release builds.
#
#     packaging/reproduce.sh [static|shared]
set -eu
cd "$(dirname "$0")/.."
kind=${1:-static}
if [ -n "$(git status --porcelain)" ]; then
    echo "reproduce.sh: there are uncommitted changes, which the copy would not have" >&2
    exit 2
fi
elsewhere=$(mktemp -d)
trap 'rm -rf "$elsewhere"' EXIT
mkdir "$elsewhere/another-place"
git archive HEAD | tar -x -C "$elsewhere/another-place"
here=$(packaging/build.sh "$kind")
there=$(env -u CARGO_TARGET_DIR "$elsewhere/another-place/packaging/build.sh" "$kind")
sha256sum "$here" "$there"
if ! cmp "$here" "$there"; then
    echo "reproduce.sh: the builds differ" >&2
    exit 1
fi
echo "the same bytes: $(stat -c %s "$here")"
