#!/bin/sh
# Prints the time for packages and images in place of their build's: the commit's, in seconds since 1970. Without git, the
# newest change of the sources.
cd "$(dirname "$0")/.." || exit 1
git log -1 --format=%ct 2>/dev/null || find src Cargo.lock -type f -printf '%Ts\n' | sort -n | tail -n 1
