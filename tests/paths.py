"""Where the data of the tests are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "tests" / "data"
# Public data sets and texts that may not be committed: files named test_public_*.py read them and
# are collected where this folder exists.
SHARED = ROOT.parent / "shared"
