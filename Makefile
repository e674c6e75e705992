# The project's commands. Each sets up what it needs by itself: git, make, python3 with venv are enough.
PYTHON ?= python3
BIN := .venv/bin
# A developer's own virtual environment must not leak into this one's.
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH

.PHONY: help run demo test check integration benchmarks clean

help:
	@echo "make run          watch the bundled trainer as config.yaml says (Ctrl-C leaves it running)"
	@echo "make demo         half a minute's story in a folder of its own: two deaths, two recoveries"
	@echo "make test         the tests"
	@echo "make check        ruff, mypy --strict, the floors of the house"
	@echo "make integration  the real Hugging Face Trainer on the CPU (installs torch)"
	@echo "make benchmarks   measure recovery and idle cost beside other supervisors"
	@echo "make clean        remove the virtual environments and caches"

.venv/run: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m compileall -q trainguard examples
	@touch $@

.venv/dev: requirements.txt requirements-dev.txt | .venv/run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

.venv-integration/done: requirements.txt requirements-dev.txt requirements-integration.txt
	$(PYTHON) -m venv .venv-integration
	.venv-integration/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-integration.txt
	@touch $@

run: .venv/run
	$(BIN)/python daemon_watchdog.py

demo: .venv/run
	$(BIN)/python examples/demo.py

test: .venv/dev
	$(BIN)/python -m pytest -n 3 --dist loadgroup --ignore tests/integration $(PYTEST_ARGUMENTS)

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py

integration: .venv-integration/done
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 .venv-integration/bin/python -m pytest -n 2 tests/integration $(PYTEST_ARGUMENTS)

benchmarks: .venv/dev
	$(BIN)/python benchmarks/recovery.py

clean:
	rm -rf .venv .venv-integration .pytest_cache .mypy_cache .ruff_cache .hypothesis
