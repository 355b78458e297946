#!/usr/bin/env bash
# Writes target/package/identity-spoa.cdx.json, the list of crates that are in the program or build it, in
# CycloneDX 1.5, checks it against the standard's schema and Cargo.lock, and prints its path.
set -eu
cd "$(dirname "$0")/.."
tools=$(packaging/tools.sh cargo-cyclonedx)
target=$(rustc -vV | sed -n 's/^host: //p')
SOURCE_DATE_EPOCH=$(packaging/date.sh)
export SOURCE_DATE_EPOCH
mkdir -p target/package
"$tools/cargo-cyclonedx" cyclonedx --quiet --format json --spec-version 1.5 --target "$target" --override-filename identity-spoa.cdx
mv identity-spoa.cdx.json target/package/
# The schema comes with a Python package, in the version and with the digests of the file.
python=target/tools/cyclonedx
if [ "$(cat "$python/done" 2>/dev/null)" != "$(sha256sum packaging/cyclonedx.txt)" ]; then
    rm -rf "$python"
    python3 -m venv "$python"
    "$python/bin/python" -m pip install -q --disable-pip-version-check --require-hashes --only-binary :all: -r packaging/cyclonedx.txt >&2
    sha256sum packaging/cyclonedx.txt >"$python/done"
fi
"$python/bin/python" packaging/sbom.py target/package/identity-spoa.cdx.json "$target" >&2
echo "$PWD/target/package/identity-spoa.cdx.json"
