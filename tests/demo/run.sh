#!/usr/bin/env bash
# The demo: starts a development provider, two tiny workspaces, the agent and HAProxy on loopback, and sends the requests
# that a person would try first. With `once` it ends after them; otherwise it keeps running until Ctrl-C. It removes
# everything that it made.
set -eu
cd "$(dirname "$0")/../.."
mode=${1:-stay}
stage=$(mktemp -d)
pids=()

clean_up() {
    trap - EXIT INT TERM
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$stage"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() {
    echo "demo: $*" >&2
    for log in "$stage"/*.log; do echo "--- $log"; tail -n 20 "$log"; done >&2
    exit 1
}
# Waits until a command succeeds.
await() { # what command...
    local what=$1
    shift
    for _ in $(seq 400); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.05
    done
    fail "this did not happen within 20 s: $what"
}
# The value of a string member in a ready line.
member() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" "$2"; }

build=${CARGO_TARGET_DIR:-target}/debug
echo "building…"
cargo build --quiet --locked -p identity-spoa -p dev-idp -p dev-workspace

"$build/dev-idp" >"$stage/idp.out" 2>"$stage/idp.log" &
pids+=($!)
for name in alices bobs; do
    "$build/dev-workspace" --name "$name" >"$stage/$name.out" 2>"$stage/$name.log" &
    pids+=($!)
done
await "the provider is ready" grep -q ready "$stage/idp.out"
await "alice's workspace is ready" grep -q ready "$stage/alices.out"
await "bob's workspace is ready" grep -q ready "$stage/bobs.out"
idp=$(member issuer "$stage/idp.out")

cat >"$stage/agent.toml" <<END
[agent]
listen = ["unix:spop.sock"]

[[issuer]]
name = "dev"
issuer = "$idp"
audience = "workspaces"

[[host]]
preset = "gitpod"
domain = "gitpod.test"

[destinations]
allow = ["127.0.0.0/8"]

[workspaces]
file = "workspaces.yaml"

[audit]
file = "audit.jsonl"
END
alice=pinkpanda-demo-ns35kd21abc bob=redfox-demo-ns35kd21xyz
cat >"$stage/workspaces.yaml" <<END
workspaces:
  - id: $alice
    owner: { subject: sub-alice, username: alice }
    phase: running
    destination: $(member address "$stage/alices.out")
    ports:
      - { port: 3000, admission: public, destination: "$(member address "$stage/alices.out")" }
  - id: $bob
    owner: { subject: sub-bob, username: bob }
    phase: running
    destination: $(member address "$stage/bobs.out")
END

"$build/identity-spoa" check --config "$stage/agent.toml"
"$build/identity-spoa" run --config "$stage/agent.toml" 2>"$stage/agent.log" &
pids+=($!)
await "the agent is ready" grep -q '"ready"\|ready' "$stage/agent.log"

# A free port; if another program takes it first, HAProxy does not start and the next one is tried.
for _ in 1 2 3 4 5; do
    port=$((20000 + RANDOM % 20000))
    GATE_HTTP=127.0.0.1:$port IDENTITY_AGENT=unix@$stage/spop.sock GATE_ADMIN_SOCKET=$stage/admin.sock \
        haproxy -db -C haproxy -f haproxy.cfg >"$stage/haproxy.log" 2>&1 &
    haproxy=$!
    for _ in $(seq 100); do
        (: </dev/tcp/127.0.0.1/$port) 2>/dev/null && kill -0 $haproxy 2>/dev/null && break 2
        kill -0 $haproxy 2>/dev/null || break
        sleep 0.05
    done
    haproxy=
done
[ -n "$haproxy" ] || fail "haproxy does not start"
pids+=("$haproxy")
gate=http://127.0.0.1:$port

token() { curl -sS --fail -H 'Content-Type: application/json' -d "$1" "$idp/dev/token"; }
token '{"user":"alice"}' >"$stage/alice.token"
token '{"user":"bob"}' >"$stage/bob.token"
token '{"user":"alice","expires_in":-3600}' >"$stage/expired.token"

# Prints the status of a request to a workspace; the whole response is in $stage/answer.
ask() { # workspace [token]
    local headers=()
    [ -z "${2:-}" ] || headers=(-H "Authorization: Bearer $(cat "$stage/$2.token")")
    curl -sS -o "$stage/answer" -D "$stage/head" -w '%{http_code}' "${headers[@]}" -H "Host: $1.ws.gitpod.test" "$gate/"
}
ready() { [ "$(ask $alice alice)" = 200 ]; }
await "HAProxy and the agent answer alice with 200" ready

show() { # title status workspace [token]
    local found
    found=$(ask "$3" "${4:-}")
    printf '\n== %s\n   %s\n' "$1" "$found $(head -n 1 "$stage/answer")"
    grep -i '^www-authenticate' "$stage/head" | sed 's/^/   /' || true
    [ "$found" = "$2" ] || fail "expected status $2"
}
show "alice opens her workspace" 200 $alice alice
show "bob opens alice's workspace: refused, with the reason" 403 $alice bob
show "a client without a token: asked for one" 401 $alice
show "alice with an expired token" 401 $alice expired
show "a client without a token at alice's public port 3000" 200 3000-$alice
echo
echo "== alice's workspace stops (her entry in workspaces.yaml now says 'stopped')"
before=$(date +%s%N)
sed -i "0,/phase: running/s//phase: stopped/" "$stage/workspaces.yaml"
stopped() { [ "$(ask $alice alice)" = 404 ]; }
await "requests to the stopped workspace get 404" stopped
took=$((($(date +%s%N) - before) / 1000000))
echo "   refused after $took ms: $(head -n 1 "$stage/answer")"
[ "$took" -lt 1000 ] || fail "that took longer than a second"
echo
echo "== the audit log (audit.jsonl), last decision"
grep '"verdict"' "$stage/audit.jsonl" | tail -n 1 | sed 's/^/   /'

if [ "$mode" = once ]; then
    echo
    echo "demo: done"
    exit 0
fi
sed -i "s/phase: stopped/phase: running/" "$stage/workspaces.yaml"
cat <<END

Everything is running. Try, in another terminal:

  curl -H "Host: $alice.ws.gitpod.test" -H "Authorization: Bearer \$(cat $stage/alice.token)" $gate/
  $build/identity-spoa explain --config $stage/agent.toml --host $alice.ws.gitpod.test --token-file $stage/bob.token
  \$EDITOR $stage/workspaces.yaml        # owners, grants, ports, phases: read when you save
  tail -f $stage/audit.jsonl            # every decision
  tail -f $stage/haproxy.log            # HAProxy's log
  curl -d '{"user":"carol","claims":{"groups":["x"]}}' -H 'Content-Type: application/json' $idp/dev/token
  curl -d '{}' -H 'Content-Type: application/json' $idp/dev/rotate   # new signing keys

Ctrl-C ends the demo and removes its files.
END
wait
