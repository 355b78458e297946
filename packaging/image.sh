#!/usr/bin/env bash
# Makes a container image of target/package/identity-spoa and tries it beside a HAProxy, hardened as the compose
# file has it. Everything stays on loopback.
set -eu
cd "$(dirname "$0")/.."
program=$PWD/target/package/identity-spoa image=$PWD/target/package/image
fail() { echo "image: $*" >&2; exit 1; }
ldd "$program" >/dev/null 2>&1 && fail "the program is not static"
tests/containers/engine.sh || fail "no container engine"
version=$("$program" --version | cut -d ' ' -f 2)
mkdir -p "$image"
install -m 755 "$program" "$image/identity-spoa"
install -m 644 /etc/ssl/certs/ca-certificates.crt "$image/ca-certificates.crt"
DOCKER_BUILDKIT=0 docker build --quiet --network none -t "identity-spoa:$version" \
    -f packaging/Containerfile "$image" >/dev/null

# On an address of loopback that is nobody's.
tests/containers/images.sh >/dev/null
work=$(mktemp -d)
address=127.$((RANDOM % 200 + 20)).$((RANDOM % 250)).$((RANDOM % 250 + 1))
trap 'docker rm -f "gate-agent-$$" "gate-haproxy-$$" >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
mkdir "$work/socket" && chmod 777 "$work/socket" && chmod 755 "$work"
cat >"$work/agent.toml" <<TOML
[agent]
listen = ["unix:/run/identity-spoa/spop.sock"]
socket_mode = "0666"
[[issuer]]
name = "corp"
issuer = "https://idp.invalid"
audience = "workspaces"
[[host]]
preset = "gitpod"
domain = "gitpod.test"
[workspaces]
file = "workspaces.yaml"
TOML
printf 'workspaces:\n  - { id: pinkpanda-demo-ns35kd21abc, owner: { subject: a }, phase: running, destination: "10.0.0.1:80" }\n' >"$work/workspaces.yaml"
"$program" haproxy generate --config "$work/agent.toml" --out "$work/haproxy" >/dev/null
hardened=(--network host --read-only --cap-drop ALL --security-opt no-new-privileges:true -v "$work/socket:/run/identity-spoa")
docker run -d --name "gate-agent-$$" "${hardened[@]}" -v "$work:/etc/identity-spoa:ro" "identity-spoa:$version" >/dev/null
docker run -d --name "gate-haproxy-$$" "${hardened[@]}" --user 65532 -v "$work/haproxy:/haproxy:ro" \
    -e "GATE_HTTP=$address:8080" -e IDENTITY_AGENT=unix@/run/identity-spoa/spop.sock "identity-spoa/haproxy:3.0" \
    haproxy -db -C /haproxy -f haproxy.cfg >/dev/null
for _ in $(seq 100); do
    "$program" haproxy selftest --url "http://$address:8080" --host pinkpanda-demo-ns35kd21abc.ws.gitpod.test >"$work/selftest" 2>&1 && break
    sleep 0.2
done
tail -n 1 "$work/selftest" | grep -q '^0 of ' || {
    cat "$work/selftest"
    docker logs "gate-agent-$$" 2>&1 | tail -n 5
    docker logs "gate-haproxy-$$" 2>&1 | tail -n 5
    fail "the image does not stand beside HAProxy"
}
echo "image identity-spoa:$version stands beside HAProxy, and the gate is closed"
