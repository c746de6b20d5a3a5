# Two commands are enough: `make run` and `make test`. Each makes .venv on first use.
# PYTHON=python3.12 (or 3.12) chooses the Python that makes .venv; venv.sh finds one otherwise, of
# Python 3.11 to 3.14.
PYTHON ?=
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help run test test-lowest test-newest check docs results faults fuzz slurm gpu install clean

help:
	@echo "make run    train Mamba on English for two minutes (installs first, if needed)"
	@echo "make test   run the tests (installs first, if needed)"
	@echo "make test-lowest, make test-newest  the tests with the oldest and the newest versions (needs uv)"
	@echo "make check  linter and type checker"
	@echo "make docs   build the documentation into site/ (open site/index.html)"
	@echo "make results  fill the figures of README.md and docs/ in from the records in experiments/"
	@echo "make faults inject faults into runs and check every promise of docs/reliability.md: SEED=, ARGS="
	@echo "make fuzz   feed odd settings and damaged files to every verb: SEED=, ARGS="
	@echo "make slurm  sweeps and jobs on a SLURM of one node (as root; needs SLURM's packages): ARGS="
	@echo "make gpu    nine minutes on a GPU with the Python that is here: correctness, scan, training step,"
	@echo "            decoding, then experiments while time is left: SECONDS=, OUT=, ARGS="

run: install
	$(BIN)/python -m mambalab train experiment=quickstart

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Environments of their own, by uv: docs/environments.md says what was tried. PYTHON=3.12, PRE=1
# (pre-releases, too), ARGS= for pytest.
test-lowest: WITH = $(or $(PYTHON),3.11)
test-lowest: HOW = --upgrade --resolution lowest-direct
test-newest: WITH = $(or $(PYTHON),3.14)
test-newest: HOW = --upgrade $(if $(PRE),--prerelease allow)
test-lowest test-newest: test-%:
	@command -v uv >/dev/null || \
	  { echo "mambalab: make $@ needs uv: install it (pip install uv), then make again"; exit 1; }
	uv venv --allow-existing --python $(WITH) $(VENV)-$*
	uv pip install --python $(VENV)-$*/bin/python $(HOW) --editable '.[dev,wandb,tensorboard]'
	$(VENV)-$*/bin/python -m pytest -n 2 --dist loadfile $(ARGS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)-docs/.installed
	$(VENV)-docs/bin/mkdocs build --strict

# A figure of a page is what its record says; a test fails otherwise.
results: install
	$(BIN)/python -m docs.results $(ARGS)

# Repeat with SEED=, choose with ARGS="--kind 'disk full: small tmpfs' --tries 5".
faults: install
	$(BIN)/python -m tests.faults $(if $(SEED),--seed $(SEED)) $(ARGS)

fuzz: install
	$(BIN)/python -m tests.faults.fuzz $(if $(SEED),--seed $(SEED)) $(ARGS)

slurm: install
	$(BIN)/python -m tests.slurm $(ARGS)

# With the Python of a machine that has torch and triton but perhaps no network: what else is needed
# is taken from wheels/ if that is there, and mamba_ssm's kernels are compiled from MAMBA_SSM_SOURCE.
gpu: OUT ?= outputs/gpu
gpu: SECONDS ?= 540
gpu: HERE = $(or $(PYTHON),python3)
gpu:
	@if [ -d wheels ]; then $(HERE) -m pip install --quiet --no-index --find-links wheels wheels/*.whl; fi
	@$(HERE) -m tests.gpu --out $(OUT) --seconds $(SECONDS) $(ARGS)

install: $(VENV)/.installed
	@sh venv.sh --check "$(VENV)" "$(PYTHON)"

$(VENV)/.installed: pyproject.toml
	@sh venv.sh $(VENV) "$(PYTHON)"
	$(BIN)/python -m pip install --editable '.[dev]'
	@touch $@

# An environment of its own: small, and nothing changes below a run that is training.
$(VENV)-docs/.installed: pyproject.toml
	@sh venv.sh $(VENV)-docs "$(PYTHON)"
	$(VENV)-docs/bin/python -m pip install $$($(VENV)-docs/bin/python -c 'import tomllib; \
	  print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-docs $(VENV)-lowest $(VENV)-newest site
