# Few targets; each makes .venv when it is missing, from requirements.lock.
PYTHON ?= python3
BIN := .venv/bin
TORCH := torch==2.13.0

.PHONY: demo test chaos paper-grid check lock demo-models

demo: .venv/ready
	$(BIN)/qstudy demo

test: .venv/ready
	$(BIN)/python -m pytest

# The paper's grid to its end, then studies under random blows against workers, nodes and drivers, each compared with an
# undisturbed one.
chaos: paper-grid
	$(BIN)/python -m tests.orchestrator.chaos --minutes $(or $(MINUTES),60) --seed $(or $(SEED),1)

# The whole grid of the paper with the demo's models, four items a task, without the hub: some minutes.
paper-grid: .venv/ready
	$(BIN)/python -m tests.orchestrator.paper_with_tiny_models

check: .venv/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Trains the demo's models again, about an hour on two cores.
demo-models: .venv/ready
	MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TRIM_THRESHOLD_=1000000000 \
		$(BIN)/python -m grids.demo.train --out grids/demo/models --work .demo-models

# torch is left out of the lock: the same command takes its CPU build where only that is at hand, else its CUDA build.
lock: .venv/ready
	$(BIN)/pip install --quiet uv
	$(BIN)/uv lock --upgrade
	$(BIN)/uv export --frozen --format requirements-txt --no-emit-project --no-header --no-annotate \
		--extra test --prune torch -o requirements.lock

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "qstudy needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@
