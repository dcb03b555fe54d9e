# Each target sets up what it needs in .venv, and again only after pyproject.toml or constraints.txt changed.

PYTHON = $(shell for python in python3.11 python3 python3.12 python3.13; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
OUT :=
# More arguments for the program behind `train` or `test`.
ARGS :=

.PHONY: help train test newest lint types clean

help:
	@echo 'make train  train CartPole-v1 with PPO; results in runs/, or in OUT=DIR'
	@echo 'make test   run the tests'
	@echo 'make newest run the tests with the newest versions that resolve today, in .venv-newest'
	@echo 'make lint   ruff, linter and formatter'
	@echo 'make types  pyright'
	@echo 'make clean  remove .venv and caches; results stay'
	@echo 'ARGS="..." is passed on, as in: make train ARGS="--seed 1", make test ARGS="-m slow"'

train: $(VENV)/train.stamp
	$(VENV)/bin/jaxtrain train experiments/cartpole_ppo.yaml $(if $(OUT),--out $(OUT)) $(ARGS)

test: $(VENV)/dev.stamp
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile $(ARGS)

# Pins nothing, so it is no part of CI: what it finds is for the next constraints.
newest:
	$(PYTHON) -m venv --clear $(VENV)-newest
	$(VENV)-newest/bin/python -m pip install -qq --no-compile --upgrade -e '.[dev]'
	$(VENV)-newest/bin/python -m pip list
	$(VENV)-newest/bin/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(VENV)/dev.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/dev.stamp
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

clean:
	rm -rf $(VENV) $(VENV)-newest .pytest_cache .ruff_cache .hypothesis

# Byte code is left out here, which halves the time from a clone to the first update.
$(VENV)/train.stamp: pyproject.toml constraints.txt
	@test -n '$(PYTHON)' || { echo 'needs Python 3.11 or newer: make PYTHON=/path/to/python' >&2; exit 2; }
	@echo 'Installing jaxtrain in $(VENV) ...'
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install -qq --no-compile -c constraints.txt -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/train.stamp
	@echo 'Installing the development tools in $(VENV) ...'
	@$(VENV)/bin/python -m pip install -qq --no-compile -c constraints.txt -e '.[dev]'
	@$(VENV)/bin/python -m compileall -qq -j 0 $(VENV)/lib
	@touch $@
