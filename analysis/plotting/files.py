"""A figure in the file that was asked for."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from analysis.plotting.style import STYLE
from cola.errors import SpecError
from cola.files import storage_errors

ENDINGS = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Refuse a file that a figure cannot be written to.

    Raises:
        SpecError: with its ending or folder.
    """
    if path.suffix.lower() not in ENDINGS:
        raise SpecError(f"--plot {path}: figures are written as {', '.join(ENDINGS)}")
    if path.is_dir():
        raise SpecError(f"--plot {path}: is a folder; name a file in it")
    if not path.expanduser().absolute().parent.is_dir():
        raise SpecError(
            f"--plot {path}: there is no folder {path.parent}; make it, or name another"
        )


def draw_to(figure: Figure, path: Path) -> Path:
    """Write the figure in the format of the file's ending.

    Raises:
        StorageError: it cannot be written.
    """
    path = path.expanduser()
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
    with (
        mpl.rc_context(STYLE),
        storage_errors(path, remedy="make room, or check that this user may write there"),
    ):
        figure.savefig(path, dpi=160, facecolor="white", metadata=metadata)
    return path
