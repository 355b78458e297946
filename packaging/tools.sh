#!/usr/bin/env bash
# Gets the tools that make and check packages, from crates.io in the versions named here, once; they stay in
# target/tools. Prints the directory of the programs.
#
#     packaging/tools.sh cargo-deb cargo-cyclonedx cargo-deny
set -eu
cd "$(dirname "$0")/.."
root=$PWD/target/tools
mkdir -p "$root"
exec 9>"$root/lock"
flock 9
for tool in "$@"; do
    case $tool in
    cargo-deb) version=3.8.0 ;;
    cargo-cyclonedx) version=0.5.9 ;;
    cargo-deny) version=0.20.2 ;;
    *) echo "tools.sh: no version is known for '$tool'" >&2; exit 2 ;;
    esac
    [ -x "$root/bin/$tool" ] && [ "$(cat "$root/$tool.version" 2>/dev/null)" = "$version" ] && continue
    echo "getting $tool $version" >&2
    # One directory for all: they share dependencies.
    cargo install --quiet --locked --root "$root" --target-dir "$root/build" "$tool@$version" >"$root/$tool.log" 2>&1 ||
        { cat "$root/$tool.log" >&2; echo "cannot get $tool from crates.io, see above" >&2; exit 1; }
    echo "$version" >"$root/$tool.version"
done
rm -rf "$root/build"
echo "$root/bin"
