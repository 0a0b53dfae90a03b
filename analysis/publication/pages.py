"""A study's pages as a folder for a repository: Markdown, figures, small tables, the study."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from cola.errors import SpecError
from cola.files import write_atomically
from cola.records import STUDY_FORECASTS

# Pages of a report's folder, by what they are called in the published one. Repositories show
# README.md as the folder's own page.
PAGES = {"report.md": "README.md", "metrics.md": "metrics.md"}
# What a reader may want to compute with; a curve of every logged step is too large to keep.
TABLES = (
    "results.csv",
    "fitted_curves.csv",
    "comparisons.csv",
    "multipliers.csv",
    "conventions.csv",
    "task_accuracies.csv",
    "task_measurements.csv",
    "metrics.json",
)
_FIGURE = re.compile(r"\]\(([\w-]+)\.png\)")


def publish(report: Path, study: Path, to: Path) -> list[Path]:
    """Write what `report` holds of the study in folder `study` into `to`, and return its files.

    Figures are those that the pages show. Other files of `to` (notes, predictions) stay; a page or
    table that an earlier report had and this one has not is removed.

    Raises:
        SpecError: `to` is a file, or the folder of the report itself.
    """
    if to.exists() and not to.is_dir():
        raise SpecError(f"--publish {to}: is a file; give a folder")
    if to.resolve() == report.resolve():
        raise SpecError(f"--publish {to}: is where the report is written; give another folder")
    to.mkdir(parents=True, exist_ok=True)
    written = []
    for page, name in PAGES.items():
        if not (report / page).is_file():
            (to / name).unlink(missing_ok=True)
            continue
        text = (report / page).read_text(encoding="utf-8")
        write_atomically(to / name, _FIGURE.sub(r"](\1.svg)", text))
        written.append(to / name)
        written += [_copied(report / f"{figure}.svg", to) for figure in _FIGURE.findall(text)]
    for table in TABLES:
        if (report / table).is_file():
            written.append(_copied(report / table, to))
        else:
            (to / table).unlink(missing_ok=True)
    known = (study / "study.yaml", study / STUDY_FORECASTS)
    return written + [_copied(path, to) for path in known if path.is_file()]


def _copied(path: Path, to: Path) -> Path:
    return Path(shutil.copyfile(path, to / path.name))
