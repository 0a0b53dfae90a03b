"""The examples of the pages: README.md and those of docs/."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from tests.paths import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`(cola [^`]+)`")


def blocks(page: Path, language: str) -> list[str]:
    """Texts of a page's fenced blocks in this language."""
    return [text for kind, text in BLOCK.findall(page.read_text()) if kind == language]


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every `cola` command of a page's shell blocks; what may be given, in brackets in
    the page, is given."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"\s&&\s", line):
                words = [word.strip("[]") for word in shlex.split(part, comments=True)]
                if words[:1] == ["cola"]:
                    yield words[1:]


def mentioned(page: Path) -> Iterator[str]:
    """Commands that sentences name, maybe without the arguments that they need."""
    text = BLOCK.sub("", page.read_text())
    yield from (" ".join(found.split()) for found in INLINE.findall(text))
