"""The figure of `cola fit --plot`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cola.errors import SpecError
from tests.unit.analysis.fit_command import written
from tests.unit.analysis.imports.sources import ran


def test_every_group_is_drawn(tmp_path: Path) -> None:
    flops = np.tile(np.geomspace(1e18, 1e22, 6), 2)
    family = np.repeat(["new <b>", "old"], 6)
    loss = 3.0 * (np.where(family == "old", 3, 1) * flops / 1e20) ** -0.05
    path = written(tmp_path / "a.csv", pd.DataFrame({"c": flops, "loss": loss, "f": family}))
    figure = tmp_path / "curves.svg"
    options = ["--flops", "c", "--group", "f", "--law", "compute-power", "--bootstrap", "20"]
    assert f"figure: {figure}" in ran("fit", path, *options, "--plot", str(figure))
    assert "new &lt;b&gt; (compute-power)" in figure.read_text()
    with pytest.raises(SpecError, match="law isoflop has no curve"):
        ran("fit", path, *options[:4], "--n", "c", "--law", "isoflop", "--plot", str(figure))
    with pytest.raises(SpecError, match=r"curves.jpg: figures are written as .png"):
        ran("fit", path, *options, "--plot", str(tmp_path / "curves.jpg"))
