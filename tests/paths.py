"""Where the data and the programs of the tests are."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "tests" / "data"
# The product's command, in a process of its own.
COLA = [sys.executable, "-c", "from sweeps.cli import main; main()"]
# Tests that take long by their processor time.
LONG_TESTS = ROOT / "tests" / "long_tests.txt"
# Public data sets and texts that may not be committed.
SHARED = ROOT.parent / "shared"
# Programs of the newest PostgreSQL, as Debian lays them out; None where there is none.
POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


def left_out() -> dict[str, str]:
    """Patterns of the test files that are not collected on this machine, with the reason."""
    found = {}
    if not SHARED.exists():
        found["*/test_public_*.py"] = f"no public data sets at {SHARED}"
    if POSTGRES is None:
        found["*/test_postgres.py"] = "no PostgreSQL in /usr/lib/postgresql"
    elif importlib.util.find_spec("psycopg2") is None:
        found["*/test_postgres.py"] = "psycopg2 is not installed"
    return found
