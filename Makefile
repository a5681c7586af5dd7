# The two commands of the README are `make demo` and `make test`; each sets up what it needs, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
QUICKSTART ?= examples/quickstart.yaml
DEMO := results/$(notdir $(basename $(QUICKSTART)))

.PHONY: demo test check interruptions clean

demo: $(VENV)/.run
	$(BIN)/energyaware run $(QUICKSTART)
	$(BIN)/energyaware report $(DEMO) -o $(DEMO).html

test: $(VENV)/.dev check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not end_to_end" --numprocesses auto --maxprocesses 8 --dist worksteal
	$(BIN)/python -m pytest -m "end_to_end and not all_interruptions"

# Kills a run at every point, and writes down what became of it. Takes about an hour.
interruptions: $(VENV)/.dev
	ENERGYAWARE_INTERRUPTIONS_PAGE=docs/interruptions.md OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest tests/end_to_end/test_interruptions.py tests/end_to_end/test_soak.py

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# An environment is made again only when what it holds has changed. Constraints are the versions that tests ran with; without
# them pip looks for ones that go together for longer than the tests take.
$(VENV)/.run: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[run,report]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(VENV)/.run $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
