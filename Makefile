# Two commands: `make figure-1` and `make test`. uv is fetched into .uv/ where it is missing.
# `make test-all` is every test, `make docs` builds the documentation into build/site, `make matrix` the quick ones on every Python and with the oldest and newest packages.

UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
RUN := $(UV) run --quiet
# As many test processes as cores, at most four; a file's tests, which share clusters and sweeps, stay in one process.
PROCESSES := -n auto --maxprocesses 4 --dist loadfile
PYTEST := $(RUN) pytest $(PROCESSES)

.PHONY: figure-1 test test-all matrix lint types docs check environment clean

figure-1: environment
	$(RUN) sweeps/eps_budget.py

test: environment
	$(PYTEST) -m "not slow"

test-all: environment
	$(PYTEST) --durations=20

matrix: $(UV)
	UV=$(UV) tests/matrix.sh $(PROCESSES) -m "not slow"

lint: environment
	$(RUN) ruff check .
	$(RUN) ruff format --check .

types: environment
	$(RUN) mypy

# Strictly: a link or anchor that leads nowhere is an error.
docs: environment
	NO_MKDOCS_2_WARNING=1 $(RUN) --group docs mkdocs build --quiet

check: lint types test

environment: $(UV)
	@$(UV) sync --quiet

.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/pip install --quiet --disable-pip-version-check "uv>=0.9"

clean:
	rm -rf .venv .uv
