# make quickstart   train both families on real images on the CPU, and draw what their scans saw
# make test         set up if needed, then run the tests
# make setup        .venv with the pinned packages and the compiled library
# make docs         the documentation site, in site/;  make docs-serve  shows it while you write
# make lint         ruff, clang-format, mypy, import contracts;  make format  applies the first two
# make clean        remove everything that make made

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml $(shell find csrc -type f -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
CLANG_FORMAT_FILES = $(shell git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' 'csrc/*.cuh')

# Threads that wait for each other sleep, or tests and training crawl beside other work (docs/troubleshooting.md).
export OMP_WAIT_POLICY ?= passive

.PHONY: setup quickstart test docs docs-serve lint format clean

quickstart: setup
	$(BIN)/python tools/quickstart.py --work-dir work_dirs/quickstart

test: setup
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

setup: $(VENV)/.built

$(VENV)/.installed: requirements/lock.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo 'Python 3.10 or newer is needed; name one with: make PYTHON=python3.12'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/lock.txt
	@touch $@

# Built again when a source changes. MAX_JOBS, NO_CUDA, FORCE_CUDA and TORCH_CUDA_ARCH_LIST are passed on (see setup.py).
$(VENV)/.built: $(VENV)/.installed $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

docs: setup
	$(BIN)/python -m mkdocs build --strict

docs-serve: setup
	$(BIN)/python -m mkdocs serve

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CLANG_FORMAT_FILES)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CLANG_FORMAT_FILES)

clean:
	rm -rf $(VENV) build site work_dirs *.egg-info .mypy_cache .import_linter_cache ssm_core/_C*.so
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
