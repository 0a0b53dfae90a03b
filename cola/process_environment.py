"""Environment variables that the product sets for libraries: one function a kind of process.

They are process-wide, so nothing else writes to `os.environ` (a test looks). A value from outside
is kept, except where another one would break the product (`_set`). Variables that hold for a part
of a process's life are removed at its end. Where a library reads a variable only once, when it is
imported, the value is also passed to it directly, so that the order of imports changes nothing.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_own: dict[str, str] = {}  # what `_default` has set: another kind of process may set it otherwise


def command() -> None:
    """A process of the `cola` command."""
    # Progress bars of loading weights, a few tensors each, would clutter the command's output.
    if _default("HF_HUB_DISABLE_PROGRESS_BARS", "1") and "huggingface_hub.utils" in sys.modules:
        sys.modules["huggingface_hub.utils"].disable_progress_bars()  # it has read the variable


def log_level(level: str) -> None:
    """Any process: it and those that it starts log at this level (see `cola.logs`)."""
    _set("COLA_LOG", level)


def ray_driver() -> None:
    """A process that starts or joins a Ray cluster; its workers inherit all of it."""
    _default("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to others unasked
    _default("RAY_TRAIN_V2_ENABLED", "1")  # the only interface that the product is written for
    # Workers without a GPU keep CUDA_VISIBLE_DEVICES as it is: Ray warns otherwise.
    _default("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


@contextmanager
def private_cluster(temporary: str | None = None) -> Iterator[None]:
    """A driver while it runs a private Ray cluster on this machine.

    `temporary` replaces a TMPDIR in which the paths of Ray's sockets would be too long.
    """
    values = {
        **({} if temporary is None else {"TMPDIR": temporary}),
        **one_machine(),
        # Nobody takes this machine's only node away: saves every run an actor that would watch.
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": os.environ.get(
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0"
        ),
        # A process for each core, which takes a second of CPU to start; a run needs two or three.
        "RAY_prestart_worker_first_driver": "0",
    }
    with _within(values):
        yield


def one_machine() -> dict[str, str]:
    """Variables of a Ray that no other machine is to reach."""
    interface = loopback_interface()
    return {
        # The node's address is 127.0.0.1, so Ray's servers listen on loopback only.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # So do a run's workers: by default they take the interface of the machine's host name.
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
    }


def loopback_interface() -> str:
    """Name of the loopback network interface: `lo` on Linux, `lo0` on macOS."""
    return next(name for _, name in socket.if_nameindex() if name in ("lo", "lo0"))


def elastic_trainer() -> None:
    """A process that starts an elastic run."""
    # Ray looks at the cluster every 20 s: until then it may ask for more than is left of it.
    _default("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")


@contextmanager
def single_worker() -> Iterator[None]:
    """A process while it is the only worker of a run.

    Without MASTER_ADDR and MASTER_PORT, by which Ray Train's local mode would make a process group
    that listens on every network interface.
    """
    ranks = dict.fromkeys(("RANK", "LOCAL_RANK"), "0")
    sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "1")
    with _within({**ranks, **sizes}):
        yield


def training_worker(*, gpu: bool) -> None:
    """A process that trains with DeepSpeed, before it imports it."""
    if not gpu:
        # DeepSpeed would look for an accelerator by importing the packages of all kinds.
        _set("DS_ACCELERATOR", "cpu")
    # DeepSpeed refuses a CUDA toolkit of another version than torch's, which only its own compiled
    # operators need: the optimiser is torch's.
    _default("DS_SKIP_CUDA_CHECK", "1")


def compiling_worker(folder: Path | None = None) -> None:
    """A process that compiles, before it does: this machine keeps the code for all runs of a user.

    torch's own default lies in TMPDIR, which may end with a private cluster or a Slurm job. It
    stays where `folder` (null: one in /var/tmp) cannot be made, or is not the user's alone: code is
    loaded from it.
    """
    user = os.getuid()
    folder = folder or Path(f"/var/tmp/cola-compiled-{user}")  # noqa: S108 - its owner is checked
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return
    if found.st_uid == user and stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o022:
        _default("TORCHINDUCTOR_CACHE_DIR", str(folder))


def tune_driver() -> None:
    """A process that runs a sweep with Ray Tune."""
    # Trials are logged by the sweep: no CSV, JSON and TensorBoard files beside.
    _set("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # A trial's last result may lack a metric that earlier ones had.
    _set("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    # SIGINT is the sweep's to handle: its runs save a checkpoint first.
    _set("TUNE_DISABLE_SIGINT_HANDLER", "1")
    _set("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")  # they are in error.txt, a file a process
    _set("RAY_AIR_NEW_OUTPUT", "0")  # the new output prints a table at any verbosity


def mlflow_writer() -> None:
    """A process whose thread sends runs to MLflow, and tries again at its own pace."""
    _default("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    # A request that MLflow's client repeats by itself could create a run twice.
    _default("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    _default("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # MLflow would print the address of every run that ends.
    _set("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


def mlflow_reader() -> None:
    """A process that reads a study from MLflow: repeating a request does no harm."""
    _default("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    _default("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def mlflow_server(store: str) -> dict[str, str]:
    """The whole environment of an MLflow server over this database."""
    return {
        **os.environ,
        # Not on the command line, which any user of the machine may read.
        "MLFLOW_BACKEND_STORE_URI": store,
        # Eight processes more, for MLflow's evaluation of language-model applications.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def slurm_job(token: str, *, alone: bool) -> dict[str, str]:
    """The whole environment of the Ray of a Slurm job; the token is its own, unless one is given.

    An address that the user has set for other commands is another cluster's. `alone` is a job of
    one node.
    """
    given = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    own = {} if given else {"RAY_AUTH_TOKEN": token}
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {
        "COLUMNS": "160",
        **inherited,
        **own,
        **(one_machine() if alone else {}),
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def ray_token(token: str) -> None:
    """A process that speaks to a cluster whose description says where its token is."""
    _set("RAY_AUTH_TOKEN", token)


def job_client(*, has_token: bool) -> bool:
    """A process that speaks to a cluster's dashboard; whether it chose the authentication.

    Ray reads the variable once: if it is loaded already, it must read it again
    (`orchestration.compat.ray.reread_environment`).
    """
    if "RAY_AUTH_MODE" in os.environ:
        return False
    os.environ["RAY_AUTH_MODE"] = "token" if has_token else "disabled"
    return True


def _default(name: str, value: str) -> bool:
    """Set a variable that nobody outside has set; whether it was set here."""
    free = os.environ.get(name) == _own.get(name)
    if free:
        os.environ[name] = _own[name] = value
    return free


def _set(name: str, value: str) -> None:
    """Set a variable whatever it was."""
    os.environ[name] = value


@contextmanager
def _within(values: Mapping[str, str]) -> Iterator[None]:
    """Variables that are as before afterwards."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
