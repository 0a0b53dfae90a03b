"""The report in a real browser: nothing overflows on a phone or a wide screen, light or dark."""

from __future__ import annotations

import html
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from analysis.report.report import write_report
from cola.records import Tag
from tests.unit.analysis.store import KINDS, Store

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on this machine"),
]
WIDTHS = (400, 1400)
# Widths as a frame sees them: a browser's own window has a least width.
PAGE = """<!doctype html><body style="margin:0">{frames}<script>
addEventListener("load", () => {{
  document.title = JSON.stringify([...document.querySelectorAll("iframe")].map((frame) => {{
    const root = frame.contentDocument.documentElement;
    const figures = [...root.querySelectorAll("figure svg")].map((f) => f.getBoundingClientRect());
    return {{
      width: frame.clientWidth,
      content: root.scrollWidth,
      figures: figures.length,
      widest: Math.max(...figures.map((f) => f.right)),
      thinnest: Math.min(...figures.map((f) => f.height)),
    }};
  }}));
}});
</script>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layout")
    store = Store(folder)
    for family in KINDS:
        for rung in range(3):
            for place, size in enumerate(np.geomspace(1e5, 4e5, 5) * 1.5**rung):
                away = np.log(size / (2e5 * 1.5**rung)) ** 2
                key = f"{family}-{rung}-{place}"
                store.run(
                    "wide", family, rung, level=3.0 * (1 + 0.05 * away),
                    **{Tag.RUN_KEY: key, Tag.CORE_PARAMETERS: str(round(size))},
                )  # fmt: skip
    return write_report("wide", store.uri, folder / "report", spec={"name": "wide"}).html


def browse(*arguments: str) -> str:
    assert BROWSER is not None
    found = subprocess.run(
        [BROWSER, *FLAGS, *arguments], capture_output=True, text=True, timeout=120, check=True
    )
    return found.stdout


def test_nothing_overflows(report: Path, tmp_path: Path) -> None:
    content = html.escape(report.read_text(), quote=True)
    frames = "".join(
        f'<iframe width="{width}" height="900" style="border:0" srcdoc="{content}"></iframe>'
        for width in WIDTHS
    )
    page = tmp_path / "page.html"
    page.write_text(PAGE.format(frames=frames))
    dom = browse(
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000",
        "--window-size=1500,1000", "--dump-dom", page.as_uri(),
    )  # fmt: skip
    title = dom[dom.rindex("<title>") + len("<title>") : dom.rindex("</title>")]
    measured = json.loads(html.unescape(title))
    assert [frame["width"] for frame in measured] == list(WIDTHS)
    for frame in measured:
        assert frame["content"] <= frame["width"]
        assert frame["figures"] == 7
        assert frame["widest"] <= frame["width"]
        assert frame["thinnest"] > 80


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_colour_schemes_are_drawn(report: Path, tmp_path: Path, scheme: str) -> None:
    from matplotlib.image import imread

    picture = tmp_path / "report.png"
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    browse(
        f"--user-data-dir={tmp_path / 'profile'}", *dark, "--window-size=1400,2400",
        f"--screenshot={picture}", report.as_uri(),
    )  # fmt: skip
    pixels = imread(picture)[..., :3]
    assert pixels.shape[1] == 1400
    background = pixels[-1, 0].mean()
    assert background < 0.2 if scheme == "dark" else background > 0.9
    assert (np.abs(pixels - pixels[-1, 0]).max(axis=-1) > 0.2).mean() > 0.01  # something is drawn
