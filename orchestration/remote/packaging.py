"""What is sent to a cluster: the study or sweep alone, or the project's sources with it."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import cola
from cola.errors import SpecError
from cola.logs import inherited_variables
from cola.spec.locations import relative_paths
from cola.study import StudySpec
from orchestration.checkpoint.address import resolved

log = logging.getLogger(__name__)

JobEnvironment = Literal["cluster", "pinned", "sources"]

STUDY_FILE = "study.yaml"
CONSTRAINTS = "constraints.txt"
PACKAGES = ("cola", "orchestration", "sweeps", "analysis")
SOURCES = ("pyproject.toml", "README.md", "LICENSE", CONSTRAINTS, *PACKAGES)
# What a package is built from: code, and the data files that pyproject.toml lists. Nothing else
# that lies in its folder (keys, notes, results) leaves the machine.
CODE_SUFFIXES = (".py", ".typed")
DATA_SUFFIXES, DATA_FOLDERS = (".yaml", ".j2"), ("studies", "templates", "bases")
LARGEST_SOURCE = 2**20  # bytes: several times the largest file of the project
# Ray sets this variable while it builds an environment, and pip expands it in requirement lines.
UNPACKED = "${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}"
# How long Ray waits after a stop request before it kills: running trainings save a checkpoint
# first. A chosen value.
STOP_SECONDS = 600
BUILD_SECONDS = 1800  # for pip to build a pinned environment on every node; a chosen value


def runtime_environment(
    kind: JobEnvironment, folder: Path, files: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Ray's description of a job's environment, with its files packed in the empty `folder`.

    `cluster` takes the `cola` that is installed there and sends the files alone. `pinned` sends the
    project's sources too, and has every node build an environment of them with the versions of
    constraints.txt, whose hashes are not checked there. Of this process's variables only COLA_LOG
    is passed on.

    Raises:
        SpecError: `pinned` where the project is not a checkout.
    """
    environment: dict[str, Any] = {
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), "COLUMNS": "160"}
        | inherited_variables(),
    }
    if kind == "pinned":
        pack_sources(project_root(), folder)
        environment["pip"] = {"packages": requirements(folder), "pip_check": False}
        environment["config"] = {"setup_timeout_seconds": BUILD_SECONDS}
    for name, text in (files or {}).items():
        (folder / name).write_text(text, encoding="utf-8")
    if any(folder.iterdir()):
        environment["working_dir"] = str(folder)
    log.debug("runtime environment: %s", environment)
    return environment


def project_root() -> Path:
    """The checkout that this `cola` was imported from.

    Raises:
        SpecError: it was installed without one.
    """
    root = Path(cola.__file__).resolve().parents[1]
    missing = [name for name in SOURCES if not (root / name).exists()]
    if missing:
        raise SpecError(
            f"--environment pinned: {root} is no checkout of the project (it has no "
            f"{', '.join(missing)}); install it from one with `pip install --editable`, or use "
            "--environment cluster"
        )
    return root


def pack_sources(
    root: Path,
    folder: Path,
    names: Sequence[str] = SOURCES,
    *,
    why: str = "--environment pinned",
    remedy: str = "--environment cluster",
) -> None:
    """Copy the files that building the project needs from `root`, or those of `names`; no others.
    Of constraints.txt it takes the versions alone.

    Raises:
        SpecError: one of them is a link or too large to be source; `why` is what asks for them, and
            `remedy` what does without them.
    """
    for name in names:
        for file in source_files(root / name):
            if file.is_symlink() or file.stat().st_size > LARGEST_SOURCE:
                raise SpecError(
                    f"{why}: {file} is a link or larger than {LARGEST_SOURCE // 2**20} MiB, which "
                    f"no source of the project is; move it out of the package, or use {remedy}"
                )
            to = folder / file.relative_to(root)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, to)
    if CONSTRAINTS not in names:
        return
    # pip takes no hashes where it builds a folder, as Ray has it do.
    pins = (folder / CONSTRAINTS).read_text(encoding="utf-8")
    (folder / CONSTRAINTS).write_text("".join(f"{pin}\n" for pin in pinned(pins)), encoding="utf-8")


def source_files(path: Path) -> list[Path]:
    """The file, or the source files of the package; folders that are links are not entered."""
    if not path.is_dir():
        return [path]
    found: list[Path] = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        data = DATA_SUFFIXES if Path(folder).name in DATA_FOLDERS else ()
        found += [
            Path(folder, name)
            for name in sorted(names)
            if name.endswith(CODE_SUFFIXES + data) and not name.startswith(".")
        ]
    return found


def requirements(folder: Path) -> list[str]:
    """Requirement lines for pip.

    Ray reuses an environment whose lines are equal, so one of them is a digest of the sources.
    """
    return [
        f"# sources {sources_digest(folder)}",
        f"--constraint {UNPACKED}/{CONSTRAINTS}",
        UNPACKED,
    ]


def sources_digest(folder: Path) -> str:
    """SHA-256 (hex) of the packed files' names and contents."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, content = str(path.relative_to(folder)).encode(), path.read_bytes()
        digest.update(b"%d %s %d " % (len(name), name, len(content)) + content)
    return digest.hexdigest()


def pinned_version(package: str) -> str | None:
    """The version to which the checkout's constraints.txt pins a package; None if it does not."""
    for pin in pinned((project_root() / CONSTRAINTS).read_text(encoding="utf-8")):
        name, _, version = pin.partition("==")
        if name == package:
            return version.partition(";")[0].strip()
    return None


def pinned(constraints: str) -> list[str]:
    """The lines of a constraints.txt as `name==version ; marker`, without hashes and comments."""
    lines = constraints.splitlines()
    return [line.rstrip(" \\") for line in lines if line and not line.startswith((" ", "#"))]


def check_study(study: StudySpec) -> None:
    """Check that a study can be sent: absolute paths, and no secret in it.

    Raises:
        SpecError: it cannot; the message names the key.
    """
    for key, value in relative_paths(study, Path.cwd()).items():
        raise SpecError(
            f"{key}={value}: a submitted study needs an absolute path, on storage that every "
            f"node of the cluster sees; give one with --set {key}=/..."
        )
    if study.checkpoint.storage is not None:
        resolved(study.checkpoint.storage)
