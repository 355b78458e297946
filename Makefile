# What a person runs here. Everything stays on loopback.
.PHONY: demo test test-repeat terminations interop browser platforms check fmt reference lint build install fuzz sanitize corpus bench \
	soak chaos scale docs docs-check words

# Starts a gate with everything around it, shows what it does, and stays up.
demo: install
	@tests/demo/run.sh

# Everything: unit, property and integration tests against real HAProxy in containers, the fuzz
# targets for a moment, the demo once.
test: install docs-check
	@tests/containers/images.sh >/dev/null || echo "no container engine: the tests use the haproxy of this machine"
	cargo test --locked
	cargo test --locked --features otel --lib --test otel traces::
	@TIME=3 fuzz/run.sh
	@tests/demo/run.sh once >/dev/null && echo "the demo works"

# The tests N times, a build beside every second run; a table of all runs, and exit status 1 if one failed.
# FILTER=WORDS for some of them.
N ?= 20
test-repeat: install
	@tests/containers/images.sh >/dev/null || echo "no container engine: the tests use the haproxy of this machine"
	@N=$(N) FILTER="$(FILTER)" tests/repeat.sh

# From the end of access to the closed socket, RUNS times with every HAProxy: p50, p99 and the most. Exit status 1 if
# one took longer than a second. Needs a quiet machine. ONLY=3.2 for one of them.
RUNS ?= 20
terminations: install
	@tests/containers/images.sh >/dev/null || echo "no container engine: the haproxy of this machine is measured"
	RUNS=$(RUNS) GATE_VERSIONS="$(ONLY)" cargo test --locked --test it tunnels::terminations:: -- --ignored --nocapture

# Tokens of OpenID providers that nobody here wrote: oidc-provider from npm, Canaille from PyPI. Their
# keys rotate under traffic. The first run needs those package registries.
interop: install
	@tests/interop/run.sh

# Sign-in in a real Chromium, in front of real HAProxy, at oidc-provider from npm; pictures of every page
# are kept in target/browser/pages. The first run needs Debian's and npm's package registries.
browser: install
	@tests/browser/run.sh

# Workspace platforms: a real JupyterHub, and fakes made from the platforms' own libraries. The first
# run needs the package registries.
platforms: install
	@tests/platforms/run.sh

# Every fuzz target for TIME seconds; RUNS=10000000 for that many executions at the most.
TIME ?= 60
fuzz: install
	@TIME=$(TIME) fuzz/run.sh

# Unit tests and fuzz targets where memory is watched: valgrind and AddressSanitizer. Takes a quarter of an hour the
# first time.
sanitize: install
	@TIME=10 tests/sanitize.sh

# Writes the seeds of the fuzz targets anew, with frames of every HAProxy.
corpus: install
	cargo test --locked --test it the_seeds_are_written -- --ignored

# CPU and rate a decision, alone and through HAProxy, against a constant answer, a naive agent, no
# agent and HAProxy's own jwt_verify; then the worst pause while the agent does work of its own, the stages of a decision, how soon an
# end of a workspace is known, and what sessions cost.
bench: install build
	cargo bench --locked -p benches --bench throughput
	@tests/containers/images.sh >/dev/null || true
	cargo bench --locked -p benches --bench through_haproxy
	cargo bench --locked -p benches --bench pauses
	cargo bench --locked -p benches --bench stages
	cargo bench --locked -p benches --bench workspaces
	cargo bench --locked -p benches --bench sessions

# Under churn for a long time: every answer right; memory, descriptors and latency flat? TIME=90s, 60m, 2h.
RATE ?= 350
soak: install
	@tests/containers/images.sh >/dev/null
	cargo build --locked --release -p identity-spoa -p prove
	target/release/prove soak --time $(if $(filter %s %m %h,$(TIME)),$(TIME),60m) --rate $(RATE) $(if $(SEED),--seed $(SEED))

# Everything fails, alone and in pairs, under load: is anybody let in who must not be? QUICK=1 for a few cells.
# Without the optimizer: what is slower meets more.
PAIRS ?= 30
chaos: install
	@tests/containers/images.sh >/dev/null
	@command -v faketime >/dev/null || apt-get install -y -qq faketime >/dev/null || true
	cargo build --locked -p identity-spoa -p prove
	target/debug/prove chaos $(if $(QUICK),--quick,--pairs $(PAIRS)$(if $(ONLY),, --write docs/reliability.md)) $(if $(ONLY),--only $(ONLY)) $(if $(SEED),--seed $(SEED))

# A million workspaces, half a million people: docs/scaling.md.
scale: build
	cargo bench --locked -p benches --bench scale
	cargo bench --locked -p benches --bench workspaces -- 1000000

# The documents as a site with search, at http://127.0.0.1:8000/ until Ctrl-C; PORT=8001 for another port. The first run
# needs PyPI.
docs:
	@PORT=$(or $(PORT),8000) docs/site/build.sh serve

# Makes that site in target/site/html. Fails on a link that leads nowhere and on a page that no index leads to.
docs-check:
	@docs/site/build.sh

# Searches for the words of docs/style/words.txt; PATHS="docs/ssh.md src/audit" searches there alone.
words:
	@tests/words.sh $(PATHS)

# What CI runs before the tests.
check: fmt lint deny

fmt:
	cargo fmt --all --check

# The documents that are made of the declarations of configuration keys.
reference:
	cargo build --locked
	target/debug/identity-spoa schema > docs/agent.schema.json
	target/debug/identity-spoa schema --markdown > docs/configuration.md
	target/debug/identity-spoa schema --example > docs/agent.example.toml

lint:
	cargo clippy --locked --workspace --all-targets -- -D warnings

build:
	cargo build --locked --release

install:
	@tests/demo/install.sh

# What is handed out, in target/package: the programs, the image, the Debian package, and lists of what they
# are made of. Takes a quarter of an hour on two cores; make package and make image try theirs.
.PHONY: release image package sbom deny reproduce
release: sbom package image

# The image identity-spoa:VERSION, and a gate of it and a hardened HAProxy in containers, which
# must stand up to 'haproxy selftest'.
image: install
	@packaging/image.sh
	cargo test --locked --test it packages::image -- --ignored --nocapture

# The Debian package; it is installed on clean Debians, where systemd runs it, upgraded and removed.
package: install
	@packaging/package.sh
	@tests/containers/systemd.sh
	cargo test --locked --test it packages::debian -- --ignored --nocapture

# A list of all crates in the program, in CycloneDX; it is held against its schema and Cargo.lock.
sbom: install
	@packaging/sbom.sh

# Licences, banned crates and where crates come from: deny.toml. The first run builds cargo-deny, a
# minute and a half on two cores.
deny: install
	@packaging/deny.sh

# Whether two builds in different directories are the same bytes.
reproduce: install
	@packaging/reproduce.sh
