# Everything runs in .venv, created by the first target that needs it. Stamp files in .venv record
# what is installed, so a second `make` installs nothing unless a dependency changed.

.SUFFIXES:
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
# The versions for CI. `make demo CONSTRAINTS=` installs the newest allowed versions instead.
CONSTRAINTS ?= constraints.txt
# How much the battery does: short or long.
BATTERY ?= short
# Arguments for the program of a target: make demo ARGS="--duration 30"
ARGS ?=

PYTHONS := python3.11 python3.12 python3.13 python3
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in $(PYTHONS); do \
	if "$$python" -c '$(NEW_ENOUGH)' >/dev/null 2>&1; then echo "$$python"; break; fi; done)

PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	$(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
INPUTS := pyproject.toml $(CONSTRAINTS)
# The clients of vendors need other versions than constraints.txt has.
VENDORS := .venv-vendors
# Frameworks too; some need older clients, and have an environment of their own.
FRAMEWORKS := .venv-frameworks
FRAMEWORKS_OLDER := .venv-frameworks-older
# What frameworks leave unclosed is found at the end, when no test's filter of warnings is in effect.
FRAMEWORKS_PYTEST := -m frameworks -W default::pytest.PytestUnraisableExceptionWarning -W default::DeprecationWarning tests/frameworks tests/unit/test_docs.py
# Of `make bench`: LiteLLM's proxy and OpenLIT need older packages than the others.
PEERS := .venv-peers
PEERS_LITELLM := .venv-peers-litellm
PEERS_OPENLIT := .venv-peers-openlit
PACKAGE := .venv-package
BOARDS := tools/dashboards
NODE_MODULES := $(BOARDS)/node_modules/.installed

.PHONY: help demo test lint format render pictures servers stack engines example site package audit vendors frameworks battery mutants bench constraints clean

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

demo: $(VENV)/.installed ## Run the demo: a live view and a scrapeable endpoint
	@$(BIN)/genmeter demo $(ARGS)

test: $(VENV)/.test ## Run all tests without real servers, AfterImage, clients and frameworks, with coverage
	@$(BIN)/python -m pytest -m "not stack and not example and not vendors and not frameworks and not package and not battery" --cov --cov-report=term $(ARGS)

lint: $(VENV)/.test $(VENV)/.lint ## Check style, types and the layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

site: $(VENV)/.site ## Build the documentation as a site, strictly, into build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --config-file tools/site/mkdocs.yml
	@echo "build/site/index.html"

package: ## Build the wheel twice, and use it on each Python, with the oldest and the newest dependencies
	@$(MAKE) --no-print-directory VENV=$(PACKAGE) CONSTRAINTS= $(PACKAGE)/.package
	@$(PACKAGE)/bin/python -m pytest -m package tests/package $(ARGS)

audit: ## Look up the known vulnerabilities of the pinned versions, at an index that serves them
	@$(MAKE) --no-print-directory VENV=$(PACKAGE) CONSTRAINTS= $(PACKAGE)/.package
	@$(PACKAGE)/bin/pip-audit --strict --no-deps --requirement constraints.txt

format: $(VENV)/.lint ## Format, and fix what ruff can fix
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

render: $(VENV)/.test ## Render the files of deploy/ and docs/ from the tables
	@$(BIN)/genmeter render rules --out deploy/prometheus/rules.yml
	@$(BIN)/genmeter render rules --format kubernetes --out deploy/prometheus/rules-kubernetes.yml
	@$(BIN)/genmeter render rules --settings deploy/prometheus/settings.toml \
		--out deploy/prometheus/tests/rules/example.yml
	@$(BIN)/genmeter render rules --settings deploy/prometheus/settings.toml --histograms native \
		--out deploy/prometheus/tests/rules/native.yml
	@$(BIN)/genmeter render rules --settings deploy/prometheus/settings.toml --group-by namespace,cluster \
		--replica-labels prometheus_replica --suffix all --out deploy/prometheus/tests/rules/grouped.yml
	@$(BIN)/genmeter render dashboards --out deploy/grafana/dashboards
	@$(BIN)/genmeter render runbook --out docs/runbook.md
	@$(BIN)/genmeter render reference --out docs/metrics.md

pictures: $(VENV)/.test $(NODE_MODULES) ## Draw the dashboards for docs/images, with Chromium
	@$(BIN)/python tools/dashboards/pictures.py $(ARGS)

servers: ## Install Prometheus, Alertmanager, a Collector, VictoriaMetrics and the linters for `make stack`
	@tools/install-servers.sh
	@tools/install-crds.sh

stack: $(VENV)/.test $(VENV)/.example $(NODE_MODULES) ## Run the tests against real servers and AfterImage
	@$(BIN)/python -m pytest -m "stack or example" $(ARGS)

engines: $(VENV)/.test ## Run the tests on each engine, and write the table of docs/engines.md
	@GENMETER_WRITE_ENGINES=1 $(BIN)/python -m pytest -m stack tests/stack/test_engines.py tests/stack/test_engine_faults.py $(ARGS)

example: $(VENV)/.installed $(VENV)/.example ## Run a real AfterImage job that genmeter watches
	@$(BIN)/python examples/afterimage_job.py $(ARGS)

vendors: ## Run the tests with the newest clients of vendors
	@$(MAKE) --no-print-directory VENV=$(VENDORS) CONSTRAINTS= $(VENDORS)/.vendors
	@$(VENDORS)/bin/python -m pytest -m vendors tests/vendors $(ARGS)

frameworks: ## Run the tests with the newest frameworks and instrumentations
	@$(MAKE) --no-print-directory VENV=$(FRAMEWORKS) CONSTRAINTS= $(FRAMEWORKS)/.frameworks
	@GENMETER_FRAMEWORKS=newest $(FRAMEWORKS)/bin/python -m pytest $(FRAMEWORKS_PYTEST) $(ARGS)
	@$(MAKE) --no-print-directory VENV=$(FRAMEWORKS_OLDER) CONSTRAINTS= $(FRAMEWORKS_OLDER)/.frameworks-older
	@GENMETER_FRAMEWORKS=older $(FRAMEWORKS_OLDER)/bin/python -m pytest $(FRAMEWORKS_PYTEST) $(ARGS)

battery: $(VENV)/.test ## Run long, random tests under faults: ten minutes, or hours with BATTERY=long
	@BATTERY=$(BATTERY) BATTERY_SEED=$(BATTERY_SEED) $(BIN)/python -m pytest -m battery tests/battery $(ARGS)

mutants: $(VENV)/.mutants ## Try mutants of the modules whose faults would be silent, against their tests
	@$(BIN)/python tools/mutants.py $(ARGS)

bench: $(VENV)/.test $(VENV)/.example ## Run the benchmarks, beside the peers too; ARGS=--write writes docs/performance.md
	@$(MAKE) --no-print-directory VENV=$(PEERS) CONSTRAINTS= $(PEERS)/.peers
	@$(MAKE) --no-print-directory VENV=$(PEERS_LITELLM) CONSTRAINTS= $(PEERS_LITELLM)/.peers-litellm
	@$(MAKE) --no-print-directory VENV=$(PEERS_OPENLIT) CONSTRAINTS= $(PEERS_OPENLIT)/.peers-openlit
	@$(BIN)/python benchmarks $(ARGS)

constraints: ## Resolve all dependencies into constraints.txt, in a temporary environment
	@rm -rf build/constraints
	@mkdir -p build
	@$(MAKE) --no-print-directory VENV=build/constraints CONSTRAINTS= \
		$(addprefix build/constraints/,.installed .test .lint .site .mutants .example)
	@{ echo "# The exact versions that make and CI install, for Python 3.11 to 3.13."; \
		echo "# Written by \`make constraints\` on Linux; do not edit by hand."; \
		build/constraints/bin/python -m pip freeze --exclude-editable; } >build/constraints.txt
	@mv build/constraints.txt constraints.txt
	@rm -rf build/constraints

clean: ## Remove everything that make created, except the servers
	@rm -rf $(VENV) $(VENDORS) $(FRAMEWORKS) $(FRAMEWORKS_OLDER) $(PEERS) $(PEERS_LITELLM) $(PEERS_OPENLIT) $(PACKAGE) build dist htmlcov .coverage .coverage.* coverage.xml .benchmarks \
		.pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis $(BOARDS)/node_modules
	@find src tests tools examples benchmarks -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.pip:
	@if [ -z "$(PYTHON)" ] || ! "$(PYTHON)" -c '$(NEW_ENOUGH)' 2>/dev/null; then \
		echo "genmeter needs Python 3.11 or newer; tried: $(or $(PYTHON),$(PYTHONS))" >&2; \
		echo "Install one, or set its path: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; \
		exit 1; fi
	@if ! "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$(PYTHON) cannot create a virtual environment: it lacks venv or ensurepip." >&2; \
		echo "On Debian and Ubuntu: apt-get install python3-venv" >&2; \
		exit 1; fi
	@echo "Creating $(VENV)"
	@"$(PYTHON)" -m venv $(VENV)
	@# Dependency groups need pip 25.1; Python 3.11 comes with an older one.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.installed: $(VENV)/.pip $(INPUTS)
	@echo "Installing genmeter"
	@$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.pip $(INPUTS)
	@echo "Installing genmeter and the test dependencies"
	@$(PIP_INSTALL) --editable . --group test
	@touch $@

$(VENV)/.lint: $(VENV)/.pip $(INPUTS)
	@echo "Installing the linters"
	@$(PIP_INSTALL) --group lint
	@touch $@

$(VENV)/.mutants: $(VENV)/.pip $(INPUTS)
	@echo "Installing what makes and judges mutants"
	@$(PIP_INSTALL) --editable . --group mutants
	@touch $@

$(VENV)/.site: $(VENV)/.pip $(INPUTS)
	@echo "Installing the documentation's tools"
	@$(PIP_INSTALL) --group site
	@touch $@

$(PACKAGE)/.package: $(VENV)/.pip $(INPUTS)
	@echo "Installing what builds and checks the wheel"
	@$(PIP_INSTALL) --group package
	@touch $@

$(NODE_MODULES): $(BOARDS)/package-lock.json
	@if ! node -e 'process.exit(+(process.versions.node.split(".")[0] < 20))' 2>/dev/null; then \
		echo "The dashboards' tools need Node.js 20 or newer, with npm: install them." >&2; exit 1; fi
	@echo "Installing Grafana's types and components"
	@npm ci --prefix $(BOARDS) --no-audit --no-fund --loglevel=error
	@touch $@

$(VENV)/.example: $(VENV)/.pip $(INPUTS)
	@echo "Installing AfterImage"
	@$(PIP_INSTALL) --editable . --group example
	@touch $@

$(VENDORS)/.vendors: $(VENV)/.pip $(INPUTS)
	@echo "Installing the clients of vendors"
	@$(PIP_INSTALL) --upgrade --upgrade-strategy eager --editable . --group vendors
	@$(PIP_INSTALL) --upgrade --no-deps instructor
	@touch $@

$(FRAMEWORKS)/.frameworks: $(VENV)/.pip $(INPUTS)
	@echo "Installing frameworks and instrumentations"
	@$(PIP_INSTALL) --upgrade --upgrade-strategy eager --editable . --group frameworks
	@touch $@

$(FRAMEWORKS_OLDER)/.frameworks-older: $(VENV)/.pip $(INPUTS)
	@echo "Installing frameworks that need older clients"
	@$(PIP_INSTALL) --upgrade --upgrade-strategy eager --editable . --group frameworks-older
	@touch $@

$(PEERS)/.peers: $(VENV)/.pip $(INPUTS)
	@echo "Installing genmeter's peers"
	@$(PIP_INSTALL) --upgrade --upgrade-strategy eager --editable . --group peers
	@touch $@

$(PEERS_LITELLM)/.peers-litellm: $(VENV)/.pip $(INPUTS)
	@echo "Installing LiteLLM with its proxy"
	@$(PIP_INSTALL) --upgrade --upgrade-strategy eager --group peers-litellm
	@touch $@

# pip does not find OpenLIT's versions together with those of the clients.
$(PEERS_OPENLIT)/.peers-openlit: $(VENV)/.pip $(INPUTS)
	@echo "Installing OpenLIT"
	@$(PIP_INSTALL) --upgrade --group peers-openlit
	@$(PIP_INSTALL) --upgrade --group peers-openlit-clients
	@$(PIP_INSTALL) litellm 'openai<3'
	@touch $@
