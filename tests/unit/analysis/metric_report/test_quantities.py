"""Which metrics can be fitted, by what name, and what is said of the others."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.metric_report.content import Panel, as_json, prediction_rows
from analysis.metric_report.measurements import Measurements
from analysis.metric_report.quantities import quantities, quantity
from cola.errors import SpecError

RECORDED = [
    "val/nll_nats_per_token", "val/bits_per_byte", "eval/lambada/accuracy", "eval/mmlu/accuracy",
    "eval/mmlu/chance", "eval/mmlu/items", "eval/mmlu/accuracy_standard_error", "train/loss",
    "eval/cloze/chrf", "diagnostic/log_snr", "eval/cloze/nll_standard_error",
]  # fmt: skip


def test_a_task_stands_for_its_accuracy_and_a_group_for_all_with_their_average() -> None:
    (one,), _ = quantities(["mmlu"], RECORDED)
    assert (one.key, one.chance, one.items) == (
        "eval/mmlu/accuracy", "eval/mmlu/chance", "eval/mmlu/items",
    )  # fmt: skip
    found, (note,) = quantities(["few-shot"], RECORDED)
    assert [each.title for each in found] == ["lambada", "mmlu", "average of 2 tasks"]
    assert [part.key for part in found[-1].parts] == [each.key for each in found[:2]]
    assert note.startswith("few-shot: no run was scored on siqa, squad, story_cloze, obqa, race, ")


def test_ranges_and_directions() -> None:
    nll, chrf = quantity("val/nll_nats_per_token"), quantity("eval/cloze/chrf")
    assert nll is not None
    assert nll.range is None
    assert chrf is not None
    assert chrf.range is not None
    assert (chrf.range.low, chrf.range.high, chrf.range.better) == (0, 100, "higher")
    assert quantity("eval/mmlu/chance") is None
    assert quantity("eval/cloze/nll_standard_error") is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["diagnostic/log_snr"], "neither a range of its values nor which are better is known"),
        (["eval/mmlu/items"], "neither a range"),
        (["brierlm"], "no finished run has it; There are few-shot, in-domain, eval/cloze/chrf"),
        (["eval/lambda/accuracy"], "did you mean eval/lambada/accuracy?"),
        (["in-domain"], "no finished run has an accuracy on any of likelihood, cloze"),
        (["mmlu", "eval/mmlu/accuracy"], "asked for twice"),
        (["few-shot", "mmlu"], "asked for twice"),
        ([""], "no finished run has it"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_one_line(names: list[str], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        quantities(names, RECORDED)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_end_of_a_name_stands_for_the_only_metric_that_has_it() -> None:
    known = ["eval/predictive/brierlm", "eval/predictive/brier_1", "eval/cloze/accuracy"]
    (found,), notes = quantities(["brierlm"], known)
    assert (found.key, found.unit, found.shown(5.719)) == (known[0], "BrierLM", "5.72 BrierLM")
    assert notes == []
    (score,), _ = quantities(["brier_1"], known)
    assert score.number(0.0312) == "3.12"
    nothing = pd.DataFrame({"chance": [0.05]})
    page = as_json(Panel(Measurements(score, nothing, ()), {}), [])
    place = {"compute": 1e18, "value": {"estimate": 0.0312, "interval": [0.03, 0.04]}}
    place |= {"new_low": 0.02, "new_high": 0.05, "beyond": 1.0}
    named = dict.fromkeys(("variant", "kind", "label"), "ar")
    (row,) = prediction_rows([page | {"curves": [named | {"predictions": [place]}]}])
    assert (row["value"], row["curve"], row["new_run"]) == ("3.12", "3.00 to 4.00", "2.00 to 5.00")
    with pytest.raises(SpecError, match="no finished run has it"):
        quantities(["brierlm"], [*known, "eval/other/brierlm"])
