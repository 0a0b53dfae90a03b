"""Checks of the environment in which a study is to run."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence

import psutil
import torch
from packaging.requirements import Requirement

from cola.errors import ColaError
from cola.spec.address import resolve_address, sqlite_file
from cola.spec.resources import ResourcesSpec
from cola.study import StudySpec
from orchestration.cluster.interpreter import home_problem, optimisation_problem
from orchestration.cluster.temporary_folder import ray_folder
from orchestration.doctor.cluster_checks import cluster
from orchestration.doctor.finding import Finding
from orchestration.doctor.network_checks import collectives, sockets
from orchestration.doctor.storage_checks import SPARE_BYTES, clock, locks, renames, storage
from orchestration.planning.plan import plan_study
from orchestration.remote.endpoint import Endpoint
from orchestration.state.paths import output_root
from orchestration.tracking.address import tracking_uri
from orchestration.tracking.mlflow_client import check_answers

log = logging.getLogger(__name__)

SPARE_MEMORY = 2e9  # bytes that a worker of the smallest study takes, about


def examine(study: StudySpec | None, endpoint: Endpoint | None = None) -> Iterator[Finding]:
    """The findings of all checks, each as it is made.

    Storage, devices and tracking are those of the study. With an `endpoint` the cluster is checked
    in place of this machine's storage and devices.
    """
    checks: list[Callable[[], Finding]] = [python, packages, compiler, accelerators, collectives]
    checks += [sockets, memory, ray_temporary_folder]
    for check in checks:
        log.debug("checking %s", check.__name__)
        yield check()
    runs: list[ResourcesSpec] = []
    if study is not None:
        runs = resources_of(study)
        if endpoint is None:
            root = output_root(study)
            yield storage(root)
            if root.is_dir():
                yield from (locks(root), renames(root), clock(root))
            yield plan(study)
            yield enough_devices(runs)
        yield tracking(tracking_uri(study), decides=endpoint is None)
    if endpoint is not None:
        yield from cluster(endpoint, runs)


def resources_of(study: StudySpec) -> list[ResourcesSpec]:
    """The resources of the study's runs, one for each of its sizes that need different ones."""
    sizes = [0, *(item.core_parameters for item in study.resources.larger)]
    return [study.resources.at(size) for size in sizes]


def python() -> Finding:
    """Whether the interpreter is new enough, and Ray can be imported in it."""
    problem = optimisation_problem() or home_problem()
    if problem is not None:
        what, _, remedy = problem.rpartition("; ")
        return Finding("python", "fail", what, remedy)
    fits = sys.version_info >= (3, 11)
    remedy = "" if fits else "use Python 3.11 or newer"
    return Finding("python", "ok" if fits else "fail", platform.python_version(), remedy)


def packages() -> Finding:
    """Whether the installed packages are those that the product requires."""
    wrong: dict[str, str] = {}
    for text in importlib.metadata.requires("cola-scaling") or []:
        required = Requirement(text)
        if required.marker is not None and not required.marker.evaluate({"extra": ""}):
            continue
        problem = unmet(required)
        if problem is not None:
            required.marker = None
            wrong[str(required)] = problem
    if wrong:
        remedy = shlex.join(["pip", "install", *wrong])
        return Finding("packages", "fail", ", ".join(wrong.values()), remedy)
    return Finding("packages", "ok", "as required")


def unmet(required: Requirement) -> str | None:
    """What is wrong with the installed version of a package; None if it is as required."""
    try:
        version = importlib.metadata.version(required.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{required.name} is missing"
    if required.specifier.contains(version, prereleases=True):
        return None
    return f"{required.name} {version} (needs {required.specifier})"


def compiler() -> Finding:
    """Whether there is a C++ compiler.

    DeepSpeed builds an operator with it, and torch.compile needs it on a CPU.
    """
    compilers = [name for name in ("g++", "c++", "clang++") if shutil.which(name)]
    if not compilers:
        return Finding(
            "compiler",
            "warn",
            "no C++ compiler",
            "install g++: resources.compile needs it, and CPU collectives are slower without",
        )
    return Finding("compiler", "ok", compilers[0])


def accelerators() -> Finding:
    """The GPUs that torch sees."""
    count = torch.cuda.device_count()
    if count == 0:
        return Finding("accelerators", "ok", f"no GPU, {os.cpu_count()} CPUs")
    names = sorted({torch.cuda.get_device_name(i) for i in range(count)})
    return Finding("accelerators", "ok", f"{count} x {', '.join(names)}")


def memory() -> Finding:
    """Whether a worker finds room in the memory that is free now."""
    free = psutil.virtual_memory().available
    enough = free > SPARE_MEMORY
    needed = f"a worker of the smallest study needs about {SPARE_MEMORY / 1e9:g} GB"
    remedy = "" if enough else f"close other programs: {needed}"
    return Finding("memory", "ok" if enough else "warn", f"{free / 1e9:.1f} GB free", remedy)


def ray_temporary_folder() -> Finding:
    """Whether there is room for Ray's logs and objects."""
    folder = ray_folder().parent
    free = shutil.disk_usage(folder).free
    enough = free > SPARE_BYTES
    remedy = "" if enough else "make room, or set TMPDIR to a short path on a larger disk"
    detail = f"{folder}, {free / 1e9:.0f} GB free"
    return Finding("temporary folder", "ok" if enough else "warn", detail, remedy)


def plan(study: StudySpec) -> Finding:
    """Whether the study's runs can be planned: its corpus exists, its sizes can be built."""
    try:
        return Finding("plan", "ok", f"{len(plan_study(study))} runs")
    except ColaError as error:
        return Finding("plan", "fail", str(error), "correct the study until `cola plan` takes it")


def tracking(uri: str, *, decides: bool = True) -> Finding:
    """Whether the MLflow store answers and is MLflow's, asked as a study's driver would ask it.

    A store that does not answer fails the check if it `decides`: if the driver runs here. A SQLite
    file that is not there yet is none to ask: the first study makes it.
    """
    try:
        address = resolve_address(uri)
        file = sqlite_file(address.uri)
        if file is not None and not decides:
            return Finding("tracking", "ok", f"{address.shown}, on the cluster")
        if file is not None and not file.exists():
            return Finding("tracking", "ok", f"{address.shown}, made by the first study")
        check_answers(address)
    except ColaError as error:
        remedy = "start it (cola mlflow), or correct tracking.uri: no study starts without it"
        return Finding("tracking", "fail" if decides else "warn", str(error), remedy)
    return Finding("tracking", "ok", address.shown)


def enough_devices(runs: Sequence[ResourcesSpec]) -> Finding:
    """Whether the study's largest run fits this machine."""
    run = max(runs, key=lambda resources: resources.workers)
    workers = run.min_workers or run.workers
    cpus, gpus = os.cpu_count() or 1, torch.cuda.device_count()
    need_cpus, need_gpus = workers * run.cpus_per_worker, workers * run.gpus_per_worker
    detail = f"a run needs {need_cpus:g} CPUs and {need_gpus:g} GPUs; here are {cpus} and {gpus}"
    if need_cpus <= cpus and need_gpus <= gpus:
        return Finding("devices", "ok", detail)
    return Finding("devices", "warn", detail, "submit it to a cluster (cola submit, cola recipe)")
