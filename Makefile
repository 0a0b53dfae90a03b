PYTHON ?= python3
VENV := .venv
COLA := $(VENV)/bin/cola
READY := $(VENV)/.ready
# Processes that share the tests: two begin with the longest, then whoever is idle takes from the
# others. Three on two cores, for the longest tests wait for Ray much of the time.
WORKERS ?= 3
PIP := $(VENV)/bin/python -m pip
# Bytecode is kept whatever the machine says: hundreds of processes load the same modules.
PYTEST := PYTHONDONTWRITEBYTECODE= $(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: demo test test-drill test-cluster test-quick gpu-check check docs lock clean

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

# A real Slurm of two nodes on this machine, and beside it the image in a fresh Debian: root, and
# Debian's slurm-wlm, munge, iproute2 and debootstrap. What is missing is left out, with the reason.
test-cluster: $(READY)
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile -m cluster tests/cluster

# What a GPU alone can show, in at most eight minutes; results in $OUT (outputs/gpu-check). Without a
# GPU, a rehearsal of it.
gpu-check: $(READY)
	tests/gpu/check

test-quick: $(READY)
	$(PYTEST) -m "not slow and not drill and not cluster"

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The pages that are written from the code.
docs: $(READY)
	$(COLA) schema --markdown --to docs/configuration.md

# The environment is made once and made again when what it is made from changes. pip checks every
# file against the hashes of constraints.txt; first come pip and the build back end themselves, as
# the pip of older Pythons takes no hashes from constraints and builds would fetch their own. Then
# torch's CPU build, where pip finds it: of files with the right hashes, pip would else take the one
# whose hash the index names, which a folder of wheels does not. Without it comes the index's
# build, with CUDA's libraries.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	awk '/^[^ ]/ {on = /^(pip|setuptools)==/} on' constraints.txt > $(VENV)/build.txt
	$(PIP) install --quiet --require-hashes --requirement $(VENV)/build.txt
	awk '/^# torch-/ {split($$2, name, "-"); hashes = hashes " --hash=" $$3} \
		END {print "torch==" name[2] hashes}' constraints.txt > $(VENV)/torch.txt
	$(PIP) install --quiet --no-deps --require-hashes --requirement $(VENV)/torch.txt \
		2> $(VENV)/torch.log || echo "torch: no CPU build with a known hash" \
		"($(VENV)/torch.log); the package index's build is installed"
	PYTHONWARNINGS=ignore $(PIP) install --quiet --no-deps --no-build-isolation --editable .
	$(PIP) install --quiet --require-hashes --no-build-isolation --constraint constraints.txt \
		"cola-scaling[dev]"
	touch $(READY)

# Renew constraints.txt; LOCK=--upgrade for the newest versions that pyproject.toml allows.
lock:
	.ci/lock $(LOCK)

clean:
	rm -rf $(VENV) outputs
