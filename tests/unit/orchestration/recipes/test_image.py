"""The image's Dockerfile: what it copies is there, and its steps are those of one script."""

from __future__ import annotations

import subprocess

import pytest

from cola.errors import SpecError
from orchestration.cli.clusters import check_options
from orchestration.recipes.image import STEPS
from orchestration.recipes.registry import IMAGE, recipe
from orchestration.remote.clusters import ClusterSpec
from tests.paths import ROOT


def dockerfile(gpus: int, image: str = IMAGE) -> list[str]:
    cluster = ClusterSpec(kind="kuberay", gpus_per_node=gpus)
    return recipe("image", None, cluster, image=image).splitlines()


@pytest.mark.parametrize("gpus", [0, 8])
def test_what_is_copied_is_in_a_checkout(gpus: int) -> None:
    lines = dockerfile(gpus)
    copied = [name for line in lines if line[:5] == "COPY " for name in line.split()[1:-1]]
    assert copied
    assert not [name for name in copied if not (ROOT / name).exists()]
    assert "constraints.txt" in copied
    device = "cuda" if gpus else "cpu"
    assert f"RUN bash {STEPS} packages {device}" in lines
    assert any("NVIDIA_VISIBLE_DEVICES=all" in line for line in lines) == bool(gpus)


def test_it_is_checked_by_a_user_who_is_not_root() -> None:
    lines = dockerfile(0, "mine:1")
    assert lines.index("USER cola") < lines.index("RUN cola doctor")
    assert "#     docker build --tag mine:1 ." in lines
    with pytest.raises(SpecError, match=r"--image 'a\\nRUN rm': is no image's name"):
        dockerfile(0, "a\nRUN rm")


@pytest.mark.parametrize("arguments", [[], ["packages"], ["packages", "tpu"], ["install"]])
def test_an_unknown_step_does_nothing(arguments: list[str]) -> None:
    done = subprocess.run(["bash", ROOT / STEPS, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr


def test_other_kinds_want_a_study_or_sweep() -> None:
    with pytest.raises(SpecError, match="--kind slurm: is for a study or sweep; name it"):
        recipe("slurm", None, ClusterSpec(kind="slurm", shared="/"))


@pytest.mark.parametrize(
    ("kind", "given", "problem"),
    [
        ("image", {"time": "3"}, r"^--time 3: is for jobs; --kind image takes --gpus-per-node"),
        ("image", {"gpus_per_node": 0, "grace_seconds": 9}, r"^--grace 9: is for jobs"),
        ("image", {"exclusive": True}, r"^--exclusive: is for jobs"),
        ("image", {"by_rung": True}, r"^--by-rung: is for jobs"),
        ("kuberay", {"by_rung": True}, r"^--by-rung: is for --kind slurm, and this is kuberay"),
    ],
)
def test_options_of_jobs_are_refused_by_kinds_without(
    kind: str, given: dict[str, object], problem: str
) -> None:
    check_options(kind, {"gpus_per_node": 8})
    with pytest.raises(SpecError, match=problem):
        check_options(kind, given)
