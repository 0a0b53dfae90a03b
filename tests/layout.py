"""The tree as a graph of imports, and its picture: `python -m tests.layout`.

Every import statement counts: lazy ones and those under TYPE_CHECKING too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cola", "orchestration", "sweeps", "analysis")


def name_of(path: Path) -> str:
    """Dotted name of a source file's module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    """Every module of the product by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            found[name_of(path)] = path
    return found


def folder_of(module: str) -> str:
    """The folder that holds a module, as a path below the root."""
    return str(modules()[module].parent.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    """Syntax tree of a source file; not kept, as those of all files are millions of objects."""
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> tuple[tuple[int, str], ...]:
    """Line and dotted name of everything that a file imports; `from a import b` gives a and a.b."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


@cache
def graph() -> dict[str, frozenset[str]]:
    """Module -> the product's modules that it imports."""
    return {
        name: frozenset(
            target for _, target in imports(path) if target in modules() and target != name
        )
        - packages_above(name)
        for name, path in modules().items()
    }


def packages_above(module: str) -> frozenset[str]:
    """The packages that a module is in: importing from a sibling names them, too."""
    parts = module.split(".")
    return frozenset(".".join(parts[:end]) for end in range(1, len(parts)))


def reached_from(module: str) -> set[str]:
    """All modules that importing this one can import in turn."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        for target in graph()[waiting.pop()] - found:
            found.add(target)
            waiting.append(target)
    return found


@cache
def folder_graph() -> dict[str, frozenset[str]]:
    """Folder -> other folders that its modules import from."""
    edges: dict[str, set[str]] = {folder_of(name): set() for name in modules()}
    for name, targets in graph().items():
        edges[folder_of(name)] |= {folder_of(target) for target in targets} - {folder_of(name)}
    return {folder: frozenset(targets) for folder, targets in edges.items()}


def files_in(folder: str) -> list[Path]:
    """Modules directly in a folder; a package's `__init__` is none."""
    found = [path for path in modules().values() if str(path.parent.relative_to(ROOT)) == folder]
    return [path for path in found if not is_init(path)]


def is_init(path: Path) -> bool:
    """Whether a file is a package's `__init__`."""
    return path.name == "__init__.py"


def lines_in(path: Path) -> int:
    """Number of lines of a file."""
    return len(path.read_text().splitlines())


def picture() -> str:
    """A Markdown table: folders with their files, lines and what they import."""
    rows = ["| folder | files | lines | largest | imports from |", "|---|---|---|---|---|"]
    for folder, targets in sorted(folder_graph().items()):
        lines = [lines_in(path) for path in files_in(folder)]
        if lines:
            named = ", ".join(sorted(targets)) or "-"
            rows.append(f"| {folder} | {len(lines)} | {sum(lines)} | {max(lines)} | {named} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(picture())
