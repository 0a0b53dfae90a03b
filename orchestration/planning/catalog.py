"""Look-up by name: studies that ship with the product, study files, runs of an output folder."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from cola.errors import SpecError, StorageError
from cola.files import read_json
from cola.spec import apply_overrides, load_yaml
from cola.spec.locations import located
from cola.study import RunSpec, StudySpec
from cola.study.rules import changed_rules, hides, hides_tuned
from orchestration.planning.decisions import known_plan, saved_plan
from orchestration.state.ledger import Ledger
from orchestration.state.paths import OutputFolder, RunFolder

log = logging.getLogger(__name__)

SHOWN_KEY = 12  # characters of a run key in messages; a chosen value
SPEC_REMEDY = (
    "the resolved specification of a run cannot be made from anything else in its folder: remove "
    "ledger.json there, and `cola run` of its study writes it again"
)


def shipped_studies() -> dict[str, Path]:
    """Files of the studies that ship with the product, by name."""
    folder = Path(str(resources.files("orchestration") / "studies"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_study(name_or_file: str, overrides: list[str]) -> StudySpec:
    """A study as `read_study` reads it, with absolute paths: for processes of this machine.

    Raises:
        SpecError: for an unknown study and for anything invalid in it.
    """
    return located(read_study(name_or_file, overrides))


def read_study(name_or_file: str, overrides: list[str]) -> StudySpec:
    """A study by shipped name or YAML file, with `path.to.key=value` settings applied.

    Its paths are as they were written: on another machine, relative ones would be others.

    Raises:
        SpecError: for an unknown study and for anything invalid in it.
    """
    shipped = shipped_studies()
    path = shipped.get(name_or_file, Path(name_or_file))
    if not path.exists():
        raise SpecError(
            f"study {name_or_file}: neither a file nor a shipped study; "
            f"shipped: {', '.join(shipped)}"
        )
    log.debug("study %s: %s", name_or_file, path)
    written = load_yaml(path)
    values = apply_overrides(written, overrides)
    study = StudySpec.parse(values, origin=str(path))
    hidden = hidden_rules(study, changed_rules(written, values))
    if hidden:
        log.warning("--set has no effect: %s", "; ".join(hidden))
    return study


def hidden_rules(study: StudySpec, keys: Iterable[tuple[str, ...]]) -> list[str]:
    """Clauses on rules of the study, by their keys, that other rules come before."""
    found = []
    for key in keys:
        name = ".".join(("rules", *key))
        for variant, settings in study.families.items():
            tuned = study.tuned(variant)
            if hides_tuned(None if tuned is None else tuned.rules, key):
                found.append(
                    f"{name} on {variant}, for which `tuning` has rules (--set tuning=null)"
                )
            elif hides(settings.rules, key):
                own = f"families.{variant}.{name}"
                found.append(f"{name} on {variant}, which has its own: set {own}")
    return found


def finished_runs(study: str, root: Path) -> list[str]:
    """STUDY/RUN-NAME of each run of the study's last plan that has an exported model.

    They are in the plan's order; an unknown study has none.
    """
    if Path(study).name != study:
        return []
    planned = saved_plan(OutputFolder(root).studies / study).values()
    folder = Ledger(root).run_folder
    return [
        f"{study}/{slot['name']}"
        for slot in planned
        if RunFolder(folder(slot["run_key"])).model.exists()
    ]


def find_run(name: str, root: Path) -> Path:
    """The folder of a run, by path, by run key (or its first characters), or as STUDY/RUN-NAME.

    Raises:
        SpecError: when there is no such run, or several.
    """
    if RunFolder(Path(name)).spec.exists():
        return Path(name).absolute()
    study, _, run_name = name.partition("/")
    if run_name:
        for slot in saved_plan(OutputFolder(root).studies / study).values():
            if slot["name"] == run_name:
                return Ledger(root).run_folder(slot["run_key"])
    folders = sorted(path.parent for path in OutputFolder(root).runs.glob("*/spec.json"))
    matches = [folder for folder in folders if name and folder.name.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    known = [
        f"{folder.name}/{slot['name']}"
        for folder in sorted(OutputFolder(root).studies.glob("*"))
        for slot in known_plan(folder).values()
    ]
    problem = f"fits {len(matches)} runs" if matches else "no such run"
    # Of runs that no readable plan names, the keys are left.
    known = known or [folder.name[:SHOWN_KEY] for folder in folders]
    hint = (
        f"give one of: {', '.join(known[:8])}"
        if known
        else f"{root} holds no runs; name another output folder, or train first with `cola run`"
    )
    raise SpecError(f"run {name}: {problem}; {hint}")


def load_run_spec(run_folder: Path) -> RunSpec:
    """The resolved specification in a run's folder.

    Raises:
        SpecError: its family is not installed, or it is not valid.
        StorageError: the file is damaged.
    """
    path = RunFolder(run_folder).spec
    values = read_json(path, remedy=SPEC_REMEDY)
    if not values:
        raise StorageError(f"{path}: is missing or empty; {SPEC_REMEDY}")
    return RunSpec.parse(values, origin=str(path))
