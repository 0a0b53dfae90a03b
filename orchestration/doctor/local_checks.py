"""Checks of an environment before a study is started in it: what is wrong, and what to do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence

import psutil
import torch
from packaging.requirements import Requirement

from cola.errors import ColaError, SpecError
from cola.spec.address import resolve_address
from cola.spec.resources import ResourcesSpec
from cola.study import StudySpec
from orchestration.doctor.cluster_checks import cluster
from orchestration.doctor.finding import Finding
from orchestration.doctor.network_checks import collectives, sockets
from orchestration.doctor.storage_checks import SPARE_BYTES, clock, locks, renames, storage
from orchestration.planning.plan import plan_study
from orchestration.remote.endpoint import Endpoint
from orchestration.state.paths import output_root
from orchestration.tracking.mlflow_client import check_answers, sqlite_file

SPARE_MEMORY = 2e9


def examine(study: StudySpec | None, endpoint: Endpoint | None = None) -> Iterator[Finding]:
    """All checks; those of storage and tracking need a study to know where they are.

    With a cluster, its storage and devices are what counts, and this machine's are not looked at.
    """
    checks: list[Callable[[], Finding]] = [python, packages, compiler, accelerators, collectives]
    checks += [sockets, memory, ray_temporary_folder]
    for check in checks:
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
        yield tracking(study.tracking.uri)
    if endpoint is not None:
        yield from cluster(endpoint, runs)


def resources_of(study: StudySpec) -> list[ResourcesSpec]:
    """What runs of every size that the study tells apart need."""
    sizes = [0, *(item.core_parameters for item in study.resources.larger)]
    return [study.resources.at(size) for size in sizes]


def python() -> Finding:
    """The interpreter's version."""
    fits = sys.version_info >= (3, 11)
    remedy = "" if fits else "use Python 3.11 or newer"
    return Finding("python", "ok" if fits else "fail", platform.python_version(), remedy)


def packages() -> Finding:
    """Installed versions against what the product asks for."""
    wrong = []
    for text in importlib.metadata.requires("cola-scaling") or []:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            wrong.append(f"{wanted.name} {version} (wants {wanted.specifier})")
    if wrong:
        remedy = "pip install --constraint constraints.txt --editable ."
        return Finding("packages", "fail", ", ".join(wrong), remedy)
    return Finding("packages", "ok", "as asked for")


def compiler() -> Finding:
    """DeepSpeed builds an operator with it; torch.compile needs it on a CPU."""
    found = [name for name in ("g++", "c++", "clang++") if shutil.which(name)]
    if not found:
        return Finding(
            "compiler",
            "warn",
            "no C++ compiler",
            "install g++: resources.compile needs it, and CPU collectives are slower without",
        )
    return Finding("compiler", "ok", found[0])


def accelerators() -> Finding:
    """GPUs that torch sees."""
    count = torch.cuda.device_count()
    if count == 0:
        return Finding("accelerators", "ok", f"no GPU, {os.cpu_count()} CPUs")
    names = sorted({torch.cuda.get_device_name(i) for i in range(count)})
    return Finding("accelerators", "ok", f"{count} x {', '.join(names)}")


def memory() -> Finding:
    """What is free now."""
    free = psutil.virtual_memory().available
    enough = free > SPARE_MEMORY
    remedy = "" if enough else "close other programs: a worker of the smallest study needs about 2"
    return Finding("memory", "ok" if enough else "warn", f"{free / 1e9:.1f} GB free", remedy)


def ray_temporary_folder() -> Finding:
    """Ray's sockets and logs."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    enough = free > SPARE_BYTES
    remedy = "" if enough else "make room, or set TMPDIR to a short path on a larger disk"
    found = f"{tempfile.gettempdir()}, {free / 1e9:.0f} GB free"
    return Finding("temporary folder", "ok" if enough else "warn", found, remedy)


def plan(study: StudySpec) -> Finding:
    """Whether the study's runs can be planned here: its corpus is there, its sizes can be built."""
    try:
        return Finding("plan", "ok", f"{len(plan_study(study))} runs")
    except SpecError as error:
        return Finding("plan", "fail", str(error), "`cola plan` tells the same once it is mended")


def tracking(given: str | None) -> Finding:
    """The MLflow store, where the study names one: asked as a study's driver would ask it."""
    if given is None:
        return Finding("tracking", "ok", "a SQLite file in the output folder")
    try:
        address = resolve_address(given)
        if sqlite_file(address.uri) is None:
            check_answers(address)
    except ColaError as error:
        remedy = "start it (cola mlflow), or mend what is wrong: no study starts without it"
        return Finding("tracking", "warn", str(error), remedy)
    return Finding("tracking", "ok", address.shown)


def enough_devices(runs: Sequence[ResourcesSpec]) -> Finding:
    """Whether the largest run of the study fits this machine (a cluster may have more)."""
    run = max(runs, key=lambda resources: resources.workers)
    workers = run.min_workers or run.workers
    cpus, gpus = os.cpu_count() or 1, torch.cuda.device_count()
    need_cpus, need_gpus = workers * run.cpus_per_worker, workers * run.gpus_per_worker
    found = f"a run needs {need_cpus:g} CPUs and {need_gpus:g} GPUs; here are {cpus} and {gpus}"
    if need_cpus <= cpus and need_gpus <= gpus:
        return Finding("devices", "ok", found)
    return Finding("devices", "warn", found, "submit it to a cluster (cola submit, cola recipe)")
