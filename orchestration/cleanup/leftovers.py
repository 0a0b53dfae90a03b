"""What finished runs of a study or sweep left in training checkpoints that nobody asked to keep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cola.errors import SpecError, StorageError, first_of, one_line
from cola.spec.resources import CheckpointSpec
from orchestration.checkpoint.address import redacted
from orchestration.checkpoint.finished import Surplus, surplus_of
from orchestration.checkpoint.store import store_address
from orchestration.cleanup.contents import Thing, choices_by_key, run_keys, things_in
from orchestration.planning.decisions import saved_plan
from orchestration.state.ledger import Ledger


@dataclass(frozen=True)
class Leftover:
    """Checkpoints of one finished run in one place, by the run's name in the study."""

    run: str
    run_key: str
    surplus: Surplus


@dataclass(frozen=True)
class Leftovers:
    """Those of all finished runs, the largest first, and how many runs are not finished."""

    found: tuple[Leftover, ...]
    unfinished: int

    @property
    def bytes(self) -> int:
        """What may be removed."""
        return sum(each.surplus.bytes for each in self.found)


def leftovers_of(root: Path, name: str) -> Leftovers:
    """What may go of the study and the sweep of this name in an output folder.

    A run that other studies of the folder have too keeps what any of them asks to keep. Runs that
    are not finished are left alone.

    Raises:
        SpecError: there is neither.
        StorageError: files of a study, or a store of checkpoints, cannot be read.
    """
    mine = [thing for thing in things_in(root) if thing.name == name]
    if not mine:
        known = first_of(sorted({thing.name for thing in things_in(root)}), 8)
        raise SpecError(
            f"{name}: {root} holds no study or sweep of this name (it has: {known or 'none'}); "
            "name another output folder with --output"
        )
    choices = choices_by_key(root)
    ledger, names, found, unfinished = Ledger(root), run_labels(root, mine), [], 0
    for key in dict.fromkeys(key for thing in mine for key in run_keys(root, thing)):
        if ledger.known_entry(key).state != "finished":
            unfinished += 1
            continue
        chosen, folder = choices[key], ledger.run_folder(key)
        places = {store_address(s, folder): s for s in (None, *(each.storage for each in chosen))}
        for storage in places.values():
            surplus = surplus_in(folder, storage, chosen)
            if surplus.checkpoints or surplus.why_kept is not None or surplus.kept:
                found.append(Leftover(names.get(key, key[:12]), key, surplus))
    by_size = sorted(found, key=lambda each: -each.surplus.bytes)
    return Leftovers(tuple(by_size), unfinished)


def run_labels(root: Path, things: list[Thing]) -> dict[str, str]:
    """Names of runs by their keys, as far as plans have them."""
    plans = [saved_plan(root / thing.folder) for thing in things if thing.kind == "study"]
    return {slot["run_key"]: slot["name"] for plan in plans for slot in plan.values()}


def surplus_in(run_folder: Path, storage: str | None, choices: list[CheckpointSpec]) -> Surplus:
    """What may go of a run's checkpoints in one place.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        return surplus_of(run_folder, storage, choices, asked=True)
    except OSError as error:
        raise unreachable(run_folder, storage, error) from None


def unreachable(run_folder: Path, storage: str | None, error: OSError) -> StorageError:
    """A store of checkpoints that does not answer, or does not let go of one."""
    where = f"checkpoint.storage={redacted(storage)}" if storage is not None else str(run_folder)
    return StorageError(
        f"{where}: checkpoints cannot be read or removed "
        f"({one_line(error, 200)}); check that it is there, that this user may write there, and "
        "its credentials in the environment"
    )


def remove(leftover: Leftover) -> None:
    """Remove the checkpoints that may go.

    Raises:
        StorageError: the store does not let go of one.
    """
    try:
        leftover.surplus.remove()
    except OSError as error:
        raise unreachable(Path(leftover.run_key), leftover.surplus.store.shown, error) from None
