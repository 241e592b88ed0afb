PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/demo.py
WORKDIR ?= out/demo
# More flags for every stage of the demo, such as ARGS=--config.train.seeds=0,1
ARGS ?=
FUZZ_SECS ?= 60

BIN := $(VENV)/bin
# Compiled once here: where no bytecode can be written, every start would compile TensorFlow again.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --compile
# uv installs four times faster than pip; where it cannot reach the packages as pip is set up to, pip does it.
UV := $(BIN)/uv pip install --quiet --native-tls --compile-bytecode --python $(BIN)/python

.PHONY: help demo smoke test test-all coverage fuzz lint clean

help:  ## Show what make can do
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(not (3, 11) <= v[:2] <= (3, 13))' \
		|| { echo "error: $(PYTHON) is not Python 3.11 to 3.13; name one with make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)

comma := ,

define install
@$(PIP) --constraint constraints.txt uv
@$(UV) --constraint constraints.txt --editable '$(1)' || $(PIP) --constraint constraints.txt --editable '$(1)'
endef

$(VENV)/demo.installed: setup.py constraints.txt | $(VENV)/bin/python
	@echo "installing (3 GB, half a minute to two) .."
	@date +%s > $(VENV)/install.begin
	$(call install,.[demo])
	@$(BIN)/python -c "import time; from pipelines import progress; \
		progress.write_note('$(WORKDIR)', 'install', time.time() - $$(cat $(VENV)/install.begin))"
	@touch $@

$(VENV)/dev.installed: $(VENV)/demo.installed
	$(call install,.[demo$(comma)dev])
	@touch $@

demo: $(VENV)/demo.installed  ## Run the main job on real images: corpus, embed, index, neighbours, train, report
	@$(BIN)/web-memory run --config=$(CONFIG) --config.workdir=$(WORKDIR) $(ARGS)

smoke: $(VENV)/demo.installed  ## Run the whole line on 200 images, in a minute
	@$(BIN)/web-memory run --config=configs/smoke.py $(ARGS)

lint: $(VENV)/dev.installed  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint  ## Check style, types and run the tests that take seconds
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile -m "not slow"

test-all: lint  ## Check style, types and run every test, those that kill, use many processes or train long, too
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile

coverage: $(VENV)/dev.installed  ## Measure which lines of the packages the fast tests run
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile -m "not slow" --cov --cov-report=term

fuzz: $(VENV)/dev.installed  ## Read bytes that nobody wrote, each case for FUZZ_SECS seconds
	FUZZ_SECS=$(FUZZ_SECS) $(BIN)/python -m pytest tests/pipelines/sources/fuzz*_test.py

clean:  ## Remove the environment and all outputs; downloads stay in ~/.cache/web-memory
	rm -rf $(VENV) out build *.egg-info .mypy_cache .ruff_cache .pytest_cache .coverage*
