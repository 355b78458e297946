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
HINT=", or Python with the modules ensurepip, ssl and venv" "$(dirname "$0")/apt.sh" "$name" python3-venv
echo /usr/bin/python3
