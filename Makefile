# Needs make, bash and Python 3.10-3.12 with its venv module, or uv instead of Python. The rest is fetched from the
# Python package index into .tools/ and .venv/.
SHELL := bash
UV := $(or $(shell command -v uv),.tools/bin/uv)
PYTHON := .venv/bin/python
RUN := $(PYTHON) experiments/run.py
MKDOCS := NO_MKDOCS_2_WARNING=true .venv/bin/mkdocs build --strict -f docs/mkdocs.yml
# One lock holds versions for every supported Python and platform; indexes stay the machine's own business.
COMPILE = pip compile -q --universal --generate-hashes --no-emit-index-url --no-annotate \
    --custom-compile-command "make lock" $(UPGRADE) pyproject.toml
# Engines that pin what the rest does not, each with an environment and a Python of its own.
ENGINES := spu flower
PYTHON_FOR_spu := >=3.10,<3.12
PYTHON_FOR_flower := >=3.11,<3.13

.PHONY: help run test test-engines test-spu test-flower test-slow deployments docs lock clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

run: .venv/run.stamp  ## run the main experiment at a quick size: five methods on Adult, three seeds
	@$(RUN) --config adult_flaim.yaml --set seeds=3 --set calibration=paper

test: .venv/dev.stamp  ## lint, types, tests and a small experiment
	$(UV) pip check --python $(PYTHON)
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/pytest -n auto -m "not slow"
	NOTEBOOKS=false $(MKDOCS) -q --site-dir ../build/checked-site
	out=$$(mktemp -d) && trap 'rm -r "$$out"' EXIT && $(RUN) --config smoke.yaml --out "$$out"
	@$(MAKE) --no-print-directory test-engines

test-engines: .venv/dev.stamp  ## tests that run on SPU and on Flower, where these can be installed; ENGINES= leaves them out
	@for engine in $(ENGINES); do \
	    echo "$$engine, in an environment of its own: .venv-$$engine"; \
	    if why=$$($(MAKE) -s .venv-$$engine/stamp 2>&1); \
	    then $(MAKE) --no-print-directory test-$$engine || exit; \
	    else echo "skipped, for it cannot be installed here: $$why"; fi; \
	done

test-spu: .venv/dev.stamp .venv-spu/stamp
	MARGINAL_SDG_SPU_PYTHON=$(CURDIR)/.venv-spu/bin/python .venv/bin/pytest -n auto -m slow tests/unit/test_spu.py

test-flower: .venv-flower/stamp
	.venv-flower/bin/pytest -n auto -m "not slow" $(wildcard tests/unit/test_flower*.py)

test-slow: .venv/dev.stamp  ## the tests that `make test` leaves out
	MARGINAL_SDG_SPU_PYTHON=$(wildcard $(CURDIR)/.venv-spu/bin/python) .venv/bin/pytest -n auto -m slow
	@[ ! -e .venv-flower/stamp ] || .venv-flower/bin/pytest -n auto -m slow $(wildcard tests/unit/test_flower*.py)

deployments: .venv/dev.stamp .venv-spu/stamp .venv-flower/stamp  ## bring up every mode in processes, Adult to a table
	$(PYTHON) experiments/deployments.py --spu-python $(CURDIR)/.venv-spu/bin/python \
	    --flower-python $(CURDIR)/.venv-flower/bin/python --out build/deployments

docs: .venv/dev.stamp  ## build the documentation in build/site, notebooks with their outputs
	$(MKDOCS)

lock: | $(UV)  ## resolve the dependencies anew (UPGRADE=--upgrade: to the newest versions)
	$(UV) $(COMPILE) --python-version 3.10 --extra dev -o requirements/dev.lock
	$(UV) $(COMPILE) --python-version 3.10 --extra experiments -c requirements/dev.lock -o requirements/run.lock
	$(UV) $(COMPILE) --python-version 3.10 --extra spu -o requirements/spu.lock
	$(UV) $(COMPILE) --python-version 3.11 --extra flower --extra tests -o requirements/flower.lock

clean:  ## remove what this file made, but no results
	rm -rf .tools .venv .venv-* .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks build dist

# The same versions everywhere: first the locked dependencies, then this checkout.
.venv/%.stamp: requirements/%.lock pyproject.toml | .venv
	@echo "installing requirements/$*.lock into .venv"
	@$(UV) pip install --python $(PYTHON) --require-hashes -r $<
	@$(UV) pip install -q --python $(PYTHON) --no-deps -e .
	@touch $@

.venv-%/stamp: requirements/%.lock pyproject.toml | $(UV)
	@$(UV) venv -q --clear --no-python-downloads --python "$(PYTHON_FOR_$*)" .venv-$*
	@$(UV) pip install -q --python .venv-$* --require-hashes -r $<
	@$(UV) pip install -q --python .venv-$* --no-deps -e .
	@touch $@

# .python-version (or $UV_PYTHON) names the Python; without $UV_PYTHON another supported one stands in for it
# where it can be neither found nor fetched.
.venv: | $(UV)
	@$(UV) venv -q $@ 2>/dev/null || { \
	    $(UV) venv -q --no-python-downloads --python "$${UV_PYTHON:->=3.10,<3.13}" $@ && \
	    echo "no Python $$(<.python-version) here, going on with $$($(PYTHON) -V)"; }

.tools/bin/uv:
	@for python in python3 python3.12 python3.11 python3.10 /usr/bin/python3; do \
	    $$python -m venv --clear .tools &>/dev/null && break; \
	done || { echo "make: install uv, or Python with its venv module (Debian: python3-venv)" >&2; exit 1; }
	@echo "no uv on PATH: installing it into .tools"
	@.tools/bin/python -m pip install -q --disable-pip-version-check 'uv>=0.9,<1'
