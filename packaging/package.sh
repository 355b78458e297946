#!/usr/bin/env bash
# Makes the Debian package, from the program of packaging/build.sh, and prints its path. The table
# [package.metadata.deb] of Cargo.toml says what is in it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.."
tools=$("$here/tools.sh" cargo-deb)
program=$("$here/build.sh" shared)
target=$(rustc -vV | sed -n 's/^host: //p')
out=target/package
SOURCE_DATE_EPOCH=$("$here/date.sh")
export SOURCE_DATE_EPOCH
rm -rf "$out"/man1 "$out"/completions "$out"/*.deb
mkdir -p "$out/completions"
"$program" man "$out/man1" >&2
for shell in bash zsh fish; do "$program" completions "$shell" >"$out/completions/$shell"; done
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
maintainer=$(sed -n 's/^maintainer = "\(.*\)"/\1/p' Cargo.toml)
cat >"$out/changelog" <<END
identity-spoa ($version-1) unstable; urgency=medium

  * /usr/share/doc/identity-spoa/CHANGELOG.md.gz says what changed.

 -- $maintainer  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
END
"$tools/cargo-deb" deb --no-build --profile dist --target "$target" --output "$out/" >&2
ls "$PWD/$out"/*.deb
