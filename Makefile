# make demo    sets everything up and runs the main job on MovieLens-100K
# make test    sets everything up and passes the tests (make test-all adds the slow ones)
PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= -c constraints.txt
BIN    := $(VENV)/bin
# Two busy OpenMP processes spin each other to a crawl; passive waiting costs nothing measurable.
export OMP_WAIT_POLICY = PASSIVE

.PHONY: install demo test test-all lint docs bench clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "lmrs needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) -e '.[language,test,lint]'
	touch $@

demo: install
	$(BIN)/lmrs demo

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m 'not slow'

test-all: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	$(BIN)/python -m docs.generate

bench: install
	$(BIN)/python -m benchmarks $(if $(DATA),--data-root $(DATA))

clean:
	rm -rf $(VENV) build runs .pytest_cache .ruff_cache .mypy_cache .hypothesis
