# One way in: `make quickstart` and `make test` set everything up themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet -c constraints.txt

.PHONY: quickstart test check docs prose bench gpu wheels crash corrupt fuzz clean

quickstart: $(VENV)/.installed
	$(BIN)/flyweight quickstart

# One process of tests for each core, with one thread each; a file's tests stay together.
test: check docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

check: $(VENV)/.tools
	$(BIN)/ruff format --check src tests benchmarks examples tools
	$(BIN)/ruff check src tests benchmarks examples tools
	$(BIN)/pyright
	$(BIN)/lint-imports

# The documentation site, in build/site; a dead link is an error.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/site

# Sentences over 35 words, messages over 200 characters.
prose:
	$(PYTHON) tools/prose.py

# Figures: long-form CSV in results/, tables in docs/. Run it on an idle machine (an hour and a half on two cores).
bench: $(VENV)/.tools
	$(BIN)/python benchmarks/run_all.py

# Everything that wants a GPU: tests, speed and memory tables. Uses the Python that is there, with its own torch.
gpu:
	bash benchmarks/gpu.sh

# Wheels that a GPU machine without an index lacks (Python 3.12, Linux).
wheels: $(VENV)/bin/python
	$(BIN)/python -m pip download --quiet -d wheels -c constraints.txt --only-binary=:all: --python-version 3.12 --no-deps \
	  pydantic pydantic-core annotated-types typing-inspection typing-extensions typer click shellingham rich markdown-it-py mdurl \
	  Pygments matplotlib contourpy cycler fonttools kiwisolver pyparsing python-dateutil pillow filelock psutil tokenizers \
	  safetensors pytest iniconfig pluggy hypothesis sortedcontainers allpairspy PyYAML Jinja2 MarkupSafe annotated-doc setuptools

# A hundred SIGKILLs each of a small recipe and of a small fine-tuning, and twenty of the quickstart: same weights, same
# figures, nothing lost or made twice.
crash: $(VENV)/.tools
	$(BIN)/python benchmarks/crash.py --kills 100
	$(BIN)/python benchmarks/crash.py --recipe finetune --kills 100
	$(BIN)/python benchmarks/crash.py --recipe quickstart --kills 20 --round 20

# Every kind of damage to every file of a run: each is found and named.
corrupt: $(VENV)/.tools
	$(BIN)/python benchmarks/corrupt.py

# Ten thousand malformed inputs: a message each, never a traceback, a hang or a write outside the runs root.
fuzz: $(VENV)/.tools
	$(BIN)/python benchmarks/fuzz.py --inputs 10000

clean:
	rm -rf $(VENV) build *.egg-info src/*.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e .
	touch $@

$(VENV)/.tools: $(VENV)/.installed
	$(PIP) -e '.[test]'
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(PIP) -e '.[docs]'
	touch $@
