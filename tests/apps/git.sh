#!/usr/bin/env bash
# Prints which Git there is, as JSON: the command, its first arguments, its version, and whether it asks credential helpers for Bearer
# tokens (2.46 and later). Where Git of the machine is older and there is a container engine, one of Debian 13 is put into a container.
set -eu
cd "$(dirname "$0")/../.."
state=target/apps
mkdir -p "$state"
version=$(git version | sed -n 's/^git version \([0-9]*\.[0-9]*\).*/\1/p')

say() { # command arguments version bearer
    printf '{"command": "%s", "args": %s, "version": "%s", "bearer": %s}\n' "$@"
}

new() { [ "$(printf '2.46\n%s\n' "$1" | sort -V | head -n 1)" = 2.46 ]; }

if new "$version"; then
    say git '[]' "$version" true
    exit
fi
image=identity-spoa/git:trixie
make() {
    local address tar=$PWD/$state/git.tar
    docker info >/dev/null 2>&1 || return 1
    docker image inspect "$image" >/dev/null 2>&1 && return
    if ! command -v mmdebstrap >/dev/null; then
        [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
        apt-get update -qq >/dev/null &&
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mmdebstrap debian-archive-keyring >/dev/null || return 1
    fi
    address=$(sed -n 's/^URIs: *\([^ ]*\).*/\1/p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1)
    [ -n "$address" ] || address=$(sed -n 's/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\).*/\2/p' /etc/apt/sources.list 2>/dev/null | head -n 1)
    mmdebstrap --variant=minbase --include=git,ca-certificates --aptopt='APT::Sandbox::User "root"' trixie "$tar" ${address:+"$address"} >"$state/git-image.log" 2>&1 &&
        docker import "$tar" "$image" >/dev/null && rm -f "$tar"
}
if make; then
    version=$(docker run --rm --network none "$image" git version | sed -n 's/^git version \([0-9.]*\).*/\1/p')
    # The tests' directories, the token of login and its program.
    say docker "[\"run\", \"--rm\", \"--network\", \"host\", \"-v\", \"/tmp:/tmp\", \"-v\", \"$PWD:$PWD:ro\", \"-e\", \"GIT_TERMINAL_PROMPT=0\", \"-w\", \"/tmp\", \"$image\", \"git\"]" "$version" true
else
    say git '[]' "$version" false
fi
