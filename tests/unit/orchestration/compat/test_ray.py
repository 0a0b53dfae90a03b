"""Ray's private parts: the installed version is the one they were checked with, and has them."""

from __future__ import annotations

import importlib.metadata
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from orchestration.compat.ray import CHECKED_VERSION, trainer_class

ROOT = Path(__file__).resolve().parents[4]


def requirement(name: str) -> Requirement:
    """What pyproject.toml says of a package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (found,) = (r for r in map(Requirement, project["dependencies"]) if r.name == name)
    return found


def test_the_installed_version_is_the_checked_one() -> None:
    assert importlib.metadata.version("ray") == CHECKED_VERSION
    assert f"\nray=={CHECKED_VERSION} \\\n" in (ROOT / "constraints.txt").read_text()


def test_the_next_minor_version_is_not_installed_unchecked() -> None:
    major, minor, _ = map(int, CHECKED_VERSION.split("."))
    allowed = requirement("ray").specifier
    assert CHECKED_VERSION in allowed
    assert f"{major}.{minor}.99" in allowed
    assert f"{major}.{minor + 1}.0" not in allowed


def test_every_private_name_exists() -> None:
    from ray._private import ray_constants, services
    from ray._private.state import available_resources_per_node, state
    from ray._raylet import Config
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData
    from ray.job_submission import JobSubmissionClient

    assert callable(available_resources_per_node)
    assert callable(state._connect_and_get_accessor)
    assert callable(Config.initialize)
    fields = PlacementGroupTableData.DESCRIPTOR.fields_by_name
    used = {
        "creator_actor_id", "creator_job_id", "creator_actor_dead", "is_detached", "state",
        "placement_group_id",
    }  # fmt: skip
    assert used <= set(fields)
    assert PlacementGroupTableData.REMOVED != PlacementGroupTableData.CREATED
    assert isinstance(ray_constants.ENABLE_RAY_CLUSTER, bool)
    assert "ray_constants.ENABLE_RAY_CLUSTER" in inspect.getsource(services.get_node_ip_address)
    parameters = list(inspect.signature(JobSubmissionClient._do_request).parameters)
    assert parameters[:3] == ["self", "method", "endpoint"]


def test_runs_have_no_actors_without_work() -> None:
    from ray.train.torch import TorchTrainer

    every, kept = (
        {type(callback).__name__ for callback in trainer(print)._create_default_callbacks()}
        for trainer in (TorchTrainer, trainer_class())
    )
    assert every - kept == {"DatasetsCallback", "PlacementGroupCleanerCallback"}


def test_failures_that_are_none_do_not_count_among_max_failures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray.train import FailureConfig, RunConfig, WorkerGroupError
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
    from ray.train.v2._internal.execution.failure_handling import FailureDecision
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    def error(rank: int, raised: Exception) -> WorkerGroupError:
        return WorkerGroupError("", {rank: UserExceptionWithTraceback(raised, "Traceback")})

    given: dict[str, Any] = {}
    monkeypatch.setattr(
        DataParallelTrainer, "_initialize_and_run_controller", lambda _, **values: given | values
    )
    cls = trainer_class(lambda failures: any(isinstance(each, MemoryError) for each in failures))
    trainer = cls(print, run_config=RunConfig(failure_config=FailureConfig(max_failures=1)))
    policy = trainer._initialize_and_run_controller(failure_policy=None)["failure_policy"]
    found = [
        policy.make_decision(error(rank, raised))
        for rank, raised in enumerate([MemoryError(), OSError(), MemoryError(), OSError()])
    ]
    again, fails = FailureDecision.RETRY, FailureDecision.RAISE
    assert found == [again, again, again, fails]


def test_public_names_of_train_exist() -> None:
    import ray.train

    assert issubclass(ray.train.WorkerGroupError, ray.train.TrainingFailedError)
    assert callable(ray.train.UserCallback)


def test_a_private_cluster_is_on_loopback_though_ray_was_imported_before() -> None:
    """In an interpreter of its own: Ray reads its switch once."""
    code = (
        "import ray\n"
        "from ray._private import ray_constants, services\n"
        "from cola import process_environment\n"
        "from orchestration.compat.ray import loopback_only\n"
        "before = ray_constants.ENABLE_RAY_CLUSTER\n"
        "with process_environment.private_cluster(), loopback_only():\n"
        "    print(services.get_node_ip_address())\n"
        "assert ray_constants.ENABLE_RAY_CLUSTER == before == True\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["127.0.0.1"]
