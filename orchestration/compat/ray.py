"""Private parts of Ray: what its public interface does not give.

Checked with CHECKED_VERSION: before another version is allowed in pyproject.toml, the tests of this
module must pass.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHECKED_VERSION = "2.60.0"
CHATTY_LOGGERS = (
    "ray",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)


def free_resources_by_node() -> dict[str, dict[str, float]]:
    """Free amount of each resource on each node that is alive, by node id.

    The public `available_resources` adds all nodes up, and the state API needs the dashboard.
    """
    from ray._private.state import available_resources_per_node

    free: dict[str, dict[str, float]] = available_resources_per_node()
    return free


def ended_jobs() -> frozenset[str]:
    """Ids (hex) of the cluster's jobs whose driver has ended or was killed. In Ray, each process
    that joins a cluster is a job."""
    from ray._private.state import state

    return frozenset(job["JobID"] for job in state.job_table() if job["IsDead"])


def orphaned_placement_groups(job_id: str) -> list[str]:
    """Ids (hex) of placement groups that nobody removed: this job's that a dead actor made, and
    those of jobs that have ended.

    The public table of placement groups does not name their makers. Whether these live is asked
    here: a group that is made while its job ends is marked as if they did, and stays for ever.
    """
    import ray
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData

    ended, orphans = ended_jobs(), []
    for packed in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(packed)
        if group.is_detached or group.state == PlacementGroupTableData.REMOVED:
            continue
        job, maker = group.creator_job_id.hex(), ray.ActorID(group.creator_actor_id)
        if job in ended or (job == job_id and not maker.is_nil() and _is_dead(maker)):
            orphans.append(group.placement_group_id.hex())
    return orphans


def _is_dead(actor: Any) -> bool:
    from ray._private.state import state

    known = state.actor_table(actor.hex())
    return not known or known["State"] == "DEAD"


@contextmanager
def loopback_only() -> Iterator[None]:
    """Within, a cluster that this process starts takes 127.0.0.1 for its node's address.

    Ray's servers listen on loopback only where that is the node's address. The switch, made for
    desktops, is RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER; Ray reads it once, when it is imported, so for
    this process it is set here.
    """
    from ray._private import ray_constants

    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


# Methods by which Ray's node starts processes that a private cluster has no use for: what asks for
# more nodes, what forwards workers' output to the driver, and the dashboard's server.
UNUSED_PROCESSES = ("start_monitor", "start_log_monitor", "start_api_server")


@contextmanager
def without_unused_processes() -> Iterator[None]:
    """Within, a cluster that this process starts has three processes fewer, of a second of CPU each
    at its start. `ray.init` has no option for it."""
    from ray._private.node import Node

    methods = {name: getattr(Node, name) for name in UNUSED_PROCESSES}
    for name in methods:
        setattr(Node, name, lambda self, **options: None)
    try:
        yield
    finally:
        for name, method in methods.items():
            setattr(Node, name, method)


def torch_config(backend: str) -> Any:
    """How a run's workers find each other (`ray.train.torch.TorchConfig`).

    By Ray's way the first worker listens on every interface of its machine, and whoever connects
    reads and writes torch's store without a token. On a cluster of this machine alone they meet at
    a file of Ray's session instead; on others the network must keep strangers out.
    """
    import ray
    from ray.train.torch import TorchConfig

    if not ray.get_runtime_context().gcs_address.startswith("127.0.0.1:"):
        return TorchConfig(backend=backend)
    from ray.train.torch.config import (
        _set_torch_distributed_env_vars,
        _setup_torch_process_group,
        _TorchBackend,
    )

    class FileBackend(_TorchBackend):  # type: ignore[misc]
        """Starts the process group of a run's workers through a new file."""

        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            """See `ray.train.backend.Backend.on_start`."""
            session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
            file = session / f"rendezvous-{uuid.uuid4().hex}"
            worker_group.execute(_set_torch_distributed_env_vars)
            ray.get(
                [
                    worker_group.execute_single_async(
                        rank,
                        _setup_torch_process_group,
                        backend=backend_config.backend,
                        world_rank=rank,
                        world_size=len(worker_group),
                        init_method=file.as_uri(),
                        timeout_s=backend_config.timeout_s,
                    )
                    for rank in range(len(worker_group))
                ]
            )

    class FileConfig(TorchConfig):  # type: ignore[misc]
        """`TorchConfig` with the backend above."""

        @property
        def backend_cls(self) -> type:
            """See `ray.train.backend.BackendConfig.backend_cls`."""
            return FileBackend

    return FileConfig(backend=backend)


def trainer_class(
    is_no_failure: Callable[[Iterable[BaseException]], bool] = lambda failures: False,
) -> Any:
    """`ray.train.torch.TorchTrainer` without two actors a run, processes of 1.5 to 2 s of CPU each.

    One holds Ray Data's datasets, and a run has none. The other frees the workers' resources after
    a controller that died, as `orchestration.cluster.processes.free_dead_groups` does.

    `is_no_failure` is asked about what the workers raised: where it says so they start again, and
    `max_failures` does not count it. Ray's configuration knows no such errors.
    """
    from ray.train import WorkerGroupError
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import (
        PlacementGroupCleanerCallback,
    )
    from ray.train.v2._internal.execution.failure_handling import (
        DefaultFailurePolicy,
        FailureDecision,
    )

    class SparingPolicy(DefaultFailurePolicy):  # type: ignore[misc]
        """Ray's policy, but for what `is_no_failure` names."""

        def make_decision(self, training_failed_error: Exception) -> Any:
            if isinstance(training_failed_error, WorkerGroupError):
                failures = training_failed_error.worker_failures.values()
                if is_no_failure(map(raised_by_worker, failures)):
                    return FailureDecision.RETRY
            return super().make_decision(training_failed_error)

    class LeanTrainer(TorchTrainer):  # type: ignore[misc]
        """A `TorchTrainer` with fewer callbacks."""

        def _create_default_callbacks(self) -> list[Any]:
            idle = (DatasetsCallback, PlacementGroupCleanerCallback)
            return [c for c in super()._create_default_callbacks() if not isinstance(c, idle)]

        def _initialize_and_run_controller(self, **given: Any) -> Any:
            policy = SparingPolicy(self.run_config.failure_config)
            return super()._initialize_and_run_controller(**given | {"failure_policy": policy})

    return LeanTrainer


def raised_by_worker(failure: BaseException) -> BaseException:
    """What a worker's training function raised, of what Ray Train makes of it."""
    raised: BaseException = getattr(failure, "_base_exc", failure)
    return raised


def head_refusal(address: str, seconds: float) -> str | None:
    """What a cluster's head answers, at HOST:PORT, where it does not take this process; else None.

    `ray.init` logs lines of its own about a token that is missing or wrong, and tries for long.
    """
    from ray._raylet import GcsClient
    from ray.exceptions import RayError

    with quiet_stderr():
        try:
            GcsClient(address=address).check_alive([], timeout=seconds)
        except (RayError, RuntimeError, ValueError, OSError) as error:
            return str(error) or type(error).__name__
    return None


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Within, nothing reaches standard error: Ray's core writes there past Python."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def reread_environment() -> None:
    """Make a Ray that is loaded already take up RAY_AUTH_MODE: it reads it once."""
    from ray._raylet import Config

    Config.initialize("")


def dashboard_answer(client: Any, path: str) -> dict[str, Any]:
    """JSON that a cluster's dashboard gives at `path`, with the job client's token and certificate.

    The client's public methods are about jobs alone.
    """
    answer: dict[str, Any] = client._do_request("GET", path).json()
    return answer


def quiet_job_client() -> None:
    """Ray's job client logs no information: it would report every upload."""
    for name in CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
