"""Commands typed one after the other in one interpreter, whose start takes longer than most do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.paths import ROOT

TYPED = """
import contextlib, json, sys, tempfile
from sweeps.cli import main

results = []
for words in json.load(sys.stdin):
    sys.argv, code = ["cola", *words], 0
    with tempfile.TemporaryFile("w+") as said:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                main()
            except SystemExit as left:
                code = left.code or 0
        said.seek(0)
        results.append([code, said.read()])
print("\\n" + json.dumps(results))
"""


class Typed(NamedTuple):
    """What a command said, on stdout and stderr, and the code that it ended with."""

    code: int
    said: str


def typed(commands: Sequence[Sequence[str]], path: Path, *, seconds: float = 400) -> list[Typed]:
    """What `cola` commands say in an interpreter of their own that has `path` on its path."""
    process = subprocess.run(
        [sys.executable, "-c", TYPED],
        input=json.dumps([list(words) for words in commands]),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{path}", "COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert process.returncode == 0, process.stderr
    return [Typed(*result) for result in json.loads(process.stdout.splitlines()[-1])]
