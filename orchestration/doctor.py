"""Checks of an environment before a study is started in it: what is wrong, and what to do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch
from packaging.requirements import Requirement

from cola.spec import SpecError, StudySpec
from cola.spec.address import resolve_address
from orchestration.mlflow_client import check_answers, sqlite_file
from orchestration.plan import output_root

Verdict = Literal["ok", "warn", "fail"]
CLOCK_SECONDS = 2.0
SPARE_BYTES = 5e9
SPARE_MEMORY = 2e9


@dataclass(frozen=True)
class Finding:
    """One check: `remedy` says what to do where it is not ok."""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


def examine(study: StudySpec | None) -> Iterator[Finding]:
    """All checks; those of storage and tracking need a study to know where they are."""
    checks: list[Callable[[], Finding]] = [python, packages, compiler, accelerators, collectives]
    checks += [memory, ray_temporary_folder]
    for check in checks:
        yield check()
    if study is not None:
        yield storage(output_root(study))
        yield clock(output_root(study))
        yield tracking(study.tracking.uri)
        yield enough_devices(study)


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


def collectives() -> Finding:
    """What workers speak to each other by."""
    gpu = torch.cuda.is_available()
    there = torch.distributed.is_nccl_available() if gpu else torch.distributed.is_gloo_available()
    name = "nccl" if gpu else "gloo"
    remedy = "" if there else f"install a torch build with {name}"
    return Finding("collectives", "ok" if there else "fail", name, remedy)


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


def storage(root: Path) -> Finding:
    """The study's output: writable, locks work, room left."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=root) as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(root).free
    except OSError as error:
        remedy = "choose another output folder, or mend its permissions"
        return Finding("storage", "fail", f"{root}: {error.strerror}", remedy)
    enough = free > SPARE_BYTES
    remedy = "" if enough else "make room: checkpoints are kept there"
    return Finding("storage", "ok" if enough else "warn", f"{root}, {free / 1e9:.0f} GB", remedy)


def clock(root: Path) -> Finding:
    """This machine's clock against that of the storage: leases compare times."""
    try:
        with tempfile.NamedTemporaryFile(dir=root) as file:
            away = abs(Path(file.name).stat().st_mtime - time.time())
    except OSError as error:
        return Finding("clock", "warn", f"not compared: {error.strerror}")
    near = away < CLOCK_SECONDS
    remedy = "" if near else "synchronise the clocks (chrony, ntp): leases would look stale"
    return Finding("clock", "ok" if near else "fail", f"{away:.2f} s off the storage's", remedy)


def tracking(given: str | None) -> Finding:
    """The MLflow store, where the study names one: asked as a study's driver would ask it."""
    if given is None:
        return Finding("tracking", "ok", "a SQLite file in the output folder")
    try:
        address = resolve_address(given)
        if sqlite_file(address.uri) is None:
            check_answers(address)
    except SpecError as error:
        remedy = "start it (cola mlflow), or mend what is wrong: no study starts without it"
        return Finding("tracking", "warn", str(error), remedy)
    return Finding("tracking", "ok", address.shown)


def enough_devices(study: StudySpec) -> Finding:
    """Whether one run of the study fits this machine (a cluster may have more)."""
    resources = study.resources
    cpus, gpus = os.cpu_count() or 1, torch.cuda.device_count()
    need_cpus = resources.workers * resources.cpus_per_worker
    need_gpus = resources.workers * resources.gpus_per_worker
    found = f"a run needs {need_cpus:g} CPUs and {need_gpus:g} GPUs; here are {cpus} and {gpus}"
    if need_cpus <= cpus and need_gpus <= gpus:
        return Finding("devices", "ok", found)
    return Finding("devices", "warn", found, "submit it to a cluster (cola submit, cola recipe)")
