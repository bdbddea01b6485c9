# The commands of this repository. `make help` lists them.
#
# Each installs what it needs and the machine lacks; see scripts/.

CARGO ?= cargo
SECONDS_PER_TARGET ?= 60
SOAK_ROUNDS ?= 1000
# Of what kind the server of the demonstration is: postgres, mariadb or mysql.
ENGINE ?= postgres
DEMO_BIN_DIR = $(if $(filter mysql,$(ENGINE)),--bin-dir .deps/mysql-9.7/bin)

.PHONY: help demo test test-garage soak test-unit bench lint fmt doc fuzz toolchain deps deps-demo deps-test deps-garage deps-bench clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -e 's/:.*## /\t/' | expand -t 14

demo: toolchain deps-demo ## archive a throwaway server, drop a table, bring it back (ENGINE=mariadb, mysql)
	$(CARGO) run --release --locked --quiet -- demo --engine $(ENGINE) $(DEMO_BIN_DIR)

test: toolchain deps-test ## every test, with real servers
	$(CARGO) test --locked

test-garage: toolchain deps-garage ## archives in Garage, an S3 service whose nodes die (it is built at first, in minutes)
	$(CARGO) test --locked --test it garage:: -- --ignored

soak: toolchain deps-test ## faults at random for SOAK_ROUNDS (1000) rounds, each with a seed of its own that is printed
	PITR_S3_ROUNDS=$(SOAK_ROUNDS) PITR_MODEL_SCRIPTS=$(SOAK_ROUNDS) PITR_FAULTS=$(SOAK_ROUNDS) PITR_POWER_CUTS=$(SOAK_ROUNDS) \
	    $(CARGO) test --locked --test it -- nothing_is_lost store_model power_cut disk_that_fails killed_at --nocapture

test-unit: toolchain ## only the tests that need no server
	$(CARGO) test --locked --lib --bins
	$(CARGO) test --locked --doc

bench: toolchain deps-bench ## compare with the peers (30 minutes; see benches/peers/README.md)
	$(CARGO) build --release --locked
	python3 benches/peers/run.py

lint: toolchain ## formatting, clippy and documentation, as the CI runs them
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

fmt: toolchain ## format the code
	$(CARGO) fmt --all

fuzz: toolchain ## fuzz each parser of foreign bytes for SECONDS_PER_TARGET (60)
	scripts/fuzz.sh $(SECONDS_PER_TARGET)

toolchain:
	@command -v $(CARGO) >/dev/null 2>&1 || { \
	    echo "error: no Rust toolchain: cargo was not found" >&2; \
	    echo "hint: install Rust 1.95 or newer with rustup, see https://rustup.rs" >&2; exit 1; }

deps:
	@scripts/install-postgres.sh --test

deps-demo:
	@case "$(ENGINE)" in \
	    mysql) scripts/install-mysql.sh --all ;; \
	    mariadb) scripts/install-mysql.sh ;; \
	    *) scripts/install-postgres.sh ;; \
	esac

deps-test: deps
	@scripts/install-embedded-postgres.sh
	@scripts/install-mysql.sh --all
	@scripts/install-moto.sh

deps-garage: deps-test
	@scripts/install-garage.sh

deps-bench:
	@scripts/install-postgres.sh --bench
	@scripts/install-mysql.sh --all --bench
	@scripts/install-garage.sh

clean: ## remove what was built and fetched
	$(CARGO) clean
	rm -rf .deps
