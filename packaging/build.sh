#!/usr/bin/env bash
# Builds the program that is shipped: the same bytes from the same commit and tools in any directory
# (packaging/reproduce.sh tests that). Prints the path of the program.
#
#     packaging/build.sh static    # needs no library at all: for the image
#     packaging/build.sh shared    # uses the glibc of the machine: for the Debian package
#
# docs/decisions/0012-packages.md says why there are two. Needs gcc and libc6-dev; CARGO_TARGET_DIR is
# respected.
set -eu
cd "$(dirname "$0")/.."
kind=${1:-static}
root=$PWD
target=$(rustc -vV | sed -n 's/^host: //p')
out=${CARGO_TARGET_DIR:-$root/target}
case $kind in
static) flags=(-Ctarget-feature=+crt-static) ;;
shared) flags=() ;;
*) echo "build.sh: 'static' or 'shared', not '$kind'" >&2; exit 2 ;;
esac
# Their directories are named below.
cargo fetch --locked --quiet --target "$target"

# No directory of this machine is in the program: neither the tree's, nor that of Cargo's sources, nor
# the toolchain's. The last that fits counts.
flags+=(
    "--remap-path-prefix=$(rustc --print sysroot)=/toolchain"
    "--remap-path-prefix=$root=/identity-spoa"
)
[ "$out" = "$root/target" ] || flags+=("--remap-path-prefix=$out=/identity-spoa/target")
for sources in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/; do
    flags+=("--remap-path-prefix=${sources%/}=/crates")
done
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; echo "${flags[*]}")
# The C code of dependencies, the same.
CFLAGS="${CFLAGS:-} -ffile-prefix-map=$root=/identity-spoa -ffile-prefix-map=$out=/identity-spoa/target"
export CARGO_ENCODED_RUSTFLAGS CFLAGS
# With --target, build scripts and macros are not linked statically, which they cannot be.
cargo build --locked --profile dist --target "$target" --bin identity-spoa >&2
mkdir -p "target/package/$kind"
install -m 0755 "$out/$target/dist/identity-spoa" "target/package/$kind/identity-spoa"
echo "$root/target/package/$kind/identity-spoa"
