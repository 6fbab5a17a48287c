# kvhorizon: `make demo` shows the main job, `make test` proves it; both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Measured traces and calibration data, where they are at hand; tests that need them skip without.
export KVHORIZON_DATA ?= $(abspath $(wildcard ../shared))
export PYTHONHASHSEED := 0

ENGINE := .venv-engine
NOW_WITHOUT = kvhorizon: vLLM could not be installed here: the tests against the real engine are SKIPPED

.PHONY: setup engine demo test test-product test-engine lint bench experiments docs proto lock sbom audit clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml requirements/lock.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "kvhorizon: $(PYTHON) is older than Python 3.11; set PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements/lock.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	$(BIN)/kvhorizon what-if synthetic:mixed --gpu a100-40gb --load 1.3 --limit 1500 --forecast noisy:0.6 --out out/demo

test: test-product test-engine

test-product: setup
	$(BIN)/pytest -n 2 --dist loadfile tests --ignore tests/engine

# The real engine pins versions of its own, so it lives in an environment of its own.
engine: $(ENGINE)/.ready

$(ENGINE)/.ready: pyproject.toml requirements/engine.txt
	$(PYTHON) -m venv $(ENGINE)
	$(ENGINE)/bin/pip install --quiet --disable-pip-version-check 'torch==2.13.0+cpu'
	$(ENGINE)/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements/engine.txt
	$(ENGINE)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

test-engine:
	@if $(MAKE) --no-print-directory engine; then $(ENGINE)/bin/pytest tests/engine; \
	elif [ "$(REQUIRE_ENGINE)" = 1 ]; then echo "kvhorizon: vLLM could not be installed, and REQUIRE_ENGINE=1" >&2; exit 1; \
	else printf '\n%s\n\n' "!!! $(NOW_WITHOUT)" >&2; fi

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m experiments.watermark_reference

# Hours; with QUICK=1 smoke runs for a quarter of an hour that keep nothing, and no vLLM is installed for them.
experiments: setup
	@$(if $(QUICK),test -e $(ENGINE)/.ready,$(MAKE) --no-print-directory engine) \
	  || printf '\n%s\n\n' "!!! kvhorizon: vLLM is not installed: experiments on the real engine are SKIPPED" >&2
	$(BIN)/python -m experiments $(if $(QUICK),--quick) --engine-python $(ENGINE)/bin/python

docs: setup
	$(BIN)/mkdocs build --quiet --strict
	@echo "wrote out/site/index.html"

proto: setup
	$(BIN)/python -m kvhorizon.wire.generate

lock: setup
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-annotate \
	  --custom-compile-command 'make lock' --extra dev pyproject.toml -o requirements/lock.txt

sbom: setup
	$(BIN)/pip install --quiet --disable-pip-version-check cyclonedx-bom
	@mkdir -p out
	$(BIN)/cyclonedx-py requirements requirements/lock.txt --pyproject pyproject.toml --output-format JSON --output-file out/sbom.json
	@echo "wrote out/sbom.json"

# Asks the index's advisories about every pinned package.
audit: setup
	$(BIN)/pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/pip-audit --no-deps --disable-pip --requirement requirements/lock.txt

clean:
	rm -rf $(VENV) $(ENGINE) out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
