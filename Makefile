# Everything runs in .venv, which is made on the first call and again when what it holds changes.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
TORCH := $(shell grep '^torch==' constraints.txt)
# One thread in each of two workers; bytecode is kept, since the tests start many processes.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

.PHONY: help demo quick test check bench clean

help:
	@echo "make demo    the two stages of a small data set and of a network of it, as reports"
	@echo "make quick   the tests that take seconds"
	@echo "make test    the checks and every test"
	@echo "make check   style, types and floors, without running anything"
	@echo "make bench   the budgets, measured on this machine"
	@echo "make clean   remove what the others left, but for .venv"

demo: $(READY)
	@$(BIN)/floracle stages digits --out demo
	@$(BIN)/floracle loss digits-pico --data digits --pairs 32 --trajectories 4 --out demo/network
	@echo "The reports: $(CURDIR)/demo/report.html, and of a network $(CURDIR)/demo/network/loss.html"

quick: $(READY)
	$(PYTEST) -m "not slow and not gpu"

test: check
	$(PYTEST)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(READY)
	@set -e; for file in benchmarks/[a-z]*.py; do echo "$$file"; $(BIN)/python "$$file"; done

clean:
	rm -rf build dist demo .benchmarks .hypothesis .import_linter_cache .pytest_cache .ruff_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first and by its exact version, so that nothing else chooses a build of it.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "floracle needs Python 3.11")'
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)" -c constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
