# kvhorizon: `make demo` shows the main job, `make test` proves it; both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Measured traces and calibration data, where they are at hand; tests that need them skip without.
export KVHORIZON_DATA ?= $(abspath $(wildcard ../shared))
export PYTHONHASHSEED := 0

.PHONY: setup demo test lint bench proto lock clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml requirements/lock.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "kvhorizon: $(PYTHON) is older than Python 3.11; set PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements/lock.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	$(BIN)/kvhorizon what-if synthetic:mixed --gpu a100-40gb --load 1.3 --limit 600 --out out/demo

test: setup
	$(BIN)/pytest -n 2 tests

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m experiments.watermark_reference

proto: setup
	$(BIN)/python -m kvhorizon.wire.generate

lock: setup
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-annotate \
	  --custom-compile-command 'make lock' --extra dev pyproject.toml -o requirements/lock.txt

clean:
	rm -rf $(VENV) out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
