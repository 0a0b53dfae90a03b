"""Text on a terminal: sentences that break at words, and a clock while something loads."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

LEAST_WIDTH = 20  # of lines, in columns: below it words stand one to a line; a chosen value


def say(screen: Console, text: str, style: str | None = None) -> None:
    """Print a sentence as it is written, broken at words where the screen is a terminal."""
    screen.print(
        sentence(text, screen), style=style, highlight=False, markup=False, emoji=False,
        soft_wrap=True,
    )  # fmt: skip


def sentence(text: str, screen: Console) -> str:
    """The text, broken at words where the screen is a terminal; elsewhere it is one line."""
    return wrapped(text, screen.width) if screen.is_terminal else text


def wrapped(text: str, width: int) -> str:
    """The text with no line longer than `width` columns but of one longer word: a path that breaks
    could not be copied."""
    broken = (
        textwrap.wrap(
            line, max(width, LEAST_WIDTH), break_long_words=False, break_on_hyphens=False,
            replace_whitespace=False,
        )
        for line in text.split("\n")
    )  # fmt: skip
    return "\n".join("\n".join(lines) for lines in broken)


@contextmanager
def waiting(text: str) -> Iterator[Callable[[str], None]]:
    """Show on stderr, if it is a terminal, what is waited for and since when; it is gone after the
    block, which may say by the function that it gets what is next."""
    if not sys.stderr.isatty():
        yield lambda following: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(text, total=None)
        yield lambda following: progress.update(task, description=following)
