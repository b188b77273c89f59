# Verbs of the repository. `make train` and `make test` need Python 3.11 or newer and nothing else:
# they build .venv themselves.

PYTHON ?= python3
VENV   := .venv
READY  := $(VENV)/.installed

# Small networks on shared cores: more threads per process make training slower.
export OMP_NUM_THREADS      := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS      := 1

.DEFAULT_GOAL := help
.PHONY: help train test test-system check deploy-check bench bench-gpu bundle clean

help: ## say what each verb does
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1 - \2/'

train: $(READY) ## train the policy
	$(VENV)/bin/rlkv train

test: $(READY) ## run the tests
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal -m "not system"

test-system: $(READY) ## run the tests of a whole deployment under faults, in processes of its own
	$(VENV)/bin/python -m pytest -m system

check: $(READY) ## check format, lint and types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

deploy-check: $(READY) ## lint what deploys the sidecar, with the linters that are there
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" deploy/check.sh

bench: $(READY) ## run every benchmark
	$(VENV)/bin/rlkv bench all

bench-gpu: $(READY) ## measure the kernels on a GPU
	$(VENV)/bin/rlkv bench gpu

bundle: $(READY) ## build the universal bundle again, from seed 0
	$(VENV)/bin/rlkv bundle build --out runs/universal
	cp runs/universal/bundle/* agents/rlkv_agents/universal_bundle/

clean: ## remove caches and build output; keeps runs/ and .venv (minutes to install again)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .cache
	find . -path ./$(VENV) -prune -o -path ./runs -prune -o \
	  -type d \( -name __pycache__ -o -name '*.egg-info' \) -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or \
	  sys.exit("rlkv needs Python 3.11 or newer, this is %d.%d: make PYTHON=python3.x" % sys.version_info[:2])'
	@echo "installing into $(VENV): a few minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
