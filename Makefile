# `make` alone says what there is. Everything is installed into .venv, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UNIT := coinex-market-data.service
UNITS := $(HOME)/.config/systemd/user
# Below the home folder as systemd names it, so that the unit reads the same for everyone.
DIR := $(patsubst $(HOME)/%,\%h/%,$(CURDIR))

.PHONY: help demo run check test test-browser test-systemd chaos bench verify-unit lint install \
	uninstall clean
.DEFAULT_GOAL := help

help: ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

demo: $(VENV)/.dev ## the whole system and its pages on a simulated exchange; no network, no Redis needed
	@$(BIN)/python -m demo

run: $(VENV)/.dev ## the real service in the foreground, with a private Redis if none runs
	@$(BIN)/python market_data.py --embedded-redis

check: $(VENV)/.runtime ## are settings, Redis, the exchange and all symbols right?
	@$(BIN)/python market_data.py --check

test: lint ## ruff, mypy and all tests but the two below; real Redis, simulated exchange
	$(BIN)/python -m pytest -m "not browser and not systemd"

test-browser: $(VENV)/.dev ## the pages in a headless Chromium, which must be installed
	$(BIN)/python -m pytest -m browser

test-systemd: $(VENV)/.dev ## the unit in a real systemd, in a container that boots a Debian; needs root
	$(BIN)/python -m pytest -m systemd

chaos: $(VENV)/.dev ## minutes of faults at random, checked against the truth; SECONDS=600 SEED=1
	@$(BIN)/python -m tests.chaos $(SECONDS:%=--seconds %) $(SEED:%=--seed %)

bench: $(VENV)/$(if $(QUICK),.dev,.bench) ## figures beside other ways: docs/benchmarks.md; QUICK=1: counts alone
	@$(BIN)/python -m bench $(if $(QUICK),--quick)

lint: $(VENV)/.dev ## formatting, ruff and mypy alone
	$(BIN)/ruff format --check --quiet . || { echo 'Format it: $(BIN)/ruff format .' >&2; exit 1; }
	$(BIN)/ruff check .
	$(BIN)/mypy *.py demo consumers

verify-unit: $(VENV)/.runtime ## does systemd find anything to say about the unit?
	@dir=$$(mktemp -d) && trap "rm -r $$dir" EXIT && sed 's|@DIR@|$(CURDIR)|' $(UNIT) > $$dir/$(UNIT) && \
		said=$$(XDG_RUNTIME_DIR=$$dir systemd-analyze --user verify $$dir/$(UNIT) 2>&1) && \
		test -z "$$said" || { echo "$$said" >&2; exit 1; }

install: $(VENV)/.runtime ## install, enable and start the systemd user unit
	@mkdir -p $(UNITS)
	@sed 's|@DIR@|$(DIR)|' $(UNIT) > $(UNITS)/$(UNIT)
	@systemctl --user daemon-reload
	@systemctl --user enable --quiet $(UNIT)
	@echo "Starting; up to a minute if Redis or the exchange does not answer"
	@systemctl --user restart $(UNIT) || \
		{ systemctl --user status --no-pager --lines 0 $(UNIT); \
		journalctl --user --no-pager --lines 8 --output cat -u $(UNIT); exit 1; }
	@systemctl --user show --property=StatusText $(UNIT)
	@echo "Installed. See it with:"
	@echo "  systemctl --user status coinex-market-data"
	@echo "  journalctl --user -u coinex-market-data -f"
	@echo "  curl -s http://127.0.0.1:8895/health       (unless HEALTH_PORT is another)"
	@echo "Settings: ~/.config/coinex-market-data.env, then systemctl --user restart coinex-market-data"
	@loginctl show-user "$$(id -un)" --property=Linger 2>/dev/null | grep -q yes || \
		echo "It ends when you log out, unless you say: loginctl enable-linger"

uninstall: ## stop the unit and take it away; settings and .venv stay
	@systemctl --user disable --now $(UNIT) 2>/dev/null || true
	@rm -f $(UNITS)/$(UNIT)
	@systemctl --user daemon-reload
	@systemctl --user reset-failed $(UNIT) 2>/dev/null || true
	@echo "Uninstalled."

clean: ## remove .venv and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.txt | $(BIN)/python
	@echo "Installing what the service needs into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.bench: bench/requirements.txt $(VENV)/.dev
	@echo "Installing what the benchmark needs into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r bench/requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements.txt consumers/requirements.txt | $(BIN)/python
	@echo "Installing what demo and tests need into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/.runtime
