#!/usr/bin/env bash
# Makes sure that a container engine answers. Where none does and we are root on Debian, docker.io is
# installed and started here, without networks of its own: containers use the host's loopback.
# Exit status 0: an engine answers. 1: none can be had; the reason is on standard error.
set -u
cd "$(dirname "$0")/../.."
state=target/containers
mkdir -p "$state"

if docker info >/dev/null 2>&1; then exit 0; fi

# Two test runs at once must not start two engines.
exec 9>"$state/engine.lock"
flock 9
if docker info >/dev/null 2>&1; then exit 0; fi

if [ "$(id -u)" != 0 ]; then
    echo "no container engine answers, and only root can start one" >&2
    exit 1
fi
if ! command -v dockerd >/dev/null; then
    echo "installing docker.io" >&2
    export DEBIAN_FRONTEND=noninteractive
    # The package starts a daemon of its own where systemd runs, which is fine as well.
    apt-get update -qq >&2 && apt-get install -y -qq --no-install-recommends docker.io >"$state/apt.log" 2>&1 ||
        { echo "cannot install docker.io: see $state/apt.log" >&2; exit 1; }
fi
rm -f /var/run/docker.pid
# 9>&- : the daemon outlives this script and must not hold its lock.
setsid dockerd --iptables=false --bridge=none >"$state/dockerd.log" 2>&1 9>&- </dev/null &
echo $! >"$state/dockerd.pid"
for _ in $(seq 150); do
    if docker info >/dev/null 2>&1; then
        echo "container engine started (pid $(cat "$state/dockerd.pid"), log $state/dockerd.log)" >&2
        exit 0
    fi
    kill -0 "$(cat "$state/dockerd.pid")" 2>/dev/null || break
    sleep 0.2
done
echo "dockerd does not answer: see $state/dockerd.log" >&2
exit 1
