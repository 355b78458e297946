# The commands of this project; CONTRIBUTING.md lists them with their times. Everything stays on loopback.
.PHONY: demo test test-repeat terminations interop browser platforms apps check fmt reference lint build install fuzz sanitize corpus bench \
	soak chaos scale docs docs-check words

# Starts HAProxy, the agent and workspaces, shows what they do, and keeps running until Ctrl-C.
demo: install
	@tests/demo/run.sh

# Runs unit, property and integration tests against real HAProxy in containers, each fuzz target for three seconds, and the
# demo once; makes the site of the documents.
test: install docs-check
	@tests/containers/images.sh >/dev/null || echo "no container engine: the tests use the haproxy of this machine"
	cargo test --locked
	cargo test --locked --features otel --lib --test otel traces::
	@TIME=3 fuzz/run.sh
	@tests/demo/run.sh once >/dev/null && echo "the demo works"

# Runs the tests N times, every second time during a build. Prints a table; exit status 1 if a run failed. FILTER=WORDS
# for some of the tests.
N ?= 20
test-repeat: install
	@tests/containers/images.sh >/dev/null || echo "no container engine: the tests use the haproxy of this machine"
	@N=$(N) FILTER="$(FILTER)" tests/repeat.sh

# Measures from the end of access to the closed socket, RUNS times with every HAProxy: p50, p99, maximum. Exit status 1 if
# one took longer than a second. Needs a quiet machine. ONLY=3.2 for one of them.
RUNS ?= 20
terminations: install
	@tests/containers/images.sh >/dev/null || echo "no container engine: the haproxy of this machine is measured"
	RUNS=$(RUNS) GATE_VERSIONS="$(ONLY)" cargo test --locked --test it tunnels::terminations:: -- --ignored --nocapture

# Verifies tokens of OpenID providers of other projects: oidc-provider from npm, Canaille from PyPI. Their keys rotate during
# traffic. The first run needs those package registries.
interop: install
	@tests/interop/run.sh

# Signs in with a real Chromium, through real HAProxy, at oidc-provider from npm; a picture of every page is in
# target/browser/pages. The first run needs Debian's and npm's package registries.
browser: install
	@tests/browser/run.sh

# Runs the sources against workspace platforms: a real JupyterHub, and fakes made from the platforms' own libraries. The first
# run needs the package registries.
platforms: install
	@tests/platforms/run.sh

# Runs code-server, JupyterLab, Vite, Streamlit, Git and others behind the gate; pictures are in target/apps/pictures. The newest
# HAProxy; VERSIONS="2.6 3.0" for others, ONLY=REGEX for some apps, LONG=1 for what takes hours, WRITE=1 to write the table of
# docs/apps.md. The first run needs Debian's, npm's and PyPI's package registries.
apps: install
	@VERSIONS="$(VERSIONS)" ONLY="$(ONLY)" LONG="$(LONG)" WRITE="$(WRITE)" tests/apps/run.sh

# Runs every fuzz target for TIME seconds; RUNS=10000000 for at most that many executions.
TIME ?= 60
fuzz: install
	@TIME=$(TIME) fuzz/run.sh

# Runs unit tests and fuzz targets under valgrind and AddressSanitizer. Takes a quarter of an hour the first time.
sanitize: install
	@TIME=10 tests/sanitize.sh

# Writes the seeds of the fuzz targets again, with frames of every HAProxy.
corpus: install
	cargo test --locked --test it the_seeds_are_written -- --ignored

# Measures CPU and rate of a decision, alone and through HAProxy, compared with a constant response, a naive agent, no agent and
# HAProxy's own jwt_verify; then the longest pause during work of the agent's own, the stages of a decision, the time until the
# end of a workspace is known, and the cost of sessions.
bench: install build
	cargo bench --locked -p benches --bench throughput
	@tests/containers/images.sh >/dev/null || true
	cargo bench --locked -p benches --bench through_haproxy
	cargo bench --locked -p benches --bench pauses
	cargo bench --locked -p benches --bench stages
	cargo bench --locked -p benches --bench workspaces
	cargo bench --locked -p benches --bench sessions

# Checks under churn for a long time that every response is right, and that memory, descriptors and latency stay flat. TIME=90s,
# 60m, 2h.
RATE ?= 350
soak: install
	@tests/containers/images.sh >/dev/null
	cargo build --locked --release -p identity-spoa -p prove
	target/release/prove soak --time $(if $(filter %s %m %h,$(TIME)),$(TIME),60m) --rate $(RATE) $(if $(SEED),--seed $(SEED))

# Makes every part fail, alone and in pairs, under load, and checks that no person is let in who must not be. QUICK=1 for a few
# cells. Without the optimizer: slower code has more overlaps of faults and requests.
PAIRS ?= 30
chaos: install
	@tests/containers/images.sh >/dev/null
	@command -v faketime >/dev/null || apt-get install -y -qq faketime >/dev/null || true
	cargo build --locked -p identity-spoa -p prove
	target/debug/prove chaos $(if $(QUICK),--quick,--pairs $(PAIRS)$(if $(ONLY),, --write docs/reliability.md)) $(if $(ONLY),--only $(ONLY)) $(if $(SEED),--seed $(SEED))

# Measures a million workspaces and half a million people: docs/scaling.md.
scale: build
	cargo bench --locked -p benches --bench scale
	cargo bench --locked -p benches --bench workspaces -- 1000000

# Serves the documents as a site with search, at http://127.0.0.1:8000/ until Ctrl-C; PORT=8001 for another port. The first
# run needs PyPI.
docs:
	@PORT=$(or $(PORT),8000) docs/site/build.sh serve

# Makes that site in target/site/html. Fails on a link that leads nowhere and on a page that no index leads to.
docs-check:
	@docs/site/build.sh

# Searches for the words of docs/style/words.txt; PATHS="docs/ssh.md src/audit" searches there alone.
words:
	@tests/words.sh $(PATHS)

# Runs what CI runs before the tests: formatting, forbidden words, lints, licences.
check: fmt words lint deny

fmt:
	cargo fmt --all --check

# Writes the documents that are made from the declarations of configuration keys.
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

# Makes what is shipped, in target/package: the programs, the image, the Debian package, and the lists of their crates. Takes a
# quarter of an hour on two cores; make package and make image test theirs.
.PHONY: release image package sbom deny reproduce
release: sbom package image

# Makes the image identity-spoa:VERSION, and runs it with a hardened HAProxy in containers, which must pass
# 'haproxy selftest'.
image: install
	@packaging/image.sh
	cargo test --locked --test it packages::image -- --ignored --nocapture

# Makes the Debian package, installs it on clean Debians, where systemd runs it, upgrades and removes it.
package: install
	@packaging/package.sh
	@tests/containers/systemd.sh
	cargo test --locked --test it packages::debian -- --ignored --nocapture

# Lists all crates in the program, in CycloneDX; compares the list with its schema and Cargo.lock.
sbom: install
	@packaging/sbom.sh

# Checks licences, banned crates and origins of crates: deny.toml. The first run builds cargo-deny, a minute and a half on two
# cores.
deny: install
	@packaging/deny.sh

# Checks that two builds in different directories are the same bytes.
reproduce: install
	@packaging/reproduce.sh
