# Every target sets up what it needs: a virtual environment in .venv with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: demo test check bench clean

demo: .venv/.installed
	$(BIN)/sscm demo $(ARGS)

# Each group has a Ray of its own: what Serve keeps running does not share it with training.
TEST_GROUPS := "tests/sscm/training" "tests/sscm tests/cluster --ignore=tests/sscm/training" "tests/e2e tests/serve"

test: .venv/.installed-dev
ifeq ($(strip $(ARGS)),)
	for group in $(TEST_GROUPS); do $(BIN)/python -m pytest $$group || exit 1; done
else
	$(BIN)/python -m pytest $(ARGS)
endif

check: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.installed-dev
	for file in benchmarks/*.py; do $(BIN)/python $$file $(ARGS) || exit 1; done

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf .venv demo .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
