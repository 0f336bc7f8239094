# Two commands on a fresh clone: `make demo` and `make test`. Each sets up what it needs in .venv.

PYTHON ?= python3
VENV ?= .venv
# PyPI's newest PyTorch brings CUDA along; any release that satisfies the `torch` extra does.
TORCH ?= torch==2.13.0
OLDEST ?= .venv-oldest
OLDEST_VERSIONS = keras==3.12.0 tensorflow==2.20.0 tensorboard==2.20.0 numpy==1.26.4
# What these need is newer than that, or is no part of the package.
OLDEST_IGNORED = $(foreach name,compaction_hub compaction_networks packaging notebooks docs selection_executors tuner,--ignore=tests/test_$(name).py)
BACKENDS ?= tensorflow jax torch
ARGS ?=
WORKERS ?= auto

RUN = $(VENV)/bin/python
PIP = $(RUN) -m pip install --quiet --disable-pip-version-check
# A worker for each processor, a file of tests as a whole to one of them.
PYTEST = $(RUN) -m pytest -n $(WORKERS) --dist loadfile
ON_DEVICE = $(addprefix tests/test_,$(addsuffix .py,ops regularizers proximal together moving operations operations_losses label_smoothing calibration layers combinations))
NO_VENV = Python's venv module is missing: install it (on Debian and Ubuntu: apt install python3-venv) and run make again.
OLD = Python 3.10 or newer is needed: run make again with PYTHON=... (for example PYTHON=python3.12).
OFFLINE = The installation failed; pip's message above says why. It needs a network that reaches a package index.

.PHONY: demo test test-all test-device test-oldest lint clean help

demo: $(VENV)/.examples  ## Train with and without penalties, reload in a new process, picture and table
	@$(RUN) examples/quickstart.py $(ARGS)

test: $(VENV)/.test  ## The whole suite on TensorFlow
	KERAS_BACKEND=tensorflow $(PYTEST) $(ARGS)

test-all: $(VENV)/.backends  ## The whole suite on TensorFlow, JAX and PyTorch, each in its own process
	set -e; for backend in $(BACKENDS); do KERAS_BACKEND=$$backend $(PYTEST) $(ARGS); done

test-oldest: $(OLDEST)/.test  ## The suite on the oldest versions that pyproject.toml allows, without what needs KerasHub
	KERAS_BACKEND=tensorflow $(OLDEST)/bin/python -m pytest -n $(WORKERS) --dist loadfile -p no:cacheprovider $(OLDEST_IGNORED) \
		-k 'not BERT-like and not ViT-like and not keras_hub and not onnx' $(ARGS)

test-device: $(VENV)/.backends  ## What depends on the device, on that which JAX and PyTorch find: laws, steps, losses, strengths
	set -e; for backend in jax torch; do KERAS_BACKEND=$$backend $(RUN) -m pytest $(ON_DEVICE) $(ARGS); done

lint: $(VENV)/.test  ## Style and formatting
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

clean:  ## Remove the virtual environment and everything generated
	rm -rf $(VENV) $(OLDEST) build dist demo_output *.egg-info .pytest_cache .ruff_cache .hypothesis

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$(OLD)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(NO_VENV)"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.examples: pyproject.toml | $(RUN)
	@echo "Installing Keras, TensorFlow and what the examples need into $(VENV): a minute or two, once."
	@$(PIP) -e '.[examples]' || { echo "$(OFFLINE)"; exit 1; }
	@touch $@

$(VENV)/.test: pyproject.toml | $(RUN)
	@echo "Installing Keras, TensorFlow and what the tests need into $(VENV): a minute or two, once."
	@$(PIP) -e '.[test]' || { echo "$(OFFLINE)"; exit 1; }
	@touch $@ $(VENV)/.examples

$(OLDEST)/.test: pyproject.toml
	@$(PYTHON) -m venv $(OLDEST)
	@$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check $(OLDEST_VERSIONS) \
		'hypothesis>=6.100' 'matplotlib>=3.8' 'pandas>=2' 'pytest>=8' 'pytest-xdist>=3.5' 'scikit-learn>=1.4' 'scipy>=1.11' 'skglm>=0.4' || { echo "$(OFFLINE)"; exit 1; }
	@$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e . || { echo "$(OFFLINE)"; exit 1; }
	@touch $@

$(VENV)/.backends: $(VENV)/.test
	@echo "Installing JAX and PyTorch into $(VENV): a minute or two, once."
	@$(PIP) '$(TORCH)' -e '.[test,all-backends]' || { echo "$(OFFLINE)"; exit 1; }
	@touch $@
