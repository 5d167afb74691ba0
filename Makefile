# Every target works on a fresh machine; `make` alone lists them. Each CI job is exactly one target.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

OPERATOR := entra-postgres-operator
CARGO := cargo
LAB := $(or $(CARGO_TARGET_DIR),target)/debug/lab
STAGE := tests/stage.sh
ASSETS := tests/control-plane/build.sh
# How long `make soak` runs; below 8 minutes with tokens of 45 seconds in place of 120.
SOAK_MINUTES ?= 15
# Which tests also run on PostgreSQL 18: all that touch SQL. A filter of `cargo test`; empty is all.
SQL_TESTS ?=

.PHONY: help deps deps-test assets build lint fmt test test-unit test-lab test-it test-it-18 test-node test-clients test-quickstart test-demo \
        soak test-soak hostile test-hostile \
        up down demo bench-roles \
        crds deploy check-generated check-tls deny

help: ## This list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## */\1\t/' \
	  | awk -F'\t' '{ printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2 }'

deps: ## Install what is missing on this machine (PostgreSQL, gcc, openssl), or say how to
	@tests/deps.sh

deps-test: deps ## The same for all tests: also what the documented clients are installed with
	@tests/deps.sh clients

assets: deps ## Build etcd, kube-apiserver, kube-controller-manager and helm (once, then cached)
	@$(ASSETS) all >/dev/null

build: deps ## Build the operator and the lab; the control plane is built meanwhile
	@mkdir -p target
	$(ASSETS) all >/dev/null & go=$$!
	trap 'kill $$go 2>/dev/null || true' EXIT
	$(STAGE) "build the operator" $(CARGO) build --locked -p $(OPERATOR)
	$(STAGE) "build the lab" $(CARGO) build --locked -p lab
	# Waits for the build in the background, or finishes what it could not.
	$(STAGE) "wait for the control plane" $(ASSETS) all >/dev/null
	$(STAGE) "build Flux's engine" $(ASSETS) flux >/dev/null

lint: ## Format and clippy, warnings are errors
	@$(CARGO) fmt --all -- --check
	$(CARGO) clippy --locked -p $(OPERATOR) --all-targets -- -D warnings
	$(CARGO) clippy --locked -p lab --all-targets -- -D warnings

fmt: ## Format everything
	@$(CARGO) fmt --all

test: ## All tests, from nothing: builds what is missing and prints the minutes of each stage
	@mkdir -p target
	export STAGES=$(CURDIR)/target/stages.txt
	: >"$$STAGES"
	trap '$(STAGE) --summary' EXIT
	$(STAGE) "dependencies" $(MAKE) --no-print-directory deps-test
	$(MAKE) --no-print-directory build
	# All stages run, so that one run tells all that is wrong.
	failed=0
	stage() { $(STAGE) "$$1" $(MAKE) --no-print-directory "$$2" || failed=1; }
	stage "one TLS stack" check-tls
	stage "generated files" check-generated
	stage "unit tests" test-unit
	stage "lab tests" test-lab
	stage "integration tests" test-it
	stage "SQL on PostgreSQL 18" test-it-18
	stage "a pod on a real node" test-node
	stage "clients" test-clients
	stage "a short soak" test-soak
	stage "hostile neighbours" test-hostile
	stage "the README's quick start" test-quickstart
	stage "demo" test-demo
	exit $$failed

test-unit: ## The operator's unit tests: no server, no cluster
	@$(CARGO) test --locked -p $(OPERATOR)

test-lab: build ## The lab's own tests: control plane, PostgreSQL, gateway, Entra
	@$(CARGO) test --locked -p lab --lib --bins --test control_plane --test azure -- --skip on_a_node::

test-it: build ## The operator on real parts
	@tests/deps.sh clients
	$(CARGO) test --locked -p lab --test it -- --skip clients:: --skip on_a_node::

test-it-18: build ## The tests that touch SQL, on PostgreSQL 18
	@tests/deps.sh clients
	bin=$$(tests/postgres18.sh)
	LAB_POSTGRES_BIN=$$bin $(CARGO) test --locked -p lab --test azure --test it -- --skip clients:: --skip on_a_node:: $(SQL_TESTS)

test-clients: build ## The clients of docs/clients, installed from their registries: sign-ins across a renewal
	@tests/deps.sh clients
	tests/clients/install.sh >/dev/null
	$(CARGO) build --locked -p lab --examples
	$(CARGO) test --locked -p lab --test it -- clients:: --skip clients::on_a_node::

test-node: ## A pod on a real kubelet logs in across renewals; one line says where no node can run
	@tests/node/run.sh check >/dev/null || exit 0
	tests/deps.sh node
	$(MAKE) --no-print-directory build
	$(ASSETS) node >/dev/null
	$(CARGO) test --locked -p lab --test control_plane --test it -- on_a_node:: --skip clients::
	tests/deps.sh clients
	tests/clients/install.sh >/dev/null
	$(CARGO) build --locked -p lab --examples
	# One control plane has one node.
	$(CARGO) test --locked -p lab --test it -- clients::on_a_node::

test-demo: ## The demo, and that its story fits a screen
	@story=$$($(MAKE) --no-print-directory demo)
	printf '%s\n' "$$story"
	[ "$$(wc -l <<<"$$story")" -le 40 ] || { echo "the story has more than 40 lines" >&2; exit 1; }

test-quickstart: build ## The README's quick start, as it stands there
	@tests/quickstart.sh

bench-roles: build ## Figures: 1,000 principals with grants on 10,000 tables, and random pairs of declared and actual rights
	@$(CARGO) test --locked -p lab --test it -- --nocapture --test-threads=1 rights::scale rights::property

soak: ## 200 tokens kept good through faults of everything, SOAK_MINUTES long; two lines of numbers
	@$(MAKE) --no-print-directory build >&2
	SOAK_MINUTES=$(SOAK_MINUTES) $(LAB) soak

test-soak: ## The same for two minutes
	@$(MAKE) --no-print-directory soak SOAK_MINUTES=2

hostile: ## Tenants that attack in every way beside others who must not notice; one line of numbers (HOSTILE_ONLY=a,b: these attacks)
	@$(MAKE) --no-print-directory build >&2
	$(LAB) hostile

test-hostile: ## The same, as part of all tests
	@$(MAKE) --no-print-directory hostile

up: build ## Start the lab and the operator, and leave them running (LAB_OPERATOR=none: without)
	@$(LAB) up

down: ## Stop what `make up` started; succeeds if nothing runs
	@if [ -x $(LAB) ]; then $(LAB) down; else echo "nothing runs here"; fi

demo: ## The whole story, once: seven principals, their logins, a renewal, a repair
	@$(MAKE) --no-print-directory build >&2
	$(LAB) demo

crds: ## Regenerate crds/ from the operator's types
	@tests/generate.sh crds

deploy: ## Regenerate deploy/base/ and deploy/namespaced/ from the chart
	@tests/generate.sh deploy

check-generated: ## crds/, the chart's copy of it and deploy/ are what would be generated now
	@tests/generate.sh --check

check-tls: ## rustls with ring is the only TLS stack in both programs
	@tests/check-tls.sh

deny: ## Licences, advisories and sources of all crates (needs cargo-deny)
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check; \
	else echo "cargo-deny is not installed: run 'cargo install --locked cargo-deny'" >&2; exit 1; fi
