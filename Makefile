# Everything happens in .venv; steps that are done leave a file in .venv/done.
#
#   make setup PYTHON=python3.12                 another Python (3.10 to 3.13)
#   make setup TORCH_PIP_ARGS="--index-url URL"  another build of PyTorch
#   make setup HOROVOD_ARGS=--gpu                Horovod with NCCL
#   make test PYTEST_ARGS="tests/trainer -x"     some of the tests (-n 0: in one process)
#   make image VARIANT=gpu IMAGE=NAME            the image for GPUs; ENGINE=docker|podman
#   make locks LOCK_ARGS="--upgrade --index URL" newer versions in the image's lock files

PYTHON ?= python3
TORCH_PIP_ARGS ?=
HOROVOD_ARGS ?=
PYTEST_ARGS ?=
VARIANT ?= cpu
IMAGE ?= swell-trainer
LOCK_ARGS ?=

# Where this is set, every process of a test would compile Swell anew.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
DONE := .venv/done
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo quick test tutorial soak storm kills fuzz check lint types docs proto image test-container locks clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(DONE)/swell $(DONE)/horovod  ## install everything into .venv (minutes the first time)
	@:

demo: setup  ## train through a preemption and a lost machine, on this machine
	@$(BIN)/swell launch examples/digits.yaml --target local

# What starts no process of its own, or hardly any: state machines, files, messages, requests.
# Of that, not what takes long: SLOW begins processes, makes the site, or plays days in a run.
SLOW := $(addprefix --ignore=tests/,test_site.py benchmarks/test_crowd.py \
  benchmarks/test_simulated_run.py launcher/test_vertex_emulator.py launcher/api/test_client.py \
  launcher/supervision/test_supervisor_crashes.py launcher/supervision/test_controller_crashes.py \
  launcher/emulator/market/test_exchange.py)
PURE := tests/test_*.py tests/benchmarks tests/launcher/test_*.py \
  $(addprefix tests/launcher/,api doctor job logs packing status supervision views) \
  $(addprefix tests/launcher/emulator/,market resources) \
  $(addprefix tests/trainer/,coordinator protocol rundir)

quick: $(DONE)/swell  ## lint, types and what is pure, in a minute and a half
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy & types=$$!; \
	  $(BIN)/python -m pytest -q -n auto --dist worksteal --hypothesis-profile=quick $(PURE) $(SLOW) $(PYTEST_ARGS); \
	  tests=$$?; wait $$types && exit $$tests

# Where cores are few, two workers to each: tests of real processes wait as much as they compute.
WORKERS ?= $(shell cores=$$(nproc); echo $$((cores < 5 ? 2 * cores : cores)))

test: setup lint  ## lint, type check and all tests
	@$(BIN)/mypy & types=$$!; \
	  $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS); \
	  tests=$$?; wait $$types && exit $$tests

tutorial: setup  ## the tutorial's commands as they stand, and the example of a test of one's own
	@$(BIN)/python -m pytest -m soak tests/integration/test_pages.py $(PYTEST_ARGS)

soak: setup  ## what is marked as a soak: variants of what make test shows
	@$(BIN)/python -m pytest -m soak -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

storm: setup  ## 50 random events from a seed, printed at the start (CHAOS_SEED=N repeats them)
	@CHAOS_EVENTS=50 $(BIN)/python -m pytest -m "" tests/chaos/test_storm.py $(PYTEST_ARGS)

kills: setup  ## 30 runs whose launch, emulator or both are killed, thrice each (KILL_SEED=N repeats)
	@KILL_RUNS=30 $(BIN)/python -m pytest tests/integration/test_kills.py $(PYTEST_ARGS)

fuzz: setup  ## 100,000 inputs for all that reads from network, store or files; 1,000 trainings
	@FUZZ_EXAMPLES=180 FUZZ_VARIANTS=19 FUZZ_CASES=1000 $(BIN)/python -m pytest \
	  tests/fuzz tests/conformance/test_conformance.py --hypothesis-profile=explore $(PYTEST_ARGS)

check: lint types  ## lint and type check

lint: $(DONE)/swell  ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(DONE)/swell  ## mypy, strict
	@$(BIN)/mypy

docs: $(DONE)/swell  ## the site of the documentation, in build/docs: a warning stops it
	@$(BIN)/python -m sphinx -W --keep-going -q -c docs -d build/doctrees . build/docs
	@echo "build/docs/index.html"

proto: $(DONE)/swell  ## regenerate the Python code of trainer/protocol/swell.proto
	@$(BIN)/python -m grpc_tools.protoc --proto_path=. --python_out=. --pyi_out=. trainer/protocol/swell.proto

image:  ## build the training image with podman or docker (VARIANT=gpu, IMAGE=NAME)
	@PYTHON=$(PYTHON) TORCH_PIP_ARGS="$(TORCH_PIP_ARGS)" containers/build.sh $(VARIANT) $(IMAGE)

test-container: setup  ## as root on Debian: build the image without a registry, train on containers
	@PYTEST_ARGS="$(PYTEST_ARGS)" TORCH_PIP_ARGS="$(TORCH_PIP_ARGS)" containers/test.sh

locks: $(DONE)/swell  ## write the image's lock files (--find-links or --index of PyTorch for CPUs)
	@$(BIN)/python containers/lock.py $(LOCK_ARGS)

clean:  ## remove .venv and everything generated (the Horovod wheel stays in ~/.cache/swell)
	rm -rf .venv build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(DONE)/venv:
	@command -v $(PYTHON) >/dev/null || \
	  { echo "$(PYTHON) is missing. Install it with: apt-get install $(notdir $(PYTHON)) $(notdir $(PYTHON))-venv"; exit 2; } >&2
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "$$($(PYTHON) --version) is not supported: Swell needs Python 3.10 to 3.13 (make setup PYTHON=python3.12)"; exit 2; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) -m venv does not work. Install it with: apt-get install $(notdir $(PYTHON))-venv"; exit 2; } >&2
	@echo "Setting up .venv with $$($(PYTHON) --version)"
	@rm -rf .venv && $(PYTHON) -m venv .venv && mkdir $(DONE)
	@touch $@

# Before the long downloads: could Horovod be compiled here?
$(DONE)/torch: containers/torch.txt containers/build.txt | $(DONE)/venv
	@$(PIP) install --quiet -r containers/build.txt
	@$(BIN)/python containers/build_horovod.py --check $(HOROVOD_ARGS)
	$(PIP) install $(TORCH_PIP_ARGS) -r containers/torch.txt
	@touch $@

$(DONE)/swell: setup.cfg pyproject.toml $(DONE)/torch
	$(PIP) install -c containers/torch.txt -e '.[vertex,emulator,gcs,trainer,examples,text,frameworks,finetune,images,plots,board,wandb,mlflow,metrics,traces,dev]'
	@touch $@

# The folder, too: its time changes when a patch goes.
$(DONE)/horovod: containers/build_horovod.py containers/compiling.py containers/patching.py \
  containers/patches $(wildcard containers/patches/*.patch) $(DONE)/torch
	@$(BIN)/python containers/build_horovod.py --install $(HOROVOD_ARGS)
	@touch $@
