# `make figure-1` and `make test` need only Python, make and git. uv is installed into .uv/ if it is missing.

UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
RUN := $(UV) run --quiet

.PHONY: figure-1 test lint types check environment clean

figure-1: environment
	$(RUN) sweeps/eps_budget.py

test: environment
	$(RUN) pytest

lint: environment
	$(RUN) ruff check .
	$(RUN) ruff format --check .

types: environment
	$(RUN) mypy

check: lint types test

environment: $(UV)
	@$(UV) sync --quiet

.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/pip install --quiet --disable-pip-version-check "uv>=0.9"

clean:
	rm -rf .venv .uv
