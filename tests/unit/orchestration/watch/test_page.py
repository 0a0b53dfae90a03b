"""The page in a real browser: it follows files by itself, is readable light and dark, on a phone
and by keyboard, and runs nothing but its own script."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cola.study import StudySpec
from orchestration.planning.plan import PlannedRun
from orchestration.state.event_log import EventLog
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder, output_root, study_folder
from orchestration.watch.study import StudyWatch
from tests import browser
from tests.unit.orchestration.watch.states import (
    beat,
    begun,
    evaluated,
    recorded,
    steps,
    study_of,
)
from tests.unit.orchestration.watch.test_server import TOKEN, served

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.BROWSER is None, reason="no chromium or google-chrome here"),
]
MARKUP = '<img src="x" onerror="document.title=1">'
# The least contrast of a text with what is behind it (WCAG 2.2), and the text.
CONTRAST = """(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, share, i) => sum + share *
    (c[i] / 255 <= 0.04045 ? c[i] / 255 / 12.92 : ((c[i] / 255 + 0.055) / 1.055) ** 2.4), 0);
  const behind = (e) => { for (; e; e = e.parentElement) {
    const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3]) return c;
  } return [255, 255, 255]; };
  const found = [];
  for (const e of document.querySelectorAll("main *, footer")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !e.getClientRects().length || e.tagName === "title") continue;
    const style = getComputedStyle(e);
    const [a, b] = [light(rgb(e.ownerSVGElement ? style.fill : style.color)), light(behind(e))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.textContent]);
  }
  return found.reduce((least, each) => (each[0] < least[0] ? each : least));
})()"""
SHIFTS = """new PerformanceObserver((list) => { for (const each of list.getEntries())
  window.shifted = (window.shifted || 0) + each.value; })
  .observe({type: "layout-shift", buffered: false})"""


@pytest.fixture
def study(tiny_study: dict[str, Any]) -> StudySpec:
    return study_of(tiny_study)


@pytest.fixture
def runs(study: StudySpec) -> list[PlannedRun]:
    """One that trains, one that its driver left, and two that have not begun."""
    runs = recorded(study)
    for run, driver in ((runs[0], "alive"), (runs[1], "gone")):
        folder = begun(study, run, driver=driver)
        beat(folder, 3)
        steps(folder, range(1, 4))
        evaluated(folder, 3, 5.0)
    EventLog(study_folder(study)).write("retried", runs[1].name, MARKUP)
    return runs


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    with browser.page(tmp_path_factory.mktemp("profile")) as page:
        yield page


def opened(page: browser.Page, url: str, **how: Any) -> None:
    page.open(f"{url}/#token={TOKEN}", **{"width": 1280, **how})
    page.until("document.querySelector('#losses svg path')")


def test_the_page_follows_the_files_and_keeps_focus_and_place(
    study: StudySpec, runs: list[PlannedRun], page: browser.Page
) -> None:
    folder = RunFolder(Ledger(output_root(study)).run_folder(runs[0].key))
    with served(StudyWatch(study)) as url:
        opened(page, url)
        assert page.value("location.hash") == ""
        page.value("document.querySelector('#rows button').focus()")
        page.press("Enter")
        assert page.value("document.activeElement.getAttribute('aria-pressed')") == "true"
        assert page.value("document.querySelectorAll('#losses svg.fades .picked').length") == 1
        page.value(SHIFTS)
        steps(folder, range(4, 8), loss=3.5)
        page.until("document.querySelector('#rows td:nth-child(4)').textContent.startsWith('7 of')")
        assert page.value("document.activeElement.textContent") == runs[0].name
        assert page.value("window.shifted || 0") < 0.01
        assert page.value("document.title") == "tiny: running"
        events = page.value("document.getElementById('events').textContent")
        assert MARKUP in events  # as text
        reasons = page.value("document.getElementById('reasons').textContent")
        assert f"waits for room: {runs[0].name} trains" in reasons
        connection = "document.getElementById('connection')"
        page.offline(True)
        page.until(f"{connection}.className.includes('lost')")
        gone = page.value(f"{connection}.textContent")
        assert gone.startswith("No answer: has `cola watch` ended? The page shows what was at ")
        page.offline(False)
        page.until(f"!{connection}.className.includes('lost')")


@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_and_can_be_read_in_light_and_dark(
    study: StudySpec, runs: list[PlannedRun], page: browser.Page, width: int
) -> None:
    page.messages.clear()
    with served(StudyWatch(study)) as url:
        for dark in (False, True):
            opened(page, url, width=width, dark=dark)
            background = page.value("getComputedStyle(document.body).backgroundColor")
            assert background == ("rgb(21, 24, 28)" if dark else "rgb(255, 255, 255)")
            assert page.value("document.documentElement.scrollWidth") == width
            least, text = page.value(CONTRAST)
            assert least >= 4.5, text
            inside = page.value("[...document.querySelectorAll('.chart svg')].every((e) => "
                                "e.getBoundingClientRect().right <= innerWidth)")  # fmt: skip
            assert inside
    assert page.messages == []  # neither errors nor what the policy blocks


def test_everything_that_can_be_used_is_reached_by_the_keyboard(
    study: StudySpec, runs: list[PlannedRun], page: browser.Page
) -> None:
    with served(StudyWatch(study)) as url:
        opened(page, url)
        reached = []
        for _ in range(8):
            page.press("Tab")
            reached.append(
                page.value("document.activeElement.textContent.slice(0, 30) || "
                           "document.activeElement.name || document.activeElement.className")
            )  # fmt: skip
        assert reached[0] == "axis"
        assert [run.name for run in runs] == [name for name in reached if "seed" in name][-4:]


def test_a_page_without_its_token_asks_for_it(
    study: StudySpec, runs: list[PlannedRun], page: browser.Page
) -> None:
    with served(StudyWatch(study)) as url:
        page.open(f"{url}/#token=not-the-one-that-it-is", width=1280)
        page.until("!document.getElementById('ask').hidden")
        assert page.value("document.getElementById('shown').hidden")
        assert page.value("document.body.textContent.includes('tiny')") is False
        page.value(f"document.getElementById('token').value = {TOKEN!r}")
        page.press("Enter")
        page.until("document.querySelector('#rows button')")
        assert page.value("document.getElementById('ask').hidden")
