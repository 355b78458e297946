#!/usr/bin/env bash
# Makes container images of real HAProxy versions, identity-spoa/haproxy:<major.minor>, and prints
# their tags, one a line. The official image is used where it can be had; else the image is built
# from Debian's own packages with mmdebstrap. An image that cannot be made is reported and left out.
# Exit status 0: there is at least one image. 1: there is none, or no engine.
set -u
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
state=target/containers
mkdir -p "$state"
"$here/engine.sh" || exit 1
exec 9>"$state/images.lock"
flock 9

# Debian's suite for each version we promise to work with.
wanted="2.6:bookworm 3.0:trixie 3.2:sid 3.4:experimental"

# What is in an image that is built here; haproxy.cfg trusts the system's authorities.
packages=haproxy,ca-certificates

# Whether there is an image of a version with all that is needed: the official one, or one that this script made.
there() {
    local about
    about=$(docker image inspect -f '{{index .Config.Labels "packages"}}{{.Config.Entrypoint}}' "identity-spoa/haproxy:$1" 2>/dev/null) || return 1
    [ "$about" != "[]" ] && [ -n "$about" ] && { [ "${about%[*}" = "$packages" ] || [ "${about#*[}" != "]" ]; }
}

# The mirror this machine uses itself; empty means mmdebstrap's own default.
mirror() {
    sed -n 's/^URIs: *\([^ ]*\).*/\1/p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1
    sed -n 's/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\).*/\2/p' /etc/apt/sources.list 2>/dev/null | head -n 1
}

tools() {
    command -v mmdebstrap >/dev/null && return
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >&2
    apt-get install -y -qq --no-install-recommends mmdebstrap debian-archive-keyring >>"$state/apt.log" 2>&1
}

build() { # version suite
    local version=$1 suite=$2 tar="$state/haproxy-ca-$2.tar" options=() sources=() base=$2 address found
    # A registry that can be reached answers quickly; without one, this waits only a moment.
    if timeout 15 docker pull -q "haproxy:$version" >/dev/null 2>&1; then
        docker tag "haproxy:$version" "identity-spoa/haproxy:$version"
        return
    fi
    tools || { echo "haproxy $version: cannot install mmdebstrap" >&2; return 1; }
    # The unstable suite's index can be older than it says on a mirror; signatures are still checked.
    case $suite in sid | experimental) options+=(--aptopt='Acquire::Check-Valid-Until "false"') ;; esac
    address=$(mirror | head -n 1)
    # Experimental is not a whole suite: it adds packages to the unstable one, and has to be preferred to it.
    if [ "$suite" = experimental ]; then
        [ -n "$address" ] || { echo "haproxy $version: this machine has no mirror of Debian to take it from" >&2; return 1; }
        base=sid
        options+=(--aptopt='APT::Default-Release "experimental"')
        for part in sid experimental; do
            sources+=("deb $address $part main")
        done
    elif [ -n "$address" ]; then
        sources=("$address")
    fi
    if [ ! -s "$tar" ]; then
        echo "building the image of haproxy $version from Debian $suite" >&2
        mmdebstrap --variant=minbase --include="$packages" "${options[@]}" "$base" "${tar%.tar}.part.tar" "${sources[@]}" \
            >"$state/haproxy-$suite.log" 2>&1 || { rm -rf "${tar%.tar}.part.tar"; return 1; }
        mv "${tar%.tar}.part.tar" "$tar"
    fi
    docker import --change "LABEL packages=$packages" "$tar" identity-spoa/haproxy:building >/dev/null || return 1
    found=$(docker run --rm --network none identity-spoa/haproxy:building haproxy -v |
        sed -n 's/^HAProxy version \([0-9]*\.[0-9]*\).*/\1/p')
    # The name says what is inside: the unstable suite moves on.
    [ -n "$found" ] && docker tag identity-spoa/haproxy:building "identity-spoa/haproxy:$found"
    docker rmi identity-spoa/haproxy:building >/dev/null
    [ -n "$found" ]
}

for pair in $wanted; do
    version=${pair%%:*} suite=${pair##*:}
    there "$version" && continue
    [ -e "$state/built-$suite" ] && there "$(cat "$state/built-$suite")" && continue
    before=$(docker images --format '{{.Tag}}' identity-spoa/haproxy | sort)
    if build "$version" "$suite"; then
        docker images --format '{{.Tag}}' identity-spoa/haproxy | sort |
            comm -13 <(echo "$before") - | head -n 1 >"$state/built-$suite"
    else
        echo "haproxy $version: no image (see $state/haproxy-$suite.log)" >&2
    fi
done
# An image that is being made, here or by hand, has another name.
tags=$(docker images --format '{{.Tag}}' identity-spoa/haproxy | grep -Ex '[0-9]+\.[0-9]+' | sort -V)
[ -n "$tags" ] && echo "$tags"
