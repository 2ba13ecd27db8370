# `make run` and `make test` need Python 3.11 or newer and nothing else.
PYTHON ?= python3
# Most tests wait for something: three files at a time keep two cores busy. The long ones come first in the tree's order.
# A test that hangs ends its worker; the others finish theirs, for a new one in its place would wait for ever (pytest-xdist
# #1378, in 3.8).
SIDE_BY_SIDE = --numprocesses 3 --max-worker-restart 0 --dist loadfile --no-loadscope-reorder
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test lint fmt lock clean

run: .venv/run ## the service on real Codex workers; ONCE=1 exits after the first answer
	@.venv/bin/python -m deploy.quickstart $(if $(ONCE),--once)

test: .venv/dev lint ## everything CI runs
	.venv/bin/python -m pytest $(SIDE_BY_SIDE)

lint: .venv/dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

fmt: .venv/dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

lock: .venv/dev ## new lock files from pyproject.toml
	.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--extra cli --extra build pyproject.toml --output-file requirements/run.lock
	.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--extra cli --extra build --extra dev --extra loadtest --constraints requirements/run.lock --fork-strategy fewest \
		pyproject.toml --output-file requirements/dev.lock
	printf 'litellm\nmcp\n' | .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate - --output-file requirements/litellm.lock

clean:
	rm -rf .venv .run

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'Python 3.11 or newer is needed: make PYTHON=python3.11 ...'; exit 1; }
	$(PYTHON) -m venv .venv

.venv/run: .venv/bin/python requirements/run.lock pyproject.toml
	$(PIP) --require-hashes -r requirements/run.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev: .venv/run requirements/dev.lock
	$(PIP) --require-hashes -r requirements/dev.lock
	@touch $@
