# `make demo` and `make test` set up everything they need in .venv; repeating the set-up takes seconds.
PYTHON ?= python3
BIN := .venv/bin
HOST := .venv/.host
TRAIN := .venv/.train
DEV := .venv/.dev
DOCS := .venv/.docs
EVAL := .venv/.eval
MOTO := .venv/.moto
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-fast lint bench soak gpu docs docs-serve lock schema reference clean

# The training libraries are installed here only if the demo cannot train in a container.
demo: $(HOST)
	@if [ "$$($(BIN)/python -m dimba.commands.demo)" = process ]; then $(MAKE) --no-print-directory $(TRAIN); fi
	@$(BIN)/dimba demo

test: test-fast
	$(BIN)/pytest -n auto --dist worksteal -m "proof and not engine and not slurm"
	$(BIN)/pytest -m "engine or slurm"

test-fast: lint $(TRAIN) $(EVAL) $(MOTO)
	$(BIN)/pytest -n auto --dist worksteal -m "not engine and not proof and not slurm"

lint: $(DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache > .venv/imports.txt || { cat .venv/imports.txt; exit 1; }
	@tail -n 2 .venv/imports.txt

# Long-running checks; CONTRIBUTING.md names the place of their results.
soak: $(DEV) $(TRAIN) $(MOTO)
	PYTHONPATH=. $(BIN)/python scripts/soak/learning.py
	PYTHONPATH=. OMP_NUM_THREADS=1 $(BIN)/python scripts/soak/masked_dpo.py
	PYTHONPATH=. OMP_NUM_THREADS=1 $(BIN)/python scripts/soak/masked_grpo.py
	PYTHONPATH=. OMP_NUM_THREADS=1 $(BIN)/python scripts/soak/masked_toy.py
	PYTHONPATH=. $(BIN)/python scripts/soak/kills.py
	PYTHONPATH=. $(BIN)/python scripts/soak/store.py
	PYTHONPATH=. $(BIN)/python scripts/soak/launches.py
	PYTHONPATH=. $(BIN)/python scripts/soak/specs.py
	PYTHONPATH=. $(BIN)/python scripts/soak/families.py

# What only a GPU can answer; GPU="--device cpu --tiny" rehearses it. It uses PYTHON, without a network.
gpu:
	$(PYTHON) scripts/gpu/accept.py $(GPU)

bench: $(DEV) $(TRAIN)
	$(BIN)/python scripts/bench/launcher.py
	PYTHONPATH=. $(BIN)/python scripts/bench/wizard.py
	PYTHONPATH=. $(BIN)/python scripts/bench/data.py
	PYTHONPATH=. $(BIN)/python scripts/bench/packing.py
	PYTHONPATH=. $(BIN)/python scripts/bench/train.py
	PYTHONPATH=. $(BIN)/python scripts/bench/first_step.py
	PYTHONPATH=. $(BIN)/python scripts/bench/growth.py
	PYTHONPATH=. $(BIN)/python scripts/bench/grpo.py
	PYTHONPATH=. $(BIN)/python scripts/bench/records.py
	PYTHONPATH=. $(BIN)/python scripts/bench/report.py
	PYTHONPATH=. $(BIN)/python scripts/bench/stopping.py
	PYTHONPATH=. $(BIN)/python scripts/bench/queues.py
	PYTHONPATH=. $(BIN)/python scripts/bench/sweep.py
	PYTHONPATH=. $(BIN)/python scripts/bench/memory.py
	PYTHONPATH=. OMP_NUM_THREADS=1 $(BIN)/python scripts/bench/dimba_model.py
	PYTHONPATH=. $(BIN)/python scripts/bench/talk.py
	PYTHONPATH=. $(BIN)/python scripts/bench/eval.py

# The documentation as a site, in site/; any broken link fails.
docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

$(HOST): pyproject.toml constraints-dev.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "setting up .venv" >&2
	@$(PIP) -c constraints-dev.txt -e .
	@touch $@

$(TRAIN): $(HOST) docker/requirements.txt docker/constraints.txt
	@echo "installing the training libraries (torch, transformers, …): takes some minutes the first time" >&2
	@$(PIP) -c docker/constraints.txt -r docker/requirements.txt
	@touch $@

$(EVAL): $(TRAIN) docker/eval/requirements.txt docker/eval/constraints.txt
	@$(PIP) -c docker/eval/constraints.txt -r docker/eval/requirements.txt
	@touch $@

$(DEV): $(HOST)
	@$(PIP) -c constraints-dev.txt -e '.[dev]'
	@touch $@

$(DOCS): $(HOST)
	@$(PIP) -c constraints-dev.txt -e '.[docs]'
	@touch $@

# The S3 server of the tests, whose packages exclude those that train.
$(MOTO): $(HOST) tests/moto.txt
	@$(PYTHON) -m venv .venv/moto
	@.venv/moto/bin/python -m pip install --quiet --disable-pip-version-check -r tests/moto.txt
	@touch $@

# Updates the pinned versions of the image, then those of the launcher and its tests.
lock: $(HOST)
	$(PIP) uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
	  --upgrade docker/requirements.txt -o docker/constraints.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
	  --upgrade docker/requirements-vllm.txt -o docker/constraints-vllm.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
	  --upgrade docker/eval/requirements.txt -c docker/constraints.txt -o docker/eval/constraints.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
	  --upgrade pyproject.toml --extra dev --extra docs -c docker/constraints.txt \
	  -c docker/eval/constraints.txt -o constraints-dev.txt

schema: $(HOST)
	$(BIN)/dimba schema > jobs/job.schema.json

# docs/reference/, from the code.
reference: $(HOST)
	$(BIN)/python scripts/docs/reference.py

clean:
	rm -rf .venv demo site
