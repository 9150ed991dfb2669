# make quickstart   train both families on real images on the CPU, and draw what their scans saw
# make test         set up if needed, then run the tests
# make setup        .venv with the pinned packages and the compiled library;  make setup EXTRAS=train  with fewer packages
# make docs         the documentation site, in site/;  make docs-serve  shows it while you write
# make lint         ruff, clang-format, mypy, import contracts;  make format  applies the first two
# make wheel        a wheel for PyPI, in dist/, with the library for the GPUs that setup.py names
# make clean        remove everything that make made

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml $(shell find csrc -type f -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
CLANG_FORMAT_FILES = $(shell git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' 'csrc/*.cuh')

# What is installed and compiled. `all` is every package of requirements/lock.txt, and the CUDA sources wherever a CUDA
# toolkit is found. `train` is what classification needs, and what this machine can run: the CUDA sources only where
# there is a GPU, or with FORCE_CUDA=1. An environment that has `all` is not made smaller.
EXTRAS ?= all
SET = $(if $(wildcard $(VENV)/.installed-all),all,$(EXTRAS))
WITHOUT_CUDA = $(if $(FORCE_CUDA)$(wildcard /dev/nvidia[0-9]* /dev/dxg),,NO_CUDA=1)

# Threads that wait for each other soon sleep, or training crawls beside other work (docs/troubleshooting.md).
ifndef OMP_WAIT_POLICY
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT ?= 1000
endif

.PHONY: setup quickstart test docs docs-serve lint format wheel clean

quickstart:
	@$(MAKE) --no-print-directory setup EXTRAS=train
	$(BIN)/tree-ssm quickstart --work-dir work_dirs/quickstart

test: setup
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

ifeq ($(filter $(EXTRAS),all train),)
$(error EXTRAS is all or train, not $(EXTRAS))
endif

setup: $(VENV)/.built-$(SET)

$(VENV)/.installed-all: requirements/lock.txt
	@PYTHON='$(PYTHON)' dev/install.sh $(VENV) requirements/lock.txt --all
	@touch $@

$(VENV)/.installed-train: requirements/train.txt
	@PYTHON='$(PYTHON)' dev/install.sh $(VENV) requirements/train.txt
	@touch $@

# Built again when a source changes. MAX_JOBS, NO_CUDA, FORCE_CUDA and TORCH_CUDA_ARCH_LIST are passed on (see setup.py).
$(VENV)/.built-all: $(VENV)/.installed-all $(SOURCES)
	@dev/build.sh $(VENV)
	@touch $@

$(VENV)/.built-train: $(VENV)/.installed-train $(SOURCES)
	@$(WITHOUT_CUDA) dev/build.sh $(VENV)
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

wheel: setup
	@dev/wheel.sh $(VENV) dist

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CLANG_FORMAT_FILES)

clean:
	rm -rf $(VENV) build dist site work_dirs *.egg-info .mypy_cache .import_linter_cache ssm_core/_C*.so
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
