"""Colours keep the contrast that WCAG 2.2 asks for, on light and dark pages."""

from __future__ import annotations

import re
from itertools import product

import pytest

from analysis.plotting.colours import (
    MARK,
    SCHEMES,
    TEXT,
    contrast,
    definitions,
    mark,
    readable,
    text,
    text_on,
)
from analysis.plotting.variants import styles_of
from analysis.sweep_report.plots import COLOURS
from cola.families.registry import names

FAMILIES = {name: name for name in names()}
VARIANTS = {"cola": "cola"} | {f"variant{number}": "cola" for number in range(5)}
STYLES = [*styles_of(FAMILIES).values(), *styles_of(VARIANTS).values()]
CURVES = sorted({style.colour for style in STYLES} | set(COLOURS))


def test_contrast_is_that_of_the_guidelines() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)  # WebAIM's example
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_page_s_own_text_can_be_read(scheme: str) -> None:
    own = SCHEMES[scheme]
    for ink, behind in product(("ink", "soft", "accent"), ("page", "card")):
        assert contrast(own[ink], own[behind]) >= TEXT, (ink, behind)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("colour", CURVES)
def test_every_curve_s_colour_can_be_read_and_seen(colour: str, scheme: str) -> None:
    page = f'<p style="fill: {text(colour)}; stroke: {mark(colour)}">'
    found = dict(re.findall(r"--([tm])-\w+: (#\w+);", definitions(page)[scheme]))
    for behind in ("page", "card"):
        assert contrast(found["t"], SCHEMES[scheme][behind]) >= TEXT
        assert contrast(found["m"], SCHEMES[scheme][behind]) >= MARK


def test_a_colour_that_can_be_read_stays() -> None:
    assert readable("#0072b2", ["#ffffff"], TEXT) == "#0072b2"
    assert readable("#0072b2", ["#15181c"], TEXT) != "#0072b2"


@pytest.mark.parametrize("shade", ["#440154", "#21918c", "#fde725", "#7f7f7f", "#808080"])
def test_text_on_a_shade_is_black_or_white(shade: str) -> None:
    ink = {"black": "#000000", "white": "#ffffff"}[text_on(shade)]
    assert contrast(ink, shade) >= TEXT
