"""The record of a tuning sweep: what it changes in a study, and which studies it is refused by."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cola.errors import SpecError
from cola.spec.design import TunedRule
from cola.spec.yaml_text import dump_yaml, parse_yaml
from cola.study import StudySpec
from cola.tuning.record import TuningRecord
from orchestration.planning.corpus_size import CorpusSize
from orchestration.planning.plan import plan_study
from orchestration.planning.plan_summary import Plan, plan_as_json, tuning_of
from orchestration.planning.rehearsal import rehearsal_of

RATE = "training.optimizer.learning_rate"
FINGERPRINT = "f" * 64


def searches(*budgets: float, trials: int = 4, at_edge: tuple[str, ...] = ()) -> list[Any]:
    return [
        {
            "budget": budget, "parameters": 60_000, "trials": trials, "finished": trials,
            "stopped": 0, "diverged": 0, "failed": 0, "beyond": 0, "flops": 1e10,
            "shared_flops": 0.0, "metric": 5.0, "at_edge": list(at_edge),
        }
        for budget in budgets
    ]  # fmt: skip


def rule(*points: tuple[float, float]) -> dict[str, Any]:
    return {"kind": "tuned", "points": [{"budget": b, "value": v} for b, v in points]}


@pytest.fixture
def values(tiny_study: dict[str, Any]) -> dict[str, Any]:
    """A record of AR and Cola DLM at 1e10 and 4e10 FLOPs; the tiny study has LLaDA too."""
    study = StudySpec.parse(tiny_study)
    record = TuningRecord.parse(
        {
            "sweep": "tune", "sweep_hash": "a" * 64,
            "metric": {"name": "val/nll_nats_per_token", "direction": "minimize",
                       "split": "validation"},
            "seeds": [66], "compute": "executed", "parameters": "core",
            "data": {"fingerprint": FINGERPRINT,
                     "tokenizer": study.data.tokenizer.model_dump(mode="json"),
                     "sequence_length": study.data.sequence_length},
            "families": {
                "ar": {
                    "family": "ar", "nll_kind": "exact", "searched": {RATE: "0.001 to 0.1"},
                    "budgets": searches(1e10, 4e10, at_edge=(RATE,)),
                    "rules": {"learning_rate": rule((1e10, 4e-3), (4e10, 1e-3))},
                },
                "cola": {
                    "family": "cola", "nll_kind": "bound",
                    "searched": {"training.stages.joint.learning_rate": "0.001 to 0.1",
                                 "training.ema_decay": "null, 0.9"},
                    "budgets": searches(1e10, 4e10),
                    "rules": {"stage_learning_rates": {"joint": rule((1e10, 2e-2))}},
                    "training": {"ema_decay": 0.9},
                },
            },
        }
    )  # fmt: skip
    return yaml.safe_load(yaml.safe_dump(record.signed().model_dump(mode="json")))


def test_what_was_tuned_wins_over_the_study_and_its_entries(
    tiny_study: dict[str, Any], values: dict[str, Any]
) -> None:
    """At 2e10, half-way in the logarithm, AR's rate is the geometric mean of 4e-3 and 1e-3."""
    tiny_study["families"]["ar"] = {"training": {"optimizer": {"learning_rate": 0.5}}}
    study = StudySpec.parse(tiny_study | {"tuning": values})
    runs = {run.variant: run.spec for run in plan_study(study, FINGERPRINT)}
    assert runs["ar"].learning_rates() == pytest.approx({"train": 2e-3})
    assert runs["llada"].learning_rates() == {"train": 1e-3}
    assert runs["cola"].learning_rates() == {"vae": 1e-3, "joint": 2e-2}
    assert [runs[name].training.ema_decay for name in runs] == [None, None, 0.9]
    again = StudySpec.parse(yaml.safe_load(study.to_yaml()))
    keys = [run.key for run in plan_study(study, FINGERPRINT)]
    assert [run.key for run in plan_study(again, FINGERPRINT)] == keys
    replaced = "AR: what was tuned replaces families.ar.training.optimizer.learning_rate=0.5."
    assert replaced in tuning_of(study)["sentences"]


def test_a_study_without_a_record_is_dumped_as_before(tiny_study: dict[str, Any]) -> None:
    assert "tuning" not in StudySpec.parse(tiny_study).model_dump(mode="json")


def test_plan_and_json_name_trials_effort_edges_and_what_is_extrapolated(
    tiny_study: dict[str, Any], values: dict[str, Any]
) -> None:
    ladder = [{"budget": b, "core_parameters": 60_000} for b in (2e10, 8e10)]
    study = StudySpec.parse(tiny_study | {"tuning": values, "ladder": ladder})
    runs = plan_study(study, FINGERPRINT)
    shown = plan_as_json(Plan.of(study, runs, CorpusSize(None, False), rates={}))["tuning"]
    text = "\n".join(shown["sentences"])
    assert shown["status"] == "unequal"
    assert "UNEQUAL trials (AR 4, Cola DLM 4)" not in text  # two budgets: 8 trials each
    assert "UNEQUAL trials (AR 8, Cola DLM 8)" in text
    assert "Not tuned: LLaDA" in text
    assert "AR: tuned at 1e+10 to 4e+10 with 8 trials (8 finished, 0 stopped early" in text
    assert (
        "2e+10 executed FLOPs; searched learning_rate 0.001 to 0.1; found rate 0.004, 0.001; "
        in (text)
    )
    assert "AT THE EDGE of what was searched: learning_rate at 1e+10, 4e+10" in text
    assert "AR: tuned at 1e+10 to 4e+10, extrapolated to 8e+10" in text
    entry = shown["families"]["ar"]
    assert (entry["trials"], entry["flops"], entry["at_edge"]) == (8, 2e10, [RATE])
    assert entry["extrapolated"] == [8e10]
    assert shown["families"]["llada"] is None


def test_equal_trials_are_counted_without_those_beyond_edges(
    tiny_study: dict[str, Any], values: dict[str, Any]
) -> None:
    del tiny_study["families"]["llada"]
    values["families"]["ar"]["budgets"][0] |= {"trials": 6, "finished": 6, "beyond": 2}
    values["digest"] = TuningRecord.parse(values).computed_digest()
    shown = tuning_of(
        StudySpec.parse(tiny_study | {"tuning": values, "matching": {"tuning": "unequal"}})
    )
    assert shown["status"] == "equal_trials"
    assert "equal trials (AR 8, Cola DLM 8; beyond an edge AR 2 more)" in shown["sentences"][0]
    assert not any("author" in sentence for sentence in shown["sentences"])


def test_an_edited_record_is_called_edited(
    tiny_study: dict[str, Any], values: dict[str, Any]
) -> None:
    assert tuning_of(StudySpec.parse(tiny_study | {"tuning": values}))["status"] == "unequal"
    values["families"]["ar"]["rules"]["learning_rate"]["points"][0]["value"] = 5e-3
    shown = tuning_of(StudySpec.parse(tiny_study | {"tuning": values}))
    assert shown["status"] == "edited"
    assert "EDITED: the record is not as the sweep wrote it" in shown["sentences"][0]


POSITIVE = st.floats(1e-9, 1e25)


@settings(max_examples=50)
@given(points=st.dictionaries(POSITIVE, POSITIVE, min_size=1, max_size=4), metric=st.floats(-9, 9))
def test_what_is_written_is_read_as_it_was(points: dict[float, float], metric: float) -> None:
    """Every number survives the file: the digest is that of the sweep, the rule goes through it."""
    entry = {
        "family": "ar", "nll_kind": "exact", "searched": {RATE: "x"},
        "budgets": [item | {"metric": metric} for item in searches(*sorted(points))],
        "rules": {"learning_rate": rule(*points.items())},
    }  # fmt: skip
    record = TuningRecord.parse({
        "sweep": "tune", "sweep_hash": "a", "seeds": [1], "compute": "executed",
        "metric": {"name": "m", "direction": "minimize", "split": "validation"},
        "parameters": "core", "families": {"ar": entry},
        "data": {"fingerprint": "f", "tokenizer": {}, "sequence_length": 8},
    }).signed()  # fmt: skip
    again = TuningRecord.parse(parse_yaml(dump_yaml(record.model_dump(mode="json"))))
    assert not again.is_edited
    found = again.families["ar"].rules
    assert found is not None
    assert isinstance(found.learning_rate, TunedRule)
    for budget, value in points.items():
        assert found.learning_rate.value(1e6, budget) == value


def test_without_a_record_the_author_s_word_is_called_that(tiny_study: dict[str, Any]) -> None:
    study = StudySpec.parse(tiny_study | {"matching": {"tuning": "equal_trials"}})
    (sentence,) = tuning_of(study)["sentences"]
    assert sentence.startswith("Tuning: not measured; the author's word (matching.tuning:")


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set a value of the record by its path; None removes."""

    def change(values: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        node: Any = values
        for key in parents:
            node = node[int(key) if isinstance(node, list) else key]
        node[last] = value

    return change


BAD: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "length": (put("data.sequence_length", 999), r"data.sequence_length=999: the study's .* is 32"),
    "tokenizer": (put("data.tokenizer.vocab_size", 7), r"tokenizer.vocab_size=7: the study's"),
    "count": (put("compute", "nominal"), "tuning.compute=nominal: the study's matching.compute"),
    "entry": (put("families.other", {"family": "ar", "nll_kind": "exact",
                                     "searched": {RATE: "x"}, "budgets": searches(1e10)}),
              r"tuning.families.other: the study has no such entry; families has ar, llada, cola"),
    "family": (put("families.ar.family", "llada"), "ar.family=llada: the study's entry is of"),
    "stage": (put("families.ar.rules.stage_learning_rates", {"vae": rule((1e10, 1e-3))}),
              r"ar.rules.stage_learning_rates.vae: ar has no such stage; it has train"),
    "budgets": (put("families.ar.budgets", searches(1e15)),
                r"ar: tuned at budgets of 1e\+15 FLOPs, and none of the study's \(2e\+10\)"),
    "sizes": (put("families.ar.budgets", [searches(1e10)[0] | {"parameters": 10**9}]),
              r"tuned at sizes of 1e\+09 core parameters, and none of the study's \(7e\+04\)"),
    "order": (put("families.ar.budgets", searches(4e10, 1e10)), "from small to large"),
    "rate": (put("families.ar.rules.learning_rate", rule((1e10, -1.0))), "greater than 0"),
    "key": (put("families.ar.rules.learning", 1), "unknown key"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_record_of_something_else_is_refused_in_one_line(
    tiny_study: dict[str, Any], values: dict[str, Any], name: str
) -> None:
    change, message = BAD[name]
    other = copy.deepcopy(values)
    change(other)
    with pytest.raises(SpecError, match=message) as error:
        StudySpec.parse(tiny_study | {"tuning": other})
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


def test_a_record_of_another_corpus_is_refused_when_it_is_planned(
    tiny_study: dict[str, Any], values: dict[str, Any]
) -> None:
    study = StudySpec.parse(tiny_study | {"tuning": values})
    with pytest.raises(SpecError, match=r"fingerprint=ffffffffffff: the content of the study's"):
        plan_study(study, "0" * 64)


def test_a_tuned_batch_below_the_workers_is_refused(
    tiny_study: dict[str, Any], values: dict[str, Any]
) -> None:
    rules = {"batch_tokens": rule((1e10, 64.0)), "batch_multiple": 2}  # two sequences of 32
    values["families"]["ar"]["rules"] = rules
    study = StudySpec.parse(tiny_study | {"tuning": values, "resources": {"workers": 4}})
    with pytest.raises(SpecError, match=r"ladder.0.budget of ar: resources.workers=4 must be at"):
        plan_study(study, FINGERPRINT)


def test_a_rehearsal_has_neither_record_nor_rules(
    tiny_study: dict[str, Any], values: dict[str, Any]
) -> None:
    study = rehearsal_of(StudySpec.parse(tiny_study | {"tuning": values}))
    assert study.tuning is None
    assert study.rules_of("ar").learning_rate is None
