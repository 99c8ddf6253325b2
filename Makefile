# One command each, from a fresh clone: `make help`.
SHELL := /bin/sh
.DEFAULT_GOAL := help

PROFILE ?= smoke
DATASET ?= synthetic
ARGS ?=
# `make install TORCH=cpu` takes PyTorch's CPU build, where uv can get it; by default what PyPI has.
TORCH ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
COPIES := $(patsubst %,my_%,$(wildcard notebooks/*.ipynb))
SUITABLE := import sys, ssl; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))
PINS := uv pip compile pyproject.toml --extra test --universal --fork-strategy fewest --python-version 3.11 \
	--generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet \
	--output-file requirements.txt

# One thread for each of two processes: four threads on two cores would wait for one another.
SUITE := -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --ignore tests/browser

.PHONY: help reproduce test coverage test-browser figures docs lab lint clean pins install

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 22

reproduce: $(STAMP)  ## run all notebooks: PROFILE=smoke|desk|paper DATASET=synthetic|crohme (smoke: 4 min on 2 cores)
	@echo "Notebooks 00 to 07, two at a time, PROFILE=$(PROFILE) DATASET=$(DATASET)."
	@$(BIN)/python -m scripts.reproduce --at-once 2 -p profile $(PROFILE) -p dataset $(DATASET) $(ARGS)

test: $(STAMP)  ## all tests, notebooks too (about 8 min on 2 cores); ARGS="-m 'not slow'" leaves out the long ones
	@OMP_NUM_THREADS=1 $(BIN)/python $(SUITE) $(ARGS)

coverage: $(STAMP)  ## the tests' branch coverage of mmlib, at least 90 % (about 15 min on 2 cores)
	@rm -f .coverage .coverage.*
	@OMP_NUM_THREADS=1 $(BIN)/python -m coverage run $(SUITE) $(ARGS)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report --skip-covered

test-browser: $(STAMP)  ## every notebook in JupyterLab in a real browser (needs Chromium; about 10 min on 2 cores)
	@$(BIN)/python -m pytest tests/browser $(ARGS)

figures: $(STAMP)  ## redraw figures and tables from the committed results alone (2 min)
	@$(BIN)/python -m scripts.figures $(ARGS)

docs: $(STAMP)  ## README, docs, executed notebooks, API and the page that reads, offline in site/ (needs npm; 1 to 4 min)
	@$(BIN)/python -m scripts.site $(ARGS)

lab: $(STAMP) $(COPIES)  ## open copies of the notebooks, in my_notebooks/, in JupyterLab: git stays clean
	@$(BIN)/jupyter lab $(ARGS) my_notebooks

my_notebooks/%.ipynb: notebooks/%.ipynb  # newer than your copy: that is kept under another name
	@mkdir -p my_notebooks; [ ! -e $@ ] || mv $@ my_notebooks/$*.before.ipynb; cp $< $@

lint: $(STAMP)  ## Ruff over everything, mypy over the package, and the order of the rooms (1 min)
	@$(BIN)/ruff check . $(ARGS)
	@$(BIN)/python -m mypy
	@$(BIN)/python -m pytest -q tests/test_layers.py

install: $(STAMP)  ## only make the environment, .venv (some minutes, some 6 GB on Linux; TORCH=cpu: 3.5 GB less, needs uv)

pins:  ## resolve requirements.txt anew from pyproject.toml, with hashes (needs uv)
	@$(PINS)

clean:  ## remove the environment, caches and executed copies; results and data stay
	@rm -rf $(VENV) build dist site *.egg-info .coverage .coverage.* .pytest_cache .ruff_cache .mypy_cache .hypothesis results/executed
	@find mmlib scripts tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

# With uv where it is found and works, else with pip. Candidates for Python are run, not only looked up: a version
# manager's shim may be there without its Python.
$(STAMP): requirements.txt pyproject.toml
	@python=; for candidate in "$(PYTHON)" python3 python3.13 python3.12 python3.11 python3.14 python; do \
		if [ -n "$$candidate" ] && "$$candidate" -c '$(SUITABLE)' 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	[ -n "$$python" ] || python=$$(uv python find '>=3.11,<3.15' 2>/dev/null); \
	if [ -z "$$python" ]; then \
		echo "Python 3.11, 3.12, 3.13 or 3.14 is needed, and none that works was found." >&2; \
		echo "Install one, or name it: make $(firstword $(MAKECMDGOALS)) PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	echo "Installing into $(VENV), with $$($$python --version): some minutes, some 6 GB on Linux."; \
	export UV_HTTP_TIMEOUT="$${UV_HTTP_TIMEOUT:-300}"; \
	has_python() { $(BIN)/python -c '$(SUITABLE)' 2>/dev/null; }; \
	pins() { uv pip install --compile-bytecode --python $(BIN)/python "$$@"; }; \
	cpu_pins() { \
		sed -E '/^(cuda-|nvidia-|torch==|torchvision==|triton==)/,/[^\\]$$/d' requirements.txt >$(VENV)/cpu.txt \
		&& pins --torch-backend cpu -r $(VENV)/cpu.txt $$(sed -nE 's/^(torch(vision)?==[^ ]+).*/\1/p' requirements.txt) \
		|| { echo "PyTorch's CPU build could not be had; installing the default." >&2; false; }; \
	}; \
	with_uv() { \
		command -v uv >/dev/null && uv --version >/dev/null 2>&1 \
		&& { has_python || uv venv --quiet --clear --python "$$python" $(VENV); } \
		&& { { [ "$(TORCH)" = cpu ] && cpu_pins; } || pins -r requirements.txt; } \
		&& uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation -e .; \
	}; \
	with_pip() { \
		{ has_python || "$$python" -m venv --clear $(VENV); } \
		&& { $(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip --upgrade; } \
		&& $(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt \
		&& $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .; \
	}; \
	with_uv || with_pip || { echo "The environment could not be made: see the messages above." >&2; exit 1; }
	@touch $@
