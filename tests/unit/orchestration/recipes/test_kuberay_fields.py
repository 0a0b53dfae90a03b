"""The KubeRay recipe against the operator's schema: names, types, required fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from cola.study import StudySpec
from orchestration.planning.catalog import load_study
from orchestration.recipes.registry import recipe
from orchestration.remote.clusters import ClusterSpec
from orchestration.remote.submission import study_submission
from tests.paths import DATA

SCHEMA = yaml.safe_load((DATA / "kuberay" / "fields.yaml").read_text())
SIMPLE = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict,
}  # fmt: skip


def problems(value: Any, kind: str, path: str = "") -> Iterator[str]:
    """What the operator would refuse, or drop, of a value of this type."""
    kind = kind.removeprefix("!")
    if kind.startswith("="):
        if value not in kind[1:].split("|"):
            yield f"{path}={value}: is none of {kind[1:]}"
    elif kind.startswith("["):
        if not isinstance(value, list):
            yield f"{path}: is no list"
            return
        for number, item in enumerate(value):
            yield from problems(item, kind[1:-1], f"{path}[{number}]")
    elif kind.startswith("{"):
        if not isinstance(value, dict):
            yield f"{path}: is no object"
            return
        for key, item in value.items():
            yield from problems(item, kind[1:-1], f"{path}.{key}")
    elif kind in SIMPLE:
        if not isinstance(value, SIMPLE[kind]) or (kind != "boolean" and isinstance(value, bool)):
            yield f"{path}={value!r}: is no {kind}"
    else:
        yield from of_type(value, kind, path)


def of_type(value: Any, kind: str, path: str) -> Iterator[str]:
    """The same for a type with fields of its own."""
    fields = SCHEMA[kind]
    if not isinstance(value, dict):
        yield f"{path}: is no {kind}"
        return
    for name, item in value.items():
        if name not in fields:
            yield f"{path}.{name}: {kind} has no such field"
        else:
            yield from problems(item, fields[name], f"{path}.{name}")
    needed = [name for name, field in fields.items() if field.startswith("!")]
    yield from (f"{path}.{name}: is required" for name in needed if name not in value)


def job_of(study: StudySpec, gpus: int) -> Any:
    """The RayJob of a study."""
    cluster = ClusterSpec(kind="kuberay", gpus_per_node=gpus)
    return list(yaml.safe_load_all(recipe("kuberay", study_submission(study), cluster)))[1]


@pytest.mark.parametrize(("name", "gpus"), [("paper-2b", 8), ("paper-ladder", 8), ("demo", 0)])
def test_the_operator_knows_every_field_of_a_recipe(name: str, gpus: int) -> None:
    """Also with everything that adds fields: labels, credentials, a tracking server."""
    settings = ["output=/shared/outputs", "tracking.uri=env:TRACKING", "resources.labels.pool=a",
                "checkpoint.storage=s3://bucket/prefix"]  # fmt: skip
    study = load_study(name, settings)
    job = job_of(study, gpus)
    assert not list(problems(job, "RayJob"))
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["labels"] == {"pool": "a"}


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("backofLimit",), 3, "RayJobSpec has no such field"),
        (("suspend",), "no", "is no boolean"),
        (("submissionMode",), "SlurmMode", "is none of K8sJobMode"),
        (("rayClusterSpec", "headGroupSpec", "rayStartParams"), {"num-cpus": 0}, "is no string"),
        (("rayClusterSpec", "workerGroupSpecs"), [{"groupName": "g"}], "template: is required"),
    ],
)
def test_a_recipe_that_the_operator_refuses_is_found(
    path: tuple[str, ...], value: Any, problem: str
) -> None:
    job = job_of(load_study("demo", ["output=/shared/outputs"]), 0)
    place = job["spec"]
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    assert any(problem in found for found in problems(job, "RayJob"))
