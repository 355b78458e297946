#!/usr/bin/env bash
# Makes the image identity-spoa/systemd:bookworm: Debian 12 as a machine has it, with systemd and HAProxy, to
# install the package in. Exit status 0: it is there. 1: it cannot be had.
set -u
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
state=target/containers
mkdir -p "$state"
"$here/engine.sh" || exit 1
exec 9>"$state/systemd.lock"
flock 9
packages=haproxy,ca-certificates,systemd,systemd-sysv,dbus,libnss-systemd
has=$(docker image inspect -f '{{index .Config.Labels "packages"}}' identity-spoa/systemd:bookworm 2>/dev/null)
[ "$has" = "$packages" ] && exit 0
if ! command -v mmdebstrap >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends mmdebstrap debian-archive-keyring; } \
        >>"$state/apt.log" 2>&1 || { echo "systemd.sh: cannot install mmdebstrap: see $state/apt.log" >&2; exit 1; }
fi
echo "building the image of Debian 12 with systemd" >&2
tar=$state/systemd.tar
# The mirror this machine uses itself; empty means mmdebstrap's own default.
mirror=$({ sed -n 's/^URIs: *\([^ ]*\).*/\1/p' /etc/apt/sources.list.d/*.sources
    sed -n 's/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\).*/\2/p' /etc/apt/sources.list; } 2>/dev/null | head -n 1)
# shellcheck disable=SC2086
mmdebstrap --variant=minbase --include="$packages" bookworm "$tar" $mirror >"$state/systemd.log" 2>&1 ||
    { echo "systemd.sh: no image, see $state/systemd.log" >&2; exit 1; }
docker import --change "LABEL packages=$packages" "$tar" identity-spoa/systemd:bookworm >/dev/null
made=$?
rm -f "$tar"
exit $made
