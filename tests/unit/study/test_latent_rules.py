"""Latents by rules over size and budget: values in plan and identity, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from cola.errors import SpecError
from cola.study import StudySpec
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.planning.plan_summary import unread_settings
from orchestration.planning.rehearsal import rehearsal_of

LADDER = [{"budget": budget, "core_parameters": 60_000} for budget in (1e11, 1.6e12)]


@pytest.fixture
def values(tiny_study: dict[str, Any]) -> dict[str, Any]:
    cola = tiny_study["families"]["cola"] | {"block_size": 2}
    return tiny_study | {"ladder": LADDER, "families": {"cola": cola, "ar": {}}}


def power(coefficient: float, **exponents: float) -> dict[str, Any]:
    return {"kind": "power_law", "coefficient": coefficient, **exponents}


def tuned(*points: tuple[float, float]) -> dict[str, Any]:
    return {"kind": "tuned", "points": [{"budget": c, "value": v} for c, v in points]}


def planned(values: dict[str, Any], **latent: Any) -> list[PlannedRun]:
    runs = plan_study(StudySpec.parse(values | {"rules": {"latent": latent}}))
    return [run for run in runs if run.variant == "cola"]


def test_rules_set_latents_in_plan_model_and_identity(values: dict[str, Any]) -> None:
    runs = planned(
        values,
        latent_dim=power(4.0 * 1e4**0.5, budget_exponent=0.5),  # 4 at 1e11, 16 at 1.6e12
        patch_size=tuned((1e11, 1.0), (1.6e12, 4.0)),
        log_snr=tuned((1e11, 2.0)),
        beta=power(1e-3),
    )
    assert [dict(run.latents) for run in runs] == [
        {"latent_dim": 4, "patch_size": 1, "log_snr": 2.0, "beta": 1e-3},
        {"latent_dim": 16, "patch_size": 4, "log_snr": 2.0, "beta": 1e-3},
    ]
    flat = runs[1].spec.flat(identity=True)
    assert flat["model.vae.latent_dim"] == flat["model.dit.latent_dim"] == "16"
    assert (flat["model.vae.patch_size"], flat["objective.stage1.beta"]) == ("4", "0.001")


def test_what_a_rule_gives_is_the_run_that_settings_give(values: dict[str, Any]) -> None:
    ruled = planned(values, latent_dim=power(5.4))
    given = values["families"] | {"cola": values["families"]["cola"] | {"latent_dim": 5}}
    plain = plan_study(StudySpec.parse(values | {"families": given}))
    assert [run.key for run in ruled] == [run.key for run in plain if run.variant == "cola"]
    assert all(not run.latents for run in plain)


def test_families_without_latents_are_as_they_were(values: dict[str, Any]) -> None:
    rules = {"latent": {"latent_dim": power(3.0)}}
    keys = [
        {run.key for run in plan_study(StudySpec.parse(study)) if run.variant == "ar"}
        for study in (values, values | {"rules": rules})
    ]
    assert keys[0] == keys[1]


def test_an_entry_overrides_rules_key_by_key(values: dict[str, Any]) -> None:
    own = values["families"]["cola"] | {"rules": {"latent": {"latent_dim": power(7.0)}}}
    study = values | {"families": {"cola": own}}
    runs = planned(study, latent_dim=power(3.0), log_snr=tuned((1e11, 2.5)))
    assert dict(runs[0].latents) == {"latent_dim": 7, "log_snr": 2.5}


@pytest.mark.parametrize(
    ("latent", "words"),
    [
        (
            {"latent_dim": power(0.3)},
            "rules.latent.latent_dim: at 6e+04 parameters and 1e+11 FLOPs",
        ),
        ({"latent_dim": power(1.0, budget_exponent=-100.0)}, "gives inf, which is no whole number"),
        (
            {"patch_size": power(3.0)},
            "rules.latent.patch_size: at 6e+04 parameters and 1e+11 FLOPs",
        ),
        ({"patch_size": power(1e3)}, "do not divide a sequence into blocks"),
        ({"log_snr": tuned((1e11, -2.0))}, "rules.latent.log_snr.points.0.value"),
        ({"log_snr": power(1.0, budget_exponent=-100.0)}, "gives inf, which is no finite number"),
        ({"width": power(3.0)}, "rules.latent.width: unknown key"),
    ],
)
def test_what_a_rule_cannot_give_is_one_line_with_its_key(
    values: dict[str, Any], latent: dict[str, Any], words: str
) -> None:
    with pytest.raises(SpecError) as caught:
        planned(values, **latent)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rules_of_latents_that_a_family_lacks_are_refused(values: dict[str, Any]) -> None:
    families = values["families"] | {"ar": {"rules": {"latent": {"beta": power(1.0)}}}}
    with pytest.raises(SpecError, match=r"families.ar.rules.latent.beta: ar has no such setting"):
        StudySpec.parse(values | {"families": families})


def test_rules_that_no_family_of_the_study_reads_are_named(values: dict[str, Any]) -> None:
    rules = {"latent": {"latent_dim": power(3.0)}}
    study = StudySpec.parse(values | {"rules": rules, "families": {"ar": {}}})
    assert unread_settings(study)[0] == "rules.latent.latent_dim"
    both = StudySpec.parse(values | {"rules": rules})
    assert "rules.latent.latent_dim" not in unread_settings(both)


def test_a_channel_that_holds_nothing_is_refused(values: dict[str, Any]) -> None:
    cola = values["families"]["cola"] | {"log_snr": -20.0}
    with pytest.raises(SpecError, match="nats a token at that noise, which is nothing"):
        StudySpec.parse(values | {"families": {"cola": cola}})


def test_a_rehearsal_has_the_settings_and_not_the_rules(values: dict[str, Any]) -> None:
    own = values["families"]["cola"] | {"rules": {"latent": {"latent_dim": power(300.0)}}}
    small = rehearsal_of(StudySpec.parse(values | {"families": {"cola": own}}))
    assert all(not run.latents for run in plan_study(small))


def test_rules_without_latents_are_written_as_before(values: dict[str, Any]) -> None:
    study = StudySpec.parse(values)
    assert "latent" not in study.model_dump()["rules"]
    ruled = StudySpec.parse(values | {"rules": {"latent": {"latent_dim": power(3.0)}}})
    assert StudySpec.parse(ruled.model_dump(mode="json")) == ruled
