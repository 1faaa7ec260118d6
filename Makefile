# Every target sets up what it needs: a virtual environment in .venv with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: demo test check bench docs clean

demo: .venv/.installed
	$(BIN)/sscm demo $(ARGS)

# Tests that use no Ray run beside those that do, and are shown at the end; after them, once more, the end of what failed.
# Of the others each group has a Ray of its own: what Serve keeps running does not share it with training.
RAY_GROUPS := "tests/sscm/training" "tests/sscm --ignore=tests/sscm/training" "tests --ignore=tests/sscm"

test: .venv/.installed-dev
ifeq ($(strip $(ARGS)),)
	@logs=$$(mktemp -d); code=0; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not ray" > $$logs/beside 2>&1 & beside=$$!; \
	trap 'kill $$beside; rm -rf $$logs; exit 130' INT TERM; \
	for group in $(RAY_GROUPS); do \
		{ $(BIN)/python -m pytest -m ray $$group 2>&1; echo $$? > $$logs/code; } | tee $$logs/ray; \
		[ "$$(cat $$logs/code)" = 0 ] || { code=1; break; }; \
	done; \
	wait $$beside || code=1; cat $$logs/beside; \
	[ "$$(cat $$logs/code)" = 0 ] || { echo "failed: pytest -m ray $$group"; tail -n 20 $$logs/ray; }; \
	rm -rf $$logs; exit $$code
else
	$(BIN)/python -m pytest $(ARGS)
endif

check: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.installed-dev
	for file in benchmarks/*.py; do $(BIN)/python $$file $(ARGS) || exit 1; done

docs: .venv/.installed-docs
	$(BIN)/zensical build --clean --strict

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/.installed-docs: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf .venv demo .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
