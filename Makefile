# The commands of this project. CI runs these and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SHELL := bash
# The steps and DVC's child find `python` and `snakemake` of the environment.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help env lock report results serve quick test test-slow test-cpus lint format dag smoke preset bench doctor experiments clean-store schema docs

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

env: $(VENV)/ready  ## Create .venv with the pinned packages

$(VENV)/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is too old: Python 3.11 or newer is needed (make PYTHON=python3.12 …)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable ".[dev]"
	@touch $@

# The hashes need uv (pip install uv), because pip can only list those of files that it has downloaded.
# uv also names what other systems need, such as torch's CUDA packages on Linux.
lock: env  ## Write the installed versions into requirements.lock, and their hashes beside it
	@command -v uv > /dev/null \
	  || { echo "make lock: uv is not installed; it writes requirements.hashes.txt; pip install uv" >&2; exit 2; }
	@{ echo "# The exact versions this project is tested with, for pip's --constraint. Written by: make lock"; \
	  $(BIN)/python -m pip freeze --exclude-editable --exclude glmtune | sed 's/+cpu$$//'; } > requirements.lock
	uv pip compile --quiet --no-config --universal --generate-hashes --no-annotate --python-version 3.11 \
	  --custom-compile-command "make lock" requirements.lock --output-file requirements.hashes.txt

report: env  ## Run everything and write results/report.md
	snakemake --cores 1 results/report.md
	@echo
	@echo "The report:        results/report.md (for a browser: results/report.html)"
	@echo "Activate:          source $(VENV)/bin/activate"
	@echo "Keep this state:   git add -A && git commit -m 'First results'"
	@echo "Try a parameter:   dvc exp run -S lr=1e-2"
	@echo "Old -> new:        dvc metrics diff    (compares with the last git commit)"

# Flags of `glmtune serve` go into FLAGS: make serve FLAGS="--port 9000".
serve: env  ## Serve the results: an OpenAI-compatible API and a page that compares (FLAGS="…")
	@$(BIN)/python -c "import fastapi, uvicorn" 2> /dev/null \
	  || $(BIN)/python -m pip install --quiet --constraint requirements.lock --editable ".[serve]"
	$(BIN)/glmtune serve $(FLAGS)

results: env  ## Put the scores of the last default run into the READMEs
	python tools/default_results.py --record results

# pytest prints wall time; `time` adds CPU time: user and sys.
quick: env  ## Run the tests that need no torch: texts, files, parameters
	time pytest -n auto --ignore tests/models -m "not slow and not workflow"

test: env  ## Run all tests except the slow ones
	time pytest -n auto -m "not slow"

test-slow: env  ## Run the slow tests: whole runs of both engines, kills, fuzzing (minutes)
	time pytest -n auto -m slow

test-cpus: env  ## Run the numeric tests with the kernels of older CPUs (minutes)
	python tools/run_numeric_tests.py -n auto

lint: env  ## Check style, types and the workflow
	cmp params.yaml presets/default.yaml
	ruff check
	ruff format --check
	mypy
	snakefmt --check Snakefile
	codespell
	python tools/lint_workflow.py
	python tools/draw_dag.py --check
	python tools/params_schema.py --check
	python tools/params_reference.py --check
	python tools/default_results.py --check
	python tools/word_list.py

format: env  ## Format the code
	ruff check --fix
	ruff format
	snakefmt Snakefile

dag: env  ## Draw the picture of the steps in the READMEs
	python tools/draw_dag.py

schema: env  ## Write the schema of params.yaml for editors, and the pages docs/**/params.md
	python tools/params_schema.py
	python tools/params_reference.py

# Its own environment: requirements.lock decides what reruns, and the site's packages must not be in it.
docs: .venv-docs/ready  ## Build docs/ as a site and check its links: site/index.html
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict
	@echo "The site:          site/index.html"

.venv-docs/ready: pyproject.toml
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet $$($(PYTHON) -c 'import tomllib; print(*tomllib.load( \
	  open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	@touch $@

smoke: env  ## Run the whole workflow with tiny settings, about a minute, in .glmtune/smoke
	python tools/run_smoke.py .glmtune/smoke

preset:  ## Merge a file of presets/ into the default params.yaml: make preset NAME=chatglm2-6b-24gb
	@$(PYTHON) tools/use_preset.py "$(NAME)" $(if $(filter-out 0,$(FORCE)),--force)

bench: env  ## Benchmark training, generation and serving against the official scripts (minutes)
	python tools/bench.py --out results/benchmarks.json
	@if test -d results/checkpoints; then python tools/bench_serving.py; \
	  else echo "serving is not measured: it needs results (make report, make serve)"; fi

doctor: env  ## Check what a run needs on this machine, and how to fix what is missing
	python tools/doctor.py

experiments: env  ## Compare experiments: parameters and scores that differ
	dvc exp show --only-changed --no-pager --hide-workspace --keep 'bleu-4|rouge-l' \
	  --drop 'Snakefile|requirements.lock|workflow$$|rouge-[12]|recall|distinct|loss|general'

clean-store:  ## Delete stored results (recomputed when needed): all, or [KEEP=20GB] [AGE=30d]
	@$(PYTHON) tools/clean_store.py $(if $(KEEP),--keep "$(KEEP)") $(if $(AGE),--age "$(AGE)")
