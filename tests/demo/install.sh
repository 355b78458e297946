#!/usr/bin/env bash
# Installs what the demo and the tests need and this machine does not have, on Debian as root.
# Elsewhere it says what is missing. Rust is taken as it is, or from Debian's rustup package.
set -eu
export DEBIAN_FRONTEND=noninteractive
missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }
need cc gcc
# libFuzzer is C++.
need c++ g++
need curl curl
need openssl openssl
need haproxy haproxy
need redis-server redis-server
need git git
# Searches for words that this project does not use, and makes the site of the documents.
need python3 python3
need python3 python3
[ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
    PATH="$HOME/.cargo/bin:$PATH"
fi
command -v cargo >/dev/null || missing+=(rustup)
if [ ${#missing[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
        echo "please install: ${missing[*]}" >&2
        exit 1
    fi
    echo "installing ${missing[*]}" >&2
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
        { echo "cannot install ${missing[*]}; if it is rustup: this Debian has none, install Rust 1.95 or later by hand" >&2; exit 1; }
fi
if ! cargo --version >/dev/null 2>&1; then
    rustup default stable
fi
