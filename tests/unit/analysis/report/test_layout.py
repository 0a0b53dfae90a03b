"""Pages in a real browser, on a phone and a wide screen, light and dark: nothing is cut off, and
everything can be read."""

from __future__ import annotations

import html
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.report.report import write_report
from analysis.sweep_report.report import write_sweep_report
from cola.records import Tag
from tests.browser import BROWSER, FLAGS
from tests.unit.analysis.store import KINDS, Store
from tests.unit.analysis.sweep_report.test_report import GRID, bowl, write_sweep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on this machine"),
]
PHONE, WIDE = 390, 1400
LEAST_CONTRAST = 4.5  # WCAG 2.2, 1.4.3
LEAST_LABEL = 8.0  # pixels, of a figure's smallest text
# Widths as a frame sees them: a browser's own window has a least width. Of each: what is wider than
# its frame or holder, and the text with the least contrast to what lies behind it. Text on shades
# (black or white on a map) is not looked at.
PAGE = """<!doctype html><meta name="color-scheme" content="light dark"><body>{frames}<script>
const shown = (e) => e.getClientRects().length > 0;
const channels = (c) => c.match(/[\\d.]+/g).map(Number);
const luminance = (c) => channels(c).slice(0, 3).map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
function behind(e) {{
  for (; e; e = e.parentElement) {{
    const c = getComputedStyle(e).backgroundColor;
    if (channels(c)[3] !== 0) return c;
  }}
}}
function contrast(text) {{
  const e = text.parentElement, style = getComputedStyle(e);
  const ink = e.closest("svg") ? style.fill : style.color;
  if (e.closest("svg") && ["rgb(0, 0, 0)", "rgb(255, 255, 255)"].includes(ink)) return 21;
  const [low, high] = [luminance(ink), luminance(behind(e))].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}}
function texts(root) {{
  const found = [], walker = root.ownerDocument.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {{
    const e = walker.currentNode.parentElement;
    const hidden = ["TITLE", "STYLE", "SCRIPT"].includes(e.tagName.toUpperCase());
    if (walker.currentNode.data.trim() && !hidden && shown(e)) found.push(walker.currentNode);
  }}
  return found;
}}
addEventListener("load", () => {{
  document.title = JSON.stringify([...document.querySelectorAll("iframe")].map((frame) => {{
    const page = frame.contentDocument, root = page.documentElement;
    const figures = [...page.querySelectorAll("figure svg")].filter(shown);
    const faintest = texts(page.body).map((t) => [contrast(t), t.data.trim()])
      .reduce((a, b) => a[0] < b[0] ? a : b);
    return {{
      content: root.scrollWidth,
      cut: [...page.querySelectorAll(".scroll")]
        .filter((e) => shown(e) && e.scrollWidth > e.clientWidth)
        .map((e) => e.previousElementSibling?.textContent),
      figures: figures.length,
      of: page.querySelectorAll("figure").length,
      widest: Math.max(...figures.map((f) => f.getBoundingClientRect().right)),
      thinnest: Math.min(...figures.map((f) => f.getBoundingClientRect().height)),
      label: Math.min(...figures.flatMap((f) => [...f.querySelectorAll("text")].map((t) =>
        parseFloat(getComputedStyle(t).fontSize) * f.getScreenCTM().a))),
      silent: figures.filter((f) => f.getAttribute("role") !== "img"
        || (f.getAttribute("aria-label") || "").length < 20).length,
      dead: [...page.querySelectorAll('a[href^="#"]')]
        .filter((a) => !page.getElementById(a.hash.slice(1))).map((a) => a.hash),
      links: page.querySelectorAll(".contents a").length,
      sections: page.querySelectorAll("h2[id]").length,
      background: luminance(behind(page.body)),
      contrast: faintest[0],
      faintest: faintest[1],
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


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    reason = "its loss was not finite at step 90"
    folder = tmp_path_factory.mktemp("sweep")
    return write_sweep_report(write_sweep(folder, GRID, bowl(0.25), 0.02, diverged={3: reason}))


def browse(*arguments: str) -> str:
    assert BROWSER is not None
    found = subprocess.run(
        [BROWSER, *FLAGS, *arguments], capture_output=True, text=True, timeout=120, check=True
    )
    return found.stdout


def measured(pages: list[Path], folder: Path, scheme: str) -> list[dict[str, Any]]:
    """Of each page on a phone, then of each on a wide screen."""
    frames = "".join(
        f'<iframe width="{width}" height="900" style="border:0" '
        f'srcdoc="{html.escape(page.read_text(), quote=True)}"></iframe>'
        for width in (PHONE, WIDE)
        for page in pages
    )
    file = folder / "page.html"
    file.write_text(PAGE.format(frames=frames))
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    dom = browse(
        f"--user-data-dir={folder / 'profile'}", *dark, "--virtual-time-budget=5000",
        "--window-size=1500,1000", "--dump-dom", file.as_uri(),
    )  # fmt: skip
    title = dom[dom.rindex("<title>") + len("<title>") : dom.rindex("</title>")]
    found: list[dict[str, Any]] = json.loads(html.unescape(title))
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_whole_and_can_be_read(
    report: Path, sweep: Path, tmp_path: Path, scheme: str
) -> None:
    frames = measured([report, sweep], tmp_path, scheme)
    assert len(frames) == 4
    for frame, width in zip(frames, (PHONE, PHONE, WIDE, WIDE), strict=True):
        assert frame["content"] <= width
        assert frame["cut"] == []
        assert frame["figures"] == frame["of"] > 2  # one of the two widths of each
        assert frame["widest"] <= width
        assert frame["thinnest"] > 80
        assert frame["label"] >= LEAST_LABEL
        assert frame["silent"] == 0
        assert frame["dead"] == []
        assert frame["links"] == frame["sections"] > 4
        assert frame["contrast"] >= LEAST_CONTRAST, frame["faintest"]
        assert frame["background"] < 0.05 if scheme == "dark" else frame["background"] > 0.8


def test_a_page_is_drawn_in_the_scheme_that_is_asked_for(report: Path, tmp_path: Path) -> None:
    from matplotlib.image import imread

    picture = tmp_path / "report.png"
    browse(
        f"--user-data-dir={tmp_path / 'profile'}", "--blink-settings=preferredColorScheme=0",
        "--window-size=1400,2400", f"--screenshot={picture}", report.as_uri(),
    )  # fmt: skip
    pixels = imread(picture)[..., :3]
    assert pixels.shape[1] == 1400
    assert pixels[-1, 0].mean() < 0.2
    assert (np.abs(pixels - pixels[-1, 0]).max(axis=-1) > 0.2).mean() > 0.01  # something is drawn
