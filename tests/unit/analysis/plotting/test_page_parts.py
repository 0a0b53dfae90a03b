"""Words, tables, metrics' names and figures, as pages have them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from analysis.plotting.embedding import Drawn, embedded
from analysis.plotting.glossary import FORMS, MEANINGS, Words, mathematics
from analysis.plotting.metric_names import metric_label, metric_words
from analysis.plotting.page_table import Column, table
from analysis.plotting.style import budget_ticks
from analysis.plotting.templates import render
from tests.pages import text_of


def test_a_word_has_its_meaning_where_it_first_stands() -> None:
    words = Words()
    first = words.in_prose("The NLL, 5 nats per token: the NLL again.")
    assert first.count('<a class="word" href="#word-nll" title="Negative log-likelihood') == 1
    assert words.used == ["NLL", "nats per token"]
    assert words.in_prose("Its NLL.") == "Its NLL."
    assert "<a" in words.in_head("NLL")  # of a table each time
    assert len(FORMS) == sum(map(len, MEANINGS))


def test_words_within_names_and_paths_are_left_alone() -> None:
    words = Words()
    assert words.in_prose("outputs/rate/seed-66 of core_parameters") == (
        "outputs/rate/seed-66 of core_parameters"
    )
    assert words.in_prose("<b> & NLL").startswith("&lt;b&gt; &amp; <a ")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("L = 4.5 (C / 2.8e+12)^-0.05", "L = 4.5 (C / 2.8 × 10^12)^−0.05"),
        ("at 1e+12 FLOPs", "at 10^12 FLOPs"),
        ("a rate of 3e-4.", "a rate of 3 × 10^−4."),
        ("ar-4e+12-seed66, runs/1e+12", "ar-4e+12-seed66, runs/1e+12"),
    ],
)
def test_powers_are_raised_but_names_are_kept(text: str, shown: str) -> None:
    assert text_of(mathematics(text)) == shown


def test_columns_in_which_nothing_stands_are_left_out() -> None:
    columns = [Column("a", "A"), Column("b", "B"), Column("c", "C")]
    found = table(columns, [{"a": 1, "b": "", "c": "–"}, {"a": 2, "b": "–"}])
    assert found is not None
    assert [column.title for column in found.columns] == ["A"]
    assert found.rows == [["1"], ["2"]]
    assert table(columns, []) is None


def test_metrics_have_names_in_words() -> None:
    assert metric_label("val/nll_nats_per_token") == "validation NLL, nats per token"
    assert metric_label("test/bits_per_byte") == "test loss, bits per byte"
    assert metric_words("continuation/token_accuracy") == "continuation: token accuracy"
    assert metric_words("eval/cloze/accuracy") == "cloze: accuracy"
    assert metric_words("elapsed_seconds") == "elapsed seconds"


def test_budgets_are_on_the_axis_as_far_as_there_is_room() -> None:
    budgets = [3e11, 7e11, 1.7e12, 4e12]
    assert budget_ticks(budgets, 2e11, 5e12) == budgets
    assert budget_ticks([*budgets, 3.9e12], 2e11, 5e12) == budgets  # the largest is looked for
    assert budget_ticks([1.234e12, 4e12], 1e12, 5e12) == []  # would be called 1.2e12


def test_a_figure_is_there_for_wide_windows_phones_and_ears(tmp_path: Path) -> None:
    figure = Figure(figsize=(7.2, 2.4), layout="constrained")
    for axes, colour in zip(figure.subplots(1, 3), ("#0072B2", "#D55E00", "#009E73"), strict=True):
        axes.plot([1, 2], [1, 2], color=colour)
        axes.set_title("curve", color=colour)
    (found,) = embedded([Drawn("three", "Three", figure, "C.", 'Three "curves" rise.')], tmp_path)
    sizes = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', found["svg"])
    (wide, low), (narrow, high) = [(float(w), float(h)) for w, h in sizes]
    assert wide > 500 > 300 > narrow
    assert high > 2 * low  # panels stand one below the other
    assert found["svg"].count('role="img" aria-label="Three &quot;curves&quot; rise."') == 2
    assert "fill: var(--t-0072b2)" in found["svg"]
    assert "stroke: var(--m-0072b2)" in found["svg"]
    assert not re.search(r": #(?!ffffff|000000)[0-9a-f]{6}", found["svg"])
    identities = re.findall(r' id="([^"]+)"', found["svg"])
    assert len(identities) == len(set(identities))
    assert {path.name for path in tmp_path.iterdir()} == {"three.png", "three.svg"}
    assert "var(--" not in (tmp_path / "three.svg").read_text()


def test_a_page_links_its_sections_and_defines_its_colours(tmp_path: Path) -> None:
    figure = Figure()
    figure.subplots().plot([1, 2], color="#0072B2")
    (drawn,) = embedded([Drawn("metrics", "Metrics", figure, "The NLL.", "It rises.")], tmp_path)
    rows = table([Column("label", "family")], [{"label": "AR", "variant": "ar", "kind": "exact"}])
    page = render(
        "metrics.html.j2",
        {"study": "s", "figure": drawn, "curves": rows, "pairs": None, "predictions": None,
         "notes": ["<b> is not a tag"], "compute": "executed", "colours": {"ar": "#0072B2"},
         "sentences": [], "mismatches": []},
    )  # fmt: skip
    assert '<li><a href="#fitted-curves">Fitted curves</a></li>' in page
    assert '<h2 id="fitted-curves">' in page
    assert page.count("--m-0072b2: #") == 2  # light and dark
    assert "&lt;b&gt; is not a tag" in page
    assert '<dt id="word-nll">NLL</dt>' in page
