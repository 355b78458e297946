#!/usr/bin/env bash
# Prints a Python of this machine that can make virtual environments and has TLS, which some lack; on Debian as root it is
# installed where it is missing. NAME says for what, in messages.
set -eu
name=${1:-tests}
for python in python3 /usr/bin/python3; do
    if "$python" -c 'import ensurepip, ssl, venv' 2>/dev/null; then
        echo "$python"
        exit
    fi
done
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "$name: please install python3 with venv (Debian: python3-venv)" >&2
    exit 1
fi
echo "installing python3-venv" >&2
export DEBIAN_FRONTEND=noninteractive
{
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends python3-venv
} >/dev/null
echo /usr/bin/python3
