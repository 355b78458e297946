# What a person runs here. Everything stays on loopback.
.PHONY: demo test check fmt lint build install

# Starts a gate with everything around it, shows what it does, and stays up.
demo: install
	@tests/demo/run.sh

# Everything: unit, property and integration tests against real HAProxy in containers, the fuzz
# targets for a moment, the demo once.
test: install
	@tests/containers/images.sh >/dev/null || echo "no container engine: the tests use the haproxy of this machine"
	cargo test --locked
	@tests/demo/run.sh once >/dev/null && echo "the demo works"

# What CI runs before the tests.
check: fmt lint

fmt:
	cargo fmt --check

lint:
	cargo clippy --locked --all-targets -- -D warnings

build:
	cargo build --locked --release

install:
	@tests/demo/install.sh
