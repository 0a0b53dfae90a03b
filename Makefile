PYTHON ?= python3
VENV := .venv
COLA := $(VENV)/bin/cola
READY := $(VENV)/.ready
# Processes that share the tests: two begin with the longest, then whoever is idle takes from the
# others. Three on two cores, for the longest tests wait for Ray much of the time.
WORKERS ?= 3
PYTEST := $(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: demo test test-drill test-cluster test-quick check docs clean

# Train three families at several budgets, fit their scaling curves, write the report.
demo: $(READY)
	$(COLA) run demo
	$(COLA) report demo

# Every check and every test.
test: check
	$(PYTEST) -m "not drill and not cluster"

# Faults injected into a real study, alone on the machine for about eight minutes.
test-drill: $(READY)
	$(VENV)/bin/python -m pytest -m drill

# A real Slurm of two nodes on this machine, and the image in a fresh Debian: root, and Debian's
# slurm-wlm, munge, iproute2 and debootstrap. What is missing is left out, with the reason.
test-cluster: $(READY)
	$(VENV)/bin/python -m pytest -m cluster tests/cluster

test-quick: $(READY)
	$(PYTEST) -m "not slow and not drill and not cluster"

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The pages that are written from the code.
docs: $(READY)
	$(COLA) schema --markdown --to docs/configuration.md

# The environment is made once and made again when what it is made from changes.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) outputs
