# `make demo` and `make test` are the two commands; each installs what it needs into .venv, once.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
DEMO ?= demo
WORKERS ?= 2
BENCH ?= bench.json
GPU_RESULTS ?= gpu.json

# A run imports torch in about ten processes. Without compiled modules on disk, each of them compiles thousands of files.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install demo test bench docs check fast gpu clean

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into .venv (a few GB, some minutes the first time) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; run make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@$(BIN)/python -m uv pip install --quiet --python $(BIN)/python -c constraints.txt -e ".[dev]"
	@touch $@

install: $(INSTALLED)  ## into .venv, and nothing else; the other targets do it, too

demo: $(INSTALLED)  ## mini-world shard -> corpus -> table of scores
	@$(BIN)/python -m jobs.demo $(DEMO)

test: check  ## everything CI runs; workers of one thread each, so that they do not compete for cores
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder

fast: $(INSTALLED)  ## the tests that need no Ray
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder -m "not slow"

bench: $(INSTALLED)  ## ours against what people would use instead; docs/benchmarks.md
	@$(BIN)/python -m tests.bench --out $(BENCH)

docs: $(INSTALLED)  ## the documentation as a site that opens from the disk: build/site/index.html
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

check: $(INSTALLED)  ## lint, formatting, types, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/mypy

gpu: $(INSTALLED)  ## what needs a GPU: the tests marked `gpu`, and the GPU rows of the benchmark into $(GPU_RESULTS)
	@$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "There is no GPU: torch sees no CUDA device, so that nothing was tested or measured. Compare nvidia-smi and torch.version.cuda.")'
	@$(BIN)/python -m pytest -m gpu --junitxml=$(basename $(GPU_RESULTS))-tests.xml
	@$(BIN)/python -m tests.bench --gpu --out $(GPU_RESULTS)

clean:  ## removes what make made
	rm -rf .venv $(DEMO) build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
