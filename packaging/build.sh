#!/usr/bin/env bash
# Builds the program without libraries of the machine: target/package/identity-spoa. Nothing of the place and
# the time of the build is in it, so that the same sources and compiler give the same bytes.
set -eu
cd "$(dirname "$0")/.."
target=x86_64-unknown-linux-gnu
[ "$(uname -m)" = x86_64 ] || target=$(uname -m)-unknown-linux-gnu
here=$PWD cargo=${CARGO_HOME:-$HOME/.cargo}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=$cargo=/cargo --remap-path-prefix=$here=/src"
# The crypto library is C, and says where it was built when it fails.
export CFLAGS="-ffile-prefix-map=$cargo=/cargo -ffile-prefix-map=$here=/src"
export CXXFLAGS="$CFLAGS"
cargo build --locked --release --target "$target" --bin identity-spoa
mkdir -p target/package
install -m 755 "target/$target/release/identity-spoa" target/package/identity-spoa
if ldd target/package/identity-spoa >/dev/null 2>&1; then
    echo "target/package/identity-spoa needs libraries: $(ldd target/package/identity-spoa | head -n 1)" >&2
    exit 1
fi
sha256sum target/package/identity-spoa
