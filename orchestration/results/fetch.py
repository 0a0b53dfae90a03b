"""Brings the results of a study or sweep into an output folder of this machine.

A file that is there already with the same checksum is not brought again, so a fetch that was cut
off, or is repeated while the study trains, copies only what differs. Runs and studies that were
trained in the folder itself are never written to.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cola.errors import SpecError, StorageError
from cola.files import read_json, sha256_of, storage_errors, sync_folder, write_atomically
from orchestration.cleanup.contents import run_keys
from orchestration.results.local_copy import is_rewritten, rewritten
from orchestration.results.sources import Origin, Source
from orchestration.state.ledger import Ledger
from orchestration.state.paths import FETCHED, OutputFolder, RunFolder, StudyFolder

log = logging.getLogger(__name__)

MAKE_ROOM = "make room, check its permissions, or give another folder with --to; then fetch again"
Advance = Callable[[int], None]  # takes bytes that are done


@dataclass
class Fetched:
    """What a fetch did: names of files copied and of those that were there, bytes copied.

    `kept` are keys of runs that the folder has of its own, with their states; `states` counts the
    fetched runs by state.
    """

    copied: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    copied_bytes: int = 0
    kept: dict[str, str] = field(default_factory=dict)
    states: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "copied_files": len(self.copied),
            "copied_bytes": self.copied_bytes,
            "unchanged_files": len(self.unchanged),
            "runs": self.states,
            "kept_runs": self.kept,
        }


def check_target(root: Path, origin: Origin) -> None:
    """Refuse a folder that holds another study or sweep of this name.

    Raises:
        SpecError: it does, or is no folder.
        StorageError: its record of where it was fetched from is damaged.
    """
    thing, folder = origin.thing, root / origin.thing.folder
    wrong = next((each for each in (folder, *folder.parents) if each.exists()), root)
    if not wrong.is_dir():
        raise SpecError(f"--to {root}: {wrong} is a file; give a folder")
    own = [name for name in ("study.yaml", "sweep.yaml", "plan.json") if (folder / name).exists()]
    marker = StudyFolder(folder).fetched
    if not marker.exists():
        if own:
            raise SpecError(
                f"--to {root}: holds a {thing.kind} {thing.name} of its own ({folder}); give "
                "another folder"
            )
        return
    before = read_json(marker, remedy="remove the folder, and fetch again")
    same = origin.digest is not None and before.get("digest") == origin.digest
    if before.get("output") != origin.output or not (same or before["cluster"] == origin.cluster):
        raise SpecError(
            f"--to {root}: holds another {thing.kind} {thing.name}, fetched from "
            f"{before.get('output')} ({before.get('cluster')}); give another folder"
        )


def sizes_to_bring(
    source: Source, root: Path, origin: Origin, *, models: bool
) -> tuple[dict[str, int], dict[str, str]]:
    """Bytes of the files to bring by name, and the state of each run that stays as it is, by key.

    Raises:
        ColaError: the source cannot be read, or has no models where they are asked for.
    """
    sizes = source.sizes(models)
    ledger = Ledger(root)
    own = [key for key in runs_in(sizes) if is_own_run(root, key)]
    kept: dict[str, str] = {key: ledger.known_entry(key).state for key in own}
    return {name: size for name, size in sizes.items() if run_of(name) not in kept}, kept


def run_of(name: str) -> str | None:
    """The key of the run that a file is of."""
    parts = name.split("/")
    return parts[1] if parts[0] == "runs" else None


def is_own_run(root: Path, key: str) -> bool:
    """Whether a run was trained in this folder."""
    run = RunFolder(OutputFolder(root).runs / key)
    return run.ledger.exists() and not run.fetched.exists()


def fetch(
    source: Source,
    root: Path,
    origin: Origin,
    *,
    models: bool,
    progress: Callable[[int], Advance] = lambda total: lambda done: None,
) -> Fetched:
    """Bring what the folder `root` lacks of the results; `progress` is called with all bytes.

    `check_target` has found that the folder may have them.

    Raises:
        StorageError: a file cannot be written, or is damaged where it comes from.
        ColaError: the source fails.
    """
    sizes, kept = sizes_to_bring(source, root, origin, models=models)
    result, advance = Fetched(kept=kept), progress(sum(sizes.values()))
    text = json.dumps(
        {"cluster": origin.cluster, "output": origin.output, "digest": origin.digest,
         "by": source.shown, "time": time.time()},
        indent=1,
    )  # fmt: skip
    marked = [root / origin.thing.folder, *(root / "runs" / key for key in runs_in(sizes))]
    for folder in marked:
        with storage_errors(folder, remedy=MAKE_ROOM):
            write_atomically(folder / FETCHED, text)
    for name, size in sizes.items():
        bring(source, name, root, origin=origin, result=result)
        advance(size)
    ledger = Ledger(root)
    result.states = dict(Counter(ledger.known_entry(k).state for k in run_keys(root, origin.thing)))
    log.info("%s: %s", origin.thing.name, result.as_json())
    return result


def runs_in(names: Iterable[str]) -> list[str]:
    """Keys of the runs that files are of, each once."""
    return list(dict.fromkeys(key for name in names if (key := run_of(name)) is not None))


def bring(source: Source, name: str, root: Path, *, origin: Origin, result: Fetched) -> None:
    """Bring one file if it differs, checked and whole.

    Raises:
        StorageError: it cannot be written, or is not what its checksum says.
        ColaError: the source fails.
    """
    target, thing = root / name, origin.thing
    rewrite = is_rewritten(name, thing)
    with storage_errors(target, remedy=MAKE_ROOM):
        if not rewrite and target.is_file() and sha256_of(target) == source.digest(name):
            result.unchanged.append(name)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as folder:
            path, digest = source.bring(name, Path(folder))
            if sha256_of(path) != digest:
                raise StorageError(
                    f"{source.shown}: {name} is not what its checksum says: it is damaged there, "
                    "or changed while it was read; fetch again, or remove results.json there and "
                    "resume the study on the cluster: its driver then publishes everything again"
                )
            if rewrite:
                text = rewritten(path, root, thing)
                if target.is_file() and target.read_text(encoding="utf-8") == text:
                    result.unchanged.append(name)
                    return
                path.write_text(text, encoding="utf-8")
            result.copied_bytes += path.stat().st_size
            path.replace(target)
    sync_folder(target.parent)
    result.copied.append(name)
