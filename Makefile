# `make` alone says what there is. Everything is installed into .venv, once, and no more than the
# command needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UNITS := coinex-market-data.service coinex-consumer@.service coinex.target
ANY_PYTHON = $(or $(wildcard $(BIN)/python),$(PYTHON))
# The settings of the installed service, once it has a file of them; those of the shell until then.
OF_SERVICE := $(addprefix --env-file ,$(wildcard $(HOME)/.config/coinex-market-data.env))
# Tests wait more than they work, so more of them run at a time than there are cores.
JOBS ?= 6
PYTEST := $(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal

.PHONY: help demo run check settings test test-all test-systemd chaos bench screenshots lint \
	verify-unit install install-all upgrade rollback status uninstall lock clean
.DEFAULT_GOAL := help

help: ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

demo: $(VENV)/.demo ## the whole system and its pages on a simulated exchange; no network, no Redis needed
	@$(BIN)/python -m demo

run: $(VENV)/.demo ## the real service in the foreground, with a private Redis if none runs
	@$(BIN)/python market_data.py --embedded-redis

check: $(VENV)/.runtime ## are settings, Redis, the exchange and all symbols right?
	@$(BIN)/python market_data.py --check $(OF_SERVICE)

settings: $(VENV)/.runtime ## the settings in force, and where each is from
	@$(BIN)/python market_data.py --settings $(OF_SERVICE)

test: lint ## formatting, ruff, mypy and all tests but the slow ones: 3 minutes
	$(PYTEST) -m "not slow"

test-all: lint $(VENV)/.clients $(VENV)/.browser ## all but test-systemd: slow tests, real clients, the pages in Chromium, chaos, counts
	HYPOTHESIS_PROFILE=deep $(PYTEST) tests/unit tests/service tests/demo tests/chaos tests/clients
	$(PYTEST) --numprocesses 3 tests/browser
	$(BIN)/python -m tests.chaos --seconds 90 --seed 1
	$(BIN)/python -m bench --quick

test-systemd: $(VENV)/.test ## the unit in a real systemd, in a container that boots a Debian; needs root
	$(BIN)/python -m pytest tests/systemd

chaos: $(VENV)/.test ## minutes of faults at random, checked against the truth; SECONDS=600 SEED=1
	@$(BIN)/python -m tests.chaos $(SECONDS:%=--seconds %) $(SEED:%=--seed %)

bench: $(VENV)/.bench ## figures beside other ways: docs/benchmarks.md; QUICK=1: counts alone
	@$(BIN)/python -m bench $(if $(QUICK),--quick)

screenshots: $(VENV)/.demo $(VENV)/.browser ## the pictures of README.md, from a demo: up to 15 minutes
	@$(BIN)/python -m demo.screenshots

lint: $(VENV)/.test ## formatting, ruff and mypy alone
	@$(BIN)/ruff format --check --quiet . || \
		{ echo "Not as the formatter has it; mend it with: $(BIN)/ruff format ." >&2; exit 1; }
	$(BIN)/ruff check .
	$(BIN)/mypy

verify-unit: $(VENV)/.runtime ## does systemd find anything to say about the units?
	@dir=$$(mktemp -d) && trap "rm -r $$dir" EXIT && cp $(UNITS) $$dir && cd $$dir && \
		sed -i 's#@DIR@\|@RELEASE@#$(CURDIR)#' $(UNITS) && \
		said=$$(XDG_RUNTIME_DIR=$$dir systemd-analyze --user verify $(UNITS:@.service=@dashboard.service) 2>&1) && \
		test -z "$$said" || { echo "$$said" >&2; exit 1; }

install: $(VENV)/.runtime ## install, enable and start the service as a systemd user unit
	@$(BIN)/python install.py install

install-all: $(VENV)/.runtime ## the same with dashboard, TA service and paper trader
	@$(BIN)/python install.py install-all

upgrade: $(VENV)/.runtime ## after a git pull: check the new code and run it; go back if it does not work
	@$(BIN)/python install.py upgrade

rollback: $(VENV)/.runtime ## go back to the release that ran before
	@$(BIN)/python install.py rollback

status: ## each installed unit, its health and its address
	@$(ANY_PYTHON) install.py status

uninstall: ## stop all units and take them away; settings, .venv, .releases and Redis stay
	@$(ANY_PYTHON) install.py uninstall

clean: ## remove .venv, .releases and caches
	rm -rf $(VENV) .releases .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# One set of packages each, in $(VENV), and a file that says that it is there. Each is installed from a
# lock: the versions and hashes of all that the requirements.txt beside it needs.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
INSTALL_LOCKED = $(INSTALL) --require-hashes -r

$(VENV)/.runtime: requirements.lock | $(BIN)/python
	@echo "Installing what the service needs into $(VENV), once: a few seconds"
	@$(INSTALL_LOCKED) $<
	@touch $@

$(VENV)/.demo: demo/requirements.lock | $(BIN)/python
	@echo "Installing what runs here into $(VENV), once: 150 MB, about 15 s and the download"
	@$(INSTALL_LOCKED) $<
	@touch $@ $(VENV)/.runtime

$(VENV)/.test: tests/requirements.lock | $(BIN)/python
	@echo "Installing what the tests need into $(VENV), once: 270 MB, about 30 s and the download"
	@$(INSTALL_LOCKED) $<
	@touch $@ $(VENV)/.runtime $(VENV)/.demo

$(VENV)/.clients: tests/clients/requirements.lock | $(BIN)/python
	@echo "Installing the real clients into $(VENV), once: 130 MB, about 15 s and the download"
	@$(INSTALL_LOCKED) $<
	@touch $@

$(VENV)/.browser: tests/browser/requirements.lock | $(BIN)/python
	@echo "Installing the browser's driver into $(VENV), once: 170 MB, about 10 s and the download"
	@$(INSTALL_LOCKED) $<
	@touch $@

$(VENV)/.bench: bench/requirements.lock | $(BIN)/python
	@echo "Installing what the benchmark needs into $(VENV), once: about 30 s and the download"
	@$(INSTALL_LOCKED) $<
	@touch $@ $(VENV)/.runtime $(VENV)/.demo $(VENV)/.clients

# All sets share $(VENV), so each lock is constrained to the versions that suit them all.
REQUIREMENTS := $(wildcard requirements.txt */requirements.txt tests/*/requirements.txt)
LOCK = $(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 \
	--generate-hashes --no-annotate --custom-compile-command "make lock"

lock: | $(BIN)/python ## renew the locks: the newest of all that the requirements do not pin
	@$(INSTALL) uv==0.13.9
	@all=$$(mktemp) && trap "rm $$all" EXIT && $(LOCK) $(REQUIREMENTS) > $$all && \
		for each in $(REQUIREMENTS); do \
			$(LOCK) --constraint $$all --output-file $${each%.txt}.lock $$each || exit 1; \
		done
