"""docs/model.md and the code that cites it agree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODEL = (ROOT / "docs" / "model.md").read_text()
PACKAGES = ("cola", "orchestration", "sweeps", "analysis", "tests")

CITATION = re.compile(r"model\.md,\s+Eqs?\.\s+(\d+(?:(?:,|\s+and|\s+to)\s+\d+)*)")
# Modules whose content is an equation of the document, or follows from some.
EQUATION_FOLDERS = ("cola/objectives", "cola/likelihood")
EQUATION_FILES = (
    "cola/models/adaln.py",
    "cola/models/dit.py",
    "cola/models/flex.py",
    "cola/models/masks.py",
    "cola/models/text_vae.py",
    "cola/models/transformer.py",
    "cola/sampling/autoregressive.py",
    "cola/sampling/block_continuation.py",
    "cola/sampling/block_decode.py",
    "cola/sampling/first_block.py",
    "cola/sampling/iterative_unmasking.py",
    "cola/sampling/ode.py",
)
# It prepares batches and implements no equation.
WITHOUT_EQUATION = {"cola/likelihood/padded_pairs.py"}


def numbers(cited: str) -> set[int]:
    """Those of "7", "4 and 5", "16, 17" or "4 to 9"."""
    found = {int(number) for number in re.findall(r"\d+", cited)}
    for first, last in re.findall(r"(\d+)\s+to\s+(\d+)", cited):
        found |= set(range(int(first), int(last) + 1))
    return found


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def citations(path: Path) -> set[int]:
    text = re.sub(r"\n\s*(#\s*)?", " ", path.read_text())  # citations may break across lines
    return set().union(*(numbers(cited) for cited in CITATION.findall(text)))


def equations() -> list[int]:
    return [int(number) for number in re.findall(r"^\*\*\((\d+)\)\*\* ", MODEL, re.MULTILINE)]


def equation_modules() -> list[str]:
    in_folders = [
        str(path.relative_to(ROOT))
        for folder in EQUATION_FOLDERS
        for path in sorted((ROOT / folder).glob("*.py"))
        if path.name != "__init__.py"
    ]
    return [name for name in (*in_folders, *EQUATION_FILES) if name not in WITHOUT_EQUATION]


def test_equations_are_numbered_consecutively() -> None:
    assert equations() == list(range(1, len(equations()) + 1))


def test_every_cited_equation_exists() -> None:
    found = {path: citations(path) - set(equations()) for path in sources()}
    assert {str(path): missing for path, missing in found.items() if missing} == {}


def test_every_equation_is_cited_by_code() -> None:
    cited = {
        number
        for path in sources()
        if path.relative_to(ROOT).parts[0] != "tests"
        for number in citations(path)
    }
    assert set(equations()) - cited == set()


@pytest.mark.parametrize("name", equation_modules())
def test_a_module_of_equations_cites_them(name: str) -> None:
    assert citations(ROOT / name), f"{name} cites no equation of docs/model.md"


def test_sections_and_equations_are_those_of_a_named_source() -> None:
    """A bare "section 3" or "Eq. 2" leaves the reader to guess the document."""
    reference = re.compile(r"\b[Ss]ections?\s+\d|\bEqs?\.\s+\d")
    source = re.compile(r"arXiv \d{4}\.\d{5}|et al\., \d{4}|model\.md")
    found = []
    for path in sources():
        lines = path.read_text().splitlines()
        for before, line in zip(["", *lines], lines, strict=False):
            named = path == Path(__file__) or source.search(f"{before} {line}")
            if reference.search(line) and not named:
                found.append(f"{path.relative_to(ROOT)}: {line.strip()}")
    assert found == []


def symbol_rows() -> list[tuple[str, str]]:
    """The names and the places of the symbol table."""
    table = MODEL.split("## Symbols")[1].split("\n## ")[0]
    rows = [
        line.strip("| \n").split(" | ") for line in table.splitlines() if line.startswith("| $")
    ]
    return [(row[-2], row[-1]) for row in rows]


def test_names_of_the_symbol_table_are_where_it_says() -> None:
    rows = symbol_rows()
    assert len(rows) > 10
    for names, places in rows:
        files = re.findall(r"`(cola/[\w/]+\.py)`", places)
        searched = [ROOT / file for file in files] or sorted((ROOT / "cola").rglob("*.py"))
        text = "\n".join(path.read_text() for path in searched)
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"\b{name}\b", text), f"{name} is not in {places}"


def test_paths_in_the_document_exist() -> None:
    paths = re.findall(r"`((?:cola|tests|orchestration|analysis|sweeps)/[\w/.]+)`", MODEL)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TREE = re.compile(r"`((?:cola|orchestration|sweeps|analysis|tests|docs|\.ci)/[\w./-]*)`")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_and_links_of_a_page_exist(page: Path) -> None:
    text = page.read_text()
    named = {ROOT / path for path in TREE.findall(text) if path.islower()}
    linked = {page.parent / path for path in LINK.findall(text)}
    assert sorted(str(path) for path in named | linked if not path.exists()) == []
